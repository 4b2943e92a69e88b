/* SPDX-License-Identifier: MIT */
/*
 * A driver that breaks one promise, which option "breaks" names, so that the kit can be
 * seen to find it. With breaks=nothing it keeps them all, as slowly as it can be.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <uhmm/plugin.h>

#define NR_PAGES	256u
#define ROOM		10u	/* what breaks=arrives calls full */

enum breaks {
	NOTHING, BYTES, ZEROS, ALLOC, FREE, ARRIVES, ONCE, BUFFERS, SAFE, ERRORS, SEES, STOPS,
	RIGHTS, ATOMIC, CLOSES, ENDS, STANDS,
};

static const struct hmm_plugin_option options[] = {
	{ "breaks", HMM_PLUGIN_WORD, 0, 0, 0,
	  "nothing|bytes|zeros|alloc|free|arrives|once|buffers|safe|errors|sees|stops|rights|"
	  "atomic|closes|ends|stands", "which promise" },
};

struct device {
	enum breaks breaks;
	struct hmm_mm *mm;
	struct hmm_devmem *devmem;
	struct hmm_notifier *notifier;
	size_t page_size;
	unsigned char *mem;
	void *late;			/* breaks=buffers: of the copy before */
	_Atomic(void *) heap;		/* breaks=safe */
	pthread_mutex_t lock;		/* invalidate() takes it */
	uint32_t nr_slow;		/* breaks=atomic */
	uint32_t nr_used;
	bool used[NR_PAGES];
	uintptr_t page;			/* the one translation; 0: none */
	uint64_t pfn;
	unsigned char seen[4096];	/* breaks=sees: the page as it was at the translation */
};

static unsigned char *mem_of(const struct device *dev, uint64_t index)
{
	return dev->mem + index * dev->page_size;
}

/* ---------------------------------------------------------------- memory */

static int copy_to(struct hmm_devmem *devmem, struct hmm_copy *copy,
		   const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct device *dev = hmm_devmem_ctx(devmem);

	if (dev->breaks == SAFE)
		free(atomic_exchange(&dev->heap, malloc(64)));
	if (dev->breaks == ENDS)
		return -EINPROGRESS;
	if (dev->breaks == STANDS)
		abort();
	for (size_t i = 0; i < nr_runs; i++) {
		uint64_t nr = runs[i].nr_pages - (dev->breaks == BYTES && runs[i].nr_pages > 1);

		if (runs[i].cpu)
			memcpy(mem_of(dev, runs[i].index), runs[i].cpu, nr * dev->page_size);
		else if (dev->breaks != ZEROS)
			memset(mem_of(dev, runs[i].index), 0, nr * dev->page_size);
	}
	if (dev->breaks == ONCE)
		hmm_copy_done(copy, 0);
	return 0;
}

static int copy_from(struct hmm_devmem *devmem, struct hmm_copy *copy,
		     const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct device *dev = hmm_devmem_ctx(devmem);

	(void)copy;
	if (dev->late && dev->late != runs[0].cpu)
		*(unsigned char *)dev->late = 1;
	for (size_t i = 0; i < nr_runs; i++)
		memcpy(runs[i].cpu, mem_of(dev, runs[i].index), runs[i].nr_pages * dev->page_size);
	if (dev->breaks == BUFFERS)
		dev->late = runs[0].cpu;
	return 0;
}

static int64_t page_alloc(struct hmm_devmem *devmem, uint64_t nr, uint64_t *index)
{
	struct device *dev = hmm_devmem_ctx(devmem);
	uint32_t first = 0, n = 0;

	pthread_mutex_lock(&dev->lock);
	while (first < NR_PAGES && dev->used[first] && dev->breaks != ALLOC)
		first++;
	while (n < nr && first + n < NR_PAGES && (!dev->used[first + n] || dev->breaks == ALLOC) &&
	       !(dev->breaks == ARRIVES && dev->nr_used == ROOM)) {
		dev->used[first + n++] = true;
		dev->nr_used++;
	}
	pthread_mutex_unlock(&dev->lock);
	*index = first;
	return n ? (int64_t)n : -ENOSPC;
}

static void page_free(struct hmm_devmem *devmem, uint64_t index, uint64_t nr_pages)
{
	struct device *dev = hmm_devmem_ctx(devmem);

	pthread_mutex_lock(&dev->lock);
	for (uint64_t i = index; i < index + nr_pages && dev->breaks != FREE; i++) {
		dev->used[i] = false;
		dev->nr_used--;
	}
	pthread_mutex_unlock(&dev->lock);
}

/* breaks=errors: destinations that hmm_migrate_copy() gave up are given nevertheless. */
static int64_t migrate(struct hmm_device *device, uintptr_t start, uintptr_t end)
{
	struct device *dev = device->ctx;
	uint64_t src[NR_PAGES], dst[NR_PAGES] = { 0 }, kept[NR_PAGES];
	HMM_OPTS(hmm_migrate, m, .flags = HMM_MIGRATE_SYSTEM, .start = start, .end = end,
		 .src = src, .dst = dst, .owner = dev);
	size_t nr = (end - start) / dev->page_size;
	int64_t n = 0;
	int ret;

	if (dev->breaks != ERRORS)
		return hmm_migrate_to_device(dev->mm, dev->devmem, start, end,
					     HMM_MIGRATE_SYSTEM | HMM_MIGRATE_DEVICE, NULL);
	ret = hmm_migrate_setup(dev->mm, &m);
	if (ret)
		return ret;
	for (size_t i = 0; i < nr; i++) {
		uint64_t index;

		if (src[i] & HMM_SRC_MIGRATE && page_alloc(dev->devmem, 1, &index) == 1)
			dst[i] = hmm_dst(hmm_devmem_id(dev->devmem), index);
	}
	memcpy(kept, dst, sizeof(kept));
	ret = hmm_migrate_copy(dev->mm, &m);
	memcpy(dst, kept, sizeof(kept));
	hmm_migrate_pages(dev->mm, &m);
	for (size_t i = 0; i < nr; i++)
		n += src[i] >> 63;
	hmm_migrate_finalize(dev->mm, &m);
	return n;
}

/* ---------------------------------------------------------------- mirror */

static void invalidate(struct hmm_notifier *notifier, const struct hmm_event *event, uint64_t seq,
		       void *ctx)
{
	struct device *dev = ctx;

	(void)notifier;
	(void)seq;
	pthread_mutex_lock(&dev->lock);
	if (event->start <= dev->page && dev->page < event->end &&
	    !(dev->breaks == STOPS && event->type == HMM_EVENT_CLEAR))
		dev->page = 0;
	pthread_mutex_unlock(&dev->lock);
}

static unsigned char *bytes_of(struct device *dev, uintptr_t addr)
{
	size_t offset = addr & (dev->page_size - 1);

	if (dev->breaks == SEES)
		return dev->seen + offset;
	return dev->pfn & HMM_PFN_DEVICE ? mem_of(dev, dev->pfn & HMM_PFN_INDEX_MASK) + offset :
					   (unsigned char *)addr;
}

static int fault(struct device *dev, uintptr_t page, bool write, uint64_t *pfn)
{
	HMM_OPTS(hmm_range, range, .start = page, .end = page + dev->page_size,
		 .notifier = dev->notifier, .pfns = pfn, .owner = dev,
		 .default_flags = HMM_PFN_REQ_FAULT | (write ? HMM_PFN_REQ_WRITE : 0));
	int ret;

	range.seq = hmm_notifier_read_begin(dev->notifier);
	*pfn = 0;
	ret = hmm_range_fault(dev->mm, &range);
	if (ret)
		return ret;
	pthread_mutex_lock(&dev->lock);
	if (hmm_notifier_read_retry(dev->notifier, range.seq)) {
		ret = -EBUSY;
	} else if (!(*pfn & HMM_PFN_GUARDED)) {
		dev->page = page;
		dev->pfn = *pfn;
		if (dev->breaks == SEES)
			memcpy(dev->seen, *pfn & HMM_PFN_DEVICE ?
			       mem_of(dev, *pfn & HMM_PFN_INDEX_MASK) : (unsigned char *)page,
			       dev->page_size);
	}
	pthread_mutex_unlock(&dev->lock);
	return ret;
}

/* The first few take until somebody else has added: what is lost is lost for certain. */
static void add_slowly(struct device *dev, volatile uint64_t *word, uint64_t add)
{
	uint64_t value = *word;

	if (dev->nr_slow++ < 16)
		for (int n = 0; n < 10000 && *word == value; n++)
			sched_yield();
	*word = value + add;
}

/* One byte; add: to 8 bytes. */
static int access_byte(struct device *dev, uintptr_t addr, unsigned char *in,
		       const unsigned char *out, uint64_t add)
{
	uintptr_t page = addr & ~(uintptr_t)(dev->page_size - 1);
	bool write = !in && dev->breaks != RIGHTS;
	uint64_t need = HMM_PFN_VALID | (write ? HMM_PFN_WRITE : 0), pfn;
	int ret = -EBUSY;

	for (;;) {
		pthread_mutex_lock(&dev->lock);
		if (dev->page == page && (dev->pfn & need) == need) {
			unsigned char *at = bytes_of(dev, addr);

			if (in)
				*in = *at;
			else if (out)
				*at = *out;
			else if (dev->breaks == ATOMIC)
				add_slowly(dev, (volatile uint64_t *)(void *)at, add);
			else
				__atomic_fetch_add((uint64_t *)(void *)at, add, __ATOMIC_SEQ_CST);
			pthread_mutex_unlock(&dev->lock);
			return 0;
		}
		pthread_mutex_unlock(&dev->lock);
		ret = fault(dev, page, write, &pfn);
		if (ret && ret != -EBUSY)
			return ret;
		if (ret || !(pfn & HMM_PFN_GUARDED))
			continue;
		if (!in && !out)
			return -EOPNOTSUPP;
		if (dev->breaks == RIGHTS && out)
			return 0;
		ret = (int)(in ? hmm_copy_from_user(dev->mm, in, addr, 1) :
				 hmm_copy_to_user(dev->mm, addr, out, 1));
		return ret < 0 ? ret : 0;
	}
}

static int device_read(struct hmm_device *device, uintptr_t addr, void *buf, size_t len)
{
	int ret = 0;

	for (size_t i = 0; i < len && !ret; i++)
		ret = access_byte(device->ctx, addr + i, (unsigned char *)buf + i, NULL, 0);
	return ret;
}

static int device_write(struct hmm_device *device, uintptr_t addr, const void *buf, size_t len)
{
	int ret = 0;

	for (size_t i = 0; i < len && !ret; i++)
		ret = access_byte(device->ctx, addr + i, NULL, (const unsigned char *)buf + i, 0);
	return ret;
}

static int device_add(struct hmm_device *device, uintptr_t addr, uint64_t value)
{
	return access_byte(device->ctx, addr, NULL, NULL, value);
}

/* ---------------------------------------------------------------- life */

static int device_open(struct hmm_device *device, const struct hmm_plugin_value *values)
{
	static const struct hmm_devmem_ops ops = {
		.size = sizeof(ops), .copy_to_device = copy_to, .copy_from_device = copy_from,
		.page_free = page_free, .page_alloc = page_alloc,
	};
	HMM_OPTS(hmm_notifier_ops, watch, .invalidate = invalidate);
	struct device *dev = hmm_safe_alloc(sizeof(*dev));
	HMM_OPTS(hmm_devmem_opts, opts, .flags = HMM_DEVMEM_FAULT_SAFE, .nr_pages = NR_PAGES,
		 .owner = dev, .ops = &ops, .ctx = dev);
	int ret;

	if (!dev)
		return -ENOMEM;
	dev->breaks = (enum breaks)values[0].number;
	dev->mm = device->mm;
	dev->page_size = hmm_page_size();
	dev->mem = hmm_safe_alloc(NR_PAGES * dev->page_size);
	if (!dev->mem || dev->page_size > sizeof(dev->seen))
		return -ENOMEM;
	memset(dev->mem, 0xd5, NR_PAGES * dev->page_size);
	pthread_mutex_init(&dev->lock, NULL);
	ret = hmm_notifier_insert(dev->mm, 0, ((uintptr_t)1 << 47) - dev->page_size, &watch, dev,
				  &dev->notifier);
	if (!ret)
		ret = hmm_devmem_add(dev->mm, &opts, &dev->devmem);
	device->devmem = dev->devmem;
	device->ctx = dev;
	return ret;
}

static int device_close(struct hmm_device *device)
{
	struct device *dev = device->ctx;
	int ret = hmm_devmem_remove(dev->devmem);

	if ((ret && ret != -EIO) || dev->breaks == CLOSES)
		return ret;
	return hmm_notifier_remove(dev->notifier) ? -EDEADLK : ret;
}

const struct hmm_plugin hmm_plugin = {
	.size = sizeof(hmm_plugin),
	.abi = HMM_PLUGIN_ABI,
	.nr_options = 1,
	.options = options,
	.name = "broken",
	.what = "a driver that breaks one promise",
	.open = device_open,
	.close = device_close,
	.migrate = migrate,
	.read = device_read,
	.write = device_write,
	.add = device_add,
};
