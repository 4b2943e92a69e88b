/* SPDX-License-Identifier: MIT */
/*
 * Migration: four directions, holes and zero pages, best effort with a reason per
 * page, and failing copies.
 */
#define _GNU_SOURCE
#include "job.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

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
	p[WORDS + 3] = 77;
	assert_int_equal(p[WORDS + 3], 77);
	assert_int_equal(p[WORDS + 4], pattern(2, 1, 4));
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
	job_setup(w, &job, p, 8, HMM_MIGRATE_DEVICE);
	assert_int_equal(job.m.nr_pages, 8);
	for (int i = 0; i < 8; i++) {
		assert_true(job.src[i] & HMM_SRC_DEVICE);
		assert_int_equal(hmm_src_devmem(job.src[i]), w->dev->id);
		before[i] = hmm_src_index(job.src[i]);
	}
	job_aim(&job, w->dev, 8);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	job_finish(w, &job);
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

	job_setup(w, &job, p, BATCH, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, BATCH);
	for (int i = 0; i < BATCH; i++) {
		assert_true(job.src[i] & HMM_SRC_HOLE);
		assert_null(hmm_src_addr(job.src[i]));
	}
	job_aim(&job, w->dev, BATCH);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	job_finish(w, &job);
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
	job_setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
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
	job_aim(&job, w->dev, 16);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	job_finish(w, &job);
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

	job_setup(w, &job, p, BATCH, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, BATCH);
	assert_at(w, p, BATCH, HMM_PLACE_FLIGHT);
	assert_int_equal(cpu_maps_count(p, BATCH), 0);
	for (int i = 0; i < BATCH; i++) {
		assert_non_null(hmm_src_addr(job.src[i]));
		assert_true((unsigned char *)hmm_src_addr(job.src[i]) < p ||
			    (unsigned char *)hmm_src_addr(job.src[i]) >= p + BATCH * page);
		assert_holds(hmm_src_addr(job.src[i]), 1, 8, (uint64_t)i);
	}
	job_finish(w, &job);
	munmap(p, BATCH * page);
}

/*
 * Which way pages are taken is told by the counters, and is the one that uhmm doctor
 * names: MOVE, and without it DONTUNMAP, whose pages go home by copy.
 */
static void path_is_the_one_promised(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(BATCH, 21);

	to_device(w, w->dev, p, BATCH);
	assert_int_equal(moved(w, moved_runs) > 0, !masked("uffdio-move"));
	assert_int_equal(moved(w, remapped_runs) > 0, masked("uffdio-move"));
	assert_int_equal(moved(w, copied_pages), 0);
	assert_int_equal(evict(w, p, BATCH), BATCH);
	assert_int_equal(moved(w, moved_runs) > 0, !masked("uffdio-move"));
	assert_true(!masked("uffdio-move") || moved(w, copied_pages) == BATCH);
	assert_holds(p, BATCH, 21, 0);
	munmap(p, BATCH * page);
}

/* dst[] of 0 leaves the page where it was, and finalize gives it back. */
static void finalize_with_dst_zero_keeps_pages(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(BATCH, 9);
	static struct job job;

	job_setup(w, &job, p, BATCH, HMM_MIGRATE_SYSTEM);
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

	job_setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM);
	job_finish(w, &job);
	assert_at(w, p, 16, HMM_PLACE_HOLE);
	assert_true(all_zero(p, 16 * page));
	munmap(p, 16 * page);
}

/* What is not there is not made, where that is asked; the zero page is there. */
static void holes_are_kept(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 11);
	static struct job job;

	assert_int_equal(madvise(p + 4 * page, 8 * page, MADV_DONTNEED), 0);
	assert_true(all_zero(p + 5 * page, page));
	job_setup(w, &job, p, 16, HMM_MIGRATE_SYSTEM | HMM_MIGRATE_KEEP_HOLES);
	assert_int_equal(job.m.nr_pages, 9);
	for (int i = 0; i < 16; i++) {
		bool hole = i >= 4 && i < 12 && i != 5;

		assert_int_equal(!(job.src[i] & HMM_SRC_MIGRATE), hole);
		assert_true(!hole || job.src[i] == 0);
	}
	job_aim(&job, w->dev, 16);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	job_finish(w, &job);
	assert_at(w, p + 6 * page, 6, HMM_PLACE_HOLE);
	assert_at(w, p, 4, HMM_PLACE_DEVICE);
	assert_holds(p, 4, 11, 0);
	assert_true(all_zero(p + 4 * page, 8 * page));
	assert_holds(p + 12 * page, 4, 11, 12);
	munmap(p, 16 * page);
}

/*
 * Every other page is on the device already: the rest goes in one move, not in as many.
 * Aligned to their number: where a block of 512 pages ended among them they would be two.
 */
static void device_pages_between_are_passed(void **state)
{
	struct world *w = *state;
	unsigned char *mapped = map_pages(128, PROT_READ | PROT_WRITE, 0);
	unsigned char *p = (unsigned char *)(((uintptr_t)mapped + 63 * page) & ~(64 * page - 1));
	static struct job job;

	fill(p, 64, 12);
	for (int i = 1; i < 64; i += 2)
		to_device(w, w->other, p + i * page, 1);
	stats_mark(w);
	job_setup(w, &job, p, 64, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, 32);
	for (int i = 0; i < 64; i++) {
		assert_int_equal(!(job.src[i] & HMM_SRC_MIGRATE), i % 2);
		assert_true(i % 2 == 0 || hmm_src_reason(job.src[i]) == HMM_REASON_DEVICE);
	}
	if (!masked("uffdio-move"))
		assert_int_equal(moved(w, moved_runs), 1);
	job_aim(&job, w->dev, 64);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	job_finish(w, &job);
	assert_at(w, p, 64, HMM_PLACE_DEVICE);
	assert_int_equal(testdev_used(w->dev), 32);
	assert_int_equal(testdev_used(w->other), 32);
	assert_holds(p, 64, 12, 0);
	munmap(mapped, 128 * page);
}

/* Device pages that got no destination stay on their device. */
static void refused_device_pages_stay_there(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(16, 10);
	static struct job job;

	to_device(w, w->dev, p, 16);
	job_setup(w, &job, p, 16, HMM_MIGRATE_DEVICE);
	assert_int_equal(job.m.nr_pages, 16);
	job_aim(&job, w->other, 8);
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	job_finish(w, &job);
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
	job_setup(w, &job, p, 4, HMM_MIGRATE_SYSTEM);
	assert_int_equal(job.m.nr_pages, 2);
	assert_int_equal(hmm_src_reason(job.src[0]), HMM_REASON_DEVICE);
	assert_true(job.src[2] & HMM_SRC_MIGRATE);
	job_finish(w, &job);
	job_setup(w, &job, p, 4, HMM_MIGRATE_DEVICE);
	assert_int_equal(job.m.nr_pages, 2);
	assert_true(job.src[0] & HMM_SRC_DEVICE);
	assert_false(job.src[2] & HMM_SRC_MIGRATE);
	job_finish(w, &job);
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
	job_finish(w, &job);
	assert_holds(p, 4, 12, 0);
	munmap(p, 4 * page);
}

/* One migration to two devices, page by page: each knows which are its own, to the last. */
static void to_two_devices_in_turns(void **state)
{
	struct world *w = *state;
	struct testdev *third = testdev_new(w->mm, 8, world_owner_a, 0);
	unsigned char *p = map_filled(8, 21);
	static struct job job;

	job_setup(w, &job, p, 8, HMM_MIGRATE_SYSTEM);
	for (size_t i = 0; i < 8; i++) {
		struct testdev *dev = i & 1 ? third : w->dev;

		job.dst[i] = hmm_dst(dev->id, testdev_reserve(dev, 1));
	}
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), 0);
	job_finish(w, &job);
	assert_int_equal(job_migrating(&job, 8), 8);
	assert_int_equal(testdev_used(third), 4);
	assert_int_equal(testdev_used(w->dev), 4);
	assert_int_equal(testdev_remove(third), 0);
	assert_int_equal(testdev_used(w->dev), 4);
	assert_holds(p, 8, 21, 0);
	munmap(p, 8 * page);
}

/* A destination on no registered device is taken as no destination. */
static void destination_of_no_device_keeps_page(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(4, 13);
	static struct job job;

	job_setup(w, &job, p, 4, HMM_MIGRATE_SYSTEM);
	job.dst[0] = hmm_dst(200, 0);
	job.dst[1] = hmm_dst(w->dev->id, DEV_PAGES);	/* beyond its memory */
	job.dst[2] = hmm_dst(0, 0);
	job.dst[3] = hmm_dst(w->dev->id, 3) & ~HMM_DST_VALID;
	IGNORE(hmm_migrate_copy(w->mm, &job.m));
	job_finish(w, &job);
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

	job_setup(w, &job, p, 8, HMM_MIGRATE_SYSTEM);
	job_aim(&job, w->dev, 8);
	memcpy(dst, job.dst, sizeof(dst));
	w->dev->fail_to = 1;
	assert_int_equal(hmm_migrate_copy(w->mm, &job.m), -EIO);
	job_finish(w, &job);
	for (int i = 0; i < 8; i++)
		if (!job.dst[i])
			assert_false(job.src[i] & HMM_SRC_MIGRATE);
	assert_true(job_migrating(&job, 8) < 8);
	job_release_refused(&job, w->dev, 8, dst);
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
	uint32_t nr = rounds(50);

	testdev_async(w->dev);
	testdev_async(w->other);
	for (uint32_t round = 0; round < nr; round++) {
		to_device(w, w->dev, p, BATCH);
		to_device(w, w->other, p, BATCH);
		if (round & 1)
			assert_int_equal(evict(w, p, BATCH), BATCH);
		assert_holds(p, BATCH, 18, 0);
	}
	assert_int_equal(moved(w, pages_between), nr * BATCH);
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
		world_test(path_is_the_one_promised),
		world_test(finalize_with_dst_zero_keeps_pages),
		world_test(refused_holes_stay_holes),
		world_test(holes_are_kept),
		world_test(device_pages_between_are_passed),
		world_test(refused_device_pages_stay_there),
		world_test(flags_choose_what_is_taken),
		world_test(from_owner_chooses_the_device),
		world_test(to_two_devices_in_turns),
		world_test(destination_of_no_device_keeps_page),
		world_test(failed_copy_to_device_keeps_pages),
		world_test(migrate_copy_clears_failed_dst),
		world_test(failed_bounce_keeps_pages_on_first_device),
		world_test(one_failed_read_loses_nothing),
		world_test(asynchronous_copies),
		world_test(device_full),
	};

	need_mm();
	return cmocka_run_group_tests_name("migrate", tests, world_begin, world_end);
}
