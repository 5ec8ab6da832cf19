/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/**
 * \file
 * What the classifier in the kernel and the process that fills its map agree on: the layout of the
 * match and the marks. Plain C, because both sides include it.
 */
#ifndef SQUALL_INJECTOR_NETWORK_MATCH_H_
#define SQUALL_INJECTOR_NETWORK_MATCH_H_

#include <linux/types.h>

/* The mark of packets that the relay has already held: "SQ", one bit for the way they went, 15 bits
 * of the fault's id. A filter skips the marks of its own way, whichever fault set them, so that no
 * two faults can pass a packet back and forth for ever. A packet that leaves by lo arrives there
 * with the egress mark, and the ingress filter still sees it. */
#define SQUALL_MARK 0x53510000u
#define SQUALL_MARK_INGRESS 0x00008000u
#define SQUALL_MARK_MASK 0xffff8000u
#define SQUALL_MARK_FAULT_MASK 0x00007fffu

#define SQUALL_MATCH_CIDRS 1u /* only addresses in the tries */
#define SQUALL_MATCH_PORTS 2u /* only ports in the set */

#define SQUALL_MAX_CIDRS 4096
#define SQUALL_PORT_WORDS 1024 /* one bit a port */

/* The whole of the object's .bss, mapped into the holder: a deadline is moved by one store. */
struct squall_match {
  __u64 deadline_ns; /* on CLOCK_MONOTONIC; from then on nothing matches. 0: not yet */
  __u32 flags;
  __u32 reenter_mark; /* for what the relay hands back on ingress */
  __u32 reenter_host; /* 1: such packets are for this host whatever their address says (lo) */
  __u32 padding;
  __u64 ports[SQUALL_PORT_WORDS];
  __u64 spared_tcp_ports[SQUALL_PORT_WORDS];
};

struct squall_cidr4 {
  __u32 prefix;
  __u8 address[4];
};

struct squall_cidr6 {
  __u32 prefix;
  __u8 address[16];
};

struct squall_count {
  __u64 packets;
  __u64 bytes;
};

#endif
