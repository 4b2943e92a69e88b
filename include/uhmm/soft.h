/* SPDX-License-Identifier: MIT */
/*
 * The soft device: a device in software that behaves like hardware, and the
 * reference driver. Written on uhmm.h and driver.h alone.
 *
 * It has memory of its own (no address of it is valid in the program), a page
 * table of its own with valid, write, accessed and dirty bits, lanes (threads) with
 * TLBs that run kernels, a DMA engine with queues, and a fault queue with replay.
 *
 * A kernel is a C function run once per item. It reaches the program's memory only
 * through the access functions below, with the program's own pointers. An access
 * that the CPU's mapping would refuse does not return: the kernel ends there (all
 * its items do) and hmm_soft_wait() hands out a fault record. So a kernel must hold
 * nothing across an access that it would have to give back.
 */
#ifndef UHMM_SOFT_H
#define UHMM_SOFT_H

#include <uhmm/uhmm.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

struct hmm_soft;	/* a soft device */
struct hmm_lane;	/* one of its lanes, as a running kernel sees it */

/* When a page that the device touches moves to the device's memory. */
enum hmm_soft_migrate {
	HMM_SOFT_MIGRATE_FIRST,		/* at its first device fault */
	HMM_SOFT_MIGRATE_NTH,		/* at the nth of its 64 KiB */
	HMM_SOFT_MIGRATE_NEVER,		/* pure mirroring */
};

/* Faults to inject, to see that nothing is lost. 0 is off, n means the nth from now. */
struct hmm_soft_inject {
	uint64_t size;
	uint64_t alloc_fail;	/* the nth allocation of device memory fails */
	uint64_t dma_error;	/* the nth DMA transfer fails, once */
	uint64_t ecc_error;	/* the nth page that DMA reads from the device is lost */
	uint64_t reset;		/* the device resets at the nth DMA transfer: all its memory is lost */
};

struct hmm_soft_opts {
	uint64_t size;		/* sizeof(struct hmm_soft_opts) */
	uint64_t flags;		/* zero */
	uint64_t mem_bytes;	/* 0: 1 GiB. Multiple of the page size, at most 1 TiB.
				   RAM is used as pages arrive */
	uint32_t lanes;		/* 0: one per CPU, at most 64 */
	uint32_t dma_queues;	/* 0: 1, at most 16 */
	enum hmm_soft_migrate migrate;	/* default: FIRST */
	uint32_t migrate_nth;	/* for NTH: 0 means 3 */
	uint32_t prefetch;	/* percent of a block's pages on the device from which on
				   all of it is fetched: 0 means 51, 101 never */
	uint32_t fault_around;	/* most pages brought home by one CPU fault, a power of two
				   up to 512; 0: 16, grown and shrunk by the access pattern,
				   and read ahead where the CPU goes front to back */
	uint64_t link_ns;	/* latency added to each DMA transfer */
	uint64_t link_mbps;	/* bandwidth of the link in MB/s; 0: as fast as it goes */
	uint64_t mem_mbps;	/* bandwidth of span accesses to device memory; 0: as above */
	const void *peer_group;	/* devices of one group copy among themselves; NULL: alone */
};

/**
 * hmm_soft_open() - make a soft device in an mm
 * @opts: NULL for defaults
 *
 * Return: 0, -EINVAL (impossible size or option), -E2BIG, -ENOMEM, -ENOSPC (too many
 *   devices), -ECHILD.
 */
int hmm_soft_open(struct hmm_mm *mm, const struct hmm_soft_opts *opts,
		  struct hmm_soft **out) HMM_MUST_CHECK;

/**
 * hmm_soft_close() - wait for running kernels, bring everything home, remove the device
 *
 * Return: 0 (also for NULL), -EIO (pages were lost, each was reported), -EAGAIN,
 *   -ECHILD, -EDEADLK.
 */
int hmm_soft_close(struct hmm_soft *soft);

/* ------------------------------------------------------------------ kernels */

/* Why an access was refused. */
enum hmm_soft_fault_reason {
	HMM_SOFT_FAULT_NONE,
	HMM_SOFT_FAULT_UNMAPPED,	/* gap, or no read permission */
	HMM_SOFT_FAULT_READONLY,
	HMM_SOFT_FAULT_MISALIGNED,	/* crosses its natural alignment */
	HMM_SOFT_FAULT_LOST,		/* the page's bytes are lost */
	HMM_SOFT_FAULT_NOMEM,
	HMM_SOFT_FAULT_ATOMIC,		/* no atomic access to this memory: of a file or memfd, or,
					   in an mm that is not STRICT, shared or pinned */
};

enum hmm_soft_access {
	HMM_SOFT_READ = 1,
	HMM_SOFT_WRITE = 2,
	HMM_SOFT_RW = 3,
};

struct hmm_soft_fault {
	uintptr_t addr;
	enum hmm_soft_access access;
	enum hmm_soft_fault_reason reason;
	uint64_t item;		/* that made it */
};

typedef void (*hmm_soft_kernel)(struct hmm_lane *lane, uint64_t item, void *arg);

/**
 * hmm_soft_submit() - run @kernel over items 0 .. nr_items - 1
 * @arg: passed on; the kernel may use it directly only if it is not migrated memory
 *       (device code: pass pointers and load through them)
 *
 * Items run in any order on all lanes. Submissions run one after another.
 *
 * Return: a ticket (> 0) for hmm_soft_wait(); -EINVAL (NULL; no items), -ENOMEM
 *   (64 submissions wait already), -ECHILD, -ECANCELED (closing).
 */
int64_t hmm_soft_submit(struct hmm_soft *soft, hmm_soft_kernel kernel, uint64_t nr_items,
			void *arg) HMM_MUST_CHECK;

/**
 * hmm_soft_wait() - wait for a submission
 * @fault: NULL, or filled when the return is -EFAULT
 *
 * Return: 0; -EFAULT (an access was refused, @fault says which); -EINVAL (no such
 *   ticket, or waited for already); -ECHILD; -EDEADLK from inside a kernel.
 */
int hmm_soft_wait(struct hmm_soft *soft, int64_t ticket, struct hmm_soft_fault *fault);

/** hmm_soft_run() - submit and wait. Errors of both. */
int hmm_soft_run(struct hmm_soft *soft, hmm_soft_kernel kernel, uint64_t nr_items, void *arg,
		 struct hmm_soft_fault *fault) HMM_MUST_CHECK;

/* For kernels only. Values are in the low bytes; @size is 1, 2, 4 or 8, aligned. */
uint64_t hmm_lane_load(struct hmm_lane *lane, const void *addr, unsigned int size);
void hmm_lane_store(struct hmm_lane *lane, void *addr, uint64_t value, unsigned int size);

/* Atomic against the CPU and all devices, sequentially consistent; return the old value. */
uint64_t hmm_lane_add(struct hmm_lane *lane, void *addr, uint64_t value, unsigned int size);
uint64_t hmm_lane_exchange(struct hmm_lane *lane, void *addr, uint64_t value, unsigned int size);
uint64_t hmm_lane_cas(struct hmm_lane *lane, void *addr, uint64_t expected, uint64_t desired,
		      unsigned int size);

/*
 * Bulk: copy between the program's memory at @addr and @buf, which is the kernel's
 * own (its stack, or memory that is never away). Any alignment and length. Not
 * atomic as a whole.
 */
void hmm_lane_read(struct hmm_lane *lane, void *buf, const void *addr, size_t len);
void hmm_lane_write(struct hmm_lane *lane, void *addr, const void *buf, size_t len);

/*
 * Bulk without a copy: @fn is called with consecutive pieces of [addr, addr + len)
 * that can be loaded (and, with WRITE, stored) directly while @fn runs. @fn must be
 * short, make no lane access and touch nothing else that can be away.
 */
void hmm_lane_span(struct hmm_lane *lane, void *addr, size_t len, enum hmm_soft_access access,
		   void (*fn)(void *piece, size_t len, void *ctx), void *ctx);

/** hmm_lane_id() - 0 .. lanes - 1. */
unsigned int hmm_lane_id(const struct hmm_lane *lane);

/* ------------------------------------------------------------------ placement */

/**
 * hmm_soft_migrate_in() - move what can be moved of [start, end) to the device
 * @reasons: NULL, or HMM_REASONS counters of refused pages, added to
 *
 * System pages, holes, and pages of other devices. Evicts older blocks when full.
 *
 * Return: pages now there by this call; -EINVAL, -ENOSPC, -ENOMEM, -ECHILD, -EDEADLK.
 */
int64_t hmm_soft_migrate_in(struct hmm_soft *soft, uintptr_t start, uintptr_t end,
			    uint64_t *reasons) HMM_MUST_CHECK;

/**
 * hmm_soft_exclusive() - take exclusive access of [start, end) for lane atomics
 *
 * Kernels' accesses to these pages, atomics too, then go to the device's exclusive
 * copy until the CPU touches it. Return as hmm_exclusive_begin().
 */
int64_t hmm_soft_exclusive(struct hmm_soft *soft, uintptr_t start, uintptr_t end) HMM_MUST_CHECK;

/** hmm_soft_set_policy() - change migrate, migrate_nth, prefetch and fault_around. -EINVAL, -ECHILD. */
int hmm_soft_set_policy(struct hmm_soft *soft, const struct hmm_soft_opts *opts) HMM_MUST_CHECK;

/** hmm_soft_inject() - arm fault injection; replaces what was armed. -EINVAL, -E2BIG, -ECHILD. */
int hmm_soft_inject(struct hmm_soft *soft, const struct hmm_soft_inject *inject) HMM_MUST_CHECK;

/* The device's page table, as hmm_soft_pte() reports it. */
#define HMM_SOFT_PTE_VALID	(1u << 0)
#define HMM_SOFT_PTE_WRITE	(1u << 1)
#define HMM_SOFT_PTE_ACCESSED	(1u << 2)
#define HMM_SOFT_PTE_DIRTY	(1u << 3)
#define HMM_SOFT_PTE_LOCAL	(1u << 4)	/* in the device's own memory */
#define HMM_SOFT_PTE_EXCLUSIVE	(1u << 5)

/** hmm_soft_pte() - HMM_SOFT_PTE_* of the page of @addr; 0 when not mapped by the device. */
uint32_t hmm_soft_pte(struct hmm_soft *soft, uintptr_t addr);

struct hmm_soft_stats {
	uint64_t size;
	uint64_t device_faults;		/* served by the fault queue */
	uint64_t replays;		/* accesses repeated after a collision */
	uint64_t tlb_misses;
	uint64_t shootdowns;
	uint64_t migrated_in, migrated_out, evicted;	/* pages; evicted: to make room */
	uint64_t prefetched;		/* pages moved in beyond the one that faulted */
	uint64_t thrash_held;		/* pages left in system memory because they bounced */
	uint64_t guarded_accesses;	/* system pages reached by a guarded copy */
	uint64_t exclusive_pages;	/* taken for atomics */
	uint64_t dma_transfers, dma_bytes, dma_errors;
	uint64_t mem_bytes, mem_used;	/* now */
	uint64_t cpu_faults;		/* migrate_to_ram calls */
};

/** hmm_soft_stats() - read the counters. -EINVAL, -ECHILD. */
int hmm_soft_stats(struct hmm_soft *soft, struct hmm_soft_stats *stats) HMM_MUST_CHECK;

struct hmm_plugin;

/**
 * hmm_soft_plugin() - the soft device as a plug-in (plugin.h), as "soft" is loaded
 *
 * Static storage. Its options are the fields of struct hmm_soft_opts; devices opened
 * by it copy among themselves. Any thread; never fails.
 */
const struct hmm_plugin *hmm_soft_plugin(void);

/** hmm_soft_devmem_id() - the id that page entries carry; 0 for another process's device. */
uint32_t hmm_soft_devmem_id(const struct hmm_soft *soft);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
