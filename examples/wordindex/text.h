/* SPDX-License-Identifier: MIT */
/* Text files and the words in them: a letter or _, then letters, digits and _. */
#ifndef WORDINDEX_TEXT_H
#define WORDINDEX_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "index.h"

struct text_list {
	char **path;		/* a file's number is its position here, once sorted */
	size_t nr, room;
	uint64_t nr_bytes;	/* read so far */
};

/*
 * Add a file, or every regular file below a directory (symbolic links in it are not
 * followed). 0, -ENOMEM, or the error of @path itself; what cannot be read below it
 * is passed over.
 */
int text_collect(struct text_list *list, const char *path);

/* Sort the list and put every word of every file into @index. 0 or -ENOMEM. */
int text_index(struct text_list *list, struct index *index);

void text_free(struct text_list *list);

#endif
