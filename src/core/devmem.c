/* SPDX-License-Identifier: MIT */
#include "core/devmem.h"

#include <string.h>

#include "core/opts.h"
#include "core/thread.h"

#define DEVMEM_PAGES_MAX	BIT(36)
#define DEVMEM_FLAGS		(HMM_DEVMEM_FAULT_SAFE | HMM_DEVMEM_COHERENT)
#define OPS_OLDEST		sizeof(struct hmm_devmem_ops)

struct hmm_devmem *devmem_use(struct family *f, uint32_t id)
{
	struct hmm_devmem *d;

	lock_acquire(&f->lock);
	d = atomic_load_explicit(&f->devmems[id & (DEVMEMS - 1)], memory_order_relaxed);
	if (d && atomic_load_explicit(&d->dying, memory_order_relaxed))
		d = NULL;
	if (d)
		atomic_fetch_add_explicit(&d->users, 1, memory_order_relaxed);
	lock_release(&f->lock);
	return d;
}

void devmem_unuse(struct hmm_devmem *d)
{
	/* release: pairs with hmm_devmem_remove(), after which there is no devmem */
	atomic_fetch_sub_explicit(&d->users, 1, memory_order_release);
}

/* ---------------------------------------------------------------- binding */

void bound_flush(struct bound *bound)
{
	if (bound->nr)
		atomic_fetch_add_explicit(&bound->devmem->nr_bound, bound->nr,
					  memory_order_relaxed);
	bound->nr = 0;
}

bool devmem_bind(struct hmm_devmem *d, uint64_t index, struct hmm_mm *mm, uintptr_t addr,
		 struct bound *bound)
{
	uint32_t free = 0;

	lock_assert_held(&mm->lock);
	if (index >= d->nr_pages ||
	    !atomic_compare_exchange_strong_explicit(&d->place[index], &free,
						     directory_place(&mm->dir, addr),
						     memory_order_relaxed, memory_order_relaxed))
		return false;
	if (bound->devmem != d)
		bound_flush(bound);
	bound->devmem = d;
	bound->nr++;
	return true;
}

void devmem_rebind(struct hmm_devmem *d, uint64_t index, struct hmm_mm *mm, uintptr_t addr)
{
	uint32_t shared;

	lock_assert_held(&mm->lock);
	shared = atomic_load_explicit(&d->place[index], memory_order_relaxed) & PLACE_SHARED;
	if (shared)
		lock_acquire(&d->lock);
	atomic_store_explicit(&d->place[index], directory_place(&mm->dir, addr) | shared,
			      memory_order_relaxed);
	if (shared)
		lock_release(&d->lock);
}

/* The table of shares, made at the first. Lock held. */
static int refs_open(struct hmm_devmem *d)
{
	if (!d->refs)
		d->refs = arena_table_alloc(d->nr_pages * sizeof(*d->refs));
	return d->refs ? 0 : -ENOMEM;
}

int devmem_share(struct hmm_devmem *d, uint64_t index, uint64_t nr)
{
	int ret;

	lock_acquire(&d->lock);
	ret = refs_open(d);
	for (uint64_t i = index; !ret && i < index + nr; i++) {
		uint32_t place = atomic_load_explicit(&d->place[i], memory_order_relaxed);

		if (!(place & PLACE_SHARED)) {
			atomic_store_explicit(&d->place[i], place | PLACE_SHARED,
					      memory_order_relaxed);
			d->refs[i] = 1;
		}
		d->refs[i]++;
	}
	lock_release(&d->lock);
	return ret;
}

bool devmem_shared(struct hmm_devmem *d, uint64_t index)
{
	bool shared;

	if (!(atomic_load_explicit(&d->place[index], memory_order_relaxed) & PLACE_SHARED))
		return false;
	lock_acquire(&d->lock);
	shared = d->refs[index] > 1;
	lock_release(&d->lock);
	return shared;
}

/* One page holds it no more. Is there another? */
static bool share_drop(struct hmm_devmem *d, uint64_t index)
{
	bool others;

	lock_acquire(&d->lock);
	others = --d->refs[index];
	lock_release(&d->lock);
	return others;
}

void free_run_flush(struct free_run *run)
{
	if (!run->nr)
		return;
	thread_state.in_callback = true;
	run->devmem->ops.page_free(run->devmem, run->index, run->nr);
	thread_state.in_callback = false;
	/* release: pairs with evict_all(), which finds nothing bound */
	if (run->bound)
		atomic_fetch_sub_explicit(&run->devmem->nr_bound, run->nr,
					  memory_order_release);
	run->nr = 0;
}

void devmem_unbind(struct hmm_devmem *d, uint64_t index, struct free_run *run)
{
	if ((atomic_load_explicit(&d->place[index], memory_order_relaxed) & PLACE_SHARED) &&
	    share_drop(d, index))
		return;
	atomic_store_explicit(&d->place[index], 0, memory_order_relaxed);
	if (run->nr && run->devmem == d && index == run->index + run->nr) {
		run->nr++;
		return;
	}
	free_run_flush(run);
	*run = (struct free_run){ .devmem = d, .index = index, .nr = 1, .bound = true };
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

/* The page alone, if it is still away; then the CPU that waits for it goes on. No lock held. */
static void finish(struct hmm_mm *mm, const struct fault *f)
{
	const uintptr_t addr = f->addr;
	int64_t pages = mm_evict(mm, addr, addr + mm->page, NULL, false);
	uint64_t e;

	lock_acquire(&mm->lock);
	e = directory_get(&mm->dir, addr);
	/* In somebody else's flight: that one's end wakes the CPU. */
	if (entry_state(e) == PAGE_ISOLATED)
		isolation_met(mm, e, f);
	else if (entry_state(e) != PAGE_SYSTEM || pages <= 0)
		sys_uffd_wake(mm->uffd, addr, mm->page);	/* it changed hands: again */
	if (entry_state(e) == PAGE_SYSTEM)
		fault_served(mm, f);
	else if (entry_state(e) != PAGE_ISOLATED)
		fault_ended(mm, f, 0);
	lock_release(&mm->lock);
}

/*
 * The driver first, which keeps the mm and counts as a user until it has ended the
 * fault: that can be before migrate_to_ram has returned. No lock held.
 */
static void serve(struct hmm_devmem *d, struct hmm_mm *mm, const struct fault *f, bool spare)
{
	/* Not all of it: other faults are served meanwhile. */
	const uint32_t share = family_room(mm->family) / 4;
	struct hmm_fault fault = {
		.mm = mm, .addr = f->addr, .write = f->write, .thread = f->tid,
		.read_ns = f->read_ns, .most = share ? share : 1, .spare = spare,
	};
	uint64_t e = 0;

	if (d->ops.migrate_to_ram) {
		lock_acquire(&mm->lock);
		e = directory_get(&mm->dir, f->addr);
		lock_release(&mm->lock);
		fault.index = entry_index(e);
	}
	if (entry_state(e) == PAGE_DEVICE && entry_devmem(e) == d->id) {
		mm_get(mm);
		atomic_fetch_add_explicit(&d->users, 1, memory_order_relaxed);
		if (d->ops.migrate_to_ram(d, &fault) == -EINPROGRESS)
			return;
		devmem_unuse(d);
		mm_put(mm);
	}
	finish(mm, f);
}

void hmm_fault_done(struct hmm_devmem *d, const struct hmm_fault *fault)
{
	struct hmm_mm *mm = fault->mm;
	const struct fault f = {
		.addr = fault->addr, .read_ns = fault->read_ns, .tid = fault->thread,
		.write = fault->write, .kind = HMM_FAULT_DEVICE,
	};

	stack_prepare();
	finish(mm, &f);
	mm_put(mm);
	devmem_unuse(d);
}

static void *devmem_main(void *arg)
{
	struct hmm_devmem *d = arg;

	for (;;) {
		uint32_t seen = atomic_load_explicit(&d->wakeups, memory_order_acquire);
		struct devmem_fault f;
		bool have, stop;

		lock_acquire(&d->lock);
		have = d->head != d->tail;
		if (have)
			f = d->queue[d->head++ % DEVMEM_QUEUE];
		stop = d->stopping;
		lock_release(&d->lock);
		if (have) {
			serve(d, f.mm, &f.fault, false);
			mm_put(f.mm);
		} else if (stop) {
			return NULL;
		} else {
			sys_futex_wait(&d->wakeups, seen, NULL);
		}
	}
}

static void wake_thread(struct hmm_devmem *d)
{
	/* release: pairs with devmem_main(); the queue was changed before */
	atomic_fetch_add_explicit(&d->wakeups, 1, memory_order_release);
	sys_futex_wake(&d->wakeups, 1);
}

/* The mm's lock held. */
static bool enqueue(struct hmm_devmem *d, struct hmm_mm *mm, const struct fault *f)
{
	bool room;

	lock_acquire(&d->lock);
	room = d->tail - d->head < DEVMEM_QUEUE;
	if (room) {
		mm_get(mm);
		d->queue[d->tail++ % DEVMEM_QUEUE] = (struct devmem_fault){ mm, *f };
	}
	lock_release(&d->lock);
	if (room)
		wake_thread(d);
	return room;
}

void devmem_fault(struct hmm_mm *mm, struct hmm_devmem *d, const struct fault *f)
{
	if (!d->thread) {
		const bool last = mm->ring_head == mm->ring_tail;

		atomic_fetch_add_explicit(&d->users, 1, memory_order_relaxed);
		lock_release(&mm->lock);
		serve(d, mm, f, last && roster_has_spare(&mm->family->roster));
		lock_acquire(&mm->lock);
		devmem_unuse(d);
	} else if (!enqueue(d, mm, f)) {
		sys_uffd_wake(mm->uffd, f->addr, mm->page);	/* it will fault again */
		fault_ended(mm, f, 0);
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

/* An id for it. */
static int publish(struct family *f, struct hmm_devmem *d)
{
	int ret = -ENOSPC;

	lock_acquire(&f->lock);
	for (uint32_t id = 1; id < DEVMEMS && ret; id++) {
		if (atomic_load_explicit(&f->devmems[id], memory_order_relaxed))
			continue;
		d->id = id;
		/* release: who finds it finds all of it */
		atomic_store_explicit(&f->devmems[id], d, memory_order_release);
		f->nr_devmems++;
		ret = 0;
	}
	lock_release(&f->lock);
	return ret;
}

static void unpublish(struct hmm_devmem *d)
{
	struct family *f = d->family;

	lock_acquire(&f->lock);
	atomic_store_explicit(&f->devmems[d->id], NULL, memory_order_relaxed);
	f->nr_devmems--;
	lock_release(&f->lock);
	family_barrier(f);	/* nobody has found it under a lock that is still held */
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
	d->place = arena_table_alloc(opts->nr_pages * sizeof(*d->place));
	ret = -ENOMEM;
	if (!d->place)
		goto err_free;
	lock_init(&d->lock, RANK_DEVMEM);
	d->family = mm->family;
	d->ops = *opts->ops;
	d->flags = opts->flags;
	d->nr_pages = opts->nr_pages;
	d->owner = opts->owner;
	d->ctx = opts->ctx;
	ret = publish(mm->family, d);
	if (ret)
		goto err_place;
	if (!(d->flags & HMM_DEVMEM_FAULT_SAFE))
		ret = thread_start(devmem_main, d, &d->thread);
	if (ret)
		goto err_unpublish;
	d->alive = MM_ALIVE;
	mm_statics_look(mm);	/* its driver may have been loaded since */
	*out = d;
	return 0;

err_unpublish:
	unpublish(d);
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
	if (d->alive != MM_ALIVE)
		return -ECHILD;
	stack_prepare();
	return thread_state.in_callback ? -EDEADLK : 0;
}

/* Everything of one mm home. -EIO: some of it is lost. */
static int evict_mm(struct hmm_devmem *d, struct hmm_mm *mm)
{
	return mm_evict(mm, 0, sys_task_size(), d, false) == -EIO ? -EIO : 0;
}

/* Everything home. Flights that were under way when dying was set are waited for. */
static int evict_all(struct hmm_devmem *d)
{
	struct family *f = d->family;
	int result = 0;

	for (int round = 0; round < 5000; round++) {
		for (uint32_t i = 0; i < f->nr_slots; i++) {
			struct hmm_mm *mm = family_get(f, i);

			if (mm && evict_mm(d, mm))
				result = -EIO;
			if (mm)
				mm_put(mm);
		}
		/* acquire: the last page was let go, and whoever did is counted as a user */
		if (!atomic_load_explicit(&d->nr_bound, memory_order_acquire))
			return result;
		sys_rest(2000);
	}
	return -EAGAIN;
}

static void wait_for_users(struct hmm_devmem *d)
{
	const struct timespec tick = { .tv_nsec = 1000 * 1000 };
	uint32_t users;

	while ((users = atomic_load_explicit(&d->users, memory_order_acquire)))
		sys_futex_wait(&d->users, users, &tick);
}

int hmm_devmem_remove(struct hmm_devmem *d)
{
	int ret, err;

	if (!d)
		return 0;
	err = devmem_enter(d);
	if (err)
		return err;
	atomic_store_explicit(&d->dying, true, memory_order_relaxed);
	family_barrier(d->family);
	ret = evict_all(d);
	if (ret == -EAGAIN) {
		atomic_store_explicit(&d->dying, false, memory_order_relaxed);
		return ret;
	}
	lock_acquire(&d->lock);
	d->stopping = true;
	lock_release(&d->lock);
	wake_thread(d);
	thread_join(d->thread);
	wait_for_users(d);
	unpublish(d);
	d->alive = 0;
	hmm_safe_free(d->place, d->nr_pages * sizeof(*d->place));
	hmm_safe_free(d->refs, d->nr_pages * sizeof(*d->refs));
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

/* Does the page at @addr hold @index? The mm's lock held. */
static bool holds(struct hmm_devmem *d, uint64_t index, struct hmm_mm *mm, uintptr_t addr)
{
	uint64_t e = directory_get(&mm->dir, addr);

	return (entry_state(e) == PAGE_DEVICE || entry_state(e) == PAGE_COHERENT) &&
	       entry_devmem(e) == d->id && entry_index(e) == index;
}

/* Where in the mm is a page that holds @index? First at @addr. The mm's lock held. */
static bool find_in(struct hmm_devmem *d, uint64_t index, struct hmm_mm *mm, uintptr_t *addr)
{
	const uintptr_t end = sys_task_size();
	uintptr_t a = *addr;

	if (holds(d, index, mm, a))
		return true;
	for (a = directory_next(&mm->dir, 0, end); a < end && !holds(d, index, mm, a);
	     a = directory_next(&mm->dir, a + mm->page, end))
		;
	*addr = a;
	return a < end;
}

/*
 * A page that holds @index now: its mm, in use and locked, or NULL. By the place; the
 * other holders of a shared one are nearly always at the same address.
 */
static struct hmm_mm *holder(struct hmm_devmem *d, uint64_t index, uintptr_t *addr)
{
	uint32_t place = atomic_load_explicit(&d->place[index], memory_order_relaxed);
	struct family *f = d->family;
	struct hmm_mm *mm;

	mm = place ? family_get_place(f, place & ~PLACE_SHARED, addr) : NULL;
	if (mm) {
		lock_acquire(&mm->lock);
		if (holds(d, index, mm, *addr))
			return mm;
		lock_release(&mm->lock);
		mm_put(mm);
	}
	for (uint32_t i = 0; (place & PLACE_SHARED) && i < f->nr_slots; i++) {
		uintptr_t at = *addr;

		mm = family_get(f, i);
		if (!mm)
			continue;
		lock_acquire(&mm->lock);
		if (find_in(d, index, mm, &at)) {
			*addr = at;
			return mm;
		}
		lock_release(&mm->lock);
		mm_put(mm);
	}
	return NULL;
}

int hmm_devmem_lookup(struct hmm_devmem *d, uint64_t index, uintptr_t *addr)
{
	struct hmm_mm *mm;
	uintptr_t a = 0;
	int ret = devmem_enter(d);

	if (ret)
		return ret;
	if (!addr || index >= d->nr_pages)
		return -EINVAL;
	mm = holder(d, index, &a);
	if (!mm)
		return -ENOENT;
	lock_release(&mm->lock);
	mm_put(mm);
	*addr = a;
	return 0;
}

static bool bound(const struct hmm_devmem *d, uint64_t index)
{
	return atomic_load_explicit(&d->place[index], memory_order_relaxed) != 0;
}

static bool index_range_ok(const struct hmm_devmem *d, uint64_t index, uint64_t nr)
{
	return nr && index < d->nr_pages && nr <= d->nr_pages - index;
}

/* How many consecutive indices from @index on consecutive pages from @addr on hold. */
static uint64_t holder_run(struct hmm_devmem *d, uint64_t index, uint64_t nr, struct hmm_mm *mm,
			   uintptr_t addr)
{
	uint64_t n = 1;

	while (n < nr && addr + n * mm->page < sys_task_size() &&
	       holds(d, index + n, mm, addr + n * mm->page))
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
		struct hmm_mm *mm = holder(d, index, &addr);
		int64_t done;
		uint64_t n;

		if (!mm) {
			index++;
			continue;
		}
		n = holder_run(d, index, end - index, mm, addr);
		lock_release(&mm->lock);
		done = mm_evict(mm, addr, addr + n * mm->page, d, false);
		mm_put(mm);
		if (done < 0)
			lost = true;
		else
			pages += done;
		/* What is bound still has another holder: round again, as long as it helps. */
		index += done <= 0;
		for (; n && index < end && !bound(d, index); n--)
			index++;
	}
	return lost ? -EIO : pages;
}

/*
 * One page of the program's, whose bytes are lost. false: it was unmapped, and is unbound,
 * or has moved. The mm's lock held.
 */
static bool poison_page(struct hmm_devmem *d, uint64_t index, struct hmm_mm *mm, uintptr_t addr)
{
	struct free_run run = { 0 };

	mm_invalidate(mm, HMM_EVENT_MIGRATE, addr, addr + mm->page, NULL);
	if (!mm_poison(mm, addr))
		return false;
	devmem_unbind(d, index, &run);
	free_run_flush(&run);
	return true;
}

int64_t hmm_devmem_poison(struct hmm_devmem *d, uint64_t index, uint64_t nr_pages)
{
	uint64_t end = index + nr_pages;
	struct hmm_mm *told = NULL;
	int64_t pages = 0;
	int ret = devmem_enter(d);

	if (ret)
		return ret;
	if (!index_range_ok(d, index, nr_pages))
		return -EINVAL;
	while (index < end) {
		uintptr_t addr = 0;
		struct hmm_mm *mm = holder(d, index, &addr);

		if (!mm) {
			index++;
			continue;
		}
		/* One that has moved is looked for again. */
		pages += poison_page(d, index, mm, addr);
		lock_release(&mm->lock);
		if (told)
			mm_put(told);
		told = mm;
	}
	if (pages)
		core_log(told, HMM_LOG_ERROR,
			 "HMM-108 device %u lost %l pages; their readers get SIGBUS", d->id,
			 (uint64_t)pages);
	if (told)
		mm_put(told);
	return pages;
}

static uint64_t table_bytes(const void *table, size_t len, int pagemap_fd)
{
	const size_t page = sys_page_size();
	uint64_t nr = (len + page - 1) / page, bytes = 0;
	uint8_t states[BLOCK_PAGES];

	for (uint64_t i = 0; table && i < nr; i += sizeof(states)) {
		size_t n = nr - i < sizeof(states) ? nr - i : sizeof(states);

		if (sys_page_states(pagemap_fd, (uintptr_t)table + i * page, n, states))
			continue;
		for (size_t j = 0; j < n; j++)
			if ((states[j] & SYS_PAGE_PRESENT) && !(states[j] & SYS_PAGE_ZERO))
				bytes += page;
	}
	return bytes;
}

uint64_t devmem_bytes(const struct hmm_devmem *d, int pagemap_fd)
{
	return table_bytes((const void *)d->place, d->nr_pages * sizeof(*d->place), pagemap_fd) +
	       table_bytes(d->refs, d->nr_pages * sizeof(*d->refs), pagemap_fd);
}
