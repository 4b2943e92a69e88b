/* SPDX-License-Identifier: MIT */
#include "core/directory.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LEAF_BYTES	(LEAF_PAGES * sizeof(uint64_t))
#define LEAF_BLOCKS	(LEAF_PAGES / BLOCK_PAGES)
#define COUNTS_BYTES	(2 * LEAF_BLOCKS * sizeof(uint16_t))	/* leaf->used and leaf->told */

static const uint8_t page_next[PAGE_STATES] = {
	[PAGE_SYSTEM]	 = BIT(PAGE_ISOLATED),
	[PAGE_ISOLATED]	 = BIT(PAGE_SYSTEM) | BIT(PAGE_DEVICE) | BIT(PAGE_COHERENT) |
			   BIT(PAGE_EXCLUSIVE) | BIT(PAGE_LOST),
	/* To SYSTEM: unmapped, discarded or poisoned. Home is by way of ISOLATED. */
	[PAGE_DEVICE]	 = BIT(PAGE_ISOLATED) | BIT(PAGE_SYSTEM) | BIT(PAGE_LOST),
	/* To SYSTEM: the CPU had the page all the time. */
	[PAGE_COHERENT]	 = BIT(PAGE_ISOLATED) | BIT(PAGE_SYSTEM),
	/* To LOST: no memory to give it back. */
	[PAGE_EXCLUSIVE] = BIT(PAGE_ISOLATED) | BIT(PAGE_SYSTEM) | BIT(PAGE_LOST),
	[PAGE_LOST]	 = BIT(PAGE_SYSTEM),
};
_Static_assert(PAGE_STATES <= 8 * sizeof(page_next[0]), "widen page_next");

static const char *const page_names[] = {
	"system", "isolated", "device", "coherent", "exclusive", "lost",
};
_Static_assert(ARRAY_SIZE(page_names) == PAGE_STATES, "name every state");

bool page_may(unsigned int from, unsigned int to)
{
	return from < PAGE_STATES && to < PAGE_STATES && (page_next[from] & BIT(to));
}

const char *page_state_name(unsigned int state)
{
	return state < PAGE_STATES ? page_names[state] : "?";
}

static size_t leaf_of_bytes(const struct directory *dir)
{
	return (sys_task_size() >> (dir->page_shift + LEAF_SHIFT)) * sizeof(uint16_t);
}

static size_t chunks_for(size_t bytes)
{
	return (bytes + arena_chunk_bytes() - 1) / arena_chunk_bytes();
}

static int chunks_open(size_t bytes, void **out)
{
	void *p;
	int ret = arena_chunks_get(chunks_for(bytes), &p);

	if (ret)
		return ret;
	ret = sys_mprotect(p, chunks_for(bytes) * arena_chunk_bytes(), PROT_READ | PROT_WRITE);
	if (ret) {
		arena_chunks_put(p, chunks_for(bytes));
		return ret;
	}
	/* A huge page would be for entries of pages that are not tracked. */
	(void)sys_madvise(p, chunks_for(bytes) * arena_chunk_bytes(), MADV_NOHUGEPAGE);
	*out = p;
	return 0;
}

/* Back to zeros, for whoever gets the chunks next. */
static void chunks_close(void *p, size_t bytes)
{
	sys_madvise(p, chunks_for(bytes) * arena_chunk_bytes(), MADV_DONTNEED);
	arena_chunks_put(p, chunks_for(bytes));
}

int directory_init(struct directory *dir, struct process *process, struct hmm_mm *mm)
{
	memset(dir, 0, sizeof(*dir));
	dir->process = process;
	dir->mm = mm;
	dir->page_shift = (uint32_t)__builtin_ctzl(sys_page_size());
	return chunks_open(leaf_of_bytes(dir), (void **)&dir->leaf_of);
}

static struct leaf *leaf_find(const struct directory *dir, uintptr_t addr)
{
	uint16_t id = dir->leaf_of[addr >> (dir->page_shift + LEAF_SHIFT)];

	return id ? &dir->process->leaves[id] : NULL;
}

static uint32_t leaf_page(const struct directory *dir, uintptr_t addr)
{
	return (uint32_t)(addr >> dir->page_shift) & (LEAF_PAGES - 1);
}

static void leaf_unclaim(struct directory *dir, struct leaf *leaf)
{
	lock_acquire(&dir->process->leaves_lock);
	memset(leaf, 0, sizeof(*leaf));
	lock_release(&dir->process->leaves_lock);
}

void directory_fini(struct directory *dir)
{
	if (!dir->leaf_of)
		return;
	for (unsigned int id = 1; id < LEAVES; id++) {
		struct leaf *leaf = &dir->process->leaves[id];

		if (leaf->mm != dir->mm)
			continue;
		chunks_close(leaf->entries, LEAF_BYTES);
		arena_free(leaf->used, COUNTS_BYTES);
		leaf_unclaim(dir, leaf);
	}
	chunks_close(dir->leaf_of, leaf_of_bytes(dir));
	dir->leaf_of = NULL;
}

/* A free leaf's id, which is the mm's from now on; 0: all are in use. */
static unsigned int leaf_claim(struct directory *dir, uintptr_t addr)
{
	struct process *process = dir->process;
	unsigned int id;

	lock_acquire(&process->leaves_lock);
	for (id = 1; id < LEAVES && process->leaves[id].mm; id++)
		;
	id = id == LEAVES ? 0 : id;
	if (id) {
		process->leaves[id].mm = dir->mm;
		process->leaves[id].base =
			addr & ~(((uintptr_t)1 << (dir->page_shift + LEAF_SHIFT)) - 1);
	}
	lock_release(&process->leaves_lock);
	return id;
}

static int leaf_make(struct directory *dir, uintptr_t addr)
{
	unsigned int id = leaf_claim(dir, addr);
	struct leaf *leaf = &dir->process->leaves[id];
	int ret = -ENOMEM;

	if (!id)
		return ret;
	leaf->used = arena_alloc(COUNTS_BYTES);
	if (leaf->used)
		ret = chunks_open(LEAF_BYTES, (void **)&leaf->entries);
	if (ret) {
		arena_free(leaf->used, COUNTS_BYTES);
		leaf_unclaim(dir, leaf);
		return ret;
	}
	leaf->told = leaf->used + LEAF_BLOCKS;
	leaf->nr_used = 0;
	dir->nr_leaves++;
	dir->leaf_of[addr >> (dir->page_shift + LEAF_SHIFT)] = (uint16_t)id;
	return 0;
}

int directory_reserve(struct directory *dir, uintptr_t start, uintptr_t end)
{
	const uintptr_t span = (uintptr_t)1 << (dir->page_shift + LEAF_SHIFT);

	for (uintptr_t a = start & ~(span - 1); a < end; a += span) {
		if (!leaf_find(dir, a)) {
			int ret = leaf_make(dir, a);

			if (ret)
				return ret;
		}
	}
	return 0;
}

void directory_get_run(const struct directory *dir, uintptr_t addr, uint32_t nr, uint64_t *entries)
{
	const struct leaf *leaf = leaf_find(dir, addr);

	assert(leaf_page(dir, addr) % BLOCK_PAGES + nr <= BLOCK_PAGES);
	if (leaf)
		memcpy(entries, leaf->entries + leaf_page(dir, addr), nr * sizeof(*entries));
	else
		memset(entries, PAGE_SYSTEM, nr * sizeof(*entries));
}

/* So many entries of the block that were of one state are of the other. */
static void leaf_count(struct directory *dir, struct leaf *leaf, uint32_t block,
		       enum page_state from, enum page_state to, uint32_t nr)
{
	if (from != PAGE_SYSTEM) {
		dir->count[from] -= nr;
		leaf->nr_used -= nr;
		leaf->used[block] = (uint16_t)(leaf->used[block] - nr);
	}
	if (to != PAGE_SYSTEM) {
		dir->count[to] += nr;
		leaf->nr_used += nr;
		leaf->used[block] = (uint16_t)(leaf->used[block] + nr);
	}
}

void directory_set_run(struct directory *dir, uintptr_t addr, uint32_t nr, uint64_t entry,
		       uint64_t step)
{
	struct leaf *leaf = leaf_find(dir, addr);
	uint32_t page = leaf_page(dir, addr), end = page + nr, i;
	enum page_state to = entry_state(entry);
	uint64_t *entries = leaf ? leaf->entries : NULL;

	assert(page % BLOCK_PAGES + nr <= BLOCK_PAGES);
	/* Without a leaf a page is PAGE_SYSTEM already. */
	for (; leaf && page < end; page = i) {
		enum page_state from = entry_state(entries[page]);

		for (i = page; i < end && entry_state(entries[i]) == from; i++, entry += step) {
			assert(entries[i] == entry || page_may(from, to));
			/* What is 0 may be in memory that was never written, and stays so. */
			if (entries[i] != entry)
				entries[i] = entry;
		}
		leaf_count(dir, leaf, page / BLOCK_PAGES, from, to, i - page);
	}
}

void directory_set(struct directory *dir, uintptr_t addr, uint64_t entry)
{
	directory_set_run(dir, addr, 1, entry, 0);
}

/* The first used page >= @page of the leaf, or LEAF_PAGES. */
static uint32_t leaf_next(const struct leaf *leaf, uint32_t page)
{
	if (!leaf->nr_used)
		return LEAF_PAGES;
	while (page < LEAF_PAGES) {
		if (!leaf->used[page / BLOCK_PAGES]) {
			page = (page / BLOCK_PAGES + 1) * BLOCK_PAGES;
			continue;
		}
		if (leaf->entries[page])
			return page;
		page++;
	}
	return LEAF_PAGES;
}

uintptr_t directory_next(const struct directory *dir, uintptr_t addr, uintptr_t end)
{
	const unsigned int shift = dir->page_shift + LEAF_SHIFT;

	if (end > sys_task_size())
		end = sys_task_size();
	for (uintptr_t i = addr >> shift; addr < end; addr = ++i << shift) {
		uint16_t id = dir->leaf_of[i];
		const struct leaf *leaf = &dir->process->leaves[id];
		uint32_t page;

		if (!id)
			continue;
		page = leaf_next(leaf, leaf_page(dir, addr));
		if (page < LEAF_PAGES) {
			addr = leaf->base + ((uintptr_t)page << dir->page_shift);
			return addr < end ? addr : end;
		}
	}
	return end;
}

uint32_t directory_block_used(const struct directory *dir, uintptr_t addr)
{
	const struct leaf *leaf = leaf_find(dir, addr);

	return leaf ? leaf->used[leaf_page(dir, addr) / BLOCK_PAGES] : 0;
}

bool directory_block_huge(const struct directory *dir, uintptr_t addr)
{
	const struct leaf *leaf = leaf_find(dir, addr);
	uint32_t block = leaf_page(dir, addr) / BLOCK_PAGES;

	return leaf && (leaf->huge[block / 64] & BIT(block % 64));
}

void directory_block_set_huge(struct directory *dir, uintptr_t addr, bool huge)
{
	struct leaf *leaf = leaf_find(dir, addr);
	uint32_t block = leaf_page(dir, addr) / BLOCK_PAGES;

	if (!leaf)
		return;
	if (huge)
		leaf->huge[block / 64] |= BIT(block % 64);
	else
		leaf->huge[block / 64] &= ~BIT(block % 64);
}

static uint32_t leaf_tell(const struct directory *dir, struct leaf *leaf,
			  void (*tell)(struct hmm_mm *mm, uintptr_t base, uint32_t used))
{
	uint32_t nr = 0;

	for (uint32_t b = 0; b < LEAF_BLOCKS; b++) {
		if (leaf->told[b] == leaf->used[b])
			continue;
		leaf->told[b] = leaf->used[b];
		tell(dir->mm, leaf->base + ((uintptr_t)b * BLOCK_PAGES << dir->page_shift),
		     leaf->used[b]);
		nr++;
	}
	return nr;
}

uint32_t directory_tell(struct directory *dir, uint64_t to,
			void (*tell)(struct hmm_mm *mm, uintptr_t base, uint32_t used))
{
	uint32_t nr = 0, seen = 0;

	for (unsigned int id = 1; id < LEAVES && seen < dir->nr_leaves; id++) {
		struct leaf *leaf = &dir->process->leaves[id];

		if (leaf->mm != dir->mm)
			continue;
		seen++;
		if (dir->told_to != to)
			memset(leaf->told, 0, LEAF_BLOCKS * sizeof(*leaf->told));
		nr += leaf_tell(dir, leaf, tell);
	}
	dir->told_to = to;
	return nr;
}

uint32_t directory_place(const struct directory *dir, uintptr_t addr)
{
	uint32_t id = dir->leaf_of[addr >> (dir->page_shift + LEAF_SHIFT)];

	return id << LEAF_SHIFT | leaf_page(dir, addr);
}

struct hmm_mm *process_place(struct process *process, uint32_t place, uintptr_t *addr)
{
	const struct leaf *leaf = &process->leaves[place >> LEAF_SHIFT & (LEAVES - 1)];
	struct hmm_mm *mm;

	lock_acquire(&process->leaves_lock);
	mm = leaf->mm;
	*addr = leaf->base + (uintptr_t)(place & (LEAF_PAGES - 1)) * sys_page_size();
	lock_release(&process->leaves_lock);
	return mm;
}

uint64_t directory_bytes(const struct directory *dir, int pagemap_fd)
{
	const size_t page = sys_page_size();
	uint8_t states[BLOCK_PAGES];
	uint64_t bytes = 0;

	for (unsigned int id = 1; id < LEAVES; id++) {
		const struct leaf *leaf = &dir->process->leaves[id];

		if (leaf->mm != dir->mm)
			continue;
		for (size_t off = 0; off < LEAF_BYTES; off += sizeof(states) * page) {
			size_t nr = (LEAF_BYTES - off) / page;

			nr = nr < sizeof(states) ? nr : sizeof(states);
			if (sys_page_states(pagemap_fd, (uintptr_t)leaf->entries + off, nr, states))
				continue;
			for (size_t i = 0; i < nr; i++)
				if ((states[i] & SYS_PAGE_PRESENT) && !(states[i] & SYS_PAGE_ZERO))
					bytes += page;
		}
	}
	return bytes;
}

void directory_check(const struct directory *dir)
{
	uint64_t count[PAGE_STATES] = { 0 };

	for (unsigned int id = 1; id < LEAVES; id++) {
		const struct leaf *leaf = &dir->process->leaves[id];
		uint32_t sum = 0;

		if (leaf->mm != dir->mm)
			continue;
		for (uint32_t b = 0; b < LEAF_BLOCKS; b++) {
			uint32_t used = 0;

			for (uint32_t i = 0; leaf->used[b] && i < BLOCK_PAGES; i++) {
				uint64_t e = leaf->entries[b * BLOCK_PAGES + i];

				used += e != 0;
				count[entry_state(e)]++;
			}
			if (used != leaf->used[b])
				abort();
			sum += used;
		}
		if (sum != leaf->nr_used)
			abort();
	}
	for (unsigned int s = PAGE_ISOLATED; s < PAGE_STATES; s++)
		if (count[s] != dir->count[s])
			abort();
}
