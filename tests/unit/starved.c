/* SPDX-License-Identifier: MIT */
/*
 * The CPU touches a page that is exclusive, and the kernel has no memory to give it back:
 * that is waited for, and what it does not come for is lost with a signal, never zeros.
 * So it is with a hole of an adopted mapping, at a fork and when the mm ends. Without memory
 * for our own tables a page cannot follow its mapping: it is lost, and counted.
 *
 * The linker puts the kernel's refusals there (--wrap, see meson.build).
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <uhmm/driver.h>

#include "core/directory.h"
#include "sys/sys.h"

#define EXIT_SKIP	77
#define TEST_SECONDS	30
#define NR		4
#define STARVED		1	/* the page that there is no memory for */
#define WRITTEN		77	/* by the device */

int __real_sys_uffd_copy(int uffd, uintptr_t dst, const void *src, size_t len,
			 unsigned int flags, size_t *done);
int __wrap_sys_uffd_copy(int uffd, uintptr_t dst, const void *src, size_t len,
			 unsigned int flags, size_t *done);

int __real_directory_reserve(struct directory *dir, uintptr_t start, uintptr_t end);
int __wrap_directory_reserve(struct directory *dir, uintptr_t start, uintptr_t end);

static struct hmm_mm *mm;
static size_t page;
static unsigned char *p;
static _Atomic unsigned int refusals, refused;
static sigjmp_buf out;
static _Atomic uintptr_t no_table;	/* the page that there is none for */

int __wrap_sys_uffd_copy(int uffd, uintptr_t dst, const void *src, size_t len,
			 unsigned int flags, size_t *done)
{
	const uintptr_t starved = (uintptr_t)p + STARVED * page;
	int ret;

	if (!p || !atomic_load(&refusals) || dst > starved || starved - dst >= len)
		return __real_sys_uffd_copy(uffd, dst, src, len, flags, done);
	if (dst == starved) {
		atomic_fetch_sub(&refusals, 1);
		atomic_fetch_add(&refused, 1);
		*done = 0;
		return -ENOMEM;
	}
	ret = __real_sys_uffd_copy(uffd, dst, src, starved - dst, flags, done);
	return ret ? ret : -EAGAIN;	/* a short fill */
}

int __wrap_directory_reserve(struct directory *dir, uintptr_t start, uintptr_t end)
{
	const uintptr_t none = atomic_load(&no_table);

	return none && none >= start && none < end ? -ENOMEM :
						     __real_directory_reserve(dir, start, end);
}

static struct hmm_stats stats(void)
{
	struct hmm_stats s = { .size = sizeof(s) };

	assert_int_equal(hmm_mm_stats(mm, &s), 0);
	return s;
}

static void begin(void)
{
	void *contents[NR];

	p = mmap(NULL, NR * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	for (size_t i = 0; i < NR; i++)
		memset(p + i * page, (int)i + 1, page);
	assert_int_equal(hmm_exclusive_begin(mm, (uintptr_t)p, (uintptr_t)p + NR * page, &mm,
					     contents), NR);
	for (size_t i = 0; i < NR; i++)
		*(unsigned char *)contents[i] = WRITTEN;
	atomic_store(&refused, 0);
}

/* All are given back but, maybe, the starved one. */
static void end(int64_t nr)
{
	assert_int_equal(hmm_exclusive_end(mm, (uintptr_t)p, (uintptr_t)p + NR * page), nr);
	assert_int_equal(stats().exclusive_pages, 0);
	for (size_t i = 0; i < NR; i++) {
		if (i == STARVED)
			continue;
		assert_int_equal(p[i * page], WRITTEN);
		assert_int_equal(p[i * page + 1], i + 1);
	}
	assert_int_equal(munmap(p, NR * page), 0);
}

/* Whoever touches it sleeps until there is memory, and sees what the device wrote. */
static void a_touch_waits_for_memory(void **state)
{
	(void)state;
	begin();
	atomic_store(&refusals, 2);
	assert_int_equal(p[STARVED * page], WRITTEN);
	assert_int_equal(p[STARVED * page + 1], STARVED + 1);
	assert_int_equal(atomic_load(&refused), 2);
	assert_int_equal(stats().lost_pages, 0);
	end(NR - 1);
}

/* So does the device's end of it. */
static void the_end_waits_for_memory(void **state)
{
	(void)state;
	begin();
	atomic_store(&refusals, 2);
	assert_int_equal(hmm_exclusive_end(mm, (uintptr_t)p, (uintptr_t)p + NR * page), NR);
	assert_int_equal(p[STARVED * page], WRITTEN);
	assert_int_equal(atomic_load(&refused), 2);
	assert_int_equal(stats().lost_pages, 0);
	end(0);
}

static void bus_error(int sig)
{
	(void)sig;
	siglongjmp(out, 1);
}

/* A signal, now and at every later touch, and a page that is counted. */
static void what_there_is_never_memory_for_is_lost(void **state)
{
	const struct sigaction act = { .sa_handler = bus_error };
	struct sigaction old;
	volatile int signals = 0, values = 0;

	(void)state;
	assert_int_equal(sigaction(SIGBUS, &act, &old), 0);
	begin();
	atomic_store(&refusals, ~0u);
	for (volatile int touch = 0; touch < 2; touch++) {
		if (sigsetjmp(out, 1)) {
			signals++;
			continue;
		}
		(void)*(volatile unsigned char *)(p + STARVED * page);
		values++;
	}
	atomic_store(&refusals, 0);
	assert_int_equal(sigaction(SIGBUS, &old, NULL), 0);
	assert_int_equal(signals, 2);
	assert_int_equal(values, 0);
	assert_true(atomic_load(&refused) > 2);
	assert_int_equal(stats().lost_pages, 1);
	assert_int_equal(stats().poisoned_pages, 1);
	end(NR - 1);
}

/* All of them: where one cannot be kept none is. */
static void what_cannot_be_followed_is_counted(void **state)
{
	const struct hmm_stats before = stats();
	unsigned char *to;

	(void)state;
	begin();
	to = mmap(NULL, NR * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(to, MAP_FAILED);
	atomic_store(&no_table, (uintptr_t)to + STARVED * page);
	assert_ptr_equal(mremap(p, NR * page, NR * page, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	/* Whoever reads the event acts on it before we get the lock. */
	assert_int_equal(hmm_exclusive_end(mm, (uintptr_t)to, (uintptr_t)to + NR * page), 0);
	atomic_store(&no_table, 0);
	assert_int_equal(stats().lost_pages - before.lost_pages, NR);
	assert_int_equal(stats().exclusive_pages, 0);
	assert_int_equal(munmap(to, NR * page), 0);
}

/* An adopted mapping that is all holes, where the file has the numbers of its pages. */
static void adopt_holes(void)
{
	char path[] = "/tmp/uhmm-starved-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(pwrite(fd, &(char){ (char)(i + 1) }, 1, (off_t)(i * page)), 1);
	assert_int_equal(ftruncate(fd, (off_t)(NR * page)), 0);
	p = mmap(NULL, NR * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	p[0] = WRITTEN;
	assert_int_equal(hmm_adopt(mm, (uintptr_t)p, (uintptr_t)p + NR * page), 1);
	assert_int_equal(madvise(p, NR * page, MADV_DONTNEED), 0);
	close(fd);
	atomic_store(&refused, 0);
}

/* A child finds all that its parent's file has. */
static void assert_forked(pid_t (*forks)(void))
{
	int status, wrong = 0;
	pid_t child;

	adopt_holes();
	atomic_store(&refusals, 2);
	child = forks();
	if (!child) {
		for (size_t i = 0; i < NR; i++)
			wrong += p[i * page] != i + 1;
		_exit(wrong);
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(atomic_load(&refused), 2);
	assert_int_equal(munmap(p, NR * page), 0);
}

static void a_fork_waits_for_memory(void **state)
{
	(void)state;
	assert_forked(fork);
}

static pid_t raw_clone(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

/* So does one that no library hook sees. */
static void a_raw_clone_waits_for_memory(void **state)
{
	(void)state;
	if (!sys_cap(CAP_FORK_EVENT)) {
		print_message("          not here: the kernel tells of no forks\n");
		skip();
	}
	assert_forked(raw_clone);
}

/* The last: the mm is gone. */
static void an_end_loses_what_there_is_never_memory_for(void **state)
{
	const struct sigaction act = { .sa_handler = bus_error };
	volatile int signals = 0;

	(void)state;
	adopt_holes();
	atomic_store(&refusals, ~0u);
	assert_int_equal(hmm_mm_destroy(mm), -EIO);
	mm = NULL;
	atomic_store(&refusals, 0);
	assert_int_equal(sigaction(SIGBUS, &act, NULL), 0);
	for (volatile size_t i = 0; i < NR; i++) {
		if (sigsetjmp(out, 1)) {
			signals++;
			continue;
		}
		assert_int_equal(*(volatile unsigned char *)(p + i * page),
				 i == STARVED ? 0 : i + 1);
	}
	/* Without a marker of the kernel's nobody is left to raise it: the -EIO tells. */
	assert_int_equal(signals, sys_cap(CAP_POISON));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_touch_waits_for_memory),
		cmocka_unit_test(the_end_waits_for_memory),
		cmocka_unit_test(what_there_is_never_memory_for_is_lost),
		cmocka_unit_test(what_cannot_be_followed_is_counted),
		cmocka_unit_test(a_fork_waits_for_memory),
		cmocka_unit_test(a_raw_clone_waits_for_memory),
		cmocka_unit_test(an_end_loses_what_there_is_never_memory_for),
	};
	int ret;

	alarm(TEST_SECONDS);
	page = hmm_page_size();
	ret = hmm_mm_create(NULL, &mm);
	if (ret == -EPERM || ret == -EOPNOTSUPP) {
		printf("skipped: this user or kernel has no userfaultfd for an mm\n");
		return EXIT_SKIP;
	}
	if (ret)
		return EXIT_FAILURE;
	ret = cmocka_run_group_tests_name("starved", tests, NULL, NULL);
	return hmm_mm_destroy(mm) ? EXIT_FAILURE : ret;
}
