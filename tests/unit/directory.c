/* SPDX-License-Identifier: MIT */
/* The directory: its transition table pair by pair, and its walks against a plain array. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/directory.h"
#include "sys/sys.h"

/* Two leaves with their border in the middle. */
#define NR	(2u * 4096u)

static struct directory dir;
static uintptr_t base;

static int make(void **state)
{
	const uintptr_t span = (uintptr_t)LEAF_PAGES * sys_page_size();

	(void)state;
	/* The directory never looks at the mm: any address tells ours from others'. */
	if (directory_init(&dir, process_get(), (struct hmm_mm *)&dir))
		return -1;
	base = 5 * span - NR / 2 * sys_page_size();
	return directory_reserve(&dir, base, base + NR * sys_page_size());
}

static int unmake(void **state)
{
	(void)state;
	directory_fini(&dir);
	return 0;
}

static uintptr_t at(size_t i)
{
	return base + i * sys_page_size();
}

/* Every pair of states: allowed exactly where the life of a page goes. */
static void transition_table(void **state)
{
	static const struct {
		enum page_state from, to;
	} allowed[] = {
		{ PAGE_SYSTEM, PAGE_ISOLATED },		/* taken */
		{ PAGE_ISOLATED, PAGE_SYSTEM },		/* given back, come home, or unmapped */
		{ PAGE_ISOLATED, PAGE_DEVICE },		/* migrated */
		{ PAGE_ISOLATED, PAGE_COHERENT },
		{ PAGE_ISOLATED, PAGE_EXCLUSIVE },
		{ PAGE_ISOLATED, PAGE_LOST },		/* its copy home failed for good */
		{ PAGE_DEVICE, PAGE_ISOLATED },		/* on its way home, or to another */
		{ PAGE_DEVICE, PAGE_SYSTEM },		/* unmapped, discarded */
		{ PAGE_DEVICE, PAGE_LOST },		/* poisoned */
		{ PAGE_COHERENT, PAGE_ISOLATED },
		{ PAGE_COHERENT, PAGE_SYSTEM },
		{ PAGE_EXCLUSIVE, PAGE_ISOLATED },
		{ PAGE_EXCLUSIVE, PAGE_SYSTEM },
		{ PAGE_EXCLUSIVE, PAGE_LOST },		/* no memory to give it back */
		{ PAGE_LOST, PAGE_SYSTEM },		/* unmapped, discarded, written over */
	};

	(void)state;
	for (unsigned int from = 0; from < PAGE_STATES + 2; from++) {
		for (unsigned int to = 0; to < PAGE_STATES + 2; to++) {
			bool expected = false;

			for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
				expected |= allowed[i].from == from && allowed[i].to == to;
			if (page_may(from, to) != expected)
				fail_msg("%s to %s: %d", page_state_name(from),
					 page_state_name(to), !expected);
		}
	}
}

/* Every state can be reached from SYSTEM and left for it again: none is a dead end. */
static void no_state_is_a_dead_end(void **state)
{
	(void)state;
	for (unsigned int s = 0; s < PAGE_STATES; s++) {
		uint32_t to = 1u << PAGE_SYSTEM, from = 1u << s;

		for (unsigned int round = 0; round < PAGE_STATES; round++) {
			for (unsigned int a = 0; a < PAGE_STATES; a++) {
				for (unsigned int b = 0; b < PAGE_STATES; b++) {
					if (page_may(a, b) && (to & 1u << a))
						to |= 1u << b;
					if (page_may(a, b) && (from & 1u << a))
						from |= 1u << b;
				}
			}
		}
		assert_true(to & 1u << s);
		assert_true(from & 1u << PAGE_SYSTEM);
	}
}

/* Each state has a name of its own; what is no state has "?". */
static void states_have_names(void **state)
{
	(void)state;
	for (unsigned int a = 0; a < PAGE_STATES; a++) {
		assert_string_not_equal(page_state_name(a), "?");
		for (unsigned int b = 0; b < a; b++)
			assert_string_not_equal(page_state_name(a), page_state_name(b));
	}
	assert_string_equal(page_state_name(PAGE_STATES), "?");
	assert_string_equal(page_state_name(~0u), "?");
}

/* What an entry is made of comes out of it again, at the ends of each field. */
static void entries_hold_their_fields(void **state)
{
	static const uint64_t indices[] = { 0, 1, (1ULL << 36) - 1 };
	static const uint32_t slots[] = { 0, 1, 4095 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(indices); i++) {
		for (uint32_t id = 1; id < 256; id += 127) {
			uint64_t e = entry_device(PAGE_DEVICE, id, indices[i]);

			assert_int_equal(entry_state(e), PAGE_DEVICE);
			assert_int_equal(entry_devmem(e), id);
			assert_int_equal(entry_index(e), indices[i]);
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(slots); i++) {
		uint64_t e = entry_isolated(17, slots[i]);

		assert_int_equal(entry_state(e), PAGE_ISOLATED);
		assert_int_equal(entry_isolation(e), 17);
		assert_int_equal(entry_slot(e), slots[i]);
		e = entry_exclusive(slots[i]);
		assert_int_equal(entry_state(e), PAGE_EXCLUSIVE);
		assert_int_equal(entry_exclusive_slot(e), slots[i]);
	}
}

/* Addresses without a leaf are SYSTEM pages, and setting them so is nothing. */
static void no_leaf_is_system(void **state)
{
	const uintptr_t far_away = 900 * (uintptr_t)LEAF_PAGES * sys_page_size();

	(void)state;
	assert_int_equal(directory_get(&dir, far_away), PAGE_SYSTEM);
	directory_set(&dir, far_away, PAGE_SYSTEM);
	directory_set_run(&dir, far_away, 8, PAGE_SYSTEM, 0);
	assert_int_equal(directory_next(&dir, far_away, far_away + (1 << 20)),
			 far_away + (1 << 20));
	assert_int_equal(directory_block_used(&dir, far_away), 0);
	assert_false(directory_block_huge(&dir, far_away));
}

/* An address becomes a place and an address again, in both leaves. */
static void places_are_addresses(void **state)
{
	(void)state;
	for (size_t i = 0; i < NR; i += 511) {
		uint32_t place = directory_place(&dir, at(i));

		uintptr_t addr = 0;

		assert_int_not_equal(place, 0);
		assert_ptr_equal(process_place(process_get(), place, &addr), (struct hmm_mm *)&dir);
		assert_int_equal(addr, at(i));
	}
}

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 32) % n;
}

/* A random entry that @old may become; PAGE_SYSTEM if none came up. */
static uint64_t random_entry(uint64_t old, uint32_t i)
{
	switch (random_below(6)) {
	case 0: return page_may(entry_state(old), PAGE_ISOLATED) ? entry_isolated(1, i) : old;
	case 1: return page_may(entry_state(old), PAGE_DEVICE) ?
		       entry_device(PAGE_DEVICE, 3, i) : old;
	case 2: return page_may(entry_state(old), PAGE_COHERENT) ?
		       entry_device(PAGE_COHERENT, 4, i) : old;
	case 3: return page_may(entry_state(old), PAGE_EXCLUSIVE) ? entry_exclusive(i) : old;
	default: return page_may(entry_state(old), PAGE_SYSTEM) ? PAGE_SYSTEM : old;
	}
}

static uint64_t step_of(uint64_t entry)
{
	switch (entry_state(entry)) {
	case PAGE_ISOLATED:	return ENTRY_SLOT_STEP;
	case PAGE_DEVICE:
	case PAGE_COHERENT:	return ENTRY_INDEX_STEP;
	default:		return 0;
	}
}

/* From page @i on to where the block ends, or a page that may not become what the first does. */
static uint32_t set_run(uint64_t *model, uint32_t i, uint64_t entry)
{
	const uint32_t end = i + BLOCK_PAGES - i % BLOCK_PAGES, most = random_below(40);
	uint32_t n = 0;

	while (i + n < end && n < most && page_may(entry_state(model[i + n]), entry_state(entry))) {
		model[i + n] = entry + n * step_of(entry);
		n++;
	}
	directory_set_run(&dir, at(i), n, entry, step_of(entry));
	return n;
}

/* Random entries: look-up, walk, block counts and totals agree with a plain array. */
static void agrees_with_a_plain_array(void **state)
{
	static uint64_t model[NR], read[BLOCK_PAGES];
	uint64_t seed = (uint64_t)time(NULL) * 2654435761u | 1;

	(void)state;
	print_message("          seed %llu\n", (unsigned long long)seed);
	random_state = seed;
	memset(model, 0, sizeof(model));
	for (int step = 0; step < 200000; step++) {
		uint32_t i = random_below(NR);

		/* Mostly within a few blocks, so that some are full and some empty. */
		if (step & 7)
			i = NR / 2 - 700 + i % 1400;
		if (step % 5 == 0 && set_run(model, i, random_entry(model[i], i)))
			continue;
		model[i] = random_entry(model[i], i);
		directory_set(&dir, at(i), model[i]);
	}
	directory_check(&dir);
	for (size_t i = 0, next = 0; i < NR; i++) {
		assert_int_equal(directory_get(&dir, at(i)), model[i]);
		for (next = i; next < NR && !model[next]; next++)
			;
		assert_int_equal(directory_next(&dir, at(i), at(NR)), at(next));
		assert_int_equal(directory_next(&dir, at(i), at(i + 1)),
				 at(model[i] ? i : i + 1));
	}
	for (size_t block = 0; block < NR; block += BLOCK_PAGES) {
		uint32_t used = 0;

		directory_get_run(&dir, at(block), BLOCK_PAGES, read);
		assert_memory_equal(read, model + block, sizeof(read));
		for (size_t i = block; i < block + BLOCK_PAGES; i++)
			used += model[i] != 0;
		assert_int_equal(directory_block_used(&dir, at(block)), used);
		assert_int_equal(directory_block_used(&dir, at(block + BLOCK_PAGES - 1)), used);
	}
	for (unsigned int s = PAGE_ISOLATED; s < PAGE_STATES; s++) {
		uint64_t count = 0;

		for (size_t i = 0; i < NR; i++)
			count += entry_state(model[i]) == s;
		assert_int_equal(dir.count[s], count);
	}
	for (size_t i = 0; i < NR; i += BLOCK_PAGES)
		directory_set_run(&dir, at(i), BLOCK_PAGES, PAGE_SYSTEM, 0);
	directory_check(&dir);
	assert_int_equal(directory_next(&dir, at(0), at(NR)), at(NR));
}

/* The mark of a huge block is its own: neighbours on both sides keep theirs. */
static void huge_marks_are_per_block(void **state)
{
	(void)state;
	directory_block_set_huge(&dir, at(BLOCK_PAGES + 5), true);
	assert_false(directory_block_huge(&dir, at(BLOCK_PAGES - 1)));
	assert_true(directory_block_huge(&dir, at(BLOCK_PAGES)));
	assert_true(directory_block_huge(&dir, at(2 * BLOCK_PAGES - 1)));
	assert_false(directory_block_huge(&dir, at(2 * BLOCK_PAGES)));
	directory_block_set_huge(&dir, at(BLOCK_PAGES), false);
	assert_false(directory_block_huge(&dir, at(BLOCK_PAGES)));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(transition_table),
		cmocka_unit_test(no_state_is_a_dead_end),
		cmocka_unit_test(states_have_names),
		cmocka_unit_test(entries_hold_their_fields),
		cmocka_unit_test_setup_teardown(no_leaf_is_system, make, unmake),
		cmocka_unit_test_setup_teardown(places_are_addresses, make, unmake),
		cmocka_unit_test_setup_teardown(agrees_with_a_plain_array, make, unmake),
		cmocka_unit_test_setup_teardown(huge_marks_are_per_block, make, unmake),
	};

	return cmocka_run_group_tests_name("directory", tests, NULL, NULL);
}
