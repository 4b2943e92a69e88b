// SPDX-License-Identifier: MIT
/*
 * Device memory comes, is filled and goes while CPUs and devices use the pages on it:
 * removal brings everything home, and afterwards no operation of it runs.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <uhmm/driver.h>

#include "stress.h"
#include "testdev.h"

#define PIECE_PAGES	64
#define HAND_PAGES	16

/* A CPU thread and the pages that are its own. */
struct user {
	struct stress_rng rng;
	uintptr_t start;
	uint64_t stamps[PIECE_PAGES];
	uint64_t next_stamp;
	uint64_t nr_ops;
};

static struct hmm_mm *mm;
/* One comes and goes, the other stays. */
static struct testdev *dev, *other;
static size_t page_size, nr_pages;
static uintptr_t area;
static struct user users[STRESS_MAX_THREADS];
static atomic_bool stop;

static void page_check(const struct user *u, size_t page)
{
	const uint64_t *words = (const uint64_t *)(u->start + page * page_size);
	size_t i;

	for (i = 0; i < page_size / sizeof(*words); i += 8) {
		uint64_t want = u->stamps[page] ? u->stamps[page] + i : 0;

		if (words[i] != want)
			stress_fail("page %#lx word %zu is %#llx, must be %#llx; op %llu",
				    (unsigned long)(u->start + page * page_size), i,
				    (unsigned long long)words[i], (unsigned long long)want,
				    (unsigned long long)u->nr_ops);
	}
}

static void page_write(struct user *u, size_t page)
{
	uint64_t *words = (uint64_t *)(u->start + page * page_size);
	size_t i;

	u->stamps[page] = ++u->next_stamp << 16;
	for (i = 0; i < page_size / sizeof(*words); i += 8)
		words[i] = u->stamps[page] + i;
}

/* The device's bytes of a page are the page's, whichever device has it. */
static void device_check(const struct user *u, struct testdev *by, size_t page)
{
	uint64_t word;
	int ret = testdev_read(by, u->start + page * page_size + 64, &word, sizeof(word));

	if (ret)
		stress_fail("device read: %s", strerror(-ret));
	if (word != (u->stamps[page] ? u->stamps[page] + 8 : 0))
		stress_fail("the device reads %#llx in page %#lx, stamped %#llx",
			    (unsigned long long)word, (unsigned long)(u->start + page * page_size),
			    (unsigned long long)u->stamps[page]);
}

static void *use(void *arg)
{
	struct user *u = arg;

	for (; !atomic_load(&stop); u->nr_ops++) {
		size_t page = stress_below(&u->rng, PIECE_PAGES);

		switch (stress_below(&u->rng, 4)) {
		case 0:
			device_check(u, dev, page);
			break;
		case 1:
			device_check(u, other, page);
			break;
		default:
			page_check(u, page);
			page_write(u, page);
		}
	}
	return NULL;
}

/* A driver in the middle of its three steps when the memory is removed under it. */
static void migrate_by_hand(struct stress_rng *rng)
{
	uint64_t src[HAND_PAGES], dst[HAND_PAGES] = { 0 }, given[HAND_PAGES], index;
	size_t page = stress_below(rng, nr_pages - HAND_PAGES), i;
	struct hmm_migrate migrate = {
		.size = sizeof(migrate),
		.flags = HMM_MIGRATE_SYSTEM | HMM_MIGRATE_DEVICE,
		.start = area + page * page_size,
		.end = area + (page + HAND_PAGES) * page_size,
		.src = src,
		.dst = dst,
		.owner = testdev_owner(dev),
	};

	stress_check(hmm_migrate_setup(mm, &migrate) == 0);
	for (i = 0; i < HAND_PAGES; i++)
		if (src[i] & HMM_SRC_MIGRATE && testdev_alloc(dev, 1, &index) == 1)
			dst[i] = hmm_dst(testdev_id(dev), index);
	memcpy(given, dst, sizeof(given));
	(void)hmm_migrate_copy(mm, &migrate);
	hmm_migrate_pages(mm, &migrate);
	hmm_migrate_finalize(mm, &migrate);
	for (i = 0; i < HAND_PAGES; i++)
		if (given[i] && !(src[i] & HMM_SRC_MIGRATE))
			testdev_free(dev, hmm_src_index(given[i]), 1);
}

static void *mover(void *arg)
{
	struct stress_rng *rng = arg;

	while (!atomic_load(&stop)) {
		size_t page = stress_below(rng, nr_pages);
		size_t many = 1 + stress_below(rng, nr_pages - page);
		uintptr_t start = area + page * page_size;

		switch (stress_below(rng, 4)) {
		case 0:
			testdev_migrate(other, start, start + many * page_size);
			break;
		case 1:
			migrate_by_hand(rng);
			break;
		default:
			testdev_migrate(dev, start, start + many * page_size);
		}
	}
	return NULL;
}

static void run_round(struct stress_rng *rng)
{
	int64_t ret;

	testdev_migrate(dev, area, area + nr_pages * page_size);
	if (stress_one_in(rng, 4)) {
		ret = hmm_evict(mm, area, area + nr_pages / 2 * page_size);
		stress_check(ret >= 0);
	}
	testdev_remove_memory(dev);
	testdev_check(other);
	testdev_add_memory(dev);
}

int main(int argc, char **argv)
{
	struct stress_opts opts = {
		.name = "removal", .steps = 1000, .seconds = 10, .threads = 2,
	};
	struct stress_rng rng, mover_rng;
	pthread_t threads[STRESS_MAX_THREADS], moves;
	uint64_t round, sum = 0;
	unsigned int i;
	size_t page;

	stress_begin(&opts, argc, argv);
	page_size = hmm_page_size();
	nr_pages = opts.threads * PIECE_PAGES;
	area = stress_area(nr_pages * page_size);
	mm = stress_mm_create(&opts);
	stress_check(mmap((void *)area, nr_pages * page_size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
		     (void *)area);
	dev = testdev_open(mm, nr_pages, (opts.seed & 1 ? TESTDEV_THREADED : 0) |
			   (opts.seed & 2 ? TESTDEV_FAIL_COPIES : 0), area,
			   area + nr_pages * page_size, opts.seed & 4 ? &mm : NULL);
	other = testdev_open(mm, nr_pages / 2, TESTDEV_MAKE_ROOM | TESTDEV_PEER |
			     TESTDEV_FAULT_AROUND, area, area + nr_pages * page_size,
			     opts.seed & 4 ? &mm : NULL);
	rng = stress_rng(&opts, 100);
	mover_rng = stress_rng(&opts, 101);
	for (i = 0; i < opts.threads; i++) {
		users[i].rng = stress_rng(&opts, i);
		users[i].start = area + i * PIECE_PAGES * page_size;
		stress_check(pthread_create(&threads[i], NULL, use, &users[i]) == 0);
	}
	stress_check(pthread_create(&moves, NULL, mover, &mover_rng) == 0);
	for (round = 0; round < opts.steps && !stress_expired(&opts); round++)
		run_round(&rng);
	atomic_store(&stop, true);
	stress_check(pthread_join(moves, NULL) == 0);
	for (i = 0; i < opts.threads; i++) {
		stress_check(pthread_join(threads[i], NULL) == 0);
		for (page = 0; page < PIECE_PAGES; page++)
			page_check(&users[i], page);
		sum += users[i].nr_ops;
	}
	stress_check_places(mm, area, area + nr_pages * page_size);
	printf("removal: %llu rounds, %llu uses\n", (unsigned long long)round,
	       (unsigned long long)sum);
	testdev_close(other);
	testdev_close(dev);
	stress_mm_destroy(mm);
	return 0;
}
