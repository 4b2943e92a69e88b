/* SPDX-License-Identifier: MIT */
#include "ranges.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int ranges_add(struct ranges *ranges, uintptr_t start, uintptr_t end)
{
	if (ranges->nr == RANGES_MAX)
		return -E2BIG;
	ranges->range[ranges->nr++] = (struct range){ start, end, UINTPTR_MAX, 0 };
	return 0;
}

/* Private, writable, and of no file: what malloc gets its memory from. */
static int read_maps(struct ranges *ranges)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char *line = NULL, perms[5], name[16];
	size_t room = 0;
	uintptr_t start, end;
	unsigned long inode;
	int fields, ret = 0;

	if (!maps)
		return -errno;
	while (!ret && getline(&line, &room, maps) > 0) {
		fields = sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %*s %*s %lu %15s",
				&start, &end, perms, &inode, name);
		if (fields < 4 || strcmp(perms, "rw-p") || inode)
			continue;
		if (fields == 5 && strcmp(name, "[heap]") && strncmp(name, "[anon", 5))
			continue;
		ret = ranges_add(ranges, start, end);
	}
	free(line);
	fclose(maps);
	return ret;
}

static struct range *range_of(struct ranges *ranges, uintptr_t addr)
{
	unsigned int low = 0, high = ranges->nr;

	while (low < high) {
		unsigned int mid = (low + high) / 2;

		if (ranges->range[mid].end <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low < ranges->nr && ranges->range[low].start <= addr ? &ranges->range[low] : NULL;
}

static void piece(struct ranges *ranges, const void *addr, size_t size)
{
	struct range *range = range_of(ranges, (uintptr_t)addr);

	if (!range)
		return;
	if (range->low > (uintptr_t)addr)
		range->low = (uintptr_t)addr;
	if (range->high < (uintptr_t)addr + size)
		range->high = (uintptr_t)addr + size;
}

static void pieces_of_stripe(struct ranges *ranges, const struct stripe *stripe)
{
	piece(ranges, stripe->bucket, stripe->nr_buckets * sizeof(*stripe->bucket));
	for (uint32_t i = 0; i < stripe->nr_buckets; i++) {
		const struct word *word = stripe->bucket[i];

		for (; word; word = word->next) {
			piece(ranges, word, sizeof(*word) + word->len + 1);
			for (struct block *b = word->places; b; b = b->next)
				piece(ranges, b, sizeof(*b) + b->room * sizeof(b->place[0]));
		}
	}
}

int ranges_find(struct index *index, size_t page_size, struct ranges *ranges)
{
	unsigned int kept = 0;
	int ret;

	memset(ranges, 0, sizeof(*ranges));
	ret = read_maps(ranges);
	if (ret)
		return ret;
	piece(ranges, index, sizeof(*index));
	for (unsigned int i = 0; i < INDEX_STRIPES; i++)
		pieces_of_stripe(ranges, &index->stripe[i]);
	for (unsigned int i = 0; i < ranges->nr; i++) {
		struct range range = ranges->range[i];

		if (range.low >= range.high)
			continue;
		range.start = range.low & ~(page_size - 1);
		range.end = (range.high + page_size - 1) & ~(page_size - 1);
		ranges->range[kept++] = range;
	}
	ranges->nr = kept;
	return 0;
}

uint64_t ranges_bytes(const struct ranges *ranges)
{
	uint64_t bytes = 0;

	for (unsigned int i = 0; i < ranges->nr; i++)
		bytes += ranges->range[i].end - ranges->range[i].start;
	return bytes;
}
