/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/**
 * \file
 * What the classifier in the kernel and the process that fills its map agree on: the layout of the
 * match and the marks. Plain C, because both sides include it.
 */
#ifndef SQUALL_INJECTOR_NETWORK_MATCH_H_
#define SQUALL_INJECTOR_NETWORK_MATCH_H_

#include <linux/bpf.h>
#include <linux/types.h>

#include "injector/network/loss.h"

/* The mark of packets that the relay has already held: "SQ", one bit for the way they went, 15 bits
 * of the fault's id. A filter skips the marks of its own way, whichever fault set them, so that no
 * two faults can pass a packet back and forth for ever. A packet that leaves by lo arrives there
 * with the egress mark, and the ingress filter still sees it. */
#define SQUALL_MARK 0x53510000u
#define SQUALL_MARK_INGRESS 0x00008000u
#define SQUALL_MARK_MASK 0xffff8000u
#define SQUALL_MARK_FAULT_MASK 0x00007fffu

/* What is asked of a packet; what is not asked is not looked at. */
#define SQUALL_MATCH_CIDRS 0x001u     /* an address in the tries that bears SQUALL_IN */
#define SQUALL_MATCH_PORTS 0x002u     /* a port in the set */
#define SQUALL_MATCH_PROTOCOLS 0x004u /* a protocol in the set */
#define SQUALL_EXCEPT 0x008u          /* and not all that the next three ask */
#define SQUALL_EXCEPT_CIDRS 0x010u    /* an address in the tries that bears SQUALL_OUT */
#define SQUALL_EXCEPT_PORTS 0x020u
#define SQUALL_EXCEPT_PROTOCOLS 0x040u
#define SQUALL_SHARE_OF_CONNECTIONS 0x080u /* a flow whose hash is below `share` */
#define SQUALL_SHARE_OF_PACKETS 0x100u     /* a random number below `share` */
#define SQUALL_MATCH_CGROUP 0x200u         /* a socket below this control group */
#define SQUALL_MATCH_PROCESSES 0x4000u /* a socket that squall_socket or the holder has marked */
#define SQUALL_ETHERNET 0x400u         /* all it sees has an Ethernet header before the network's */
/* And what becomes of a match. */
#define SQUALL_LOSE 0x800u       /* dropped and counted, by a filter without an action */
#define SQUALL_BY_CHANCE 0x1000u /* not all of them, but those that `loss` says */
#define SQUALL_ECN 0x2000u       /* what can be marked as congested is, instead */

/* What the tries say of an address. A longer prefix bears what the shorter ones around it do. */
#define SQUALL_IN 1u
#define SQUALL_OUT 2u

#define SQUALL_MAX_CIDRS 8192
#define SQUALL_MAX_CONNECTIONS 4096
#define SQUALL_MAX_PROCESSES 4096
#define SQUALL_PORT_WORDS 1024  /* one bit a port */
#define SQUALL_PROTOCOL_WORDS 4 /* one bit a protocol */
#define SQUALL_MATCH_TAG 64     /* bytes, the last of them 0 */

/* The whole of the object's .bss, mapped into the holder: a deadline is moved by one store. */
struct squall_match {
  __u64 deadline_ns; /* on CLOCK_MONOTONIC; from then on nothing matches. 0: not yet */
  __u32 flags;
  __u32 reenter_mark; /* for what the relay hands back on ingress */
  __u32 reenter_host; /* 1: such packets are for this host whatever their address says (lo) */
  __u32 share;        /* of 2^32 */
  __u32 share_seed;   /* which connections the share falls on */
  __u32 cgroup_level; /* below the root of cgroup v2, which is 0 */
  __u64 cgroup;       /* its id, the inode of its folder */
  struct squall_loss loss;
  /* For whoever finds squall_socket: whose it is, and the cookie of its network namespace. */
  char tag[SQUALL_MATCH_TAG];
  __u64 netns;
  __u64 protocols[SQUALL_PROTOCOL_WORDS];
  __u64 except_protocols[SQUALL_PROTOCOL_WORDS];
  __u64 ports[SQUALL_PORT_WORDS];
  __u64 except_ports[SQUALL_PORT_WORDS];
  __u64 spared_tcp_ports[SQUALL_PORT_WORDS];
};

/* A TCP connection, either way round; IPv4 addresses as ::ffff:a.b.c.d, ports in network order. */
struct squall_connection {
  __u8 source[16];
  __u8 destination[16];
  __u16 source_port;
  __u16 destination_port;
};

struct squall_cidr4 {
  __u32 prefix;
  __u8 address[4];
};

struct squall_cidr6 {
  __u32 prefix;
  __u8 address[16];
};

/* Of a classifier that loses by itself. A GSO packet counts for what it will be cut into. */
struct squall_count {
  __u64 packets; /* that matched */
  __u64 bytes;
  __u64 lost;   /* of the packets */
  __u64 marked; /* instead of being lost */
};

/* What the losses hang on beside `loss`: one sequence for all processors. */
struct squall_chance {
  struct bpf_spin_lock lock;
  struct squall_random random;
};

#endif
