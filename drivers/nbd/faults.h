/* SPDX-License-Identifier: MIT */
/*
 * CPU faults. None keeps the threads that serve them waiting for the network, but for one that
 * has nothing else to do, and not for long (reader.h):
 *
 *	a page alone	its read is asked for at once, by the handler, over a lane or of the
 *			link; when the bytes are here the handler, the reader or `completer`
 *			ends the fault, and the core's copy finds them. Until then the page is
 *			not even in flight, and there may be as many such faults as there are
 *			single slots.
 *	many pages	a job for one of the `movers`, which brings the range home; where
 *			none is idle, the page alone.
 *
 * How many pages: as long as faults follow each other, four times as many with each, then
 * to the end of a block, and the next block ahead of its fault by a second mover: one has
 * the network while the other gives the program what has come. A fault elsewhere brings
 * its page only.
 */
#ifndef NBD_FAULTS_H
#define NBD_FAULTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <uhmm/driver.h>

#include "link.h"

#define FAULT_STREAMS	8u
#define FAULT_MOVERS	4u
#define FAULT_PAGES	512u	/* most brought home at once */

struct nbd_device;

/* Of a single slot, while its bit in `active` is set. */
struct nbd_fault {
	struct hmm_fault fault;
	uint32_t tries, avoid, shun;
	uint64_t asked_ms;
	int error;
	_Atomic bool gone;	/* the page was freed: the bytes are those of its old life */
};

struct nbd_stream {
	uintptr_t next;		/* address where its next fault is expected */
	uint32_t pages;		/* that the last one brought */
};

/* A fault that movers are at. */
struct nbd_job {
	struct hmm_fault fault;
	uint32_t movers;	/* 0: the place is free */
};

struct nbd_mover {
	struct nbd_device *dev;
	struct hmm_safe_thread *thread;
	pthread_cond_t work;
	/* faults.lock: */
	struct nbd_job *job;	/* NULL: idle */
	bool there;		/* the thread is, and takes jobs */
	uintptr_t start, end;
};

struct nbd_faults {
	uint32_t around;	/* pages of each fault; 0: by the pattern */
	size_t page;
	struct nbd_fault fault[LINK_SINGLE];
	_Atomic uint64_t active;
	_Atomic bool stopping;
	struct hmm_safe_thread *completer;
	struct nbd_mover mover[FAULT_MOVERS];

	pthread_mutex_t lock;	/* a leaf: */
	struct nbd_job job[FAULT_MOVERS];
	struct nbd_stream stream[FAULT_STREAMS];
	uint32_t oldest;
};

int nbd_faults_start(struct nbd_device *dev, uint32_t around);
void nbd_faults_stop(struct nbd_device *dev);

/* The devmem operation. */
int nbd_migrate_to_ram(struct hmm_devmem *devmem, const struct hmm_fault *fault);

/*
 * What came over a lane of @server for a slot; NULL: nothing, the link is to read it. false:
 * they are not the page's bytes, and the link is to read it, too.
 */
bool nbd_faults_answer(struct nbd_device *dev, uint32_t slot, uint32_t server,
		       const char *bytes);

/* A copy of one page: is it of the fault that this thread ends? Then @ret is its outcome. */
bool nbd_faults_take(struct nbd_device *dev, uint64_t index, void *cpu, int *ret);

/* Pages were freed; pages.lock held. */
void nbd_faults_forget(struct nbd_device *dev, uint64_t index, uint64_t nr);

#endif
