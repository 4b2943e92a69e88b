// SPDX-License-Identifier: MIT
/*
 * CPUs and a device count on the same words while their pages move, change hands and
 * are watched by notifiers that come and go: no increment is lost, and nobody reads a
 * value older than one that was seen before.
 *
 * With --strict also: once munmap() has returned the device reads nothing of what was
 * there, and once mprotect() has returned it writes nothing.
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

#define PAGES		48
#define PER_PAGE	2
#define WORDS		(PAGES * PER_PAGE)
#define CHANGE_PAGES	8
#define WATCHES		4

enum role {
	ROLE_CPU,
	ROLE_DEVICE,
	ROLE_MOVE,
	ROLE_EXCLUSIVE,
	ROLE_WATCH,
	ROLE_CHANGE,
	ROLE_CHANGE_READ,
	ROLE_CHANGE_WRITE,
};

struct worker {
	const struct stress_opts *opts;
	enum role role;
	struct stress_rng rng;
	uint64_t added[WORDS];
	uint64_t nr_ops;
};

static struct hmm_mm *mm;
static struct testdev *dev;
static size_t page_size;
static uintptr_t area, change_area;

static struct worker workers[STRESS_MAX_THREADS];
/* A value that some thread has seen in the word: nobody may see less afterwards. */
static _Atomic uint64_t seen[WORDS];
/* Generations up to this one have been unmapped. */
static _Atomic uint64_t gone;
/* Odd: mprotect(READ) has returned and is in force. */
static _Atomic uint64_t protects;
static atomic_bool stop;

static uintptr_t word_addr(size_t i)
{
	return area + i / PER_PAGE * page_size + (i % PER_PAGE * 2 + 1) * (page_size / 8);
}

static void saw(size_t i, uint64_t value)
{
	uint64_t old = atomic_load(&seen[i]);

	while (old < value && !atomic_compare_exchange_weak(&seen[i], &old, value))
		;
}

static void not_stale(size_t i, uint64_t value, uint64_t floor, const char *who)
{
	if (value < floor)
		stress_fail("%s reads %llu at %#lx, where %llu was seen before", who,
			    (unsigned long long)value, (unsigned long)word_addr(i),
			    (unsigned long long)floor);
	saw(i, value);
}

static void cpu_step(struct worker *w)
{
	size_t i = stress_below(&w->rng, WORDS);
	uint64_t floor = atomic_load(&seen[i]);
	uint64_t *word = (uint64_t *)word_addr(i);

	if (stress_one_in(&w->rng, 4)) {
		not_stale(i, __atomic_load_n(word, __ATOMIC_SEQ_CST), floor, "a CPU");
		return;
	}
	not_stale(i, __atomic_add_fetch(word, 1, __ATOMIC_SEQ_CST), floor + 1, "a CPU");
	w->added[i]++;
}

static void device_step(struct worker *w)
{
	size_t i = stress_below(&w->rng, WORDS);
	uint64_t floor = atomic_load(&seen[i]), value;
	int ret;

	if (stress_one_in(&w->rng, 4)) {
		ret = testdev_read(dev, word_addr(i), &value, sizeof(value));
		if (ret)
			stress_fail("device read: %s", strerror(-ret));
		not_stale(i, value, floor, "the device");
		return;
	}
	ret = testdev_add(dev, word_addr(i), 1);
	/* Exclusive access may be out of reach for a while; then nothing was added. */
	if (ret && ret != -EBUSY)
		stress_fail("device add: %s", strerror(-ret));
	w->added[i] += !ret;
}

static void random_range(struct worker *w, size_t most, uintptr_t *start, uintptr_t *end)
{
	*start = area + stress_below(&w->rng, PAGES) * page_size;
	*end = *start + (1 + stress_below(&w->rng, most)) * page_size;
	if (*end > area + PAGES * page_size)
		*end = area + PAGES * page_size;
}

static void move_step(struct worker *w)
{
	uintptr_t start, end;

	random_range(w, PAGES, &start, &end);
	if (stress_one_in(&w->rng, 3))
		stress_check(hmm_evict(mm, start, end) >= 0);
	else
		testdev_migrate(dev, start, end);
	if (w->opts->strict && stress_one_in(&w->rng, 8))
		testdev_migrate(dev, change_area, change_area + CHANGE_PAGES * page_size);
	testdev_check(dev);
}

/* Takes pages from everybody and does nothing with them. */
static void exclusive_step(struct worker *w)
{
	void *contents[8];
	uintptr_t start, end;
	int64_t ret;

	random_range(w, 8, &start, &end);
	memset(contents, 0, sizeof(contents));
	ret = hmm_exclusive_begin(mm, start, end, w, contents);
	if (ret < 0 && ret != -EBUSY)
		stress_fail("hmm_exclusive_begin: %s", strerror((int)-ret));
	if (stress_one_in(&w->rng, 2))
		stress_check(hmm_exclusive_end(mm, start, end) >= 0);
}

struct watch {
	struct hmm_notifier *notifier;
	uintptr_t start, end;
	_Atomic uint64_t last_seq;
	atomic_bool live;
};

static struct watch watches[WATCHES];
static const char *_Atomic watch_broken;

static void watch_invalidate(struct hmm_notifier *notifier, const struct hmm_event *event,
			     uint64_t seq, void *ctx)
{
	struct watch *watch = ctx;

	(void)notifier;
	if (!atomic_load(&watch->live))
		atomic_store(&watch_broken, "a callback after its notifier was removed");
	if (event->start >= watch->end || event->end <= watch->start)
		atomic_store(&watch_broken, "a callback for another interval");
	if (seq <= atomic_exchange(&watch->last_seq, seq))
		atomic_store(&watch_broken, "a sequence that does not grow");
}

static void watch_step(struct worker *w)
{
	static const struct hmm_notifier_ops ops = {
		.size = sizeof(ops),
		.invalidate = watch_invalidate,
	};
	struct watch *watch = &watches[stress_below(&w->rng, WATCHES)];
	int ret;

	if (watch->notifier) {
		ret = hmm_notifier_remove(watch->notifier);
		atomic_store(&watch->live, false);
		watch->notifier = NULL;
	} else {
		random_range(w, PAGES, &watch->start, &watch->end);
		atomic_store(&watch->last_seq, 0);
		atomic_store(&watch->live, true);
		ret = hmm_notifier_insert(mm, watch->start, watch->end, &ops, watch,
					  &watch->notifier);
	}
	if (ret)
		stress_fail("notifier: %s", strerror(-ret));
	if (atomic_load(&watch_broken))
		stress_fail("notifier: %s", atomic_load(&watch_broken));
}

static void watch_end(void)
{
	size_t i;

	for (i = 0; i < WATCHES; i++)
		stress_check(hmm_notifier_remove(watches[i].notifier) == 0);
}

static void change_step(struct worker *w)
{
	const size_t len = CHANGE_PAGES * page_size;
	uint64_t generation = atomic_load(&gone) + 1;
	size_t i;

	stress_check(mmap((void *)change_area, len, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
		     (void *)change_area);
	for (i = 0; i < CHANGE_PAGES; i++)
		__atomic_store_n((uint64_t *)(change_area + i * page_size), generation,
				 __ATOMIC_SEQ_CST);
	for (i = stress_below(&w->rng, 200); i; i--)
		stress_check(__atomic_load_n((uint64_t *)(change_area + i % CHANGE_PAGES * page_size),
					     __ATOMIC_SEQ_CST) == generation);
	stress_check(mprotect((void *)change_area, len, PROT_READ) == 0);
	atomic_fetch_add(&protects, 1);
	for (i = stress_below(&w->rng, 200); i; i--)
		stress_check(__atomic_load_n((uint64_t *)(change_area + i % CHANGE_PAGES * page_size),
					     __ATOMIC_SEQ_CST) == generation);
	atomic_fetch_add(&protects, 1);
	stress_check(mprotect((void *)change_area, len, PROT_READ | PROT_WRITE) == 0);
	stress_check(munmap((void *)change_area, len) == 0);
	atomic_store(&gone, generation);
}

static void change_read_step(struct worker *w)
{
	uintptr_t addr = change_area + stress_below(&w->rng, CHANGE_PAGES) * page_size;
	uint64_t before = atomic_load(&gone), value;
	int ret = testdev_read(dev, addr, &value, sizeof(value));

	if (ret && ret != -EFAULT)
		stress_fail("device read of what changes: %s", strerror(-ret));
	if (!ret && value && value <= before)
		stress_fail("the device reads generation %llu at %#lx, %llu was unmapped",
			    (unsigned long long)value, (unsigned long)addr,
			    (unsigned long long)before);
}

static void change_write_step(struct worker *w)
{
	uintptr_t addr = change_area + stress_below(&w->rng, CHANGE_PAGES) * page_size + 64;
	uint64_t before = atomic_load(&protects), value = 1;
	int ret = testdev_write(dev, addr, &value, sizeof(value));

	if (ret && ret != -EFAULT && ret != -EPERM)
		stress_fail("device write to what changes: %s", strerror(-ret));
	if (!ret && before % 2 && atomic_load(&protects) == before)
		stress_fail("the device writes to %#lx after mprotect(READ)", (unsigned long)addr);
}

static void *work(void *arg)
{
	static void (*const steps[])(struct worker *w) = {
		[ROLE_CPU] = cpu_step,
		[ROLE_DEVICE] = device_step,
		[ROLE_MOVE] = move_step,
		[ROLE_EXCLUSIVE] = exclusive_step,
		[ROLE_WATCH] = watch_step,
		[ROLE_CHANGE] = change_step,
		[ROLE_CHANGE_READ] = change_read_step,
		[ROLE_CHANGE_WRITE] = change_write_step,
	};
	struct worker *w = arg;

	while (!atomic_load(&stop)) {
		steps[w->role](w);
		w->nr_ops++;
		/* Who only makes trouble does not decide how long it goes on. */
		if (w->role <= ROLE_DEVICE &&
		    (w->nr_ops >= w->opts->steps || stress_expired(w->opts)))
			atomic_store(&stop, true);
	}
	return NULL;
}

static unsigned int cast(const struct stress_opts *opts)
{
	static const enum role extras[] = {
		ROLE_MOVE, ROLE_MOVE, ROLE_EXCLUSIVE, ROLE_WATCH,
		ROLE_CHANGE, ROLE_CHANGE_READ, ROLE_CHANGE_WRITE,
	};
	unsigned int nr = 0, i;

	for (i = 0; i < opts->threads; i++)
		workers[nr++].role = i % 2 ? ROLE_DEVICE : ROLE_CPU;
	for (i = 0; i < (opts->strict ? 7 : 4) && nr < STRESS_MAX_THREADS; i++)
		workers[nr++].role = extras[i];
	for (i = 0; i < nr; i++) {
		workers[i].opts = opts;
		workers[i].rng = stress_rng(opts, i);
	}
	return nr;
}

static void check_sums(unsigned int nr)
{
	uint64_t want, got, sum = 0;
	unsigned int k;
	size_t i;

	for (i = 0; i < WORDS; i++) {
		want = 0;
		for (k = 0; k < nr; k++)
			want += workers[k].added[i];
		got = *(uint64_t *)word_addr(i);
		if (got != want)
			stress_fail("%#lx counts %llu of %llu increments",
				    (unsigned long)word_addr(i), (unsigned long long)got,
				    (unsigned long long)want);
		sum += want;
	}
	printf("concurrency: %llu increments\n", (unsigned long long)sum);
}

int main(int argc, char **argv)
{
	struct stress_opts opts = {
		.name = "concurrency", .steps = UINT64_MAX, .seconds = 10, .threads = 4,
	};
	struct testdev_stats stats;
	unsigned int nr;

	stress_begin(&opts, argc, argv);
	page_size = hmm_page_size();
	change_area = stress_area((PAGES + CHANGE_PAGES + 1) * page_size);
	/* A page between the two keeps them two mappings. */
	area = change_area + (CHANGE_PAGES + 1) * page_size;
	mm = stress_mm_create(&opts);
	stress_check(mmap((void *)area, PAGES * page_size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
		     (void *)area);
	dev = testdev_open(mm, PAGES + CHANGE_PAGES,
			   TESTDEV_SHORT_RUNS | (opts.seed & 1 ? TESTDEV_THREADED : 0) |
			   (opts.seed & 2 ? TESTDEV_FAULT_AROUND : 0), change_area,
			   area + PAGES * page_size, NULL);
	nr = cast(&opts);
	stress_run_threads(nr, work, workers, sizeof(*workers));
	watch_end();
	testdev_check(dev);
	stress_check_places(mm, area, area + PAGES * page_size);
	check_sums(nr);
	testdev_stats(dev, &stats);
	printf("concurrency: device accesses: local %llu direct %llu guarded %llu exclusive %llu, refills %llu\n",
	       (unsigned long long)stats.local, (unsigned long long)stats.direct,
	       (unsigned long long)stats.guarded, (unsigned long long)stats.exclusive,
	       (unsigned long long)stats.refills);
	testdev_close(dev);
	stress_mm_destroy(mm);
	return 0;
}
