/* SPDX-License-Identifier: MIT */
#include "faults.h"

#include <errno.h>
#include <string.h>

#include "device.h"

#define AHEAD_PAGES	256u	/* a stream of this pace has the next range fetched early */
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

/* Pages from @addr on. Lock held. */
static uint32_t pace(struct nbd_faults *f, uintptr_t addr)
{
	struct nbd_stream *s = stream_of(f, addr);

	if (s) {
		s->pages = s->pages * GROWTH < FAULT_PAGES ? s->pages * GROWTH : FAULT_PAGES;
	} else {
		s = &f->stream[f->oldest++ % FAULT_STREAMS];
		s->pages = 1;
	}
	s->next = addr + s->pages * f->page;
	return s->pages;
}

/* The range that a fault on @addr brings home. Lock held. */
static void range_of(struct nbd_faults *f, uintptr_t addr, uintptr_t *start, uintptr_t *end)
{
	if (f->around) {
		*start = addr & ~(f->around * f->page - 1);
		*end = *start + f->around * f->page;
	} else {
		*start = addr;
		*end = addr + pace(f, addr) * f->page;
	}
}

/* ---------------------------------------------------------------- many pages */

/* Lock held. false: all movers are busy. */
static bool mover_assign(struct nbd_faults *f, const struct hmm_fault *fault, uintptr_t start,
			 uintptr_t end, uintptr_t ahead)
{
	for (uint32_t i = 0; i < FAULT_MOVERS; i++) {
		struct nbd_mover *m = &f->mover[i];

		if (!m->idle)
			continue;
		m->idle = false;
		m->fault = *fault;
		m->start = start;
		m->end = end;
		m->ahead = ahead;
		pthread_cond_signal(&m->work);
		return true;
	}
	return false;
}

/*
 * The CPU goes on as soon as its page is home. The fault is ended last, because it keeps
 * the address space in existence. Pages that cannot be had are the core's to report.
 */
static void mover_run(struct nbd_mover *m)
{
	struct hmm_mm *mm = m->fault.mm;
	int64_t pages = hmm_evict(mm, m->start, m->end);

	if (pages >= 0 && m->ahead > m->end)
		pages = hmm_evict(mm, m->end, m->ahead);
	hmm_fault_done(m->dev->devmem, &m->fault);
}

static void *mover_main(void *arg)
{
	struct nbd_mover *m = arg;
	struct nbd_faults *f = &m->dev->faults;

	pthread_mutex_lock(&f->lock);
	for (;;) {
		m->idle = true;
		while (m->idle && !atomic_load_explicit(&f->stopping, memory_order_relaxed))
			pthread_cond_wait(&m->work, &f->lock);
		if (m->idle)
			break;
		pthread_mutex_unlock(&f->lock);
		mover_run(m);
		pthread_mutex_lock(&f->lock);
	}
	m->idle = false;
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

/* ---------------------------------------------------------------- a page alone */

static void single_put(struct nbd_device *dev, uint32_t slot)
{
	atomic_fetch_and_explicit(&dev->faults.active, ~(1ULL << slot), memory_order_relaxed);
	nbd_channel_put(&dev->channel, slot);
}

static int single_post(struct nbd_device *dev, const struct hmm_fault *fault)
{
	struct nbd_channel *ch = &dev->channel;
	uint32_t slot = nbd_channel_get_single(ch);
	struct nbd_fault *s;
	uintptr_t addr;

	if (slot == NO_SLOT)
		return -EAGAIN;
	s = &dev->faults.fault[slot];
	s->fault = *fault;
	s->tries = s->avoid = 0;
	s->error = 0;
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
	nbd_channel_post(ch, slot, LINK_READ, fault->index, 1, 0);
	return -EINPROGRESS;
}

/* What was read is wrong: from another server, once. true: under way again. */
static bool single_again(struct nbd_device *dev, uint32_t slot)
{
	struct nbd_fault *s = &dev->faults.fault[slot];
	struct nbd_channel *ch = &dev->channel;

	if (s->tries++ == 2)
		return false;
	/* The first time from anywhere: it may have gone wrong on the way. */
	if (s->tries == 2)
		s->avoid |= 1u << (ch->mem->slot[slot].served % LINK_SERVERS);
	nbd_channel_post(ch, slot, LINK_READ, s->fault.index, 1, s->avoid);
	return true;
}

static bool single_gone(const struct nbd_fault *s)
{
	return atomic_load_explicit(&s->gone, memory_order_acquire);
}

static void single_end(struct nbd_device *dev, uint32_t slot)
{
	struct nbd_fault *s = &dev->faults.fault[slot];
	uint64_t index = s->fault.index;

	s->error = nbd_channel_wait(&dev->channel, slot);	/* it is done */
	if (!s->error && !single_gone(s) &&
	    !nbd_page_intact(dev, index, nbd_channel_buffer(&dev->channel, slot))) {
		if (single_again(dev, slot))
			return;
		s->error = -EIO;
	}
	dev->faults.ending = slot;
	hmm_fault_done(dev->devmem, &s->fault);
	dev->faults.ending = NO_SLOT;
	single_put(dev, slot);
}

/* The device whose completer this thread is. */
static _Thread_local const struct nbd_device *completer_of;

static void *completer_main(void *arg)
{
	struct nbd_device *dev = arg;
	struct nbd_faults *f = &dev->faults;
	struct link_memory *mem = dev->channel.mem;

	completer_of = dev;
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
			single_end(dev, slot);
			some = true;
		}
		if (!some)
			link_futex_wait(&mem->completions, seen, LOOK_MS);
	}
}

bool nbd_faults_take(struct nbd_device *dev, uint64_t index, void *cpu, int *ret)
{
	struct nbd_fault *s;
	uint32_t slot;

	if (completer_of != dev || dev->faults.ending == NO_SLOT)
		return false;
	slot = dev->faults.ending;
	s = &dev->faults.fault[slot];
	if (s->fault.index != index || single_gone(s))
		return false;
	*ret = s->error;
	if (s->error)
		return true;
	memcpy(cpu, nbd_channel_buffer(&dev->channel, slot), dev->channel.page);
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

int nbd_migrate_to_ram(struct hmm_devmem *devmem, const struct hmm_fault *fault)
{
	struct nbd_device *dev = hmm_devmem_ctx(devmem);
	struct nbd_faults *f = &dev->faults;
	uintptr_t start, end;
	bool moved = false;

	pthread_mutex_lock(&f->lock);
	range_of(f, fault->addr, &start, &end);
	if (end - start > f->page) {
		struct nbd_stream *s = f->around ? NULL : stream_of(f, end);
		bool early = s && s->pages >= AHEAD_PAGES;
		uintptr_t ahead = early ? end + (end - start) : end;

		moved = mover_assign(f, fault, start, end, ahead);
		if (moved && early)
			s->next = ahead;
	}
	pthread_mutex_unlock(&f->lock);
	if (moved)
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
	f->ending = NO_SLOT;
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
