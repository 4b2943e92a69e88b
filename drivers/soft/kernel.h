/* SPDX-License-Identifier: MIT */
/*
 * Submissions: a kernel over a number of items, run by all lanes, one after another.
 *
 * A slot belongs to its ticket from submit until the wait for it has returned, so a
 * result is never overwritten; a program that does not wait has 64 submissions.
 *
 *	a slot holds ticket t for current <= t < next, and for t < current as long as it
 *	was not waited for
 */
#ifndef SOFT_KERNEL_H
#define SOFT_KERNEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <uhmm/soft.h>

#define SOFT_SUBMISSIONS	64

struct soft_submission {
	/* set by submit */
	int64_t ticket;			/* 0: the slot is free */
	hmm_soft_kernel kernel;
	void *arg;
	uint64_t nr_items;
	uint64_t chunk;
	/* no lock */
	_Atomic uint64_t next;		/* item to hand out */
	_Atomic bool stop;		/* an access was refused */
	/* under the kernels' lock */
	unsigned int nr_lanes;		/* lanes in it */
	bool done, waited, faulted;
	struct hmm_soft_fault fault;
};

struct soft_kernels {
	pthread_mutex_t lock;
	pthread_cond_t work, done;
	/* under lock */
	struct soft_submission slots[SOFT_SUBMISSIONS];
	int64_t current;		/* ticket that runs, or would */
	int64_t next;			/* ticket of the next submit */
	unsigned int nr_waiters;
	bool closing;			/* no more submissions */
	bool exiting;			/* lanes end */
};

struct hmm_lane;
struct hmm_soft;

void soft_kernels_init(struct soft_kernels *kernels);
void soft_kernels_destroy(struct soft_kernels *kernels);

/* Refuse submissions from now on and wait for those that are in; or take them again. */
void soft_kernels_drain(struct soft_kernels *kernels);
void soft_kernels_resume(struct soft_kernels *kernels);

/* Make the lanes end; they are to be joined. */
void soft_kernels_exit(struct soft_kernels *kernels);

/* The thread of a lane. */
void *soft_lane_main(void *lane);

/* True on a thread of this device's lanes. */
bool soft_on_lane(const struct hmm_soft *soft);

/* End the lane's kernel: its access to @addr was refused. Does not return. */
_Noreturn void soft_lane_refuse(struct hmm_lane *lane, uintptr_t addr,
				enum hmm_soft_access access, enum hmm_soft_fault_reason reason);

/* Leave the kernel when another lane's access was refused. Call with nothing held. */
void soft_lane_check(struct hmm_lane *lane);

#endif
