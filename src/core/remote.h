/* SPDX-License-Identifier: MIT */
/*
 * An mm that is another process's: what its operations (remote.c), its beginning and
 * end (attach.c), its announced changes (gate.c) and its forks (inherit.c) share.
 *
 * Pages are taken in two steps, since UFFDIO_MOVE works inside one address space only:
 *
 *	program				here
 *	-------				----
 *	page				mm lock
 *	  | agent: UFFDIO_MOVE		  entries are ISOLATED
 *	  v				  what landed? (pagemap)
 *	limbo, page for page		unlock
 *	  | /proc/PID/mem ------------>	staging chunk
 *	  v
 *	agent: DONTNEED
 *
 * and given back by UFFDIO_COPY. Nobody is to touch limbo, but the program can: it then
 * finds its own bytes there, or loses them.
 */
#ifndef UHMM_CORE_REMOTE_H
#define UHMM_CORE_REMOTE_H

#include <uhmm/remote.h>

#include "core/mm.h"

#define LIMBO_CHUNKS	64u		/* most that are used */

/* Pages of [start, end) stay home until @tid is out of its call. */
struct gate {
	struct gate *next;
	uint32_t tid;
	uintptr_t start, end;
	bool leaving;		/* the program is about to trap it by a userfaultfd of its own */
};

/* A call that the kernel was let make, and may not have made yet: see pass.c. */
struct pass {
	uint32_t tid;
	int nr;
	uintptr_t start, end;
};

#define PASSES	64u

struct remote {
	/* Written once, by open or attach, under the mm's lock. */
	bool attached;			/* there is an agent */
	int agent_uffd;
	int vm_pid;			/* for process_vm_*(): the agent, or the process; 0: nobody yet */
	int mem_fd;			/* -1: not yet */
	uint64_t features;
	void *shm;
	uintptr_t shm_addr;
	size_t shm_bytes;
	uintptr_t limbo, limbo_end, own_start, own_end;
	uint32_t nr_limbo;		/* chunks, from the second one on */
	int (*call)(void *ctx, struct hmm_agent_call *calls, size_t nr);
	void *ctx;

	_Atomic bool gone;
	_Atomic uint32_t calling;	/* threads in call() */

	/* The mm's lock: */
	_Atomic int pid;		/* who has it; another's after hmm_remote_inherit(); read by anybody */
	int pidfd;
	uintptr_t sentinel;		/* a registered page that every child inherits, empty */
	bool marked;			/* ... and holds the nonce */
	uint64_t nonce[2];
	uint64_t limbo_used;		/* chunks, one bit each */
	struct gate *gates;
	struct pass pass[PASSES];	/* in no order, one of a thread */
	uint32_t nr_passes, pass_looked;
	bool mirrored;			/* a device has looked at the memory, and may have pages of it */
	uint32_t changes;		/* under way */
	uint32_t forking;		/* the thread that forks, or 0 */
	bool copied;			/* the kernel has copied the address space for it */
	struct hmm_mm *child;
};

extern const struct mm_ops remote_ops;

/* Calls by the agent. 0; -ESRCH: not made, or nobody knows. */
int agent_calls(struct hmm_mm *mm, struct hmm_agent_call *calls, size_t nr);

/* One. Its result, or -ESRCH. */
int64_t agent_call(struct hmm_mm *mm, const struct hmm_agent_call *call);

static inline bool remote_gone(const struct remote *r)
{
	return atomic_load_explicit(&r->gone, memory_order_relaxed);
}

/* attach.c: an mm around a userfaultfd, without an agent and not in its family yet. */
struct hmm_mm *remote_make(struct family *family, int uffd, uint64_t features, hmm_log_fn log,
			   void *log_ctx);
void remote_free(struct hmm_mm *mm);		/* closes what it has */
int remote_destroy(struct hmm_mm *mm);		/* of hmm_mm_destroy(), notifiers released */

/*
 * Does the mapping hold static data? That of the agent's library must never be away, nor
 * trapped, and nothing tells from outside whose is whose. Lock held.
 */
bool remote_is_static(const struct hmm_mm *mm, const struct sys_vma *vma);

/* Files of /proc of the process that has a thread @tid. */
int remote_open_files(struct hmm_mm *mm, int tid);

/* gate.c: is any of the range held at home, passes aside? Lock held. */
bool remote_gated(const struct hmm_mm *mm, uintptr_t start, uintptr_t end);
void gates_free(struct hmm_mm *mm);

/* ... and not to be trapped, for the program is about to? Lock held. */
bool remote_leaving(const struct hmm_mm *mm, uintptr_t start, uintptr_t end);

/*
 * pass.c: is the kernel to make this call by itself, and nobody hears of its end? Lock
 * held.
 */
bool pass_give(struct hmm_mm *mm, const struct sys_notif *n);

/* @tid makes another call. Lock held. */
void pass_return(struct hmm_mm *mm, uint32_t tid);

/*
 * Is any of the range held at home by passes? Once more where they are over, for what
 * the caller has looked up may be of before. Lock held.
 */
bool passes_hold(struct hmm_mm *mm, uintptr_t start, uintptr_t end);

/* The same for a device, that wants to see the range. It is the end of passes. Lock held. */
bool passes_hide(struct hmm_mm *mm, uintptr_t start, uintptr_t end);

/*
 * inherit.c: the child of a fork. Lock held. An error: not made, @child_uffd is still
 * open; -EINVAL: nobody announced it, so nobody would destroy the child's mm.
 */
int remote_inherit(struct hmm_mm *mm, int child_uffd);

/* Changes may be made from when this returns until changes--. Lock held, dropped. */
void remote_wait_fork(struct hmm_mm *mm, uint32_t tid);

#endif
