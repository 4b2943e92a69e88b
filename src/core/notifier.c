/* SPDX-License-Identifier: MIT */
#include "core/notifier.h"

#include <errno.h>

#include "core/mm.h"
#include "core/opts.h"

/* Ordered by start; equal starts by address of the node, so that each has one place. */
static bool before(const struct hmm_notifier *a, const struct hmm_notifier *b)
{
	return a->start != b->start ? a->start < b->start : a < b;
}

static uintptr_t larger(uintptr_t a, uintptr_t b)
{
	return a > b ? a : b;
}

static void update(struct hmm_notifier *n)
{
	n->max_end = n->end;
	if (n->left)
		n->max_end = larger(n->max_end, n->left->max_end);
	if (n->right)
		n->max_end = larger(n->max_end, n->right->max_end);
}

/* Nodes before @key go to *left, the rest to *right. */
static void split(struct hmm_notifier *n, const struct hmm_notifier *key,
		  struct hmm_notifier **left, struct hmm_notifier **right)
{
	if (!n) {
		*left = *right = NULL;
	} else if (before(n, key)) {
		split(n->right, key, &n->right, right);
		*left = n;
		update(n);
	} else {
		split(n->left, key, left, &n->left);
		*right = n;
		update(n);
	}
}

static struct hmm_notifier *join(struct hmm_notifier *left, struct hmm_notifier *right)
{
	if (!left || !right)
		return left ? left : right;
	if (left->priority > right->priority) {
		left->right = join(left->right, right);
		update(left);
		return left;
	}
	right->left = join(left, right->left);
	update(right);
	return right;
}

static uint64_t next_random(struct notifier_tree *tree)
{
	uint64_t x = tree->random ? tree->random : 0x9e3779b97f4a7c15ULL;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return tree->random = x;
}

void notifier_tree_insert(struct notifier_tree *tree, struct hmm_notifier *n)
{
	struct hmm_notifier **at = &tree->root;

	n->priority = next_random(tree);
	while (*at && (*at)->priority > n->priority) {
		(*at)->max_end = larger((*at)->max_end, n->end);
		at = before(n, *at) ? &(*at)->left : &(*at)->right;
	}
	split(*at, n, &n->left, &n->right);
	update(n);
	*at = n;
	tree->nr++;
}

static struct hmm_notifier *without(struct hmm_notifier *at, const struct hmm_notifier *n)
{
	if (at == n)
		return join(at->left, at->right);
	if (before(n, at))
		at->left = without(at->left, n);
	else
		at->right = without(at->right, n);
	update(at);
	return at;
}

void notifier_tree_remove(struct notifier_tree *tree, struct hmm_notifier *n)
{
	tree->root = without(tree->root, n);
	tree->nr--;
}

static void tell(struct hmm_notifier *n, const struct hmm_event *event)
{
	/* release: a reader that still sees the old seq reads before this invalidation */
	uint64_t seq = atomic_fetch_add_explicit(&n->seq, 1, memory_order_acq_rel) + 1;

	n->invalidate(n, event, seq, n->ctx);
}

static uint64_t walk(struct hmm_notifier *n, const struct hmm_event *event)
{
	uint64_t told = 0;

	while (n && n->max_end > event->start) {
		told += walk(n->left, event);
		if (n->start >= event->end)
			break;
		if (n->end > event->start) {
			tell(n, event);
			told++;
		}
		n = n->right;
	}
	return told;
}

uint64_t notifier_tree_invalidate(struct notifier_tree *tree, const struct hmm_event *event)
{
	uint64_t told;

	if (!tree->root)
		return 0;
	thread_state.in_callback = true;
	told = walk(tree->root, event);
	thread_state.in_callback = false;
	return told;
}

int hmm_notifier_insert(struct hmm_mm *mm, uintptr_t start, uintptr_t end,
			const struct hmm_notifier_ops *ops, void *ctx, struct hmm_notifier **out)
{
	struct hmm_notifier *n;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!ops || !out || !mm_range_ok(start, end))
		return -EINVAL;
	ret = opts_check(ops, ops->size, sizeof(*ops), sizeof(*ops));
	if (ret)
		return ret;
	if (!ops->invalidate)
		return -EINVAL;
	n = arena_alloc(sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->start = start;
	n->end = end;
	n->mm = mm;
	n->invalidate = ops->invalidate;
	n->ctx = ctx;
	lock_acquire(&mm->lock);
	notifier_tree_insert(&mm->notifiers, n);
	lock_release(&mm->lock);
	*out = n;
	return 0;
}

int hmm_notifier_remove(struct hmm_notifier *n)
{
	struct hmm_mm *mm;
	int ret;

	if (!n)
		return 0;
	if (!n->mm)
		return -ECHILD;
	mm = n->mm;
	ret = mm_enter(mm);
	if (ret)
		return ret;
	/* Callbacks run under this lock: none is running once we have it. */
	lock_acquire(&mm->lock);
	notifier_tree_remove(&mm->notifiers, n);
	lock_release(&mm->lock);
	arena_free(n, sizeof(*n));
	return 0;
}

uint64_t hmm_notifier_read_begin(const struct hmm_notifier *n)
{
	/* acquire: what is read of the address space afterwards is no older than seq */
	return atomic_load_explicit(&n->seq, memory_order_acquire);
}

bool hmm_notifier_read_retry(const struct hmm_notifier *n, uint64_t seq)
{
	/* acquire: pairs with tell(); the driver's lock orders the rest */
	return atomic_load_explicit(&n->seq, memory_order_acquire) != seq;
}
