/* SPDX-License-Identifier: MIT */
/*
 * The threads that serve a family's CPU faults. Those that the roster has awake wait in
 * poll; whoever gets the mm lock first reads. Where there are but few CPUs, one is pinned
 * to each: a blocked thread on the faulter's own CPU is woken five times faster than one
 * elsewhere.
 *
 * This is the fault-safe domain: what runs here touches the arena, static data and its
 * own stack, and nothing else.
 */
#include <signal.h>

#include "core/adoption.h"
#include "core/devmem.h"
#include "core/thread.h"

#define ZERO_WINDOW_MAX	64u

#define READY_MAX	16	/* mms looked after at one wake-up */

struct handler_thread {
	struct family *family;
	struct thread *thread;
	struct watcher *watcher;
};

void handlers_kick(struct hmm_mm *mm)
{
	/* release: pairs with serve_kicked(); the ring was filled before */
	atomic_store_explicit(&mm->kicked, true, memory_order_release);
	sys_eventfd_signal(mm->family->stop_fd);
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
	if (roster_more(&f->roster))
		sys_eventfd_signal(f->stop_fd);
}

static void serve(struct handler_thread *h, struct hmm_mm *mm)
{
	struct roster *roster = &h->family->roster;
	uint32_t nr = 0, tid = 0;

	lock_acquire(&mm->lock);
	mm_drain(mm);
	for (; mm->ring_head != mm->ring_tail; nr++) {
		struct fault f = mm->ring[mm->ring_head++ % FAULT_RING];

		if (!nr)
			roster_begin(roster);
		if (mm->ring_head != mm->ring_tail)
			share(h->family, mm);
		tid = f.tid;
		resolve(mm, &f);
	}
	lock_release(&mm->lock);
	if (!nr)
		return;
	if (roster_met(roster, h->watcher, nr)) {
		int cpu = mm->ops->thread_cpu(mm, tid);

		if (cpu >= 0)
			roster_seen(roster, (uint32_t)cpu);
	}
	roster_end(roster);
}

/* Those mms whose userfaultfds have something. */
static void serve_ready(struct handler_thread *h)
{
	struct family *f = h->family;
	uint64_t tickets[READY_MAX];
	int nr = sys_epoll_ready(f->wait_fd, tickets, READY_MAX);

	for (int i = 0; i < nr; i++) {
		struct hmm_mm *mm = family_get_ticket(f, tickets[i]);

		if (!mm)
			continue;
		serve(h, mm);
		mm_put(mm);
	}
}

/* Those whose rings others have filled. */
static void serve_kicked(struct handler_thread *h)
{
	struct family *f = h->family;

	for (uint32_t i = 0; i < f->nr_slots; i++) {
		struct hmm_mm *mm = family_get(f, i);

		if (!mm)
			continue;
		if (atomic_exchange_explicit(&mm->kicked, false, memory_order_acquire))
			serve(h, mm);
		mm_put(mm);
	}
}

static void *handler_main(void *arg)
{
	struct handler_thread *h = arg;
	struct family *f = h->family;

	thread_state.on_handler = true;
	for (;;) {
		bool faults = false, kicked = false, more;

		more = roster_enter(&f->roster, h->watcher);
		if (!more)
			(void)sys_poll2(f->wait_fd, f->stop_fd, -1, &faults, &kicked);
		roster_leave(&f->roster);
		if (kicked)
			sys_eventfd_clear(f->stop_fd);
		/* acquire: pairs with handlers_stop() */
		if (atomic_load_explicit(&f->stopping, memory_order_acquire)) {
			sys_eventfd_signal(f->stop_fd);	/* for the others */
			return NULL;
		}
		if (f->only) {
			serve(h, f->only);
			continue;
		}
		/* No lock is held: what is under way elsewhere goes on. */
		family_await(f);
		if (kicked || more)
			serve_kicked(h);
		if (faults)
			serve_ready(h);
	}
}

int handlers_start(struct family *f, uint32_t nr)
{
	unsigned int cpus[HANDLERS_MAX];
	int ret;

	if (!nr)
		nr = sys_cpus(cpus, HANDLERS_MAX);
	if (!nr)
		nr = 1;
	ret = roster_init(&f->roster, nr);
	if (ret)
		return ret;
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
	sys_eventfd_signal(f->stop_fd);
	roster_end_rest(&f->roster);
	for (uint32_t i = 0; i < f->nr_handlers; i++)
		thread_join(f->handlers[i].thread);
	arena_free(f->handlers, f->roster.nr * sizeof(*f->handlers));
	roster_destroy(&f->roster);
	f->handlers = NULL;
	f->nr_handlers = 0;
}
