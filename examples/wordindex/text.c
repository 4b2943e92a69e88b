/* SPDX-License-Identifier: MIT */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE	/* asprintf */
#endif
#include "text.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int list_add(struct text_list *list, const char *path)
{
	if (list->nr == list->room) {
		size_t room = list->room ? list->room * 2 : 256;
		char **more = realloc(list->path, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		list->path = more;
		list->room = room;
	}
	list->path[list->nr] = strdup(path);
	if (!list->path[list->nr])
		return -ENOMEM;
	list->nr++;
	return 0;
}

static int collect_directory(struct text_list *list, const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	struct stat st;
	char *below;
	int ret = 0;

	if (!dir)
		return -errno;
	while (ret != -ENOMEM && (entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (asprintf(&below, "%s/%s", path, entry->d_name) < 0) {
			ret = -ENOMEM;
			break;
		}
		if (!lstat(below, &st)) {
			if (S_ISDIR(st.st_mode))
				ret = collect_directory(list, below);
			else if (S_ISREG(st.st_mode))
				ret = list_add(list, below);
		}
		free(below);
	}
	closedir(dir);
	return ret == -ENOMEM ? ret : 0;
}

/* The whole file into *@buf, which grows; its length, 0 also when unreadable. */
static int64_t file_read(const char *path, char **buf, size_t *room)
{
	size_t len = 0;
	ssize_t got;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	for (;;) {
		if (len == *room) {
			size_t more = *room ? *room * 2 : 1 << 16;
			char *grown = realloc(*buf, more);

			if (!grown) {
				close(fd);
				return -ENOMEM;
			}
			*buf = grown;
			*room = more;
		}
		got = read(fd, *buf + len, *room - len);
		if (got <= 0)
			break;
		len += got;
	}
	close(fd);
	return len;
}

static int words_add(struct index *index, const char *text, size_t len, uint32_t file)
{
	uint32_t line = 1;
	size_t i = 0, start;
	int ret;

	while (i < len) {
		unsigned char c = text[i];

		if (!isalpha(c) && c != '_') {
			/* A number's letters, as in 0x1f or 10UL, are no word. */
			if (isdigit(c))
				while (i + 1 < len && isalnum((unsigned char)text[i + 1]))
					i++;
			line += c == '\n';
			i++;
			continue;
		}
		start = i;
		while (i < len && (isalnum((unsigned char)text[i]) || text[i] == '_'))
			i++;
		if (i - start > WORD_MAX)
			continue;
		ret = index_add(index, text + start, i - start, place_make(file, line));
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int path_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int text_collect(struct text_list *list, const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return -errno;
	return S_ISDIR(st.st_mode) ? collect_directory(list, path) : list_add(list, path);
}

int text_index(struct text_list *list, struct index *index)
{
	char *buf = NULL;
	size_t room = 0;
	int64_t len;
	int ret = 0;

	if (list->nr)
		qsort(list->path, list->nr, sizeof(*list->path), path_compare);
	for (size_t i = 0; i < list->nr && !ret; i++) {
		len = file_read(list->path[i], &buf, &room);
		if (len < 0) {
			ret = len;
			break;
		}
		list->nr_bytes += len;
		ret = words_add(index, buf, len, i);
	}
	free(buf);
	return ret;
}

void text_free(struct text_list *list)
{
	for (size_t i = 0; i < list->nr; i++)
		free(list->path[i]);
	free(list->path);
}
