/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/**
 * \file
 * Which packets chance loses, by sch_netem's rules. Plain C, because the relay decides by it and so
 * does the classifier in the kernel, where nothing but losses is asked: of one seed both lose the
 * same packets.
 *
 * Source of every rule: net/sched/sch_netem.c of Linux 6.1, by the names that the functions have
 * there. Of the random numbers: S. Vigna, splitmix64.c.
 */
#ifndef SQUALL_INJECTOR_NETWORK_LOSS_H_
#define SQUALL_INJECTOR_NETWORK_LOSS_H_

#include <linux/types.h>

#define SQUALL_INLINE static inline __attribute__((always_inline))
#ifdef __cplusplus
#define SQUALL_U32(number) static_cast<__u32>(number)
#else
#define SQUALL_U32(number) ((__u32)(number))
#endif

enum squall_loss_model { SQUALL_LOSS_RANDOM, SQUALL_LOSS_GILBERT_ELLIOTT, SQUALL_LOSS_FOUR_STATE };

/* Chances are fractions of 2^32 - 1, as the kernel has them. */
struct squall_loss {
  __u32 model;
  __u32 chance;      /* of SQUALL_LOSS_RANDOM; 0: none is lost */
  __u32 correlation; /* of each draw with the last; 0: none */
  /* As struct clgstate has them: p, r, h, 1-k, or p13, p31, p32, p14, p23. */
  __u32 a1, a2, a3, a4, a5;
};

/* Where a sequence stands. To begin with, `state` is the seed and `last` any number. */
struct squall_random {
  __u64 state;
  __u32 last;
  __u32 chain; /* of the models with states: in which; 1 to begin with */
};

SQUALL_INLINE __u32 squall_uniform(struct squall_random* random) {
  __u64 mixed = (random->state += 0x9e3779b97f4a7c15);
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
  mixed ^= mixed >> 31;
  return SQUALL_U32(mixed >> 32);
}

/* get_crandom(): each number is a weighted mean of a new one and the last. Being means, they crowd
 * around the middle: of a chance below 50 % a correlation makes less. */
SQUALL_INLINE __u32 squall_draw(struct squall_random* random, __u32 correlation) {
  const __u32 value = squall_uniform(random);
  if (correlation == 0) return value;
  const __u64 whole = 0x100000000;
  const __u64 rho = 1ull + correlation;
  random->last = SQUALL_U32((value * (whole - rho) + random->last * rho) >> 32);
  return random->last;
}

/* loss_gilb_ell() */
SQUALL_INLINE int squall_loss_gilb_ell(const struct squall_loss* how,
                                       struct squall_random* random) {
  enum { GOOD = 1, BAD };
  /* Whether this packet is lost is the old state's to say. */
  if (random->chain == GOOD) {
    if (squall_draw(random, how->correlation) < how->a1) random->chain = BAD;
    return squall_draw(random, how->correlation) < how->a4;
  }
  if (squall_draw(random, how->correlation) < how->a2) random->chain = GOOD;
  return squall_draw(random, how->correlation) > how->a3;
}

/* loss_4state() */
SQUALL_INLINE int squall_loss_4state(const struct squall_loss* how, struct squall_random* random) {
  enum { RECEIVED_IN_GAP = 1, RECEIVED_IN_BURST, LOST_IN_BURST, LOST_IN_GAP };
  const __u64 drawn = squall_draw(random, how->correlation);
  /* Whether this packet is lost is the new state's to say. */
  switch (random->chain) {
    case RECEIVED_IN_GAP:
      if (drawn < how->a4) {
        random->chain = LOST_IN_GAP;
      } else if (drawn - how->a4 < how->a1) {
        random->chain = LOST_IN_BURST;
      }
      break;
    case RECEIVED_IN_BURST:
      if (drawn < how->a5) random->chain = LOST_IN_BURST;
      break;
    case LOST_IN_BURST:
      if (drawn < how->a3) {
        random->chain = RECEIVED_IN_BURST;
      } else if (drawn - how->a3 < how->a2) {
        random->chain = RECEIVED_IN_GAP;
      }
      break;
    default:
      random->chain = RECEIVED_IN_GAP;
  }
  return random->chain == LOST_IN_BURST || random->chain == LOST_IN_GAP;
}

/* loss_event() */
SQUALL_INLINE int squall_loses(const struct squall_loss* how, struct squall_random* random) {
  if (how->model == SQUALL_LOSS_GILBERT_ELLIOTT) return squall_loss_gilb_ell(how, random);
  if (how->model == SQUALL_LOSS_FOUR_STATE) return squall_loss_4state(how, random);
  return how->chance != 0 && how->chance >= squall_draw(random, how->correlation);
}

#endif
