/* SPDX-License-Identifier: MIT */
/* Chunks that pages are staged in, whatever they were before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/arena.h"
#include "core/mm.h"
#include "core/staging.h"
#include "core/thread.h"
#include "sys/sys.h"

#define TEST_SECONDS	60

static bool is_one_mapping(uintptr_t start, uintptr_t end)
{
	struct sys_vma vma;
	int maps = sys_maps_open();
	bool one = !sys_vma_find(maps, start, &vma) && vma.start <= start && vma.end >= end;

	sys_close(maps);
	return one;
}

/* As one that was used and is not any more: its mapping has an ancestry of its own. */
static void *used_chunk(void)
{
	void *p;

	assert_int_equal(arena_chunks_get(1, &p), 0);
	assert_int_equal(sys_mprotect(p, arena_chunk_bytes(), PROT_READ | PROT_WRITE), 0);
	memset(p, 1, arena_chunk_bytes());
	assert_int_equal(sys_madvise(p, arena_chunk_bytes(), MADV_DONTNEED), 0);
	return p;
}

static void chunk_ends(void *p)
{
	assert_int_equal(sys_mprotect(p, arena_chunk_bytes(), PROT_NONE), 0);
}

static void *nothing(void *arg)
{
	return arg;
}

/* MOVE wants one mapping on either side: a chunk that was a stack is one again. */
static void a_stack_leaves_a_whole_chunk(void **state)
{
	static struct hmm_mm mm;
	struct staging s;
	void *below = used_chunk(), *stack;
	struct thread *thread;
	struct chunk *c;
	uint64_t have;

	(void)state;
	mm.uffd = sys_uffd_open(0, true, &have);
	if (mm.uffd < 0) {
		print_message("          not here: needs a userfaultfd\n");
		skip();
	}
	assert_int_equal(thread_start(nothing, NULL, &thread), 0);
	chunk_ends(below);
	thread_join(thread);
	assert_int_equal(staging_init(&s, &mm, 64 << 20), 0);
	c = staging_get_empty(&s, 0, BLOCK_PAGES, true);
	assert_non_null(c);
	stack = (char *)below + arena_chunk_bytes();
	assert_ptr_equal((void *)c->addr, stack);
	assert_true(is_one_mapping(c->addr, c->addr + arena_chunk_bytes()));
	staging_put(&s, c);
	staging_fini(&s);
	sys_close(mm.uffd);
	arena_chunks_put(below, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stack_leaves_a_whole_chunk),
	};

	alarm(TEST_SECONDS);
	if (!process_get())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
