/* SPDX-License-Identifier: MIT */
#include "faults.h"

#include <errno.h>
#include <string.h>

#include "device.h"

#define AHEAD_PAGES	256u	/* a stream of this pace has the next block fetched early */
#define GROWTH		4u
#define LOOK_MS		1000u

/* ---------------------------------------------------------------- how much */

/* Lock held. */
static struct nbd_stream *stream_of(struct nbd_faults *f, uintptr_t addr)
{
	for (uint32_t i = 0; i < FAULT_STREAMS; i++)
		if (f->stream[i].next == addr)
			return &f->stream[i];
	return NULL;
}

/* Up to @pages from @addr on: the core moves no more than a block at once. */
static uintptr_t range_end(const struct nbd_faults *f, uintptr_t addr, uint32_t pages)
{
	uintptr_t end = addr + pages * f->page;
	uintptr_t whole = end & ~(FAULT_PAGES * f->page - 1);

	return whole > addr ? whole : end;
}

/* The end of what to bring from @addr on. Lock held. */
static uintptr_t pace(struct nbd_faults *f, const struct hmm_fault *fault)
{
	struct nbd_stream *s = stream_of(f, fault->addr);

	if (s) {
		s->pages = s->pages * GROWTH < FAULT_PAGES ? s->pages * GROWTH : FAULT_PAGES;
	} else {
		s = &f->stream[f->oldest++ % FAULT_STREAMS];
		s->pages = 1;
	}
	s->next = range_end(f, fault->addr, hmm_fault_pages(fault, s->pages));
	return s->next;
}

/* The range that a fault on @addr brings home. Lock held. */
static void range_of(struct nbd_faults *f, const struct hmm_fault *fault, uintptr_t *start,
		     uintptr_t *end)
{
	if (f->around) {
		const uintptr_t bytes = hmm_fault_pages(fault, f->around) * f->page;

		*start = fault->addr & ~(bytes - 1);
		*end = *start + bytes;
	} else {
		*start = fault->addr;
		*end = pace(f, fault);
	}
}

/* ---------------------------------------------------------------- many pages */

/* Lock held. false: all movers are busy. */
static bool mover_assign(struct nbd_faults *f, struct nbd_job *job, uintptr_t start, uintptr_t end)
{
	for (uint32_t i = 0; i < FAULT_MOVERS; i++) {
		struct nbd_mover *m = &f->mover[i];

		if (m->job || !m->there)
			continue;
		m->job = job;
		m->start = start;
		m->end = end;
		job->movers++;
		pthread_cond_signal(&m->work);
		return true;
	}
	return false;
}

/* One for a fault, for its first mover; there are as many as movers. Lock held. */
static struct nbd_job *job_begin(struct nbd_faults *f, const struct hmm_fault *fault,
				 uintptr_t start, uintptr_t end)
{
	struct nbd_job *job = f->job;

	while (job < f->job + FAULT_MOVERS - 1 && job->movers)
		job++;
	if (job->movers)
		return NULL;
	job->fault = *fault;
	return mover_assign(f, job, start, end) ? job : NULL;
}

/*
 * The CPU goes on as soon as its page is home. The fault is ended by whoever is last,
 * because it keeps the address space in existence. Pages that cannot be had are the
 * core's to report. Lock held, but for the work.
 */
static void mover_run(struct nbd_mover *m)
{
	struct nbd_faults *f = &m->dev->faults;
	struct hmm_fault fault = m->job->fault;
	int64_t pages;

	pthread_mutex_unlock(&f->lock);
	pages = hmm_evict(fault.mm, m->start, m->end);
	(void)pages;
	pthread_mutex_lock(&f->lock);
	if (--m->job->movers == 0) {
		pthread_mutex_unlock(&f->lock);
		hmm_fault_done(m->dev->devmem, &fault);
		pthread_mutex_lock(&f->lock);
	}
	m->job = NULL;
}

static void *mover_main(void *arg)
{
	struct nbd_mover *m = arg;
	struct nbd_faults *f = &m->dev->faults;

	pthread_mutex_lock(&f->lock);
	m->there = true;
	while (m->job || !atomic_load_explicit(&f->stopping, memory_order_relaxed)) {
		if (m->job)
			mover_run(m);
		else
			pthread_cond_wait(&m->work, &f->lock);
	}
	m->there = false;
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

/* ---------------------------------------------------------------- a page alone */

static void single_put(struct nbd_device *dev, uint32_t slot)
{
	atomic_fetch_and_explicit(&dev->faults.active, ~(1ULL << slot), memory_order_relaxed);
	nbd_channel_put(&dev->channel, slot);
}

static void single_by_link(struct nbd_device *dev, uint32_t slot)
{
	const struct nbd_fault *s = &dev->faults.fault[slot];
	struct nbd_past past = {
		.avoid = s->avoid, .shun = s->shun,
		.waited_ms = nbd_waited_ms(dev, s->asked_ms),
	};

	nbd_channel_post(&dev->channel, slot, LINK_READ, s->fault.index, 1, past);
}

static int single_post(struct nbd_device *dev, const struct hmm_fault *fault)
{
	struct nbd_channel *ch = &dev->channel;
	uint32_t slot = nbd_channel_get_single(ch);
	struct nbd_fault *s;
	uintptr_t addr;
	bool alone;

	if (slot == NO_SLOT)
		return -EAGAIN;
	s = &dev->faults.fault[slot];
	s->fault = *fault;
	s->tries = s->avoid = s->shun = 0;
	s->error = 0;
	s->asked_ms = nbd_now_ms();
	atomic_store_explicit(&s->gone, false, memory_order_relaxed);
	/*
	 * From here on nbd_faults_forget() finds us. If the page was freed before, its
	 * index may be another's by now, and what we read of no use to anybody.
	 */
	atomic_fetch_or_explicit(&dev->faults.active, 1ULL << slot, memory_order_release);
	if (hmm_devmem_lookup(dev->devmem, fault->index, &addr) || addr != fault->addr) {
		single_put(dev, slot);
		return -EAGAIN;
	}
	alone = atomic_load_explicit(&dev->faults.active, memory_order_relaxed) == 1ULL << slot;
	if (!nbd_reader_ask(dev, slot, fault->index, alone && fault->spare))
		single_by_link(dev, slot);
	return -EINPROGRESS;
}

/* What was read is wrong: from another server, once. true: under way again. */
static bool single_again(struct nbd_device *dev, uint32_t slot)
{
	struct nbd_fault *s = &dev->faults.fault[slot];
	const struct nbd_channel *ch = &dev->channel;

	if (s->tries++ == 2)
		return false;
	/* The first time from anywhere: it may have gone wrong on the way. */
	if (s->tries == 2)
		s->avoid |= 1u << (ch->mem->slot[slot].served % LINK_SERVERS);
	single_by_link(dev, slot);
	return true;
}

static bool single_gone(const struct nbd_fault *s)
{
	return atomic_load_explicit(&s->gone, memory_order_acquire);
}

/* What a thread of ours has at hand while it ends a fault. */
struct ending {
	const struct nbd_device *dev;
	struct nbd_fault *fault;
	const char *bytes;
};
static _Thread_local const struct ending *ending;

static void single_end(struct nbd_device *dev, uint32_t slot, const char *bytes)
{
	struct nbd_fault *s = &dev->faults.fault[slot];
	struct ending e = { dev, s, bytes };

	ending = &e;
	hmm_fault_done(dev->devmem, &s->fault);
	ending = NULL;
	single_put(dev, slot);
}

static void single_done(struct nbd_device *dev, uint32_t slot)
{
	const char *bytes = nbd_channel_buffer(&dev->channel, slot);
	struct nbd_fault *s = &dev->faults.fault[slot];

	s->error = nbd_channel_wait(&dev->channel, slot);	/* it is done */
	if (!s->error && !single_gone(s) && !nbd_page_intact(dev, s->fault.index, bytes)) {
		if (single_again(dev, slot))
			return;
		s->error = -EIO;
	}
	single_end(dev, slot, bytes);
}

bool nbd_faults_answer(struct nbd_device *dev, uint32_t slot, uint32_t server, const char *bytes)
{
	struct nbd_fault *s = &dev->faults.fault[slot];

	if (bytes && (single_gone(s) || nbd_page_intact(dev, s->fault.index, bytes))) {
		single_end(dev, slot, bytes);
		return true;
	}
	if (bytes)
		s->tries++;
	s->shun = 1u << server;
	single_by_link(dev, slot);
	return !bytes;
}

static void *completer_main(void *arg)
{
	struct nbd_device *dev = arg;
	struct nbd_faults *f = &dev->faults;
	struct link_memory *mem = dev->channel.mem;

	for (;;) {
		uint32_t seen = atomic_load(&mem->completions);
		uint64_t active = atomic_load_explicit(&f->active, memory_order_acquire);
		bool some = false;

		if (!active && atomic_load_explicit(&f->stopping, memory_order_acquire))
			return NULL;
		for (; active; active &= active - 1) {
			uint32_t slot = (uint32_t)__builtin_ctzll(active);

			if (!nbd_channel_done(&dev->channel, slot))
				continue;
			single_done(dev, slot);
			some = true;
		}
		if (!some)
			link_futex_wait(&mem->completions, seen, LOOK_MS);
	}
}

bool nbd_faults_take(struct nbd_device *dev, uint64_t index, void *cpu, int *ret)
{
	const struct ending *e = ending;

	if (!e || e->dev != dev || e->fault->fault.index != index || single_gone(e->fault))
		return false;
	*ret = e->fault->error;
	if (*ret)
		return true;
	memcpy(cpu, e->bytes, dev->channel.page);
	return nbd_page_intact(dev, index, cpu);
}

void nbd_faults_forget(struct nbd_device *dev, uint64_t index, uint64_t nr)
{
	uint64_t active = atomic_load_explicit(&dev->faults.active, memory_order_acquire);

	for (; active; active &= active - 1) {
		struct nbd_fault *s = &dev->faults.fault[__builtin_ctzll(active)];

		if (s->fault.index - index < nr)
			atomic_store_explicit(&s->gone, true, memory_order_release);
	}
}

/* ---------------------------------------------------------------- both */

/* What a stream that has come to @end will want next. Lock held. */
static void bring_next(struct nbd_faults *f, struct nbd_job *job, uintptr_t end)
{
	struct nbd_stream *s = stream_of(f, end);
	uintptr_t ahead = range_end(f, end, FAULT_PAGES);

	if (s && s->pages >= AHEAD_PAGES && mover_assign(f, job, end, ahead))
		s->next = ahead;
}

int nbd_migrate_to_ram(struct hmm_devmem *devmem, const struct hmm_fault *fault)
{
	struct nbd_device *dev = hmm_devmem_ctx(devmem);
	struct nbd_faults *f = &dev->faults;
	struct nbd_job *job = NULL;
	uintptr_t start, end;

	pthread_mutex_lock(&f->lock);
	range_of(f, fault, &start, &end);
	if (end - start > f->page)
		job = job_begin(f, fault, start, end);
	if (job && !f->around && fault->most >= 2 * FAULT_PAGES)
		bring_next(f, job, end);
	pthread_mutex_unlock(&f->lock);
	if (job)
		return -EINPROGRESS;
	/* Nothing to fetch, or nothing to fetch it with: the core does it at once. */
	if (!dev->pages.sum[fault->index] ||
	    nbd_pages_any_lost(&dev->pages, fault->index, 1))
		return 0;
	return single_post(dev, fault);
}

int nbd_faults_start(struct nbd_device *dev, uint32_t around)
{
	struct nbd_faults *f = &dev->faults;
	int ret;

	f->around = around;
	f->page = dev->channel.page;
	pthread_mutex_init(&f->lock, NULL);
	for (uint32_t i = 0; i < FAULT_MOVERS; i++) {
		f->mover[i].dev = dev;
		pthread_cond_init(&f->mover[i].work, NULL);
	}
	ret = hmm_safe_thread_start(completer_main, dev, 0, &f->completer);
	for (uint32_t i = 0; i < FAULT_MOVERS && !ret; i++)
		ret = hmm_safe_thread_start(mover_main, &f->mover[i], 0, &f->mover[i].thread);
	if (ret)
		nbd_faults_stop(dev);
	return ret;
}

void nbd_faults_stop(struct nbd_device *dev)
{
	struct nbd_faults *f = &dev->faults;

	pthread_mutex_lock(&f->lock);
	atomic_store_explicit(&f->stopping, true, memory_order_release);
	for (uint32_t i = 0; i < FAULT_MOVERS; i++)
		pthread_cond_signal(&f->mover[i].work);
	pthread_mutex_unlock(&f->lock);
	atomic_fetch_add(&dev->channel.mem->completions, 1);
	link_futex_wake(&dev->channel.mem->completions);
	hmm_safe_thread_join(f->completer);
	for (uint32_t i = 0; i < FAULT_MOVERS; i++) {
		hmm_safe_thread_join(f->mover[i].thread);
		pthread_cond_destroy(&f->mover[i].work);
	}
	pthread_mutex_destroy(&f->lock);
}
