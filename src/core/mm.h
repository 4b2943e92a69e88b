/* SPDX-License-Identifier: MIT */
/*
 * One address space. What its files share; the model is in the header of each:
 *
 *	directory	where each page is
 *	notifier	who wants to know of changes
 *	vma		the program's mappings	trap		which the userfaultfd holds
 *	isolation	pages in flight		staging		the RAM they fly through
 *	events		userfaultfd's messages	handler		threads that serve them
 *	change		a change of mappings as one transaction; strict: announced by seccomp
 *	migrate, evict, exclusive, range, devmem, fork
 *
 * A thread that holds the mm lock may read the event stream, move, fill and protect
 * pages, and call invalidate() and page_free(). It may not touch managed memory,
 * populate, copy for a device, or call madvise on a registered range.
 */
#ifndef UHMM_CORE_MM_H
#define UHMM_CORE_MM_H

#include <errno.h>
#include <stdatomic.h>
#include <sys/types.h>

#include <uhmm/driver.h>

#include "core/directory.h"
#include "core/family.h"
#include "core/fault.h"
#include "core/isolation.h"
#include "core/lock.h"
#include "core/log.h"
#include "core/notifier.h"
#include "core/vma.h"

#define HANDLERS_MAX	8u

/* Faults. A look takes a quarter of a microsecond here, and some 10 in another process. */
#define LOOK_EVERY		1u
#define LOOK_EVERY_REMOTE	32u
#define FAULT_RING	1024u		/* faults read and not yet served; a power of two */
#define EXCLUSIVE_MAX	8192u		/* exclusive pages of an mm */
#define FORKERS_MAX	16u
#define ZERO_STREAMS	8u

struct remote;
struct sys_notif;
struct adoptions;

/*
 * What differs between the address space of this process (local.c) and that of
 * another. All else is userfaultfd's ioctls, which work across processes, and /proc.
 */
struct mm_ops {
	/* A chunk that slots [first, first + nr) can be taken into; NULL: none. No lock held. */
	struct chunk *(*chunk_get)(struct hmm_mm *mm, uint32_t first, uint32_t nr, bool whole);
	void (*chunk_put)(struct hmm_mm *mm, struct chunk *chunk);

	/*
	 * Take the pages of slots [first, first + nr), which are entered and inside one
	 * mapping: UFFDIO_MOVE; where that is not to be had, mremap(DONTUNMAP); or, of a
	 * mapping that nobody can write to (strict), whichever leaves pinned pages there,
	 * TRIED_BUSY. What the kernel says it did is a hint (the count can be short of the
	 * truth): taking->landed says what it did do. move: 0, or the error that ended it.
	 * Lock held; remap may drop it.
	 */
	int (*move)(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
		    uint32_t first, uint32_t nr, struct taking *taking);
	void (*remap)(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
		      uint32_t first, uint32_t nr, struct taking *taking);
	void (*take_readonly)(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
			      uint32_t first, uint32_t nr, struct taking *taking);

	/* As isolation_fetch(); NULL where what is taken is in the chunk. No lock held. */
	uint32_t (*fetch)(struct hmm_mm *mm, struct isolation *iso);

	/* Is any of [addr, addr + len), inside one mapping, mlocked? Lock held. */
	bool (*locked)(struct hmm_mm *mm, uintptr_t addr, size_t len);

	/* What of [addr, addr + len) is part of a larger page becomes pages. Lock held. */
	void (*cut_out)(struct hmm_mm *mm, uintptr_t addr, size_t len);

	/* As sys_populate(), sys_copy_from() and sys_copy_to(). No lock held. */
	int (*populate)(struct hmm_mm *mm, uintptr_t start, size_t len, bool write);
	ssize_t (*copy_from)(struct hmm_mm *mm, void *dst, uintptr_t addr, size_t len);
	ssize_t (*copy_to)(struct hmm_mm *mm, uintptr_t addr, const void *src, size_t len);

	/* Make an announced call. Returns what the kernel did, negative errno. Lock held. */
	int64_t (*perform)(struct hmm_mm *mm, const struct sys_notif *call);

	/* As sys_for_each_tcb(). Lock held. */
	int (*for_each_tcb)(struct hmm_mm *mm, void (*fn)(uintptr_t addr, bool main, void *ctx),
			    void *ctx);

	/* As sys_threads_mark(); NULL: cannot tell. Lock held. */
	uint64_t (*threads_mark)(struct hmm_mm *mm, uint32_t *nr);

	/* As sys_for_each_static(); NULL: see remote_is_static(). No lock held. */
	void (*for_each_static)(struct hmm_mm *mm,
				void (*fn)(uintptr_t start, uintptr_t end, void *ctx), void *ctx);

	/* Is any of [start, end) the library's own, never to be taken or trapped? */
	bool (*owns)(const struct hmm_mm *mm, uintptr_t start, uintptr_t end);

	/* Where it runs, or an error; NULL: of this process. No lock held. */
	int (*thread_cpu)(struct hmm_mm *mm, uint32_t tid);

	/* As a fault at @addr would. */
	void (*kill)(struct hmm_mm *mm, uint32_t tid, int sig, uintptr_t addr);
};

extern const struct mm_ops local_ops;

struct hmm_mm {
	uint64_t alive;			/* MM_ALIVE; 0 in a forked child */
	const struct mm_ops *ops;	/* immutable, as all up to refs */
	struct remote *remote;		/* NULL: of this process */
	struct process *process;
	struct family *family;
	uint32_t slot, generation;	/* in the family */
	uint64_t flags;
	int uffd;
	int maps_fd, pagemap_fd;	/* of a remote one: written under the lock */
	int tasks_fd;			/* of the local one; read under the lock */
	bool can_move, can_move_home, can_remap, can_poison;
	hmm_log_fn log;
	void *log_ctx;
	size_t page;			/* bytes */
	_Atomic uint32_t refs;		/* futex: threads that use it, see family.h */
	_Atomic bool kicked;		/* its ring was filled by who does not empty it */
	struct watched watched;		/* its userfaultfd, as the roster has it */

	struct hmm_lock lock;		/* RANK_MM: all that follows */
	uint64_t lock_drops;		/* times the lock was dropped inside an operation */
	bool keyed;			/* STRICT: some memory may be behind protection keys */
	struct directory dir;
	struct notifier_tree notifiers;
	struct isolation *isolations[ISOLATIONS];
	uint32_t isolations_free;
	struct fault ring[FAULT_RING];
	uint32_t ring_head, ring_tail;	/* tail - head faults wait */
	struct vma_cache vma_cache;
	struct tcb_list tcbs;
	struct static_list statics;
	struct zero_stream {
		uintptr_t next;		/* where a sequential toucher of holes will be */
		uint32_t window;	/* pages filled at once there */
	} zero_streams[ZERO_STREAMS];
	uint32_t zero_replaced;		/* how often one was */
	uint32_t fork_gate;		/* forks under way, no agent: nothing may be taken */
	uint32_t forkers[FORKERS_MAX];	/* threads in libc's fork, 0: nobody */
	uint32_t users;			/* process lock: strict's threads at work in here */
	struct adoptions *adoptions;	/* adoption.h; NULL: none */
	uintptr_t limbo;		/* address space for a block, from the first use on */
	void *exclusive_pages;		/* EXCLUSIVE_MAX pages, reserved at the first use */
	uint64_t exclusive_used[EXCLUSIVE_MAX / 64];
	const void *exclusive_owner;	/* of the last begin, for messages */
	uint32_t losses;		/* evictions that lost pages */
	struct hmm_stats stats;		/* the counters; gauges are computed */
	struct hmm_times fault_times;

	_Atomic uint32_t epoch;		/* futex: bumped when an isolation ends */
	_Atomic uint32_t epoch_waiters;
};

#define MM_ALIVE	0x75686d6d2d6d6d21ULL

/*
 * Make what the caller's stack will need present, before it takes the mm lock: the
 * stack of a thread that is being born cannot be told from the program's memory and
 * may be trapped, and nobody could serve a first touch of it by the lock's holder.
 */
void stack_prepare(void);

/*
 * A thread that is in the library, or is the library's, may not have its stack and
 * control block taken: whoever takes has to know where they are.
 */
static inline void thread_tell(void)
{
	if (thread_state.told)
		return;
	thread_state.told = true;
	sys_tell_tcb();
}

/* Head of every public call: 0, -EINVAL (NULL), -ECHILD, -EDEADLK (from a callback). */
static inline int mm_enter(const struct hmm_mm *mm)
{
	if (!mm)
		return -EINVAL;
	if (mm->alive != MM_ALIVE)
		return -ECHILD;
	thread_tell();
	stack_prepare();
	return thread_state.in_callback ? -EDEADLK : 0;
}

/* Of whole pages. A shift, for loops that ask it of every page. */
static inline size_t mm_pages(const struct hmm_mm *mm, size_t bytes)
{
	return bytes >> mm->dir.page_shift;
}

static inline bool mm_range_ok(uintptr_t start, uintptr_t end)
{
	return !((start | end) & (sys_page_size() - 1)) && start < end && end <= sys_task_size();
}

/* Directory, isolations and the place in the family; and out again. */
int mm_tables_init(struct hmm_mm *mm);
bool mm_tables_fini(struct hmm_mm *mm);		/* was it the last of its family? */

/* Tell the notifiers; counts. Lock held. */
void mm_invalidate(struct hmm_mm *mm, enum hmm_event_type type, uintptr_t start, uintptr_t end,
		   const void *owner);

/* trap.c: is any of the range held at home, for a fork or a change? Lock held. */
bool mm_held(struct hmm_mm *mm, uintptr_t start, uintptr_t end);

/* The mapping has a page away from now on: trap its holes. 0, or why not. Lock held. */
enum hmm_reason mm_vma_register(struct hmm_mm *mm, const struct sys_vma *vma);

/*
 * Up to where no other userfaultfd holds the mapping, or those that follow it below @limit,
 * as far as trying tells; its start: one holds it. Of a local STRICT mm only. Lock held.
 */
uintptr_t mm_vma_ours_until(struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t limit);

/* A page came home: stop trapping if it was the mapping's last. Lock held. */
void mm_vma_release(struct hmm_mm *mm, uintptr_t addr);

/*
 * Mappings of [start, end) are new, in a new place, or in parts: they and their neighbours
 * are trapped alike, before their next touch, or the kernel could not merge them. Lock held.
 */
void mm_vma_join(struct hmm_mm *mm, uintptr_t start, uintptr_t end);

/* Everything is home: trap nothing, or nothing but lost pages. Lock held. */
void mm_release_all(struct hmm_mm *mm, bool lost_too);

/*
 * events.c: read what the kernel has to tell; faults go to the ring. Who does not empty that
 * next drains: then a handler is told. mm_read(): was there a fault? Lock held.
 */
bool mm_read(struct hmm_mm *mm);
void mm_drain(struct hmm_mm *mm);

/* How long a thread that has made a change is at most about to tell of it. */
#define EVENT_RESTS	20u
#define EVENT_REST_US	200u

/*
 * Where a page's mapping seems to be gone: true when there was a change yet, and it is to
 * be looked for again. Lock held, for milliseconds where the kernel does not tell.
 */
bool mm_drain_late(struct hmm_mm *mm);

/* handler.c */
int handlers_start(struct family *family);
void handlers_stop(struct family *family);
void handlers_kick(struct hmm_mm *mm);		/* the ring has faults */

/* change.c: what a change of mappings does to the tables. Lock held. */
void mm_drop(struct hmm_mm *mm, uintptr_t start, uintptr_t end);
void mm_rekey(struct hmm_mm *mm, uintptr_t from, uintptr_t to, size_t len);

/* transact.c: make an announced call, with all that it means. No lock held. */
int64_t mm_transact(struct hmm_mm *mm, const struct sys_notif *call);

/* Tell who traces of an announced call that began then. Lock held. */
void mm_trace_change(struct hmm_mm *mm, const struct sys_notif *call, uint64_t begin_ns,
		     int64_t result);

/* [addr, addr + len) in whole pages; empty when it makes no sense. */
void mm_span(const struct hmm_mm *mm, uint64_t addr, uint64_t len, uintptr_t *start,
	     uintptr_t *end);

/* Of an mmap: is what it maps put in the place of what is there? */
bool mm_maps_over(const struct sys_notif *call);

/* Advice that lets contents go. */
bool mm_discards(uint64_t advice);

/* After a call that did only a part: what of the range is mapped no more? Lock held. */
void mm_drop_gaps(struct hmm_mm *mm, uintptr_t start, uintptr_t end);

/* strict.c */
int strict_start(struct hmm_mm *mm);

/* fork.c */
struct hmm_mm *mm_use(void);			/* the process's, kept from going away */
void mm_unuse(struct hmm_mm *mm);
int fork_watch(void);
void fork_gate_close(struct hmm_mm *mm);		/* everything home, and stays */
void fork_gate_open(struct hmm_mm *mm);
bool fork_announced(struct hmm_mm *mm, uint32_t tid);	/* is it in libc's fork? */

/* child.c: fill the child of a raw clone, and close its userfaultfd. Lock held. */
void child_serve(struct hmm_mm *mm, int uffd);

/*
 * evict.c: bring device pages of [start, end) home; only those of @devmem unless
 * NULL. @wait: for pages in flight too. Returns pages, or -EIO. No lock held.
 */
int64_t mm_evict(struct hmm_mm *mm, uintptr_t start, uintptr_t end, struct hmm_devmem *devmem,
		 bool wait);

/* evict.c: coherent pages of the range: the CPU has them, only the directory changes. Lock held. */
void mm_take_back(struct hmm_mm *mm, uintptr_t start, uintptr_t end);

/*
 * exclusive.c: give back all exclusive pages of [start, end). Returns pages. Lock held,
 * dropped and retaken while the kernel has no memory for one, which in the end is lost.
 */
uint64_t exclusive_restore(struct hmm_mm *mm, uintptr_t start, uintptr_t end, const void *owner);
void exclusive_drop(struct hmm_mm *mm, uint32_t slot);
void exclusive_close(struct hmm_mm *mm);		/* the slots' memory is let go */
void *exclusive_bytes(const struct hmm_mm *mm, uint32_t slot);

/*
 * The program gets SIGBUS there from now on. false: events read on the way told that the
 * page is not there any more, but elsewhere, or nowhere. Lock held.
 */
bool mm_poison(struct hmm_mm *mm, uintptr_t addr);

/* The bytes of the page there are lost; @poisoned: and the program is told. Lock held. */
void mm_lost(struct hmm_mm *mm, uintptr_t addr, bool poisoned);

#endif
