/* SPDX-License-Identifier: MIT */
#include "core/devmem.h"

#include <string.h>

#include "core/opts.h"
#include "core/thread.h"

#define DEVMEM_PAGES_MAX	BIT(36)
#define DEVMEM_FLAGS		(HMM_DEVMEM_FAULT_SAFE | HMM_DEVMEM_COHERENT)
#define OPS_OLDEST		sizeof(struct hmm_devmem_ops)

struct hmm_devmem *devmem_use(struct hmm_mm *mm, uint32_t id)
{
	struct hmm_devmem *d;

	lock_acquire(&mm->lock);
	d = devmem_find(mm, id);
	if (d && d->dying)
		d = NULL;
	if (d)
		d->users++;
	lock_release(&mm->lock);
	return d;
}

void devmem_unuse(struct hmm_devmem *d)
{
	struct hmm_mm *mm = d->mm;

	lock_acquire(&mm->lock);
	d->users--;
	lock_release(&mm->lock);
}

/* ---------------------------------------------------------------- binding */

void devmem_bind(struct hmm_devmem *d, uint64_t index, uintptr_t addr)
{
	lock_assert_held(&d->mm->lock);
	d->place[index] = directory_place(&d->mm->dir, addr);
	d->nr_bound++;
}

void devmem_rebind(struct hmm_devmem *d, uint64_t index, uintptr_t addr)
{
	d->place[index] = directory_place(&d->mm->dir, addr);
}

bool devmem_index_free(const struct hmm_devmem *d, uint64_t index)
{
	return index < d->nr_pages && !d->place[index];
}

void free_run_flush(struct free_run *run)
{
	if (!run->nr)
		return;
	thread_state.in_callback = true;
	run->devmem->ops.page_free(run->devmem, run->index, run->nr);
	thread_state.in_callback = false;
	run->nr = 0;
}

void devmem_unbind(struct hmm_devmem *d, uint64_t index, struct free_run *run)
{
	lock_assert_held(&d->mm->lock);
	d->place[index] = 0;
	d->nr_bound--;
	if (run->nr && run->devmem == d && index == run->index + run->nr) {
		run->nr++;
		return;
	}
	free_run_flush(run);
	*run = (struct free_run){ d, index, 1 };
}

/* ---------------------------------------------------------------- copies */

void hmm_copy_done(struct hmm_copy *copy, int error)
{
	copy->error = error;
	/* release: pairs with copy_wait(); the copy is gone as soon as this is seen */
	atomic_store_explicit(&copy->done, 1, memory_order_release);
	sys_futex_wake(&copy->done, 1);
}

static int copy_wait(struct hmm_copy *copy, int ret)
{
	if (ret != -EINPROGRESS)
		return ret;
	while (!atomic_load_explicit(&copy->done, memory_order_acquire))
		sys_futex_wait(&copy->done, 0, NULL);
	return copy->error;
}

int devmem_copy_to(struct hmm_devmem *d, const struct hmm_copy_run *runs, size_t nr)
{
	struct hmm_copy copy = { .error = 0 };
	int ret;

	thread_state.in_callback = true;
	ret = d->ops.copy_to_device(d, &copy, runs, nr);
	thread_state.in_callback = false;
	return copy_wait(&copy, ret);
}

int devmem_copy_from(struct hmm_devmem *d, const struct hmm_copy_run *runs, size_t nr)
{
	struct hmm_copy copy = { .error = 0 };
	int ret;

	thread_state.in_callback = true;
	ret = d->ops.copy_from_device(d, &copy, runs, nr);
	thread_state.in_callback = false;
	return copy_wait(&copy, ret);
}

int devmem_copy_peer(struct hmm_devmem *d, struct hmm_devmem *from,
		     const struct hmm_peer_run *runs, size_t nr)
{
	struct hmm_copy copy = { .error = 0 };
	int ret;

	if (!d->ops.copy_peer)
		return -EOPNOTSUPP;
	thread_state.in_callback = true;
	ret = d->ops.copy_peer(d, from, &copy, runs, nr);
	thread_state.in_callback = false;
	return copy_wait(&copy, ret);
}

/* ---------------------------------------------------------------- faults */

/* No lock held. The driver first; what it leaves is brought home alone. */
static void serve(struct hmm_devmem *d, const struct fault *f)
{
	struct hmm_mm *mm = d->mm;
	uint64_t e;

	if (d->ops.migrate_to_ram) {
		struct hmm_fault fault = { mm, f->addr, 0, f->write, f->tid };

		lock_acquire(&mm->lock);
		e = directory_get(&mm->dir, f->addr);
		lock_release(&mm->lock);
		fault.index = entry_index(e);
		if (entry_state(e) == PAGE_DEVICE && entry_devmem(e) == d->id)
			d->ops.migrate_to_ram(d, &fault);
	}
	mm_evict(mm, f->addr, f->addr + mm->page, NULL, false);
	lock_acquire(&mm->lock);
	e = directory_get(&mm->dir, f->addr);
	/* In somebody else's flight: that one's end wakes the CPU. */
	if (entry_state(e) == PAGE_ISOLATED)
		mm->isolations[entry_isolation(e)]->waiters = true;
	else if (entry_state(e) != PAGE_SYSTEM)
		sys_uffd_wake(mm->uffd, f->addr, mm->page);	/* it changed hands: again */
	lock_release(&mm->lock);
}

static void *devmem_main(void *arg)
{
	struct hmm_devmem *d = arg;

	for (;;) {
		uint32_t seen = atomic_load_explicit(&d->wakeups, memory_order_acquire);
		struct fault f;
		bool have, stop;

		lock_acquire(&d->lock);
		have = d->head != d->tail;
		if (have)
			f = d->queue[d->head++ % DEVMEM_QUEUE];
		stop = d->stopping;
		lock_release(&d->lock);
		if (have)
			serve(d, &f);
		else if (stop)
			return NULL;
		else
			sys_futex_wait(&d->wakeups, seen, NULL);
	}
}

static void wake_thread(struct hmm_devmem *d)
{
	/* release: pairs with devmem_main(); the queue was changed before */
	atomic_fetch_add_explicit(&d->wakeups, 1, memory_order_release);
	sys_futex_wake(&d->wakeups, 1);
}

static bool enqueue(struct hmm_devmem *d, const struct fault *f)
{
	bool room;

	lock_acquire(&d->lock);
	room = d->tail - d->head < DEVMEM_QUEUE;
	if (room)
		d->queue[d->tail++ % DEVMEM_QUEUE] = *f;
	lock_release(&d->lock);
	if (room)
		wake_thread(d);
	return room;
}

void devmem_fault(struct hmm_mm *mm, struct hmm_devmem *d, const struct fault *f)
{
	if (!d->thread) {
		d->users++;
		lock_release(&mm->lock);
		serve(d, f);
		lock_acquire(&mm->lock);
		d->users--;
	} else if (!enqueue(d, f)) {
		sys_uffd_wake(mm->uffd, f->addr, mm->page);	/* it will fault again */
	}
}

/* ---------------------------------------------------------------- life */

static int check_opts(const struct hmm_devmem_opts *opts)
{
	const struct hmm_devmem_ops *ops = opts->ops;
	int ret = opts_check(opts, opts->size, sizeof(*opts), sizeof(*opts));

	if (ret)
		return ret;
	if ((opts->flags & ~DEVMEM_FLAGS) || !opts->owner || !ops || !opts->nr_pages ||
	    opts->nr_pages > DEVMEM_PAGES_MAX)
		return -EINVAL;
	ret = opts_check(ops, ops->size, sizeof(*ops), OPS_OLDEST);
	if (ret)
		return ret;
	return ops->copy_to_device && ops->copy_from_device && ops->page_free ? 0 : -EINVAL;
}

/* An id for it. Lock held. */
static int publish(struct hmm_mm *mm, struct hmm_devmem *d)
{
	for (uint32_t id = 1; id < DEVMEMS; id++) {
		if (mm->process->devmems[id])
			continue;
		d->id = id;
		mm->process->devmems[id] = d;
		mm->nr_devmems++;
		return 0;
	}
	return -ENOSPC;
}

static void unpublish(struct hmm_devmem *d)
{
	d->mm->process->devmems[d->id] = NULL;
	d->mm->nr_devmems--;
}

int hmm_devmem_add(struct hmm_mm *mm, const struct hmm_devmem_opts *opts, struct hmm_devmem **out)
{
	struct hmm_devmem *d;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!opts || !out)
		return -EINVAL;
	ret = check_opts(opts);
	if (ret)
		return ret;
	d = arena_alloc(sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->place = hmm_safe_alloc(opts->nr_pages * sizeof(*d->place));
	ret = -ENOMEM;
	if (!d->place)
		goto err_free;
	lock_init(&d->lock, RANK_DEVMEM);
	d->mm = mm;
	d->ops = *opts->ops;
	d->flags = opts->flags;
	d->nr_pages = opts->nr_pages;
	d->owner = opts->owner;
	d->ctx = opts->ctx;
	lock_acquire(&mm->lock);
	ret = publish(mm, d);
	lock_release(&mm->lock);
	if (ret)
		goto err_place;
	if (!(d->flags & HMM_DEVMEM_FAULT_SAFE))
		ret = thread_start(devmem_main, d, &d->thread);
	if (ret)
		goto err_unpublish;
	d->alive = MM_ALIVE;
	*out = d;
	return 0;

err_unpublish:
	lock_acquire(&mm->lock);
	unpublish(d);
	lock_release(&mm->lock);
err_place:
	hmm_safe_free(d->place, opts->nr_pages * sizeof(*d->place));
err_free:
	arena_free(d, sizeof(*d));
	return ret;
}

static int devmem_enter(const struct hmm_devmem *d)
{
	if (!d)
		return -EINVAL;
	return d->alive == MM_ALIVE ? mm_enter(d->mm) : -ECHILD;
}

/* Everything home. Flights that were under way when dying was set are waited for. */
static int evict_all(struct hmm_devmem *d)
{
	struct hmm_mm *mm = d->mm;
	int result = 0;

	for (int round = 0; round < 5000; round++) {
		uint64_t left;

		if (mm_evict(mm, 0, sys_task_size(), d, false) == -EIO)
			result = -EIO;
		lock_acquire(&mm->lock);
		left = d->nr_bound;
		if (left)
			isolation_wait(mm);
		lock_release(&mm->lock);
		if (!left)
			return result;
	}
	return -EAGAIN;
}

int hmm_devmem_remove(struct hmm_devmem *d)
{
	struct hmm_mm *mm;
	int ret, err;

	if (!d)
		return 0;
	err = devmem_enter(d);
	if (err)
		return err;
	mm = d->mm;
	lock_acquire(&mm->lock);
	d->dying = true;
	lock_release(&mm->lock);
	ret = evict_all(d);
	if (ret == -EAGAIN) {
		lock_acquire(&mm->lock);
		d->dying = false;
		lock_release(&mm->lock);
		return ret;
	}
	lock_acquire(&d->lock);
	d->stopping = true;
	lock_release(&d->lock);
	wake_thread(d);
	thread_join(d->thread);
	/* Who looks it up does so under the lock, and finds it dying or counts as a user. */
	lock_acquire(&mm->lock);
	while (d->users)
		isolation_wait(mm);
	unpublish(d);
	lock_release(&mm->lock);
	d->alive = 0;
	hmm_safe_free(d->place, d->nr_pages * sizeof(*d->place));
	arena_free(d, sizeof(*d));
	return ret;
}

uint32_t hmm_devmem_id(const struct hmm_devmem *d)
{
	return d ? d->id : 0;
}

void *hmm_devmem_ctx(const struct hmm_devmem *d)
{
	return d ? d->ctx : NULL;
}

/* ---------------------------------------------------------------- by index */

/* The page that holds @index now, by directory and reverse map both. Lock held. */
static bool holder(struct hmm_devmem *d, uint64_t index, uintptr_t *addr)
{
	uint64_t e;

	if (!d->place[index])
		return false;
	*addr = process_place_addr(d->mm->process, d->place[index]);
	e = directory_get(&d->mm->dir, *addr);
	return (entry_state(e) == PAGE_DEVICE || entry_state(e) == PAGE_COHERENT) &&
	       entry_devmem(e) == d->id && entry_index(e) == index;
}

int hmm_devmem_lookup(struct hmm_devmem *d, uint64_t index, uintptr_t *addr)
{
	uintptr_t a;
	bool held;
	int ret = devmem_enter(d);

	if (ret)
		return ret;
	if (!addr || index >= d->nr_pages)
		return -EINVAL;
	lock_acquire(&d->mm->lock);
	held = holder(d, index, &a);
	lock_release(&d->mm->lock);
	if (!held)
		return -ENOENT;
	*addr = a;
	return 0;
}

static bool index_range_ok(const struct hmm_devmem *d, uint64_t index, uint64_t nr)
{
	return nr && index < d->nr_pages && nr <= d->nr_pages - index;
}

/* The run of consecutive addresses that holds indices from @index on; 0 pages: none. */
static uint64_t holder_run(struct hmm_devmem *d, uint64_t index, uint64_t nr, uintptr_t *addr)
{
	uintptr_t next;
	uint64_t n = 1;

	if (!holder(d, index, addr))
		return 0;
	while (n < nr && holder(d, index + n, &next) && next == *addr + n * d->mm->page)
		n++;
	return n;
}

int64_t hmm_devmem_evict(struct hmm_devmem *d, uint64_t index, uint64_t nr_pages)
{
	uint64_t end = index + nr_pages;
	int64_t pages = 0;
	bool lost = false;
	int ret = devmem_enter(d);

	if (ret)
		return ret;
	if (!index_range_ok(d, index, nr_pages))
		return -EINVAL;
	while (index < end) {
		uintptr_t addr = 0;
		uint64_t n;
		int64_t done = 0;

		lock_acquire(&d->mm->lock);
		n = holder_run(d, index, end - index, &addr);
		lock_release(&d->mm->lock);
		if (n)
			done = mm_evict(d->mm, addr, addr + n * d->mm->page, d, false);
		if (done < 0)
			lost = true;
		else
			pages += done;
		index += n ? n : 1;
	}
	return lost ? -EIO : pages;
}

int64_t hmm_devmem_poison(struct hmm_devmem *d, uint64_t index, uint64_t nr_pages)
{
	struct free_run run = { 0 };
	int64_t pages = 0;
	struct hmm_mm *mm;
	int ret = devmem_enter(d);

	if (ret)
		return ret;
	if (!index_range_ok(d, index, nr_pages))
		return -EINVAL;
	mm = d->mm;
	lock_acquire(&mm->lock);
	for (uint64_t i = index; i < index + nr_pages; i++) {
		uintptr_t addr;

		if (!holder(d, i, &addr))
			continue;
		mm_invalidate(mm, HMM_EVENT_MIGRATE, addr, addr + mm->page, NULL);
		devmem_unbind(d, i, &run);
		mm_poison(mm, addr);
		pages++;
	}
	free_run_flush(&run);
	lock_release(&mm->lock);
	if (pages)
		core_log(mm, HMM_LOG_ERROR,
			 "HMM-108 device %u lost %l pages; their readers get SIGBUS", d->id,
			 (uint64_t)pages);
	return pages;
}

uint64_t devmem_bytes(const struct hmm_devmem *d, int pagemap_fd)
{
	const size_t page = sys_page_size();
	uint64_t nr = (d->nr_pages * sizeof(*d->place) + page - 1) / page, bytes = 0;
	uint8_t states[BLOCK_PAGES];

	for (uint64_t i = 0; i < nr; i += sizeof(states)) {
		size_t n = nr - i < sizeof(states) ? nr - i : sizeof(states);

		if (sys_page_states(pagemap_fd, (uintptr_t)d->place + i * page, n, states))
			continue;
		for (size_t j = 0; j < n; j++)
			if ((states[j] & SYS_PAGE_PRESENT) && !(states[j] & SYS_PAGE_ZERO))
				bytes += page;
	}
	return bytes;
}
