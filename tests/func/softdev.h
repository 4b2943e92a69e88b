/* SPDX-License-Identifier: MIT */
/*
 * A soft device under test, and kernels that compare and fill memory with the pattern
 * of world.h. What kernels use themselves is static: it is never away.
 */
#ifndef UHMM_TEST_SOFTDEV_H
#define UHMM_TEST_SOFTDEV_H

#include "world.h"

#include <uhmm/soft.h>

struct hmm_soft *soft_new(struct world *w, const struct hmm_soft_opts *opts);
struct hmm_soft_stats soft_stats_of(struct hmm_soft *soft);
int64_t soft_move_in(struct hmm_soft *soft, void *p, size_t nr, uint64_t *reasons);

/* Every word of pages [0, nr) at @p, by all lanes: as the pattern says; or so from now on. */
void soft_checks(struct hmm_soft *soft, unsigned char *p, size_t nr, uint32_t seed);
void soft_fills(struct hmm_soft *soft, unsigned char *p, size_t nr, uint32_t seed);

/* One access of a word at @p by one lane. */
uint64_t soft_load(struct hmm_soft *soft, const void *p);
void soft_store(struct hmm_soft *soft, void *p, uint64_t value);
uint64_t soft_add(struct hmm_soft *soft, void *p, uint64_t value);

/* The load as hmm_soft_run() answers it; its value is not told. */
int soft_try_load(struct hmm_soft *soft, const void *p, struct hmm_soft_fault *fault);

/* The same where it is to be refused: the record. */
struct hmm_soft_fault soft_load_refused(struct hmm_soft *soft, const void *p);
struct hmm_soft_fault soft_store_refused(struct hmm_soft *soft, void *p);
struct hmm_soft_fault soft_add_refused(struct hmm_soft *soft, void *p);

/*
 * Pages aligned as a block of the device's is, 2 MiB, and with nobody else's beside them:
 * lanes that fault take a page's neighbours along, and the CPU's faults bring them home,
 * whoever's they are. Zeros, or filled.
 */
unsigned char *map_apart(size_t nr);
unsigned char *map_blocks(size_t nr, uint32_t seed);
void unmap_blocks(unsigned char *p, size_t nr);

uint64_t now_ns(void);

#endif
