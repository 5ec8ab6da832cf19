// SPDX-License-Identifier: MIT OR GPL-2.0-only
/// \file
/// Sends what sockets address to port 53 to the responder instead, and lets its answers look like
/// those of the server that was asked.
///
/// On the way out the server's address takes a place in a table, and the place has a port of the
/// responder; on the way in that port tells the address. So nothing is kept for each socket, and
/// nothing has to be known ahead about the servers. Nothing here needs the kernel's type
/// information.
// clang-format off: libbpf's header needs the kernel's types before it
#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
// clang-format on

#include "dns_redirect_layout.h"

#define DNS_PORT bpf_htons(53)
#define LOOPBACK_INTERFACE 1 /* LOOPBACK_IFINDEX, the same in every namespace */
#define MAPPED bpf_htonl(0xffff)
#define LOOPBACK4 bpf_htonl(0x7f000001)
#define LOOPBACK6 bpf_htonl(1)

struct squall_dns dns;

/* Processes that hold another such fault and were there later: what they pass on goes to the
 * server. Without it two holders would pass one query to each other for ever. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, SQUALL_DNS_MOST_SPARED);
  __type(key, __u32);
  __type(value, __u8);
} squall_spared SEC(".maps");

static __always_inline int is_of_our_namespace(struct bpf_sock_addr* ctx) {
  return dns.netns != 0 && bpf_get_netns_cookie(ctx) == dns.netns;
}

static __always_inline int wanted(struct bpf_sock_addr* ctx) {
  /* Before the port is looked at: another fault's programs may have changed it already. */
  const __u64 introducer = *(volatile __u64*)&dns.introducer;
  if (introducer != 0 && bpf_get_socket_cookie(ctx) == introducer) {
    dns.holder = bpf_get_current_pid_tgid() >> 32;
    return 0;
  }
  if (ctx->user_port != DNS_PORT || !is_of_our_namespace(ctx)) return 0;
  if (ctx->protocol != IPPROTO_UDP && ctx->protocol != IPPROTO_TCP) return 0;
  const __u64 deadline = *(volatile __u64*)&dns.deadline_ns;
  if (deadline == 0 || bpf_ktime_get_ns() >= deadline) return 0;
  const __u32 process = bpf_get_current_pid_tgid() >> 32;
  return process != dns.holder && !bpf_map_lookup_elem(&squall_spared, &process);
}

/* What must go to its server, though it was meant. */
static __always_inline int pass(void) {
  __sync_fetch_and_add(&dns.passed, 1);
  return 0;
}

static __always_inline int is_same(const volatile struct squall_dns_server* server,
                                   const __u32* address) {
  return server->address[0] == address[0] && server->address[1] == address[1] &&
         server->address[2] == address[2] && server->address[3] == address[3];
}

/* The responder's port for this server, in network order; 0 if there is none. */
static __always_inline __u32 port_for(struct bpf_sock_addr* ctx, const __u32* address, int first) {
  /* From a socket that is tied to an interface nothing reaches the loopback. */
  const __u32 interface = ctx->sk->bound_dev_if;
  if (interface != 0 && interface != LOOPBACK_INTERFACE) return pass();
  if (dns.ports[first] == 0) return pass();
  for (int i = first; i < first + SQUALL_DNS_SERVERS; ++i) {
    volatile struct squall_dns_server* server = &dns.servers[i];
    if (server->state == SQUALL_DNS_FREE &&
        __sync_val_compare_and_swap(&server->state, SQUALL_DNS_FREE, SQUALL_DNS_TAKEN) ==
            SQUALL_DNS_FREE) {
      server->address[0] = address[0];
      server->address[1] = address[1];
      server->address[2] = address[2];
      server->address[3] = address[3];
      __sync_val_compare_and_swap(&server->state, SQUALL_DNS_TAKEN, SQUALL_DNS_KNOWN);
      return dns.ports[i];
    }
    /* Two processors that meet a new server at once may take two places for it, which is no harm.
     */
    if (server->state == SQUALL_DNS_KNOWN && is_same(server, address)) return dns.ports[i];
  }
  return pass();
}

/* Where the answer comes from: the place in the table, or a number beyond it. */
static __always_inline __u32 place_of(struct bpf_sock_addr* ctx, int first) {
  const __u16 port = ctx->user_port;
  if (port == 0 || !is_of_our_namespace(ctx)) return 2 * SQUALL_DNS_SERVERS;
  for (int i = first; i < first + SQUALL_DNS_SERVERS; ++i) {
    if (dns.ports[i] == port && dns.servers[i].state == SQUALL_DNS_KNOWN) return i;
  }
  return 2 * SQUALL_DNS_SERVERS;
}

static __always_inline int is_mapped(struct bpf_sock_addr* ctx) {
  return ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == MAPPED;
}

/* At one place for mapped addresses and others: the verifier takes no pointer that may be either.
 */
static __always_inline void write_address6(struct bpf_sock_addr* ctx, __u32 first, __u32 second,
                                           __u32 third, __u32 fourth) {
  ctx->user_ip6[0] = first;
  ctx->user_ip6[1] = second;
  ctx->user_ip6[2] = third;
  ctx->user_ip6[3] = fourth;
}

static __always_inline int redirect4(struct bpf_sock_addr* ctx) {
  if (!wanted(ctx)) return 1;
  const __u32 address[4] = {ctx->user_ip4, 0, 0, 0};
  const __u32 port = port_for(ctx, address, 0);
  if (port == 0) return 1;
  ctx->user_ip4 = LOOPBACK4;
  ctx->user_port = port;
  return 1;
}

static __always_inline int redirect6(struct bpf_sock_addr* ctx) {
  if (!wanted(ctx)) return 1;
  const int mapped = is_mapped(ctx);
  __u32 address[4] = {ctx->user_ip6[3], 0, 0, 0};
  if (!mapped) {
    address[0] = ctx->user_ip6[0];
    address[1] = ctx->user_ip6[1];
    address[2] = ctx->user_ip6[2];
    address[3] = ctx->user_ip6[3];
    /* A link-local address means nothing without its interface, which is not told here. */
    if ((address[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000)) {
      pass();
      return 1;
    }
  }
  const __u32 port = port_for(ctx, address, mapped ? 0 : SQUALL_DNS_SERVERS);
  if (port == 0) return 1;
  write_address6(ctx, 0, 0, mapped ? MAPPED : 0, mapped ? LOOPBACK4 : LOOPBACK6);
  ctx->user_port = port;
  return 1;
}

static __always_inline int restore4(struct bpf_sock_addr* ctx) {
  if (ctx->user_ip4 != LOOPBACK4) return 1;
  const __u32 place = place_of(ctx, 0);
  if (place >= SQUALL_DNS_SERVERS) return 1;
  ctx->user_ip4 = dns.servers[place].address[0];
  ctx->user_port = DNS_PORT;
  return 1;
}

static __always_inline int restore6(struct bpf_sock_addr* ctx) {
  const int mapped = is_mapped(ctx);
  if (mapped ? ctx->user_ip6[3] != LOOPBACK4
             : ctx->user_ip6[0] != 0 || ctx->user_ip6[1] != 0 || ctx->user_ip6[2] != 0 ||
                   ctx->user_ip6[3] != LOOPBACK6) {
    return 1;
  }
  const __u32 place = place_of(ctx, mapped ? 0 : SQUALL_DNS_SERVERS);
  if (place >= 2 * SQUALL_DNS_SERVERS) return 1;
  const __u32* address = dns.servers[place].address;
  write_address6(ctx, mapped ? 0 : address[0], mapped ? 0 : address[1],
                 mapped ? MAPPED : address[2], mapped ? address[0] : address[3]);
  ctx->user_port = DNS_PORT;
  return 1;
}

SEC("cgroup/connect4") int squall_connect4(struct bpf_sock_addr* ctx) { return redirect4(ctx); }
SEC("cgroup/connect6") int squall_connect6(struct bpf_sock_addr* ctx) { return redirect6(ctx); }
SEC("cgroup/sendmsg4") int squall_sendmsg4(struct bpf_sock_addr* ctx) { return redirect4(ctx); }
SEC("cgroup/sendmsg6") int squall_sendmsg6(struct bpf_sock_addr* ctx) { return redirect6(ctx); }
SEC("cgroup/recvmsg4") int squall_recvmsg4(struct bpf_sock_addr* ctx) { return restore4(ctx); }
SEC("cgroup/recvmsg6") int squall_recvmsg6(struct bpf_sock_addr* ctx) { return restore6(ctx); }
SEC("cgroup/getpeername4") int squall_peer4(struct bpf_sock_addr* ctx) { return restore4(ctx); }
SEC("cgroup/getpeername6") int squall_peer6(struct bpf_sock_addr* ctx) { return restore6(ctx); }

char object_license[] SEC("license") = "Dual MIT/GPL";
