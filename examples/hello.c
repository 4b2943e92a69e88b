/* SPDX-License-Identifier: MIT */
/* The smallest program: a list made with malloc, summed by a device where it lies. */
#include <uhmm/soft.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node {
	struct node *next;
	uint64_t value, sum;
};

/* Runs on the device: follows the program's own pointers, and writes through them. */
static void sum_list(struct hmm_lane *lane, uint64_t item, void *arg)
{
	struct node *first = arg, *node;
	uint64_t sum = item;

	for (node = first; node; node = (void *)(uintptr_t)hmm_lane_load(lane, &node->next, 8))
		sum += hmm_lane_load(lane, &node->value, 8);
	hmm_lane_store(lane, &first->sum, sum, 8);
}

int main(void)
{
	struct node *list = NULL, *node;
	struct hmm_mm *mm;
	struct hmm_soft *soft;
	int ret;

	for (uint64_t i = 1; i <= 1000; i++) {
		node = malloc(sizeof(*node));
		if (!node)
			return 1;
		*node = (struct node){ .next = list, .value = i };
		list = node;
	}
	ret = hmm_mm_create(NULL, &mm);
	if (!ret)
		ret = hmm_soft_open(mm, NULL, &soft);
	if (!ret)
		ret = hmm_soft_run(soft, sum_list, 1, list, NULL);
	if (ret) {
		fprintf(stderr, "hello: %s; `uhmm doctor` says more\n", strerror(-ret));
		return 1;
	}
	printf("the device says %" PRIu64 "\n", list->sum);
	if (list->sum != 500500)
		return 1;
	return hmm_soft_close(soft) || hmm_mm_destroy(mm);
}
