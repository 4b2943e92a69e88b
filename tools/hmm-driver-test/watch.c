/* SPDX-License-Identifier: MIT */
/*
 * Between core and driver. This program defines hmm_devmem_add() and a few others
 * itself; being first in the search order they are what the driver calls, and they
 * hand the core operations of our own, which check what passes and call the driver's.
 *
 * Copies are given to the driver in buffers of ours: what it does with a buffer after
 * the copy has ended, or with the array of runs after the call, is then seen. All
 * memory that callbacks touch here is static or safe.
 */
#include "kit.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#define DEVMEMS		16
#define NOTIFIERS	64
#define COPIES		256	/* in the air at once that are watched */
#define RUNS		64	/* of a copy that gets buffers of ours */
#define BUFFERS		8
#define BUFFER_PAGES	512
#define AFTERWARDS	0xc7	/* what a buffer holds when nobody may touch it */

struct watched {
	bool in_use;
	struct hmm_devmem *devmem;
	struct hmm_devmem_ops ops;	/* the driver's */
	void *ctx;			/* the driver's */
	uint64_t nr_pages, flags;
	size_t page;
	pthread_mutex_t lock;
	uint8_t *handed_out;		/* per page: by page_alloc, and not freed since */
	uint64_t nr_handed_out;
};

struct heard {
	bool in_use;
	struct hmm_notifier *notifier;
	void (*invalidate)(struct hmm_notifier *notifier, const struct hmm_event *event,
			   uint64_t seq, void *ctx);
	void *ctx;
};

struct buffer {
	bool in_use;
	unsigned char *mem;
};

/* A copy from its call to its end. */
struct flight {
	struct hmm_copy *copy;		/* NULL: free */
	bool called;			/* the driver's operation runs */
	bool done;			/* ... and hmm_copy_done() was called in it */
	struct buffer *buffer;
	size_t nr_runs, bytes;
	struct hmm_copy_run runs[RUNS], given[RUNS];
	bool from;
};

static struct {
	pthread_mutex_t lock;
	struct watched devmems[DEVMEMS];
	struct heard notifiers[NOTIFIERS];
	struct flight flights[COPIES];
	struct buffer buffers[BUFFERS];
	size_t next_buffer;		/* by turns: what is written late shall be seen */
	size_t page;			/* 0: no buffers yet */
	_Atomic uint64_t counts[WATCH_COUNTS];
	_Atomic uint64_t fail_at[WATCH_FAULTS];
	int fail_with[WATCH_FAULTS];
	_Atomic uint64_t lost;
	_Atomic bool overflow;		/* some copies have no flight */
} watch = { .lock = PTHREAD_MUTEX_INITIALIZER, .lost = UINT64_MAX };

static _Thread_local const char *forbids;	/* the callback that this thread is in */

/* The core's own. Looked up at the start: dlsym() is nothing for a callback. */
static struct {
	__typeof__(hmm_copy_done) *copy_done;
	__typeof__(hmm_devmem_add) *devmem_add;
	__typeof__(hmm_devmem_remove) *devmem_remove;
	__typeof__(hmm_devmem_ctx) *devmem_ctx;
	__typeof__(hmm_notifier_insert) *notifier_insert;
	__typeof__(hmm_notifier_remove) *notifier_remove;
} core;

__attribute__((constructor)) static void core_find(void)
{
	*(void **)&core.copy_done = dlsym(RTLD_NEXT, "hmm_copy_done");
	*(void **)&core.devmem_add = dlsym(RTLD_NEXT, "hmm_devmem_add");
	*(void **)&core.devmem_remove = dlsym(RTLD_NEXT, "hmm_devmem_remove");
	*(void **)&core.devmem_ctx = dlsym(RTLD_NEXT, "hmm_devmem_ctx");
	*(void **)&core.notifier_insert = dlsym(RTLD_NEXT, "hmm_notifier_insert");
	*(void **)&core.notifier_remove = dlsym(RTLD_NEXT, "hmm_notifier_remove");
}

const char *watch_forbids(void)
{
	return forbids;
}

uint64_t watch_count(enum watch_count count)
{
	return atomic_load(&watch.counts[count]);
}

static void counted(enum watch_count count, uint64_t n)
{
	atomic_fetch_add(&watch.counts[count], n);
}

void watch_inject(enum watch_fault fault, uint64_t nth, int error)
{
	watch.fail_with[fault] = error;
	atomic_store(&watch.fail_at[fault], nth);
}

static bool fails_now(enum watch_fault fault)
{
	uint64_t n = atomic_load(&watch.fail_at[fault]);

	while (n && !atomic_compare_exchange_weak(&watch.fail_at[fault], &n, n - 1))
		;
	return n == 1;
}

void watch_lose(uint64_t index)
{
	atomic_store(&watch.lost, index);
}

/* ---------------------------------------------------------------- buffers */

static void buffers_make(size_t page)
{
	for (size_t i = 0; !watch.page && i < BUFFERS; i++) {
		watch.buffers[i].mem = hmm_safe_alloc(BUFFER_PAGES * page);
		if (!watch.buffers[i].mem)
			cannot("no memory for the buffers of copies");
		memset(watch.buffers[i].mem, AFTERWARDS, BUFFER_PAGES * page);
	}
	watch.page = page;
}

/* A copy that has ended may have left nothing of its driver in the buffer. */
static void buffer_check(const struct buffer *b)
{
	for (size_t i = 0; i < BUFFER_PAGES * watch.page; i++)
		if (b->mem[i] != AFTERWARDS)
			broke(D_BUFFERS, "a buffer was written to after its copy had ended");
}

void watch_buffers(void)
{
	for (size_t i = 0; watch.page && i < BUFFERS; i++)
		if (!watch.buffers[i].in_use)
			buffer_check(&watch.buffers[i]);
}

/* watch.lock held. NULL: more copies than are watched, this one goes as it came. */
static struct flight *flight_new(struct hmm_copy *copy)
{
	for (size_t i = 0; i < COPIES; i++) {
		struct flight *f = &watch.flights[i];

		if (f->copy)
			continue;
		f->copy = copy;
		f->called = true;
		f->done = false;
		f->buffer = NULL;
		atomic_fetch_add(&verdict->copies_in_air, 1);
		return f;
	}
	atomic_store(&watch.overflow, true);
	return NULL;
}

static struct flight *flight_of(const struct hmm_copy *copy)
{
	for (size_t i = 0; i < COPIES; i++)
		if (watch.flights[i].copy == copy)
			return &watch.flights[i];
	return NULL;
}

/* Put our buffers in the place of the core's. */
static void flight_divert(struct flight *f, const struct watched *w, bool from,
			  const struct hmm_copy_run *runs, size_t nr_runs)
{
	size_t used = 0, pages = 0;

	for (size_t i = 0; i < nr_runs; i++)
		pages += runs[i].cpu ? runs[i].nr_pages : 0;
	if (nr_runs > RUNS || pages > BUFFER_PAGES)
		return;
	pthread_mutex_lock(&watch.lock);
	for (size_t i = 0; i < BUFFERS && !f->buffer; i++) {
		struct buffer *b = &watch.buffers[watch.next_buffer++ % BUFFERS];

		if (!b->in_use)
			f->buffer = b;
	}
	if (f->buffer)
		f->buffer->in_use = true;
	pthread_mutex_unlock(&watch.lock);
	if (!f->buffer)
		return;
	buffer_check(f->buffer);
	f->from = from;
	f->nr_runs = nr_runs;
	for (size_t i = 0; i < nr_runs; i++) {
		size_t bytes = runs[i].nr_pages * w->page;

		f->runs[i] = f->given[i] = runs[i];
		if (!runs[i].cpu)
			continue;
		f->given[i].cpu = f->buffer->mem + used;
		if (!from)
			memcpy(f->given[i].cpu, runs[i].cpu, bytes);
		used += bytes;
	}
	f->bytes = used;
}

/* What the driver has read is the core's; then the buffer is nobody's. */
static void flight_land(struct flight *f, size_t page)
{
	size_t used = 0;

	if (!f->buffer)
		return;
	for (size_t i = 0; f->from && i < f->nr_runs; i++) {
		memcpy(f->runs[i].cpu, f->buffer->mem + used, f->runs[i].nr_pages * page);
		used += f->runs[i].nr_pages * page;
	}
	memset(f->buffer->mem, AFTERWARDS, f->bytes);
	pthread_mutex_lock(&watch.lock);
	f->buffer->in_use = false;
	pthread_mutex_unlock(&watch.lock);
	f->buffer = NULL;
}

static void flight_end(struct flight *f)
{
	pthread_mutex_lock(&watch.lock);
	f->copy = NULL;
	pthread_mutex_unlock(&watch.lock);
	atomic_fetch_sub(&verdict->copies_in_air, 1);
}

void hmm_copy_done(struct hmm_copy *copy, int error)
{
	struct flight *f;
	bool called = false;

	pthread_mutex_lock(&watch.lock);
	f = flight_of(copy);
	if (f && f->done)
		f = NULL;
	if (f) {
		called = f->called;
		f->done = true;
	}
	pthread_mutex_unlock(&watch.lock);
	if (!f && atomic_load(&watch.overflow))
		goto out;
	if (!f)
		broke(D_ONCE, "hmm_copy_done() was called for a copy that had ended");
	if (error > 0)
		broke(D_ONCE, "hmm_copy_done() was given %d, which is no negative errno", error);
	flight_land(f, hmm_page_size());
	/* While the call runs, its flight is needed to see a second end. */
	if (!called)
		flight_end(f);
out:
	core.copy_done(copy, error);
}

/* What the driver's operation answered, checked; the flight is over unless in the air. */
static int flight_answer(struct flight *f, const struct watched *w, int ret)
{
	bool done, air;

	pthread_mutex_lock(&watch.lock);
	done = f->done;
	air = ret == -EINPROGRESS && !done;
	f->called = !air ? f->called : false;
	memset(f->given, 0xff, sizeof(f->given));
	pthread_mutex_unlock(&watch.lock);
	if (ret > 0)
		broke(D_ONCE, "a copy returned %d, which is no negative errno", ret);
	if (done && ret != -EINPROGRESS)
		broke(D_ONCE, "a copy called hmm_copy_done() and returned %d, not -EINPROGRESS",
		      ret);
	if (air)
		return ret;
	if (!done)
		flight_land(f, w->page);
	flight_end(f);
	return ret;
}

/* ---------------------------------------------------------------- operations */

static struct watched *watched_of(struct hmm_devmem *devmem)
{
	return core.devmem_ctx(devmem);
}

static const char *enter(const struct watched *w, const char *callback, bool always)
{
	const char *outer = forbids;

	if (always || w->flags & HMM_DEVMEM_FAULT_SAFE)
		forbids = callback;
	return outer;
}

static bool has_lost(const struct hmm_copy_run *runs, size_t nr_runs)
{
	uint64_t lost = atomic_load(&watch.lost);

	for (size_t i = 0; i < nr_runs; i++)
		if (lost >= runs[i].index && lost - runs[i].index < runs[i].nr_pages)
			return true;
	return false;
}

static int copy(struct hmm_devmem *devmem, struct hmm_copy *copy, bool from,
		const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct watched *w = watched_of(devmem);
	__typeof__(w->ops.copy_to_device) op;
	const char *outer;
	struct flight *f;
	int ret;

	for (size_t i = 0; i < nr_runs; i++)
		counted(from ? FROM_DEVICE : runs[i].cpu ? TO_DEVICE : ZEROED, runs[i].nr_pages);
	if (fails_now(from ? FAIL_FROM : FAIL_TO))
		return watch.fail_with[from ? FAIL_FROM : FAIL_TO];
	if (from && has_lost(runs, nr_runs))
		return -EIO;
	pthread_mutex_lock(&watch.lock);
	f = flight_new(copy);
	pthread_mutex_unlock(&watch.lock);
	if (f)
		flight_divert(f, w, from, runs, nr_runs);
	outer = enter(w, from ? "copy_from_device" : "copy_to_device", false);
	op = from ? w->ops.copy_from_device : w->ops.copy_to_device;
	ret = op(devmem, copy, f && f->buffer ? f->given : runs, nr_runs);
	forbids = outer;
	return f ? flight_answer(f, w, ret) : ret;
}

static int copy_to(struct hmm_devmem *devmem, struct hmm_copy *c, const struct hmm_copy_run *runs,
		   size_t nr_runs)
{
	return copy(devmem, c, false, runs, nr_runs);
}

static int copy_from(struct hmm_devmem *devmem, struct hmm_copy *c,
		     const struct hmm_copy_run *runs, size_t nr_runs)
{
	return copy(devmem, c, true, runs, nr_runs);
}

static int copy_peer(struct hmm_devmem *devmem, struct hmm_devmem *from, struct hmm_copy *c,
		     const struct hmm_peer_run *runs, size_t nr_runs)
{
	struct watched *w = watched_of(devmem);
	const char *outer;
	struct flight *f;
	int ret;

	pthread_mutex_lock(&watch.lock);
	f = flight_new(c);
	pthread_mutex_unlock(&watch.lock);
	outer = enter(w, "copy_peer", false);
	ret = w->ops.copy_peer(devmem, from, c, runs, nr_runs);
	forbids = outer;
	for (size_t i = 0; i < nr_runs && (!ret || ret == -EINPROGRESS); i++)
		counted(PEER, runs[i].nr_pages);
	return f ? flight_answer(f, w, ret) : ret;
}

static void page_free(struct hmm_devmem *devmem, uint64_t index, uint64_t nr_pages)
{
	struct watched *w = watched_of(devmem);
	const char *outer;

	counted(FREED, nr_pages);
	pthread_mutex_lock(&w->lock);
	for (uint64_t i = index; i < index + nr_pages; i++) {
		w->nr_handed_out -= w->handed_out[i];
		w->handed_out[i] = 0;
	}
	pthread_mutex_unlock(&w->lock);
	outer = enter(w, "page_free", true);
	w->ops.page_free(devmem, index, nr_pages);
	forbids = outer;
}

static int migrate_to_ram(struct hmm_devmem *devmem, const struct hmm_fault *fault)
{
	struct watched *w = watched_of(devmem);
	const char *outer = enter(w, "migrate_to_ram", false);
	int ret;

	counted(TO_RAM, 1);
	ret = w->ops.migrate_to_ram(devmem, fault);
	forbids = outer;
	return ret;
}

static void handed_out(struct watched *w, uint64_t index, uint64_t nr)
{
	counted(ALLOCATED, nr);
	pthread_mutex_lock(&w->lock);
	for (uint64_t i = index; i < index + nr; i++) {
		if (w->handed_out[i])
			broke(D_ALLOC, "page_alloc handed out page %llu, which is in use",
			      (unsigned long long)i);
		w->handed_out[i] = 1;
	}
	w->nr_handed_out += nr;
	pthread_mutex_unlock(&w->lock);
}

static int64_t page_alloc(struct hmm_devmem *devmem, uint64_t nr, uint64_t *index)
{
	struct watched *w = watched_of(devmem);
	int64_t n;

	if (fails_now(FAIL_ALLOC))
		return watch.fail_with[FAIL_ALLOC];
	n = w->ops.page_alloc(devmem, nr, index);
	if (n == 0)
		broke(D_ALLOC, "page_alloc returned 0: it is a number of pages, or -ENOSPC");
	if (n < 0)
		return n;
	if ((uint64_t)n > nr)
		broke(D_ALLOC, "page_alloc was asked for %llu pages and returned %lld",
		      (unsigned long long)nr, (long long)n);
	if (*index >= w->nr_pages || (uint64_t)n > w->nr_pages - *index)
		broke(D_ALLOC, "page_alloc handed out pages %llu to %llu of a device with %llu",
		      (unsigned long long)*index, (unsigned long long)(*index + (uint64_t)n - 1),
		      (unsigned long long)w->nr_pages);
	handed_out(w, *index, (uint64_t)n);
	return n;
}

/* ---------------------------------------------------------------- registration */

static struct watched *watched_new(const struct hmm_devmem_opts *opts)
{
	struct watched *w = NULL;

	pthread_mutex_lock(&watch.lock);
	for (size_t i = 0; i < DEVMEMS && !w; i++)
		if (!watch.devmems[i].in_use)
			w = &watch.devmems[i];
	if (w)
		w->in_use = true;
	pthread_mutex_unlock(&watch.lock);
	if (!w)
		cannot("more than %d device memories", DEVMEMS);
	w->handed_out = hmm_safe_alloc(opts->nr_pages);
	if (!w->handed_out)
		cannot("no memory to watch %llu pages", (unsigned long long)opts->nr_pages);
	w->ops = *opts->ops;
	w->ctx = opts->ctx;
	w->nr_pages = opts->nr_pages;
	w->flags = opts->flags;
	w->page = hmm_page_size();
	w->nr_handed_out = 0;
	pthread_mutex_init(&w->lock, NULL);
	buffers_make(w->page);
	return w;
}

static void watched_end(struct watched *w)
{
	hmm_safe_free(w->handed_out, w->nr_pages);
	pthread_mutex_destroy(&w->lock);
	w->devmem = NULL;
	w->in_use = false;
}

int hmm_devmem_add(struct hmm_mm *mm, const struct hmm_devmem_opts *opts, struct hmm_devmem **out)
{
	struct hmm_devmem_opts ours;
	struct hmm_devmem_ops ops;
	struct watched *w;
	int ret;

	/* What the core refuses it refuses with the driver's own. */
	if (!opts || opts->size != sizeof(*opts) || !opts->ops ||
	    opts->ops->size != sizeof(*opts->ops) || !opts->ops->copy_to_device ||
	    !opts->ops->copy_from_device || !opts->ops->page_free || !opts->nr_pages)
		return core.devmem_add(mm, opts, out);
	w = watched_new(opts);
	ops = (struct hmm_devmem_ops){
		.size = sizeof(ops),
		.copy_to_device = copy_to,
		.copy_from_device = copy_from,
		.page_free = page_free,
		.page_alloc = w->ops.page_alloc ? page_alloc : NULL,
		.migrate_to_ram = w->ops.migrate_to_ram ? migrate_to_ram : NULL,
		.copy_peer = w->ops.copy_peer ? copy_peer : NULL,
	};
	ours = *opts;
	ours.ops = &ops;
	ours.ctx = w;
	ret = core.devmem_add(mm, &ours, out);
	if (ret)
		watched_end(w);
	else
		w->devmem = *out;
	return ret;
}

int hmm_devmem_remove(struct hmm_devmem *devmem)
{
	struct watched *w = devmem ? watched_of(devmem) : NULL;
	int ret = core.devmem_remove(devmem);

	if (w && (!ret || ret == -EIO))
		watched_end(w);
	return ret;
}

void *hmm_devmem_ctx(const struct hmm_devmem *devmem)
{
	const struct watched *w = core.devmem_ctx(devmem);

	return w ? w->ctx : NULL;
}

static void invalidate(struct hmm_notifier *notifier, const struct hmm_event *event, uint64_t seq,
		       void *ctx)
{
	const struct heard *h = ctx;
	const char *outer = forbids;

	forbids = "invalidate";
	h->invalidate(notifier, event, seq, h->ctx);
	forbids = outer;
}

int hmm_notifier_insert(struct hmm_mm *mm, uintptr_t start, uintptr_t end,
			const struct hmm_notifier_ops *ops, void *ctx, struct hmm_notifier **out)
{
	HMM_OPTS(hmm_notifier_ops, ours, .invalidate = invalidate);
	struct heard *h = NULL;
	int ret;

	if (!ops || ops->size != sizeof(*ops) || !ops->invalidate)
		return core.notifier_insert(mm, start, end, ops, ctx, out);
	pthread_mutex_lock(&watch.lock);
	for (size_t i = 0; i < NOTIFIERS && !h; i++)
		if (!watch.notifiers[i].in_use)
			h = &watch.notifiers[i];
	if (h)
		h->in_use = true;
	pthread_mutex_unlock(&watch.lock);
	if (!h)
		cannot("more than %d notifiers", NOTIFIERS);
	h->invalidate = ops->invalidate;
	h->ctx = ctx;
	ret = core.notifier_insert(mm, start, end, &ours, h, out);
	if (ret)
		h->in_use = false;
	else
		h->notifier = *out;
	return ret;
}

int hmm_notifier_remove(struct hmm_notifier *notifier)
{
	int ret = core.notifier_remove(notifier);

	for (size_t i = 0; !ret && notifier && i < NOTIFIERS; i++)
		if (watch.notifiers[i].in_use && watch.notifiers[i].notifier == notifier)
			watch.notifiers[i].in_use = false;
	return ret;
}

/* ---------------------------------------------------------------- questions */

struct watched *watch_of(const struct hmm_devmem *devmem)
{
	for (size_t i = 0; i < DEVMEMS; i++)
		if (watch.devmems[i].in_use && watch.devmems[i].devmem == devmem)
			return &watch.devmems[i];
	return NULL;
}

uint64_t watch_pages(const struct watched *w)
{
	return w->nr_pages;
}

unsigned int watch_devmems(void)
{
	unsigned int n = 0;

	for (size_t i = 0; i < DEVMEMS; i++)
		n += watch.devmems[i].in_use;
	return n;
}

unsigned int watch_notifiers(void)
{
	unsigned int n = 0;

	for (size_t i = 0; i < NOTIFIERS; i++)
		n += watch.notifiers[i].in_use;
	return n;
}

uint64_t watch_index_of(struct kit *kit, const void *addr)
{
	for (uint64_t i = 0; i < watch_pages(kit->watched); i++) {
		uintptr_t at;

		if (!hmm_devmem_lookup(kit->device.devmem, i, &at) && at == (uintptr_t)addr)
			return i;
	}
	return UINT64_MAX;
}

bool watch_has_alloc(const struct watched *w)
{
	return w->ops.page_alloc;
}
