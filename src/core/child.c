/* SPDX-License-Identifier: MIT */
/*
 * The child of a raw clone, in an mm that is not strict.
 *
 * The kernel hands us its userfaultfd with the event of the fork, and lets it run. It is
 * to hold what its parent held at the fork: the parent's lock keeps that as it was until
 * the child has been filled and its userfaultfd is closed. Who touches a page meanwhile
 * waits for it. What the child changes meanwhile is told by events of its own, and while
 * one is under way nothing can be filled:
 *
 *	child				filler, holding its parent's lock
 *	-----				---------------------------------
 *	munmap A			COPY to B: EAGAIN
 *	  (until its event is read)	read UNMAP A: A is not to be filled any more
 *	mremap B to C			COPY to B: EAGAIN
 *	  (until its event is read)	read REMAP B, C: what B held goes to C
 *					COPY to C
 *
 * so all its changes are kept in their order, and a page goes where they have taken it.
 * A child that forks gives us another, of the same parent and with the same changes so far.
 */
#include <string.h>

#include "core/adoption.h"
#include "core/devmem.h"
#include "core/trace.h"

#define MEMORY_WAITS	500u	/* of 2 ms, in all */
#define EVENTS_AT_ONCE	16

/* What lay in [from, end) lies at @to, or nowhere. */
struct carried {
	uintptr_t from, end, to;
	bool gone;
};

struct child {
	struct hmm_mm *mm;		/* its parent's, locked */
	struct child *next;		/* one that was made meanwhile */
	int uffd;
	bool lost_track;		/* no memory to keep a change in */
	uint32_t waits;			/* for memory */
	size_t nr, room;
	struct carried *carried;
	void *buffer;			/* a page; NULL: no memory for it */
};

/* ---------------------------------------------------------------- its changes */

static bool make_room(struct child *c)
{
	const size_t room = c->room ? 2 * c->room : 16;
	struct carried *more = arena_alloc(room * sizeof(*more));

	if (!more)
		return false;
	if (c->room) {
		memcpy(more, c->carried, c->nr * sizeof(*more));
		arena_free(c->carried, c->room * sizeof(*more));
	}
	c->carried = more;
	c->room = room;
	return true;
}

static void carry(struct child *c, const struct carried *to)
{
	if (c->nr == c->room && !make_room(c))
		c->lost_track = true;
	else
		c->carried[c->nr++] = *to;
}

/* Where the page at *addr is by now; false: it is no more. */
static bool follow(const struct child *c, uintptr_t *addr)
{
	for (size_t i = 0; i < c->nr; i++) {
		const struct carried *to = &c->carried[i];

		if (*addr < to->from || *addr >= to->end)
			continue;
		if (to->gone)
			return false;
		*addr += to->to - to->from;
	}
	return true;
}

/* ---------------------------------------------------------------- it, and its children */

static struct child *child_new(struct hmm_mm *mm, int uffd)
{
	struct child *c = arena_alloc(sizeof(*c));

	if (!c)
		return NULL;
	c->mm = mm;
	c->uffd = uffd;
	c->buffer = arena_alloc(mm->page);
	return c;
}

/* Whoever waits for a page that the parent did not have either goes on. */
static void child_end(struct child *c)
{
	sys_close(c->uffd);
	if (c->buffer)
		arena_free(c->buffer, c->mm->page);
	if (c->room)
		arena_free(c->carried, c->room * sizeof(*c->carried));
	arena_free(c, sizeof(*c));
}

static void no_memory(struct hmm_mm *mm)
{
	core_log(mm, HMM_LOG_ERROR,
		 "HMM-044 no memory to fill the child of a fork: what was on a device reads as "
		 "zeros in it");
}

static void child_forks(struct child *c, int uffd)
{
	struct child *new = child_new(c->mm, uffd);

	if (!new) {
		no_memory(c->mm);
		sys_close(uffd);
		return;
	}
	for (size_t i = 0; i < c->nr; i++)
		carry(new, &c->carried[i]);
	new->lost_track |= c->lost_track;
	new->next = c->next;
	c->next = new;
}

static void child_event(struct child *c, const struct uffd_msg *msg)
{
	struct carried to = { .from = msg->arg.remove.start, .end = msg->arg.remove.end };

	switch (msg->event) {
	case UFFD_EVENT_FORK:
		child_forks(c, (int)msg->arg.fork.ufd);
		break;
	case UFFD_EVENT_REMAP:
		to.from = msg->arg.remap.from;
		to.end = to.from + msg->arg.remap.len;
		to.to = msg->arg.remap.to;
		carry(c, &to);
		break;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		to.gone = true;
		carry(c, &to);
		break;
	}
}

/* False: there were none. */
static bool read_some(struct child *c)
{
	struct uffd_msg msgs[EVENTS_AT_ONCE];
	bool any = false;
	int nr;

	do {
		nr = sys_uffd_read(c->uffd, msgs, EVENTS_AT_ONCE);
		for (int i = 0; i < nr; i++) {
			any |= msgs[i].event != UFFD_EVENT_PAGEFAULT;
			child_event(c, &msgs[i]);
		}
		/* A full batch may hide an event: read returns faults first. */
	} while (nr == EVENTS_AT_ONCE);
	return any;
}

/*
 * Kernels that take a change for over when the first of its events has been read would
 * let us fill what is elsewhere by then: the others are at most as far away as the child
 * is from running again.
 */
static void read_events(struct child *c)
{
	uint32_t quiet = 0;

	if (!read_some(c) || sys_cap(CAP_UFFD_PENDING))
		return;
	while (quiet < EVENT_RESTS) {
		sys_rest(EVENT_REST_US);
		quiet = read_some(c) ? 0 : quiet + 1;
	}
}

/* ---------------------------------------------------------------- filling it */

/* The page's bytes as they were at the fork. NULL: a hole, or lost. */
static const void *bytes_of(struct child *c, uint64_t e)
{
	struct hmm_copy_run run = { c->buffer, 0, 1 };
	struct hmm_mm *mm = c->mm;

	if (entry_state(e) == PAGE_EXCLUSIVE)
		return exclusive_bytes(mm, entry_exclusive_slot(e));
	if (entry_state(e) == PAGE_ISOLATED) {
		struct isolation *iso = mm->isolations[entry_isolation(e)];
		uint32_t slot = entry_slot(e);

		if (iso->kind[slot] == SLOT_HOLE || iso->kind[slot] == SLOT_NONE)
			return NULL;
		if (iso->kind[slot] != SLOT_DEVICE)
			return isolation_bytes(iso, slot);
		e = iso->origin[slot];
	} else if (entry_state(e) != PAGE_DEVICE) {
		return NULL;
	}
	run.index = entry_index(e);
	if (!c->buffer || devmem_copy_from(devmem_find(mm, entry_devmem(e)), &run, 1))
		return NULL;
	return c->buffer;
}

/* @bytes for what was at @addr at the fork; NULL: SIGBUS. 0 or a negative errno. */
static int give(struct child *c, uintptr_t addr, const void *bytes)
{
	const size_t page = c->mm->page;

	for (;;) {
		uintptr_t now = addr;
		size_t done;
		int ret;

		if (!follow(c, &now))
			return 0;
		ret = bytes ? sys_uffd_copy(c->uffd, now, bytes, page, 0, &done) :
			      sys_uffd_poison(c->uffd, now, page);
		if (ret == -EAGAIN) {
			read_events(c);
			if (c->lost_track)
				return -ENOMEM;
			sys_yield();	/* who waited for that is to go on */
		} else if (ret == -ENOMEM && c->waits < MEMORY_WAITS) {
			c->waits++;
			sys_rest(2000);
		} else if (ret == -EEXIST || ret == -ENOENT || ret == -ESRCH) {
			return 0;	/* filled, unmapped, or all of it has ended */
		} else {
			return ret;
		}
	}
}

static void lose(struct child *c, uintptr_t addr)
{
	struct hmm_mm *mm = c->mm;
	int ret = mm->can_poison && !c->lost_track ? give(c, addr, NULL) : -EOPNOTSUPP;

	mm_lost(mm, addr, !ret);
}

/* Any other error: the file has no such page. */
static void fill_hole(uintptr_t addr, const void *bytes, void *ctx)
{
	struct child *c = ctx;

	if (give(c, addr, bytes) == -ENOMEM)
		lose(c, addr);
}

static void fill(struct child *c)
{
	const uintptr_t end = sys_task_size();
	struct hmm_mm *mm = c->mm;

	for (uintptr_t a = directory_next(&mm->dir, 0, end); a < end;
	     a = directory_next(&mm->dir, a + mm->page, end)) {
		uint64_t e = directory_get(&mm->dir, a);
		const void *bytes = bytes_of(c, e);

		if (bytes ? give(c, a, bytes) != 0 : entry_state(e) == PAGE_DEVICE)
			lose(c, a);
		else if (entry_state(e) == PAGE_LOST && mm->can_poison)
			(void)give(c, a, NULL);
	}
	adopt_each_hole(mm, fill_hole, c);
}

void child_serve(struct hmm_mm *mm, int uffd)
{
	struct child *c = child_new(mm, uffd);

	lock_assert_held(&mm->lock);
	mm_invalidate(mm, HMM_EVENT_FORK, 0, sys_task_size(), NULL);
	if (!c) {
		no_memory(mm);
		sys_close(uffd);
	}
	while (c) {
		struct child *next;

		fill(c);
		next = c->next;
		if (c->lost_track)
			no_memory(mm);
		child_end(c);
		c = next;
	}
	if (!mm->fork_gate) {	/* else it has been counted */
		mm->stats.forks++;
		trace_moment(mm, HMM_TRACE_FORK, 0, 0, 0, 0);
	}
}
