/* SPDX-License-Identifier: MIT */
/*
 * What moves, and when. Everything here is a hint: it may forget, and nothing that is
 * correct depends on it.
 *
 * Per 2 MiB block of the program's addresses that the device has faulted on there is a
 * record in a direct-mapped table (a record that collides replaces the other). In it
 * 32 chunks of 64 KiB, the granule of a migration:
 *
 *   came      chunks that moved in within the window; one that comes again bounced
 *   refused   chunks that held a page which could not move: to try again at each fault
 *             would send MIGRATE events that wipe out the neighbours just mirrored, and
 *             two lanes would chase each other. Kept for 10 ms or until an UNMAP,
 *             long enough for that and too short to judge a new mapping by the old
 *   faults    per chunk, for MIGRATE_NTH
 *
 * `lock` is a leaf, taken by invalidate().
 */
#ifndef SOFT_POLICY_H
#define SOFT_POLICY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uhmm/driver.h>
#include <uhmm/soft.h>

struct hmm_soft;
struct hmm_devmem;
struct hmm_fault;

#define SOFT_CHUNK_BYTES	(64UL << 10)
#define SOFT_BLOCK_CHUNKS	32

struct soft_record {
	uintptr_t block;		/* 0: unused */
	uint64_t window_ns;		/* when `came` was last cleared */
	uint64_t refused_ns;
	uint64_t held_ns;		/* until then nothing of the block moves in */
	uint32_t came, refused;
	uint8_t bounces;
	uint16_t faults[SOFT_BLOCK_CHUNKS];
};

struct soft_policy {
	_Atomic uint32_t migrate, migrate_nth, prefetch, fault_around;
	pthread_mutex_t lock;
	/* under lock */
	struct soft_record *records;
	struct hmm_streams cpu;		/* faults of the CPU on device pages */
	struct hmm_streams device;	/* faults of the lanes that were mirrored */
};

int soft_policy_init(struct soft_policy *policy, const struct hmm_soft_opts *opts);
void soft_policy_destroy(struct soft_policy *policy);
void soft_policy_set(struct soft_policy *policy, const struct hmm_soft_opts *opts);

/* The lanes faulted on @page: should [start, end) around it move in? */
bool soft_policy_migrate(struct hmm_soft *soft, uintptr_t page, uintptr_t *start, uintptr_t *end);

/* Which pages to look at when @page is mirrored. */
void soft_policy_mirror(struct hmm_soft *soft, uintptr_t page, uintptr_t *start, uintptr_t *end);

/* [start, end) moved in for a fault on @page; @page could not. */
void soft_policy_came(struct soft_policy *policy, uintptr_t page, uintptr_t start, uintptr_t end);
void soft_policy_refused(struct soft_policy *policy, uintptr_t page);

/* The mappings of [start, end) are gone. */
void soft_policy_forget(struct soft_policy *policy, uintptr_t start, uintptr_t end);

/* The devmem operation. */
int soft_migrate_to_ram(struct hmm_devmem *devmem, const struct hmm_fault *fault);

#endif
