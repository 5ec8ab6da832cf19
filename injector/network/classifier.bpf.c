// SPDX-License-Identifier: MIT OR GPL-2.0-only
/// \file
/// The classifier: is this packet one that the fault asked for, and may the fault still act?
///
/// `egress` and `ingress` only classify; what happens to a match is the action beside them
/// (mirred). Where it is to be lost they drop it by themselves (direct action) and so need no
/// device. `reenter` stands on the relay's own TAP and hands every packet on, marked. Nothing here
/// needs the kernel's type information.
///
/// No holder is ready before the kernel has verified each program, every way through it: what is
/// seldom needed has one way only, and what can be a flag is no program of its own.
// clang-format off: libbpf's header needs the kernel's types before it
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
// clang-format on

#include "match.h"

struct squall_match match;

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, SQUALL_MAX_CIDRS);
  __type(key, struct squall_cidr4);
  __type(value, __u8);
} cidrs4 SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, SQUALL_MAX_CIDRS);
  __type(key, struct squall_cidr6);
  __type(value, __u8);
} cidrs6 SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, SQUALL_MAX_CONNECTIONS);
  __type(key, struct squall_connection);
  __type(value, __u8);
} spared_connections SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct squall_count);
} counts SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct squall_chance);
} chance SEC(".maps");

/* Sockets of the processes that are meant; what one that listens accepts is marked as it is. */
struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
  __type(key, int);
  __type(value, __u8);
} of_processes SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, SQUALL_MAX_PROCESSES);
  __type(key, __u32);
  __type(value, __u8);
} processes SEC(".maps");

#define NO_PROTOCOL \
  0x100 /* ports cannot be known: a later fragment, or a header we do not follow */

#define IPV6_HOP_BY_HOP 0
#define IPV6_ROUTING 43
#define IPV6_FRAGMENT 44
#define IPV6_AUTHENTICATION 51
#define IPV6_DESTINATION 60
#define MAX_EXTENSION_HEADERS 6
#define ICMPV6 58
#define ICMPV6_ND_FIRST 133
#define ICMPV6_ND_LAST 137

/* What is known of a packet once its headers are read. */
struct packet {
  __be32 source[4]; /* IPv4 as ::ffff:a.b.c.d */
  __be32 destination[4];
  __u32 protocol;
  __u32 transport; /* where the transport header starts, from the network header */
  __u32 tells;     /* of the address at the other end: SQUALL_IN, SQUALL_OUT */
  __be16 ports[2]; /* source and destination, of TCP and UDP */
};

#define REACH 256 /* how far behind the network header is read without a call */

/* What few packets have. */
static __always_inline long load_rare(struct __sk_buff* skb, __u32 offset, void* to, __u32 length) {
  return bpf_skb_load_bytes_relative(skb, offset, to, length, BPF_HDR_START_NET);
}

/* `offset` is a multiple of four, from the network header on. Every packet of the interface comes by
 * here, and a call of the kernel's helper is most of what it would cost one that does not match. */
static __always_inline long load(struct __sk_buff* skb, __u32 offset, void* to, __u32 length) {
  if ((match.flags & SQUALL_ETHERNET) && offset < REACH) {
    __u32 at = offset;
    /* The mask is for the verifier, where loads must be aligned; the compiler knows better. */
    asm volatile("" : "+r"(at));
    const __u8* from = (const __u8*)(long)skb->data + ETH_HLEN + (at & (REACH - 4));
    if (from + length <= (const __u8*)(long)skb->data_end) {
      __builtin_memcpy(to, __builtin_assume_aligned(from, 4), length);
      return 0;
    }
  }
  return load_rare(skb, offset, to, length);
}

static __always_inline int has_port(const __u64* set, __u16 port) {
  return (set[(port >> 6) & (SQUALL_PORT_WORDS - 1)] >> (port & 63)) & 1;
}

static __always_inline int has_protocol(const __u64* set, __u32 protocol) {
  return protocol < 256 &&
         ((set[(protocol >> 6) & (SQUALL_PROTOCOL_WORDS - 1)] >> (protocol & 63)) & 1);
}

static __always_inline int read_ipv4(struct __sk_buff* skb, struct packet* packet) {
  __u8 header[12] __attribute__((aligned(4)));
  if (load(skb, 0, header, sizeof(header)) < 0 || header[0] >> 4 != 4) return 0;
  packet->protocol = header[9];
  packet->transport = (header[0] & 0x0f) * 4;
  if (((header[6] & 0x1f) | header[7]) != 0) packet->protocol = NO_PROTOCOL;
  return 1;
}

static __always_inline int read_ipv6(struct __sk_buff* skb, struct packet* packet) {
  __u8 header[8] __attribute__((aligned(4)));
  if (load(skb, 0, header, sizeof(header)) < 0 || header[0] >> 4 != 6) return 0;
  __u32 next = header[6];
  __u32 offset = 40;
#pragma unroll
  for (int i = 0; i < MAX_EXTENSION_HEADERS; ++i) {
    if (next != IPV6_HOP_BY_HOP && next != IPV6_ROUTING && next != IPV6_FRAGMENT &&
        next != IPV6_AUTHENTICATION && next != IPV6_DESTINATION) {
      break;
    }
    __u8 extension[4];
    if (load_rare(skb, offset, extension, sizeof(extension)) < 0) return 0;
    if (next == IPV6_FRAGMENT) {
      if (extension[2] != 0 || (extension[3] & 0xf8) != 0) {
        packet->protocol = NO_PROTOCOL;
        return 1;
      }
      offset += 8;
    } else if (next == IPV6_AUTHENTICATION) {
      offset += (extension[1] + 2) * 4;
    } else {
      offset += (extension[1] + 1) * 8;
    }
    next = extension[0];
  }
  packet->protocol = next;
  packet->transport = offset;
  if (next == ICMPV6) {
    __u8 type;
    if (load_rare(skb, offset, &type, 1) < 0) return 0;
    if (type >= ICMPV6_ND_FIRST && type <= ICMPV6_ND_LAST) return 0;
  }
  return 1;
}

/* And what the tries tell of the one at the other end, if they are asked. */
static __always_inline int read_addresses(struct __sk_buff* skb, int is_ipv4, int ingress,
                                          struct packet* packet) {
  const __u8* tells = 0;
  const int asked = match.flags & (SQUALL_MATCH_CIDRS | SQUALL_EXCEPT_CIDRS);
  if (is_ipv4) {
    __u32 pair[2];
    if (load(skb, 12, pair, sizeof(pair)) < 0) return 0;
    packet->source[2] = packet->destination[2] = bpf_htonl(0xffff);
    packet->source[3] = pair[0];
    packet->destination[3] = pair[1];
    if (asked) {
      struct squall_cidr4 key = {.prefix = 32};
      __builtin_memcpy(key.address, &pair[ingress ? 0 : 1], 4);
      tells = bpf_map_lookup_elem(&cidrs4, &key);
    }
  } else {
    __u32 pair[8];
    if (load(skb, 8, pair, sizeof(pair)) < 0) return 0;
    __builtin_memcpy(packet->source, pair, 16);
    __builtin_memcpy(packet->destination, pair + 4, 16);
    if (asked) {
      struct squall_cidr6 key = {.prefix = 128};
      __builtin_memcpy(key.address, pair + (ingress ? 0 : 4), 16);
      tells = bpf_map_lookup_elem(&cidrs6, &key);
    }
  }
  if (tells) packet->tells = *tells;
  return 1;
}

static __always_inline int is_spared(const struct packet* packet) {
  if (has_port(match.spared_tcp_ports, bpf_ntohs(packet->ports[0])) ||
      has_port(match.spared_tcp_ports, bpf_ntohs(packet->ports[1]))) {
    return 1;
  }
  struct squall_connection key;
  __builtin_memcpy(key.source, packet->source, 16);
  __builtin_memcpy(key.destination, packet->destination, 16);
  key.source_port = packet->ports[0];
  key.destination_port = packet->ports[1];
  return bpf_map_lookup_elem(&spared_connections, &key) != 0;
}

static __always_inline int has_a_port_in(const __u64* set, const struct packet* packet,
                                         int has_ports) {
  return has_ports &&
         (has_port(set, bpf_ntohs(packet->ports[0])) || has_port(set, bpf_ntohs(packet->ports[1])));
}

/* Whether all that the exception asks holds. */
static __always_inline int is_excepted(__u32 flags, const struct packet* packet, int has_ports) {
  if ((flags & SQUALL_EXCEPT_CIDRS) && !(packet->tells & SQUALL_OUT)) return 0;
  if ((flags & SQUALL_EXCEPT_PROTOCOLS) && !has_protocol(match.except_protocols, packet->protocol))
    return 0;
  return !(flags & SQUALL_EXCEPT_PORTS) || has_a_port_in(match.except_ports, packet, has_ports);
}

/* Murmur3's last mixing step. */
static __always_inline __u32 mixed(__u32 hash) {
  hash ^= hash >> 16;
  hash *= 0x85ebca6b;
  hash ^= hash >> 13;
  hash *= 0xc2b2ae35;
  return hash ^ (hash >> 16);
}

static __always_inline __u32 hash_of_end(const __be32* address, __be16 port) {
  __u32 hash = match.share_seed ^ port;
#pragma unroll
  for (int i = 0; i < 4; ++i) hash = mixed(hash + address[i]);
  return hash;
}

/* The same for both ways of a connection. */
static __always_inline __u32 hash_of_flow(const struct packet* packet) {
  return mixed(hash_of_end(packet->source, packet->ports[0]) +
               hash_of_end(packet->destination, packet->ports[1]) + packet->protocol);
}

/* Whether its socket is marked; that of a connection still being made is its listener. */
static __always_inline int is_marked(struct bpf_sock* socket) {
  struct bpf_sock* full = bpf_sk_fullsock(socket);
  if (!full) full = bpf_get_listener_sock(socket);
  return full && bpf_sk_storage_get(&of_processes, full, 0, 0);
}

/* Which socket an arriving packet is for is not known yet. It is looked up as the kernel will do it
 * a little later; null where there is none. (bpf_sk_lookup_tcp would give a listener where the
 * kernel finds the request of a connection that is half open.) To be released. */
static __always_inline struct bpf_sock* find_socket(struct __sk_buff* skb,
                                                    const struct packet* packet, int is_ipv4) {
  struct bpf_sock_tuple tuple = {};
  __u32 size;
  if (is_ipv4) {
    tuple.ipv4.saddr = packet->source[3];
    tuple.ipv4.daddr = packet->destination[3];
    tuple.ipv4.sport = packet->ports[0];
    tuple.ipv4.dport = packet->ports[1];
    size = sizeof(tuple.ipv4);
  } else {
    __builtin_memcpy(tuple.ipv6.saddr, packet->source, 16);
    __builtin_memcpy(tuple.ipv6.daddr, packet->destination, 16);
    tuple.ipv6.sport = packet->ports[0];
    tuple.ipv6.dport = packet->ports[1];
    size = sizeof(tuple.ipv6);
  }
  return packet->protocol == IPPROTO_TCP
             ? bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0)
             : bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
}

/* The socket is given to the packet, as the kernel's own early demultiplexing does: only a packet
 * tells the control group of its socket here. Before Linux 6.6 no socket with SO_REUSEPORT can be
 * given, and its packets do not match. */
static __always_inline int arrives_where_meant(struct __sk_buff* skb, const struct packet* packet,
                                               int is_ipv4) {
  struct bpf_sock* socket = find_socket(skb, packet, is_ipv4);
  if (!socket) return 0;
  if (match.flags & SQUALL_MATCH_PROCESSES) {
    const int marked = is_marked(socket);
    bpf_sk_release(socket);
    return marked;
  }
  const long failed = bpf_sk_assign(skb, socket, 0);
  bpf_sk_release(socket);
  return !failed && bpf_skb_ancestor_cgroup_id(skb, match.cgroup_level) == match.cgroup;
}

static __always_inline int leaves_where_meant(struct __sk_buff* skb) {
  if (match.flags & SQUALL_MATCH_PROCESSES) return skb->sk && is_marked(skb->sk);
  return bpf_skb_ancestor_cgroup_id(skb, match.cgroup_level) == match.cgroup;
}

static __always_inline int wanted(struct __sk_buff* skb, int ingress) {
  const __u64 deadline = *(volatile __u64*)&match.deadline_ns;
  if (deadline == 0) return 0;
  if ((skb->mark & SQUALL_MARK_MASK) == (SQUALL_MARK | (ingress ? SQUALL_MARK_INGRESS : 0))) {
    return 0;
  }

  struct packet packet = {};
  const int is_ipv4 = skb->protocol == bpf_htons(ETH_P_IP);
  if (is_ipv4) {
    if (!read_ipv4(skb, &packet)) return 0;
  } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
    if (!read_ipv6(skb, &packet)) return 0;
  } else {
    return 0;
  }
  /* What costs least goes first: most packets of an interface are not meant. */
  const __u32 flags = match.flags;
  if ((flags & SQUALL_MATCH_PROTOCOLS) && !has_protocol(match.protocols, packet.protocol)) return 0;
  const int has_ports = packet.protocol == IPPROTO_TCP || packet.protocol == IPPROTO_UDP;
  if (has_ports && load(skb, packet.transport, packet.ports, sizeof(packet.ports)) < 0) return 0;
  if ((flags & SQUALL_MATCH_PORTS) && !has_a_port_in(match.ports, &packet, has_ports)) return 0;
  if (!read_addresses(skb, is_ipv4, ingress, &packet)) return 0;
  if ((flags & SQUALL_MATCH_CIDRS) && !(packet.tells & SQUALL_IN)) return 0;
  if ((flags & SQUALL_EXCEPT) && is_excepted(flags, &packet, has_ports)) return 0;
  if (packet.protocol == IPPROTO_TCP && is_spared(&packet)) return 0;
  /* Late, for its price; but before anything that would touch the packet. */
  if (bpf_ktime_get_ns() >= deadline) return 0;
  if (flags & (SQUALL_MATCH_CGROUP | SQUALL_MATCH_PROCESSES)) {
    if (ingress) {
      if (!has_ports || !arrives_where_meant(skb, &packet, is_ipv4)) return 0;
    } else if (!leaves_where_meant(skb)) {
      return 0;
    }
  }
  if (flags & SQUALL_SHARE_OF_CONNECTIONS) return hash_of_flow(&packet) < match.share;
  if (flags & SQUALL_SHARE_OF_PACKETS) return bpf_get_prandom_u32() < match.share;
  return 1;
}

static __always_inline int is_lost(void) {
  const __u32 key = 0;
  struct squall_chance* drawn = bpf_map_lookup_elem(&chance, &key);
  if (!drawn) return 0;
  bpf_spin_lock(&drawn->lock);
  const int lost = squall_loses(&match.loss, &drawn->random);
  bpf_spin_unlock(&drawn->lock);
  return lost;
}

/* Of what matched, by a classifier that loses by itself. */
static __always_inline int lose(struct __sk_buff* skb) {
  const __u32 key = 0;
  struct squall_count* count = bpf_map_lookup_elem(&counts, &key);
  if (!count) return TC_ACT_UNSPEC;
  const __u32 packets = skb->gso_segs > 1 ? skb->gso_segs : 1;
  count->packets += packets;
  count->bytes += skb->len;
  if ((match.flags & SQUALL_BY_CHANCE) && !is_lost()) return TC_ACT_UNSPEC;
  if ((match.flags & SQUALL_ECN) && bpf_skb_ecn_set_ce(skb)) {
    count->marked += packets;
    return TC_ACT_UNSPEC;
  }
  count->lost += packets;
  return TC_ACT_SHOT;
}

/* A classifier says -1 for a match and 0 for none; one that loses by itself says what becomes of
 * the packet. */
static __always_inline int classify(struct __sk_buff* skb, int ingress) {
  const int is_wanted = wanted(skb, ingress);
  if (!(match.flags & SQUALL_LOSE)) return is_wanted ? -1 : 0;
  return is_wanted ? lose(skb) : TC_ACT_UNSPEC;
}

SEC("tc") int egress(struct __sk_buff* skb) { return classify(skb, 0); }

SEC("tc") int ingress(struct __sk_buff* skb) { return classify(skb, 1); }

SEC("tc") int reenter(struct __sk_buff* skb) {
  skb->mark = match.reenter_mark;
  if (match.reenter_host) bpf_skb_change_type(skb, PACKET_HOST);
  return -1;
}

/* Marks what the processes that are meant make from now on, in the namespace of the fault. */
SEC("cgroup/sock_create") int squall_socket(struct bpf_sock* socket) {
  if (bpf_get_netns_cookie(socket) != match.netns) return 1;
  const __u32 process = bpf_get_current_pid_tgid() >> 32;
  if (bpf_map_lookup_elem(&processes, &process)) {
    bpf_sk_storage_get(&of_processes, socket, 0, BPF_SK_STORAGE_GET_F_CREATE);
  }
  return 1;
}

char object_license[] SEC("license") = "Dual MIT/GPL";
