/* SPDX-License-Identifier: MIT */
/*
 * The threads that serve a family's CPU faults. The roster has the kernel wake the one that is
 * near; whoever gets the mm lock first reads.
 *
 * This is the fault-safe domain: what runs here touches the arena, static data and its
 * own stack, and nothing else.
 */
#include <errno.h>
#include <signal.h>

#include "core/adoption.h"
#include "core/devmem.h"
#include "core/thread.h"

#define ZERO_WINDOW_MAX	64u

#define READY_MAX	16	/* mms looked after at one wake-up */
#define STRANGERS	8u

struct handler_thread {
	struct family *family;
	struct thread *thread;
	struct watcher *watcher;
	uint32_t tid;		/* who faulted last, of those that it was to look at */
	uint32_t strangers;	/* how many in a row were not who had before */
	uintptr_t cpu_word;	/* where that thread of this process says where it runs; 0: not asked */
};

void handlers_kick(struct hmm_mm *mm)
{
	/* release: pairs with serve_kicked(); the ring was filled before */
	atomic_store_explicit(&mm->kicked, true, memory_order_release);
	roster_ring(&mm->family->roster);
}

/*
 * Who touches holes in order is known by where it would go on. Several do, each a
 * thread of the program's.
 */
static struct zero_stream *zero_stream(struct hmm_mm *mm, uintptr_t addr)
{
	struct zero_stream *s;

	for (uint32_t i = 0; i < ZERO_STREAMS; i++) {
		s = &mm->zero_streams[i];
		if (s->next != addr)
			continue;
		s->window = s->window < ZERO_WINDOW_MAX ? s->window * 2 : ZERO_WINDOW_MAX;
		return s;
	}
	s = &mm->zero_streams[mm->zero_replaced++ % ZERO_STREAMS];
	s->window = 1;
	return s;
}

/* How many pages from @addr on may be filled with zeros at once, of @window. */
static uint32_t zero_pages(struct hmm_mm *mm, uintptr_t addr, uint32_t window)
{
	const uint32_t room = family_room(mm->family);
	uintptr_t end;

	if (window > room)
		window = room ? room : 1;
	end = directory_next(&mm->dir, addr + mm->page, addr + window * mm->page);
	end = adopt_next(mm, addr + mm->page, end);
	if (end > block_base(addr) + arena_chunk_bytes())
		end = block_base(addr) + arena_chunk_bytes();
	return (uint32_t)((end - addr) / mm->page);
}

/* A hole was touched. What is ahead of a sequential toucher is filled with it. */
static void fill_hole(struct hmm_mm *mm, const struct fault *f)
{
	struct zero_stream *stream;
	uint32_t nr;
	size_t done = 0;
	int ret;

	directory_block_set_huge(&mm->dir, f->addr, false);
	if (adopt_fill(mm, f->addr, f->tid)) {
		fault_ended(mm, f, 1);
		return;
	}
	stream = zero_stream(mm, f->addr);
	nr = zero_pages(mm, f->addr, stream->window);
	family_bring(mm->family, nr);
	ret = sys_uffd_zeropage(mm->uffd, f->addr, nr * mm->page, 0, &done);
	if (!done && ret != -EAGAIN && nr > 1)	/* the window reached beyond the mapping */
		ret = sys_uffd_zeropage(mm->uffd, f->addr, mm->page, 0, &done);
	stream->next = f->addr + done;
	mm->stats.zero_fills += done / mm->page;
	family_brought(mm->family, nr, done / mm->page);
	fault_ended(mm, f, done / mm->page);
	if (done)
		return;
	if (ret == -EAGAIN) {
		mm_drain(mm);
		sys_uffd_wake(mm->uffd, f->addr, mm->page);	/* faults again */
		return;
	}
	/* There already, or unmapped meanwhile: the CPU will see for itself. */
	sys_uffd_wake(mm->uffd, f->addr, mm->page);
}

/* Serve one fault. Lock held; dropped while a device copies. */
static void resolve(struct hmm_mm *mm, struct fault *f)
{
	uint64_t e = directory_get(&mm->dir, f->addr);

	switch (entry_state(e)) {
	case PAGE_ISOLATED:
		f->kind = HMM_FAULT_FLIGHT;
		isolation_met(mm, e, f);
		mm->stats.fault_waits++;
		break;
	case PAGE_DEVICE:
		mm->stats.cpu_faults++;
		f->kind = HMM_FAULT_DEVICE;
		devmem_fault(mm, devmem_find(mm, entry_devmem(e)), f);
		break;
	case PAGE_EXCLUSIVE:
		mm->stats.cpu_faults++;
		exclusive_restore(mm, f->addr, f->addr + mm->page, NULL);
		f->kind = HMM_FAULT_EXCLUSIVE;
		if (entry_state(directory_get(&mm->dir, f->addr)) == PAGE_LOST)
			fault_ended(mm, f, 0);
		else
			fault_served(mm, f);
		break;
	case PAGE_LOST:
		f->kind = HMM_FAULT_LOST;
		fault_ended(mm, f, 0);
		/* The kernel raises it by itself where it knows markers. */
		if (!mm->can_poison || sys_uffd_poison(mm->uffd, f->addr, mm->page))
			mm->ops->kill(mm, f->tid, SIGBUS, f->addr);
		sys_uffd_wake(mm->uffd, f->addr, mm->page);
		break;
	default:
		fill_hole(mm, f);
	}
}

/* Who is free takes the next; @mm's lock is held. */
static void share(struct family *f, struct hmm_mm *mm)
{
	/* release: pairs with serve_kicked() */
	atomic_store_explicit(&mm->kicked, true, memory_order_release);
	roster_more(&f->roster);
}

/*
 * Threads that take turns are no reason to go from one's CPU to another's and back at each
 * fault; but some thread's is better than nobody's.
 */
static bool is_stranger(struct handler_thread *h, uint32_t tid)
{
	if (h->tid == tid) {
		h->strangers = 0;
		return false;
	}
	h->tid = tid;
	h->cpu_word = 0;
	return ++h->strangers % STRANGERS != 0;
}

static int faulter_cpu(struct handler_thread *h, struct hmm_mm *mm)
{
	if (mm->remote)
		return mm->ops->thread_cpu(mm, h->tid);
	if (h->cpu_word &&
	    sys_word_is(h->cpu_word, roster_where(&h->family->roster, &mm->watched))) {
		roster_near(&mm->watched);
		return -EALREADY;
	}
	h->cpu_word = sys_thread_cpu_word(h->tid);
	return sys_cpu_in(h->cpu_word);
}

/* A thread of @mm's faulted: let whoever is near it meet its next. No lock held. */
static void look(struct handler_thread *h, struct hmm_mm *mm, uint32_t tid)
{
	int cpu = is_stranger(h, tid) ? -EALREADY : faulter_cpu(h, mm);

	if (cpu >= 0 && !roster_seen(&h->family->roster, &mm->watched, (uint32_t)cpu))
		handlers_kick(mm);
}

static void serve(struct handler_thread *h, struct hmm_mm *mm)
{
	struct roster *roster = &h->family->roster;
	uint32_t nr = 0, tid = 0;

	lock_acquire(&mm->lock);
	(void)mm_read(mm);
	for (; mm->ring_head != mm->ring_tail; nr++) {
		struct fault f = mm->ring[mm->ring_head++ % FAULT_RING];

		if (!nr)
			roster_work(roster);
		if (mm->ring_head != mm->ring_tail)
			share(h->family, mm);
		tid = f.tid;
		resolve(mm, &f);
	}
	lock_release(&mm->lock);
	if (!nr)
		return;
	if (roster_met(roster, &mm->watched, nr))
		look(h, mm, tid);
	roster_done(roster);
}

/* An mm whose userfaultfd has something. */
static void serve_ready(struct handler_thread *h, uint64_t ticket)
{
	struct hmm_mm *mm = family_get_ticket(h->family, ticket);

	if (!mm)
		return;
	serve(h, mm);
	mm_put(mm);
}

static bool any_kicked(struct family *f, uint32_t from)
{
	bool kicked = false;

	for (uint32_t i = from; i < f->nr_slots && !kicked; i++) {
		struct hmm_mm *mm = family_get(f, i);

		if (!mm)
			continue;
		kicked = atomic_load_explicit(&mm->kicked, memory_order_relaxed);
		mm_put(mm);
	}
	return kicked;
}

/* Those whose rings others have filled; of several, each by whoever is free. */
static void serve_kicked(struct handler_thread *h)
{
	struct family *f = h->family;

	for (uint32_t i = 0; i < f->nr_slots; i++) {
		struct hmm_mm *mm = family_get(f, i);

		if (!mm)
			continue;
		if (atomic_exchange_explicit(&mm->kicked, false, memory_order_acquire)) {
			if (any_kicked(f, i + 1))
				roster_ring(&f->roster);
			serve(h, mm);
		}
		mm_put(mm);
	}
}

/* Takes the bell out of the tickets; how many are left. */
static int take_bell(uint64_t *tickets, int nr, bool *rung)
{
	int left = 0;

	for (int i = 0; i < nr; i++) {
		if (tickets[i] == ROSTER_BELL)
			*rung = true;
		else
			tickets[left++] = tickets[i];
	}
	return left;
}

static void *handler_main(void *arg)
{
	struct handler_thread *h = arg;
	struct family *f = h->family;

	thread_state.on_handler = true;
	roster_begin(&f->roster, h->watcher);
	for (;;) {
		uint64_t tickets[READY_MAX];
		bool kicked = false;
		int others, nr = roster_wait(&f->roster, h->watcher, tickets, READY_MAX, &kicked);

		/* acquire: pairs with handlers_stop() */
		if (atomic_load_explicit(&f->stopping, memory_order_acquire)) {
			roster_ring(&f->roster);	/* for the others */
			return NULL;
		}
		if (f->only) {
			serve(h, f->only);
			continue;
		}
		/* No lock is held: what is under way elsewhere goes on. */
		family_await(f);
		others = take_bell(tickets, nr, &kicked);
		/* Whoever is free may do the one thing while we do the other. */
		if (kicked && others)
			roster_ring(&f->roster);
		for (int i = 0; i < others; i++)
			serve_ready(h, tickets[i]);
		if (kicked)
			serve_kicked(h);
	}
}

int handlers_start(struct family *f)
{
	const uint32_t nr = f->roster.nr;
	int ret = 0;

	f->handlers = arena_alloc(nr * sizeof(*f->handlers));
	if (!f->handlers)
		ret = -ENOMEM;
	while (!ret && f->nr_handlers < nr) {
		struct handler_thread *h = &f->handlers[f->nr_handlers];

		h->family = f;
		h->watcher = &f->roster.watchers[f->nr_handlers];
		ret = thread_start(handler_main, h, &h->thread);
		f->nr_handlers += !ret;
	}
	if (ret)
		handlers_stop(f);
	return ret;
}

void handlers_stop(struct family *f)
{
	atomic_store_explicit(&f->stopping, true, memory_order_release);
	roster_ring(&f->roster);
	for (uint32_t i = 0; i < f->nr_handlers; i++)
		thread_join(f->handlers[i].thread);
	arena_free(f->handlers, f->roster.nr * sizeof(*f->handlers));
	f->handlers = NULL;
	f->nr_handlers = 0;
}
