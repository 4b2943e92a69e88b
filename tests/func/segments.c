/* SPDX-License-Identifier: MIT */
/*
 * Memory that every process has: stacks and control blocks of threads and static data
 * stay, what malloc() gave moves.
 */
#define _GNU_SOURCE
#include "world.h"

#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NR	16
#define RW	(PROT_READ | PROT_WRITE)

/* The stacks and control blocks of threads stay: the kernel writes there unseen. */
static void thread_stacks_stay(void **state)
{
	struct world *w = *state;
	uint64_t reasons[HMM_REASONS] = { 0 };
	unsigned char local = 1;
	unsigned char *p = (void *)((uintptr_t)&local & ~(page - 1));

	assert_true(try_device(w, w->dev, p, 1, reasons) <= 0);
	assert_int_equal(reasons[HMM_REASON_RESERVED], 1);
	assert_int_equal(local, 1);
}

struct stack_probe {
	struct world *w;
	uint64_t reasons[HMM_REASONS];
	int64_t got;
};

static void *stack_probe_run(void *arg)
{
	struct stack_probe *probe = arg;
	unsigned char local = 1;
	uintptr_t p = (uintptr_t)&local & ~(page - 1);

	probe->got = hmm_migrate_to_device(probe->w->mm, probe->w->dev->devmem, p, p + page,
					   HMM_MIGRATE_SYSTEM, probe->reasons);
	return NULL;
}

/* The same for a thread that pthread_create() made. */
static void pthread_stacks_stay(void **state)
{
	static struct stack_probe probe;
	pthread_t thread;

	memset(&probe, 0, sizeof(probe));
	probe.w = *state;
	assert_int_equal(pthread_create(&thread, NULL, stack_probe_run, &probe), 0);
	pthread_join(thread, NULL);
	assert_true(probe.got <= 0);
	assert_int_equal(probe.reasons[HMM_REASON_RESERVED], 1);
}

static pthread_mutex_t at_rest = PTHREAD_MUTEX_INITIALIZER;

static void *rest_run(void *arg)
{
	pthread_mutex_lock(&at_rest);
	pthread_mutex_unlock(&at_rest);
	return arg;
}

/* So do those of more threads than the library keeps a list of. */
static void stacks_of_many_threads_stay(void **state)
{
	enum { MANY = 1200 };
	static pthread_t threads[MANY];
	static struct stack_probe probe;
	pthread_attr_t attr;
	pthread_t thread;
	size_t nr = 0;

	memset(&probe, 0, sizeof(probe));
	probe.w = *state;
	pthread_attr_init(&attr);
	assert_int_equal(pthread_attr_setstacksize(&attr, 256 << 10), 0);
	pthread_mutex_lock(&at_rest);
	while (nr < MANY && !pthread_create(&threads[nr], &attr, rest_run, NULL))
		nr++;
	if (nr == MANY) {
		assert_int_equal(pthread_create(&thread, NULL, stack_probe_run, &probe), 0);
		pthread_join(thread, NULL);
	}
	pthread_mutex_unlock(&at_rest);
	for (size_t i = 0; i < nr; i++)
		pthread_join(threads[i], NULL);
	pthread_attr_destroy(&attr);
	if (nr < MANY) {
		print_message("          not here: no more than %zu threads\n", nr);
		skip();
	}
	assert_true(probe.got <= 0);
	assert_int_equal(probe.reasons[HMM_REASON_RESERVED], 1);
}

/* Memory that has moved before, and then is given to a thread as its stack, stays. */
static void memory_that_becomes_a_stack_stays(void **state)
{
	enum { STACK_NR = 64 };
	static struct stack_probe probe;
	struct world *w = *state;
	unsigned char *stack = map_filled(STACK_NR, 71);
	pthread_attr_t attr;
	pthread_t thread;

	memset(&probe, 0, sizeof(probe));
	probe.w = w;
	assert_int_equal(try_device(w, w->dev, stack, STACK_NR, NULL), STACK_NR);
	assert_int_equal(hmm_evict(w->mm, (uintptr_t)stack, (uintptr_t)stack + STACK_NR * page),
			 STACK_NR);
	pthread_attr_init(&attr);
	assert_int_equal(pthread_attr_setstack(&attr, stack, STACK_NR * page), 0);
	assert_int_equal(pthread_create(&thread, &attr, stack_probe_run, &probe), 0);
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attr);
	assert_true(probe.got <= 0);
	assert_int_equal(probe.reasons[HMM_REASON_RESERVED], 1);
	munmap(stack, STACK_NR * page);
}

/*
 * Memory that the kernel merged with the mapping of a control block moves, all of it, and
 * stays one mapping for the program: mremap() takes it whole.
 */
static void memory_beside_a_control_block_moves(void **state)
{
	struct world *w = *state;
	unsigned long start, end, below = 0, below_end = 0, tcb = (unsigned long)pthread_self();
	FILE *f = fopen("/proc/self/maps", "re");
	bool found = false;
	char line[512], perms[8] = "";
	unsigned char *p, *to;

	assert_non_null(f);
	while (!found && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx %7s", &start, &end, perms) != 3)
			continue;
		found = tcb >= start && tcb < end;
		/* The fence of world_begin() lies there: memory nobody uses. */
		if (!found && !strcmp(perms, "---p")) {
			below = start;
			below_end = end;
		}
	}
	fclose(f);
	assert_true(found);
	if (below_end != start || below_end - below < 64 * page)
		lacks("no room below the control block");
	p = mmap((void *)(start - 64 * page), 64 * page, RW,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	fill(p, 64, 23);
	to_device(w, w->dev, p, 64);
	to = map_pages(64, RW, 0);
	assert_ptr_equal(mremap(p, 64 * page, 64 * page,
				MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to), to);
	assert_holds(to, 64, 23, 0);
	munmap(to, 64 * page);
	assert_ptr_equal(mmap(p, 64 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
			      0), p);
}

static unsigned char statics[(NR + 1) * PAGE_MAX];

/* Every anonymous page of a loaded object's data is tried, and stays. */
static int try_statics(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct world *w = arg;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t at = info->dlpi_addr + p->p_vaddr;
		uintptr_t start = (at + p->p_filesz + page - 1) & ~(page - 1);
		uintptr_t end = (at + p->p_memsz + page - 1) & ~(page - 1);

		if (p->p_type == PT_LOAD && start < end)
			assert_refused(w, (void *)start, (end - start) / page, HMM_REASON_RESERVED);
	}
	return 0;
}

/*
 * Static data stays, the program's and that of every library: drivers and the fault path
 * count on it.
 */
static void static_data_stays(void **state)
{
	struct world *w = *state;
	unsigned char *p = (void *)(((uintptr_t)statics + page - 1) & ~(page - 1));

	fill(p, NR, 18);
	assert_refused(w, p, NR, HMM_REASON_RESERVED);
	dl_iterate_phdr(try_statics, w);
	assert_holds(p, NR, 18, 0);
	assert_int_equal(cpu_maps_count(p, NR), NR);
}

/* Nor is static data trapped with a neighbour that has pages away: a hole fills itself. */
static void static_data_is_not_trapped(void **state)
{
	static unsigned char holes[2 * NR * PAGE_MAX];
	struct world *w = *state;
	unsigned char *end = holes + sizeof(holes), *p;
	unsigned char *after = (void *)(((uintptr_t)end + page - 1) & ~(page - 1));
	uint64_t faults;

	/* Where the program's data ends, if that is free: the kernel merges the two. */
	while (cpu_maps(after) || all_at(w, after, 1, HMM_PLACE_HOLE))
		after += page;
	p = mmap(after, NR * page, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != after)
		lacks("something is mapped behind the program's data");
	fill(p, NR, 19);
	to_device(w, w->dev, p, NR);
	faults = stats_now(w).zero_fills;
	memset(holes, 1, sizeof(holes));
	assert_int_equal(stats_now(w).zero_fills, faults);
	assert_holds(p, NR, 19, 0);
	munmap(p, NR * page);
}

/* What malloc() gave migrates like anything else, and free() takes it back. */
static void heap_blocks_move(void **state)
{
	struct world *w = *state;
	unsigned char *block = malloc(2048 * page), *p;

	assert_non_null(block);
	p = (void *)(((uintptr_t)block + page - 1) & ~(page - 1));
	fill(p, 512, 19);
	to_device(w, w->dev, p, 512);
	assert_holds(p, 512, 19, 0);
	to_device(w, w->dev, p, 512);
	free(block);
	assert_true(eventually(testdev_used(w->dev) == 0));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(thread_stacks_stay),
		world_test(pthread_stacks_stay),
		world_test(stacks_of_many_threads_stay),
		world_test(memory_that_becomes_a_stack_stays),
		world_test(memory_beside_a_control_block_moves),
		world_test(static_data_stays),
		world_test(static_data_is_not_trapped),
		world_test(heap_blocks_move),
	};

	need_mm();
	return cmocka_run_group_tests_name("segments", tests, world_begin, world_end);
}
