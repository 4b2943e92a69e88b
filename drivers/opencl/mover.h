/* SPDX-License-Identifier: MIT */
/*
 * Moving blocks of the program to the device, and room for them. On the worker.
 */
#ifndef OPENCL_MOVER_H
#define OPENCL_MOVER_H

#include <stdbool.h>
#include <stdint.h>

#include <uhmm/driver.h>

#include "memory.h"

struct hmm_opencl;

struct ocl_mover {
	uint64_t *src, *dst, *pfns;	/* of OCL_HELD blocks */
	uint64_t reasons[HMM_REASONS];
	bool made_room;			/* something had to leave since this was cleared */
};

int ocl_mover_init(struct ocl_mover *mover);
void ocl_mover_destroy(struct ocl_mover *mover);

/*
 * Give a block its slot, and hold that instead of those that were held; slots served at
 * @since or later stay. Its slot, or -ENOSPC: all that is there must stay; -ENOMEM, -EIO.
 */
int64_t ocl_block_bind(struct hmm_opencl *ocl, uintptr_t block, uint64_t since);

/*
 * Move what can be moved of [start, end), inside a block that is held, to its slot, and
 * map all of the block that the device has. Refused pages are counted in mover->reasons.
 * Pages moved, or an error.
 */
int64_t ocl_block_move(struct hmm_opencl *ocl, uintptr_t start, uintptr_t end);

/* Map what the device has of a bound block. 0, or an error. */
int ocl_block_map(struct hmm_opencl *ocl, uintptr_t block);

struct ocl_move {
	uintptr_t start, end;
	uint64_t reasons[HMM_REASONS];
};
/* The worker's job for hmm_opencl_migrate_in(). */
int64_t ocl_move_job(struct hmm_opencl *ocl, void *arg);

/* The devmem operation. */
int64_t ocl_page_alloc(struct hmm_devmem *devmem, uint64_t nr, uint64_t *index);

#endif
