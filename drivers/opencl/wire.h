/* SPDX-License-Identifier: MIT */
/*
 * What the driver and its engine share: one memfd, mapped by both.
 *
 *	struct ocl_wire     a queue of requests, and the slots they lie in
 *	staging             2 MiB per slot, pinned by the engine where its runtime can
 *
 * and, where the device's memory is the CPU's, another that its pools lie in (pools.h).
 *
 *	driver					engine
 *	------					------
 *	fills slot i and its staging
 *	queue[posted % OCL_QUEUE] = i
 *	posted++, wakes it			handles requests in the order of the queue
 *	waits for slot[i].done			slot[i].result, answers in the staging
 *						slot[i].done = 1, wakes
 *
 * Copies alternate between two queues of the device, so that one is staged while the
 * other is under way; every other request waits for the copies before it. A launch and
 * a copy never overlap: OpenCL leaves undefined what a kernel sees of a buffer that
 * another queue writes meanwhile.
 *
 * Nothing here can be away: shared mappings do not migrate. A forked child does not
 * have it (MADV_DONTFORK).
 */
#ifndef OPENCL_WIRE_H
#define OPENCL_WIRE_H

#include <stdatomic.h>
#include <stdint.h>

#include <uhmm/device.clh>

#define OCL_SLOTS		5	/* the worker's, those of a long copy, and one */
#define OCL_QUEUE		8	/* entries of the queue, whose counters wrap at 32 bits */
#define OCL_POSTED_FIRST	(UINT32_MAX - 31)	/* ... early, so that every test sees it */
#define OCL_RUNS		512
#define OCL_STAGING		(2UL << 20)
#define OCL_POOLS		8
#define OCL_TEXT		256
#define OCL_ARG_BYTES		256
#define OCL_LEAF_WORDS		(1u << HMM_LEAF_BITS)
#define OCL_DIRECTORY_WORDS	(1u << (HMM_ADDRESS_BITS - HMM_BLOCK_SHIFT - HMM_LEAF_BITS))
#define OCL_ITEMS_MAX		(UINT32_MAX - 1)
#define OCL_NO_ITEM		UINT32_MAX

/* Descriptors that the engine starts with. */
#define OCL_FD_WIRE		3
#define OCL_FD_SOCKET		4
#define OCL_FD_POOLS		5
#define OCL_FDS_END		6

enum ocl_op {
	OCL_DESCRIBE,	/* a[0]: which -> struct ocl_described */
	OCL_OPEN,	/* struct ocl_open -> struct ocl_opened */
	OCL_MAKE,	/* a[0] 1: in OCL_FD_POOLS if that can be -> a[0] 1: they are */
	OCL_BACK,	/* a[0]: slot; memory for it in OCL_FD_POOLS */
	OCL_COPY_IN,	/* runs: staging (or zeros) to pool */
	OCL_COPY_OUT,	/* runs: pool to staging */
	OCL_COPY_WITHIN,	/* runs: `at` is the source's page */
	OCL_TABLE,	/* a[0]: ocl_table_part; runs of words: index there, at in staging */
	OCL_GROW,	/* a[0]: words of the table; its content is lost */
	OCL_BUILD,	/* a[0] flags, a[1] bytes of the source; options behind it -> a[2] id */
	OCL_FREE,	/* a[0]: program */
	OCL_KERNEL,	/* a[0]: program; name in staging -> a[1] id, a[2] arguments */
	OCL_KERNEL_FREE,	/* a[0] */
	OCL_ARG,	/* a[0] kernel, a[1] index, a[2] bytes; value in staging */
	OCL_RUN,	/* a[0] kernel, struct ocl_launch -> struct ocl_launched, faults */
	OCL_MAIL,	/* a[0]: bytes; a[1]: 0 in, 1 out */
	OCL_SAVE,	/* a[0]: 1 behind the last list; slots in staging (a[1] of them) */
	OCL_SWAP,	/* keep what is there now, put back what was saved */
	OCL_COMPARE,	/* with what SWAP kept -> a[0] 1: differs, a[1] slot, a[2] byte */
	OCL_EXIT,
};

enum ocl_table_part {
	OCL_TABLE_ENTRIES,	/* the directory and its leaves */
	OCL_TABLE_PAGES,	/* HMM_PAGES_WORDS per slot */
};

#define OCL_BUILD_CHECKED	1u

/* The source of a page that is to be zeros. */
#define OCL_ZERO		UINT64_MAX

struct ocl_run {
	uint64_t index;		/* device page, or word of a table */
	uint64_t at;		/* page (word) of the staging, OCL_ZERO, or device page */
	uint64_t nr;
};

struct ocl_request {
	_Atomic uint32_t done;	/* futex */
	uint32_t op;
	int32_t result;		/* 0 or a negative errno; `text` then says more */
	uint32_t nr_runs;
	uint64_t a[4];
	char text[OCL_TEXT];
	struct ocl_run runs[OCL_RUNS];
};

struct ocl_wire {
	_Atomic uint32_t posted;	/* futex */
	uint32_t queue[OCL_QUEUE];
	struct ocl_request slot[OCL_SLOTS];
};

_Static_assert(OCL_QUEUE >= OCL_SLOTS && !(OCL_QUEUE & (OCL_QUEUE - 1)),
	       "each slot has an entry, also where the counters wrap");

#define OCL_WIRE_BYTES	((sizeof(struct ocl_wire) + 65535) & ~65535UL)
#define OCL_SHARED_BYTES	(OCL_WIRE_BYTES + OCL_SLOTS * OCL_STAGING)

static inline char *ocl_staging(struct ocl_wire *wire, unsigned int slot)
{
	return (char *)wire + OCL_WIRE_BYTES + slot * OCL_STAGING;
}

/* What the staging of a request begins with. */
struct ocl_described {
	char name[128], platform[128], type[16];
	uint64_t mem_bytes, max_alloc_bytes;
	uint32_t usable, shared;
};

struct ocl_open {
	char device[128];	/* empty: the best */
	uint64_t mem_bytes, headroom_bytes, pool_bytes;
	uint64_t table_words;
	uint32_t page_bytes;
};

struct ocl_opened {
	uint64_t nr_slots;
	uint32_t pools, pool_slots;
	uint32_t has_atomic64;
	char name[128];
};

struct ocl_launch {
	uint32_t first, count;	/* items first .. first + count - 1, */
	uint32_t listed;	/* or 1: `count` that the launch before left */
	uint32_t watched;	/* whose faults must not be missed, or OCL_NO_ITEM */
	uint32_t dry, miss;
	uint32_t checked;
};

struct ocl_record {
	uint32_t low, high, item, what;
};

struct ocl_launched {
	uint32_t left, nr_faults, errors, ended, watched_hit;
	struct ocl_record error, watched;
	struct ocl_record faults[];
};

#endif
