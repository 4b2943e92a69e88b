/* SPDX-License-Identifier: MIT */
#include "kit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PLACE		((uintptr_t)1 << 44)	/* far from libc's and ours */
#define APART		((uintptr_t)1 << 32)
#define PAGES_MAX	8192
#define PATIENCE_S	20

/* ---------------------------------------------------------------- memory */

unsigned char *map_pages(struct kit *kit, size_t nr)
{
	static _Atomic uintptr_t place = PLACE;
	uintptr_t at = atomic_fetch_add(&place, APART);
	void *p = mmap((void *)at, nr * kit->page, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		cannot("no memory for %zu pages", nr);
	return p;
}

void unmap_pages(struct kit *kit, void *p, size_t nr)
{
	if (munmap(p, nr * kit->page))
		cannot("munmap failed");
}

static uint64_t pattern(uint32_t seed, uint64_t page_nr, uint64_t word)
{
	uint64_t x = (uint64_t)seed << 48 ^ page_nr << 16 ^ word;

	/* splitmix64 */
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

void fill(struct kit *kit, void *p, size_t nr, uint32_t seed)
{
	uint64_t *words = p;

	for (size_t i = 0; i < nr; i++)
		for (size_t j = 0; j < kit->page / 8; j++)
			*words++ = pattern(seed, i, j);
}

void must_hold(struct kit *kit, enum promise promise, const void *p, size_t nr, uint32_t seed,
	       size_t first, const char *when)
{
	const uint64_t *words = p;

	for (size_t i = 0; i < nr; i++) {
		for (size_t j = 0; j < kit->page / 8; j++, words++) {
			uint64_t seen = *words;

			if (seen != pattern(seed, first + i, j))
				broke(promise, "%s: page %zu of %zu has other bytes from %zu on"
				      " (%#llx)", when, i, nr, j * 8, (unsigned long long)seen);
		}
	}
}

void must_be_zero(struct kit *kit, enum promise promise, const void *p, size_t nr,
		  const char *when)
{
	const unsigned char *bytes = p;

	for (size_t i = 0; i < nr * kit->page; i++)
		if (bytes[i])
			broke(promise, "%s: byte %zu of page %zu of %zu is %#x", when,
			      i % kit->page, i / kit->page, nr, bytes[i]);
}

/* ---------------------------------------------------------------- placement */

static bool patient(time_t *until)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!*until)
		*until = now.tv_sec + PATIENCE_S;
	return now.tv_sec < *until;
}

size_t count_at(struct kit *kit, const void *p, size_t nr, enum hmm_place place)
{
	uint8_t places[PAGES_MAX];
	size_t n = 0;

	if (nr > sizeof(places) ||
	    hmm_residency(kit->mm, (uintptr_t)p, (uintptr_t)p + nr * kit->page, places))
		cannot("hmm_residency failed");
	for (size_t i = 0; i < nr; i++)
		n += places[i] == place;
	return n;
}

int64_t try_device(struct kit *kit, struct hmm_device *device, void *p, size_t nr)
{
	uintptr_t start = (uintptr_t)p, end = start + nr * kit->page;

	if (kit->by_driver)
		return device->plugin->migrate(device, start, end);
	return hmm_migrate_to_device(kit->mm, device->devmem, start, end,
				     HMM_MIGRATE_SYSTEM | HMM_MIGRATE_DEVICE, NULL);
}

/* A page may be busy for a moment: a change or a fork of before is on its way. */
void to_device(struct kit *kit, void *p, size_t nr)
{
	time_t until = 0;
	int64_t ret;

	do {
		ret = try_device(kit, &kit->device, p, nr);
		if (ret >= 0 && count_at(kit, p, nr, HMM_PLACE_DEVICE) == nr)
			return;
	} while (ret >= 0 && patient(&until));
	if (ret < 0)
		broke(D_ARRIVES, "%s: %s of %zu pages: %s", verdict->doing,
		      kit->by_driver ? "the driver's migrate" : "hmm_migrate_to_device", nr,
		      strerror((int)-ret));
	broke(D_ARRIVES, "%s: of %zu pages %zu came to the device, which has %llu", verdict->doing,
	      nr, count_at(kit, p, nr, HMM_PLACE_DEVICE), (unsigned long long)kit->pages);
}

void to_ram(struct kit *kit, void *p, size_t nr)
{
	int64_t ret = hmm_evict(kit->mm, (uintptr_t)p, (uintptr_t)p + nr * kit->page);

	if (ret < 0)
		broke(D_BYTES, "%s: pages cannot be brought home: %s", verdict->doing,
		      strerror((int)-ret));
}

/* ---------------------------------------------------------------- accesses */

static int access_check(int ret, const char *what)
{
	switch (ret) {
	case 0:
	case -EFAULT:
	case -EPERM:
	case -EIO:
		return ret;
	}
	broke(D_RIGHTS, "%s: the device's %s answered %d (%s), which is none of 0, -EFAULT, -EPERM"
	      " and -EIO", verdict->doing, what, ret, ret < 0 ? strerror(-ret) : "not an errno");
}

int dev_read(struct kit *kit, const void *addr, void *buf, size_t len)
{
	return access_check(kit->plugin->read(&kit->device, (uintptr_t)addr, buf, len), "read");
}

int dev_write(struct kit *kit, void *addr, const void *buf, size_t len)
{
	return access_check(kit->plugin->write(&kit->device, (uintptr_t)addr, buf, len), "write");
}

/* ---------------------------------------------------------------- life */

void device_open(struct kit *kit, struct hmm_device *device)
{
	int ret = hmm_device_open(kit->mm, kit->plugin, kit->options, device);

	if (ret)
		cannot("the device does not open: %s", device->said[0] ? device->said :
		       strerror(-ret));
}

void device_close(struct hmm_device *device)
{
	time_t until = 0;
	int ret;

	do {
		ret = hmm_device_close(device);
	} while (ret == -EAGAIN && patient(&until));
	if (ret)
		broke(D_CLOSES, "%s: close() answered %s", verdict->doing, strerror(-ret));
}

/* What the library says, but for the losses that a trial makes itself. */
static void log_line(void *ctx, enum hmm_log_level level, const char *line)
{
	const struct kit *kit = ctx;

	if (level != HMM_LOG_INFO && !kit->lossy)
		dprintf(STDERR_FILENO, "%s\n", line);
}

void trial_open(struct kit *kit)
{
	HMM_OPTS(hmm_mm_opts, opts, .flags = kit->strict ? HMM_MM_STRICT : 0, .log = log_line,
		 .log_ctx = kit);
	int ret = hmm_mm_create(&opts, &kit->mm);

	if (ret == -EOPNOTSUPP || ret == -EBUSY || ret == -EPERM)
		not_offered("no mm of this kind here; uhmm doctor says why");
	if (ret)
		cannot("hmm_mm_create: %s", strerror(-ret));
	kit->page = hmm_page_size();
	device_open(kit, &kit->device);
	if (!kit->device.devmem)
		return;
	kit->watched = watch_of(kit->device.devmem);
	if (!kit->watched)
		cannot("the driver's calls of libuhmm are bound inside it and cannot be watched");
	kit->pages = watch_pages(kit->watched);
	if (kit->pages > PAGES_MAX)
		kit->pages = PAGES_MAX;
}

/* Everything home, accounted for and let go, whatever the trial did. */
static void world_close(struct kit *kit)
{
	HMM_OPTS(hmm_stats, stats);

	doing("closing after %s", verdict->doing);
	if (!kit->lossy)
		device_close(&kit->device);
	else if (hmm_device_close(&kit->device) == -EAGAIN)
		broke(D_CLOSES, "close() answers -EAGAIN after a page was lost");
	if (watch_devmems())
		broke(D_CLOSES, "close() left %u device memories registered", watch_devmems());
	if (watch_notifiers())
		broke(D_CLOSES, "close() left %u notifiers registered", watch_notifiers());
	if (hmm_mm_stats(kit->mm, &stats))
		cannot("hmm_mm_stats failed");
	if (stats.device_pages)
		broke(D_CLOSES, "%llu pages are on a device that is closed",
		      (unsigned long long)stats.device_pages);
	if (stats.lost_pages && !kit->lossy)
		broke(D_BYTES, "%llu pages were lost", (unsigned long long)stats.lost_pages);
	if (watch_count(ALLOCATED) > watch_count(FREED))
		broke(D_CLOSES, "%llu device pages were never freed", (unsigned long long)
		      (watch_count(ALLOCATED) - watch_count(FREED)));
	if (atomic_load(&verdict->copies_in_air))
		broke(D_ONCE, "%llu copies answered -EINPROGRESS and never ended",
		      (unsigned long long)atomic_load(&verdict->copies_in_air));
	watch_buffers();
	if (hmm_mm_destroy(kit->mm) && !kit->lossy)
		broke(D_CLOSES, "the mm cannot be destroyed after close()");
}

static bool offers_memory(const struct kit *kit)
{
	return kit->device.devmem && (kit->by_driver || watch_has_alloc(kit->watched));
}

void trial_main(struct kit *kit, const struct trial *trial)
{
	doing("opening the device");
	trial_open(kit);
	if (trial->memory && !offers_memory(kit))
		not_offered("no device memory that a host can fill");
	if (trial->view && (!kit->plugin->read || !kit->plugin->write))
		not_offered("no read and write");
	doing("%s", trial->name);
	trial->run(kit);
	world_close(kit);
	_exit(0);
}
