// SPDX-License-Identifier: MIT
#include "stress.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LONG_FACTOR	15
#define CHUNK_PAGES	512

/* ThreadSanitizer lets a program map only below 512 GiB and near the top. */
#ifdef __SANITIZE_THREAD__
#define AREA_BASE	0x0000004000000000UL
#else
#define AREA_BASE	0x0000200000000000UL
#endif

/* For messages alone. */
static struct stress_opts run;
static struct timespec started;

static uint64_t number(const char *option, const char *text)
{
	char *end;
	uint64_t value;

	if (!text)
		stress_fail("%s wants a number", option);
	errno = 0;
	value = strtoull(text, &end, 0);
	if (errno || end == text || *end)
		stress_fail("%s wants a number, not %s", option, text);
	return value;
}

static uint64_t fresh_seed(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return ((uint64_t)now.tv_nsec << 16 ^ (uint64_t)now.tv_sec ^ (uint64_t)getpid()) & 0xffffffff;
}

static void say(const char *verdict, const char *fmt, va_list args)
{
	char line[512];
	int len;

	len = snprintf(line, sizeof(line), "%s: %s: ", run.name ? run.name : "stress", verdict);
	len += vsnprintf(line + len, sizeof(line) - (size_t)len, fmt, args);
	if (len > (int)sizeof(line) - 2)
		len = (int)sizeof(line) - 2;
	line[len++] = '\n';
	/* Not stdio: a child of a process with threads may find its locks taken. */
	if (write(STDOUT_FILENO, line, (size_t)len) < 0)
		_exit(1);
}

void stress_note(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("note", fmt, args);
	va_end(args);
}

void stress_fail(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("FAIL", fmt, args);
	va_end(args);
	/* Threads may wait for one that stopped here: no handlers, no destructors. */
	_exit(1);
}

void stress_skip(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("SKIP", fmt, args);
	va_end(args);
	_exit(77);
}

void stress_begin(struct stress_opts *opts, int argc, char **argv)
{
	const char *longer = getenv("UHMM_TEST_LONG");
	bool given_steps = false;
	int i;

	opts->seed = fresh_seed();
	if (longer && !strcmp(longer, "1")) {
		opts->steps *= LONG_FACTOR;
		opts->seconds *= LONG_FACTOR;
	}
	run = *opts;
	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--strict")) {
			opts->strict = true;
		} else if (!strcmp(argv[i], "--alone")) {
			opts->strict = opts->alone = true;
		} else if (!strcmp(argv[i], "--seed")) {
			opts->seed = number(argv[i], argv[i + 1]);
			i++;
		} else if (!strcmp(argv[i], "--steps")) {
			opts->steps = number(argv[i], argv[i + 1]);
			given_steps = true;
			i++;
		} else if (!strcmp(argv[i], "--seconds")) {
			opts->seconds = (unsigned int)number(argv[i], argv[i + 1]);
			if (!given_steps)
				opts->steps = UINT64_MAX;
			i++;
		} else if (!strcmp(argv[i], "--threads")) {
			opts->threads = (unsigned int)number(argv[i], argv[i + 1]);
			i++;
		} else {
			stress_fail("unknown argument %s; --seed --steps --seconds --threads N, --strict, --alone",
				    argv[i]);
		}
	}
	if (!opts->threads || opts->threads > STRESS_MAX_THREADS)
		stress_fail("--threads is 1 to %d", STRESS_MAX_THREADS);
	run = *opts;
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("%s: repeat with --seed %llu --threads %u%s\n", opts->name,
	       (unsigned long long)opts->seed, opts->threads,
	       opts->alone ? " --alone" : opts->strict ? " --strict" : "");
	clock_gettime(CLOCK_MONOTONIC, &started);
}

bool stress_expired(const struct stress_opts *opts)
{
	struct timespec now;

	if (!opts->seconds)
		return false;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec - started.tv_sec >= (time_t)opts->seconds;
}

struct hmm_mm *stress_mm_create(const struct stress_opts *opts)
{
	HMM_OPTS(hmm_mm_opts, mm_opts, .flags = opts->strict ? HMM_MM_STRICT : 0);
	struct hmm_mm *mm;
	int ret;

	ret = hmm_mm_create(&mm_opts, &mm);
	if (ret == -EPERM)
		stress_skip("no full userfaultfd for this user; see uhmm doctor");
	if (ret == -EOPNOTSUPP)
		stress_skip("this kernel cannot serve %s mm", opts->strict ? "a strict" : "an");
	if (ret == -EBUSY && opts->strict)
		stress_skip("an ancestor listens to system calls already");
	if (ret)
		stress_fail("hmm_mm_create: %s", strerror(-ret));
	return mm;
}

void stress_mm_destroy(struct hmm_mm *mm)
{
	struct hmm_stats stats = { .size = sizeof(stats) };
	int ret;

	stress_check(hmm_mm_stats(mm, &stats) == 0);
	printf("%s: to device %llu, to system %llu, between %llu, cpu faults %llu (waits %llu), "
	       "exclusive %llu, changes %llu, forks %llu, invalidations %llu\n",
	       run.name, (unsigned long long)stats.pages_to_device,
	       (unsigned long long)stats.pages_to_system, (unsigned long long)stats.pages_between,
	       (unsigned long long)stats.cpu_faults, (unsigned long long)stats.fault_waits,
	       (unsigned long long)stats.exclusive_begun, (unsigned long long)stats.changes,
	       (unsigned long long)stats.forks, (unsigned long long)stats.invalidations);
	stress_check(stats.lost_pages == 0);
	stress_check(stats.poisoned_pages == 0);
	stress_check(stats.device_pages == 0);
	ret = hmm_mm_destroy(mm);
	if (ret)
		stress_fail("hmm_mm_destroy: %s", strerror(-ret));
}

struct stress_rng stress_rng(const struct stress_opts *opts, uint64_t stream)
{
	struct stress_rng rng = {
		.state = (opts->seed + 1) * 0x9e3779b97f4a7c15ULL + stream * 0xd1342543de82ef95ULL,
	};

	if (!rng.state)
		rng.state = 1;
	stress_rand(&rng);
	return rng;
}

uint64_t stress_rand(struct stress_rng *rng)
{
	uint64_t x = rng->state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	rng->state = x;
	return x * 0x2545f4914f6cdd1dULL;
}

uint64_t stress_below(struct stress_rng *rng, uint64_t n)
{
	return (uint64_t)((unsigned __int128)stress_rand(rng) * n >> 64);
}

bool stress_one_in(struct stress_rng *rng, uint64_t n)
{
	return stress_below(rng, n) == 0;
}

uintptr_t stress_area(size_t bytes)
{
	static uintptr_t next = AREA_BASE;
	const size_t huge = 2UL << 20;
	void *p;
	uintptr_t start = next;

	bytes = (bytes + huge - 1) & ~(huge - 1);
	next += bytes + 2 * huge;
	p = mmap((void *)start, bytes, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != (void *)start || munmap(p, bytes))
		stress_fail("no address space at %#lx", (unsigned long)start);
	return start;
}

void stress_run_threads(unsigned int nr, void *(*fn)(void *), void *args, size_t arg_size)
{
	pthread_t threads[STRESS_MAX_THREADS];
	unsigned int i;

	stress_check(nr <= STRESS_MAX_THREADS);
	for (i = 0; i < nr; i++)
		stress_check(pthread_create(&threads[i], NULL, fn, (char *)args + i * arg_size) == 0);
	for (i = 0; i < nr; i++)
		stress_check(pthread_join(threads[i], NULL) == 0);
}

/* What is wrong with the places of a few pages; NULL: nothing. */
static const char *wrong_places(struct hmm_mm *mm, int pagemap, uintptr_t start, size_t nr,
				uintptr_t *where)
{
	const uint64_t present = 1ULL << 63;
	const size_t page_size = hmm_page_size();
	uint8_t places[CHUNK_PAGES];
	uint64_t entries[CHUNK_PAGES];
	size_t i;

	stress_check(hmm_residency(mm, start, start + nr * page_size, places) == 0);
	stress_check(pread(pagemap, entries, nr * sizeof(*entries),
			   (off_t)(start / page_size * sizeof(*entries))) ==
		     (ssize_t)(nr * sizeof(*entries)));
	for (i = 0; i < nr; i++) {
		bool away = places[i] == HMM_PLACE_DEVICE || places[i] == HMM_PLACE_EXCLUSIVE;

		*where = start + i * page_size;
		if (places[i] == HMM_PLACE_FLIGHT)
			return "in flight, and nobody migrates";
		if (away && entries[i] & present)
			return "present while away";
		if (places[i] == HMM_PLACE_GAP && entries[i] & present)
			return "present and called a gap";
	}
	return NULL;
}

void stress_check_places(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	const size_t page_size = hmm_page_size();
	const char *what;
	uintptr_t where;
	unsigned int tries;
	int pagemap;

	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	stress_check(pagemap >= 0);
	while (start < end) {
		size_t nr = (end - start) / page_size;

		if (nr > CHUNK_PAGES)
			nr = CHUNK_PAGES;
		for (tries = 0; tries < STRESS_LASTS; tries++) {
			what = wrong_places(mm, pagemap, start, nr, &where);
			if (!what)
				break;
			sched_yield();
		}
		if (what)
			stress_fail("page %#lx is %s", (unsigned long)where, what);
		start += nr * page_size;
	}
	close(pagemap);
}

void stress_reap(int pid, const char *what)
{
	int status;
	pid_t got;

	if (pid < 0)
		stress_fail("%s: no child: %s", what, strerror(errno));
	do {
		got = waitpid(pid, &status, __WALL);
	} while (got < 0 && errno == EINTR);
	if (got != pid)
		stress_fail("%s: waitpid: %s", what, strerror(errno));
	if (WIFSIGNALED(status))
		stress_fail("%s: killed by signal %d", what, WTERMSIG(status));
	if (WEXITSTATUS(status))
		stress_fail("%s: exited with %d", what, WEXITSTATUS(status));
}
