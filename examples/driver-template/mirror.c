/* SPDX-License-Identifier: MIT */
/*
 * The device's view of the program. Its page table is a small cache of translations:
 * what is not in it is asked for again. An access holds mirror_lock from looking at a
 * translation until its bytes have moved, so that invalidate(), which takes the same
 * lock, returns when no access uses the range any more. On hardware that wait is the
 * TLB flush.
 */
#include "template.h"

#include <errno.h>
#include <string.h>

/* A piece of one page: exactly one of in and out is set. */
struct access {
	uintptr_t addr;
	void *in;
	const void *out;
	size_t len;
};

static uintptr_t page_of(const struct template_device *dev, uintptr_t addr)
{
	return addr & ~(uintptr_t)(dev->page_size - 1);
}

static struct translation *slot_of(struct template_device *dev, uintptr_t page)
{
	return &dev->translations[page / dev->page_size % TRANSLATIONS];
}

/* Own migrations and others alike: where the page went is asked for anew. */
static void invalidate(struct hmm_notifier *notifier, const struct hmm_event *event,
		       uint64_t seq, void *ctx)
{
	struct template_device *dev = ctx;

	(void)notifier;
	(void)seq;
	pthread_mutex_lock(&dev->mirror_lock);
	for (size_t i = 0; i < TRANSLATIONS; i++) {
		struct translation *t = &dev->translations[i];

		if (t->page >= event->start && t->page < event->end)
			*t = (struct translation){ .page = 0 };
	}
	pthread_mutex_unlock(&dev->mirror_lock);
}

/* ---------------------------------------------------------------- accesses */

/* Through a translation. mirror_lock held. */
static int access_through(struct template_device *dev, uint64_t pfn, const struct access *a)
{
	size_t offset = a->addr & (dev->page_size - 1);

	if (!(pfn & HMM_PFN_DEVICE)) {
		if (a->in)
			memcpy(a->in, (const void *)a->addr, a->len);
		else
			memcpy((void *)a->addr, a->out, a->len);
		return 0;
	}
	if (a->in)
		return memory_read(dev, pfn & HMM_PFN_INDEX_MASK, offset, a->in, a->len);
	return memory_write(dev, pfn & HMM_PFN_INDEX_MASK, offset, a->out, a->len);
}

/* True with @ret when the device has a translation that allows the access. */
static bool access_mapped(struct template_device *dev, const struct access *a, int *ret)
{
	uint64_t need = a->in ? HMM_PFN_VALID : HMM_PFN_VALID | HMM_PFN_WRITE;
	uintptr_t page = page_of(dev, a->addr);
	const struct translation *t = slot_of(dev, page);
	bool mapped;

	pthread_mutex_lock(&dev->mirror_lock);
	mapped = t->page == page && (t->pfn & need) == need;
	if (mapped)
		*ret = access_through(dev, t->pfn, a);
	pthread_mutex_unlock(&dev->mirror_lock);
	return mapped;
}

/* System memory whose changes are not announced in time: the core's copies are safe. */
static int access_guarded(struct template_device *dev, const struct access *a)
{
	int64_t n = a->in ? hmm_copy_from_user(dev->mm, a->in, a->addr, a->len) :
			    hmm_copy_to_user(dev->mm, a->addr, a->out, a->len);

	if (n < 0)
		return (int)n;
	return (size_t)n == a->len ? 0 : -EFAULT;
}

/*
 * A device fault: ask the core for the page, and keep the answer unless an invalidation
 * came in between. -EBUSY: it did, go round.
 */
static int fault(struct template_device *dev, uintptr_t page, bool write, uint64_t *pfn)
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

	pthread_mutex_lock(&dev->mirror_lock);
	if (hmm_notifier_read_retry(dev->notifier, range.seq))
		ret = -EBUSY;
	else if (!(*pfn & HMM_PFN_GUARDED))
		*slot_of(dev, page) = (struct translation){ .page = page, .pfn = *pfn };
	pthread_mutex_unlock(&dev->mirror_lock);
	return ret;
}

/* The policy, all of it: what the device touches comes to it, with its surroundings. */
static void bring_in(struct template_device *dev, uintptr_t page)
{
	uintptr_t size = AROUND_PAGES * dev->page_size;
	uintptr_t start = page & ~(size - 1);
	int64_t ret;

	if (!dev->migrates)
		return;
	/* Best effort: where nothing moves the device works on system memory. */
	ret = hmm_migrate_to_device(dev->mm, dev->devmem, start, start + size,
				    HMM_MIGRATE_SYSTEM, NULL);
	(void)ret;
}

static int access_page(struct template_device *dev, const struct access *a)
{
	uintptr_t page = page_of(dev, a->addr);
	uint64_t pfn;
	int ret;

	if (access_mapped(dev, a, &ret))
		return ret;
	bring_in(dev, page);
	for (;;) {
		ret = fault(dev, page, a->out, &pfn);
		if (ret && ret != -EBUSY)
			return ret;
		if (!ret && pfn & HMM_PFN_GUARDED)
			return access_guarded(dev, a);
		if (access_mapped(dev, a, &ret))
			return ret;
	}
}

static int access_range(struct template_device *dev, struct access a)
{
	size_t left = a.len;
	int ret = 0;

	while (left && !ret) {
		size_t room = dev->page_size - (a.addr & (dev->page_size - 1));

		a.len = left < room ? left : room;
		ret = access_page(dev, &a);
		left -= a.len;
		a.addr += a.len;
		if (a.in)
			a.in = (char *)a.in + a.len;
		else
			a.out = (const char *)a.out + a.len;
	}
	return ret;
}

int mirror_read(struct template_device *dev, uintptr_t addr, void *buf, size_t len)
{
	return access_range(dev, (struct access){ .addr = addr, .in = buf, .len = len });
}

int mirror_write(struct template_device *dev, uintptr_t addr, const void *buf, size_t len)
{
	return access_range(dev, (struct access){ .addr = addr, .out = buf, .len = len });
}

/* ---------------------------------------------------------------- life */

int mirror_open(struct template_device *dev)
{
	HMM_OPTS(hmm_notifier_ops, ops, .invalidate = invalidate);
	uintptr_t end = ((uintptr_t)1 << 47) - dev->page_size;
	int ret;

	pthread_mutex_init(&dev->mirror_lock, NULL);
	ret = hmm_notifier_insert(dev->mm, 0, end, &ops, dev, &dev->notifier);
	if (ret)
		pthread_mutex_destroy(&dev->mirror_lock);
	return ret;
}

int mirror_close(struct template_device *dev)
{
	int ret = hmm_notifier_remove(dev->notifier);

	if (!ret)
		pthread_mutex_destroy(&dev->mirror_lock);
	return ret;
}
