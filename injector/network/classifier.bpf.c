// SPDX-License-Identifier: MIT OR GPL-2.0-only
/// \file
/// The classifier: is this packet one that the fault asked for, and may the fault still act?
///
/// `egress` and `ingress` only classify; what happens to a match is the action beside them
/// (mirred). `lose_egress` and `lose_ingress` drop by themselves (direct action) and so need no
/// device. `reenter` stands on the relay's own TAP and hands every packet on, marked. Nothing here
/// needs the kernel's type information.
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
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct squall_count);
} lost SEC(".maps");

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

struct packet {
  __u32 protocol;
  __u32 transport; /* where the transport header starts, from the network header */
};

static __always_inline int load(struct __sk_buff* skb, __u32 offset, void* to, __u32 length) {
  return bpf_skb_load_bytes_relative(skb, offset, to, length, BPF_HDR_START_NET);
}

static __always_inline int has_port(const __u64* set, __u16 port) {
  return (set[(port >> 6) & (SQUALL_PORT_WORDS - 1)] >> (port & 63)) & 1;
}

static __always_inline int read_ipv4(struct __sk_buff* skb, int ingress, struct packet* packet) {
  __u8 header[20];
  if (load(skb, 0, header, sizeof(header)) < 0 || header[0] >> 4 != 4) return 0;
  if (match.flags & SQUALL_MATCH_CIDRS) {
    struct squall_cidr4 key = {.prefix = 32};
    __builtin_memcpy(key.address, header + (ingress ? 12 : 16), 4);
    if (!bpf_map_lookup_elem(&cidrs4, &key)) return 0;
  }
  packet->protocol = header[9];
  packet->transport = (header[0] & 0x0f) * 4;
  if (((header[6] & 0x1f) | header[7]) != 0) packet->protocol = NO_PROTOCOL;
  return 1;
}

static __always_inline int read_ipv6(struct __sk_buff* skb, int ingress, struct packet* packet) {
  __u8 header[40];
  if (load(skb, 0, header, sizeof(header)) < 0 || header[0] >> 4 != 6) return 0;
  if (match.flags & SQUALL_MATCH_CIDRS) {
    struct squall_cidr6 key = {.prefix = 128};
    __builtin_memcpy(key.address, header + (ingress ? 8 : 24), 16);
    if (!bpf_map_lookup_elem(&cidrs6, &key)) return 0;
  }
  __u32 next = header[6];
  __u32 offset = sizeof(header);
#pragma unroll
  for (int i = 0; i < MAX_EXTENSION_HEADERS; ++i) {
    if (next != IPV6_HOP_BY_HOP && next != IPV6_ROUTING && next != IPV6_FRAGMENT &&
        next != IPV6_AUTHENTICATION && next != IPV6_DESTINATION) {
      break;
    }
    __u8 extension[4];
    if (load(skb, offset, extension, sizeof(extension)) < 0) return 0;
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
    if (load(skb, offset, &type, 1) < 0) return 0;
    if (type >= ICMPV6_ND_FIRST && type <= ICMPV6_ND_LAST) return 0;
  }
  return 1;
}

static __always_inline int wanted(struct __sk_buff* skb, int ingress) {
  const __u64 deadline = *(volatile __u64*)&match.deadline_ns;
  if (deadline == 0 || bpf_ktime_get_ns() >= deadline) return 0;
  if ((skb->mark & SQUALL_MARK_MASK) == (SQUALL_MARK | (ingress ? SQUALL_MARK_INGRESS : 0))) {
    return 0;
  }

  struct packet packet = {};
  if (skb->protocol == bpf_htons(ETH_P_IP)) {
    if (!read_ipv4(skb, ingress, &packet)) return 0;
  } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
    if (!read_ipv6(skb, ingress, &packet)) return 0;
  } else {
    return 0;
  }

  const int has_ports = packet.protocol == IPPROTO_TCP || packet.protocol == IPPROTO_UDP;
  if (!has_ports) return !(match.flags & SQUALL_MATCH_PORTS);
  __be16 ports[2];
  if (load(skb, packet.transport, ports, sizeof(ports)) < 0) return 0;
  const __u16 source = bpf_ntohs(ports[0]);
  const __u16 destination = bpf_ntohs(ports[1]);
  if (packet.protocol == IPPROTO_TCP &&
      (has_port(match.spared_tcp_ports, source) || has_port(match.spared_tcp_ports, destination))) {
    return 0;
  }
  if (!(match.flags & SQUALL_MATCH_PORTS)) return 1;
  return has_port(match.ports, source) || has_port(match.ports, destination);
}

static __always_inline int lose(struct __sk_buff* skb, int ingress) {
  if (!wanted(skb, ingress)) return TC_ACT_UNSPEC;
  const __u32 key = 0;
  struct squall_count* count = bpf_map_lookup_elem(&lost, &key);
  if (count) {
    count->packets += skb->gso_segs > 1 ? skb->gso_segs : 1;
    count->bytes += skb->len;
  }
  return TC_ACT_SHOT;
}

// A classifier says -1 for a match, and 0 for none.
SEC("tc") int egress(struct __sk_buff* skb) { return wanted(skb, 0) ? -1 : 0; }

SEC("tc") int ingress(struct __sk_buff* skb) { return wanted(skb, 1) ? -1 : 0; }

SEC("tc") int lose_egress(struct __sk_buff* skb) { return lose(skb, 0); }

SEC("tc") int lose_ingress(struct __sk_buff* skb) { return lose(skb, 1); }

SEC("tc") int reenter(struct __sk_buff* skb) {
  skb->mark = match.reenter_mark;
  if (match.reenter_host) bpf_skb_change_type(skb, PACKET_HOST);
  return -1;
}

char object_license[] SEC("license") = "Dual MIT/GPL";
