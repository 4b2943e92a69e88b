/* SPDX-License-Identifier: MIT */
/*
 * Notifiers of one mm: an interval tree (a treap, each node with the largest end
 * below it), walked at every change. Under the mm's lock, but for seq, which is
 * written under it and read by anybody.
 */
#ifndef UHMM_CORE_NOTIFIER_H
#define UHMM_CORE_NOTIFIER_H

#include <stdatomic.h>
#include <stdint.h>

#include <uhmm/uhmm.h>

struct hmm_notifier {
	uintptr_t start, end;		/* immutable */
	uintptr_t max_end;		/* of this node and those below */
	struct hmm_notifier *left, *right;
	uint64_t priority;
	_Atomic uint64_t seq;		/* invalidations so far */
	struct hmm_mm *mm;		/* immutable; NULL in a forked child */
	void (*invalidate)(struct hmm_notifier *notifier, const struct hmm_event *event,
			   uint64_t seq, void *ctx);
	void *ctx;
};

struct notifier_tree {
	struct hmm_notifier *root;
	uint64_t nr;
	uint64_t random;	/* xorshift state of the priorities */
};

void notifier_tree_insert(struct notifier_tree *tree, struct hmm_notifier *n);
void notifier_tree_remove(struct notifier_tree *tree, struct hmm_notifier *n);

/*
 * Tell everyone whose interval meets [event->start, event->end): seq first, then the
 * callback. Returns how many. The callbacks run with thread_state.in_callback set.
 */
uint64_t notifier_tree_invalidate(struct notifier_tree *tree, const struct hmm_event *event);

#endif
