/* SPDX-License-Identifier: MIT */
/*
 * Migration: four directions, holes and zero pages, best effort with a reason per
 * page, failing copies, and changes of the mapping while pages are in flight.
 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BATCH	64

/* A migration by hand. The arrays are static: never in the range, never away. */
struct job {
	struct hmm_migrate m;
	uint64_t src[BATCH], dst[BATCH];
};

static void job_init(struct job *job, void *start, size_t nr, uint64_t flags, const void *from)
{
	memset(job, 0, sizeof(*job));
	job->m = (struct hmm_migrate) {
		.size = sizeof(job->m),
		.flags = flags,
		.start = (uintptr_t)start,
		.end = (uintptr_t)start + nr * page,
		.src = job->src,
		.dst = job->dst,
		.owner = world_owner_a,
		.from_owner = from,
	};
}

static void setup(struct world *w, struct job *job, void *start, size_t nr, uint64_t flags)
{
	job_init(job, start, nr, flags, NULL);
	assert_int_equal(hmm_migrate_setup(w->mm, &job->m), 0);
}

/* Gives every taken page a destination on @dev. */
static void aim(struct job *job, struct testdev *dev, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		if (job->src[i] & HMM_SRC_MIGRATE)
			job->dst[i] = hmm_dst(dev->id, testdev_reserve(dev, 1));
}

static size_t count_migrate(const struct job *job, size_t nr)
{
	size_t n = 0;

	for (size_t i = 0; i < nr; i++)
		n += !!(job->src[i] & HMM_SRC_MIGRATE);
	return n;
}

/* After finalize the frames of what did not go are the driver's again. */
static void release_refused(struct job *job, struct testdev *dev, size_t nr, const uint64_t *dst)
{
	for (size_t i = 0; i < nr; i++)
		if (dst[i] && !(job->src[i] & HMM_SRC_MIGRATE))
			testdev_release(dev, (dst[i] & HMM_SRC_ADDR_MASK) >> 12, 1);
}

static void finish(struct world *w, struct job *job)
{
	hmm_migrate_pages(w->mm, &job->m);
	hmm_migrate_finalize(w->mm, &job->m);
}

/* Pages go to the device, and a CPU's touch brings the same bytes back. */
static void system_to_device_and_back(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(BATCH, 1);

	to_device(w, w->dev, p, BATCH);
	assert_int_equal(moved(w, pages_to_device), BATCH);
	assert_int_equal(moved(w, device_pages), BATCH);
	assert_int_equal(w->dev->pages_to, BATCH);
	assert_int_equal(testdev_used(w->dev), BATCH);
	assert_holds(p, BATCH, 1, 0);
	assert_int_equal(moved(w, pages_to_system), BATCH);
	assert_int_equal(w->dev->pages_from, BATCH);
	assert_true(moved(w, cpu_faults) >= 1 && moved(w, cpu_faults) <= BATCH);
	assert_int_equal(w->dev->faults, moved(w, cpu_faults));
	assert_int_equal(stats_now(w).device_pages, 0);
	assert_int_equal(testdev_used(w->dev), 0);
	munmap(p, BATCH * page);
}

/* A write by the CPU to a device page brings it home and is kept. */
static void cpu_write_brings_home(void **state)
{
	struct world *w = *state;
	uint64_t *p = map_filled(4, 2);

	to_device(w, w->dev, p, 4);
	p[512 + 3] = 77;
	assert_int_equal(p[512 + 3], 77);
	assert_int_equal(p[512 + 4], pattern(2, 1, 4));
	assert_at(w, p, 1, HMM_PLACE_DEVICE);
	assert_at(w, (char *)p + page, 1, HMM_PLACE_SYSTEM);
	assert_at(w, (char *)p + 2 * page, 2, HMM_PLACE_DEVICE);
	assert_int_equal(moved(w, cpu_faults), 1);
	assert_int_equal(moved(w, pages_to_system), 1);
	munmap(p, 4 * page);
}

/* hmm_evict() brings everything home without a fault, and counts it. */
static void device_to_system_by_evict(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(BATCH, 3);

	to_device(w, w->dev, p, BATCH);
	assert_int_equal(evict(w, p, BATCH), BATCH);
	assert_int_equal(moved(w, cpu_faults), 0);
	assert_int_equal(moved(w, pages_to_system), BATCH);
	assert_at(w, p, BATCH, HMM_PLACE_SYSTEM);
	assert_int_equal(cpu_maps_count(p, BATCH), BATCH);
	assert_holds(p, BATCH, 3, 0);
	assert_int_equal(evict(w, p, BATCH), 0);
	munmap(p, BATCH * page);
}

/* The whole range of hmm_migrate_to_device() may exceed HMM_MIGRATE_MAX_PAGES. */
static void range_of_any_size(void **state)
{
	struct world *w = *state;
	size_t nr = HMM_MIGRATE_MAX_PAGES + 1000;
	unsigned char *p = map_filled(nr, 4);
	uint64_t reasons[HMM_REASONS] = { 0 };
	int64_t got = try_device(w, w->dev, p, nr, reasons);

	/* The device holds DEV_PAGES: as many arrive. */
	assert_int_equal(got, DEV_PAGES);
	assert_int_equal(moved(w, device_pages), DEV_PAGES);
	assert_holds(p, nr, 4, 0);
	munmap(p, nr * page);
}

static void between_devices(struct world *w, bool peer)
{
	unsigned char *p = map_filled(BATCH, 5);

	w->dev->peer = w->other->peer = peer;
	to_device(w, w->dev, p, BATCH);
	stats_mark(w);
	to_device(w, w->other, p, BATCH);
	assert_int_equal(moved(w, pages_between), BATCH);
	assert_int_equal(moved(w, pages_to_device), 0);
	assert_int_equal(moved(w, pages_to_system), 0);
	assert_int_equal(w->other->pages_peer, peer ? BATCH : 0);
	assert_int_equal(w->dev->pages_from, peer ? 0 : BATCH);
	assert_int_equal(testdev_used(w->dev), 0);
	assert_int_equal(testdev_used(w->other), BATCH);
	assert_holds(p, BATCH, 5, 0);
	munmap(p, BATCH * page);
}

/* Device to device with a peer copy touches no system memory. */
static void device_to_device_peer(void **state)
{
	between_devices(*state, true);
}

/* Device to device without a peer copy goes through RAM and loses nothing. */
static void device_to_device_bounce(void **state)
{
	between_devices(*state, false);
}

/* A page may move inside one device's memory. */
static void device_to_same_device(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(8, 6);
	static struct job job;
	uint64_t before[8];

	to_device(w, w->dev, p, 8);
	setup(w, &job, p, 8, HMM_MIGRATE_DEVICE);
	assert_int_equal(job.m.nr_pages, 8);
	for (int i = 0; i < 8; i++) {
		assert_true(job.src[i] & HMM_SRC_DEVICE);
		assert_int_equal(hmm_src_devmem(job.src[i]), w->dev->id);
		before[i] = hmm_src_index(job.src[i]);
	}
	aim(&job, w->dev, 8);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	finish(w, &job);
	assert_int_equal(job.m.nr_pages, 8);
	assert_int_equal(testdev_used(w->dev), 8);
	for (int i = 0; i < 8; i++) {
		uintptr_t addr;

		assert_int_equal(hmm_devmem_lookup(w->dev->devmem, before[i], &addr), -ENOENT);
		assert_int_equal(hmm_devmem_lookup(w->dev->devmem, (job.dst[i] &
				 HMM_SRC_ADDR_MASK) >> 12, &addr), 0);
		assert_int_equal(addr, (uintptr_t)p + (size_t)i * page);
	}
	assert_holds(p, 8, 6, 0);
	munmap(p, 8 * page);
}

/* Holes become zeroed device pages: nothing is populated on the way, nothing copied. */
static void holes_become_zeroed_device_pages(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(BATCH, PROT_READ | PROT_WRITE, 0);
	static struct job job;

	setup(w, &job, p, BATCH, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, BATCH);
	for (int i = 0; i < BATCH; i++) {
		assert_true(job.src[i] & HMM_SRC_HOLE);
		assert_null(hmm_src_addr(job.src[i]));
	}
	aim(&job, w->dev, BATCH);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	finish(w, &job);
	assert_int_equal(w->dev->zeroed, BATCH);
	assert_int_equal(w->dev->pages_to, 0);
	assert_at(w, p, BATCH, HMM_PLACE_DEVICE);
	assert_int_equal(cpu_maps_count(p, BATCH), 0);
	assert_true(all_zero(w->dev->mem + hmm_src_index(job.dst[0]) * page, page));
	assert_true(all_zero(p, BATCH * page));
	munmap(p, BATCH * page);
}

/* Pages that the zero page backs travel as holes. */
static void zero_pages_travel_as_holes(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(16, PROT_READ | PROT_WRITE, 0);

	assert_true(all_zero(p, 16 * page));
	assert_int_equal(cpu_maps_count(p, 16), 16);
	to_device(w, w->dev, p, 16);
	/* Without PAGEMAP_SCAN a zero page looks like any other. */
	if (!masked("pagemap-scan")) {
		assert_int_equal(w->dev->zeroed, 16);
		assert_int_equal(w->dev->pages_to, 0);
	}
	p[5 * page] = 9;
	assert_int_equal(p[5 * page], 9);
	p[5 * page] = 0;
	assert_true(all_zero(p, 16 * page));
	munmap(p, 16 * page);
}

/* A range with holes, pages and a gap: what can go goes, the gap is told. */
static void mixed_range_is_best_effort(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 7);
	static struct job job;

	assert_int_equal(madvise(p + 4 * page, 4 * page, MADV_DONTNEED), 0);
	assert_int_equal(munmap(p + 8 * page, 4 * page), 0);
	setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, 12);
	for (int i = 0; i < 16; i++) {
		bool gap = i >= 8 && i < 12, hole = i >= 4 && i < 8;

		assert_int_equal(!(job.src[i] & HMM_SRC_MIGRATE), gap);
		assert_int_equal(!!(job.src[i] & HMM_SRC_HOLE), hole);
		if (gap)
			assert_int_equal(hmm_src_reason(job.src[i]), HMM_REASON_GAP);
		else
			assert_true(job.src[i] & HMM_SRC_WRITE);
	}
	aim(&job, w->dev, 16);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	finish(w, &job);
	assert_int_equal(job.m.nr_pages, 12);
	assert_int_equal(moved(w, refused[HMM_REASON_GAP]), 4);
	assert_at(w, p + 8 * page, 4, HMM_PLACE_GAP);
	assert_holds(p, 4, 7, 0);
	assert_true(all_zero(p + 4 * page, 4 * page));
	assert_holds(p + 12 * page, 4, 7, 12);
	munmap(p, 16 * page);
}

/* While pages are taken, src[] shows the driver their bytes in staging. */
static void staging_holds_the_content(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(BATCH, 8);
	static struct job job;

	setup(w, &job, p, BATCH, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, BATCH);
	assert_at(w, p, BATCH, HMM_PLACE_FLIGHT);
	assert_int_equal(cpu_maps_count(p, BATCH), 0);
	for (int i = 0; i < BATCH; i++) {
		assert_non_null(hmm_src_addr(job.src[i]));
		assert_true((unsigned char *)hmm_src_addr(job.src[i]) < p ||
			    (unsigned char *)hmm_src_addr(job.src[i]) >= p + BATCH * page);
		assert_holds(hmm_src_addr(job.src[i]), 1, 8, (uint64_t)i);
	}
	finish(w, &job);
	munmap(p, BATCH * page);
}

/* dst[] of 0 leaves the page where it was, and finalize gives it back. */
static void finalize_with_dst_zero_keeps_pages(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(BATCH, 9);
	static struct job job;

	setup(w, &job, p, BATCH, HMM_MIGRATE_SYSTEM);
	hmm_migrate_pages(w->mm, &job.m);
	assert_int_equal(job.m.nr_pages, 0);
	for (int i = 0; i < BATCH; i++) {
		assert_false(job.src[i] & HMM_SRC_MIGRATE);
		assert_int_equal(hmm_src_reason(job.src[i]), HMM_REASON_COPY);
	}
	hmm_migrate_finalize(w->mm, &job.m);
	assert_at(w, p, BATCH, HMM_PLACE_SYSTEM);
	assert_int_equal(cpu_maps_count(p, BATCH), BATCH);
	assert_holds(p, BATCH, 9, 0);
	assert_int_equal(moved(w, pages_to_device), 0);
	assert_int_equal(moved(w, device_pages), 0);
	assert_int_equal(moved(w, cpu_faults), 0);
	munmap(p, BATCH * page);
}

/* Holes with no destination are holes again, not pages. */
static void refused_holes_stay_holes(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(16, PROT_READ | PROT_WRITE, 0);
	static struct job job;

	setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	finish(w, &job);
	assert_at(w, p, 16, HMM_PLACE_HOLE);
	assert_true(all_zero(p, 16 * page));
	munmap(p, 16 * page);
}

/* Device pages that got no destination stay on their device. */
static void refused_device_pages_stay_there(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 10);
	static struct job job;

	to_device(w, w->dev, p, 16);
	setup(w, &job, p, 16, HMM_MIGRATE_DEVICE);
	assert_int_equal(job.m.nr_pages, 16);
	aim(&job, w->other, 8);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	finish(w, &job);
	assert_int_equal(job.m.nr_pages, 8);
	assert_int_equal(testdev_used(w->dev), 8);
	assert_int_equal(testdev_used(w->other), 8);
	assert_at(w, p, 16, HMM_PLACE_DEVICE);
	assert_holds(p, 16, 10, 0);
	munmap(p, 16 * page);
}

/* Only the flags asked for are taken; a device page left behind says so. */
static void flags_choose_what_is_taken(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(4, 11);
	static struct job job;

	to_device(w, w->dev, p, 2);
	setup(w, &job, p, 4, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, 2);
	assert_int_equal(hmm_src_reason(job.src[0]), HMM_REASON_DEVICE);
	assert_true(job.src[2] & HMM_SRC_MIGRATE);
	finish(w, &job);
	setup(w, &job, p, 4, HMM_MIGRATE_DEVICE);
	assert_int_equal(job.m.nr_pages, 2);
	assert_true(job.src[0] & HMM_SRC_DEVICE);
	assert_false(job.src[2] & HMM_SRC_MIGRATE);
	finish(w, &job);
	assert_holds(p, 4, 11, 0);
	munmap(p, 4 * page);
}

/* from_owner picks one device's pages out of two. */
static void from_owner_chooses_the_device(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(4, 12);
	static struct job job;

	to_device(w, w->dev, p, 2);
	to_device(w, w->other, p + 2 * page, 2);
	job_init(&job, p, 4, HMM_MIGRATE_DEVICE, world_owner_b);
	assert_int_equal(hmm_migrate_setup(w->mm, &job.m), 0);
	assert_int_equal(job.m.nr_pages, 2);
	assert_false(job.src[0] & HMM_SRC_MIGRATE);
	assert_int_equal(hmm_src_reason(job.src[0]), HMM_REASON_DEVICE);
	assert_int_equal(hmm_src_devmem(job.src[2]), w->other->id);
	finish(w, &job);
	assert_holds(p, 4, 12, 0);
	munmap(p, 4 * page);
}

/* A destination on no registered device is taken as no destination. */
static void destination_of_no_device_keeps_page(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(4, 13);
	static struct job job;

	setup(w, &job, p, 4, HMM_MIGRATE_SYSTEM);
	job.dst[0] = hmm_dst(200, 0);
	job.dst[1] = hmm_dst(w->dev->id, DEV_PAGES);	/* beyond its memory */
	job.dst[2] = hmm_dst(0, 0);
	job.dst[3] = hmm_dst(w->dev->id, 3) & ~HMM_DST_VALID;
	IGNORE(hmm_migrate_copy(w->mm, &job.m));
	finish(w, &job);
	assert_int_equal(job.m.nr_pages, 0);
	assert_at(w, p, 4, HMM_PLACE_SYSTEM);
	assert_holds(p, 4, 13, 0);
	munmap(p, 4 * page);
}

/* A copy to the device that fails leaves the page in RAM, and the frames free. */
static void failed_copy_to_device_keeps_pages(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(BATCH, 14);
	uint64_t reasons[HMM_REASONS] = { 0 };
	int64_t got;

	w->dev->fail_to = 1;
	got = try_device(w, w->dev, p, BATCH, reasons);
	assert_true(got >= 0 && got < BATCH);
	assert_int_equal(reasons[HMM_REASON_COPY], BATCH - got);
	assert_int_equal(testdev_used(w->dev), got);
	assert_int_equal(moved(w, refused[HMM_REASON_COPY]), BATCH - got);
	assert_holds(p, BATCH, 14, 0);
	munmap(p, BATCH * page);
}

/* hmm_migrate_copy() reports the error and clears the destinations that failed. */
static void migrate_copy_clears_failed_dst(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(8, 15);
	static struct job job;
	uint64_t dst[8];

	setup(w, &job, p, 8, HMM_MIGRATE_SYSTEM);
	aim(&job, w->dev, 8);
	memcpy(dst, job.dst, sizeof(dst));
	w->dev->fail_to = 1;
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), -EIO);
	finish(w, &job);
	for (int i = 0; i < 8; i++)
		if (!job.dst[i])
			assert_false(job.src[i] & HMM_SRC_MIGRATE);
	assert_true(count_migrate(&job, 8) < 8);
	release_refused(&job, w->dev, 8, dst);
	assert_holds(p, 8, 15, 0);
	munmap(p, 8 * page);
}

/* A failed copy between devices leaves the pages on the first. */
static void failed_bounce_keeps_pages_on_first_device(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 16);
	uint64_t reasons[HMM_REASONS] = { 0 };

	to_device(w, w->dev, p, 16);
	w->other->fail_to = 1;
	IGNORE(try_device(w, w->other, p, 16, reasons));
	assert_int_equal(testdev_used(w->dev) + testdev_used(w->other), 16);
	assert_at(w, p, 16, HMM_PLACE_DEVICE);
	assert_holds(p, 16, 16, 0);
	munmap(p, 16 * page);
}

/* A bulk copy home that fails is repeated page by page: one hiccup loses nothing. */
static void one_failed_read_loses_nothing(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 17);

	to_device(w, w->dev, p, 16);
	w->dev->fail_from = 1;
	assert_int_equal(evict(w, p, 16), 16);
	assert_holds(p, 16, 17, 0);
	assert_int_equal(moved(w, lost_pages), 0);
	assert_int_equal(moved(w, poisoned_pages), 0);
	munmap(p, 16 * page);
}

/* Copies that end later, on another thread, work in every direction. */
static void asynchronous_copies(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(BATCH, 18);

	testdev_async(w->dev);
	testdev_async(w->other);
	for (int round = 0; round < 50; round++) {
		to_device(w, w->dev, p, BATCH);
		to_device(w, w->other, p, BATCH);
		if (round & 1)
			assert_int_equal(evict(w, p, BATCH), BATCH);
		assert_holds(p, BATCH, 18, 0);
	}
	assert_int_equal(moved(w, pages_between), 50 * BATCH);
	munmap(p, BATCH * page);
}

/* The device is full: what fits goes, the rest stays; with nothing free, -ENOSPC. */
static void device_full(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(BATCH, 19);
	uint64_t reasons[HMM_REASONS] = { 0 };

	w->dev->limit = 40;
	assert_int_equal(try_device(w, w->dev, p, BATCH, reasons), 40);
	assert_int_equal(count_at(w, p, BATCH, HMM_PLACE_DEVICE), 40);
	assert_int_equal(count_at(w, p, BATCH, HMM_PLACE_SYSTEM), BATCH - 40);
	assert_int_equal(hmm_migrate_to_device(w->mm, w->dev->devmem, (uintptr_t)p,
					       (uintptr_t)p + BATCH * page, HMM_MIGRATE_SYSTEM,
					       NULL), -ENOSPC);
	assert_holds(p, BATCH, 19, 0);
	munmap(p, BATCH * page);
}

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

	setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, 16);
	toucher_start(&t, p, 16, 20);
	assert_true(eventually(moved(w, fault_waits) >= 1));
	assert_false(t.done);
	if (commit) {
		aim(&job, w->dev, 16);
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

	setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_int_equal(munmap(p + 4 * page, 4 * page), 0);
	aim(&job, w->dev, 16);
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
	release_refused(&job, w->dev, 16, dst);
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

	setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	aim(&job, w->dev, 16);
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

	setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_ptr_equal(mmap(p + 4 * page, 4 * page, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), p + 4 * page);
	p[4 * page] = 0x5a;
	aim(&job, w->dev, 16);
	memcpy(dst, job.dst, sizeof(dst));
	IGNORE(hmm_migrate_copy(w->mm, &job.m));
	finish(w, &job);
	release_refused(&job, w->dev, 16, dst);
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

	setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, 16);
	assert_ptr_equal(mremap(p, 16 * page, 16 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	aim(&job, w->dev, 16);
	memcpy(dst, job.dst, sizeof(dst));
	IGNORE(hmm_migrate_copy(w->mm, &job.m));
	hmm_migrate_pages(w->mm, &job.m);
	/* Or the driver would map them at the old address. */
	assert_int_equal(count_migrate(&job, 16), 0);
	assert_int_equal(hmm_src_reason(job.src[0]), HMM_REASON_BUSY);
	hmm_migrate_finalize(w->mm, &job.m);
	release_refused(&job, w->dev, 16, dst);
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

	setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_ptr_equal(mremap(p, 16 * page, 16 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	finish(w, &job);
	assert_holds(to, 16, 26, 0);
	munmap(to, 16 * page);
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
		setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM | HMM_MIGRATE_DEVICE);
		aim(&job, w->dev, 16);
		memcpy(dst, job.dst, sizeof(dst));
		IGNORE(hmm_migrate_copy(w->mm, &job.m));
		finish(w, &job);
		release_refused(&job, w->dev, 16, dst);
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

	setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	assert_int_equal(madvise(p, 8 * page, MADV_DONTNEED), 0);
	aim(&job, w->dev, 16);
	memcpy(dst, job.dst, sizeof(dst));
	IGNORE(hmm_migrate_copy(w->mm, &job.m));
	finish(w, &job);
	release_refused(&job, w->dev, 16, dst);
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

	setup(w, &first, p, 8, HMM_MIGRATE_SYSTEM);
	setup(w, &second, p + 4 * page, 12, HMM_MIGRATE_SYSTEM);
	assert_int_equal(first.m.nr_pages, 8);
	assert_int_equal(second.m.nr_pages, 8);
	for (int i = 0; i < 4; i++)
		assert_int_equal(hmm_src_reason(second.src[i]), HMM_REASON_BUSY);
	aim(&second, w->other, 12);
	aim(&first, w->dev, 8);
	assert_int_equal(hmm_migrate_copy(w->mm, &second.m), 0);
	assert_int_equal(hmm_migrate_copy(w->mm, &first.m), 0);
	finish(w, &second);
	finish(w, &first);
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
	aim(&job, w->dev, 16);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	hmm_migrate_pages(w->mm, &job.m);
	assert_false(hmm_notifier_read_retry(h->notifier, job.m.seq));
	assert_int_equal(munmap(p, page), 0);
	assert_true(eventually(hmm_notifier_read_retry(h->notifier, job.m.seq)));
	hmm_migrate_finalize(w->mm, &job.m);
	listen_end(h);
	munmap(p, 16 * page);
}

struct racer {
	pthread_t thread;
	pthread_barrier_t *barrier;
	unsigned char *p;
	bool right;
};

static void *racer_run(void *arg)
{
	struct racer *r = arg;

	pthread_barrier_wait(r->barrier);
	r->right = holds(r->p, 1, 31, 0);
	return NULL;
}

/* Threads that fault on one page at once all see its bytes; it comes home once. */
static void threads_fault_on_one_page_at_once(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(1, 31);
	pthread_barrier_t barrier;
	struct racer racers[8];

	assert_int_equal(pthread_barrier_init(&barrier, NULL, ARRAY_LEN(racers)), 0);
	for (int round = 0; round < 40; round++) {
		/* A fault that was answered with another's may still be in a handler's hand. */
		assert_true(eventually(try_device(w, w->dev, p, 1, NULL) == 1));
		for (size_t i = 0; i < ARRAY_LEN(racers); i++) {
			racers[i] = (struct racer) { .barrier = &barrier, .p = p };
			assert_int_equal(pthread_create(&racers[i].thread, NULL, racer_run,
							&racers[i]), 0);
		}
		for (size_t i = 0; i < ARRAY_LEN(racers); i++) {
			pthread_join(racers[i].thread, NULL);
			assert_true(racers[i].right);
		}
	}
	assert_int_equal(moved(w, pages_to_system), 40);
	assert_int_equal(w->dev->pages_from, 40);
	pthread_barrier_destroy(&barrier);
	munmap(p, page);
}

static _Atomic uint32_t incrementing;

static void *incrementer_run(void *arg)
{
	_Atomic uint64_t *counters = arg;
	uint64_t n = 0;

	while (atomic_load(&incrementing)) {
		for (int i = 0; i < 16; i++)
			atomic_fetch_add(&counters[i * 512], 1);
		n++;
	}
	return (void *)(uintptr_t)n;
}

/* Writers go on while their pages migrate: no increment is lost. */
static void no_write_is_lost_while_pages_migrate(void **state)
{
	struct world *w = *state;
	_Atomic uint64_t *p = map_pages(16, PROT_READ | PROT_WRITE, 0);
	uint64_t sum = 0;
	pthread_t threads[2];
	void *n;

	atomic_store(&incrementing, 1);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, incrementer_run, p), 0);
	for (int round = 0; round < 200; round++)
		IGNORE(try_device(w, round & 1 ? w->dev : w->other, p, 16, NULL));
	atomic_store(&incrementing, 0);
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], &n);
		sum += (uintptr_t)n;
	}
	for (int i = 0; i < 16; i++)
		assert_int_equal(p[i * 512], sum);
	assert_true(moved(w, pages_to_device) > 0);
	munmap(p, 16 * page);
}

/* migrate_to_ram may bring neighbours home: one fault for all of them. */
static void driver_brings_neighbours_home(void **state)
{
	struct world *w = *state;
	unsigned char *base = map_pages(32, PROT_READ | PROT_WRITE, 0);
	unsigned char *p = (void *)(((uintptr_t)base + 16 * page - 1) & ~(16 * page - 1));

	fill(p, 16, 32);
	to_device(w, w->dev, p, 16);
	w->dev->around = 16;
	assert_int_equal(p[3 * page], (unsigned char)pattern(32, 3, 0));
	assert_int_equal(moved(w, cpu_faults), 1);
	assert_int_equal(moved(w, pages_to_system), 16);
	assert_int_equal(w->dev->faults, 1);
	assert_at(w, p, 16, HMM_PLACE_SYSTEM);
	assert_holds(p, 16, 32, 0);
	munmap(base, 32 * page);
}

static void *read_first_byte(void *arg)
{
	return (void *)(uintptr_t)*(volatile unsigned char *)arg;
}

/* A thread that touches @p, whose fault the driver has answered with -EINPROGRESS. */
static pthread_t toucher(struct testdev *dev, void *p)
{
	pthread_t thread;
	uint32_t before = atomic_load(&dev->nr_deferred);

	assert_int_equal(pthread_create(&thread, NULL, read_first_byte, p), 0);
	assert_true(eventually(atomic_load(&dev->nr_deferred) == before + 1));
	return thread;
}

static unsigned char joined(pthread_t thread)
{
	void *byte;

	assert_int_equal(pthread_join(thread, &byte), 0);
	return (unsigned char)(uintptr_t)byte;
}

static void fault_ends_later(struct world *w, struct testdev *dev, struct testdev *other)
{
	unsigned char *p = map_filled(4, 33);
	pthread_t first, second;

	to_device(w, dev, p, 2);
	to_device(w, other, p + 2 * page, 2);
	atomic_store(&dev->defer, true);
	first = toucher(dev, p);
	second = toucher(dev, p + page);
	/* Nobody is kept: the other device's fault is served, in this thread's time. */
	assert_holds(p + 2 * page, 2, 33, 2);
	assert_at(w, p, 2, HMM_PLACE_DEVICE);
	hmm_fault_done(dev->devmem, &dev->deferred[1]);
	assert_int_equal(joined(second), (unsigned char)pattern(33, 1, 0));
	hmm_fault_done(dev->devmem, &dev->deferred[0]);
	assert_int_equal(joined(first), (unsigned char)pattern(33, 0, 0));
	atomic_store(&dev->defer, false);
	assert_holds(p, 4, 33, 0);
	munmap(p, 4 * page);
}

/* A fault that the driver ends by itself keeps no handler, and ends in any order. */
static void driver_ends_a_fault_later(void **state)
{
	struct world *w = *state;

	fault_ends_later(w, w->dev, w->other);
}

/* The same from the thread of a devmem that is not fault safe. */
static void driver_ends_a_fault_later_unsafe(void **state)
{
	struct world *w = *state;

	fault_ends_later(w, w->other, w->dev);
}

/* The page was replaced while the driver had its fault: the CPU sees what is there now. */
static void fault_ends_after_its_page(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(2, 34);
	pthread_t thread;

	to_device(w, w->dev, p, 2);
	atomic_store(&w->dev->defer, true);
	thread = toucher(w->dev, p);
	assert_ptr_equal(mmap(p, page, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), p);
	hmm_fault_done(w->dev->devmem, &w->dev->deferred[0]);
	assert_int_equal(joined(thread), 0);
	atomic_store(&w->dev->defer, false);
	assert_holds(p + page, 1, 34, 1);
	munmap(p, 2 * page);
}

static uint64_t times_counted(struct world *w)
{
	struct hmm_times times = { .size = sizeof(times) };

	assert_int_equal(hmm_mm_fault_times(w->mm, &times), 0);
	return times.nr;
}

/*
 * Each fault on a page that was away is counted with the time that it took, however it
 * ends; one that the driver ends late has taken at least that long.
 */
static void faults_are_timed(void **state)
{
	struct world *w = *state;
	const uint64_t before = times_counted(w);
	struct hmm_times times = { .size = sizeof(times) };
	unsigned char *p = map_filled(8, 35);
	struct timespec start, now;
	pthread_t thread;

	assert_int_equal(hmm_mm_fault_times(w->mm, NULL), -EINVAL);
	times.size--;
	assert_int_equal(hmm_mm_fault_times(w->mm, &times), -EINVAL);
	times.size++;
	to_device(w, w->dev, p, 8);
	for (size_t i = 0; i < 6; i += 2)
		assert_holds(p + i * page, 1, 35, i);
	/* The CPU may be gone on before the handler has counted. */
	assert_true(eventually(times_counted(w) - before == moved(w, cpu_faults)));
	assert_true(moved(w, cpu_faults) >= 1);
	evict(w, p, 8);

	to_device(w, w->dev, p, 1);
	atomic_store(&w->dev->defer, true);
	thread = toucher(w->dev, p);
	assert_true(w->dev->deferred[0].read_ns > 0);
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < 3000000);
	hmm_fault_done(w->dev->devmem, &w->dev->deferred[0]);
	joined(thread);
	atomic_store(&w->dev->defer, false);
	assert_int_equal(hmm_mm_fault_times(w->mm, &times), 0);
	assert_int_equal(times.nr - before, moved(w, cpu_faults));
	assert_true(times.max_ns >= 3000000);
	assert_true(hmm_times_ns(&times, 1000) == times.max_ns);
	munmap(p, 8 * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(system_to_device_and_back),
		world_test(cpu_write_brings_home),
		world_test(device_to_system_by_evict),
		world_test(range_of_any_size),
		world_test(device_to_device_peer),
		world_test(device_to_device_bounce),
		world_test(device_to_same_device),
		world_test(holes_become_zeroed_device_pages),
		world_test(zero_pages_travel_as_holes),
		world_test(mixed_range_is_best_effort),
		world_test(staging_holds_the_content),
		world_test(finalize_with_dst_zero_keeps_pages),
		world_test(refused_holes_stay_holes),
		world_test(refused_device_pages_stay_there),
		world_test(flags_choose_what_is_taken),
		world_test(from_owner_chooses_the_device),
		world_test(destination_of_no_device_keeps_page),
		world_test(failed_copy_to_device_keeps_pages),
		world_test(migrate_copy_clears_failed_dst),
		world_test(failed_bounce_keeps_pages_on_first_device),
		world_test(one_failed_read_loses_nothing),
		world_test(asynchronous_copies),
		world_test(device_full),
		world_test(touch_during_flight_waits_commit),
		world_test(touch_during_flight_waits_refused),
		world_test(fault_during_eviction_waits),
		world_test(unmap_between_setup_and_pages),
		world_test(unmap_between_pages_and_finalize),
		world_test(map_fixed_between_setup_and_finalize),
		world_test(mremap_between_setup_and_finalize),
		world_test(mremap_in_flight_then_refused),
		world_test(mremap_by_another_thread_while_migrating),
		world_test(dontneed_between_setup_and_finalize),
		world_test(overlapping_migrations_share_the_range),
		world_test(setup_seq_covers_its_own_event),
		world_test(threads_fault_on_one_page_at_once),
		world_test(no_write_is_lost_while_pages_migrate),
		world_test(driver_ends_a_fault_later),
		world_test(driver_ends_a_fault_later_unsafe),
		world_test(fault_ends_after_its_page),
		world_test(faults_are_timed),
		world_test(driver_brings_neighbours_home),
	};

	need_mm();
	return cmocka_run_group_tests_name("migrate", tests, world_begin, world_end);
}
