/* SPDX-License-Identifier: MIT */
/*
 * Notifiers: which events reach them, with which type and owner, what overlap means,
 * and the sequence that makes a mirror correct.
 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR	16
#define RW	(PROT_READ | PROT_WRITE)

/* An event of a change reached @h: at once where it is announced, else at last. */
#define assert_hears(h, type, start, end) \
	assert_true(eventually(heard_event(h, type, NULL, start, end)))

/* Sequence: the state before the event is stale, the state after it is not. */
static void assert_stale(struct heard *h, uint64_t seq)
{
	assert_true(eventually(hmm_notifier_read_retry(h->notifier, seq)));
	assert_false(hmm_notifier_read_retry(h->notifier,
					     hmm_notifier_read_begin(h->notifier)));
}

/* munmap tells UNMAP, and a read begun before it is stale. */
static void munmap_tells_unmap(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 1);
	struct heard *h = listen_to(w, p, p + NR * page);
	uint64_t seq = hmm_notifier_read_begin(h->notifier);

	assert_false(hmm_notifier_read_retry(h->notifier, seq));
	assert_int_equal(munmap(p, 4 * page), 0);
	assert_hears(h, HMM_EVENT_UNMAP, p, p + 4 * page);
	assert_stale(h, seq);
	assert_true(moved(w, invalidations) >= 1);
	listen_end(h);
	munmap(p, NR * page);
}

/* mremap(DONTUNMAP), which unmaps nothing, empties the old place: it is told too. */
static void mremap_dontunmap_tells_unmap(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1), *q;
	struct heard *h = listen_to(w, p, p + NR * page);

	to_device(w, w->dev, p, NR);
	q = mremap(p, NR * page, NR * page, MREMAP_MAYMOVE | 4 /* DONTUNMAP */, NULL);
	assert_ptr_not_equal(q, MAP_FAILED);
	assert_true(eventually(heard_event(h, HMM_EVENT_UNMAP, NULL, p, p + NR * page)));
	assert_holds(q, NR, 1, 0);
	assert_true(all_zero(p, NR * page));
	listen_end(h);
	munmap(p, NR * page);
	munmap(q, NR * page);
}

/* mremap tells UNMAP of the old place. */
static void mremap_tells_unmap_of_the_old_place(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 1);
	unsigned char *q = map_pages(NR, PROT_NONE, 0);
	struct heard *h = listen_to(w, p, p + NR * page);
	uint64_t seq = hmm_notifier_read_begin(h->notifier);

	assert_ptr_equal(mremap(p, NR * page, NR * page, MREMAP_MAYMOVE | MREMAP_FIXED, q), q);
	assert_hears(h, HMM_EVENT_UNMAP, p, p + NR * page);
	assert_stale(h, seq);
	listen_end(h);
	munmap(q, NR * page);
}

/* mmap(MAP_FIXED) over the range tells UNMAP. */
static void map_fixed_tells_unmap(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 1);
	struct heard *h = listen_to(w, p, p + NR * page);
	uint64_t seq = hmm_notifier_read_begin(h->notifier);

	assert_ptr_equal(mmap(p, NR * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 p);
	assert_hears(h, HMM_EVENT_UNMAP, p, p + NR * page);
	assert_stale(h, seq);
	listen_end(h);
	munmap(p, NR * page);
}

/* DONTNEED and FREE tell CLEAR. */
static void madvise_tells_clear(void **state)
{
	static const int advice[] = { MADV_DONTNEED, MADV_FREE };
	struct world *w = *state;

	for (size_t i = 0; i < ARRAY_LEN(advice); i++) {
		unsigned char *p = map_away(w, NR, 1);
		struct heard *h = listen_to(w, p, p + NR * page);
		uint64_t seq = hmm_notifier_read_begin(h->notifier);

		assert_int_equal(madvise(p + 4 * page, 4 * page, advice[i]), 0);
		assert_hears(h, HMM_EVENT_CLEAR, p + 4 * page, p + 8 * page);
		assert_stale(h, seq);
		listen_end(h);
		munmap(p, NR * page);
	}
}

/* STRICT: mprotect tells PROTECT before the permission changes. */
static void mprotect_tells_protect(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	struct heard *h = listen_to(w, p, p + NR * page);
	uint64_t seq = hmm_notifier_read_begin(h->notifier);

	assert_int_equal(mprotect(p, 4 * page, PROT_READ), 0);
	assert_true(heard_event(h, HMM_EVENT_PROTECT, NULL, p, p + 4 * page));
	assert_true(hmm_notifier_read_retry(h->notifier, seq));
	listen_end(h);
	munmap(p, NR * page);
}

/* STRICT: changes of a range with nothing away are told too, when the call returns. */
static void changes_of_system_pages_are_announced(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	struct heard *h = listen_to(w, p, p + NR * page);

	assert_int_equal(madvise(p, page, MADV_DONTNEED), 0);
	assert_true(heard_event(h, HMM_EVENT_CLEAR, NULL, p, p + page));
	assert_ptr_equal(mremap(p, NR * page, 8 * page, 0), p);
	assert_true(heard_event(h, HMM_EVENT_UNMAP, NULL, p + 8 * page, p + NR * page));
	assert_int_equal(munmap(p, 8 * page), 0);
	assert_true(heard_event(h, HMM_EVENT_UNMAP, NULL, p, p + 8 * page));
	listen_end(h);
}

/* STRICT: a shared mapping's changes are announced as well. */
static void changes_of_shared_memory_are_announced(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, MAP_SHARED);
	struct heard *h = listen_to(w, p, p + NR * page);

	assert_int_equal(mprotect(p, page, PROT_READ), 0);
	assert_true(heard_event(h, HMM_EVENT_PROTECT, NULL, p, p + page));
	assert_int_equal(munmap(p, NR * page), 0);
	assert_true(heard_event(h, HMM_EVENT_UNMAP, NULL, p, p + NR * page));
	listen_end(h);
}

/* A migration tells MIGRATE with the owner that asked. */
static void migration_tells_migrate_with_owner(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	struct heard *h = listen_to(w, p, p + NR * page);
	uint64_t seq = hmm_notifier_read_begin(h->notifier);
	static uint64_t src[NR], dst[NR];
	struct hmm_migrate m = {
		.size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM, .start = (uintptr_t)p,
		.end = (uintptr_t)p + NR * page, .src = src, .dst = dst, .owner = world_owner_b,
	};

	memset(dst, 0, sizeof(dst));
	assert_int_equal(hmm_migrate_setup(w->mm, &m), 0);
	assert_true(heard_event(h, HMM_EVENT_MIGRATE, world_owner_b, p, p + NR * page));
	assert_stale(h, seq);
	hmm_migrate_pages(w->mm, &m);
	hmm_migrate_finalize(w->mm, &m);
	listen_end(h);
	munmap(p, NR * page);
}

/* hmm_migrate_to_device() tells MIGRATE with the devmem's owner. */
static void migrate_to_device_owner_is_the_devmem_owner(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	struct heard *h = listen_to(w, p, p + NR * page);

	to_device(w, w->other, p, NR);
	assert_true(heard_event(h, HMM_EVENT_MIGRATE, world_owner_b, p, p + NR * page));
	listen_end(h);
	munmap(p, NR * page);
}

/* A CPU's touch of a device page tells MIGRATE before the bytes are at home. */
static void cpu_fault_tells_migrate(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 1);
	struct heard *h = listen_to(w, p, p + NR * page);
	uint64_t seq = hmm_notifier_read_begin(h->notifier);

	assert_int_equal(p[3 * page], (unsigned char)pattern(1, 3, 0));
	assert_true(heard_type(h, HMM_EVENT_MIGRATE) >= 1);
	assert_true(hmm_notifier_read_retry(h->notifier, seq));
	listen_end(h);
	munmap(p, NR * page);
}

/* Exclusive access tells EXCLUSIVE: with owner when it begins, without when it ends. */
static void exclusive_tells_begin_and_end(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	struct heard *h = listen_to(w, p, p + NR * page);
	uint64_t seq = hmm_notifier_read_begin(h->notifier);
	void *contents[1];

	assert_int_equal(hmm_exclusive_begin(w->mm, (uintptr_t)p, (uintptr_t)p + page,
					     world_owner_a, contents), 1);
	assert_true(heard_event(h, HMM_EVENT_EXCLUSIVE, world_owner_a, p, p + page));
	assert_false(heard_event(h, HMM_EVENT_EXCLUSIVE, NULL, p, p + page));
	assert_stale(h, seq);
	seq = hmm_notifier_read_begin(h->notifier);
	assert_int_equal(*p, (unsigned char)pattern(1, 0, 0));
	assert_true(heard_event(h, HMM_EVENT_EXCLUSIVE, NULL, p, p + page));
	assert_stale(h, seq);
	listen_end(h);
	munmap(p, NR * page);
}

/* fork tells FORK to every notifier. */
static void fork_tells_fork(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 1);
	struct heard *h = listen_to(w, p, p + NR * page);
	uint64_t seq = hmm_notifier_read_begin(h->notifier);
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		child_signals();
		_exit(0);
	}
	assert_int_equal(wait_child(pid), 0);
	assert_hears(h, HMM_EVENT_FORK, p, p + NR * page);
	assert_stale(h, seq);
	listen_end(h);
	munmap(p, NR * page);
}

/* Only what overlaps is heard: [start, end) ends before end. */
static void neighbours_are_not_heard(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	struct heard *below = listen_to(w, p, p + 4 * page);
	struct heard *inside = listen_to(w, p + 5 * page, p + 6 * page);
	struct heard *over = listen_to(w, p, p + NR * page);
	struct heard *above = listen_to(w, p + 8 * page, p + NR * page);
	struct heard *edge = listen_to(w, p + 3 * page, p + 5 * page);
	uint64_t seq = hmm_notifier_read_begin(below->notifier);

	to_device(w, w->dev, p + 4 * page, 4);
	assert_int_equal(below->nr, 0);
	assert_int_equal(above->nr, 0);
	assert_true(inside->nr >= 1);
	assert_true(over->nr >= 1);
	assert_true(edge->nr >= 1);
	assert_false(hmm_notifier_read_retry(below->notifier, seq));
	listen_end(below);
	listen_end(inside);
	listen_end(over);
	listen_end(above);
	listen_end(edge);
	munmap(p, NR * page);
}

/* Events hold the range that changes, page aligned, and never an empty one. */
static void events_hold_the_changed_range(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	struct heard *h = listen_to(w, p + 6 * page, p + 7 * page);

	to_device(w, w->dev, p + 4 * page, 8);
	assert_int_equal(evict(w, p, NR), 8);
	assert_true(h->nr >= 2);
	for (uint32_t i = 0; i < h->nr; i++) {
		const struct hmm_event *e = &h->events[i].event;

		assert_true(e->start < e->end);
		assert_int_equal(e->start % page, 0);
		assert_int_equal(e->end % page, 0);
		assert_true(e->start < (uintptr_t)p + 7 * page);
		assert_true(e->end > (uintptr_t)p + 6 * page);
	}
	listen_end(h);
	munmap(p, NR * page);
}

/* The sequence handed to invalidate() grows with each callback. */
static void sequence_grows(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	struct heard *h = listen_to(w, p, p + NR * page);
	uint64_t last = hmm_notifier_read_begin(h->notifier);

	for (int i = 0; i < 5; i++) {
		to_device(w, w->dev, p, NR);
		assert_int_equal(evict(w, p, NR), NR);
	}
	assert_true(h->nr >= 10);
	for (uint32_t i = 0; i < h->nr; i++) {
		assert_true(h->events[i].seq > last);
		last = h->events[i].seq;
	}
	assert_false(hmm_notifier_read_retry(h->notifier, last));
	listen_end(h);
	munmap(p, NR * page);
}

/* invalidations counts callbacks: none where nobody listens, one per listener. */
static void invalidations_are_counted(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	struct heard *h[3];
	uint64_t nr = 0;

	to_device(w, w->dev, p, NR);
	assert_int_equal(evict(w, p, NR), NR);
	assert_int_equal(moved(w, invalidations), 0);
	for (size_t i = 0; i < ARRAY_LEN(h); i++)
		h[i] = listen_to(w, p, p + NR * page);
	to_device(w, w->dev, p, NR);
	for (size_t i = 0; i < ARRAY_LEN(h); i++) {
		assert_int_equal(h[i]->nr, h[0]->nr);
		nr += h[i]->nr;
	}
	assert_true(nr >= 3);
	assert_int_equal(moved(w, invalidations), nr);
	for (size_t i = 0; i < ARRAY_LEN(h); i++)
		listen_end(h[i]);
	munmap(p, NR * page);
}

/* A thousand notifiers: an event finds exactly those that overlap it. */
static void many_notifiers(void **state)
{
	static struct heard *h[1000];
	struct world *w = *state;
	unsigned char *p = map_filled(ARRAY_LEN(h), 1);
	size_t told = 0;

	for (size_t i = 0; i < ARRAY_LEN(h); i++)
		h[i] = listen_to(w, p + i * page, p + (i + 1) * page);
	to_device(w, w->dev, p + 500 * page, 10);
	for (size_t i = 0; i < ARRAY_LEN(h); i++) {
		assert_int_equal(h[i]->nr > 0, i >= 500 && i < 510);
		told += h[i]->nr;
	}
	assert_int_equal(moved(w, invalidations), told);
	for (size_t i = 0; i < ARRAY_LEN(h); i++)
		listen_end(h[i * 617 % ARRAY_LEN(h)]);
	munmap(p, ARRAY_LEN(h) * page);
}

/* A subscription to addresses that nothing is mapped at is fine, and hears what comes. */
static void interval_need_not_be_mapped(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, PROT_NONE, 0);
	struct heard *h;

	assert_int_equal(munmap(p, NR * page), 0);
	h = listen_to(w, p, p + NR * page);
	assert_ptr_equal(mmap(p, NR * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
			      -1, 0), p);
	fill(p, NR, 1);
	to_device(w, w->dev, p, NR);
	assert_true(heard_event(h, HMM_EVENT_MIGRATE, world_owner_a, p, p + NR * page));
	listen_end(h);
	munmap(p, NR * page);
}

/* After remove no callback comes. */
static void removed_notifier_hears_nothing(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	struct heard *h = listen_to(w, p, p + NR * page);
	uint32_t nr;

	to_device(w, w->dev, p, NR);
	assert_int_equal(hmm_notifier_remove(h->notifier), 0);
	nr = h->nr;
	assert_int_equal(evict(w, p, NR), NR);
	assert_int_equal(h->nr, nr);
	hmm_safe_free(h, sizeof(*h));
	munmap(p, NR * page);
}

static struct {
	struct world *w;
	struct hmm_notifier *self;
	struct testdev *dev;
	uintptr_t start, end;
	uint64_t src[NR], dst[NR], pfns[NR];
	uint8_t places[NR];
	int64_t ret[16];
	int nr;
} inside;

static void call_everything(struct hmm_notifier *notifier, const struct hmm_event *event,
			    uint64_t seq, void *ctx)
{
	static const struct hmm_notifier_ops ops = {
		.size = sizeof(ops), .invalidate = call_everything,
	};
	struct hmm_mm *mm = inside.w->mm;
	struct hmm_range range = { .size = sizeof(range), .start = inside.start,
				   .end = inside.end, .pfns = inside.pfns };
	struct hmm_migrate m = { .size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM,
				 .start = inside.start, .end = inside.end, .src = inside.src,
				 .dst = inside.dst };
	struct hmm_notifier *n;
	void *contents[NR];
	int64_t *ret = inside.ret;
	int i = 0;

	(void)notifier;
	(void)event;
	(void)seq;
	(void)ctx;
	ret[i++] = hmm_notifier_insert(mm, inside.start, inside.end, &ops, NULL, &n);
	ret[i++] = hmm_notifier_remove(inside.self);
	ret[i++] = hmm_range_fault(mm, &range);
	ret[i++] = hmm_range_fault_wait(mm, &range, 1);
	ret[i++] = hmm_evict(mm, inside.start, inside.end);
	ret[i++] = hmm_residency(mm, inside.start, inside.end, inside.places);
	ret[i++] = hmm_migrate_setup(mm, &m);
	ret[i++] = hmm_migrate_to_device(mm, inside.dev->devmem, inside.start, inside.end,
					 HMM_MIGRATE_SYSTEM, NULL);
	ret[i++] = hmm_exclusive_begin(mm, inside.start, inside.end, world_owner_a, contents);
	ret[i++] = hmm_exclusive_end(mm, inside.start, inside.end);
	ret[i++] = hmm_devmem_remove(inside.dev->devmem);
	ret[i++] = hmm_devmem_evict(inside.dev->devmem, 0, 1);
	ret[i++] = hmm_devmem_poison(inside.dev->devmem, 0, 1);
	ret[i++] = hmm_mm_destroy(mm);
	inside.nr = i;
}

/* From inside invalidate() whatever would want the mm lock answers -EDEADLK. */
static void calls_from_invalidate_answer_edeadlk(void **state)
{
	static const struct hmm_notifier_ops ops = {
		.size = sizeof(ops), .invalidate = call_everything,
	};
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);

	memset(&inside, 0, sizeof(inside));
	inside.w = w;
	inside.dev = w->other;
	inside.start = (uintptr_t)p;
	inside.end = (uintptr_t)p + NR * page;
	assert_int_equal(hmm_notifier_insert(w->mm, inside.start, inside.end, &ops, NULL,
					     &inside.self), 0);
	to_device(w, w->dev, p, NR);
	assert_true(inside.nr > 0);
	for (int i = 0; i < inside.nr; i++)
		if (inside.ret[i] != -EDEADLK)
			fail_msg("call %d from invalidate(): %lld", i, (long long)inside.ret[i]);
	assert_int_equal(hmm_notifier_remove(inside.self), 0);
	assert_holds(p, NR, 1, 0);
	munmap(p, NR * page);
}

static struct hmm_notifier *removing;
static _Atomic uint32_t in_callback, leave_callback, removed, remover_ready;

static void slow_invalidate(struct hmm_notifier *notifier, const struct hmm_event *event,
			    uint64_t seq, void *ctx)
{
	(void)notifier;
	(void)event;
	(void)seq;
	(void)ctx;
	atomic_store(&in_callback, 1);
	for (uint64_t until = deadline(); !atomic_load(&leave_callback) && !past(until);)
		;
	/* remove() of another thread may not have returned while we are here. */
	if (atomic_load(&removed))
		abort();
}

static void *remove_run(void *arg)
{
	int *ret = arg;

	atomic_store(&remover_ready, 1);
	for (uint64_t until = deadline(); !atomic_load(&in_callback) && !past(until);)
		;
	*ret = hmm_notifier_remove(removing);
	atomic_store(&removed, 1);
	return NULL;
}

static void *evict_run(void *arg)
{
	void **args = arg;

	IGNORE(evict(args[0], args[1], NR));
	return NULL;
}

/* remove() waits for a callback that is running. */
static void remove_waits_for_a_running_callback(void **state)
{
	static const struct hmm_notifier_ops ops = {
		.size = sizeof(ops), .invalidate = slow_invalidate,
	};
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 1);
	void *args[2] = { w, p };
	pthread_t evicter, remover;
	int ret = 1;

	atomic_store(&in_callback, 0);
	atomic_store(&leave_callback, 0);
	atomic_store(&removed, 0);
	assert_int_equal(hmm_notifier_insert(w->mm, (uintptr_t)p, (uintptr_t)p + NR * page, &ops,
					     NULL, &removing), 0);
	/* First, since making a thread changes mappings, which waits for the callback. */
	atomic_store(&remover_ready, 0);
	assert_int_equal(pthread_create(&remover, NULL, remove_run, &ret), 0);
	assert_true(eventually(atomic_load(&remover_ready)));
	assert_int_equal(pthread_create(&evicter, NULL, evict_run, args), 0);
	assert_true(eventually(atomic_load(&in_callback)));
	for (int i = 0; i < 1000; i++)
		sched_yield();
	assert_int_equal(removed, 0);
	atomic_store(&leave_callback, 1);
	pthread_join(evicter, NULL);
	pthread_join(remover, NULL);
	assert_int_equal(ret, 0);
	assert_holds(p, NR, 1, 0);
	munmap(p, NR * page);
}

/* A page of which invalidate() has returned is written no more: no stale read. */
static void touch_after_exclusive_sees_the_device_writes(void **state)
{
	struct world *w = *state;
	uint64_t *p = map_filled(1, 1);
	void *contents[1];

	for (uint64_t i = 1; i <= 50; i++) {
		assert_int_equal(hmm_exclusive_begin(w->mm, (uintptr_t)p, (uintptr_t)p + page,
						     world_owner_a, contents), 1);
		*(uint64_t *)contents[0] = i;
		assert_int_equal(*(volatile uint64_t *)p, i);
	}
	munmap(p, page);
}

static struct heard *release_heard;

static int child_release(void *arg)
{
	HMM_OPTS(hmm_mm_opts, opts, .flags = 0);
	struct world w = { 0 };
	unsigned char *p = map_filled(NR, 1);

	(void)arg;
	if (hmm_mm_create(&opts, &w.mm))
		return 1;
	release_heard = listen_to(&w, p, p + NR * page);
	if (hmm_mm_destroy(w.mm))
		return 2;
	return heard_type(release_heard, HMM_EVENT_RELEASE) != 1;
}

/* Destroying the mm tells RELEASE, once, and removes the notifier. */
static void destroy_tells_release(void **state)
{
	(void)state;
	assert_int_equal(in_child(child_release, NULL), 0);
}

static _Atomic uint32_t coming_and_going;

static void *come_and_go(void *arg)
{
	void **args = arg;

	while (atomic_load(&coming_and_going))
		listen_end(listen_to(args[0], args[1], (char *)args[1] + NR * page));
	return NULL;
}

/* Notifiers come and go on two threads while pages of their range move. */
static void notifiers_come_and_go_while_pages_move(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 1);
	void *args[2] = { w, p };
	pthread_t threads[2];

	atomic_store(&coming_and_going, 1);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, args), 0);
	for (uint32_t i = rounds(100); i > 0; i--) {
		IGNORE(try_device(w, w->dev, p, NR, NULL));
		assert_holds(p, NR, 1, 0);
	}
	atomic_store(&coming_and_going, 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	munmap(p, NR * page);
}

int main(void)
{
	static const struct CMUnitTest always[] = {
		world_test(munmap_tells_unmap),
		world_test(mremap_tells_unmap_of_the_old_place),
		world_test(mremap_dontunmap_tells_unmap),
		world_test(map_fixed_tells_unmap),
		world_test(madvise_tells_clear),
		world_test(migration_tells_migrate_with_owner),
		world_test(migrate_to_device_owner_is_the_devmem_owner),
		world_test(cpu_fault_tells_migrate),
		world_test(exclusive_tells_begin_and_end),
		world_test(fork_tells_fork),
		world_test(neighbours_are_not_heard),
		world_test(events_hold_the_changed_range),
		world_test(sequence_grows),
		world_test(invalidations_are_counted),
		world_test(many_notifiers),
		world_test(interval_need_not_be_mapped),
		world_test(removed_notifier_hears_nothing),
		world_test(calls_from_invalidate_answer_edeadlk),
		world_test(remove_waits_for_a_running_callback),
		world_test(touch_after_exclusive_sees_the_device_writes),
		world_test(destroy_tells_release),
		world_test(notifiers_come_and_go_while_pages_move),
	};
	static const struct CMUnitTest announced[] = {
		world_test(mprotect_tells_protect),
		world_test(changes_of_system_pages_are_announced),
		world_test(changes_of_shared_memory_are_announced),
	};
	struct CMUnitTest tests[ARRAY_LEN(always) + ARRAY_LEN(announced)];

	need_mm();
	memcpy(tests, always, sizeof(always));
	memcpy(tests + ARRAY_LEN(always), announced, sizeof(announced));
	return _cmocka_run_group_tests("notifier", tests,
				       strict() ? ARRAY_LEN(tests) : ARRAY_LEN(always),
				       world_begin, world_end);
}
