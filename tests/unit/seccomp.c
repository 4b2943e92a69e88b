/* SPDX-License-Identifier: MIT */
/*
 * The filter, its listener and the keeper. A filter is for ever, so each test is a
 * process of its own; what it found comes back as its exit status, the line of the
 * check that failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "sys/seccomp.h"
#include "sys/sys.h"

#include "../sanitized.h"

#define RW	(PROT_READ | PROT_WRITE)
#define ANON	(MAP_PRIVATE | MAP_ANONYMOUS)

/* An exit status has 8 bits: the line goes to standard error, too. */
#define CHECK(cond) do {							\
	if (!(cond)) {								\
		dprintf(2, "%s:%d: %s\n", __FILE__, __LINE__, #cond);		\
		_exit(1);							\
	}									\
} while (0)

static _Atomic int listener = -1;
static _Atomic int seen, clones, hold;

static bool is_clone(int nr)
{
#ifdef SYS_fork
	if (nr == SYS_fork)
		return true;
#endif
	return nr == SYS_clone || nr == SYS_clone3;
}

/* Performs what is of this memory, lets the rest through; @hold: receives and stops. */
static void *serve(void *arg)
{
	struct sys_notif notif;

	while (listener < 0)
		sched_yield();
	for (;;) {
		if (sys_seccomp_recv(listener, &notif))
			continue;
		seen++;
		clones += is_clone(notif.nr);
		if (hold)
			pause();
		if (is_clone(notif.nr) || !sys_shares_mm(notif.tid))
			sys_seccomp_continue(listener, notif.id);
		else
			sys_seccomp_answer(listener, notif.id, sys_seccomp_perform(&notif));
	}
	return arg;
}

static void listen_here(void)
{
	pthread_t thread;
	int fd;

	CHECK(pthread_create(&thread, NULL, serve, NULL) == 0);
	fd = sys_seccomp_listen();
	CHECK(fd >= 0);
	listener = fd;
}

static void in_child(void (*fn)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(30);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

#define NOTIFIED(expr)	do { int before = seen; CHECK(expr); CHECK(seen == before + 1); } while (0)
#define SILENT(expr)	do { int before = seen; CHECK(expr); CHECK(seen == before); } while (0)

/* ---------------------------------------------------------------- what is notified */

static void notified_child(void)
{
	size_t page = sys_page_size();
	char *mem = mmap(NULL, 8 * page, RW, ANON, -1, 0);
	char *old_brk = sbrk(0);
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	listen_here();
	NOTIFIED(mmap(mem, page, RW, ANON | MAP_FIXED, -1, 0) == mem);
	NOTIFIED(mmap(mem, page, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == mem);
	CHECK(memcmp(mem, "\177ELF", 4) == 0);
	NOTIFIED(mmap(mem, page, PROT_READ, MAP_SHARED_VALIDATE | MAP_FIXED, fd, 0) == mem);
	NOTIFIED(mmap(mem, page, RW, MAP_PRIVATE | MAP_FIXED, 9999, 0) == MAP_FAILED && errno == EBADF);
	CHECK(memcmp(mem, "\177ELF", 4) == 0);
	NOTIFIED(mprotect(mem, page, PROT_READ) == 0);
	NOTIFIED(mprotect(mem + 8 * page, page, 64) == -1);
	NOTIFIED(syscall(SYS_pkey_mprotect, mem, page, PROT_READ, -1) == 0 || errno == ENOSYS);
	NOTIFIED(madvise(mem + page, page, MADV_DONTNEED) == 0);
	NOTIFIED(madvise(mem + page, page, MADV_FREE) == 0);
	NOTIFIED(madvise(mem + page, page, MADV_REMOVE) == -1);
	NOTIFIED(mremap(mem + page, page, 2 * page, MREMAP_MAYMOVE) != MAP_FAILED);
	NOTIFIED(munmap(mem, page) == 0);
	NOTIFIED(syscall(SYS_mlock, mem + 4 * page, page) == 0);
	NOTIFIED(syscall(SYS_mlock2, mem + 4 * page, page, 1) == 0);
	NOTIFIED(syscall(SYS_brk, 0) == (long)old_brk);
	NOTIFIED(shmdt(mem) == -1 && errno == EINVAL);
	NOTIFIED(shmat(-1, mem, SHM_REMAP) == (void *)-1);
	NOTIFIED(syscall(SYS_remap_file_pages, mem, 0, 0, 0, 0) == -1);
	NOTIFIED(syscall(SYS_process_madvise, -1, NULL, 0, 0, 0) == -1 && errno == EBADF);
}

/* Every call that changes a mapping is announced, and performed it does what it says. */
static void changes_are_notified(void **state)
{
	(void)state;
	in_child(notified_child);
}

static void silent_child(void)
{
	size_t page = sys_page_size();
	char *mem = mmap(NULL, 8 * page, RW, ANON, -1, 0);
	void *got;

	listen_here();
	SILENT(mmap(NULL, page, RW, ANON, -1, 0) != MAP_FAILED);
	SILENT(mmap(mem, page, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED);
	SILENT(mmap(mem, page, RW, ANON | MAP_FIXED | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED);
	SILENT(madvise(mem, page, MADV_WILLNEED) == 0);
	SILENT(madvise(mem, page, MADV_DONTFORK) == 0);
	SILENT(syscall(SYS_munlock, mem, page) == 0);
	SILENT(shmat(-1, mem, 0) == (void *)-1);
	SILENT(sys_map_anon(page, &got) == 0);
	SILENT(sys_mprotect(got, page, PROT_READ) == 0);
	SILENT(sys_munmap(got, page) == 0);
	SILENT(sys_map_fixed(mem, page, RW) == 0);
	SILENT(sys_madvise(mem, page, MADV_DONTNEED) == 0);
	SILENT(sys_mremap_dontunmap((uintptr_t)mem, page, (uintptr_t)mem + page) == 0);
	SILENT(sys_reserve(page, 64 * page, &got) == 0);
	SILENT(sys_populate((uintptr_t)mem, page, true) == 0);
}

/* Calls that change nothing, and the library's own, are not announced. */
static void own_calls_are_silent(void **state)
{
	(void)state;
	in_child(silent_child);
}

/* The kernel looks at the low half of mmap's descriptor only: the cookie's place. */
static void mmap_ignores_high_half(void **state)
{
	size_t page = sys_page_size();
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	uint64_t wide = 0xabcdef01ULL << 32 | (uint32_t)fd;
	int types[] = { MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		char *mem = (char *)syscall(SYS_mmap, NULL, page, (long)PROT_READ, (long)types[i],
					    wide, 0L);

		assert_true(mem != MAP_FAILED);
		assert_memory_equal(mem, "\177ELF", 4);
		munmap(mem, page);
	}
	close(fd);
}

/* ---------------------------------------------------------------- processes */

static void fork_child(void)
{
	int status;
	pid_t pid;

	listen_here();
	pid = fork();
	if (pid == 0)
		_exit(7);
	CHECK(clones == 1);
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
	/* A vfork child shares the memory and is not a change of it. */
	pid = vfork();
	if (pid == 0)
		_exit(8);
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 8);
	CHECK(clones == 1);
}

/* A fork is announced, a vfork is not. */
static void forks_are_notified(void **state)
{
	(void)state;
	in_child(fork_child);
}

static int say_tid(void *arg)
{
	ssize_t ignored = read(*(int *)arg, &ignored, 1);

	return ignored < 0;
}

static char child_stack[65536];

/* Threads and CLONE_VM children share our memory; forked children and others do not. */
static void shared_memory_is_told(void **state)
{
	int fds[2];
	pid_t copy, shares;

	(void)state;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	copy = fork();
	if (copy == 0)
		_exit(say_tid(&fds[0]));
	shares = clone(say_tid, child_stack + sizeof(child_stack), CLONE_VM | SIGCHLD, &fds[0]);
	assert_true(sys_shares_mm(sys_gettid()));
	assert_true(sys_shares_mm((uint32_t)shares));
	assert_false(sys_shares_mm((uint32_t)copy));
	assert_false(sys_shares_mm(1));

	while (!sys_in_syscall((uint32_t)copy, SYS_read))
		sched_yield();
	assert_true(sys_in_syscall((uint32_t)copy, SYS_read));
	assert_int_equal(write(fds[1], "xx", 2), 2);
	waitpid(copy, NULL, 0);
	waitpid(shares, NULL, 0);
	assert_false(sys_in_syscall((uint32_t)copy, SYS_read));
	assert_false(sys_shares_mm((uint32_t)shares));
	close(fds[0]);
	close(fds[1]);
}

static void second_child(void)
{
	listen_here();
	CHECK(sys_seccomp_listen() == -EBUSY);
}

/* A second listener is refused, also in a child that inherited the filter. */
static void second_listener_is_busy(void **state)
{
	(void)state;
	in_child(second_child);
}

static void unprivileged_child(void)
{
	/* nobody; whoever runs the tests without privilege has none to drop */
	if (setresuid(65534, 65534, 65534) && geteuid() == 0)
		_exit(1);
	listen_here();
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	NOTIFIED(munmap(child_stack + 1, 1) == -1);
}

/* Without privilege the filter works too, at the price of no_new_privs. */
static void unprivileged_pays_no_new_privs(void **state)
{
	(void)state;
	in_child(unprivileged_child);
}

/* ---------------------------------------------------------------- the keeper */

static int result_fd;

/* It is held in a call that the parent had received, then makes one of its own. */
static void orphan(int ready)
{
	size_t page = sys_page_size();
	char *mem = mmap(NULL, 2 * page, RW, ANON, -1, 0);
	char answer;

	close(ready);
	answer = munmap(mem, page) == 0 ? 'y' : 'n';
	CHECK(write(result_fd, &answer, 1) == 1);
	answer = munmap(mem + page, page) == 0 ? 'y' : 'n';
	CHECK(write(result_fd, &answer, 1) == 1);
	_exit(0);
}

static void keeper_parent(void)
{
	int ready[2];
	int before;

	CHECK(pipe2(ready, O_CLOEXEC) == 0);
	listen_here();
	CHECK(sys_seccomp_keeper(listener) == 0);
	CHECK(sys_seccomp_keeper(listener) == -EINVAL);
	CHECK(waitpid(-1, NULL, 0) == -1 && errno == ECHILD);
	before = seen;
	if (fork() == 0) {
		char go;

		close(ready[1]);
		CHECK(read(ready[0], &go, 1) == 0);
		orphan(ready[0]);
	}
	CHECK(seen == before + 1);
	hold = 1;
	close(ready[1]);
	while (seen != before + 2)
		sched_yield();
}

/*
 * A child outlives the process that listened: both the call that was being looked at
 * and later ones go through, and the program cannot wait for the keeper.
 */
static void keeper_lets_orphans_through(void **state)
{
	char answers[2] = { 0 };
	int fds[2];
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	result_fd = fds[1];
	pid = fork();
	if (pid == 0) {
		alarm(30);
		keeper_parent();
		_exit(0);
	}
	close(fds[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(read(fds[0], &answers[0], 1), 1);
	assert_int_equal(read(fds[0], &answers[1], 1), 1);
	assert_memory_equal(answers, "yy", 2);
	/* End of file: the keeper holds nothing of ours, and the orphan has ended. */
	assert_int_equal(read(fds[0], &answers[0], 1), 0);
	close(fds[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(changes_are_notified),
		cmocka_unit_test(own_calls_are_silent),
		cmocka_unit_test(mmap_ignores_high_half),
		cmocka_unit_test(forks_are_notified),
		cmocka_unit_test(shared_memory_is_told),
		cmocka_unit_test(second_listener_is_busy),
		cmocka_unit_test(unprivileged_pays_no_new_privs),
		cmocka_unit_test(keeper_lets_orphans_through),
	};

	if (SANITIZED) {
		printf("skipped: a sanitizer maps memory behind every call, the receiver's too\n");
		return 77;
	}
	if (!sys_cap(CAP_SECCOMP_NOTIFY)) {
		printf("skipped: %s is missing\n", sys_cap_desc(CAP_SECCOMP_NOTIFY)->name);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
