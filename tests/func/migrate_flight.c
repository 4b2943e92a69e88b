/* SPDX-License-Identifier: MIT */
/*
 * Pages in flight: who touches them waits, and what the program does to their mapping
 * meanwhile is followed.
 */
#define _GNU_SOURCE
#include "job.h"

#include <string.h>
#include <sys/mman.h>

struct toucher {
	pthread_t thread;
	_Atomic uint32_t started, done;
	unsigned char *addr;
	size_t nr;
	bool right, write;
	uint32_t seed;
};

static void *toucher_run(void *arg)
{
	struct toucher *t = arg;

	atomic_store(&t->started, 1);
	t->right = holds(t->addr, t->nr, t->seed, 0);
	if (t->write)
		*t->addr = 1;
	atomic_store(&t->done, 1);
	return NULL;
}

static void toucher_start(struct toucher *t, unsigned char *addr, size_t nr, uint32_t seed)
{
	memset(t, 0, sizeof(*t));
	t->addr = addr;
	t->nr = nr;
	t->seed = seed;
	assert_int_equal(pthread_create(&t->thread, NULL, toucher_run, t), 0);
}

static void touch_in_flight(struct world *w, bool commit)
{
	unsigned char *p = map_filled(16, 20);
	static struct toucher t;
	static struct job job;

	job_setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, 16);
	toucher_start(&t, p, 16, 20);
	assert_true(eventually(moved(w, fault_waits) >= 1));
	assert_false(t.done);
	if (commit) {
		job_aim(&job, w->dev, 16);
		assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	}
	hmm_migrate_pages(w->mm, &job.m);
	assert_false(t.done);
	hmm_migrate_finalize(w->mm, &job.m);
	pthread_join(t.thread, NULL);
	assert_true(t.right);
	assert_int_equal(moved(w, pages_to_device), commit ? 16 : 0);
	munmap(p, 16 * page);
}

/* A CPU that touches a page in flight to the device waits, then sees its bytes. */
static void touch_during_flight_waits_commit(void **state)
{
	touch_in_flight(*state, true);
}

/* The same when the page does not go after all. */
static void touch_during_flight_waits_refused(void **state)
{
	touch_in_flight(*state, false);
}

static _Atomic uint32_t gate_reached, gate_open;

static int gate(struct testdev *dev, bool to_device_, uint64_t index, uint64_t nr)
{
	(void)dev;
	(void)index;
	(void)nr;
	if (to_device_)
		return 0;
	atomic_store(&gate_reached, 1);
	for (uint64_t until = deadline(); !atomic_load(&gate_open) && !past(until);)
		;
	return 0;
}

static void *evict_run(void *arg)
{
	struct world *w = ((void **)arg)[0];
	int64_t *ret = ((void **)arg)[2];

	*ret = evict(w, ((void **)arg)[1], 16);
	return NULL;
}

/* Two threads bring the same page home: one copy, both see the bytes. */
static void fault_during_eviction_waits(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 21);
	static struct toucher t;
	int64_t evicted = -1;
	void *args[3] = { w, p, &evicted };
	pthread_t thread;

	to_device(w, w->other, p, 16);
	atomic_store(&gate_reached, 0);
	atomic_store(&gate_open, 0);
	w->other->hook = gate;
	assert_int_equal(pthread_create(&thread, NULL, evict_run, args), 0);
	assert_true(eventually(atomic_load(&gate_reached)));
	toucher_start(&t, p, 16, 21);
	assert_true(eventually(moved(w, fault_waits) >= 1));
	assert_false(t.done);
	atomic_store(&gate_open, 1);
	pthread_join(thread, NULL);
	pthread_join(t.thread, NULL);
	assert_true(t.right);
	assert_int_equal(evicted, 16);
	assert_int_equal(w->other->pages_from, 16);
	munmap(p, 16 * page);
}

/* Pages unmapped between setup and pages do not migrate; the driver keeps their frames. */
static void unmap_between_setup_and_pages(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 22);
	static struct job job;
	uint64_t dst[16];

	job_setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_int_equal(munmap(p + 4 * page, 4 * page), 0);
	job_aim(&job, w->dev, 16);
	memcpy(dst, job.dst, sizeof(dst));
	IGNORE(hmm_migrate_copy(w->mm, &job.m));
	assert_true(eventually(all_at(w, p + 4 * page, 4, HMM_PLACE_GAP)));
	hmm_migrate_pages(w->mm, &job.m);
	assert_int_equal(job.m.nr_pages, 12);
	for (int i = 4; i < 8; i++) {
		assert_false(job.src[i] & HMM_SRC_MIGRATE);
		assert_int_equal(hmm_src_reason(job.src[i]), HMM_REASON_BUSY);
	}
	hmm_migrate_finalize(w->mm, &job.m);
	job_release_refused(&job, w->dev, 16, dst);
	assert_int_equal(testdev_used(w->dev), 12);
	assert_at(w, p + 4 * page, 4, HMM_PLACE_GAP);
	assert_holds(p, 4, 22, 0);
	assert_holds(p + 8 * page, 8, 22, 8);
	munmap(p, 16 * page);
}

/* Pages unmapped between pages and finalize are freed by page_free. */
static void unmap_between_pages_and_finalize(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 23);
	static struct job job;

	job_setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	job_aim(&job, w->dev, 16);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	hmm_migrate_pages(w->mm, &job.m);
	assert_int_equal(munmap(p + 4 * page, 4 * page), 0);
	hmm_migrate_finalize(w->mm, &job.m);
	assert_true(eventually(testdev_used(w->dev) == 12));
	assert_int_equal(w->dev->bad_frees, 0);
	assert_holds(p, 4, 23, 0);
	assert_holds(p + 8 * page, 8, 23, 8);
	munmap(p, 16 * page);
}

/* A mapping put over pages in flight keeps its own content. */
static void map_fixed_between_setup_and_finalize(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 24);
	static struct job job;
	uint64_t dst[16];

	job_setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_ptr_equal(mmap(p + 4 * page, 4 * page, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), p + 4 * page);
	p[4 * page] = 0x5a;
	job_aim(&job, w->dev, 16);
	memcpy(dst, job.dst, sizeof(dst));
	IGNORE(hmm_migrate_copy(w->mm, &job.m));
	job_finish(w, &job);
	job_release_refused(&job, w->dev, 16, dst);
	assert_int_equal(p[4 * page], 0x5a);
	assert_true(all_zero(p + 4 * page + 1, 4 * page - 1));
	assert_holds(p, 4, 24, 0);
	assert_holds(p + 8 * page, 8, 24, 8);
	munmap(p, 16 * page);
}

/* mremap of pages in flight: the bytes are at the new place afterwards. */
static void mremap_between_setup_and_finalize(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 25);
	unsigned char *to = map_pages(16, PROT_NONE, 0);
	static struct job job;
	uint64_t dst[16];

	job_setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, 16);
	assert_ptr_equal(mremap(p, 16 * page, 16 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	job_aim(&job, w->dev, 16);
	memcpy(dst, job.dst, sizeof(dst));
	IGNORE(hmm_migrate_copy(w->mm, &job.m));
	hmm_migrate_pages(w->mm, &job.m);
	/* Or the driver would map them at the old address. */
	assert_int_equal(job_migrating(&job, 16), 0);
	assert_int_equal(hmm_src_reason(job.src[0]), HMM_REASON_BUSY);
	hmm_migrate_finalize(w->mm, &job.m);
	job_release_refused(&job, w->dev, 16, dst);
	assert_at(w, p, 16, HMM_PLACE_GAP);
	assert_holds(to, 16, 25, 0);
	munmap(to, 16 * page);
}

/* The same when nothing was to migrate: finalize gives the bytes back at the new place. */
static void mremap_in_flight_then_refused(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 26);
	unsigned char *to = map_pages(16, PROT_NONE, 0);
	static struct job job;

	job_setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_ptr_equal(mremap(p, 16 * page, 16 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	job_finish(w, &job);
	assert_holds(to, 16, 26, 0);
	munmap(to, 16 * page);
}

/* Address space in a 2 MiB block where @p is not. */
static unsigned char *map_elsewhere(const unsigned char *p, unsigned char **area)
{
	const size_t block = 512 * page;

	*area = map_pages(2 * 512, PROT_NONE, 0);
	return ((uintptr_t)*area ^ (uintptr_t)p) / block ? *area : *area + block;
}

/*
 * Who touches a page in flight where mremap has carried it waits there, and goes on when
 * the page stays on its device after all: nothing is given to the CPU that would wake it.
 */
static void touch_of_a_moved_page_waits(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 34), *area, *to = map_elsewhere(p, &area);
	static struct toucher t;
	static struct job job;

	to_device(w, w->dev, p, 16);
	job_setup(w, &job, p, 16, HMM_MIGRATE_DEVICE);
	assert_int_equal(job.m.nr_pages, 16);
	assert_ptr_equal(mremap(p, 16 * page, 16 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	toucher_start(&t, to, 16, 34);
	assert_true(eventually(moved(w, fault_waits) >= 1));
	assert_false(t.done);
	job_finish(w, &job);
	pthread_join(t.thread, NULL);
	assert_true(t.right);
	assert_holds(to, 16, 34, 0);
	munmap(area, 2 * 512 * page);
}

static void *remapper_run(void *arg)
{
	void **args = arg;

	args[2] = mremap(args[0], 16 * page, 16 * page, MREMAP_MAYMOVE | MREMAP_FIXED, args[1]);
	return NULL;
}

/* mremap by another thread while this one migrates to and fro: no byte is lost. */
static void mremap_by_another_thread_while_migrating(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 27);
	unsigned char *to = map_pages(16, PROT_NONE, 0);
	static struct job job;

	for (int round = 0; round < 30; round++) {
		void *args[3] = { p, to, NULL };
		pthread_t thread;
		uint64_t dst[16];

		assert_int_equal(pthread_create(&thread, NULL, remapper_run, args), 0);
		job_setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM | HMM_MIGRATE_DEVICE);
		job_aim(&job, w->dev, 16);
		memcpy(dst, job.dst, sizeof(dst));
		IGNORE(hmm_migrate_copy(w->mm, &job.m));
		job_finish(w, &job);
		job_release_refused(&job, w->dev, 16, dst);
		pthread_join(thread, NULL);
		assert_ptr_equal(args[2], to);
		assert_holds(to, 16, 27, 0);
		to = p;
		p = args[2];
		assert_ptr_equal(mmap(to, 16 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
				      MAP_FIXED, -1, 0), to);
	}
	munmap(p, 16 * page);
	munmap(to, 16 * page);
}

/* DONTNEED of pages in flight: they read as zeros afterwards, not as what they were. */
static void dontneed_between_setup_and_finalize(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 28);
	static struct job job;
	uint64_t dst[16];

	job_setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_int_equal(madvise(p, 8 * page, MADV_DONTNEED), 0);
	job_aim(&job, w->dev, 16);
	memcpy(dst, job.dst, sizeof(dst));
	IGNORE(hmm_migrate_copy(w->mm, &job.m));
	job_finish(w, &job);
	job_release_refused(&job, w->dev, 16, dst);
	assert_true(all_zero(p, 8 * page));
	assert_holds(p + 8 * page, 8, 28, 8);
	munmap(p, 16 * page);
}

/* Two migrations of one range at once: each page goes once, none is lost. */
static void overlapping_migrations_share_the_range(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 29);
	static struct job first, second;

	job_setup(w, &first, p, 8, HMM_MIGRATE_SYSTEM);
	job_setup(w, &second, p + 4 * page, 12, HMM_MIGRATE_SYSTEM);
	assert_int_equal(first.m.nr_pages, 8);
	assert_int_equal(second.m.nr_pages, 8);
	for (int i = 0; i < 4; i++)
		assert_int_equal(hmm_src_reason(second.src[i]), HMM_REASON_BUSY);
	job_aim(&second, w->other, 12);
	job_aim(&first, w->dev, 8);
	assert_int_equal(hmm_migrate_copy(w->mm, &second.m), 0);
	assert_int_equal(hmm_migrate_copy(w->mm, &first.m), 0);
	job_finish(w, &second);
	job_finish(w, &first);
	assert_int_equal(testdev_used(w->dev), 8);
	assert_int_equal(testdev_used(w->other), 8);
	assert_holds(p, 16, 29, 0);
	munmap(p, 16 * page);
}

/* seq out of setup counts the migration's own event: read_retry says "still true". */
static void setup_seq_covers_its_own_event(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 30);
	struct heard *h = listen_to(w, p, p + 16 * page);
	uint64_t seq = hmm_notifier_read_begin(h->notifier);
	static struct job job;

	job_init(&job, p, 16, HMM_MIGRATE_SYSTEM, NULL);
	job.m.notifier = h->notifier;
	assert_int_equal(hmm_migrate_setup(w->mm, &job.m), 0);
	assert_true(heard_event(h, HMM_EVENT_MIGRATE, world_owner_a, p, p + 16 * page));
	assert_true(hmm_notifier_read_retry(h->notifier, seq));
	job_aim(&job, w->dev, 16);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	hmm_migrate_pages(w->mm, &job.m);
	assert_false(hmm_notifier_read_retry(h->notifier, job.m.seq));
	assert_int_equal(munmap(p, page), 0);
	assert_true(eventually(hmm_notifier_read_retry(h->notifier, job.m.seq)));
	hmm_migrate_finalize(w->mm, &job.m);
	listen_end(h);
	munmap(p, 16 * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(touch_during_flight_waits_commit),
		world_test(touch_during_flight_waits_refused),
		world_test(fault_during_eviction_waits),
		world_test(unmap_between_setup_and_pages),
		world_test(unmap_between_pages_and_finalize),
		world_test(map_fixed_between_setup_and_finalize),
		world_test(mremap_between_setup_and_finalize),
		world_test(mremap_in_flight_then_refused),
		world_test(touch_of_a_moved_page_waits),
		world_test(mremap_by_another_thread_while_migrating),
		world_test(dontneed_between_setup_and_finalize),
		world_test(overlapping_migrations_share_the_range),
		world_test(setup_seq_covers_its_own_event),
	};

	need_mm();
	return cmocka_run_group_tests_name("migrate_flight", tests, world_begin, world_end);
}
