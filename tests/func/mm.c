/* SPDX-License-Identifier: MIT */
/*
 * Life of an mm: options, one per process, destruction that brings everything home,
 * and what happens where address space or privilege is missing. Each test in a child
 * of its own, since a STRICT filter cannot be taken off again and a limit not raised.
 */
#define _GNU_SOURCE
#include "world.h"

#include "../sanitized.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR	16
#define RW	(PROT_READ | PROT_WRITE)

/* In a child: the first claim that does not hold ends it with its line. */
#define check(cond) do {							\
	if (!(cond)) {								\
		fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);	\
		return 1;							\
	}									\
} while (0)

#define child_test(name)							\
	static void name(void **state)						\
	{									\
		(void)state;							\
		assert_int_equal(in_child(child_##name, NULL), 0);		\
	}

/* Lines that the library logged. Static: it may be called where nothing else works. */
static char logged[8][256];
static _Atomic uint32_t nr_logged;

static void on_log(void *ctx, enum hmm_log_level level, const char *line)
{
	uint32_t i = atomic_fetch_add(&nr_logged, 1);

	(void)ctx;
	(void)level;
	if (i < ARRAY_LEN(logged))
		strncpy(logged[i], line, sizeof(logged[i]) - 1);
}

static bool log_says(const char *what)
{
	for (uint32_t i = 0; i < nr_logged && i < ARRAY_LEN(logged); i++)
		if (strstr(logged[i], what))
			return true;
	return false;
}

static int make(struct hmm_mm **mm, uint64_t flags)
{
	HMM_OPTS(hmm_mm_opts, opts, .flags = (strict() ? HMM_MM_STRICT : 0) | flags,
		 .log = on_log);

	return hmm_mm_create(&opts, mm);
}

static int64_t go(struct hmm_mm *mm, struct testdev *dev, void *p, size_t nr)
{
	return hmm_migrate_to_device(mm, dev->devmem, (uintptr_t)p, (uintptr_t)p + nr * page,
				     HMM_MIGRATE_SYSTEM, NULL);
}

static int child_defaults_make_an_mm(void *arg)
{
	struct hmm_mm *mm;

	(void)arg;
	check(!hmm_mm_create(NULL, &mm));
	check(hmm_mm_flags(mm) == 0);
	check(!hmm_mm_destroy(mm));
	check(!hmm_mm_destroy(NULL));
	return 0;
}
/* No options at all are the defaults. */
child_test(defaults_make_an_mm)

static int child_wrong_options_are_refused(void *arg)
{
	struct {
		struct hmm_mm_opts opts;
		uint64_t tail[4];
	} o = { .opts.size = sizeof(struct hmm_mm_opts) };
	struct hmm_mm *mm = (void *)1;

	(void)arg;
	check(hmm_mm_create(NULL, NULL) == -EINVAL);
	check(hmm_mm_create(&o.opts, NULL) == -EINVAL);
	o.opts.size = 0;
	check(hmm_mm_create(&o.opts, &mm) == -EINVAL);
	o.opts.size = 4;
	check(hmm_mm_create(&o.opts, &mm) == -EINVAL);
	o.opts.size = sizeof(o.opts);
	o.opts.flags = 1ULL << 40;
	check(hmm_mm_create(&o.opts, &mm) == -EINVAL);
	o.opts.flags = 0;
	o.opts.reserved = 1;
	check(hmm_mm_create(&o.opts, &mm) < 0);
	o.opts.reserved = 0;
	o.opts.staging_bytes = (1ULL << 30) + 1;
	check(hmm_mm_create(&o.opts, &mm) == -EINVAL);
	o.opts.staging_bytes = UINT64_MAX;
	check(hmm_mm_create(&o.opts, &mm) == -EINVAL);
	o.opts.staging_bytes = 0;
	o.opts.size = sizeof(o);
	o.tail[3] = 1;
	check(hmm_mm_create(&o.opts, &mm) == -E2BIG);
	o.tail[3] = 0;
	check(mm == (void *)1);
	check(!hmm_mm_create(&o.opts, &mm));
	check(!hmm_mm_destroy(mm));
	return 0;
}
/* Each wrong option is refused with its error, and nothing is written. */
child_test(wrong_options_are_refused)

static int child_one_mm_at_a_time(void *arg)
{
	struct hmm_mm *first, *second = (void *)1;

	(void)arg;
	check(!make(&first, 0));
	check(make(&second, 0) == -EBUSY);
	check(second == (void *)1);
	check(!hmm_mm_destroy(first));
	return 0;
}
/* A second mm is -EBUSY while there is one. */
child_test(one_mm_at_a_time)

static int child_made_again_and_again(void *arg)
{
	(void)arg;
	for (int i = 0; i < 20; i++) {
		unsigned char *p = map_filled(NR, 1);
		struct testdev *dev;
		struct hmm_mm *mm;

		check(!make(&mm, 0));
		check((hmm_mm_flags(mm) & HMM_MM_STRICT) == (strict() ? HMM_MM_STRICT : 0));
		dev = testdev_new(mm, NR, world_owner_a, 0);
		check(go(mm, dev, p, NR) == NR);
		check(munmap(p, 4 * page) == 0);
		check(holds(p + 4 * page, 4, 1, 4));
		check(!testdev_remove(dev));
		check(!hmm_mm_destroy(mm));
		check(holds(p + 4 * page, NR - 4, 1, 4));
		munmap(p, NR * page);
	}
	return 0;
}
/* An mm may be made, used and destroyed any number of times. */
child_test(made_again_and_again)

static int child_destroy_wants_devices_gone(void *arg)
{
	unsigned char *p = map_filled(NR, 2);
	struct testdev *dev;
	struct hmm_mm *mm;

	(void)arg;
	check(!make(&mm, 0));
	dev = testdev_new(mm, NR, world_owner_a, 0);
	check(go(mm, dev, p, NR) == NR);
	check(hmm_mm_destroy(mm) == -EBUSY);
	check(!cpu_maps(p));	/* nothing was done */
	check(holds(p, NR, 2, 0));
	check(!testdev_remove(dev));
	check(!hmm_mm_destroy(mm));
	return 0;
}
/* With a devmem registered destruction is -EBUSY and does nothing. */
child_test(destroy_wants_devices_gone)

static int child_destroy_ends_exclusive_access(void *arg)
{
	uint64_t *p = map_filled(1, 3);
	void *contents[1];
	struct hmm_mm *mm;

	(void)arg;
	check(!make(&mm, 0));
	check(hmm_exclusive_begin(mm, (uintptr_t)p, (uintptr_t)p + page, world_owner_a,
				  contents) == 1);
	*(uint64_t *)contents[0] = 42;
	check(!hmm_mm_destroy(mm));
	check(*p == 42 && p[1] == pattern(3, 0, 1));
	return 0;
}
/* Destruction gives exclusive pages back with what the device wrote. */
child_test(destroy_ends_exclusive_access)

static _Atomic uint32_t busy;

static void *busy_run(void *arg)
{
	uint64_t rounds = 0;

	while (atomic_load(&busy)) {
		unsigned char *p = mmap(NULL, NR * page, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		fill(p, NR, 4);
		if (!holds(p, NR, 4, 0))
			return arg;
		munmap(p, NR * page);
		rounds++;
	}
	return NULL;
}

static int child_threads_go_on_while_mms_come_and_go(void *arg)
{
	pthread_t thread;
	void *failed;

	(void)arg;
	atomic_store(&busy, 1);
	check(!pthread_create(&thread, NULL, busy_run, &busy));
	for (int i = 0; i < 10; i++) {
		struct hmm_mm *mm;

		check(!make(&mm, 0));
		check(!hmm_mm_destroy(mm));
	}
	atomic_store(&busy, 0);
	pthread_join(thread, &failed);
	check(!failed);
	return 0;
}
/* Threads that map and unmap do not notice an mm coming and going. */
child_test(threads_go_on_while_mms_come_and_go)

static void *page_run(void *arg)
{
	while (atomic_load(&busy)) {
		unsigned char *p = mmap(NULL, page, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return arg;
		fill(p, 1, 4);
		if (!holds(p, 1, 4, 0) || munmap(p, page))
			return arg;
	}
	return NULL;
}

/* Children that live as long as the process has the other end of the pipe. */
static void *fork_run(void *arg)
{
	const int *fds = arg;
	char none;

	for (int i = 0; i < 50 && atomic_load(&busy); i++) {
		pid_t pid = fork();

		if (pid < 0)
			return arg;
		if (!pid) {
			close(fds[1]);
			_exit(read(fds[0], &none, 1) != 0);
		}
	}
	return NULL;
}

/* And have done all that they were forked for. */
static int forked_end(const int *fds)
{
	int status;

	close(fds[1]);
	while (wait(&status) > 0)
		check(!status);
	return 0;
}

static int first_mm_beside_threads(void *arg)
{
	pthread_t maps, forks;
	void *failed[2];
	struct hmm_mm *mm;
	int fds[2];

	(void)arg;
	check(!pipe(fds));
	atomic_store(&busy, 1);
	check(!pthread_create(&maps, NULL, page_run, &busy));
	check(!pthread_create(&forks, NULL, fork_run, fds));
	check(!make(&mm, 0));
	check(!hmm_mm_destroy(mm));
	atomic_store(&busy, 0);
	pthread_join(maps, &failed[0]);
	pthread_join(forks, &failed[1]);
	check(!failed[0] && !failed[1]);
	return forked_end(fds);
}

/*
 * The first mm of a process asks the kernel by trials what it can do: nothing that threads
 * map meanwhile is in their way, and they do not wait for children that threads fork.
 */
static void trials_take_nothing_from_threads(void **state)
{
	(void)state;
	for (uint32_t i = rounds(50); i > 0; i--)
		assert_int_equal(in_child(first_mm_beside_threads, NULL), 0);
}

static int child_no_descriptor_leaks(void *arg)
{
	int fd_before, fd_after;
	struct hmm_mm *mm;

	(void)arg;
	check(!make(&mm, 0));
	check(!hmm_mm_destroy(mm));
	fd_before = dup(0);
	for (int i = 0; i < 5; i++) {
		check(!make(&mm, 0));
		check(!hmm_mm_destroy(mm));
	}
	fd_after = dup(0);
	check(fd_after == fd_before + 1);
	return 0;
}
/* Descriptors of an mm are closed with it. */
child_test(no_descriptor_leaks)

static int child_descriptors_run_out(void *arg)
{
	struct rlimit limit = { .rlim_max = RLIM_INFINITY };
	struct hmm_mm *mm = NULL;
	int first, ret = -EMFILE, last;

	(void)arg;
	check(!make(&mm, 0));
	check(!hmm_mm_destroy(mm));
	check(!getrlimit(RLIMIT_NOFILE, &limit));
	first = dup(0);
	close(first);
	for (int more = 0; more < 32 && ret; more++) {
		limit.rlim_cur = (rlim_t)(first + more);
		check(!setrlimit(RLIMIT_NOFILE, &limit));
		ret = make(&mm, 0);
		check(!ret || ret == -EMFILE);
		limit.rlim_cur = limit.rlim_max;
		check(!setrlimit(RLIMIT_NOFILE, &limit));
		check(!ret || (last = dup(0)) == first);
		check(!ret || !close(last));
	}
	check(!ret);
	check(!hmm_mm_destroy(mm));
	return 0;
}
/* Whichever of an mm's descriptors is one too many: -EMFILE, and none of them stays. */
child_test(descriptors_run_out)

static int child_stats_check_their_size(void *arg)
{
	struct hmm_stats s = { 0 };
	struct hmm_mm *mm;

	(void)arg;
	check(!make(&mm, 0));
	check(hmm_mm_stats(mm, NULL) == -EINVAL);
	check(hmm_mm_stats(mm, &s) == -EINVAL);
	s.size = sizeof(s);
	check(hmm_mm_stats(NULL, &s) == -EINVAL);
	check(!hmm_mm_stats(mm, &s));
	check(s.size == sizeof(s));
	/* An older caller's shorter struct is filled so far and no further. */
	s.size = offsetof(struct hmm_stats, forks);
	s.forks = 0x5555;
	if (!hmm_mm_stats(mm, &s))
		check(s.forks == 0x5555);
	check(!hmm_mm_destroy(mm));
	return 0;
}
/* The counters want their size, and write no further than it. */
child_test(stats_check_their_size)

static _Atomic uint32_t lost_lines;

static void count_lost(void *ctx, enum hmm_log_level level, const char *text)
{
	(void)ctx;
	(void)level;
	atomic_fetch_add(&lost_lines, strstr(text, "HMM-107") != NULL);
}

static int child_a_dead_device_takes_few_lines(void *arg)
{
	HMM_OPTS(hmm_mm_opts, opts, .flags = strict() ? HMM_MM_STRICT : 0, .log = count_lost);
	unsigned char *p = map_filled(1024, 5);
	struct testdev *dev;
	struct hmm_mm *mm;

	(void)arg;
	check(!hmm_mm_create(&opts, &mm));
	dev = testdev_new(mm, 1024, world_owner_a, HMM_DEVMEM_FAULT_SAFE);
	check(go(mm, dev, p, 1024) == 1024);
	atomic_store(&dev->broken, true);
	for (size_t i = 0; i < 1024; i++)
		check(hmm_evict(mm, (uintptr_t)p + i * page, (uintptr_t)p + (i + 1) * page) == -EIO);
	/* 1 to 8, 16, 32 ... 1024. */
	check(lost_lines == 15);
	IGNORE(testdev_remove(dev));
	IGNORE(hmm_mm_destroy(mm));
	return 0;
}
/* A device that is gone costs many pages, one by one: that is not said as many times. */
child_test(a_dead_device_takes_few_lines)

static int child_few_and_many_handlers(void *arg)
{
	static const uint32_t nr[] = { 1, 2, 8 };

	(void)arg;
	for (size_t i = 0; i < ARRAY_LEN(nr); i++) {
		HMM_OPTS(hmm_mm_opts, opts, .flags = strict() ? HMM_MM_STRICT : 0,
			 .nr_handlers = nr[i], .staging_bytes = 4 << 20);
		unsigned char *p = map_filled(1024, 5);
		struct testdev *dev;
		struct hmm_mm *mm;

		check(!hmm_mm_create(&opts, &mm));
		dev = testdev_new(mm, 1024, world_owner_a, HMM_DEVMEM_FAULT_SAFE);
		check(go(mm, dev, p, 1024) > 0);
		check(holds(p, 1024, 5, 0));
		check(!testdev_remove(dev));
		check(!hmm_mm_destroy(mm));
		munmap(p, 1024 * page);
	}
	return 0;
}
/* One handler serves, and so do eight, with little staging. */
child_test(few_and_many_handlers)

static uintptr_t vm_bytes(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (f) {
		if (fscanf(f, "%lu", &pages) != 1)
			pages = 0;
		fclose(f);
	}
	return pages * page;
}

static int limited(uint64_t room, struct hmm_mm **mm)
{
	struct rlimit limit = { .rlim_cur = vm_bytes() + room, .rlim_max = RLIM_INFINITY };

	if (setrlimit(RLIMIT_AS, &limit))
		abort();
	return make(mm, 0);
}

static int child_address_space_full(void *arg)
{
	struct rlimit free_limit = { RLIM_INFINITY, RLIM_INFINITY };
	struct hmm_mm *mm = (void *)1;

	(void)arg;
	check(limited(1 << 20, &mm) == -ENOMEM);
	check(mm == (void *)1);
	/* Nothing was left half made. */
	check(!setrlimit(RLIMIT_AS, &free_limit));
	check(!make(&mm, 0));
	check(!hmm_mm_destroy(mm));
	return 0;
}
/* No address space at all: -ENOMEM, and it works once there is some. */
child_test(address_space_full)

static int child_little_address_space_is_enough(void *arg)
{
	unsigned char *p = map_filled(NR, 6);
	struct testdev *dev;
	struct hmm_mm *mm;

	(void)arg;
	check(!limited((1ULL << 20) * page, &mm));
	dev = testdev_new(mm, NR, world_owner_a, 0);
	check(go(mm, dev, p, NR) == NR);
	check(holds(p, NR, 6, 0));
	check(!testdev_remove(dev));
	check(!hmm_mm_destroy(mm));
	return 0;
}
/* Less than the 16 GiB it likes to reserve is enough; of larger pages so much more. */
child_test(little_address_space_is_enough)

static int child_full_while_in_use(void *arg)
{
	struct rlimit limit = { .rlim_max = RLIM_INFINITY };
	unsigned char *p = map_filled(NR, 7);
	struct testdev *dev;
	struct hmm_mm *mm;
	int64_t got;

	(void)arg;
	check(!make(&mm, 0));
	dev = testdev_new(mm, NR, world_owner_a, 0);
	limit.rlim_cur = vm_bytes();
	check(!setrlimit(RLIMIT_AS, &limit));
	got = go(mm, dev, p, NR);
	check(got == -ENOMEM || (got >= 0 && got <= NR));
	check(holds(p, NR, 7, 0));
	check(!hmm_safe_alloc(64 << 20));
	check(!testdev_remove(dev));
	check(!hmm_mm_destroy(mm));
	check(holds(p, NR, 7, 0));
	return 0;
}
/* Address space that fills up later costs migrations, never bytes. */
static void full_while_in_use(void **state)
{
	(void)state;
	if (THREAD_SANITIZED) {
		print_message("          not here: a sanitizer needs address space itself\n");
		skip();
	}
	assert_int_equal(in_child(child_full_while_in_use, NULL), 0);
}

/* As an ordinary user, who may open neither the call nor the device. */
static bool become_nobody(void)
{
	return !setgroups(0, NULL) && !setresgid(65534, 65534, 65534) &&
	       !setresuid(65534, 65534, 65534) && access("/dev/userfaultfd", R_OK | W_OK);
}

static int unprivileged(void)
{
	char value = '1';
	FILE *f = fopen("/proc/sys/vm/unprivileged_userfaultfd", "re");

	if (f) {
		if (fread(&value, 1, 1, f) != 1)
			value = '1';
		fclose(f);
	}
	return value == '0';
}

static int child_no_permission_names_doctor(void *arg)
{
	struct hmm_mm *mm = (void *)1;
	int ret;

	(void)arg;
	if (!unprivileged() || !become_nobody())
		return 77;
	ret = make(&mm, 0);
	check(ret == -EPERM);
	check(mm == (void *)1);
	check(nr_logged >= 1);
	check(log_says("uhmm doctor"));
	check(log_says("HMM-"));
	return 0;
}

/* Without permission for a full userfaultfd: -EPERM, and the log names `uhmm doctor`. */
static void no_permission_names_doctor(void **state)
{
	int ret = in_child(child_no_permission_names_doctor, NULL);

	(void)state;
	if (ret == 77)
		print_message("          not here: this user always may\n");
	else
		assert_int_equal(ret, 0);
}

static int child_user_faults_only(void *arg)
{
	unsigned char *p = map_filled(NR, 8);
	struct testdev *dev;
	struct hmm_mm *mm;

	(void)arg;
	if (!unprivileged() || !become_nobody())
		return 77;
	/* What a user's own process needs to read /proc/self after the change of user. */
	prctl(PR_SET_DUMPABLE, 1);
	check(!make(&mm, HMM_MM_USER_FAULTS_ONLY));
	check(hmm_mm_flags(mm) & HMM_MM_USER_FAULTS_ONLY);
	dev = testdev_new(mm, NR, world_owner_a, 0);
	check(go(mm, dev, p, NR) == NR);
	check(holds(p, NR, 8, 0));
	check(go(mm, dev, p, NR) == NR);
	check(!munmap(p, 4 * page));
	check(holds(p + 4 * page, NR - 4, 8, 4));
	check(!testdev_remove(dev));
	check(!hmm_mm_destroy(mm));
	return 0;
}

/* USER_FAULTS_ONLY: the same user has an mm that serves the program's own touches. */
static void user_faults_only(void **state)
{
	int ret = in_child(child_user_faults_only, NULL);

	(void)state;
	if (ret == 77)
		print_message("          not here: this user always may\n");
	else
		assert_int_equal(ret, 0);
}

static int child_forks_without_privilege(void *arg)
{
	unsigned char *p = map_filled(NR, 9);
	struct testdev *dev;
	struct hmm_mm *mm;
	pid_t pid;

	(void)arg;
	if (!unprivileged() || !become_nobody())
		return 77;
	prctl(PR_SET_DUMPABLE, 1);
	check(!make(&mm, HMM_MM_USER_FAULTS_ONLY));
	dev = testdev_new(mm, NR, world_owner_a, 0);
	check(go(mm, dev, p, NR) == NR);
	pid = fork();
	check(pid >= 0);
	if (!pid) {
		alarm(20);
		_exit(!holds(p, NR, 9, 0));
	}
	check(!wait_child(pid));
	check(holds(p, NR, 9, 0));
	check(!testdev_remove(dev));
	check(!hmm_mm_destroy(mm));
	return 0;
}

/* fork of an unprivileged process, to whom the kernel tells no fork: bytes on both sides. */
static void fork_without_privilege(void **state)
{
	int ret = in_child(child_forks_without_privilege, NULL);

	(void)state;
	if (ret == 77)
		print_message("          not here: this user always may\n");
	else
		assert_int_equal(ret, 0);
}

static int child_strict_twice_in_a_tree(void *arg)
{
	struct hmm_mm *mm;
	pid_t pid;

	(void)arg;
	check(!make(&mm, HMM_MM_STRICT));
	check(hmm_mm_flags(mm) & HMM_MM_STRICT);
	pid = fork();
	check(pid >= 0);
	if (!pid) {
		struct hmm_mm *own = (void *)1;

		alarm(20);
		_exit(make(&own, HMM_MM_STRICT) != -EBUSY || own != (void *)1);
	}
	check(!wait_child(pid));
	check(!hmm_mm_destroy(mm));
	return 0;
}
/* STRICT below a STRICT parent: its listener is taken, -EBUSY. */
child_test(strict_twice_in_a_tree)

static int refused_beside_forks(void)
{
	struct hmm_mm *mm;
	pthread_t forks;
	void *failed;
	int fds[2];

	child_signals();
	check(!pipe(fds));
	atomic_store(&busy, 1);
	check(!pthread_create(&forks, NULL, fork_run, fds));
	do {
		check(make(&mm, HMM_MM_STRICT) == -EBUSY);
		check(!hmm_mm_create(NULL, &mm));
		check(!hmm_mm_destroy(mm));
	} while (pthread_tryjoin_np(forks, &failed));
	check(!failed);
	return forked_end(fds);
}

static int child_a_refused_mm_is_no_forks(void *arg)
{
	struct hmm_mm *mm;
	pid_t pid;

	(void)arg;
	check(!make(&mm, HMM_MM_STRICT));
	pid = fork();
	check(pid >= 0);
	if (!pid)
		_exit(refused_beside_forks());
	check(!wait_child(pid));
	check(!hmm_mm_destroy(mm));
	return 0;
}
/* An mm that fails late, when a thread that forks may have found it, goes when that has left it. */
child_test(a_refused_mm_is_no_forks)

static int child_strict_child_outlives_parent_mm(void *arg)
{
	struct hmm_mm *mm;
	int status;
	pid_t pid;

	(void)arg;
	check(!make(&mm, HMM_MM_STRICT));
	check(!hmm_mm_destroy(mm));
	/* The filter stays: calls that it notifies of must go on, here and in children. */
	for (int i = 0; i < 10; i++) {
		unsigned char *p = map_filled(NR, 10);

		check(!mprotect(p, page, PROT_READ));
		check(!madvise(p + page, page, MADV_DONTNEED));
		check(all_zero(p + page, page));
		check(!munmap(p, NR * page));
	}
	pid = fork();
	check(pid >= 0);
	if (!pid) {
		execl("/bin/sh", "sh", "-c", "ls / > /dev/null && exit 3", (char *)NULL);
		_exit(1);
	}
	check(waitpid(pid, &status, 0) == pid);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 3);
	return 0;
}
/* After a STRICT mm is gone its process and its children go on making changes. */
child_test(strict_child_outlives_parent_mm)

static int child_grandchild_answers(void *arg)
{
	struct hmm_mm *mm;
	int fds[2];
	char c = 0;
	pid_t pid;

	(void)arg;
	check(!make(&mm, HMM_MM_STRICT));
	check(!pipe(fds));
	pid = fork();
	check(pid >= 0);
	if (!pid) {
		pid = fork();
		if (!pid) {
			unsigned char *p;

			/* Wait until the parent, whose listener answers, is gone. */
			alarm(20);
			while (getppid() != 1 && !c)
				c = read(fds[0], &c, 1) == 1;
			p = map_filled(NR, 11);
			munmap(p, NR * page);
			_exit(0);
		}
		_exit(pid < 0);
	}
	check(!wait_child(pid));
	check(write(fds[1], "x", 1) == 1);
	check(!hmm_mm_destroy(mm));
	return 0;
}
/* A child of a child, whose parents are gone, is not left hanging in a change. */
child_test(grandchild_answers)

static int child_version_and_names(void *arg)
{
	(void)arg;
	check(hmm_page_size() == (size_t)sysconf(_SC_PAGESIZE));
	check(hmm_version() && strchr(hmm_version(), '.'));
	for (int i = 0; i < HMM_REASONS; i++) {
		check(hmm_reason_name(i) && hmm_reason_name(i)[0] &&
		      strcmp(hmm_reason_name(i), "?"));
		for (int j = 0; j < i; j++)
			check(strcmp(hmm_reason_name(i), hmm_reason_name(j)));
	}
	check(!strcmp(hmm_reason_name(HMM_REASON_PINNED), "pinned"));
	check(!strcmp(hmm_reason_name(HMM_REASON_SHARED), "shared"));
	check(!strcmp(hmm_reason_name(HMM_REASON_FILE), "file"));
	check(!strcmp(hmm_reason_name(HMM_REASONS), "?"));
	check(!strcmp(hmm_reason_name(-1), "?"));
	return 0;
}
/* The version has a form, and every reason a name of its own. */
child_test(version_and_names)

int main(void)
{
	static const struct CMUnitTest always[] = {
		cmocka_unit_test(defaults_make_an_mm),
		cmocka_unit_test(wrong_options_are_refused),
		cmocka_unit_test(one_mm_at_a_time),
		cmocka_unit_test(made_again_and_again),
		cmocka_unit_test(destroy_wants_devices_gone),
		cmocka_unit_test(destroy_ends_exclusive_access),
		cmocka_unit_test(threads_go_on_while_mms_come_and_go),
		cmocka_unit_test(trials_take_nothing_from_threads),
		cmocka_unit_test(no_descriptor_leaks),
		cmocka_unit_test(descriptors_run_out),
		cmocka_unit_test(stats_check_their_size),
		cmocka_unit_test(a_dead_device_takes_few_lines),
		cmocka_unit_test(few_and_many_handlers),
		cmocka_unit_test(address_space_full),
		cmocka_unit_test(little_address_space_is_enough),
		cmocka_unit_test(full_while_in_use),
		cmocka_unit_test(no_permission_names_doctor),
		cmocka_unit_test(user_faults_only),
		cmocka_unit_test(fork_without_privilege),
		cmocka_unit_test(version_and_names),
	};
	static const struct CMUnitTest announced[] = {
		cmocka_unit_test(strict_twice_in_a_tree),
		cmocka_unit_test(a_refused_mm_is_no_forks),
		cmocka_unit_test(strict_child_outlives_parent_mm),
		cmocka_unit_test(grandchild_answers),
	};
	struct CMUnitTest tests[ARRAY_LEN(always) + ARRAY_LEN(announced)];

	need_mm();
	memcpy(tests, always, sizeof(always));
	memcpy(tests + ARRAY_LEN(always), announced, sizeof(announced));
	return _cmocka_run_group_tests("mm", tests,
				       strict() ? ARRAY_LEN(tests) : ARRAY_LEN(always), NULL,
				       NULL);
}
