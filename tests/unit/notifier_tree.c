/* SPDX-License-Identifier: MIT */
/* The interval tree of notifiers against brute force, over random intervals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/lock.h"
#include "core/notifier.h"
#include "sys/sys.h"

#define NR	1000

static struct notifier_tree tree;
static struct hmm_notifier nodes[NR];
static bool inserted[NR];
static uint32_t told[NR];
static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 32) % n;
}

static void count(struct hmm_notifier *n, const struct hmm_event *event, uint64_t seq, void *ctx)
{
	(void)event;
	assert_ptr_equal(ctx, n);
	/* The sequence has moved before the callback runs. */
	assert_int_equal(seq, n->seq);
	assert_true(thread_state.in_callback);
	told[n - nodes]++;
}

static void insert(size_t i, uintptr_t start, uintptr_t end)
{
	memset(&nodes[i], 0, sizeof(nodes[i]));
	nodes[i].start = start;
	nodes[i].end = end;
	nodes[i].invalidate = count;
	nodes[i].ctx = &nodes[i];
	notifier_tree_insert(&tree, &nodes[i]);
	inserted[i] = true;
}

static void drop(size_t i)
{
	notifier_tree_remove(&tree, &nodes[i]);
	inserted[i] = false;
}

/* Largest end below @n; checks order and max_end on the way. */
static uintptr_t checked_max(const struct hmm_notifier *n, uint64_t *nr)
{
	uintptr_t max = n->end, below;

	++*nr;
	if (n->left) {
		assert_true(n->left->start <= n->start);
		assert_true(n->left->priority <= n->priority);
		below = checked_max(n->left, nr);
		max = below > max ? below : max;
	}
	if (n->right) {
		assert_true(n->right->start >= n->start);
		assert_true(n->right->priority <= n->priority);
		below = checked_max(n->right, nr);
		max = below > max ? below : max;
	}
	assert_int_equal(n->max_end, max);
	return max;
}

static uint32_t depth(const struct hmm_notifier *n)
{
	uint32_t left, right;

	if (!n)
		return 0;
	left = depth(n->left);
	right = depth(n->right);
	return 1 + (left > right ? left : right);
}

/* An event reaches exactly those that overlap it, each once, and says how many. */
static void check_event(uintptr_t start, uintptr_t end)
{
	struct hmm_event event = { .type = HMM_EVENT_UNMAP, .start = start, .end = end };
	uint64_t expected = 0, seq[NR];

	memset(told, 0, sizeof(told));
	for (size_t i = 0; i < NR; i++)
		seq[i] = nodes[i].seq;
	for (size_t i = 0; i < NR; i++)
		expected += inserted[i] && nodes[i].start < end && nodes[i].end > start;
	assert_int_equal(notifier_tree_invalidate(&tree, &event), expected);
	for (size_t i = 0; i < NR; i++) {
		bool hit = inserted[i] && nodes[i].start < end && nodes[i].end > start;

		assert_int_equal(told[i], hit);
		assert_int_equal(nodes[i].seq, seq[i] + hit);
	}
	assert_false(thread_state.in_callback);
}

static int begin(void **state)
{
	(void)state;
	memset(&tree, 0, sizeof(tree));
	memset(nodes, 0, sizeof(nodes));
	memset(inserted, 0, sizeof(inserted));
	random_state = (uint64_t)time(NULL) * 2654435761u | 1;
	print_message("          seed %llu\n", (unsigned long long)random_state);
	return 0;
}

/* Random intervals come and go; every event finds what brute force finds. */
static void agrees_with_brute_force(void **state)
{
	(void)state;
	for (int step = 0; step < 20000; step++) {
		size_t i = random_below(NR);
		uint32_t start = random_below(5000);

		if (inserted[i])
			drop(i);
		else
			insert(i, start, start + 1 + random_below(random_below(20) ? 30 : 4000));
		if (step % 20 == 0) {
			uint32_t from = random_below(5200);
			uint64_t nr = 0;

			check_event(from, from + 1 + random_below(step % 3 ? 5 : 2000));
			if (tree.root)
				checked_max(tree.root, &nr);
			assert_int_equal(nr, tree.nr);
		}
	}
}

/* The same interval many times over: each is told, each can be removed. */
static void equal_intervals(void **state)
{
	(void)state;
	for (size_t i = 0; i < NR; i++)
		insert(i, 100, 200);
	check_event(150, 151);
	check_event(200, 300);
	check_event(99, 100);
	for (size_t i = 0; i < NR; i += 2)
		drop(i);
	check_event(0, 1000);
	for (size_t i = 1; i < NR; i += 2)
		drop(i);
	assert_null(tree.root);
	assert_int_equal(tree.nr, 0);
	check_event(0, 1000);
}

/* Intervals inserted in order do not make a list of it. */
static void sorted_insertion_stays_shallow(void **state)
{
	(void)state;
	for (size_t i = 0; i < NR; i++)
		insert(i, 10 * i, 10 * i + 10);
	/* 2^10 nodes; a treap of them is deeper than 50 once in ages. */
	assert_in_range(depth(tree.root), 10, 50);
	for (size_t i = 0; i < NR; i++)
		check_event(10 * i + 9, 10 * i + 11);
}

/* Bounds are half open on both sides, to the last address. */
static void bounds_are_half_open(void **state)
{
	(void)state;
	insert(0, 0x1000, 0x2000);
	insert(1, 0, UINTPTR_MAX);
	insert(2, UINTPTR_MAX - 0x1000, UINTPTR_MAX);
	check_event(0, 0x1000);
	check_event(0x1000, 0x1001);
	check_event(0x1fff, 0x2000);
	check_event(0x2000, 0x3000);
	check_event(UINTPTR_MAX - 1, UINTPTR_MAX);
	check_event(0, UINTPTR_MAX);
}

/* An empty tree tells nobody. */
static void empty_tree(void **state)
{
	(void)state;
	check_event(0, UINTPTR_MAX);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(agrees_with_brute_force, begin),
		cmocka_unit_test_setup(equal_intervals, begin),
		cmocka_unit_test_setup(sorted_insertion_stays_shallow, begin),
		cmocka_unit_test_setup(bounds_are_half_open, begin),
		cmocka_unit_test_setup(empty_tree, begin),
	};

	return cmocka_run_group_tests_name("notifier_tree", tests, NULL, NULL);
}
