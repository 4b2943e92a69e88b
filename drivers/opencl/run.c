/* SPDX-License-Identifier: MIT */
#include "run.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "device.h"

#define SLICE_FIRST	4096	/* items of a kernel that has not been measured */
#define CHECK_TRIES	64
#define MOVES_MAX	3	/* of a whole block in a run */
#define PAGE_MOVES_MAX	64
#define ATOMIC_NS	5000000000ULL	/* for a page that the CPU does not let go of */

/* A run under way. On the worker's stack, which is safe memory. */
struct run {
	struct hmm_opencl *ocl;
	struct hmm_opencl_kernel *kernel;
	struct ocl_launch launch;
	uint32_t watched;		/* OCL_NO_ITEM: memory is not short */
	struct hmm_opencl_fault fault;	/* here, not in the caller's memory: that may be away */
	/* What the last launch left. */
	uint32_t left, nr_faults;
	bool watched_hit;
	struct ocl_record watched_fault;
	struct ocl_record faults[HMM_STATE_FAULT_NR];
};

static uintptr_t record_va(const struct ocl_record *record)
{
	return (uintptr_t)record->high << 32 | record->low;
}

static int refuse(struct run *run, const struct ocl_record *record, enum hmm_opencl_reason reason)
{
	run->fault = (struct hmm_opencl_fault){
		.addr = record_va(record), .item = record->item,
		.write = record->what & HMM_FAULT_WRITE ? 1 : 0, .reason = reason,
	};
	return -EFAULT;
}

static int keep_answer(struct run *run, const struct ocl_launched *out)
{
	run->left = out->left;
	run->nr_faults = out->nr_faults <= HMM_STATE_FAULT_NR ? out->nr_faults :
			 HMM_STATE_FAULT_NR;
	run->watched_hit = out->watched_hit;
	run->watched_fault = out->watched;
	memcpy(run->faults, out->faults, run->nr_faults * sizeof(run->faults[0]));
	if (out->errors)
		return refuse(run, &out->error, (enum hmm_opencl_reason)(out->error.what & 255));
	if (run->kernel->checked && out->ended != run->launch.count)
		return refuse(run, &out->error, HMM_OPENCL_UNENDED);
	return 0;
}

/* Table lock held. */
static int launch_locked(struct run *run)
{
	struct ocl_channel *channel = &run->ocl->channel;
	int ret = ocl_table_upload(&run->ocl->table, channel);

	if (ret)
		return ret;
	run->launch.watched = run->watched;
	ocl_request(channel, OCL_WORKER_SLOT)->a[0] = run->kernel->id;
	memcpy(ocl_channel_staging(channel, OCL_WORKER_SLOT), &run->launch, sizeof(run->launch));
	ocl_count(&run->ocl->count.launches, 1);
	ret = ocl_pools_ask(run->ocl, OCL_RUN);
	if (ret)
		return ret;
	return keep_answer(run, (void *)ocl_channel_staging(channel, OCL_WORKER_SLOT));
}

static int launch(struct run *run)
{
	int ret;

	ocl_table_lock(&run->ocl->table);
	ret = launch_locked(run);
	ocl_table_unlock(&run->ocl->table);
	if (ret == -EFAULT || !ret) {
		int back = ocl_borrow_write_back(run->ocl);

		ret = ret ? ret : back;
	}
	if (!ret && run->left) {
		ocl_count(&run->ocl->count.rounds, 1);
		ocl_count(&run->ocl->count.restarts, run->left);
	}
	return ret;
}

/* ------------------------------------------------------------------ faults */

/* Flags of the record: HMM_FAULT_WRITE, HMM_FAULT_ATOMIC. */
static bool satisfied(struct hmm_opencl *ocl, uintptr_t va, uint32_t what)
{
	struct ocl_pte pte;

	ocl_table_lock(&ocl->table);
	pte = ocl_table_get(&ocl->table, va);
	ocl_table_unlock(&ocl->table);
	return pte.there && (pte.write || !(what & HMM_FAULT_WRITE)) &&
	       !(pte.copy && what & HMM_FAULT_ATOMIC);
}

/*
 * The block moves when a page of it is missed; what of it cannot move is then borrowed.
 * A block that the CPU takes pages back from each time (a library's data, our own
 * threads') moves whole only so often in a run, and then page by page: the kernel gets
 * what it asks for, and no more is taken from the CPU. In the end copies have to do, or
 * a CPU that never lets go of a page would keep the kernel from it for ever.
 */
/* -EBUSY: the CPU takes the block back so often that copies have to do. */
static int move_for(struct hmm_opencl *ocl, uint32_t slot, uintptr_t va, uint32_t what)
{
	uintptr_t block = ocl_block_of(va), page = ocl_page_of(ocl, va);
	uint32_t moves = ocl->memory.slots[slot].moves++;
	int64_t ret;

	if (moves < MOVES_MAX)
		ret = ocl_block_move(ocl, block, block + HMM_BLOCK);
	else if (moves < PAGE_MOVES_MAX || what & HMM_FAULT_ATOMIC)
		ret = ocl_block_move(ocl, page, page + ocl->page_size);
	else
		return -EBUSY;
	return ret < 0 ? (int)ret : 0;
}

/* Is it that the page will not move, or that the CPU was faster? */
static bool is_fixed(struct hmm_opencl *ocl, uintptr_t page)
{
	static const enum hmm_reason fixed[] = {
		HMM_REASON_PINNED, HMM_REASON_SHARED, HMM_REASON_FILE, HMM_REASON_LOCKED,
		HMM_REASON_FOREIGN, HMM_REASON_RESERVED, HMM_REASON_PROT, HMM_REASON_GAP,
		HMM_REASON_KERNEL,
	};

	memset(ocl->mover.reasons, 0, sizeof(ocl->mover.reasons));
	if (ocl_block_move(ocl, page, page + ocl->page_size) != 0)
		return false;
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		if (ocl->mover.reasons[fixed[i]])
			return true;
	return false;
}

/*
 * An atomic needs the page itself. One that the CPU is busy with moves in a moment; one
 * that cannot move, or may not be accessed, is refused. -EAGAIN: go round.
 */
static int settle_atomic(struct hmm_opencl *ocl, uintptr_t va, uint64_t begun_ns)
{
	int ret;

	if (!is_fixed(ocl, ocl_page_of(ocl, va)) && ocl_now_ns() - begun_ns < ATOMIC_NS)
		return -EAGAIN;
	ret = ocl_borrow_page(ocl, va, true);
	return ret && ret != -EAGAIN ? ret : -EOPNOTSUPP;
}

static int serve_page(struct hmm_opencl *ocl, uintptr_t va, uint32_t what, uint64_t since, bool pin)
{
	uint64_t begun = ocl_now_ns();
	int64_t slot;
	int ret;

	if (va >= ocl->user_end)
		return -EFAULT;
	for (;;) {
		slot = ocl_block_bind(ocl, ocl_block_of(va), since);
		if (slot < 0)
			return (int)slot;
		if (pin)
			ocl_memory_serve(&ocl->memory, (uint32_t)slot, true);
		if (satisfied(ocl, va, what))
			return 0;
		ret = move_for(ocl, (uint32_t)slot, va, what);
		if (ret && ret != -EBUSY)
			return ret;
		if (satisfied(ocl, va, what))
			return 0;
		if (what & HMM_FAULT_ATOMIC)
			ret = settle_atomic(ocl, va, begun);
		else
			ret = ocl_borrow_page(ocl, va, what & HMM_FAULT_WRITE);
		if (ret != -EAGAIN)
			return ret;
		/* An invalidation won, or the page has become movable. */
		sched_yield();
	}
}

static enum hmm_opencl_reason reason_of(int error)
{
	switch (error) {
	case -EPERM:
		return HMM_OPENCL_READONLY;
	case -EIO:
		return HMM_OPENCL_LOST;
	case -EOPNOTSUPP:
		return HMM_OPENCL_ATOMIC;
	case -ENOMEM:
	case -ENOSPC:
		return HMM_OPENCL_NOMEM;
	default:
		return HMM_OPENCL_UNMAPPED;
	}
}

/* By block, so that blocks that follow each other get slots that do; reads first. */
static int by_address(const void *a, const void *b)
{
	const struct ocl_record *x = a, *y = b;
	uintptr_t vx = record_va(x), vy = record_va(y);

	if (vx != vy)
		return vx < vy ? -1 : 1;
	return (x->what > y->what) - (x->what < y->what);
}

/* Insertion into place: qsort() may allocate, and the heap may be away. */
static void sort(struct ocl_record *records, uint32_t nr)
{
	for (uint32_t i = 1; i < nr; i++) {
		struct ocl_record record = records[i];
		uint32_t j = i;

		for (; j > 0 && by_address(&records[j - 1], &record) > 0; j--)
			records[j] = records[j - 1];
		records[j] = record;
	}
}

static int serve_one(struct run *run, const struct ocl_record *record, uint64_t since, bool pin)
{
	int ret = serve_page(run->ocl, record_va(record), record->what, since,
			     pin);

	ocl_count(&run->ocl->count.faults, 1);
	if (!ret || ret == -ENOSPC)
		return ret;
	if (ret == -EIO && run->ocl->channel.lost)
		return ret;
	return refuse(run, record, reason_of(ret));
}

/* The watched item's fault comes first and needs room whatever the others were served. */
static int serve_watched(struct run *run)
{
	int ret;

	if (run->watched != OCL_NO_ITEM && !run->watched_hit) {
		ocl_memory_unpin_all(&run->ocl->memory);
		run->watched = OCL_NO_ITEM;
	}
	if (run->watched == OCL_NO_ITEM)
		return 0;
	ret = serve_one(run, &run->watched_fault, UINT64_MAX, true);
	return ret == -ENOSPC ? refuse(run, &run->watched_fault, HMM_OPENCL_NOMEM) : ret;
}

/*
 * When memory turns out to be short, the item of the first fault is watched from the
 * next launch on: this one's records do not say which of its faults were its.
 */
static int serve(struct run *run)
{
	uint64_t since = ocl_memory_now(&run->ocl->memory);
	int ret = serve_watched(run);

	run->ocl->mover.made_room = false;
	sort(run->faults, run->nr_faults);
	for (uint32_t i = 0; i < run->nr_faults && !ret; i++)
		ret = serve_one(run, &run->faults[i], since, false);
	ocl_memory_let_go(&run->ocl->memory);
	/* The rest fault again, when these have got on. */
	if (ret == -ENOSPC)
		ret = 0;
	if (!ret && run->ocl->mover.made_room && run->watched == OCL_NO_ITEM && run->nr_faults)
		run->watched = run->faults[0].item;
	return ret;
}

/* ------------------------------------------------------------------ slices */

/* The stopped items, until there are none. */
static int finish(struct run *run)
{
	int ret = 0;

	while (!ret && run->left) {
		ret = serve(run);
		run->launch.listed = 1;
		run->launch.count = run->left;
		run->launch.miss = 0;
		if (!ret)
			ret = launch(run);
	}
	ocl_memory_unpin_all(&run->ocl->memory);
	run->watched = OCL_NO_ITEM;
	return ret;
}

/* What a slice that ran undisturbed took tells how long the next may be. */
static void measure(struct run *run, uint64_t took_ns)
{
	struct hmm_opencl_kernel *kernel = run->kernel;
	uint64_t want = run->ocl->slice_ns;

	if (run->left || run->launch.count < kernel->slice_items)
		return;
	if (took_ns > 2 * want && kernel->slice_items > 64)
		kernel->slice_items /= 2;
	else if (took_ns < want / 8)
		kernel->slice_items *= 8;
	else if (took_ns < want / 2)
		kernel->slice_items *= 2;
}

static void run_begin(struct run *run, struct hmm_opencl *ocl, struct ocl_run_call *call)
{
	run->ocl = ocl;
	run->kernel = call->kernel;
	run->watched = OCL_NO_ITEM;
	run->fault = (struct hmm_opencl_fault){ 0 };
	run->launch = (struct ocl_launch){ .checked = call->kernel->checked };
}

/*
 * Runtimes compile a kernel for good when it is first launched: here that is a launch of
 * no items and without the pools, for which no invalidation has to wait, nor a copy in place.
 */
static int warm_up(struct run *run)
{
	struct ocl_channel *channel = &run->ocl->channel;
	int ret;

	if (run->kernel->slice_items)
		return 0;
	ocl_request(channel, OCL_WORKER_SLOT)->a[0] = run->kernel->id;
	memcpy(ocl_channel_staging(channel, OCL_WORKER_SLOT), &run->launch, sizeof(run->launch));
	ret = ocl_channel_ask(channel, OCL_WORKER_SLOT, OCL_RUN);
	if (!ret)
		run->kernel->slice_items = SLICE_FIRST;
	return ret;
}

int64_t ocl_run_job(struct hmm_opencl *ocl, void *arg)
{
	struct ocl_run_call *call = arg;
	struct run run;
	uint64_t first = 0;
	int ret;

	run_begin(&run, ocl, call);
	ocl_count(&ocl->count.runs, 1);
	ret = warm_up(&run);
	while (first < call->nr_items && !ret) {
		uint64_t begun = ocl_now_ns(), count = call->nr_items - first;

		if (count > call->kernel->slice_items)
			count = call->kernel->slice_items;
		run.launch.listed = 0;
		run.launch.first = (uint32_t)first;
		run.launch.count = (uint32_t)count;
		ret = launch(&run);
		if (!ret)
			measure(&run, ocl_now_ns() - begun);
		if (!ret)
			ret = finish(&run);
		first += count;
	}
	ocl_borrow_return(ocl);
	call->fault = run.fault;
	return ret;
}

/* ------------------------------------------------------------------ hmm_opencl_check() */

/* Everything there, nothing stored but by what stores at once. */
static int bring(struct run *run, uint32_t nr_items)
{
	int ret;

	run->launch.dry = 1;
	run->launch.miss = 0;
	run->launch.listed = 0;
	run->launch.first = 0;
	run->launch.count = nr_items;
	ret = launch(run);
	if (!ret)
		ret = finish(run);
	run->launch.dry = 0;
	return ret;
}

/* Slots with pages that kernels may write and that are no copies. Table lock held. */
static int save(struct hmm_opencl *ocl)
{
	struct ocl_request *request = ocl_request(&ocl->channel, OCL_WORKER_SLOT);
	uint64_t *list = (void *)ocl_channel_staging(&ocl->channel, OCL_WORKER_SLOT);
	uint64_t nr = 0;

	_Static_assert(OCL_STAGING / 8 >= 1 << 18, "half a TiB of slots fit one request");
	for (uint32_t slot = 0; slot < ocl->memory.nr_slots && nr < OCL_STAGING / 8; slot++) {
		const uint64_t *words = ocl->table.pages + (uint64_t)slot * HMM_PAGES_WORDS;
		uint64_t writable = 0;

		for (int w = 0; w < OCL_BLOCK_WORDS; w++)
			writable |= words[HMM_PAGES_WRITE + w] & ~words[HMM_PAGES_COPY + w];
		if (writable && ocl->memory.slots[slot].block)
			list[nr++] = slot;
	}
	request->a[0] = 0;
	request->a[1] = nr;
	return ocl_pools_ask(ocl, OCL_SAVE);
}

/* One launch of all, from the saved bytes; @miss: then one of those that missed. */
static int launch_whole(struct run *run, uint32_t nr_items, uint32_t miss)
{
	int ret;

	run->launch.listed = 0;
	run->launch.count = nr_items;
	run->launch.miss = miss;
	ret = launch_locked(run);
	if (ret || !miss || !run->left)
		return ret;
	run->launch.listed = 1;
	run->launch.count = run->left;
	run->launch.miss = 0;
	return launch_locked(run);
}

static int compare(struct run *run)
{
	struct hmm_opencl *ocl = run->ocl;
	struct ocl_request *request = ocl_request(&ocl->channel, OCL_WORKER_SLOT);
	int ret = ocl_pools_ask(ocl, OCL_COMPARE);

	if (ret || !request->a[0])
		return ret;
	run->fault = (struct hmm_opencl_fault){
		.addr = ocl->memory.slots[request->a[1] % ocl->memory.nr_slots].block +
			request->a[2],
		.item = OCL_NO_ITEM, .write = 1, .reason = HMM_OPENCL_DIFFERS,
	};
	return -EFAULT;
}

/* -EAGAIN: something went home meanwhile; the bytes are as before. Table lock held. */
static int check_once(struct run *run, uint32_t nr_items, uint32_t every)
{
	struct hmm_opencl *ocl = run->ocl;
	int ret = save(ocl);

	if (!ret)
		ret = launch_whole(run, nr_items, 0);
	if (!ret && run->left) {
		ret = ocl_pools_ask(ocl, OCL_SWAP);
		return ret ? ret : -EAGAIN;
	}
	if (!ret)
		ret = ocl_pools_ask(ocl, OCL_SWAP);
	if (!ret)
		ret = launch_whole(run, nr_items, every);
	if (!ret && run->left) {
		ret = ocl_pools_ask(ocl, OCL_SWAP);
		return ret ? ret : -EAGAIN;
	}
	return ret ? ret : compare(run);
}

int64_t ocl_check_job(struct hmm_opencl *ocl, void *arg)
{
	struct ocl_run_call *call = arg;
	struct run run;
	int ret = -EAGAIN, back;

	run_begin(&run, ocl, call);
	back = warm_up(&run);
	if (back)
		return back;
	for (int i = 0; i < CHECK_TRIES && ret == -EAGAIN; i++) {
		ret = bring(&run, call->nr_items);
		if (ret)
			break;
		ocl_table_lock(&ocl->table);
		ret = check_once(&run, call->nr_items, call->every);
		ocl_table_unlock(&ocl->table);
	}
	back = ocl_borrow_write_back(ocl);
	ocl_borrow_return(ocl);
	call->fault = run.fault;
	if (ret == -EAGAIN)
		return -EBUSY;
	return ret ? ret : back;
}
