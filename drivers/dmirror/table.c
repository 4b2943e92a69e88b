/* SPDX-License-Identifier: MIT */
#include "table.h"

#include <errno.h>
#include <string.h>

#include <uhmm/driver.h>

static struct table_node *node_at(uint64_t entry)
{
	return (struct table_node *)(uintptr_t)entry;
}

/* Bytes of address space below one entry of a node @level levels above the leaves. */
static uintptr_t reach(const struct table *t, unsigned int level)
{
	return (uintptr_t)1 << (t->page_shift + level * TABLE_BITS);
}

static unsigned int index_of(const struct table *t, uintptr_t va, unsigned int level)
{
	return (va >> (t->page_shift + level * TABLE_BITS)) & (TABLE_FANOUT - 1);
}

int table_init(struct table *t)
{
	t->page_shift = (unsigned int)__builtin_ctzl(hmm_page_size());
	t->root = hmm_safe_alloc(sizeof(*t->root));
	return t->root ? 0 : -ENOMEM;
}

static void node_free(struct table_node *node, unsigned int level)
{
	for (unsigned int i = 0; level && i < TABLE_FANOUT; i++)
		if (node->entry[i])
			node_free(node_at(node->entry[i]), level - 1);
	hmm_safe_free(node, sizeof(*node));
}

void table_destroy(struct table *t)
{
	if (t->root)
		node_free(t->root, TABLE_LEVELS - 1);
	t->root = NULL;
}

/* The place of the first node missing on the way to @va, NULL: none is. Lock held. */
static uint64_t *missing(const struct table *t, uintptr_t va)
{
	struct table_node *node = t->root;

	for (unsigned int level = TABLE_LEVELS - 1; level; level--) {
		uint64_t *entry = &node->entry[index_of(t, va, level)];

		if (!*entry)
			return entry;
		node = node_at(*entry);
	}
	return NULL;
}

int table_reserve(struct table *t, pthread_mutex_t *lock, uintptr_t start, uintptr_t end)
{
	const uintptr_t leaf = reach(t, 1);
	struct table_node *spare = NULL;
	uintptr_t va = start & ~(leaf - 1);

	if (end > reach(t, TABLE_LEVELS))
		return -EFAULT;
	while (va < end) {
		uint64_t *place;

		pthread_mutex_lock(lock);
		while (va < end && !(place = missing(t, va)))
			va += leaf;
		if (va < end && spare) {
			*place = (uintptr_t)spare;
			spare = NULL;
		}
		pthread_mutex_unlock(lock);
		if (va < end && !spare) {
			spare = hmm_safe_alloc(sizeof(*spare));
			if (!spare)
				return -ENOMEM;
		}
	}
	hmm_safe_free(spare, sizeof(*spare));
	return 0;
}

uint64_t *table_find(const struct table *t, uintptr_t va)
{
	struct table_node *node = va < reach(t, TABLE_LEVELS) ? t->root : NULL;

	for (unsigned int level = TABLE_LEVELS - 1; level && node; level--)
		node = node_at(node->entry[index_of(t, va, level)]);
	return node ? &node->entry[index_of(t, va, 0)] : NULL;
}

/* What is done with entries [first, end) of a leaf. */
typedef bool (*leaf_visitor)(struct table_node *leaf, unsigned int first, unsigned int end,
			     uint64_t bits);

struct walk {
	const struct table *table;
	uintptr_t start, end;
	leaf_visitor visit;
	uint64_t bits;
};

static bool walk_node(const struct walk *w, struct table_node *node, unsigned int level,
		      uintptr_t base)
{
	uintptr_t step = reach(w->table, level), va;
	unsigned int i = w->start > base ? (unsigned int)((w->start - base) / step) : 0;
	uintptr_t nr = (w->end - base + step - 1) / step;
	bool any = false;

	if (!level)
		return w->visit(node, i, nr < TABLE_FANOUT ? (unsigned int)nr : TABLE_FANOUT,
				w->bits);
	for (; i < TABLE_FANOUT; i++) {
		va = base + i * step;
		if (va >= w->end)
			break;
		if (node->entry[i])
			any |= walk_node(w, node_at(node->entry[i]), level - 1, va);
	}
	return any;
}

static bool walk_table(const struct table *t, uintptr_t start, uintptr_t end, leaf_visitor visit,
		       uint64_t bits)
{
	uintptr_t limit = reach(t, TABLE_LEVELS);
	struct walk w = { t, start, end < limit ? end : limit, visit, bits };

	return start < w.end && walk_node(&w, t->root, TABLE_LEVELS - 1, 0);
}

static bool leaf_erase(struct table_node *leaf, unsigned int first, unsigned int end, uint64_t bits)
{
	bool any = false;

	for (unsigned int i = first; i < end; i++) {
		any |= (leaf->entry[i] & bits) != 0;
		leaf->entry[i] = 0;
	}
	return any;
}

static bool leaf_any(struct table_node *leaf, unsigned int first, unsigned int end, uint64_t bits)
{
	bool any = false;

	for (unsigned int i = first; i < end; i++)
		any |= (leaf->entry[i] & bits) != 0;
	return any;
}

bool table_erase(struct table *t, uintptr_t start, uintptr_t end)
{
	return walk_table(t, start, end, leaf_erase, PTE_VALID);
}

bool table_any(const struct table *t, uintptr_t start, uintptr_t end, uint64_t bits)
{
	return walk_table(t, start, end, leaf_any, bits);
}
