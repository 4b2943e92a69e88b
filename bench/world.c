/* SPDX-License-Identifier: MIT */
/* The memory and the device that a bench measures on. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "bench.h"

#define HUGE_SIZE	(2 * MIB)

uint64_t bench_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

double bench_gb_per_s(size_t bytes, uint64_t ns)
{
	return ns ? (double)bytes / (double)ns : 0;
}

static void fill(const struct bench_area *area)
{
	size_t page = hmm_page_size();

	for (size_t i = 0; i < area->len / page; i++) {
		uint64_t *words = (uint64_t *)(area->base + i * page);

		for (size_t w = 0; w < page / sizeof(*words); w++)
			words[w] = (i << 12 | w) * 0x9e3779b97f4a7c15u;
		words[0] = i;
	}
}

int bench_area_map(struct bench_area *area, size_t len, bool huge)
{
	size_t page = hmm_page_size(), map_len = len + 2 * HUGE_SIZE;
	uintptr_t base;
	void *map;

	map = mmap(NULL, map_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return -ENOMEM;

	base = ((uintptr_t)map + page + HUGE_SIZE - 1) & ~(uintptr_t)(HUGE_SIZE - 1);
	area->base = (unsigned char *)base;
	area->len = len;
	area->map = map;
	area->map_len = map_len;
	if (mprotect(area->base, len, PROT_READ | PROT_WRITE)) {
		munmap(map, map_len);
		return -ENOMEM;
	}
	/* Without THP in the kernel there is nothing to advise: small pages they are. */
	(void)madvise(area->base, len, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	fill(area);
	return 0;
}

void bench_area_unmap(struct bench_area *area)
{
	if (area->map)
		munmap(area->map, area->map_len);
	memset(area, 0, sizeof(*area));
}

bool bench_area_intact(const struct bench_area *area)
{
	size_t page = hmm_page_size();

	for (size_t i = 0; i < area->len / page; i++)
		if (*(volatile uint64_t *)(area->base + i * page) != i)
			return false;
	return true;
}

int bench_device_open(struct bench_device *device, size_t mem_bytes, uint32_t fault_around)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = mem_bytes, .migrate = HMM_SOFT_MIGRATE_NEVER,
		 .prefetch = 101, .fault_around = fault_around);
	int ret;

	memset(device, 0, sizeof(*device));
	ret = hmm_mm_create(NULL, &device->mm);
	if (ret)
		return ret;
	ret = hmm_soft_open(device->mm, &opts, &device->soft);
	if (ret)
		(void)hmm_mm_destroy(device->mm);
	return ret;
}

int bench_device_close(struct bench_device *device)
{
	int ret = hmm_soft_close(device->soft);
	int mm_ret = hmm_mm_destroy(device->mm);

	return ret ? ret : mm_ret;
}

int bench_move_in(struct bench_device *device, const void *start, size_t len)
{
	int64_t moved = hmm_soft_migrate_in(device->soft, (uintptr_t)start,
					    (uintptr_t)start + len, NULL);

	if (moved < 0)
		return (int)moved;
	return (size_t)moved == len / hmm_page_size() ? 0 : -EIO;
}

int bench_move_out(struct bench_device *device, const void *start, size_t len)
{
	int64_t moved = hmm_evict(device->mm, (uintptr_t)start, (uintptr_t)start + len);

	if (moved < 0)
		return (int)moved;
	return (size_t)moved == len / hmm_page_size() ? 0 : -EIO;
}

void bench_shuffle(uint32_t *order, uint32_t nr)
{
	uint64_t state = 0x2545f4914f6cdd1du;

	for (uint32_t i = 0; i < nr; i++)
		order[i] = i;
	for (uint32_t i = nr; i > 1; i--) {
		uint32_t j, swap;

		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		j = (uint32_t)(state % i);
		swap = order[i - 1];
		order[i - 1] = order[j];
		order[j] = swap;
	}
}
