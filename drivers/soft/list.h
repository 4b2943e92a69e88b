/* SPDX-License-Identifier: MIT */
/* Circular lists linked through their members; the head is a link of its own. */
#ifndef SOFT_LIST_H
#define SOFT_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct soft_link {
	struct soft_link *prev, *next;
};

#define soft_entry(link, type, member) ((type *)(void *)((char *)(link) - offsetof(type, member)))

static inline void soft_list_init(struct soft_link *head)
{
	head->prev = head;
	head->next = head;
}

static inline bool soft_list_empty(const struct soft_link *head)
{
	return head->next == head;
}

static inline void soft_list_append(struct soft_link *head, struct soft_link *link)
{
	link->prev = head->prev;
	link->next = head;
	head->prev->next = link;
	head->prev = link;
}

static inline void soft_list_prepend(struct soft_link *head, struct soft_link *link)
{
	soft_list_append(head->next, link);
}

static inline void soft_list_remove(struct soft_link *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
	soft_list_init(link);
}

static inline struct soft_link *soft_list_pop(struct soft_link *head)
{
	struct soft_link *link = head->next;

	if (link == head)
		return NULL;
	soft_list_remove(link);
	return link;
}

#endif
