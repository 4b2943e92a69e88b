/* SPDX-License-Identifier: MIT */
/*
 * The program moves pages that are being taken, while the mm's lock is dropped: just
 * before they are, where that is done by mremap for want of UFFDIO_MOVE, or just after.
 * Or it stores to a mapping of a file just before memory takes its place.
 *
 * The linker puts the program's mremap there (--wrap, see meson.build).
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <uhmm/driver.h>
#include <uhmm/soft.h>

#define EXIT_SKIP	77
#define TEST_SECONDS	60
#define NR		16
#define FILE_BYTE	0x11

int __real_sys_mremap_dontunmap(uintptr_t src, size_t len, uintptr_t dst);
int __wrap_sys_mremap_dontunmap(uintptr_t src, size_t len, uintptr_t dst);
struct isolation;
uint32_t __real_isolation_fetch(struct hmm_mm *of, struct isolation *iso);
uint32_t __wrap_isolation_fetch(struct hmm_mm *of, struct isolation *iso);

static struct hmm_mm *mm;
static struct hmm_soft *soft;
static size_t page;
static unsigned char *before, *after;	/* what moves before, after the next take; NULL: nothing */
static unsigned char *to;
static unsigned char *stored;		/* where the program stores then; NULL: nowhere */

/* The old place is empty then, and looked at: it shows the zero page. */
static void move(unsigned char **what)
{
	unsigned char *p = *what;

	*what = NULL;
	if (!p)
		return;
	assert_ptr_equal(mremap(p, NR * page, NR * page,
				MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to), to);
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(*(volatile unsigned char *)(p + i * page), 0);
}

/* One store to each page. */
static void store_late(void)
{
	for (size_t i = 0; stored && i < NR; i++)
		*(volatile unsigned char *)(stored + i * page) = (unsigned char)(i + 1);
	stored = NULL;
}

int __wrap_sys_mremap_dontunmap(uintptr_t src, size_t len, uintptr_t dst)
{
	move(&before);
	store_late();
	return __real_sys_mremap_dontunmap(src, len, dst);
}

uint32_t __wrap_isolation_fetch(struct hmm_mm *of, struct isolation *iso)
{
	move(&after);
	return __real_isolation_fetch(of, iso);
}

static unsigned char *map(void)
{
	unsigned char *p = mmap(NULL, (NR + 1) * page, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(mprotect(p, page, PROT_NONE), 0);
	return p + page;
}

static struct hmm_stats stats(void)
{
	struct hmm_stats s = { .size = sizeof(s) };

	assert_int_equal(hmm_mm_stats(mm, &s), 0);
	return s;
}

/* Memory that the mm knows, and so hears of when it moves; and where that will be. */
static unsigned char *map_known(void)
{
	unsigned char *p = map();

	to = map();
	for (size_t i = 0; i < NR; i++)
		memset(p + i * page, (int)i + 1, page);
	assert_int_equal(hmm_soft_migrate_in(soft, (uintptr_t)p, (uintptr_t)p + page, NULL), 1);
	assert_int_equal(hmm_evict(mm, (uintptr_t)p, (uintptr_t)p + page), 1);
	return p;
}

/* The bytes are where the program has put them, and its old place is empty. */
static void assert_moved(unsigned char *p)
{
	assert_true(!before && !after);
	for (size_t i = 0; i < NR * page; i++) {
		assert_int_equal(to[i], i / page + 1);
		assert_int_equal(p[i], 0);
	}
	assert_int_equal(stats().lost_pages, 0);
	assert_int_equal(munmap(p - page, (NR + 1) * page), 0);
	assert_int_equal(munmap(to - page, (NR + 1) * page), 0);
}

/* What is taken then is not what was asked for: nobody takes the one for the other. */
static void pages_move_before_they_are_taken(void **state)
{
	unsigned char *p = map_known();

	(void)state;
	before = p;
	(void)!hmm_soft_migrate_in(soft, (uintptr_t)p, (uintptr_t)p + NR * page, NULL);
	assert_moved(p);
}

/* A page that has moved is not had for atomics: the device asked for the old place. */
static void pages_move_before_they_are_exclusive(void **state)
{
	unsigned char *p = map_known();
	void *contents[NR];

	(void)state;
	after = p;
	assert_int_equal(hmm_exclusive_begin(mm, (uintptr_t)p, (uintptr_t)p + NR * page, &mm,
					     contents), -EBUSY);
	for (size_t i = 0; i < NR; i++)
		assert_null(contents[i]);
	assert_int_equal(stats().exclusive_pages, 0);
	assert_moved(p);
}

/* A private mapping of a file, whose first page has been written. */
static unsigned char *map_file(void)
{
	char path[] = "/tmp/uhmm-remap-XXXXXX";
	int fd = mkstemp(path);
	unsigned char *bytes = malloc(NR * page), *p;

	assert_true(fd >= 0);
	assert_non_null(bytes);
	unlink(path);
	memset(bytes, FILE_BYTE, NR * page);
	assert_int_equal(write(fd, bytes, NR * page), NR * page);
	free(bytes);
	p = mmap(NULL, NR * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	p[1] = 0x22;
	return p;	/* hmm_adopt() finds the file by the descriptor */
}

/* Adopt it, with a store to each page at the last moment: all are there. */
static void assert_stores_kept(unsigned char *p)
{
	stored = p;
	assert_int_equal(hmm_adopt(mm, (uintptr_t)p, (uintptr_t)p + NR * page), 1);
	assert_null(stored);
	for (size_t i = 0; i < NR; i++) {
		assert_int_equal(p[i * page], i + 1);
		assert_int_equal(p[i * page + 1], i ? FILE_BYTE : 0x22);
		assert_int_equal(p[i * page + page - 1], FILE_BYTE);
	}
	assert_int_equal(munmap(p, NR * page), 0);
}

/* A page of the file's gets its private copy by the store. */
static void a_file_page_is_stored_to_before_it_is_adopted(void **state)
{
	(void)state;
	assert_stores_kept(map_file());
}

/* So does a private copy that a child still shares. */
static void a_forked_page_is_stored_to_before_it_is_adopted(void **state)
{
	unsigned char *p = map_file();
	pid_t child = fork();

	(void)state;
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
		_exit(EXIT_FAILURE);
	}
	assert_true(child > 0);
	assert_stores_kept(p);
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, NULL, 0), child);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_move_before_they_are_taken),
		cmocka_unit_test(pages_move_before_they_are_exclusive),
		cmocka_unit_test(a_file_page_is_stored_to_before_it_is_adopted),
		cmocka_unit_test(a_forked_page_is_stored_to_before_it_is_adopted),
	};
	HMM_OPTS(hmm_soft_opts, device, .mem_bytes = 256 * hmm_page_size(), .lanes = 1);
	int ret;

	alarm(TEST_SECONDS);
	page = hmm_page_size();
	setenv("UHMM_CAPS", "-uffdio-move", 1);
	ret = hmm_mm_create(NULL, &mm);
	if (ret == -EPERM || ret == -EOPNOTSUPP) {
		printf("skipped: this user or kernel has no userfaultfd for an mm\n");
		return EXIT_SKIP;
	}
	if (ret || hmm_soft_open(mm, &device, &soft))
		return EXIT_FAILURE;
	ret = cmocka_run_group_tests_name("remap_race", tests, NULL, NULL);
	return hmm_soft_close(soft) || hmm_mm_destroy(mm) ? EXIT_FAILURE : ret;
}
