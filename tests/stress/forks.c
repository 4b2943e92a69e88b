// SPDX-License-Identifier: MIT
/*
 * Children of every kind, made while pages move: each sees the memory of the moment
 * it was made, wherever it was; what it writes is its own, and what the parent writes
 * is the parent's.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <uhmm/driver.h>

#include "stress.h"
#include "testdev.h"

#define PIECE_PAGES	96
#define STACK_BYTES	(64UL << 10)

/* A thread that forks, and the pages that are its own. */
struct parent {
	const struct stress_opts *opts;
	struct stress_rng rng;
	uintptr_t start;
	uint64_t stamps[PIECE_PAGES];
	uint64_t next_stamp;
	uint64_t nr_children;
};

static struct hmm_mm *mm;
static struct testdev *dev;
static size_t page_size;
static struct parent parents[STRESS_MAX_THREADS];
static unsigned char stacks[STRESS_MAX_THREADS][STACK_BYTES] __attribute__((aligned(64)));
static atomic_bool stop;

static void page_write(struct parent *p, size_t page)
{
	uint64_t *words = (uint64_t *)(p->start + page * page_size);
	size_t i;

	p->stamps[page] = ++p->next_stamp << 16;
	for (i = 0; i < page_size / sizeof(*words); i += 8)
		words[i] = p->stamps[page] + i;
}

static void page_check(const struct parent *p, size_t page, const char *who)
{
	const uint64_t *words = (const uint64_t *)(p->start + page * page_size);
	size_t i;

	for (i = 0; i < page_size / sizeof(*words); i += 8) {
		uint64_t want = p->stamps[page] ? p->stamps[page] + i : 0;

		if (words[i] != want)
			stress_fail("%s: page %#lx word %zu is %#llx, must be %#llx; child %llu", who,
				    (unsigned long)(p->start + page * page_size), i,
				    (unsigned long long)words[i], (unsigned long long)want,
				    (unsigned long long)p->nr_children);
	}
}

static void check_all(const struct parent *p, const char *who)
{
	size_t i;

	for (i = 0; i < PIECE_PAGES; i++)
		page_check(p, i, who);
}

static void write_some(struct parent *p)
{
	size_t i;

	for (i = 0; i < PIECE_PAGES; i++)
		if (stress_one_in(&p->rng, 3))
			page_write(p, i);
}

/*
 * A child made by a raw call must go on with raw calls: libc's locks may have been
 * taken by threads that it does not have.
 */
static pid_t new_child(bool raw)
{
	return raw ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
}

/* Another generation, from pages that the child has perhaps not touched yet. */
static void grandchild(struct parent *p, bool raw)
{
	pid_t pid = new_child(raw);

	if (pid == 0) {
		check_all(p, "a grandchild");
		write_some(p);
		check_all(p, "a grandchild that wrote");
		_exit(0);
	}
	stress_reap(pid, "a grandchild");
}

_Noreturn static void child(struct parent *p, bool raw)
{
	if (stress_one_in(&p->rng, 4))
		grandchild(p, raw);
	if (stress_one_in(&p->rng, 2))
		write_some(p);
	check_all(p, "a child");
	write_some(p);
	/* Pages that went with it can go from it: they are its own now. */
	if (stress_one_in(&p->rng, 4)) {
		stress_check(munmap((void *)p->start, 8 * page_size) == 0);
		stress_check(mmap((void *)p->start, 8 * page_size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
			     (void *)p->start);
		memset(p->stamps, 0, 8 * sizeof(*p->stamps));
	}
	check_all(p, "a child that wrote");
	_exit(0);
}

static void by_fork(struct parent *p, bool raw)
{
	pid_t pid = new_child(raw);

	if (pid == 0)
		child(p, raw);
	write_some(p);
	if (stress_one_in(&p->rng, 2))
		check_all(p, "a parent, its child alive");
	stress_reap(pid, raw ? "a cloned child" : "a forked child");
}

/* In the parent's memory: what it reads comes home there, what it writes stays. */
static int shares(void *arg)
{
	struct parent *p = arg;

	check_all(p, "a child that shares the memory");
	write_some(p);
	return 0;
}

static void by_sharing_clone(struct parent *p)
{
	unsigned char *stack = stacks[p - parents];

	stress_reap(clone(shares, stack + STACK_BYTES, CLONE_VM | SIGCHLD, p),
		    "a child that shares the memory");
}

/* It borrows the memory until it executes something else. */
static void by_vfork(struct parent *p)
{
	volatile uint64_t *word = (uint64_t *)(p->start + (page_size - 8));
	pid_t pid = vfork();

	if (pid == 0) {
		*word += 1;
		execl("/bin/true", "true", (char *)NULL);
		_exit(127);
	}
	stress_reap(pid, "a child of vfork");
}

static void by_spawn(void)
{
	static char *const args[] = { "true", NULL };
	char *const env[] = { NULL };
	pid_t pid;
	int ret = posix_spawn(&pid, "/bin/true", NULL, NULL, args, env);

	if (ret)
		stress_fail("posix_spawn: %s", strerror(ret));
	stress_reap(pid, "a spawned child");
}

static void take_exclusive(struct parent *p)
{
	size_t page = stress_below(&p->rng, PIECE_PAGES - 8);
	uintptr_t start = p->start + page * page_size;
	void *contents[8];
	int64_t ret = hmm_exclusive_begin(mm, start, start + 8 * page_size, p, contents);

	if (ret < 0 && ret != -EBUSY)
		stress_fail("hmm_exclusive_begin: %s", strerror((int)-ret));
}

static void *bear(void *arg)
{
	struct parent *p = arg;

	for (; p->nr_children < p->opts->steps && !stress_expired(p->opts); p->nr_children++) {
		write_some(p);
		testdev_migrate(dev, p->start, p->start + PIECE_PAGES * page_size);
		if (stress_one_in(&p->rng, 3))
			take_exclusive(p);
		switch (stress_below(&p->rng, 8)) {
		case 0:
			by_vfork(p);
			break;
		case 1:
			by_spawn();
			break;
		case 2:
			by_sharing_clone(p);
			break;
		case 3:
			by_fork(p, p->opts->strict);
			break;
		default:
			by_fork(p, false);
		}
		check_all(p, "a parent");
	}
	return NULL;
}

static void *mover(void *arg)
{
	struct parent *area = arg;
	const size_t nr = area->opts->threads * PIECE_PAGES;

	while (!atomic_load(&stop)) {
		size_t page = stress_below(&area->rng, nr);
		size_t many = 1 + stress_below(&area->rng, nr - page);
		uintptr_t start = area->start + page * page_size;

		if (stress_one_in(&area->rng, 3))
			stress_check(hmm_evict(mm, start, start + many * page_size) >= 0);
		else
			testdev_migrate(dev, start, start + many * page_size);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct stress_opts opts = {
		.name = "forks", .steps = 400, .seconds = 12, .threads = 2,
	};
	static struct parent whole;
	struct hmm_stats stats = { .size = sizeof(stats) };
	uint64_t sum = 0;
	pthread_t moves;
	size_t bytes;
	unsigned int i;

	stress_begin(&opts, argc, argv);
	page_size = hmm_page_size();
	bytes = opts.threads * PIECE_PAGES * page_size;
	whole = (struct parent){ .opts = &opts, .rng = stress_rng(&opts, 100) };
	whole.start = stress_area(bytes);
	mm = stress_mm_create(&opts);
	stress_check(mmap((void *)whole.start, bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
		     (void *)whole.start);
	dev = testdev_open(mm, opts.threads * PIECE_PAGES * 3 / 4, TESTDEV_MAKE_ROOM,
			   whole.start, whole.start + bytes, NULL);
	for (i = 0; i < opts.threads; i++) {
		parents[i] = (struct parent){ .opts = &opts, .rng = stress_rng(&opts, i) };
		parents[i].start = whole.start + i * PIECE_PAGES * page_size;
	}
	stress_check(pthread_create(&moves, NULL, mover, &whole) == 0);
	stress_run_threads(opts.threads, bear, parents, sizeof(*parents));
	atomic_store(&stop, true);
	stress_check(pthread_join(moves, NULL) == 0);
	stress_check_places(mm, whole.start, whole.start + bytes);
	for (i = 0; i < opts.threads; i++) {
		check_all(&parents[i], "a parent at the end");
		sum += parents[i].nr_children;
	}
	stress_check(hmm_mm_stats(mm, &stats) == 0 && stats.pages_to_device > 0);
	printf("forks: %llu children\n", (unsigned long long)sum);
	testdev_close(dev);
	stress_mm_destroy(mm);
	return 0;
}
