/* SPDX-License-Identifier: MIT */
/*
 * The core's lock: a futex that first spins, because what it guards takes a few
 * microseconds and a sleep costs fifty. It needs nothing of a thread but its
 * thread-local storage, and touches no memory that could be away.
 */
#ifndef UHMM_CORE_LOCK_H
#define UHMM_CORE_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "sys/sys.h"

#ifndef HMM_DEBUG
#define HMM_DEBUG 0
#endif

/*
 * A thread takes locks in increasing rank. This enum is the lock order: there is no
 * other statement of it to go stale. HMM_DEBUG builds abort on a violation.
 */
enum lock_rank {
	RANK_PROCESS = 1,	/* which mm this process has, the strict listener */
	RANK_MM,		/* one mm: directory, notifiers, isolations, event stream */
	RANK_FAMILY,		/* which mms and devmems there are */
	RANK_DEVMEM,		/* one devmem's queue of faults, who shares a page of it */
	RANK_STAGING,		/* one family's staging chunks */
	RANK_LEAVES,		/* whose the directory's leaves are */
	RANK_ARENA,		/* the process's safe memory; a leaf */
	RANK_ROSTER,		/* who of the handlers is woken first; a leaf */
	RANK_CALLS,		/* announced calls that wait for a listener; a leaf */
};

struct hmm_lock {
	_Atomic uint32_t word;		/* 0 free, 1 held, 2 held and waited for */
	uint32_t rank;			/* immutable */
	_Atomic uintptr_t owner;	/* thread_self() of the holder, or 0 */
};

/* Per thread; initial-exec, since other models may allocate on first use. */
struct thread_state {
	uint32_t ranks;		/* held, one bit each */
	bool in_callback;	/* of a driver, under the mm lock or copying */
	bool on_handler;	/* serves CPU faults: must not wait for other handlers */
	uint32_t tid;		/* its id as a trace tells it; 0: not asked for yet */
	bool told;		/* its control block can be found, see sys_tell_tcb() */
	struct hmm_mm *forks;	/* in libc's fork: what that uses, or NULL */
};

extern __thread struct thread_state thread_state __attribute__((tls_model("initial-exec")));

static inline uintptr_t thread_self(void)
{
	return (uintptr_t)&thread_state;
}

static inline void lock_init(struct hmm_lock *lock, enum lock_rank rank)
{
	atomic_init(&lock->word, 0);
	atomic_init(&lock->owner, 0);
	lock->rank = rank;
}

void lock_contended(struct hmm_lock *lock);

static inline bool lock_held(struct hmm_lock *lock)
{
	return atomic_load_explicit(&lock->owner, memory_order_relaxed) == thread_self();
}

static inline void lock_assert_held(struct hmm_lock *lock)
{
	if (HMM_DEBUG && !lock_held(lock))
		abort();
}

static inline void lock_taken(struct hmm_lock *lock)
{
	if (HMM_DEBUG) {
		if (thread_state.ranks >= 1u << lock->rank)
			abort();
		thread_state.ranks |= 1u << lock->rank;
	}
	atomic_store_explicit(&lock->owner, thread_self(), memory_order_relaxed);
}

static inline void lock_acquire(struct hmm_lock *lock)
{
	uint32_t free = 0;

	/* acquire: pairs with the release in lock_release() */
	if (!atomic_compare_exchange_strong_explicit(&lock->word, &free, 1, memory_order_acquire,
						     memory_order_relaxed))
		lock_contended(lock);
	lock_taken(lock);
}

static inline bool lock_try(struct hmm_lock *lock)
{
	uint32_t free = 0;

	/* acquire: as in lock_acquire() */
	if (!atomic_compare_exchange_strong_explicit(&lock->word, &free, 1, memory_order_acquire,
						     memory_order_relaxed))
		return false;
	lock_taken(lock);
	return true;
}

static inline void lock_release(struct hmm_lock *lock)
{
	lock_assert_held(lock);
	if (HMM_DEBUG)
		thread_state.ranks &= ~(1u << lock->rank);
	atomic_store_explicit(&lock->owner, 0, memory_order_relaxed);
	/* release: publishes what was done under the lock */
	if (atomic_exchange_explicit(&lock->word, 0, memory_order_release) == 2)
		sys_futex_wake(&lock->word, 1);
}

#endif
