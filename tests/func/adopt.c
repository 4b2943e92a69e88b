/* SPDX-License-Identifier: MIT */
/* hmm_adopt(): private copies of a file's pages become migratable, and lose nothing. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "world.h"

#define NR	64
#define RW	(PROT_READ | PROT_WRITE)

/* A file with pattern @seed, and no name. */
static int make_file(size_t nr, uint32_t seed)
{
	char path[] = "/tmp/uhmm-adopt-XXXXXX";
	int fd = mkstemp(path);
	unsigned char *buf = malloc(nr * page);

	assert_true(fd >= 0);
	unlink(path);
	fill(buf, nr, seed);
	assert_int_equal(pwrite(fd, buf, nr * page, 0), nr * page);
	free(buf);
	return fd;
}

static unsigned char *map_private(int fd, size_t nr, int prot)
{
	unsigned char *p = mmap(NULL, nr * page, prot, MAP_PRIVATE, fd, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static int64_t adopt(struct world *w, void *p, size_t nr)
{
	return hmm_adopt(w->mm, (uintptr_t)p, (uintptr_t)p + nr * page);
}

static int64_t refused_as(struct world *w, void *p, size_t nr, enum hmm_reason reason)
{
	uint64_t reasons[HMM_REASONS] = { 0 };

	assert_int_equal(try_device(w, w->dev, p, nr, reasons), 0);
	return (int64_t)reasons[reason];
}

/* Every page written: all migrate afterwards, and come back with their bytes. */
static void copies_migrate(void **state)
{
	struct world *w = *state;
	int fd = make_file(NR, 1);
	unsigned char *p = map_private(fd, NR, RW);

	fill(p, NR, 2);
	assert_int_equal(refused_as(w, p, NR, HMM_REASON_FILE), NR);
	assert_int_equal(adopt(w, p, NR), NR);
	assert_int_equal(moved(w, adopted_pages), NR);
	assert_holds(p, NR, 2, 0);
	to_device(w, w->dev, p, NR);
	assert_at(w, p, NR, HMM_PLACE_DEVICE);
	assert_holds(p, NR, 2, 0);
	munmap(p, NR * page);
	close(fd);
}

/* A mapping that nobody wrote to is left alone, and has no copies. */
static void without_copies_nothing_happens(void **state)
{
	struct world *w = *state;
	int fd = make_file(NR, 1);
	unsigned char *p = map_private(fd, NR, RW);

	assert_holds(p, NR, 1, 0);
	assert_int_equal(adopt(w, p, NR), 0);
	assert_int_equal(refused_as(w, p, NR, HMM_REASON_FILE), NR);
	munmap(p, NR * page);
	close(fd);
}

/* Pages of the file beside the copies keep the file's bytes; the file keeps its own. */
static void file_pages_stay_right(void **state)
{
	struct world *w = *state;
	int fd = make_file(NR, 1);
	unsigned char *p = map_private(fd, NR, RW), *shared;

	fill(p + 8 * page, 8, 2);
	assert_int_equal(adopt(w, p, NR), 8);
	assert_holds(p, 8, 1, 0);
	assert_holds(p + 8 * page, 8, 2, 0);
	assert_holds(p + 16 * page, NR - 16, 1, 16);
	fill(p, NR, 3);
	shared = mmap(NULL, NR * page, PROT_READ, MAP_SHARED, fd, 0);
	assert_holds(shared, NR, 1, 0);
	assert_holds(p, NR, 3, 0);
	munmap(shared, NR * page);
	munmap(p, NR * page);
	close(fd);
}

/* DONTNEED brings the file's data back, wherever the page was; a new store is private. */
static void dontneed_brings_the_file_back(void **state)
{
	struct world *w = *state;
	int fd = make_file(NR, 1);
	unsigned char *p = map_private(fd, NR, RW), now[1] = { 0x5a };

	fill(p, NR, 2);
	assert_int_equal(adopt(w, p, NR), NR);
	to_device(w, w->dev, p, NR / 2);
	assert_int_equal(madvise(p, NR * page, MADV_DONTNEED), 0);
	assert_holds(p, NR, 1, 0);
	assert_int_equal(testdev_used(w->dev), 0);
	p[0] ^= 1;
	assert_int_equal(madvise(p, page, MADV_DONTNEED), 0);
	assert_holds(p, 1, 1, 0);
	/* What was written to the file meanwhile is there. */
	assert_int_equal(madvise(p, page, MADV_DONTNEED), 0);
	assert_int_equal(pwrite(fd, now, 1, 0), 1);
	assert_int_equal(p[0], 0x5a);
	munmap(p, NR * page);
	close(fd);
}

/* A hole has the file's data, so it is not migrated as zeros. */
static void hole_is_no_zero_page(void **state)
{
	struct world *w = *state;
	int fd = make_file(NR, 1);
	unsigned char *p = map_private(fd, NR, RW);

	fill(p, NR, 2);
	assert_int_equal(adopt(w, p, NR), NR);
	assert_int_equal(madvise(p, NR * page, MADV_DONTNEED), 0);
	assert_int_equal(refused_as(w, p, NR, HMM_REASON_FILE), NR);
	assert_holds(p, NR, 1, 0);
	to_device(w, w->dev, p, NR);
	assert_holds(p, NR, 1, 0);
	munmap(p, NR * page);
	close(fd);
}

/* The whole mapping is one to the program: it can be moved, cut and protected as before. */
static void mapping_stays_one(void **state)
{
	struct world *w = *state;
	const size_t nr = 1500;		/* several pieces of the exchange */
	int fd = make_file(nr, 1);
	unsigned char *p = map_private(fd, nr, RW), *q;

	fill(p + 700 * page, 10, 2);
	assert_int_equal(adopt(w, p + 705 * page, 1), 10);
	to_device(w, w->dev, p + 700 * page, 5);
	q = mremap(p, nr * page, nr * page, MREMAP_MAYMOVE | MREMAP_FIXED,
		   map_pages(nr, PROT_NONE, 0));
	assert_ptr_not_equal(q, MAP_FAILED);
	assert_holds(q, 700, 1, 0);
	assert_holds(q + 700 * page, 10, 2, 0);
	assert_int_equal(munmap(q, 100 * page), 0);
	assert_int_equal(madvise(q + 700 * page, 10 * page, MADV_DONTNEED), 0);
	assert_holds(q + 100 * page, nr - 100, 1, 100);
	assert_int_equal(mprotect(q + 100 * page, page, PROT_READ), 0);
	assert_int_equal(touch_write(q + 100 * page), SIGSEGV);
	munmap(q + 100 * page, (nr - 100) * page);
	close(fd);
}

/* What is mapped over it, or where it was, is not the file's. */
static void forgotten_when_unmapped(void **state)
{
	struct world *w = *state;
	int fd = make_file(NR, 1);
	unsigned char *p = map_private(fd, NR, RW);

	fill(p, NR, 2);
	assert_int_equal(adopt(w, p, NR), NR);
	assert_ptr_equal(mmap(p + 8 * page, 8 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			      -1, 0), p + 8 * page);
	assert_true(all_zero(p + 8 * page, 8 * page));
	assert_int_equal(madvise(p, NR * page, MADV_DONTNEED), 0);
	assert_holds(p, 8, 1, 0);
	assert_true(all_zero(p + 8 * page, 8 * page));
	assert_holds(p + 16 * page, NR - 16, 1, 16);
	munmap(p, NR * page);
	p = map_pages(NR, RW, 0);
	assert_true(all_zero(p, NR * page));
	munmap(p, NR * page);
	close(fd);
}

static int child_sees(void *arg)
{
	unsigned char *p = arg;

	return !holds(p, NR / 2, 2, 0) || !holds(p + NR / 2 * page, NR / 2, 1, NR / 2);
}

/* A child finds copies, and the file's data in holes; so does its parent afterwards. */
static void fork_copies_it(void **state)
{
	struct world *w = *state;
	int fd = make_file(NR, 1);
	unsigned char *p = map_private(fd, NR, RW);

	fill(p, NR, 2);
	assert_int_equal(adopt(w, p, NR), NR);
	to_device(w, w->dev, p, NR / 4);
	assert_int_equal(madvise(p + NR / 2 * page, NR / 2 * page, MADV_DONTNEED), 0);
	assert_int_equal(in_child(child_sees, p), 0);
	assert_int_equal(child_sees(p), 0);
	assert_int_equal(madvise(p, NR * page, MADV_DONTNEED), 0);
	assert_holds(p, NR, 1, 0);
	munmap(p, NR * page);
	close(fd);
}

/* Beyond the end of a file that was cut there is SIGBUS, as there was. */
static void cut_file_is_sigbus(void **state)
{
	struct world *w = *state;
	int fd = make_file(NR, 1);
	unsigned char *p = map_private(fd, NR, RW);

	fill(p, NR, 2);
	assert_int_equal(adopt(w, p, NR), NR);
	assert_int_equal(ftruncate(fd, (NR / 2) * page), 0);
	assert_int_equal(madvise(p, NR * page, MADV_DONTNEED), 0);
	assert_holds(p, NR / 2, 1, 0);
	assert_int_equal(touch_read(p + NR / 2 * page), SIGBUS);
	munmap(p, NR * page);
	close(fd);
}

/* So is what was beyond it before, where nobody can have stored anything. */
static void short_file_is_sigbus(void **state)
{
	struct world *w = *state;
	int fd = make_file(NR / 2, 1);
	unsigned char *p = map_private(fd, NR, RW);

	fill(p, 8, 2);
	assert_int_equal(adopt(w, p, NR), 8);
	assert_holds(p, 8, 2, 0);
	assert_holds(p + 8 * page, NR / 2 - 8, 1, 8);
	assert_int_equal(touch_read(p + NR / 2 * page), SIGBUS);
	munmap(p, NR * page);
	close(fd);
}

/* A file with a name and no descriptor is found by its name; a read-only mapping too. */
static void file_found_by_name(void **state)
{
	struct world *w = *state;
	char path[] = "/tmp/uhmm-adopt-XXXXXX";
	int fd = mkstemp(path);
	unsigned char *p;
	static unsigned char buf[NR * PAGE_MAX];

	assert_true(fd >= 0);
	fill(buf, NR, 1);
	assert_int_equal(pwrite(fd, buf, NR * page, 0), NR * page);
	p = map_private(fd, NR, RW);
	close(fd);
	fill(p, NR / 2, 2);
	assert_int_equal(mprotect(p, NR * page, PROT_READ), 0);
	assert_int_equal(adopt(w, p, NR), NR / 2);
	assert_holds(p, NR / 2, 2, 0);
	assert_holds(p + NR / 2 * page, NR / 2, 1, NR / 2);
	assert_int_equal(touch_write(p), SIGSEGV);
	munmap(p, NR * page);
	unlink(path);
}

/* What is mlocked or of the program itself stays as it is. */
static void left_alone(void **state)
{
	struct world *w = *state;
	static unsigned char data[3 * PAGE_MAX] = { 1 };
	int fd = make_file(NR, 1);
	unsigned char *p = map_private(fd, NR, RW);
	unsigned char *own = (void *)(((uintptr_t)data + page) & ~(page - 1));

	fill(p, NR, 2);
	if (!mlock(p, page)) {
		assert_int_equal(adopt(w, p, NR), NR - 1);	/* but for that page's mapping */
		assert_int_equal(munlock(p, page), 0);
	}
	data[0] = own[0] = 2;
	assert_int_equal(adopt(w, own, 1), 0);
	munmap(p, NR * page);
	close(fd);
}

static struct {
	volatile uint64_t *word;
	_Atomic uint32_t stop, running;
	uint64_t stored;
} storer;

/* Stores ever higher numbers, and sees its own each time. */
static void *store(void *arg)
{
	bool *right = arg;

	*right = true;
	while (!atomic_load(&storer.stop)) {
		for (size_t i = 0; i < NR; i++)
			storer.word[i * page / sizeof(*storer.word)] = storer.stored + i + 1;
		for (size_t i = 0; i < NR; i++)
			*right &= storer.word[i * page / sizeof(*storer.word)] ==
				  storer.stored + i + 1;
		storer.stored++;
		atomic_store(&storer.running, 1);
	}
	return NULL;
}

/* A store by another thread, at any time of the exchange, is lost by nobody. */
static void no_store_is_lost(void **state)
{
	struct world *w = *state;
	pthread_t thread;
	bool right;

	for (int round = 0; round < 30; round++) {
		int fd = make_file(NR, 1);
		unsigned char *p = map_private(fd, NR, RW);

		fill(p, NR, 2);
		storer.word = (volatile uint64_t *)p;
		storer.stored = 0;
		atomic_store(&storer.stop, 0);
		atomic_store(&storer.running, 0);
		assert_int_equal(pthread_create(&thread, NULL, store, &right), 0);
		while (!atomic_load(&storer.running))
			;
		assert_int_equal(adopt(w, p, NR), NR);
		atomic_store(&storer.stop, 1);
		pthread_join(thread, NULL);
		assert_true(right);
		for (size_t i = 0; i < NR; i++)
			assert_int_equal(*(uint64_t *)(p + i * page), storer.stored + i);
		munmap(p, NR * page);
		close(fd);
	}
}

static void bad_input(void **state)
{
	struct world *w = *state;

	assert_int_equal(hmm_adopt(NULL, page, 2 * page), -EINVAL);
	assert_int_equal(hmm_adopt(w->mm, page + 1, 2 * page), -EINVAL);
	assert_int_equal(hmm_adopt(w->mm, 2 * page, 2 * page), -EINVAL);
	assert_int_equal(hmm_adopt(w->mm, page, 2 * page), 0);
}

struct discarder {
	unsigned char *p;
	_Atomic uint32_t stop, running;
};

static void *discard(void *arg)
{
	struct discarder *d = arg;

	while (!atomic_load(&d->stop)) {
		IGNORE(madvise(d->p, NR * page, MADV_DONTNEED));
		atomic_store(&d->running, 1);
		/* Where there is one processor nobody else sees the moment between two. */
		sched_yield();
	}
	return NULL;
}

/* One end of an mm, whose holes are to have the file's data, beside @d. */
static void end_beside(struct hmm_mm *mm, struct discarder *d)
{
	int fd = make_file(NR, 1);
	unsigned char *p = map_private(fd, NR, RW), *q = map_private(fd, NR, RW);
	uintptr_t a = (uintptr_t)p, b = (uintptr_t)q;
	pthread_t thread;

	fill(p, NR, 2);
	fill(q, NR, 2);
	assert_int_equal(hmm_adopt(mm, a, a + NR * page), NR);
	assert_int_equal(hmm_adopt(mm, b, b + NR * page), NR);
	assert_int_equal(madvise(p, NR / 2 * page, MADV_DONTNEED), 0);
	*d = (struct discarder){ .p = q };
	assert_int_equal(pthread_create(&thread, NULL, discard, d), 0);
	while (!atomic_load(&d->running))
		;
	assert_int_equal(hmm_mm_destroy(mm), 0);
	atomic_store(&d->stop, 1);
	pthread_join(thread, NULL);
	assert_holds(p, NR / 2, 1, 0);
	assert_holds(p + NR / 2 * page, NR / 2, 2, NR / 2);
	munmap(p, NR * page);
	munmap(q, NR * page);
	close(fd);
}

/* When the mm ends, holes get the file's data, whatever other threads change meanwhile. */
static void end_fills_holes_beside_changes(void **state)
{
	HMM_OPTS(hmm_mm_opts, opts, .flags = world_flags());
	struct world *w = *state;
	static struct discarder d;

	for (int round = 0; round < 3; round++) {
		end_beside(w->mm, &d);
		w->mm = NULL;
		if (round < 2)
			assert_int_equal(hmm_mm_create(&opts, &w->mm), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(copies_migrate),
		world_test(without_copies_nothing_happens),
		world_test(file_pages_stay_right),
		world_test(dontneed_brings_the_file_back),
		world_test(hole_is_no_zero_page),
		world_test(mapping_stays_one),
		world_test(forgotten_when_unmapped),
		world_test(fork_copies_it),
		world_test(cut_file_is_sigbus),
		world_test(short_file_is_sigbus),
		world_test(file_found_by_name),
		world_test(left_alone),
		world_test(no_store_is_lost),
		world_test(bad_input),
		cmocka_unit_test(end_fills_holes_beside_changes),	/* the last: no mm is left */
	};

	need_mm();
	if (masked("uffd-events") || masked("dontunmap"))
		skip_program("SKIP: hmm_adopt() needs uffd-events and dontunmap");
	return cmocka_run_group_tests(tests, world_begin, world_end);
}
