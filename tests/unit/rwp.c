// SPDX-License-Identifier: MIT
/*
 * What Linux's read-write protection (7.3) does and does not, as far as docs/design/0025
 * stands on it: a page stays where it is and nobody gets at it, not even who protected it.
 * On a userfaultfd with the SIGBUS feature a trapped call fails instead of waiting.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "sys/sys.h"

static size_t page;
static int uffd;
static char *mem;		/* two pages, the first of them protected */

static int begin(void **state)
{
	(void)state;
	page = sys_page_size();
	mem = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(mem, 'a', page);
	uffd = sys_uffd_open(UFFD_FEATURE_SIGBUS | UHMM_UFFD_FEATURE_RWP, true, NULL);
	return uffd < 0 || sys_uffd_register(uffd, (uintptr_t)mem, page, SYS_UFFD_RWP) ||
	       sys_uffd_rwprotect(uffd, (uintptr_t)mem, page, true);
}

static int end(void **state)
{
	(void)state;
	sys_close(uffd);
	return munmap(mem, 2 * page);
}

static bool is_there(void)
{
	int pagemap = sys_pagemap_open();
	uint8_t seen = 0;

	assert_int_equal(sys_page_states(pagemap, (uintptr_t)mem, 1, &seen), 0);
	sys_close(pagemap);
	return seen & SYS_PAGE_PRESENT;
}

/* The page keeps its place and its bytes, and is the program's again when it is let go. */
static void a_protected_page_stays(void **state)
{
	(void)state;
	assert_true(is_there());
	assert_int_equal(sys_uffd_rwprotect(uffd, (uintptr_t)mem, page, false), 0);
	assert_int_equal(mem[0], 'a');
}

/* Not by a guarded copy, either way. */
static void a_guarded_copy_is_trapped(void **state)
{
	char byte = 0;

	(void)state;
	assert_int_equal(sys_copy_from(&byte, (uintptr_t)mem, 1), -EFAULT);
	assert_int_equal(sys_copy_to((uintptr_t)mem, &byte, 1), -EFAULT);
}

/* Nor by the file that goes round what a mapping forbids. */
static void proc_mem_is_trapped(void **state)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	char byte = 'b';

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, (off_t)(uintptr_t)mem), -1);
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)(uintptr_t)mem), -1);
	close(fd);
}

/* Nor by asking for the page itself; a pipe that had it before has it still. */
static void a_reference_is_had_only_before(void **state)
{
	int fds[2];
	size_t room;
	char byte = 0;

	(void)state;
	assert_int_equal(sys_pipe(fds, page, &room), 0);
	assert_true(sys_vmsplice(fds[1], (uintptr_t)mem, page) < 0);
	assert_int_equal(sys_uffd_rwprotect(uffd, (uintptr_t)mem, page, false), 0);
	assert_int_equal(sys_vmsplice(fds[1], (uintptr_t)mem, page), page);
	mem[0] = 'c';
	assert_int_equal(sys_uffd_rwprotect(uffd, (uintptr_t)mem, page, true), 0);
	assert_int_equal(read(fds[0], &byte, 1), 1);
	assert_int_equal(byte, 'c');
	close(fds[0]);
	close(fds[1]);
}

/* It can be taken away as it is, and where it comes to nothing is protected. */
static void a_move_takes_it(void **state)
{
	size_t done = 0;

	(void)state;
	assert_int_equal(sys_uffd_register(uffd, (uintptr_t)mem + page, page, SYS_UFFD_MISSING), 0);
	assert_int_equal(sys_uffd_move(uffd, (uintptr_t)mem + page, (uintptr_t)mem, page, 0, &done), 0);
	assert_int_equal(done, page);
	assert_false(is_there());
	assert_int_equal(mem[page], 'a');
}

#define story(f)	cmocka_unit_test_setup_teardown(f, begin, end)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		story(a_protected_page_stays),
		story(a_guarded_copy_is_trapped),
		story(proc_mem_is_trapped),
		story(a_reference_is_had_only_before),
		story(a_move_takes_it),
	};

	if (!sys_cap(CAP_RWP) || !sys_cap(CAP_MOVE) || !sys_cap(CAP_PROCESS_VM)) {
		puts("skipped: this kernel's userfaultfd has no read-write protection (7.3)");
		return 77;
	}
	return cmocka_run_group_tests_name("rwp", tests, NULL, NULL);
}
