/* SPDX-License-Identifier: MIT */
/*
 * The threads that serve a family's CPU faults: one pinned to each CPU, since a blocked
 * thread on the faulter's own CPU is woken five times faster than one elsewhere, and
 * following the faulter around loses. All wait in poll; whoever gets the mm lock first
 * reads.
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
	unsigned int cpu;
	bool pinned;
};

void handlers_kick(struct hmm_mm *mm)
{
	/* release: pairs with serve_kicked(); the ring was filled before */
	atomic_store_explicit(&mm->kicked, true, memory_order_release);
	sys_eventfd_signal(mm->family->stop_fd);
}

/* How many pages from @addr on may be filled with zeros at once. */
static uint32_t zero_window(struct hmm_mm *mm, uintptr_t addr)
{
	uintptr_t end;

	if (addr == mm->zero_next)
		mm->zero_window = mm->zero_window < ZERO_WINDOW_MAX ? mm->zero_window * 2 :
								      ZERO_WINDOW_MAX;
	else
		mm->zero_window = 1;
	end = directory_next(&mm->dir, addr + mm->page, addr + mm->zero_window * mm->page);
	end = adopt_next(mm, addr + mm->page, end);
	if (end > block_base(addr) + arena_chunk_bytes())
		end = block_base(addr) + arena_chunk_bytes();
	return (uint32_t)((end - addr) / mm->page);
}

/* A hole was touched. What is ahead of a sequential toucher is filled with it. */
static void fill_hole(struct hmm_mm *mm, const struct fault *f)
{
	uint32_t nr;
	size_t done = 0;
	int ret;

	directory_block_set_huge(&mm->dir, f->addr, false);
	if (adopt_fill(mm, f->addr, f->tid)) {
		fault_ended(mm, f, 1);
		return;
	}
	nr = zero_window(mm, f->addr);
	ret = sys_uffd_zeropage(mm->uffd, f->addr, nr * mm->page, 0, &done);
	if (!done && ret != -EAGAIN && nr > 1)	/* the window reached beyond the mapping */
		ret = sys_uffd_zeropage(mm->uffd, f->addr, mm->page, 0, &done);
	mm->stats.zero_fills += done / mm->page;
	mm->zero_next = f->addr + done;
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

static void serve(struct hmm_mm *mm)
{
	lock_acquire(&mm->lock);
	mm_drain(mm);
	while (mm->ring_head != mm->ring_tail) {
		struct fault f = mm->ring[mm->ring_head++ % FAULT_RING];

		resolve(mm, &f);
	}
	lock_release(&mm->lock);
}

/* Those mms whose userfaultfds have something. */
static void serve_ready(struct family *f)
{
	uint64_t tickets[READY_MAX];
	int nr = sys_epoll_ready(f->wait_fd, tickets, READY_MAX);

	for (int i = 0; i < nr; i++) {
		struct hmm_mm *mm = family_get_ticket(f, tickets[i]);

		if (!mm)
			continue;
		serve(mm);
		mm_put(mm);
	}
}

/* Those whose rings others have filled. */
static void serve_kicked(struct family *f)
{
	for (uint32_t i = 0; i < f->nr_slots; i++) {
		struct hmm_mm *mm = family_get(f, i);

		if (!mm)
			continue;
		if (atomic_exchange_explicit(&mm->kicked, false, memory_order_acquire))
			serve(mm);
		mm_put(mm);
	}
}

/* The lock is not held: what is under way elsewhere goes on. */
static void rest(struct family *f)
{
	const uint32_t us = atomic_load_explicit(&f->pace_us, memory_order_relaxed);

	if (us)
		sys_rest(us);
}

static void *handler_main(void *arg)
{
	struct handler_thread *h = arg;
	struct family *f = h->family;

	thread_state.on_handler = true;
	if (h->pinned)
		sys_pin_to_cpu(h->cpu);
	for (;;) {
		bool faults, kicked;

		if (sys_poll2(f->wait_fd, f->stop_fd, -1, &faults, &kicked) < 0)
			continue;
		if (kicked)
			sys_eventfd_clear(f->stop_fd);
		/* acquire: pairs with handlers_stop() */
		if (atomic_load_explicit(&f->stopping, memory_order_acquire)) {
			sys_eventfd_signal(f->stop_fd);	/* for the others */
			return NULL;
		}
		if (f->only) {
			serve(f->only);
			continue;
		}
		if (kicked)
			serve_kicked(f);
		if (faults) {
			rest(f);
			serve_ready(f);
		}
	}
}

int handlers_start(struct family *f, uint32_t nr)
{
	unsigned int cpus[256];
	unsigned int nr_cpus = sys_cpus(cpus, ARRAY_SIZE(cpus));

	if (!nr)
		nr = nr_cpus < HANDLERS_MAX ? nr_cpus : HANDLERS_MAX;
	if (!nr)
		nr = 1;
	f->handlers = arena_alloc(nr * sizeof(*f->handlers));
	if (!f->handlers)
		return -ENOMEM;
	for (f->nr_handlers = 0; f->nr_handlers < nr; f->nr_handlers++) {
		struct handler_thread *h = &f->handlers[f->nr_handlers];
		int ret;

		h->family = f;
		h->pinned = nr_cpus > 0 && nr >= nr_cpus;
		h->cpu = nr_cpus ? cpus[f->nr_handlers % nr_cpus] : 0;
		ret = thread_start(handler_main, h, &h->thread);
		if (ret) {
			handlers_stop(f);
			return ret;
		}
	}
	return 0;
}

void handlers_stop(struct family *f)
{
	atomic_store_explicit(&f->stopping, true, memory_order_release);
	sys_eventfd_signal(f->stop_fd);
	for (uint32_t i = 0; i < f->nr_handlers; i++)
		thread_join(f->handlers[i].thread);
	arena_free(f->handlers, f->nr_handlers * sizeof(*f->handlers));
	f->handlers = NULL;
	f->nr_handlers = 0;
}
