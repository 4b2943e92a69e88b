/* SPDX-License-Identifier: MIT */
/*
 * Running kernels: slices of the items, and rounds of those that stopped. On the worker.
 *
 *	slice: launch ─► all ended ─► next slice
 *	          ▲  └─► some stopped ─► serve their faults ─┐
 *	          └──────── launch the stopped ◄─────────────┘
 *
 * Progress: a round serves at least one block. Where memory is short, so that serving
 * one item's block may take another's, one item is watched: its faults are served first
 * and what it was served stays (pinned) until it has ended; each of its rounds then adds
 * to that, until it ends or has all of the memory.
 */
#ifndef OPENCL_RUN_H
#define OPENCL_RUN_H

#include <stdint.h>

#include <uhmm/opencl.h>

struct hmm_opencl;

struct ocl_run_call {
	struct hmm_opencl_kernel *kernel;
	uint32_t nr_items;
	uint32_t every;			/* hmm_opencl_check() */
	struct hmm_opencl_fault fault;
};

/* Jobs: 0; -EFAULT with call->fault; -ENOMEM, -EINVAL, -EIO. */
int64_t ocl_run_job(struct hmm_opencl *ocl, void *arg);
int64_t ocl_check_job(struct hmm_opencl *ocl, void *arg);

#endif
