/* SPDX-License-Identifier: MIT */
/*
 * Trials of the device's memory: what goes comes back, and every page can be used.
 */
#include "kit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Each size there and back, by a CPU's touch, by eviction, and by device page. */
void bytes_go_and_come(struct kit *kit)
{
	static const size_t sizes[] = { 1, 2, 7, 64, 513, 2000 };
	static const char *const ways[] = { "home by a touch", "home by eviction of the range",
					    "home by eviction of device pages" };
	uint64_t total = 0;

	for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
		size_t nr = sizes[s] < kit->pages ? sizes[s] : kit->pages;
		unsigned char *p = map_pages(kit, nr);

		for (uint32_t way = 0; way < 3; way++) {
			doing("%zu pages to the device, %s", nr, ways[way]);
			fill(kit, p, nr, (uint32_t)s * 3 + way);
			to_device(kit, p, nr);
			if (way == 1)
				to_ram(kit, p, nr);
			if (way == 2 && hmm_devmem_evict(kit->device.devmem, 0,
							 watch_pages(kit->watched)) < 0)
				broke(D_BYTES, "%s: hmm_devmem_evict failed", verdict->doing);
			must_hold(kit, D_BYTES, p, nr, (uint32_t)s * 3 + way, 0, verdict->doing);
			total += nr;
		}
		unmap_pages(kit, p, nr);
	}
	note("%llu pages each way", (unsigned long long)total);
}

/*
 * Device memory that held other bytes before must not show them: not in pages that
 * had no content, and not beside pages that had.
 */
void holes_read_as_zeros(struct kit *kit)
{
	size_t nr = kit->pages < 1024 ? kit->pages : 1024;
	unsigned char *p = map_pages(kit, nr);

	doing("device memory is dirtied");
	fill(kit, p, nr, 1);
	to_device(kit, p, nr);
	unmap_pages(kit, p, nr);

	doing("%zu holes go to memory that was used before", nr);
	p = map_pages(kit, nr);
	to_device(kit, p, nr);
	must_be_zero(kit, D_ZEROS, p, nr, verdict->doing);
	unmap_pages(kit, p, nr);

	doing("holes and pages by turns");
	p = map_pages(kit, nr);
	for (size_t i = 0; i < nr; i += 2)
		memset(p + i * kit->page, 0xee, kit->page);
	to_device(kit, p, nr);
	for (size_t i = 1; i < nr; i += 2)
		must_be_zero(kit, D_ZEROS, p + i * kit->page, 1, verdict->doing);
	for (size_t i = 0; i < nr; i += 2)
		if (p[i * kit->page] != 0xee || memcmp(p + i * kit->page, p + i * kit->page + 1,
						       kit->page - 1))
			broke(D_BYTES, "%s: page %zu has other bytes", verdict->doing, i);
	unmap_pages(kit, p, nr);
	note("%zu holes", nr);
}

/* Single pages leave and come back in any order, changed by the CPU in between. */
void touches_in_any_order(struct kit *kit)
{
	size_t nr = kit->pages < 256 ? kit->pages : 256;
	unsigned char *p = map_pages(kit, nr), *model = malloc(nr);

	if (!model)
		cannot("no memory");
	memset(model, 0, nr);
	doing("single pages leave and are touched, in any order");
	for (int round = 0; round < 1500; round++) {
		size_t i = (size_t)rand_r(&kit->seed) % nr;
		size_t leaves = (size_t)rand_r(&kit->seed) % nr;
		unsigned char *page = p + i * kit->page;
		size_t last = kit->page - 1;

		to_device(kit, p + leaves * kit->page, 1);
		if (page[0] != model[i] || page[last] != model[i])
			broke(D_BYTES, "%s: page %zu holds %#x ... %#x instead of %#x",
			      verdict->doing, i, page[0], page[last], model[i]);
		model[i] = (unsigned char)rand_r(&kit->seed);
		page[0] = page[last] = model[i];
	}
	free(model);
	unmap_pages(kit, p, nr);
	note("%llu pages came home", (unsigned long long)watch_count(FROM_DEVICE));
}

/* The kernel's own accesses, from inside read(2) and write(2), fault as a CPU's do. */
void system_calls_reach_pages(struct kit *kit)
{
	size_t nr = kit->pages < 64 ? kit->pages : 64, bytes = nr * kit->page;
	unsigned char *p = map_pages(kit, nr);
	int fd = memfd_create("uhmm-kit", MFD_CLOEXEC);

	if (fd < 0)
		cannot("memfd_create failed");
	doing("write(2) from pages on the device");
	fill(kit, p, nr, 2);
	to_device(kit, p, nr);
	if (pwrite(fd, p, bytes, 0) != (ssize_t)bytes)
		broke(D_BYTES, "%s fails", verdict->doing);
	doing("read(2) into pages on the device");
	fill(kit, p, nr, 3);
	to_device(kit, p, nr);
	if (pread(fd, p, bytes, 0) != (ssize_t)bytes)
		broke(D_BYTES, "%s fails", verdict->doing);
	must_hold(kit, D_BYTES, p, nr, 2, 0, verdict->doing);
	close(fd);
	unmap_pages(kit, p, nr);
}

/* As many pages as go; the device may make room of its own by evicting. */
static size_t fill_up(struct kit *kit, unsigned char *p, size_t nr)
{
	int64_t ret = try_device(kit, &kit->device, p, nr);

	if (ret < 0 && ret != -ENOSPC)
		broke(D_ERRORS, "%s: a full device answers %s, not -ENOSPC", verdict->doing,
		      strerror((int)-ret));
	return count_at(kit, p, nr, HMM_PLACE_DEVICE);
}

/*
 * More than fits, again and again: the device never holds more than it has, takes as
 * much the last time as the first, and every page of all of it stays right.
 */
void memory_is_filled_and_freed(struct kit *kit)
{
	uint64_t has = watch_pages(kit->watched);
	size_t nr = kit->pages + (has > kit->pages ? 0 : 64), first = 0, there;
	unsigned char *p;

	if (nr > 8192)
		nr = 8192;
	for (uint32_t round = 0; round < 4; round++) {
		doing("memory is filled, round %u", round + 1);
		p = map_pages(kit, nr);
		fill(kit, p, nr, round);
		there = fill_up(kit, p, nr < has ? nr : has);
		if (!round)
			first = there;
		if (there < first - first / 8)
			broke(D_FREE, "%s: %zu pages went in, at first it were %zu: freed pages"
			      " are not had again", verdict->doing, there, first);
		there = fill_up(kit, p, nr);
		if (there > has)
			broke(D_ALLOC, "%s: %zu pages are on a device of %llu", verdict->doing,
			      there, (unsigned long long)has);
		if (round % 2)
			must_hold(kit, D_BYTES, p, nr, round, 0, verdict->doing);
		unmap_pages(kit, p, nr);
	}
	if (first < (has < nr ? has : nr) / 2)
		broke(D_ARRIVES, "an empty device of %llu pages took %zu of %zu",
		      (unsigned long long)has, first, nr);
	note("%zu of %zu pages went into memory of %llu", first, nr, (unsigned long long)has);
}

/* From one device to a second of the same driver and back, by whatever path there is. */
void peers_copy(struct kit *kit)
{
	size_t nr = kit->pages < 600 ? kit->pages : 600;
	struct hmm_device second;
	unsigned char *p = map_pages(kit, nr);
	HMM_OPTS(hmm_stats, stats);
	int64_t ret;

	doing("opening a second device");
	if (hmm_device_open(kit->mm, kit->plugin, kit->options, &second))
		not_offered("no second device of this driver");
	doing("pages go from one device to the other");
	fill(kit, p, nr, 4);
	to_device(kit, p, nr);
	ret = try_device(kit, &second, p, nr);
	if (ret < 0)
		broke(D_ARRIVES, "%s: %s", verdict->doing, strerror((int)-ret));
	doing("pages go back to the first device");
	to_device(kit, p, nr / 2);
	if (hmm_mm_stats(kit->mm, &stats))
		cannot("hmm_mm_stats failed");
	must_hold(kit, D_BYTES, p, nr, 4, 0, verdict->doing);
	doing("closing the second device");
	unmap_pages(kit, p, nr);
	device_close(&second);
	note("%llu pages between devices, %llu of them by the driver's own copy",
	     (unsigned long long)stats.pages_between, (unsigned long long)watch_count(PEER));
}
