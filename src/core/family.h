/* SPDX-License-Identifier: MIT */
/*
 * A family: the address spaces that share devices, staging and fault handlers. A local
 * mm is the only one of its family; a monitor's are those of a tree of processes.
 *
 * Under the family's lock: which mms there are, and how often each is in use by a
 * thread that found it here, so that an mm goes away under nobody's hands:
 *
 *	finder (handler, eviction by index)	hmm_mm_destroy()
 *	-----------------------------------	----------------
 *	family lock
 *	  mm = slots[i].mm, mm->refs++
 *	unlock					family lock
 *	mm lock ...				  slots[i].mm = NULL
 *	.					unlock
 *	mm->refs--				wait until mm->refs is 0
 *						free
 */
#ifndef UHMM_CORE_FAMILY_H
#define UHMM_CORE_FAMILY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"
#include "core/lock.h"
#include "core/roster.h"
#include "core/staging.h"

#define FAMILY_MMS	4096u

struct handler_thread;

/* In pages, since the family is there; hmm_remote_allow() sets the bounds. */
struct allowance {
	_Atomic uint64_t begun, may_bring;	/* by faults; UINT64_MAX: as many as they like */
	_Atomic uint64_t brought;		/* ... of those begun, what has come */
	_Atomic uint64_t mapped, may_map;	/* writable, without its first touches being trapped */
	_Atomic uint32_t set;			/* futex: bumped when the bounds were set */
};

struct mm_slot {
	struct hmm_mm *mm;		/* NULL: free */
	uint32_t generation;		/* of mms in this slot */
};

struct family {
	struct process *process;	/* immutable, as all up to lock */
	struct hmm_mm *only;		/* the local mm; NULL: they come and go */
	int pagemap_fd;			/* of this process */
	struct handler_thread *handlers;
	uint32_t nr_handlers;
	struct roster roster;		/* who of them meets what; has a lock of its own */
	_Atomic bool stopping;		/* release in handlers_stop(): handlers end */
	struct allowance allowance;
	struct tracer *_Atomic tracer;	/* trace.h; NULL: nobody listens */
	_Atomic uint64_t last_tracer;	/* its number */
	struct staging staging;		/* has a lock of its own */

	struct hmm_lock lock;		/* RANK_FAMILY: all that follows */
	struct mm_slot *slots;		/* [FAMILY_MMS] */
	uint32_t nr_slots;		/* used so far, free ones among them */
	uint32_t nr_mms;
	uint32_t nr_devmems;
	/* By id; a non-NULL one stays while a page is bound to it, or it has users. */
	struct hmm_devmem *_Atomic devmems[DEVMEMS];
};

/*
 * A family without mms. @only: of that local mm, whose userfaultfd and pagemap are
 * open; else NULL. -ENOMEM, -EMFILE ...
 */
int family_make(struct process *process, struct hmm_mm *only, uint64_t staging_bytes,
		uint32_t nr_handlers, struct family **out);
void family_free(struct family *family);

/* What faults may bring, and programs map: set it, count it, ask. */
void family_allow(struct family *family, uint64_t may_bring, uint64_t may_map);
void family_bring(struct family *family, uint64_t pages);
void family_brought(struct family *family, uint64_t begun, uint64_t pages);
uint32_t family_room(const struct family *family);	/* pages; UINT32_MAX: or more */
void family_mapped(struct family *family, uint64_t pages);
bool family_may_map(const struct family *family);

/* Until something may be brought, but not for ever. No lock held. */
void family_await(struct family *family);

/* The mm can be found from now on, and its faults are served. -ENOSPC. */
int family_add(struct family *family, struct hmm_mm *mm);

/* No more; waits for those who use it. Was it the last? No lock held. */
bool family_remove(struct family *family, struct hmm_mm *mm);

/* The mm of a slot, in use until mm_put(); NULL: there is none. */
struct hmm_mm *family_get(struct family *family, uint32_t slot);

/* The same if it is still the one that @ticket (mm_ticket()) was made of. */
struct hmm_mm *family_get_ticket(struct family *family, uint64_t ticket);
uint64_t mm_ticket(const struct hmm_mm *mm);

/* The mm of a device page's place, and the address there. */
struct hmm_mm *family_get_place(struct family *family, uint32_t place, uintptr_t *addr);

void mm_get(struct hmm_mm *mm);		/* one that is in use, or whose lock is held */
void mm_put(struct hmm_mm *mm);

/* Who holds an mm's lock now has let go of it when this returns. No lock held. */
void family_barrier(struct family *family);

#endif
