// SPDX-License-Identifier: MIT
#include "monitor/map.h"

#include <stdlib.h>
#include <string.h>

#include "monitor/policy.h"
#include "sys/sys.h"

#define MAPPINGS	4096u		/* looked at; the largest of them are shown */
#define PROCESSES	1024u
#define WINDOW_PAGES	4096u		/* in one go */
#define PAGES_MAX	(4u << 20)	/* of all mappings together */

/* ---------------------------------------------------------------- one mapping */

struct cells {
	struct window_mapping *mapping;
	uint64_t pages_each;
	uint32_t ram[WINDOW_CELLS], away[WINDOW_CELLS];
};

static void count(struct cells *cells, uint64_t first, const uint8_t *places, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		const uint64_t cell = (first + i) / cells->pages_each;

		if (places[i] > HMM_PLACE_FLIGHT)
			continue;
		cells->mapping->pages[places[i]]++;
		cells->ram[cell] += places[i] == HMM_PLACE_SYSTEM;
		cells->away[cell] += places[i] == HMM_PLACE_DEVICE;
	}
}

static void shade(struct cells *cells, uint64_t nr_pages)
{
	struct window_mapping *m = cells->mapping;

	m->nr_cells = (uint32_t)((nr_pages + cells->pages_each - 1) / cells->pages_each);
	for (uint32_t i = 0; i < m->nr_cells; i++) {
		const uint64_t left = nr_pages - i * cells->pages_each;
		const uint64_t pages = left < cells->pages_each ? left : cells->pages_each;

		m->cell[i].ram = (uint8_t)(cells->ram[i] * 255ULL / pages);
		m->cell[i].away = (uint8_t)(cells->away[i] * 255ULL / pages);
	}
}

/* Pages that were looked at. */
static uint64_t look_at(struct window_mapping *out, struct hmm_mm *mm,
			const struct policy_mapping *mapping, uint64_t most)
{
	static uint8_t places[WINDOW_PAGES];
	const uint64_t page = sys_page_size(), nr = (mapping->end - mapping->start) / page;
	struct cells cells = { .mapping = out, .pages_each = (nr + WINDOW_CELLS - 1) / WINDOW_CELLS };
	uint64_t at = 0;

	*out = (struct window_mapping){ .start = mapping->start, .end = mapping->end };
	while (at < nr && at < most) {
		uint64_t n = nr - at < WINDOW_PAGES ? nr - at : WINDOW_PAGES;
		const uintptr_t start = mapping->start + at * page;

		if (hmm_residency(mm, start, start + n * page, places))
			break;
		count(&cells, at, places, n);
		at += n;
	}
	shade(&cells, nr);
	out->looked_at = at;
	return at;
}

/* ---------------------------------------------------------------- all of them */

static int by_size(const void *a, const void *b)
{
	const struct policy_mapping *one = a, *two = b;
	const uint64_t size = one->end - one->start, other = two->end - two->start;

	return (size < other) - (size > other);
}

static int by_address(const void *a, const void *b)
{
	const struct policy_mapping *one = a, *two = b;

	return (one->start > two->start) - (one->start < two->start);
}

static void map_space(struct window_map *map, struct space *space)
{
	static struct policy_mapping mappings[MAPPINGS];
	unsigned int nr = policy_mappings(space, 0, mappings, MAPPINGS);
	uint64_t left = PAGES_MAX;

	qsort(mappings, nr, sizeof(mappings[0]), by_size);
	map->nr_mappings = nr < WINDOW_MAPPINGS ? nr : WINDOW_MAPPINGS;
	map->nr_left_out = nr - map->nr_mappings;
	qsort(mappings, map->nr_mappings, sizeof(mappings[0]), by_address);
	for (uint32_t i = 0; i < map->nr_mappings; i++) {
		const uint64_t seen = look_at(&map->mapping[i], space->mm, &mappings[i], left);

		left -= seen < left ? seen : left;
	}
}

void map_process(struct window_map *map, struct tree *tree, pid_t pid)
{
	static struct tree_entry entries[PROCESSES];
	const unsigned int nr = tree_list(tree, entries, PROCESSES);

	for (unsigned int i = 0; i < nr; i++) {
		struct space *space = entries[i].space;

		if (entries[i].pid == pid && space && space->mm && space->maps_fd >= 0) {
			map->process = pid;
			memcpy(map->name, entries[i].name, sizeof(map->name));
			map_space(map, space);
		}
		space_put(space);
	}
}
