/* SPDX-License-Identifier: MIT */
#include "core/arena.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include <uhmm/driver.h>

#define PROCESS_ALIVE	0x75686d6d616c6976ULL

#define CLASS_MIN	6		/* 64 bytes */
#define CLASS_MAX	19		/* 512 KiB: 8 pages of 64 KiB (isolation.h) */
#define SAFE_MAX	((size_t)64 << 10)	/* of hmm_safe_alloc(); above it a mapping */
#define CLASSES		(CLASS_MAX - CLASS_MIN + 1)
#define CHUNKS_MAX	8192u
#define MAPPINGS_MAX	512u

struct free_object {
	struct free_object *next;
};

struct mapping {
	uintptr_t start, end;	/* start 0: free slot */
};

/*
 * Static, so that it is there before the reservation is and survives a fork. All but
 * base is under lock. A child of fork() resets it (forget()); a child of a raw clone
 * is told by process->alive.
 */
static struct {
	struct hmm_lock lock;			/* RANK_ARENA */
	_Atomic(struct process *) process;	/* read without the lock as well */
	uintptr_t base, end;
	uintptr_t small_next, small_open, small_end;
	struct free_object *free[CLASSES];
	uint64_t chunk_used[CHUNKS_MAX / 64];
	uintptr_t chunk_base;
	uint32_t nr_chunks;
	struct mapping mappings[MAPPINGS_MAX];	/* hmm_safe_alloc() above 64 KiB */
	uint32_t mappings_end;			/* above it none was ever in use */
} arena = { .lock = { .rank = RANK_ARENA } };

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

size_t arena_chunk_bytes(void)
{
	return BLOCK_PAGES * sys_page_size();
}

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) & ~(to - 1);
}

static void forget(void)
{
	memset(&arena, 0, sizeof(arena));
	arena.lock.rank = RANK_ARENA;
}

static void on_fork_child(void)
{
	forget();
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, on_fork_child);
}

/* Makes [small_next, small_next + bytes) accessible. Lock held. */
static bool small_grow(size_t bytes)
{
	uintptr_t need = arena.small_next + bytes;
	size_t step;

	if (need > arena.small_end)
		return false;
	if (need <= arena.small_open)
		return true;
	step = round_up(need - arena.small_open, arena_chunk_bytes());
	if (step > arena.small_end - arena.small_open)
		step = arena.small_end - arena.small_open;
	if (sys_mprotect((void *)arena.small_open, step, PROT_READ | PROT_WRITE))
		return false;
	arena.small_open += step;
	return true;
}

/* As much address space as is to be had, down to 128 chunks. Lock held. */
static int reserve(void)
{
	const size_t chunk = arena_chunk_bytes();
	size_t bytes = (size_t)CHUNKS_MAX * chunk;
	void *p;
	int ret;

	for (;; bytes /= 4) {
		ret = sys_reserve(bytes, chunk, &p);
		if (!ret)
			break;
		if (bytes / 4 < 128 * chunk)
			return -ENOMEM;
	}
	arena.base = (uintptr_t)p;
	arena.end = arena.base + bytes;
	arena.small_next = arena.small_open = arena.base;
	arena.small_end = arena.base + round_up(bytes / 16, chunk);
	arena.chunk_base = arena.small_end;
	arena.nr_chunks = (uint32_t)((arena.end - arena.chunk_base) / chunk);
	/* Kernels without huge pages do not know this one. */
	(void)sys_madvise(p, arena.small_end - arena.base, MADV_NOHUGEPAGE);
	ret = sys_madvise(p, arena.small_end - arena.base, MADV_WIPEONFORK);
	if (!ret)
		ret = sys_madvise((void *)arena.chunk_base, arena.end - arena.chunk_base,
				  MADV_DONTFORK);
	if (!ret && !small_grow(sizeof(struct process)))
		ret = -ENOMEM;
	if (ret) {
		sys_munmap(p, bytes);
		forget();
	}
	return ret;
}

struct process *process_peek(void)
{
	/* acquire: pairs with process_get(); its locks are made */
	struct process *p = atomic_load_explicit(&arena.process, memory_order_acquire);

	return p && p->alive == PROCESS_ALIVE ? p : NULL;
}

struct process *process_get(void)
{
	struct process *p;

	pthread_once(&fork_once, watch_forks);
	lock_acquire(&arena.lock);
	p = process_peek();
	if (!p) {
		if (arena.process) {	/* a raw clone's child: the parent's arena */
			lock_release(&arena.lock);
			forget();
			lock_acquire(&arena.lock);
		}
		if (!reserve()) {
			p = (struct process *)arena.base;
			arena.small_next += round_up(sizeof(*p), 64);
			lock_init(&p->lock, RANK_PROCESS);
			lock_init(&p->leaves_lock, RANK_LEAVES);
			p->alive = PROCESS_ALIVE;
			/* release: pairs with process_peek() */
			atomic_store_explicit(&arena.process, p, memory_order_release);
		}
	}
	lock_release(&arena.lock);
	return p;
}

static unsigned int class_of(size_t bytes)
{
	unsigned int c = 0;

	while (((size_t)64 << c) < bytes)
		c++;
	return c;
}

void *arena_alloc(size_t bytes)
{
	unsigned int c = class_of(bytes);
	size_t size = (size_t)64 << c;
	struct free_object *o;

	if (!bytes || c >= CLASSES)
		return NULL;
	lock_acquire(&arena.lock);
	o = arena.free[c];
	if (o) {
		arena.free[c] = o->next;
	} else {
		if (size >= sys_page_size())
			arena.small_next = round_up(arena.small_next, sys_page_size());
		if (small_grow(size)) {
			o = (struct free_object *)arena.small_next;
			arena.small_next += size;
		}
	}
	lock_release(&arena.lock);
	if (o)
		memset(o, 0, size);
	return o;
}

void arena_free(void *p, size_t bytes)
{
	struct free_object *o = p;
	unsigned int c = class_of(bytes);

	if (!arena_holds((uintptr_t)p))
		return;		/* NULL, or of the process we were forked from */
	lock_acquire(&arena.lock);
	o->next = arena.free[c];
	arena.free[c] = o;
	lock_release(&arena.lock);
}

static bool chunk_taken(size_t i)
{
	return arena.chunk_used[i / 64] & BIT(i % 64);
}

int arena_chunks_get(size_t nr, void **out)
{
	size_t run = 0, i;

	lock_acquire(&arena.lock);
	for (i = 0; i < arena.nr_chunks && run < nr; i++)
		run = chunk_taken(i) ? 0 : run + 1;
	if (run < nr) {
		lock_release(&arena.lock);
		return -ENOMEM;
	}
	for (size_t j = i - nr; j < i; j++)
		arena.chunk_used[j / 64] |= BIT(j % 64);
	lock_release(&arena.lock);
	*out = (void *)(arena.chunk_base + (i - nr) * arena_chunk_bytes());
	return 0;
}

void arena_chunks_put(void *p, size_t nr)
{
	size_t first = ((uintptr_t)p - arena.chunk_base) / arena_chunk_bytes();

	lock_acquire(&arena.lock);
	for (size_t j = first; j < first + nr; j++)
		arena.chunk_used[j / 64] &= ~BIT(j % 64);
	lock_release(&arena.lock);
}

bool arena_holds(uintptr_t addr)
{
	return addr >= arena.base && addr < arena.end;
}

bool arena_owns(uintptr_t start, uintptr_t end)
{
	bool owns = start < arena.end && end > arena.base;

	lock_acquire(&arena.lock);
	for (size_t i = 0; i < arena.mappings_end && !owns; i++)
		owns = start < arena.mappings[i].end && end > arena.mappings[i].start;
	lock_release(&arena.lock);
	return owns;
}

/* A mapping of its own, aligned to 2 MiB from 2 MiB up. */
static void *mapping_make(size_t bytes)
{
	const size_t huge = 2u << 20;
	size_t len = round_up(bytes, sys_page_size());
	void *p;

	if (sys_reserve(len, len >= huge ? huge : sys_page_size(), &p))
		return NULL;
	if (sys_mprotect(p, len, PROT_READ | PROT_WRITE) || sys_madvise(p, len, MADV_DONTFORK)) {
		sys_munmap(p, len);
		return NULL;
	}
	lock_acquire(&arena.lock);
	for (size_t i = 0; i < MAPPINGS_MAX; i++) {
		if (arena.mappings[i].start)
			continue;
		arena.mappings[i].start = (uintptr_t)p;
		arena.mappings[i].end = (uintptr_t)p + len;
		if (i >= arena.mappings_end)
			arena.mappings_end = (uint32_t)i + 1;
		lock_release(&arena.lock);
		return p;
	}
	lock_release(&arena.lock);
	sys_munmap(p, len);
	return NULL;
}

/* MAPPINGS_MAX: it is none of ours. */
static size_t mapping_find(uintptr_t start)
{
	size_t i = 0;

	lock_acquire(&arena.lock);
	while (i < MAPPINGS_MAX && arena.mappings[i].start != start)
		i++;
	lock_release(&arena.lock);
	return i;
}

/* By its place: another may have the address by now. */
static void mapping_forget(size_t i)
{
	if (i == MAPPINGS_MAX)
		return;
	lock_acquire(&arena.lock);
	arena.mappings[i].start = arena.mappings[i].end = 0;
	lock_release(&arena.lock);
}

void *hmm_safe_alloc(size_t bytes)
{
	if (!bytes || bytes > PTRDIFF_MAX / 2 || !process_get())
		return NULL;
	if (bytes <= SAFE_MAX)
		return arena_alloc(bytes);
	return mapping_make(bytes);
}

void *arena_table_alloc(size_t bytes)
{
	void *p = hmm_safe_alloc(bytes);

	if (p && bytes > SAFE_MAX)
		(void)sys_madvise(p, round_up(bytes, sys_page_size()), MADV_NOHUGEPAGE);
	return p;
}

void hmm_safe_free(void *p, size_t bytes)
{
	size_t i;

	if (!p || !bytes)
		return;
	if (bytes <= SAFE_MAX) {
		arena_free(p, bytes);
		return;
	}
	i = mapping_find((uintptr_t)p);
	sys_munmap(p, round_up(bytes, sys_page_size()));
	mapping_forget(i);
}
