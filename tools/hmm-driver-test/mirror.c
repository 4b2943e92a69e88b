/* SPDX-License-Identifier: MIT */
/*
 * Trials of the device's view of the program's memory.
 */
#include "kit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define VIEW_PAGES	16

static void must_read(struct kit *kit, enum promise promise, const void *addr, const void *want,
		      size_t len, const char *when)
{
	unsigned char seen[256];
	int ret = dev_read(kit, addr, seen, len);

	if (ret)
		broke(promise, "%s: the device cannot read: %s", when, strerror(-ret));
	for (size_t i = 0; i < len; i++)
		if (seen[i] != ((const unsigned char *)want)[i])
			broke(promise, "%s: the device reads %#x where the CPU has %#x", when,
			      seen[i], ((const unsigned char *)want)[i]);
}

static void must_write(struct kit *kit, void *addr, const void *bytes, size_t len,
		       const char *when)
{
	int ret = dev_write(kit, addr, bytes, len);

	if (ret)
		broke(D_SEES, "%s: the device cannot write: %s", when, strerror(-ret));
	for (size_t i = 0; i < len; i++) {
		unsigned char seen = ((volatile unsigned char *)addr)[i];

		if (seen != ((const unsigned char *)bytes)[i])
			broke(D_SEES, "%s: the device wrote %#x and the CPU reads %#x", when,
			      ((const unsigned char *)bytes)[i], seen);
	}
}

/* Both ways over a page border, at one place of the pages. */
static void see_both_ways(struct kit *kit, unsigned char *p, unsigned char tag, const char *when)
{
	unsigned char bytes[200];
	unsigned char *at = p + kit->page - 77;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (unsigned char)(tag + i);
	memcpy(at, bytes, sizeof(bytes));
	must_read(kit, D_SEES, at, bytes, sizeof(bytes), when);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] ^= 0x5a;
	must_write(kit, at, bytes, sizeof(bytes), when);
	must_read(kit, D_SEES, at, bytes, sizeof(bytes), when);
}

/* Wherever the page is: holes, system memory, device memory, and after each move. */
void both_sides_see(struct kit *kit)
{
	static const unsigned char zeros[8];
	size_t nr = VIEW_PAGES;
	unsigned char *p = map_pages(kit, nr);
	bool memory = kit->device.devmem && watch_has_alloc(kit->watched) && kit->pages >= nr;

	must_read(kit, D_SEES, p + 3 * kit->page, zeros, 8, "in a hole");
	see_both_ways(kit, p, 1, "in system memory");
	for (int round = 0; memory && round < 3; round++) {
		doing("accesses by turns, round %d", round + 1);
		to_device(kit, p, nr);
		must_read(kit, D_SEES, p + 5 * kit->page, zeros, 8, "in a hole on the device");
		see_both_ways(kit, p, (unsigned char)(2 + round), "on the device");
		to_device(kit, p, nr);
		to_ram(kit, p, nr);
		see_both_ways(kit, p, (unsigned char)(5 + round), "back in system memory");
	}
	unmap_pages(kit, p, nr);
}

static void must_refuse(struct kit *kit, int ret, int want, const char *what)
{
	(void)kit;
	if (ret != want)
		broke(D_RIGHTS, "%s answers %s instead of %s", what,
		      ret ? strerror(-ret) : "success", strerror(-want));
}

/* What the CPU may not do the device may not do, on the device or not. */
void rights_are_kept(struct kit *kit)
{
	size_t nr = VIEW_PAGES;
	unsigned char *p = map_pages(kit, nr), byte = 1;
	size_t bytes = nr * kit->page;

	memset(p, 7, bytes);
	for (int away = 0; away < 2; away++) {
		doing("rights of pages %s", away ? "on the device" : "in system memory");
		if (away && !(kit->device.devmem && watch_has_alloc(kit->watched) &&
			      kit->pages >= nr))
			break;
		if (away)
			to_device(kit, p, nr);
		if (mprotect(p, bytes, PROT_READ))
			cannot("mprotect failed");
		must_refuse(kit, dev_write(kit, p, &byte, 1), -EPERM,
			    "a write to a read-only page");
		must_read(kit, D_RIGHTS, p, (unsigned char[]){ 7 }, 1, "a read-only page");
		if (mprotect(p, bytes, PROT_NONE))
			cannot("mprotect failed");
		/* Not announced in an mm that is not STRICT: learnt at the next fault. */
		if (kit->strict)
			must_refuse(kit, dev_read(kit, p, &byte, 1), -EFAULT,
				    "a read of a page without rights");
		if (mprotect(p, bytes, PROT_READ | PROT_WRITE))
			cannot("mprotect failed");
		byte = 7;
		must_write(kit, p, &byte, 1, "a page that may be written again");
	}
	unmap_pages(kit, p, nr);
	must_refuse(kit, dev_read(kit, p, &byte, 1), -EFAULT, "a read of a gap");
	must_refuse(kit, dev_write(kit, p, &byte, 1), -EFAULT, "a write to a gap");
}

static void map_again(struct kit *kit, unsigned char *p, size_t nr)
{
	if (mmap(p, nr * kit->page, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != p)
		cannot("mmap failed");
}

/*
 * The device has looked at pages; then what is at their addresses changes. Where the
 * mm is not STRICT a mirror hears of some changes soon after them: there the device's
 * next answer may be the old bytes once, so only STRICT is asked for the first.
 */
void no_stale_translation(struct kit *kit)
{
	static const unsigned char zeros[8];
	size_t nr = VIEW_PAGES;
	unsigned char *p = map_pages(kit, nr), *moved;
	bool memory = kit->device.devmem && watch_has_alloc(kit->watched) && kit->pages >= nr;
	unsigned char byte = 0;

	for (int away = 0; away < (memory ? 2 : 1); away++) {
		memset(p, 0x11, nr * kit->page);
		if (away)
			to_device(kit, p, nr);
		must_read(kit, D_SEES, p, (unsigned char[]){ 0x11 }, 1, "before the change");
		doing("pages %s are mapped anew", away ? "on the device" : "in system memory");
		map_again(kit, p, nr);
		must_read(kit, D_STOPS, p, zeros, 8, "after a new mapping at the same address");
		memset(p, 0x22, nr * kit->page);
		must_read(kit, D_STOPS, p, (unsigned char[]){ 0x22 }, 1,
			  "after the CPU wrote anew");

		doing("pages %s are discarded", away ? "on the device" : "in system memory");
		if (away)
			to_device(kit, p, nr);
		must_read(kit, D_SEES, p, (unsigned char[]){ 0x22 }, 1, "before the change");
		if (madvise(p, nr * kit->page, MADV_DONTNEED))
			cannot("madvise failed");
		must_read(kit, D_STOPS, p, zeros, 8, "after madvise(DONTNEED)");

		doing("pages %s are moved", away ? "on the device" : "in system memory");
		memset(p, 0x33, nr * kit->page);
		if (away)
			to_device(kit, p, nr);
		must_read(kit, D_SEES, p, (unsigned char[]){ 0x33 }, 1, "before the change");
		moved = map_pages(kit, nr);
		if (mremap(p, nr * kit->page, nr * kit->page, MREMAP_MAYMOVE | MREMAP_FIXED,
			   moved) != moved)
			broke(D_STANDS, "mremap of pages that the device has seen fails");
		if (dev_read(kit, p, &byte, 1) != -EFAULT)
			broke(D_STOPS, "after mremap the device still reads %#x at the old place",
			      byte);
		must_read(kit, D_SEES, moved, (unsigned char[]){ 0x33 }, 1, "at the new place");
		p = moved;
	}
	unmap_pages(kit, p, nr);
	if (dev_read(kit, p, &byte, 1) != -EFAULT)
		broke(D_STOPS, "after munmap the device still reads %#x", byte);
}

/* ---------------------------------------------------------------- races */

struct race {
	struct kit *kit;
	unsigned char *p;
	size_t nr;
	_Atomic bool stop;
	_Atomic uint32_t generation;	/* of the bytes at p, before they change */
	_Atomic uint64_t reads;
};

/*
 * A byte is of a generation that was current while the read ran: at least the one
 * before it began, at most the one after it ended (they are few enough not to wrap).
 */
static void *race_read(void *arg)
{
	struct race *r = arg;

	while (!atomic_load(&r->stop)) {
		size_t i = atomic_load(&r->reads) % r->nr;
		uint32_t before = atomic_load(&r->generation), after;
		unsigned char byte = 0;
		int ret = dev_read(r->kit, r->p + i * r->kit->page, &byte, 1);

		after = atomic_load(&r->generation);
		atomic_fetch_add(&r->reads, 1);
		if (ret || !byte)
			continue;	/* a gap or a hole: between two generations */
		if (byte < before || byte > after + 1)
			broke(D_STOPS, "a device read that began at generation %u of the"
			      " mapping and ended at %u has bytes of %u", before, after, byte);
	}
	return NULL;
}

/* A generation is announced only once nothing of the one before can be read any more. */
static void race_round(struct race *r, bool memory)
{
	struct kit *kit = r->kit;

	for (uint32_t g = 1; g < 120; g++) {
		memset(r->p, (int)g, r->nr * kit->page);
		if (memory && g % 2) {
			int64_t ret = try_device(kit, &kit->device, r->p, r->nr);

			(void)ret;	/* what goes, goes */
		}
		if (g % 3)
			map_again(kit, r->p, r->nr);
		else if (madvise(r->p, r->nr * kit->page, MADV_DONTNEED))
			cannot("madvise failed");
		atomic_store(&r->generation, g + 1);
	}
}

/* The device reads while the mapping under it comes and goes. */
void changes_race_accesses(struct kit *kit)
{
	struct race race = { .kit = kit, .nr = VIEW_PAGES, .generation = 1 };
	bool memory = kit->device.devmem && watch_has_alloc(kit->watched) &&
		      kit->pages >= VIEW_PAGES;
	pthread_t thread;

	race.p = map_pages(kit, race.nr);
	doing("the device reads while the mapping is replaced");
	if (pthread_create(&thread, NULL, race_read, &race))
		cannot("no thread");
	race_round(&race, memory);
	atomic_store(&race.stop, true);
	pthread_join(thread, NULL);
	unmap_pages(kit, race.p, race.nr);
	note("%llu device reads", (unsigned long long)atomic_load(&race.reads));
}

/* ---------------------------------------------------------------- atomics */

#define ADDS	3000		/* at least, by each side */

struct adder {
	struct kit *kit;
	uint64_t *word;
	_Atomic uint64_t by_cpu, by_device, refused;
	_Atomic bool done;
};

/* Until both have had their share: one alone would prove nothing. */
static void *device_adds(void *arg)
{
	struct adder *a = arg;

	for (uint64_t i = 0; i < ADDS || atomic_load(&a->by_cpu) < ADDS; i++) {
		int ret = a->kit->plugin->add(&a->kit->device, (uintptr_t)a->word, 1);

		if (ret && ret != -EOPNOTSUPP && ret != -EBUSY)
			broke(D_ATOMIC, "the device's add answers %s", strerror(-ret));
		atomic_fetch_add(ret ? &a->refused : &a->by_device, 1);
	}
	atomic_store(&a->done, true);
	return NULL;
}

/* CPU and device add to one word: no addition is lost. */
void atomics_add_up(struct kit *kit)
{
	struct adder adder = { .kit = kit };
	pthread_t thread;
	uint64_t want;

	if (!kit->plugin->add)
		not_offered("no add");
	adder.word = (uint64_t *)(void *)map_pages(kit, 1);
	doing("CPU and device add to one word");
	if (pthread_create(&thread, NULL, device_adds, &adder))
		cannot("no thread");
	while (!atomic_load(&adder.done)) {
		__atomic_fetch_add(adder.word, 1, __ATOMIC_SEQ_CST);
		atomic_fetch_add(&adder.by_cpu, 1);
	}
	pthread_join(thread, NULL);
	want = atomic_load(&adder.by_cpu) + atomic_load(&adder.by_device);
	if (*adder.word != want)
		broke(D_ATOMIC, "%llu additions came to %llu", (unsigned long long)want,
		      (unsigned long long)*adder.word);
	unmap_pages(kit, adder.word, 1);
	note("%llu by the device, %llu refused, %llu by the CPU",
	     (unsigned long long)atomic_load(&adder.by_device),
	     (unsigned long long)atomic_load(&adder.refused),
	     (unsigned long long)atomic_load(&adder.by_cpu));
}
