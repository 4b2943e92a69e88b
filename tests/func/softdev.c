/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "softdev.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#define BLOCK	(2UL << 20)

/* A kernel's arguments. */
static struct {
	unsigned char *p;
	uint32_t seed;
	uint64_t value;
	_Atomic uint64_t bad;
} job;

struct hmm_soft *soft_new(struct world *w, const struct hmm_soft_opts *opts)
{
	struct hmm_soft *soft;

	assert_int_equal(hmm_soft_open(w->mm, opts, &soft), 0);
	return soft;
}

struct hmm_soft_stats soft_stats_of(struct hmm_soft *soft)
{
	struct hmm_soft_stats s = { .size = sizeof(s) };

	assert_int_equal(hmm_soft_stats(soft, &s), 0);
	return s;
}

int64_t soft_move_in(struct hmm_soft *soft, void *p, size_t nr, uint64_t *reasons)
{
	return hmm_soft_migrate_in(soft, (uintptr_t)p, (uintptr_t)p + nr * page, reasons);
}

/* Item i is page i. */
static void kernel_check(struct hmm_lane *lane, uint64_t item, void *arg)
{
	uint64_t bad = 0;

	(void)arg;
	for (size_t j = 0; j < page / 8; j++)
		bad += hmm_lane_load(lane, job.p + item * page + j * 8, 8) !=
		       pattern(job.seed, item, j);
	atomic_fetch_add(&job.bad, bad);
}

static void kernel_fill(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)arg;
	for (size_t j = 0; j < page / 8; j++)
		hmm_lane_store(lane, job.p + item * page + j * 8, pattern(job.seed, item, j), 8);
}

static void kernel_load(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)item;
	(void)arg;
	job.value = hmm_lane_load(lane, job.p, 8);
}

static void kernel_store(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)item;
	(void)arg;
	hmm_lane_store(lane, job.p, job.value, 8);
}

static void kernel_add(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)item;
	(void)arg;
	job.value = hmm_lane_add(lane, job.p, job.value, 8);
}

static void run(struct hmm_soft *soft, hmm_soft_kernel kernel, uint64_t items)
{
	assert_int_equal(hmm_soft_run(soft, kernel, items, NULL, NULL), 0);
}

void soft_checks(struct hmm_soft *soft, unsigned char *p, size_t nr, uint32_t seed)
{
	job.p = p;
	job.seed = seed;
	atomic_store(&job.bad, 0);
	run(soft, kernel_check, nr);
	assert_int_equal(job.bad, 0);
}

void soft_fills(struct hmm_soft *soft, unsigned char *p, size_t nr, uint32_t seed)
{
	job.p = p;
	job.seed = seed;
	run(soft, kernel_fill, nr);
}

uint64_t soft_load(struct hmm_soft *soft, const void *p)
{
	job.p = (unsigned char *)p;
	run(soft, kernel_load, 1);
	return job.value;
}

void soft_store(struct hmm_soft *soft, void *p, uint64_t value)
{
	job.p = p;
	job.value = value;
	run(soft, kernel_store, 1);
}

uint64_t soft_add(struct hmm_soft *soft, void *p, uint64_t value)
{
	job.p = p;
	job.value = value;
	run(soft, kernel_add, 1);
	return job.value;
}

int soft_try_load(struct hmm_soft *soft, const void *p, struct hmm_soft_fault *fault)
{
	job.p = (unsigned char *)p;
	return hmm_soft_run(soft, kernel_load, 1, NULL, fault);
}

static struct hmm_soft_fault refused(struct hmm_soft *soft, hmm_soft_kernel kernel, const void *p)
{
	struct hmm_soft_fault fault = { 0 };

	job.p = (unsigned char *)p;
	assert_int_equal(hmm_soft_run(soft, kernel, 1, NULL, &fault), -EFAULT);
	return fault;
}

struct hmm_soft_fault soft_load_refused(struct hmm_soft *soft, const void *p)
{
	return refused(soft, kernel_load, p);
}

struct hmm_soft_fault soft_store_refused(struct hmm_soft *soft, void *p)
{
	return refused(soft, kernel_store, p);
}

struct hmm_soft_fault soft_add_refused(struct hmm_soft *soft, void *p)
{
	return refused(soft, kernel_add, p);
}

unsigned char *map_apart(size_t nr)
{
	size_t bytes = nr * page;
	uintptr_t area = (uintptr_t)map_pages(nr + BLOCK / page, PROT_READ | PROT_WRITE, 0);
	uintptr_t start = (area + BLOCK - 1) & ~(BLOCK - 1);

	/* What is beside it, but for the page below: nothing comes near. */
	if (start > area)
		assert_int_equal(mprotect((void *)area, start - area, PROT_NONE), 0);
	assert_int_equal(mprotect((void *)(start + bytes), area + BLOCK - start, PROT_NONE), 0);
	return (unsigned char *)start;
}

unsigned char *map_blocks(size_t nr, uint32_t seed)
{
	unsigned char *p = map_apart(nr);

	fill(p, nr, seed);
	return p;
}

void unmap_blocks(unsigned char *p, size_t nr)
{
	assert_int_equal(munmap(p, nr * page), 0);
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}
