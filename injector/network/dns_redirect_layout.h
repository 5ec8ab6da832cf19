/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/**
 * \file
 * What the programs that redirect DNS and the process that answers in the servers' place agree on.
 * Plain C, because both sides include it.
 */
#ifndef SQUALL_INJECTOR_NETWORK_DNS_REDIRECT_LAYOUT_H_
#define SQUALL_INJECTOR_NETWORK_DNS_REDIRECT_LAYOUT_H_

#include <linux/types.h>

/* Of each family. A node asks two or three servers; only one that resolves from the roots by itself
 * asks more. */
#define SQUALL_DNS_SERVERS 16

#define SQUALL_DNS_MOST_SPARED 64

#define SQUALL_DNS_TAG 32 /* bytes, the last of them 0 */

/* A place is taken by the first query to a server, in the kernel, and is never given to another. */
#define SQUALL_DNS_FREE 0u
#define SQUALL_DNS_TAKEN 1u /* its address is being written */
#define SQUALL_DNS_KNOWN 2u

struct squall_dns_server {
  __u32 state;
  __u32 address[4]; /* network order; of IPv4, the first word alone */
};

/* The whole of the object's .bss, mapped into the holder: a deadline is moved by one store. The
 * places of IPv4 come first, those of IPv6 behind them; each has a port of the responder, on
 * 127.0.0.1 or ::1, so that an answer's source alone tells which server was asked. */
struct squall_dns {
  __u64 deadline_ns; /* on CLOCK_MONOTONIC; from then on nothing is redirected. 0: not yet */
  __u64 netns;       /* the cookie of the network namespace whose sockets are meant; 0: none yet */
  __u64 introducer;  /* the cookie of the socket by which the holder makes itself known */
  __u64 passed;      /* queries that could not be redirected */
  __u32 holder;      /* its process, as the kernel numbers it, whatever namespace it is in */
  __u16 ports[2 * SQUALL_DNS_SERVERS]; /* network order; 0: that family is not answered */
  struct squall_dns_server servers[2 * SQUALL_DNS_SERVERS];
  char tag[SQUALL_DNS_TAG]; /* squall:STATE_ID:FAULT_ID, for whoever finds the programs */
};

#endif
