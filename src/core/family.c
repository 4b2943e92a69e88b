/* SPDX-License-Identifier: MIT */
#include "core/family.h"

#include <errno.h>
#include <limits.h>

#include "core/mm.h"
#include "core/trace.h"

#define SLOTS_BYTES	(FAMILY_MMS * sizeof(struct mm_slot))

static void close_files(struct family *f)
{
	if (!f->only)
		sys_close(f->pagemap_fd);
}

static uint32_t handlers_wanted(uint32_t nr)
{
	unsigned int cpus[HANDLERS_MAX];

	if (!nr)
		nr = sys_cpus(cpus, HANDLERS_MAX);
	return nr ? nr : 1;
}

/* Can be told where a thread that faulted runs? In another process /proc says it. */
static bool tells_cpus(const struct hmm_mm *only)
{
	return sys_cap(CAP_THREAD_ID) && (!only || sys_thread_cpu_word(sys_gettid()));
}

int family_make(struct process *process, struct hmm_mm *only, uint64_t staging_bytes,
		uint32_t nr_handlers, struct family **out)
{
	struct family *f = arena_alloc(sizeof(*f));
	int ret = -ENOMEM;

	if (!f)
		return ret;
	f->slots = arena_alloc(SLOTS_BYTES);
	if (!f->slots)
		goto err_free;
	f->process = process;
	f->only = only;
	family_allow(f, UINT64_MAX, UINT64_MAX);
	lock_init(&f->lock, RANK_FAMILY);
	f->pagemap_fd = only ? only->pagemap_fd : sys_pagemap_open();
	ret = f->pagemap_fd < 0 ? f->pagemap_fd : 0;
	if (ret)
		goto err_slots;
	ret = roster_init(&f->roster, handlers_wanted(nr_handlers), !tells_cpus(only));
	if (ret)
		goto err_files;
	ret = staging_init(&f->staging, only, staging_bytes);
	if (ret)
		goto err_roster;
	*out = f;
	return 0;

err_roster:
	roster_destroy(&f->roster);
err_files:
	close_files(f);
err_slots:
	arena_free(f->slots, SLOTS_BYTES);
err_free:
	arena_free(f, sizeof(*f));
	return ret;
}

void family_free(struct family *f)
{
	tracer_close(f);
	staging_fini(&f->staging);
	roster_destroy(&f->roster);
	close_files(f);
	arena_free(f->slots, SLOTS_BYTES);
	arena_free(f, sizeof(*f));
}

static int slot_take(struct family *f, struct hmm_mm *mm)
{
	for (uint32_t i = 0; i < FAMILY_MMS; i++) {
		if (f->slots[i].mm)
			continue;
		f->slots[i].mm = mm;
		mm->slot = i;
		mm->generation = ++f->slots[i].generation;
		f->nr_slots = i < f->nr_slots ? f->nr_slots : i + 1;
		f->nr_mms++;
		return 0;
	}
	return -ENOSPC;
}

int family_add(struct family *f, struct hmm_mm *mm)
{
	int ret;

	lock_acquire(&f->lock);
	ret = slot_take(f, mm);
	lock_release(&f->lock);
	if (!ret)
		ret = roster_add(&f->roster, &mm->watched, mm->uffd, mm_ticket(mm));
	if (ret)
		family_remove(f, mm);
	return ret;
}

bool family_remove(struct family *f, struct hmm_mm *mm)
{
	const struct timespec tick = { .tv_nsec = 2 * 1000 * 1000 };
	uint32_t refs;
	bool last = false;

	roster_remove(&f->roster, &mm->watched);
	lock_acquire(&f->lock);
	if (f->slots[mm->slot].mm == mm) {
		f->slots[mm->slot].mm = NULL;
		last = !--f->nr_mms;
	}
	lock_release(&f->lock);
	/* acquire: what its last user did is done */
	while ((refs = atomic_load_explicit(&mm->refs, memory_order_acquire)))
		sys_futex_wait(&mm->refs, refs, &tick);
	return last;
}

uint64_t mm_ticket(const struct hmm_mm *mm)
{
	return (uint64_t)mm->generation << 32 | mm->slot;
}

void mm_get(struct hmm_mm *mm)
{
	atomic_fetch_add_explicit(&mm->refs, 1, memory_order_relaxed);
}

void mm_put(struct hmm_mm *mm)
{
	/* release: pairs with family_remove(), after which there is no mm; its tick wakes it */
	atomic_fetch_sub_explicit(&mm->refs, 1, memory_order_release);
}

struct hmm_mm *family_get(struct family *f, uint32_t slot)
{
	struct hmm_mm *mm;

	lock_acquire(&f->lock);
	mm = slot < FAMILY_MMS ? f->slots[slot].mm : NULL;
	if (mm)
		mm_get(mm);
	lock_release(&f->lock);
	return mm;
}

struct hmm_mm *family_get_ticket(struct family *f, uint64_t ticket)
{
	struct hmm_mm *mm = family_get(f, (uint32_t)ticket);

	if (mm && mm->generation != (uint32_t)(ticket >> 32)) {
		mm_put(mm);
		return NULL;
	}
	return mm;
}

/* A leaf that is being taken down names an mm that is in no slot any more. */
struct hmm_mm *family_get_place(struct family *f, uint32_t place, uintptr_t *addr)
{
	struct hmm_mm *mm;

	lock_acquire(&f->lock);
	mm = process_place(f->process, place, addr);
	for (uint32_t i = 0; mm && i <= f->nr_slots; i++) {
		if (i == f->nr_slots)
			mm = NULL;
		else if (f->slots[i].mm == mm)
			break;
	}
	if (mm)
		mm_get(mm);
	lock_release(&f->lock);
	return mm;
}

void family_barrier(struct family *f)
{
	for (uint32_t i = 0; i < f->nr_slots; i++) {
		struct hmm_mm *mm = family_get(f, i);

		if (!mm)
			continue;
		lock_acquire(&mm->lock);
		lock_release(&mm->lock);
		mm_put(mm);
	}
}

/* ---------------------------------------------------------------- the allowance */

/*
 * How long a round of faults waits for it. Whoever sets it may need one of them served, a
 * little later, and a program must not stop for good.
 */
#define PATIENCE_NS	(20 * 1000000L)

void family_allow(struct family *f, uint64_t may_bring, uint64_t may_map)
{
	struct allowance *a = &f->allowance;

	atomic_store_explicit(&a->may_bring, may_bring, memory_order_relaxed);
	atomic_store_explicit(&a->may_map, may_map, memory_order_relaxed);
	/* release: pairs with family_await() */
	atomic_fetch_add_explicit(&a->set, 1, memory_order_release);
	sys_futex_wake(&a->set, INT_MAX);
}

/*
 * What is on its way counts against the bound, so that it is not brought twice over; and
 * not yet among what has come, which a policy adds its bound to: it finds that, and not
 * the former, when it looks at what is there.
 */
void family_bring(struct family *f, uint64_t pages)
{
	atomic_fetch_add_explicit(&f->allowance.begun, pages, memory_order_relaxed);
}

void family_brought(struct family *f, uint64_t begun, uint64_t pages)
{
	atomic_fetch_sub_explicit(&f->allowance.begun, begun - pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&f->allowance.brought, pages, memory_order_relaxed);
}

uint32_t family_room(const struct family *f)
{
	const struct allowance *a = &f->allowance;
	const uint64_t bound = atomic_load_explicit(&a->may_bring, memory_order_relaxed);
	const uint64_t begun = atomic_load_explicit(&a->begun, memory_order_relaxed);

	return begun >= bound ? 0 : bound - begun < UINT32_MAX ? (uint32_t)(bound - begun) :
								 UINT32_MAX;
}

void family_mapped(struct family *f, uint64_t pages)
{
	atomic_fetch_add_explicit(&f->allowance.mapped, pages, memory_order_relaxed);
}

bool family_may_map(const struct family *f)
{
	const struct allowance *a = &f->allowance;
	const uint64_t bound = atomic_load_explicit(&a->may_map, memory_order_relaxed);

	return bound == UINT64_MAX ||
	       atomic_load_explicit(&a->mapped, memory_order_relaxed) < bound;
}

void family_await(struct family *f)
{
	const uint64_t start = sys_now_ns();
	uint64_t waited = 0;

	while (waited < PATIENCE_NS) {
		/* acquire: the bounds are as new as the number */
		const uint32_t seen = atomic_load_explicit(&f->allowance.set, memory_order_acquire);
		const struct timespec left = { .tv_nsec = PATIENCE_NS - (long)waited };

		if (family_room(f))
			return;
		sys_futex_wait(&f->allowance.set, seen, &left);
		waited = sys_now_ns() - start;
	}
}
