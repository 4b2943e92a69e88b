/* SPDX-License-Identifier: MIT */
/*
 * The device reads and writes: what its page table has is copied; at the first page
 * that it lacks, the whole rest is faulted in, and it goes on from there.
 *
 * A page of device memory is copied under the mirror's lock: until invalidate() has
 * that, the page is where the table says. A page in system memory is copied by its
 * address and without the lock, since the copy may fault and wait for who serves CPU
 * faults, who may wait for the lock:
 *
 *	reader				another thread
 *	------				--------------
 *	lock
 *	  entries of the run
 *	  erased = m->erased
 *	unlock
 *	copy by address			munmap, migrate ...: invalidate()
 *					  lock, clear entries, m->erased++, unlock
 *	lock
 *	  m->erased moved: do it again
 *	unlock
 *
 * so what was read, was read while the entries stood. A copy that fails found the
 * mapping changed before we were told (mprotect is not announced at all): its entry is
 * cleared, and the fault that follows says what is wrong.
 */
#include <errno.h>
#include <string.h>

#include "dmirror.h"

/* Bytes of device memory copied under one hold of the lock: some 10 us. */
#define LOCKED_PAGES	16u

struct transfer {
	struct dmirror *mirror;
	uintptr_t start, at, end;
	char *buffer;			/* of [start, end) */
	bool write;			/* to the program's memory */
	uintptr_t failed;		/* where a copy by address was refused last */
	uint64_t rounds;		/* faults */
};

static char *place(const struct transfer *t, uintptr_t va)
{
	return t->buffer + (va - t->start);
}

/* May the device go on with this entry? An atomic one is for its atomics and reads. */
static bool usable(const struct transfer *t, uint64_t pte)
{
	if (t->write)
		return pte & PTE_WRITE && !(pte & PTE_ATOMIC);
	return pte & PTE_VALID;
}

static bool by_address(uint64_t pte)
{
	return !(pte & (PTE_PRIVATE | PTE_ATOMIC));
}

/* The end of the run from t->at on that is copied in one way. Lock held. */
static uintptr_t run_end(const struct transfer *t, uint64_t first)
{
	size_t page = t->mirror->process->page_size;
	uintptr_t limit = t->at + (by_address(first) ? PIECE_PAGES : LOCKED_PAGES) * page;
	uintptr_t va = t->at + page;

	limit = min_addr(limit, t->end);
	for (; va < limit; va += page) {
		uint64_t pte = table_get(&t->mirror->table, va);

		if (!usable(t, pte) || by_address(pte) != by_address(first))
			break;
	}
	return va;
}

/* Lock held. */
static void copy_local(struct transfer *t, uintptr_t end)
{
	struct dmirror *m = t->mirror;
	size_t page = m->process->page_size;

	for (; t->at < end; t->at += page) {
		uint64_t pte = table_get(&m->table, t->at);
		char *bytes = pte & PTE_ATOMIC ? pte_bytes(pte) :
			      frames_at(&m->device->frames, pte_frame(pte));

		if (t->write)
			memcpy(bytes, place(t, t->at), page);
		else
			memcpy(place(t, t->at), bytes, page);
	}
}

/*
 * Pages that the device has are not reached through the mapping, whose permission may
 * have changed unannounced: entries that say more than it allows are cleared. Returns
 * 0 if the run may be copied as it is, -EAGAIN to look at it again.
 */
static int check_local(struct transfer *t, uintptr_t end)
{
	struct dmirror *m = t->mirror;
	size_t page = m->process->page_size;
	uint64_t pfns[LOCKED_PAGES], seq;
	int ret = mirror_look(m, t->at, end, 0, pfns, &seq);

	if (ret)
		return ret;
	for (uintptr_t va = t->at; va < end; va += page) {
		uint64_t pfn = pfns[(va - t->at) / page];

		if (pfn & HMM_PFN_ERROR ||
		    (t->write && (pfn & (HMM_PFN_VALID | HMM_PFN_WRITE)) == HMM_PFN_VALID)) {
			mirror_erase(m, va, end);
			return -EAGAIN;
		}
	}
	return 0;
}

static int copy_local_run(struct transfer *t, uintptr_t end, uint64_t erased)
{
	struct dmirror *m = t->mirror;
	int ret = check_local(t, end);

	if (ret)
		return ret == -EAGAIN ? 0 : ret;
	pthread_mutex_lock(&m->lock);
	if (m->erased == erased)
		copy_local(t, end);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static int copy_address_run(struct transfer *t, uintptr_t end, uint64_t erased)
{
	struct dmirror *m = t->mirror;
	struct hmm_mm *mm = m->process->mm;
	size_t page = m->process->page_size, len = end - t->at;
	int64_t done = t->write ? hmm_copy_to_user(mm, t->at, place(t, t->at), len) :
				  hmm_copy_from_user(mm, place(t, t->at), t->at, len);
	bool stood;

	if (done < 0)
		done = 0;
	pthread_mutex_lock(&m->lock);
	stood = m->erased == erased;
	if (stood && (size_t)done < len)
		m->erased += table_erase(&m->table, t->at + ((size_t)done & ~(page - 1)), end);
	pthread_mutex_unlock(&m->lock);
	/* What was written is written; what was read beside a change is read again. */
	if (stood || t->write)
		t->at += (size_t)done & ~(page - 1);
	if (!stood || (size_t)done == len)
		return 0;
	/* Faulted in, and refused again: a mapping that only the CPU itself can use. */
	if (t->failed == t->at)
		return -EFAULT;
	t->failed = t->at;
	return 0;
}

/* What the table has. 0: all; -ENOENT: the page at t->at is not in it. */
static int copy_mapped(struct transfer *t)
{
	struct dmirror *m = t->mirror;
	int ret = 0;

	while (!ret && t->at < t->end) {
		uintptr_t end = t->at;
		uint64_t first, erased;

		pthread_mutex_lock(&m->lock);
		erased = m->erased;
		first = table_get(&m->table, t->at);
		if (usable(t, first))
			end = run_end(t, first);
		pthread_mutex_unlock(&m->lock);
		if (end == t->at)
			return -ENOENT;
		ret = by_address(first) ? copy_address_run(t, end, erased) :
					  copy_local_run(t, end, erased);
	}
	return ret;
}

/* One round: the whole rest. Entries of pieces before one that fails stay. */
static int fault_rest(struct transfer *t)
{
	struct dmirror *m = t->mirror;
	uint64_t want = HMM_PFN_REQ_FAULT | (t->write ? HMM_PFN_REQ_WRITE : 0);
	uintptr_t piece = PIECE_PAGES * m->process->page_size, stop;
	uint64_t pfns[PIECE_PAGES], seq;
	int ret;

	t->rounds++;
	for (uintptr_t va = t->at; va < t->end; va = stop) {
		stop = min_addr(va + piece, t->end);
		do {
			ret = mirror_look(m, va, stop, want, pfns, &seq);
			/* Nodes only for what there is: the range is the program's to choose. */
			if (!ret)
				ret = table_reserve(&m->table, &m->lock, va, stop);
			if (ret)
				return ret;
		} while (!mirror_fill(m, va, stop, pfns, seq));
	}
	return 0;
}

/*
 * Where changes of mappings are not announced, those of memory that the core does not
 * hold are not told at all: another mapping may be at the address by now. What an
 * earlier request found of such pages counts for nothing in this one.
 */
static void distrust(struct transfer *t)
{
	struct dmirror *m = t->mirror;
	size_t page = m->process->page_size;

	pthread_mutex_lock(&m->lock);
	for (uintptr_t va = t->start; va < t->end; va += page) {
		uint64_t *entry = table_find(&m->table, va);

		if (entry && !(*entry & (PTE_PRIVATE | PTE_COHERENT | PTE_ATOMIC)))
			*entry = 0;
	}
	pthread_mutex_unlock(&m->lock);
}

static int transfer_run(struct transfer *t)
{
	int ret;

	if (!(hmm_mm_flags(t->mirror->process->mm) & HMM_MM_STRICT))
		distrust(t);
	while ((ret = copy_mapped(t)) == -ENOENT) {
		ret = fault_rest(t);
		if (ret)
			return ret;
	}
	return ret;
}

/* The caller's buffer, which may be anywhere, or nowhere. */
static int to_caller(struct request *r, const char *buffer)
{
	int64_t len = (int64_t)request_bytes(r);

	return hmm_copy_to_user(r->mirror->process->mm, r->cmd.ptr, buffer, (size_t)len) == len ?
	       0 : -EFAULT;
}

static int from_caller(struct request *r, char *buffer)
{
	int64_t len = (int64_t)request_bytes(r);

	return hmm_copy_from_user(r->mirror->process->mm, buffer, r->cmd.ptr, (size_t)len) == len ?
	       0 : -EFAULT;
}

static void transfer_init(struct transfer *t, struct request *r, char *buffer, bool write)
{
	*t = (struct transfer){
		.mirror = r->mirror, .start = r->start, .at = r->start, .end = r->end,
		.buffer = buffer, .write = write, .failed = r->end,
	};
}

static void count(struct request *r, const struct transfer *t)
{
	r->cmd.cpages = request_bytes(r) / r->mirror->process->page_size;
	r->cmd.faults = t->rounds;
}

/* What @run has brought into the buffer, to the caller. */
static int read_by(struct request *r, int (*run)(struct transfer *t))
{
	struct bounce *bounce = &r->mirror->process->bounce;
	char *buffer = bounce_get(bounce, request_bytes(r));
	struct transfer t;
	int ret;

	if (!buffer)
		return -ENOMEM;
	transfer_init(&t, r, buffer, false);
	ret = run(&t);
	if (!ret)
		ret = to_caller(r, buffer);
	if (!ret)
		count(r, &t);
	bounce_put(bounce, buffer);
	return ret;
}

int request_read(struct request *r)
{
	return read_by(r, transfer_run);
}

int request_write(struct request *r)
{
	struct bounce *bounce = &r->mirror->process->bounce;
	char *buffer = bounce_get(bounce, request_bytes(r));
	struct transfer t;
	int ret;

	if (!buffer)
		return -ENOMEM;
	transfer_init(&t, r, buffer, true);
	ret = from_caller(r, buffer);
	if (!ret)
		ret = transfer_run(&t);
	if (!ret)
		count(r, &t);
	bounce_put(bounce, buffer);
	return ret;
}

/* Only what the table has: no fault is made for it. */
int request_return(struct request *r)
{
	return read_by(r, copy_mapped);
}
