#!/usr/bin/python3
"""A dashboard of the orders of the last minutes, and where they are placed.

GET / reads from the replica; with --fallback from the primary where the replica does not answer. POST /orders writes to the primary.
"""

import argparse
import asyncio
import json
import time

import asyncpg
from aiohttp import web

# A page is quicker than this, or its reader has left.
PATIENCE = 0.15
# With the fallback: how long a replica that did not answer is left alone.
REST = 1.0

QUESTION = """
select product, count(*) as orders, sum(amount)::float8 as turnover
from orders where at > now() - interval '5 minutes' group by product order by product
"""


class Database:
    """One server, with connections that are kept, and made anew when they break."""

    def __init__(self, host):
        self.host = host
        self.pool = None

    async def open(self):
        self.pool = await asyncpg.create_pool(
            host=self.host, user="postgres", database="postgres", min_size=0, max_size=16, timeout=PATIENCE,
            command_timeout=PATIENCE
        )

    async def ask(self, question, *arguments):
        async with self.pool.acquire(timeout=PATIENCE) as connection:
            return await connection.fetch(question, *arguments)


class Dashboard:
    def __init__(self, primary, replica, fallback):
        self.primary = Database(primary)
        self.replica = Database(replica)
        self.fallback = fallback
        self.replica_rests_until = 0.0

    async def open(self, _):
        await self.primary.open()
        await self.replica.open()

    async def read(self):
        if not self.fallback:
            return await self.replica.ask(QUESTION)
        if time.monotonic() >= self.replica_rests_until:
            # One asks, the others need not wait to see whether it is back.
            rested = self.replica_rests_until
            self.replica_rests_until = time.monotonic() + REST if rested else 0.0
            try:
                rows = await self.replica.ask(QUESTION)
                self.replica_rests_until = 0.0
                return rows
            except (OSError, asyncio.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self.replica_rests_until = time.monotonic() + REST
        return await self.primary.ask(QUESTION)

    async def show(self, _):
        try:
            rows = await self.read()
        except (OSError, asyncio.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as failed:
            return web.Response(status=503, text=f"no figures: {type(failed).__name__}\n")
        products = [dict(row) for row in rows]
        return web.Response(
            text=json.dumps({"orders": sum(row["orders"] for row in products), "products": products}),
            content_type="application/json",
        )

    async def place(self, _):
        try:
            await self.primary.ask("insert into orders (product, amount) values ('product 1', 20)")
        except (OSError, asyncio.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as failed:
            return web.Response(status=503, text=f"no order: {type(failed).__name__}\n")
        return web.Response(status=201)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--primary", required=True)
    parser.add_argument("--replica", required=True)
    parser.add_argument("--fallback", action="store_true", help="read from the primary where the replica does not answer")
    given = parser.parse_args()
    dashboard = Dashboard(given.primary, given.replica, given.fallback)
    service = web.Application()
    service.on_startup.append(dashboard.open)
    service.router.add_get("/", dashboard.show)
    service.router.add_post("/orders", dashboard.place)
    # A thousand users have a connection each.
    web.run_app(service, port=given.port, backlog=1024, print=None, access_log=None)


main()
