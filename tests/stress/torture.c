// SPDX-License-Identifier: MIT
/*
 * Threads unmap, move, shrink, discard, replace and protect memory at the same
 * addresses, through libc and by raw system calls, while everything migrates: no
 * thread ever reads a byte that it, or who had the address before, did not write.
 *
 * Three kinds of threads besides the movers:
 *
 *   slots   a row of neighbouring pieces of one area; who holds a slot knows what must
 *           be in it and may change it; the next holder checks what the last left. A
 *           slot being unmapped is up for grabs before munmap() has returned:
 *
 *             unmapper                       taker
 *             --------                       -----
 *             state = LEAVING
 *             munmap()                       LEAVING -> held
 *               pages are gone               mmap(NOREPLACE) until it succeeds
 *               .                            writes its own
 *               the kernel announces it      .
 *             returns                        .
 *
 *   heaps   malloc, realloc, free, mmap and mremap of large blocks wherever the
 *           kernel puts them, which is where another thread just left
 *   breaks  one thread that grows and shrinks the heap's break
 *
 * With --strict all of it, fork too. Without, what HMM_MM_STRICT says is only
 * guaranteed there is left out. With --alone it knows nothing of the library: it is a
 * program like any other, for `uhmm run`, whose policy moves its memory.
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stress.h"
#include "testdev.h"

#define SLOTS		48
#define SLOT_PAGES	12
#define DEVICE_PAGES	2048
#define BLOCKS		6
#define MIN_BLOCK	(132UL << 10)
#define BREAK_PAGES	64
#define ROUND_STEPS	400

/*
 * From SLOT_LEAVING on each leave has a number of its own: who comes back from munmap()
 * late must not take the next one's leave for his.
 */
enum slot_state {
	SLOT_FREE,
	SLOT_HELD,
	SLOT_LEAVING,
};

/* The holder's, handed on through the state. */
struct slot {
	_Atomic int state;
	bool mapped;
	struct {
		uint64_t stamp;		/* 0: zeros */
		int prot;
	} pages[SLOT_PAGES];
};

/* What movers look at: where a thread's block is, or was a moment ago. */
struct block {
	_Atomic uintptr_t start;
	_Atomic size_t len;
};

struct tormentor {
	const struct stress_opts *opts;
	unsigned int id;
	uint64_t round;
	struct stress_rng rng;
	uint64_t stamps;
	uint64_t nr_ops;
};

static struct hmm_mm *mm;		/* NULL: alone */
static struct testdev *dev;
static size_t page_size;
static uintptr_t area;
static struct slot slots[SLOTS];
static struct block blocks[STRESS_MAX_THREADS][BLOCKS];
static atomic_bool stop;

/* ---------------------------------------------------------------- both ways in */

static bool raw(struct tormentor *t)
{
	return stress_one_in(&t->rng, 2);
}

static void *do_mmap(struct tormentor *t, uintptr_t addr, size_t len, int flags)
{
	const int prot = PROT_READ | PROT_WRITE;

	flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	if (raw(t))
		return (void *)syscall(SYS_mmap, addr, len, prot, flags, -1, 0);
	return mmap((void *)addr, len, prot, flags, -1, 0);
}

static void do_munmap(struct tormentor *t, uintptr_t addr, size_t len)
{
	long ret = raw(t) ? syscall(SYS_munmap, addr, len) : munmap((void *)addr, len);

	if (ret)
		stress_fail("munmap(%#lx, %zu): %s", (unsigned long)addr, len, strerror(errno));
}

static uintptr_t do_mremap(struct tormentor *t, uintptr_t addr, size_t old_len, size_t new_len,
			   int flags, uintptr_t to)
{
	void *p;

	if (raw(t))
		p = (void *)syscall(SYS_mremap, addr, old_len, new_len, flags, to);
	else
		p = mremap((void *)addr, old_len, new_len, flags, (void *)to);
	if (p == MAP_FAILED)
		stress_fail("mremap(%#lx, %zu, %zu, %#x, %#lx): %s", (unsigned long)addr, old_len,
			    new_len, (unsigned int)flags, (unsigned long)to, strerror(errno));
	return (uintptr_t)p;
}

static void do_mprotect(struct tormentor *t, uintptr_t addr, size_t len, int prot)
{
	long ret = raw(t) ? syscall(SYS_mprotect, addr, len, prot) :
			    mprotect((void *)addr, len, prot);

	if (ret)
		stress_fail("mprotect(%#lx, %zu): %s", (unsigned long)addr, len, strerror(errno));
}

static void do_dontneed(struct tormentor *t, uintptr_t addr, size_t len)
{
	long ret = raw(t) ? syscall(SYS_madvise, addr, len, MADV_DONTNEED) :
			    madvise((void *)addr, len, MADV_DONTNEED);

	if (ret)
		stress_fail("madvise(%#lx, %zu): %s", (unsigned long)addr, len, strerror(errno));
}

/* ---------------------------------------------------------------- bytes */

static uint64_t fresh_stamp(struct tormentor *t)
{
	return (uint64_t)(t->id + 1) << 56 | (t->round & 0xffffff) << 32 | ++t->stamps;
}

/* Every word of a page tells whose it is and which; a stamp of 0 is a page of zeros. */
static uint64_t word(uint64_t stamp, size_t i)
{
	return stamp ? stamp ^ i << 20 : 0;
}

static void fill_page(uintptr_t addr, uint64_t stamp)
{
	uint64_t *words = (uint64_t *)addr;
	size_t i;

	for (i = 0; i < page_size / sizeof(*words); i++)
		words[i] = word(stamp, i);
}

static void check_page(const struct tormentor *t, uintptr_t addr, uint64_t stamp, const char *whose)
{
	const uint64_t *words = (const uint64_t *)addr;
	uint8_t place = HMM_PLACE_GAP;
	size_t i;

	for (i = 0; i < page_size / sizeof(*words); i++) {
		uint64_t got = __atomic_load_n(&words[i], __ATOMIC_RELAXED);

		if (got == word(stamp, i))
			continue;
		if (hmm_residency(mm, addr, addr + page_size, &place))
			place = 255;
		stress_fail("%s: page %#lx word %zu is %#llx, must be %#llx; thread %u round %llu op %llu, place %u, now %#llx",
			    whose, (unsigned long)addr, i, (unsigned long long)got,
			    (unsigned long long)word(stamp, i), t->id, (unsigned long long)t->round,
			    (unsigned long long)t->nr_ops, place,
			    (unsigned long long)__atomic_load_n(&words[i], __ATOMIC_RELAXED));
	}
}

/* ---------------------------------------------------------------- slots */

static uintptr_t slot_addr(const struct slot *slot, size_t page)
{
	return area + ((size_t)(slot - slots) * SLOT_PAGES + page) * page_size;
}

static void slot_check(const struct tormentor *t, const struct slot *slot)
{
	size_t i;

	for (i = 0; slot->mapped && i < SLOT_PAGES; i++)
		if (slot->pages[i].prot & PROT_READ)
			check_page(t, slot_addr(slot, i), slot->pages[i].stamp, "slot");
}

static void slot_fill(struct tormentor *t, struct slot *slot)
{
	size_t i;

	for (i = 0; slot->mapped && i < SLOT_PAGES; i++) {
		if (!(slot->pages[i].prot & PROT_WRITE) || stress_one_in(&t->rng, 4))
			continue;
		slot->pages[i].stamp = fresh_stamp(t);
		fill_page(slot_addr(slot, i), slot->pages[i].stamp);
	}
}

static void slot_fresh(struct slot *slot)
{
	size_t i;

	slot->mapped = true;
	for (i = 0; i < SLOT_PAGES; i++) {
		slot->pages[i].stamp = 0;
		slot->pages[i].prot = PROT_READ | PROT_WRITE;
	}
}

/* Over whatever is there. */
static void slot_replace(struct tormentor *t, struct slot *slot)
{
	uintptr_t addr = slot_addr(slot, 0);

	if (do_mmap(t, addr, SLOT_PAGES * page_size, MAP_FIXED) != (void *)addr)
		stress_fail("mmap: %s", strerror(errno));
	slot_fresh(slot);
}

/* At once when the kernel has let go of it, which is before its munmap() returns. */
static void slot_map_after_leaver(struct tormentor *t, struct slot *slot)
{
	uintptr_t addr = slot_addr(slot, 0);
	void *p;

	do {
		p = do_mmap(t, addr, SLOT_PAGES * page_size, MAP_FIXED_NOREPLACE);
		if (p == MAP_FAILED && errno != EEXIST)
			stress_fail("mmap: %s", strerror(errno));
	} while (p == MAP_FAILED);
	stress_check(p == (void *)addr);
	slot_fresh(slot);
}

static bool slot_take(struct tormentor *t, struct slot *slot)
{
	int was = SLOT_FREE;

	if (atomic_compare_exchange_strong(&slot->state, &was, SLOT_HELD))
		return true;
	if (was < SLOT_LEAVING ||
	    !atomic_compare_exchange_strong(&slot->state, &was, SLOT_HELD))
		return false;
	slot_map_after_leaver(t, slot);
	return true;
}

static struct slot *slot_take_any(struct tormentor *t)
{
	struct slot *slot;

	do {
		slot = &slots[stress_below(&t->rng, SLOTS)];
	} while (!slot_take(t, slot));
	return slot;
}

static void slot_release(struct slot *slot)
{
	atomic_store(&slot->state, SLOT_FREE);
}

/* Who holds no slot any more must not touch it: the taker may have it already. */
static void slot_leave(struct tormentor *t, struct slot *slot)
{
	static _Atomic uint32_t leaves;
	uintptr_t addr = slot_addr(slot, 0);
	int was = SLOT_LEAVING + (int)(atomic_fetch_add(&leaves, 1) & 0xffffff);

	slot->mapped = false;
	memset(slot->pages, 0, sizeof(slot->pages));
	atomic_store(&slot->state, was);
	do_munmap(t, addr, SLOT_PAGES * page_size);
	atomic_compare_exchange_strong(&slot->state, &was, SLOT_FREE);
}

static void slot_discard(struct tormentor *t, struct slot *slot)
{
	size_t first = stress_below(&t->rng, SLOT_PAGES);
	size_t nr = 1 + stress_below(&t->rng, SLOT_PAGES - first), i;

	do_dontneed(t, slot_addr(slot, first), nr * page_size);
	for (i = first; i < first + nr; i++)
		slot->pages[i].stamp = 0;
	slot_check(t, slot);
}

static void slot_protect(struct tormentor *t, struct slot *slot)
{
	/* The last is for strict: without it read-only pages are taken by mremap. */
	static const int prots[] = { PROT_NONE, PROT_READ | PROT_WRITE, PROT_READ };
	size_t first = stress_below(&t->rng, SLOT_PAGES);
	size_t nr = 1 + stress_below(&t->rng, SLOT_PAGES - first), i;
	int prot = prots[stress_below(&t->rng, t->opts->strict ? 3 : 2)];

	do_mprotect(t, slot_addr(slot, first), nr * page_size, prot);
	for (i = first; i < first + nr; i++)
		slot->pages[i].prot = prot;
	slot_check(t, slot);
}

/* To another slot, whole; with @keep the old place stays, empty. */
static void slot_move(struct tormentor *t, struct slot *slot, bool keep)
{
	struct slot *to = &slots[stress_below(&t->rng, SLOTS)];
	const size_t len = SLOT_PAGES * page_size;

	/* One mapping, so that what we add to the kernel's bookkeeping may not fail it. */
	do_mprotect(t, slot_addr(slot, 0), len, PROT_READ | PROT_WRITE);
	if (!slot_take(t, to))
		to = NULL;
	if (to) {
		do_mremap(t, slot_addr(slot, 0), len, len, MREMAP_MAYMOVE | MREMAP_FIXED |
			  (keep ? MREMAP_DONTUNMAP : 0), slot_addr(to, 0));
		memcpy(to->pages, slot->pages, sizeof(to->pages));
	}
	for (size_t i = 0; i < SLOT_PAGES; i++) {
		slot->pages[i].prot = PROT_READ | PROT_WRITE;
		if (to)
			to->pages[i].prot = PROT_READ | PROT_WRITE;
		if (to && keep)
			slot->pages[i].stamp = 0;
	}
	if (!to)
		return;
	to->mapped = true;
	slot->mapped = keep;
	slot_check(t, to);
	slot_release(to);
}

/* Cut the tail off and let it grow again: the new tail is zeros. */
static void slot_resize(struct tormentor *t, struct slot *slot)
{
	size_t keep = 1 + stress_below(&t->rng, SLOT_PAGES - 1), i;
	uintptr_t addr = slot_addr(slot, 0);

	do_mprotect(t, addr, SLOT_PAGES * page_size, PROT_READ | PROT_WRITE);
	do_mremap(t, addr, SLOT_PAGES * page_size, keep * page_size, 0, 0);
	do_mremap(t, addr, keep * page_size, SLOT_PAGES * page_size, 0, 0);
	for (i = 0; i < SLOT_PAGES; i++) {
		slot->pages[i].prot = PROT_READ | PROT_WRITE;
		if (i >= keep)
			slot->pages[i].stamp = 0;
	}
	slot_check(t, slot);
}

/* Newer machines have clone alone. */
static pid_t raw_fork(void)
{
#ifdef SYS_fork
	return (pid_t)syscall(SYS_fork);
#else
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
#endif
}

/* The child has what its thread held at that moment, whatever others were changing. */
static void slot_fork(struct tormentor *t, struct slot *slot)
{
	pid_t pid = raw(t) ? raw_fork() : fork();

	if (pid == 0) {
		slot_check(t, slot);
		slot_fill(t, slot);
		slot_check(t, slot);
		_exit(0);
	}
	slot_fill(t, slot);
	stress_reap(pid, "a child of the torture");
}

static void slot_step(struct tormentor *t)
{
	struct slot *slot = slot_take_any(t);

	slot_check(t, slot);
	if (!slot->mapped)
		slot_replace(t, slot);
	slot_fill(t, slot);
	switch (stress_below(&t->rng, 16)) {
	case 0: case 1: case 2: case 3:
		slot_leave(t, slot);
		return;
	case 4: case 5:
		if (t->opts->strict)
			slot_move(t, slot, false);
		break;
	case 6:
		if (t->opts->strict)
			slot_move(t, slot, true);
		break;
	case 7: case 8:
		slot_replace(t, slot);
		break;
	case 9: case 10:
		slot_protect(t, slot);
		break;
	case 11:
		if (t->opts->strict)
			slot_resize(t, slot);
		break;
	case 12: case 13: case 14:
		if (t->opts->strict)
			slot_discard(t, slot);
		break;
	default:
		if (t->opts->strict && stress_one_in(&t->rng, 8))
			slot_fork(t, slot);
	}
	slot_check(t, slot);
	slot_release(slot);
}

/* ---------------------------------------------------------------- heaps */

struct heap_block {
	unsigned char *p;
	size_t len;
	uint64_t stamp;		/* of its first page; one more for each */
	bool mapped;		/* by mmap, not malloc */
};

/* The pages that lie in a block whole; its rim is malloc's. */
static void block_pages(const struct heap_block *b, uintptr_t *start, size_t *nr)
{
	uintptr_t end = ((uintptr_t)b->p + b->len) & ~(page_size - 1);

	*start = ((uintptr_t)b->p + page_size - 1) & ~(page_size - 1);
	*nr = (end - *start) / page_size;
}

static void block_fill(struct tormentor *t, struct heap_block *b)
{
	uintptr_t start;
	size_t nr, i;

	block_pages(b, &start, &nr);
	b->stamp = fresh_stamp(t);
	t->stamps += nr;
	for (i = 0; i < nr; i++)
		fill_page(start + i * page_size, b->stamp + i);
}

static void block_check(const struct tormentor *t, const struct heap_block *b)
{
	uintptr_t start;
	size_t nr, i;

	block_pages(b, &start, &nr);
	for (i = 0; i < nr; i++)
		check_page(t, start + i * page_size, b->stamp + i,
			   b->mapped ? "mapping" : "malloc block");
}

static void block_publish(const struct heap_block *b, struct block *seen)
{
	uintptr_t start;
	size_t nr;

	block_pages(b, &start, &nr);
	atomic_store(&seen->len, 0);
	atomic_store(&seen->start, start);
	atomic_store(&seen->len, nr * page_size);
}

static size_t block_len(struct tormentor *t)
{
	return MIN_BLOCK + stress_below(&t->rng, 8) * (32UL << 10);
}

static void block_get(struct tormentor *t, struct heap_block *b)
{
	b->len = block_len(t);
	b->mapped = stress_one_in(&t->rng, 2);
	if (b->mapped) {
		b->len &= ~(page_size - 1);
		b->p = do_mmap(t, 0, b->len, 0);
		stress_check(b->p != MAP_FAILED);
	} else {
		b->p = malloc(b->len);
		stress_check(b->p);
	}
	block_fill(t, b);
}

static void block_put(struct tormentor *t, struct heap_block *b)
{
	if (b->mapped)
		do_munmap(t, (uintptr_t)b->p, b->len);
	else
		free(b->p);
	b->p = NULL;
}

/*
 * Stamps go by page, so where realloc() copied a block to another offset in its page
 * there is nothing to compare; mremap() and growth in place keep the offset.
 */
static void block_resize(struct tormentor *t, struct heap_block *b)
{
	size_t len = block_len(t), offset = (uintptr_t)b->p & (page_size - 1);
	struct heap_block kept = *b;

	if (!t->opts->strict)	/* another thread may just have unmapped the new place */
		return;
	if (b->mapped) {
		len &= ~(page_size - 1);
		kept.p = (unsigned char *)do_mremap(t, (uintptr_t)b->p, b->len, len,
						    MREMAP_MAYMOVE, 0);
	} else {
		kept.p = realloc(b->p, len);
		stress_check(kept.p);
	}
	kept.len = len < b->len ? len : b->len;
	if (((uintptr_t)kept.p & (page_size - 1)) == offset)
		block_check(t, &kept);
	b->p = kept.p;
	b->len = len;
	block_fill(t, b);
}

static void heap_step(struct tormentor *t, struct heap_block *own)
{
	size_t i = stress_below(&t->rng, BLOCKS);
	struct heap_block *b = &own[i];

	if (!b->p) {
		block_get(t, b);
	} else {
		block_check(t, b);
		if (stress_one_in(&t->rng, 2)) {
			block_resize(t, b);
		} else {
			block_put(t, b);
			return;
		}
	}
	block_publish(b, &blocks[t->id][i]);
}

/* ---------------------------------------------------------------- the break */

/* musl's is its own. */
#ifdef __GLIBC__
#define HAS_BREAK	true
#else
#define HAS_BREAK	false
#endif

/*
 * The only user of brk: the main thread only waits, other threads' malloc has arenas
 * elsewhere and takes what is large by mmap.
 */
static void break_step(struct tormentor *t)
{
	uintptr_t base = ((uintptr_t)sbrk(0) + page_size - 1) & ~(page_size - 1);
	uintptr_t before = (uintptr_t)sbrk(0);
	size_t nr = 1 + stress_below(&t->rng, BREAK_PAGES), i, keep;
	uint64_t stamp = fresh_stamp(t);

	t->stamps += BREAK_PAGES;
	stress_check(brk((void *)(base + nr * page_size)) == 0);
	atomic_store(&blocks[t->id][0].len, 0);
	atomic_store(&blocks[t->id][0].start, base);
	atomic_store(&blocks[t->id][0].len, nr * page_size);
	for (i = 0; i < nr; i++) {
		check_page(t, base + i * page_size, 0, "fresh break");
		fill_page(base + i * page_size, stamp + i);
	}
	keep = stress_below(&t->rng, nr + 1);
	if (raw(t))
		stress_check((uintptr_t)syscall(SYS_brk, base + keep * page_size) ==
			     base + keep * page_size);
	/* Again through libc, which keeps a copy of where the break is. */
	stress_check(brk((void *)(base + keep * page_size)) == 0);
	stress_check(brk((void *)(base + nr * page_size)) == 0);
	for (i = 0; i < nr; i++)
		check_page(t, base + i * page_size, i < keep ? stamp + i : 0, "break");
	stress_check(brk((void *)before) == 0);
}

/* ---------------------------------------------------------------- movers */

static void mover_range(struct tormentor *t, uintptr_t *start, uintptr_t *end)
{
	struct block *b;
	size_t len;

	if (stress_one_in(&t->rng, 2)) {
		*start = area + stress_below(&t->rng, SLOTS * SLOT_PAGES) * page_size;
		*end = *start + (1 + stress_below(&t->rng, 4 * SLOT_PAGES)) * page_size;
		if (*end > area + SLOTS * SLOT_PAGES * page_size)
			*end = area + SLOTS * SLOT_PAGES * page_size;
		return;
	}
	b = &blocks[stress_below(&t->rng, t->opts->threads)][stress_below(&t->rng, BLOCKS)];
	*start = atomic_load(&b->start);
	len = atomic_load(&b->len);
	*end = *start + (len ? len : page_size);
	if (!*start) {
		*start = area;
		*end = area + page_size;
	}
}

static void *mover(void *arg)
{
	struct tormentor *t = arg;
	uintptr_t start, end;

	while (!atomic_load(&stop)) {
		mover_range(t, &start, &end);
		if (stress_one_in(&t->rng, 4))
			stress_check(hmm_evict(mm, start, end) >= 0);
		else
			testdev_migrate(dev, start, end);
		t->nr_ops++;
	}
	return NULL;
}

/* ---------------------------------------------------------------- rounds */

static void *torment(void *arg)
{
	struct tormentor *t = arg;
	struct heap_block own[BLOCKS] = { 0 };
	unsigned int i;

	for (i = 0; i < ROUND_STEPS; i++, t->nr_ops++) {
		if (HAS_BREAK && t->id == 0 && i % 4 == 0)
			break_step(t);
		else if (t->id % 2 == 0)
			slot_step(t);
		else
			heap_step(t, own);
	}
	for (i = 0; i < BLOCKS; i++) {
		atomic_store(&blocks[t->id][i].len, 0);
		if (own[i].p) {
			block_check(t, &own[i]);
			block_put(t, &own[i]);
		}
	}
	return NULL;
}

static void check_slots(struct tormentor *t)
{
	size_t i;

	if (mm)
		stress_check_places(mm, area, area + SLOTS * SLOT_PAGES * page_size);
	for (i = 0; i < SLOTS; i++) {
		stress_check(atomic_load(&slots[i].state) == SLOT_FREE);
		slot_check(t, &slots[i]);
	}
}

static uint64_t run_round(const struct stress_opts *opts, uint64_t round)
{
	static struct tormentor all[STRESS_MAX_THREADS], movers[2];
	const unsigned int nr_movers = mm ? 2 : 0;
	pthread_t moving[2];
	uint64_t sum = 0;
	unsigned int i;

	atomic_store(&stop, false);
	for (i = 0; i < nr_movers; i++) {
		movers[i] = (struct tormentor){ .opts = opts, .id = opts->threads + i };
		movers[i].rng = stress_rng(opts, round * 64 + 40 + i);
		stress_check(pthread_create(&moving[i], NULL, mover, &movers[i]) == 0);
	}
	for (i = 0; i < opts->threads; i++) {
		all[i] = (struct tormentor){ .opts = opts, .id = i, .round = round };
		all[i].rng = stress_rng(opts, round * 64 + i);
	}
	stress_run_threads(opts->threads, torment, all, sizeof(*all));
	atomic_store(&stop, true);
	for (i = 0; i < nr_movers; i++)
		stress_check(pthread_join(moving[i], NULL) == 0);
	check_slots(&all[0]);
	if (mm)
		testdev_check(dev);
	for (i = 0; i < opts->threads; i++)
		sum += all[i].nr_ops;
	return sum;
}

int main(int argc, char **argv)
{
	struct stress_opts opts = {
		.name = "torture", .steps = 1000, .seconds = 12, .threads = 6,
	};
	uint64_t round, sum = 0;

	stress_begin(&opts, argc, argv);
	page_size = hmm_page_size();
#ifdef __GLIBC__
	/* None for the heap threads that would use the break, see break_step(). */
	stress_check(mallopt(M_ARENA_MAX, 2 * STRESS_MAX_THREADS));
	/* Fixed: each block a mapping. Else glibc soon takes them from arenas. */
	if (opts.seed & 1)
		stress_check(mallopt(M_MMAP_THRESHOLD, MIN_BLOCK));
#endif
	area = stress_area(SLOTS * SLOT_PAGES * page_size);
	if (!opts.alone) {
		mm = stress_mm_create(&opts);
		dev = testdev_open(mm, DEVICE_PAGES, TESTDEV_FAULT_AROUND | TESTDEV_MAKE_ROOM |
				   (opts.seed & 2 ? TESTDEV_YIELDS : 0), area,
				   area + SLOTS * SLOT_PAGES * page_size, NULL);
	}
	for (round = 0; round < opts.steps && !stress_expired(&opts); round++)
		sum += run_round(&opts, round);
	printf("torture: %llu rounds, %llu operations\n", (unsigned long long)round,
	       (unsigned long long)sum);
	if (mm) {
		testdev_close(dev);
		stress_mm_destroy(mm);
	}
	return 0;
}
