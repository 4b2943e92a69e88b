/* SPDX-License-Identifier: MIT */
/*
 * The fork of another process. Nothing comes home for it: the child's directory is a
 * copy of the parent's, and each device page has one holder more.
 *
 *	program				monitor
 *	-------				-------
 *	clone()				gate: nothing is taken; wait for what is in flight
 *	  (stopped by the filter)	changes wait from now on
 *	  .				CONTINUE
 *	  the kernel copies the page	.
 *	  tables; from here on no fill	.
 *	  succeeds (EAGAIN), and the
 *	  thread waits			mm lock
 *	  until the event is read	  read it: the child's userfaultfd
 *	returns				  copy the directory
 *	.				unlock; changes go on, the gate opens
 *
 * A page that was filled before the kernel copied its table is PAGE_SYSTEM when the
 * event is read, and present in both; one that was not is away in both. A child that
 * touches a page before we have its directory waits in its own userfaultfd.
 */
#include "core/remote.h"

#include <string.h>

#include "core/devmem.h"
#include "core/trace.h"
#include "sys/seccomp.h"

/* A thread that runs may be in the call or past it: how long we believe the former. */
#define FORK_PATIENCE_NS	(3 * 1000000000ULL)

/* Who announces another call is out of its clone: it failed, or raised no event. */
static void seen_out(struct hmm_mm *mm, uint32_t tid)
{
	struct remote *r = mm->remote;

	if (r->forking != tid || r->copied)
		return;
	r->copied = true;
	isolation_wake(mm);
}

void remote_wait_fork(struct hmm_mm *mm, uint32_t tid)
{
	struct remote *r = mm->remote;

	seen_out(mm, tid);
	while (r->forking && !r->copied && !remote_gone(r))
		isolation_wait(mm);
}

/* ---------------------------------------------------------------- the child's tables */

static void entry_copy(struct hmm_mm *child, uintptr_t addr, uint64_t entry)
{
	/* The table knows no way from system to device but through isolation. */
	directory_set(&child->dir, addr, entry_isolated(0, 0));
	directory_set(&child->dir, addr, entry);
}

/* Where the page's bytes are as far as a child is concerned. */
static uint64_t entry_for_child(struct hmm_mm *mm, uint64_t e)
{
	const struct isolation *iso;

	if (entry_state(e) != PAGE_ISOLATED)
		return e;
	/* It has not been filled, or it would be PAGE_SYSTEM: its device page is as it was. */
	iso = mm->isolations[entry_isolation(e)];
	return iso->origin[entry_slot(e)];
}

/* Pages from @addr on in consecutive pages of one device, as @e is. */
static uint64_t device_run(struct hmm_mm *mm, uintptr_t addr, uint64_t e)
{
	uintptr_t stop = block_base(addr) + arena_chunk_bytes();
	uint64_t n = 1;

	while (addr + n * mm->page < stop &&
	       entry_for_child(mm, directory_get(&mm->dir, addr + n * mm->page)) ==
		       entry_device(PAGE_DEVICE, entry_devmem(e), entry_index(e) + n))
		n++;
	return n;
}

/* A page without a copy of its own on a device: in flight from RAM, or exclusive. */
static int copy_bytes(struct hmm_mm *mm, struct hmm_mm *child, uintptr_t addr, uint64_t e)
{
	const void *bytes = NULL;
	size_t done;

	if (entry_state(e) == PAGE_EXCLUSIVE) {
		bytes = exclusive_bytes(mm, entry_exclusive_slot(e));
	} else if (entry_state(e) == PAGE_ISOLATED) {
		const struct isolation *iso = mm->isolations[entry_isolation(e)];
		uint8_t kind = iso->kind[entry_slot(e)];

		if (kind == SLOT_CONTENT || kind == SLOT_FILLED)
			bytes = isolation_bytes(iso, entry_slot(e));
	}
	return bytes ? sys_uffd_copy(child->uffd, addr, bytes, mm->page, 0, &done) : 0;
}

static int inherit_pages(struct hmm_mm *mm, struct hmm_mm *child)
{
	const uintptr_t end = sys_task_size();
	uint64_t n;

	for (uintptr_t a = directory_next(&mm->dir, 0, end); a < end;
	     a = directory_next(&mm->dir, a + n * mm->page, end)) {
		uint64_t e = directory_get(&mm->dir, a), inherited = entry_for_child(mm, e);
		int ret = 0;

		n = 1;
		if (entry_state(inherited) == PAGE_DEVICE) {
			n = device_run(mm, a, inherited);
			ret = directory_reserve(&child->dir, a, a + n * mm->page);
			if (!ret)
				ret = devmem_share(devmem_find(mm, entry_devmem(inherited)),
						   entry_index(inherited), n);
			for (uint64_t i = 0; i < n && !ret; i++)
				entry_copy(child, a + i * mm->page,
					   entry_device(PAGE_DEVICE, entry_devmem(inherited),
							entry_index(inherited) + i));
		} else if (entry_state(inherited) == PAGE_LOST) {
			ret = directory_reserve(&child->dir, a, a + mm->page);
			if (!ret)
				entry_copy(child, a, PAGE_LOST);
		} else {
			ret = copy_bytes(mm, child, a, e);
		}
		if (ret)
			return ret;
	}
	return 0;
}

static void trace_fork(struct hmm_mm *mm, uint32_t tid, const struct hmm_mm *child)
{
	struct hmm_trace_event event = {
		.type = HMM_TRACE_FORK, .thread = tid, .result = (int64_t)hmm_mm_id(child),
	};

	if (tracing(mm))
		trace_event(mm, &event);
}

int remote_inherit(struct hmm_mm *mm, int child_uffd)
{
	struct remote *r = mm->remote;
	struct hmm_mm *child;
	int ret;

	lock_assert_held(&mm->lock);
	if (!r->forking || r->copied)
		return -EINVAL;
	child = remote_make(mm->family, child_uffd, r->features, mm->log, mm->log_ctx);
	if (!child)
		return -ENOMEM;
	ret = directory_init(&child->dir, child->process, child);
	if (ret)
		goto err_free;
	child->remote->sentinel = r->sentinel;
	mm_invalidate(mm, HMM_EVENT_FORK, 0, sys_task_size(), NULL);
	ret = inherit_pages(mm, child);
	if (!ret)
		ret = isolations_init(child);
	if (!ret)
		ret = family_add(mm->family, child);
	if (ret)
		goto err_pages;
	mm->stats.forks++;
	trace_fork(mm, r->forking, child);
	r->child = child;
	r->copied = true;
	isolation_wake(mm);
	return 0;

err_pages:
	mm_drop(child, 0, sys_task_size());
	family_remove(mm->family, child);
	isolations_fini(child);
	directory_fini(&child->dir);
err_free:
	child->uffd = -1;
	remote_free(child);
	return ret;
}

/* ---------------------------------------------------------------- announced forks */

static bool some_in_flight(const struct hmm_mm *mm)
{
	return mm->dir.count[PAGE_ISOLATED] || mm->dir.count[PAGE_EXCLUSIVE] ||
	       mm->dir.count[PAGE_COHERENT];
}

static bool forks_lazily(const struct hmm_mm *mm)
{
	return mm->remote->features & UFFD_FEATURE_EVENT_FORK;
}

/* Lock held, dropped. */
static void settle_flights(struct hmm_mm *mm)
{
	const uintptr_t end = sys_task_size();

	while (some_in_flight(mm) && !remote_gone(mm->remote)) {
		exclusive_restore(mm, 0, end, NULL);
		mm_take_back(mm, 0, end);
		if (some_in_flight(mm))
			isolation_wait(mm);
	}
}

int hmm_remote_fork_begin(struct hmm_mm *mm, uint32_t tid)
{
	struct remote *r;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	r = mm->remote;
	if (!r || !tid)
		return -EINVAL;
	lock_acquire(&mm->lock);
	seen_out(mm, tid);
	while (r->forking && !remote_gone(r))
		isolation_wait(mm);
	r->forking = tid;
	r->copied = false;
	r->child = NULL;
	mm->fork_gate++;
	while (r->changes && !remote_gone(r))
		isolation_wait(mm);
	if (forks_lazily(mm))
		settle_flights(mm);
	lock_release(&mm->lock);
	if (!forks_lazily(mm)) {
		fork_gate_close(mm);
		fork_gate_open(mm);	/* ours is closed */
	}
	return 0;
}

/* Lock held, dropped. */
static void wait_copied(struct hmm_mm *mm, uint32_t tid, int nr)
{
	const uint64_t deadline = sys_now_ns() + FORK_PATIENCE_NS;
	struct remote *r = mm->remote;

	while (!r->copied && !remote_gone(r)) {
		bool out;

		lock_release(&mm->lock);
		out = !sys_in_syscall(tid, nr) || sys_now_ns() > deadline;
		lock_acquire(&mm->lock);
		/* It leaves the call after its event was read, and so handled. */
		if (out)
			return;
		if (!r->copied)
			isolation_wait(mm);
	}
}

int hmm_remote_fork_end(struct hmm_mm *mm, uint32_t tid, uint64_t nr, struct hmm_mm **child)
{
	struct remote *r;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	r = mm->remote;
	if (!r || !child)
		return -EINVAL;
	*child = NULL;
	lock_acquire(&mm->lock);
	if (r->forking != tid) {
		lock_release(&mm->lock);
		return -EINVAL;
	}
	wait_copied(mm, tid, (int)nr);
	*child = r->child;
	r->child = NULL;
	r->forking = 0;
	mm->fork_gate--;
	isolation_wake(mm);
	lock_release(&mm->lock);
	return 0;
}
