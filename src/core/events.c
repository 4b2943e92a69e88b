/* SPDX-License-Identifier: MIT */
/*
 * Userfaultfd's messages.
 *
 * Whoever holds the mm lock may read them. Changes are acted on at once; faults are
 * put in the ring for the handlers. In a strict mm there are no events but faults:
 * changes come by seccomp, before they are made. Without it an event tells of a
 * change that has been made, and what keeps that sound is that the kernel refuses
 * every MOVE and COPY (EAGAIN) from before the change until its event has been read:
 *
 *	program				migrator, holding the mm lock
 *	-------				-----------------------------
 *	munmap A
 *	mmap at A again			MOVE from A: EAGAIN
 *	(its event is still unread)	mm_drain(): UNMAP, drop A's entries
 *					MOVE from A: the new life's page
 *
 * so an entry that an event drops is of the old life, but for the two exceptions that
 * uhmm.h names: DONTNEED's event is read before the pages are zapped; and entries that
 * a REMAP carries to an address can be met by the UNMAP of that address's old life,
 * if the thread that unmapped it is that late.
 */
#include <sys/syscall.h>

#include "core/adoption.h"
#include "core/devmem.h"
#include "core/remote.h"
#include "core/trace.h"

#define DRAIN_BATCH	16

static void ring_push(struct hmm_mm *mm, const struct uffd_msg *msg, uint64_t read_ns)
{
	uintptr_t addr = msg->arg.pagefault.address & ~(mm->page - 1);

	if (mm->ring_tail - mm->ring_head == FAULT_RING) {
		sys_uffd_wake(mm->uffd, addr, mm->page);	/* it will fault again */
		return;
	}
	mm->ring[mm->ring_tail++ % FAULT_RING] = (struct fault){
		.addr = addr,
		.read_ns = read_ns,
		.tid = msg->arg.pagefault.feat.ptid,
		.write = msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE,
	};
}

static void on_unmap(struct hmm_mm *mm, enum hmm_event_type type, uintptr_t start, uintptr_t end)
{
	if (arena_holds(start) || end <= start)
		return;
	mm_invalidate(mm, type, start, end, NULL);
	mm_drop(mm, start, end);
	if (type == HMM_EVENT_UNMAP)
		adopt_forget(mm, start, end);
	mm->stats.changes++;
	trace_moment(mm, HMM_TRACE_CHANGE, type == HMM_EVENT_UNMAP ? SYS_munmap : SYS_madvise,
		     start, end, 0);
}

/*
 * How much of @len came to @to. A mremap that moves and shrinks at once, to an address of
 * the caller's, is told with the old length (seen on 5.10; right on 6.18): what lies
 * behind the new mapping is not its. An UNMAP follows for the rest of the old place.
 */
static size_t remapped(const struct hmm_mm *mm, uintptr_t to, size_t len)
{
	struct sys_vma vma;

	if (sys_vma_find(mm->maps_fd, to, &vma) || vma.start > to || vma.end - to > len)
		return len;
	return vma.end - to;
}

static void on_remap(struct hmm_mm *mm, uintptr_t from, uintptr_t to, size_t len)
{
	/* Taking by mremap is our own doing. */
	if (arena_holds(to) || arena_holds(from))
		return;
	mm_invalidate(mm, HMM_EVENT_UNMAP, from, from + len, NULL);
	len = remapped(mm, to, len);
	mm_invalidate(mm, HMM_EVENT_UNMAP, to, to + len, NULL);
	mm_rekey(mm, from, to, len);
	/* Unless it was DONTUNMAP, the old place's own UNMAP follows. */
	adopt_follow(mm, from, to, len, true);
	mm->stats.changes++;
	trace_moment(mm, HMM_TRACE_CHANGE, SYS_mremap, from, from + len, 0);
}

static void handle(struct hmm_mm *mm, const struct uffd_msg *msg, uint64_t read_ns)
{
	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT:
		ring_push(mm, msg, read_ns);
		break;
	case UFFD_EVENT_FORK:
		if (!mm->remote || remote_inherit(mm, (int)msg->arg.fork.ufd))
			child_serve(mm, (int)msg->arg.fork.ufd);
		break;
	case UFFD_EVENT_REMAP:
		on_remap(mm, msg->arg.remap.from, msg->arg.remap.to, msg->arg.remap.len);
		break;
	case UFFD_EVENT_REMOVE:
		on_unmap(mm, HMM_EVENT_CLEAR, msg->arg.remove.start, msg->arg.remove.end);
		break;
	case UFFD_EVENT_UNMAP:
		on_unmap(mm, HMM_EVENT_UNMAP, msg->arg.remove.start, msg->arg.remove.end);
		break;
	}
}

bool mm_read(struct hmm_mm *mm)
{
	struct uffd_msg msgs[DRAIN_BATCH];
	uint32_t before = mm->ring_tail;
	uint64_t now;
	int nr;

	lock_assert_held(&mm->lock);
	do {
		nr = sys_uffd_read(mm->uffd, msgs, DRAIN_BATCH);
		now = nr > 0 ? sys_now_ns() : 0;
		for (int i = 0; i < nr; i++)
			handle(mm, &msgs[i], now);
		/* A full batch may hide an event: read returns faults first. */
	} while (nr == DRAIN_BATCH);
	return mm->ring_tail != before;
}

/* Whom the kernel has woken for them may come too late to find them. */
void mm_drain(struct hmm_mm *mm)
{
	if (mm_read(mm))
		handlers_kick(mm);
}

/*
 * Kernels before 5.15 have one flag for all changes, which the first event that is read
 * puts out: another's may be under way all the same, its event not even sent.
 */
bool mm_drain_late(struct hmm_mm *mm)
{
	const uint64_t changes = mm->stats.changes;

	if ((mm->flags & HMM_MM_STRICT) || sys_cap(CAP_UFFD_PENDING))
		return false;
	for (uint32_t i = 0; i < EVENT_RESTS && mm->stats.changes == changes; i++) {
		sys_rest(EVENT_REST_US);
		mm_drain(mm);
	}
	return mm->stats.changes != changes;
}
