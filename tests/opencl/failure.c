/* SPDX-License-Identifier: MIT */
/*
 * OpenCL devices that are not there, too small, or die: a clear error each time, no
 * wrong byte ever, and nothing lost but what the dead device alone had.
 */
#define _GNU_SOURCE
#include "opencl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NR	512

static char why[256];

static int try_open(struct world *w, struct hmm_opencl_opts *opts)
{
	struct hmm_opencl *ocl;

	opts->why = why;
	opts->why_bytes = sizeof(why);
	return hmm_opencl_open(w->mm, opts, &ocl);
}

static int64_t move_in(struct hmm_opencl *ocl, void *p, size_t nr)
{
	return hmm_opencl_migrate_in(ocl, (uintptr_t)p, (uintptr_t)p + nr * page, NULL);
}

/* No ICD: -ENODEV, and a line that says what to install. */
static void no_platform(void **state)
{
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 << 20);
	struct hmm_opencl_device device;

	setenv("OCL_ICD_VENDORS", "/nonexistent", 1);
	assert_int_equal(try_open(*state, &opts), -ENODEV);
	assert_non_null(strstr(why, "no OpenCL platform"));
	assert_int_equal(hmm_opencl_describe(0, &device, why, sizeof(why)), -ENODEV);
	unsetenv("OCL_ICD_VENDORS");
}

/* No device of that name or number: -ENODEV, with the name. */
static void no_such_device(void **state)
{
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 << 20, .device = "no such thing");
	struct hmm_opencl_device device;

	assert_int_equal(try_open(*state, &opts), -ENODEV);
	assert_non_null(strstr(why, "no such thing"));
	opts.device = "99";
	assert_int_equal(try_open(*state, &opts), -ENODEV);
	assert_int_equal(hmm_opencl_describe(99, &device, why, sizeof(why)), -ENOENT);
}

/* More memory than the device has: -ENOMEM, and how much it has. */
static void too_much_memory(void **state)
{
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 1ULL << 43);

	assert_true(try_open(*state, &opts) < 0);
	opts.mem_bytes = 0;
	opts.pool_bytes = 1;
	assert_int_equal(try_open(*state, &opts), -EINVAL);
	opts.pool_bytes = 0;
	opts.fault_around = 3;
	assert_int_equal(try_open(*state, &opts), -EINVAL);
	opts.fault_around = 0;
	opts.flags = 1ULL << 63;
	assert_int_equal(try_open(*state, &opts), -EINVAL);
}

/* A source that does not compile: -EINVAL, and what the compiler says. */
static void bad_sources(void **state)
{
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 << 20);
	struct hmm_opencl *ocl = opencl_open(*state, &opts);
	struct hmm_opencl_program *program;
	struct hmm_opencl_kernel *kernel;
	static char log[4096];
	uint32_t word = 0;

	assert_int_equal(hmm_opencl_build(ocl, "__kernel void f( {", NULL, 0, log, sizeof(log),
					  &program), -EINVAL);
	assert_true(strlen(log) > 0);
	assert_int_equal(hmm_opencl_build(ocl, "", NULL, 2, NULL, 0, &program), -EINVAL);
	assert_int_equal(hmm_opencl_build(ocl,
		"#include <uhmm/device.clh>\n"
		"__kernel void f(HMM_ARGS, uint a) { HMM_BEGIN(h); HMM_END(h); }\n"
		"__kernel void g(__global uint *a) { *a = 1; }\n", NULL, 0, log, sizeof(log),
		&program), 0);
	assert_int_equal(hmm_opencl_kernel(program, "none", &kernel), -ENOENT);
	assert_int_equal(hmm_opencl_kernel(program, "g", &kernel), -ENOENT);
	assert_int_equal(hmm_opencl_kernel(program, "f", &kernel), 0);
	assert_int_equal(hmm_opencl_arg(kernel, 1, &word, sizeof(word)), -EINVAL);
	assert_int_equal(hmm_opencl_arg(kernel, 0, &word, 1), -EINVAL);
	assert_int_equal(hmm_opencl_run(kernel, 1, NULL), -EINVAL);
	assert_int_equal(hmm_opencl_arg(kernel, 0, &word, sizeof(word)), 0);
	assert_int_equal(hmm_opencl_run(kernel, 0, NULL), -EINVAL);
	assert_int_equal(hmm_opencl_run(kernel, 1, NULL), 0);
	assert_int_equal(hmm_opencl_check(kernel, 1, 1, NULL), -EINVAL);
	hmm_opencl_program_free(program);
	assert_int_equal(hmm_opencl_close(ocl), 0);
}

static void kill_engine(struct hmm_opencl *ocl)
{
	assert_int_equal(kill((pid_t)opencl_stats(ocl).engine_pid, SIGKILL), 0);
}

/*
 * The engine dies: what was on the device raises SIGBUS when it is touched, what was
 * not is as it was, every call says -EIO, and the mm goes on.
 */
static void a_dead_engine_is_told_page_by_page(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 << 20, .flags = HMM_OPENCL_STAGED);
	struct hmm_opencl *ocl = opencl_open(w, &opts);
	unsigned char *p = map_filled(2 * NR, 1);
	struct hmm_opencl_kernel *kernel;

	w->may_lose = true;
	kernel = opencl_kernel(ocl, "check", 0, (uintptr_t)p, (uintptr_t)p);
	assert_int_equal(move_in(ocl, p, NR), NR);
	kill_engine(ocl);
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(touch_read(p + i * page), SIGBUS);
	assert_holds(p + NR * page, NR, 1, NR);
	assert_int_equal(hmm_opencl_run(kernel, 1, NULL), -EIO);
	IGNORE(move_in(ocl, p + NR * page, NR));
	assert_holds(p + NR * page, NR, 1, NR);
	assert_int_equal(opencl_stats(ocl).lost, 1);
	assert_int_equal(moved(w, lost_pages), NR);
	IGNORE(hmm_opencl_close(ocl));
	/* The next one works. */
	ocl = opencl_open(w, &opts);
	assert_int_equal(move_in(ocl, p + NR * page, NR), NR);
	assert_int_equal(hmm_opencl_close(ocl), 0);
	assert_holds(p + NR * page, NR, 1, NR);
	munmap(p, 2 * NR * page);
}

/* Not on a CPU's runtime: there it would be ours that has gone wrong. */
static void skip_staged(struct hmm_opencl *ocl)
{
	struct hmm_opencl_device device;

	assert_int_equal(hmm_opencl_close(ocl), 0);
	assert_int_equal(hmm_opencl_describe(0, &device, why, sizeof(why)), 0);
	assert_true(strcmp(device.type, "CPU") || getenv("UHMM_TEST_STAGED"));
	print_message("          not here: the device makes the copies itself\n");
	skip();
}

/* Of a device whose memory is the CPU's all is still there, but nothing goes there any more. */
static void a_dead_engine_leaves_shared_memory(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 << 20);
	struct hmm_opencl *ocl = opencl_open(w, &opts);
	unsigned char *p = map_filled(2 * NR, 5);
	struct hmm_opencl_kernel *kernel;

	if (!opencl_stats(ocl).in_place) {
		munmap(p, 2 * NR * page);
		skip_staged(ocl);
	}
	kernel = opencl_kernel(ocl, "add_one", 0, (uintptr_t)p, page);
	assert_int_equal(move_in(ocl, p, NR), NR);
	assert_int_equal(hmm_opencl_run(kernel, NR, NULL), 0);
	kill_engine(ocl);
	while (!opencl_stats(ocl).lost)
		;
	assert_int_equal(hmm_opencl_run(kernel, NR, NULL), -EIO);
	IGNORE(move_in(ocl, p + NR * page, NR));
	assert_int_equal(count_at(w, p + NR * page, NR, HMM_PLACE_DEVICE), 0);
	for (size_t i = 0; i < NR; i++) {
		uint64_t *words = (uint64_t *)(p + i * page);

		for (size_t j = 0; j < page / 8; j++)
			words[j]--;
	}
	assert_holds(p, 2 * NR, 5, 0);
	assert_int_equal(moved(w, lost_pages), 0);
	assert_int_equal(hmm_opencl_close(ocl), 0);
	munmap(p, 2 * NR * page);
}

/* No malloc: its munmap would wait for a launch that has no end. */
static unsigned long ticks_of(int64_t pid)
{
	char path[64], line[1024];
	unsigned long user = 0;
	ssize_t len = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%lld/stat", (long long)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		len = read(fd, line, sizeof(line) - 1);
	close(fd);
	line[len > 0 ? len : 0] = '\0';
	/* Behind the name: state, 10 numbers, utime. */
	if (strrchr(line, ')'))
		sscanf(strrchr(line, ')') + 1,
		       " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu", &user);
	return user;
}

static struct hmm_opencl *victim;

/* A launch that does not end is what takes the CPU; or there is none, which the story notices. */
static void *kill_at_work(void *arg)
{
	int64_t pid = opencl_stats(victim).engine_pid;
	unsigned long before = ticks_of(pid);
	time_t until = time(NULL) + 60;

	(void)arg;
	while (ticks_of(pid) < before + 20 && time(NULL) < until)
		;
	kill_engine(victim);
	return NULL;
}

/* What the device had in hand is lost whole, where its memory is the CPU's too. */
static void an_engine_that_dies_at_work(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 << 20);
	unsigned char *p = map_filled(NR, 6);
	struct hmm_opencl_kernel *kernel;
	uint64_t there = *(uint64_t *)p, never = ~there;
	pthread_t thread;

	w->may_lose = true;
	victim = opencl_open(w, &opts);
	/* Compiled, and the block is there: from then on only the launch is to come. */
	kernel = opencl_kernel(victim, "forever", 0, (uintptr_t)p, there);
	assert_int_equal(move_in(victim, p, NR), NR);
	assert_int_equal(hmm_opencl_run(kernel, 1, NULL), 0);
	assert_int_equal(hmm_opencl_arg(kernel, 1, &never, sizeof(never)), 0);
	assert_int_equal(pthread_create(&thread, NULL, kill_at_work, NULL), 0);
	assert_int_equal(hmm_opencl_run(kernel, 1, NULL), -EIO);
	pthread_join(thread, NULL);
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(touch_read(p + i * page), SIGBUS);
	assert_int_equal(moved(w, lost_pages), NR);
	IGNORE(hmm_opencl_close(victim));
	munmap(p, NR * page);
}

static void *kill_run(void *arg)
{
	uint64_t after = (uintptr_t)arg;

	/* Somewhere in the traffic, by what it has done, not by the clock. */
	while (opencl_stats(victim).transfers < after)
		;
	kill_engine(victim);
	return NULL;
}

/* It dies in the middle of traffic: each page has its bytes or says so, never others. */
static void an_engine_that_dies_in_traffic(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 << 20);

	w->may_lose = true;
	for (uintptr_t after = 1; after < 40; after += 9) {
		unsigned char *p = map_filled(2 * NR, 2);
		pthread_t thread;
		size_t lost = 0;

		victim = opencl_open(w, &opts);
		assert_int_equal(pthread_create(&thread, NULL, kill_run, (void *)after), 0);
		while (!opencl_stats(victim).lost) {
			IGNORE(move_in(victim, p, 2 * NR));
			IGNORE(evict(w, p, NR));
		}
		pthread_join(thread, NULL);
		for (size_t i = 0; i < 2 * NR; i++) {
			int sig = touch_read(p + i * page);

			assert_true(!sig || sig == SIGBUS);
			lost += sig == SIGBUS;
			assert_false(sig && opencl_stats(victim).in_place);
			if (!sig)
				assert_holds(p + i * page, 1, 2, i);
		}
		assert_true(lost <= 2 * NR);
		IGNORE(hmm_opencl_close(victim));
		munmap(p, 2 * NR * page);
	}
}

/* It dies in the middle of runs: the run says -EIO, and whoever waited goes on. */
static void an_engine_that_dies_in_a_run(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 << 20);
	unsigned char *p = map_filled(NR, 3);
	struct hmm_opencl_kernel *kernel;
	pthread_t thread;
	int ret = 0, lost;

	w->may_lose = true;
	victim = opencl_open(w, &opts);
	kernel = opencl_kernel(victim, "add_one", 0, (uintptr_t)p, page);
	assert_int_equal(hmm_opencl_run(kernel, NR, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, kill_run, (void *)(uintptr_t)1), 0);
	while (!ret)
		ret = hmm_opencl_run(kernel, NR, NULL);
	assert_int_equal(ret, -EIO);
	pthread_join(thread, NULL);
	lost = touch_read(p);
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(touch_read(p + i * page), lost);
	assert_true(lost == SIGBUS || opencl_stats(victim).in_place);
	IGNORE(hmm_opencl_close(victim));
	munmap(p, NR * page);
}

/* Device memory is full of what may not leave: pages stay home, and that is said. */
static void full_memory_leaves_pages_home(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 2 << 20);
	struct hmm_opencl *ocl = opencl_open(w, &opts);
	unsigned char *p = map_filled(3 * NR, 4);
	int64_t ret;

	ret = hmm_migrate_to_device(w->mm, hmm_opencl_devmem(ocl), (uintptr_t)p,
				    (uintptr_t)p + 3 * NR * page, HMM_MIGRATE_SYSTEM, NULL);
	assert_in_range(ret, 1, 3 * NR);
	assert_true(count_at(w, p, 3 * NR, HMM_PLACE_DEVICE) <= NR);
	assert_holds(p, 3 * NR, 4, 0);
	assert_int_equal(hmm_opencl_close(ocl), 0);
	munmap(p, 3 * NR * page);
}

/* Bytes of our map named @name that are in memory. */
static uint64_t resident(const char *name)
{
	char line[512];
	uint64_t kib = 0, found = 0, start, end;
	bool here = false;
	FILE *file;

	file = fopen("/proc/self/smaps", "re");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = strstr(line, name);
		if (here && sscanf(line, "Rss: %lu kB", &kib) == 1)
			found += kib << 10;
	}
	fclose(file);
	return found;
}

/* The memory that both see comes slot by slot, and not because of mlockall() either. */
static void shared_memory_comes_as_it_is_used(void **state)
{
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 64 << 20);
	bool locks = !mlockall(MCL_FUTURE);
	const size_t nr = 2 * NR - 9;
	struct hmm_opencl *ocl = opencl_open(*state, &opts);
	unsigned char *p;
	char path[64];
	struct stat file;

	munlockall();
	if (!locks)
		print_message("          without mlockall(): RLIMIT_MEMLOCK\n");
	if (!opencl_stats(ocl).in_place)
		skip_staged(ocl);
	assert_int_equal(resident("uhmm-opencl-pools"), 0);
	p = map_filled(nr, 8);
	assert_int_equal(move_in(ocl, p, nr), nr);
	snprintf(path, sizeof(path), "/proc/%lld/fd/5", (long long)opencl_stats(ocl).engine_pid);
	assert_int_equal(stat(path, &file), 0);
	/* Whole slots, two or three by where the blocks begin; and here what has been copied. */
	assert_int_equal(file.st_blocks * 512 % HMM_TEST_BLOCK, 0);
	assert_in_range(file.st_blocks * 512, nr * page, 3 * HMM_TEST_BLOCK);
	assert_in_range(resident("uhmm-opencl-pools"), nr * page, 3 * HMM_TEST_BLOCK);
	assert_holds(p, nr, 8, 0);
	assert_int_equal(hmm_opencl_close(ocl), 0);
	munmap(p, nr * page);
}

static int descriptors(void)
{
	int nr = 0;

	for (int fd = 0; fd < 1024; fd++)
		nr += fcntl(fd, F_GETFD) >= 0;
	return nr;
}

/* A device costs the program two descriptors, and none when it is closed. */
static void descriptors_are_given_back(void **state)
{
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 << 20);
	int before = descriptors();
	struct hmm_opencl *ocl = opencl_open(*state, &opts);
	struct hmm_opencl_device device;

	assert_int_equal(descriptors(), before + 2);
	assert_int_equal(hmm_opencl_close(ocl), 0);
	assert_int_equal(hmm_opencl_describe(0, &device, why, sizeof(why)), 0);
	assert_int_equal(descriptors(), before);
}

/* Where the engine may not have a file of that size, the device has its memory itself. */
static void a_small_file_limit(void **state)
{
	HMM_OPTS(hmm_opencl_opts, opts, .mem_bytes = 32 << 20);
	struct rlimit was, small;
	struct hmm_opencl *ocl;
	unsigned char *p = map_filled(NR, 7);

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	small = (struct rlimit){ 16 << 20, was.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	ocl = opencl_open(*state, &opts);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
	assert_int_equal(opencl_stats(ocl).in_place, 0);
	assert_int_equal(move_in(ocl, p, NR), NR);
	assert_holds(p, NR, 7, 0);
	assert_int_equal(hmm_opencl_close(ocl), 0);
	munmap(p, NR * page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(no_platform),
		world_test(no_such_device),
		world_test(too_much_memory),
		world_test(bad_sources),
		world_test(a_dead_engine_is_told_page_by_page),
		world_test(a_dead_engine_leaves_shared_memory),
		world_test(an_engine_that_dies_at_work),
		world_test(shared_memory_comes_as_it_is_used),
		world_test(descriptors_are_given_back),
		world_test(a_small_file_limit),
		world_test(an_engine_that_dies_in_traffic),
		world_test(an_engine_that_dies_in_a_run),
		world_test(full_memory_leaves_pages_home),
	};

	need_mm();
	need_opencl();
	return cmocka_run_group_tests_name("opencl_failure", tests, world_begin, world_end);
}
