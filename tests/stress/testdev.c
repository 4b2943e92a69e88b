// SPDX-License-Identifier: MIT
#include "testdev.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "stress.h"

#define MAX_DEVICES	256
#define SHORT_RUN	5
#define ROOM_PAGES	32
#define AROUND_PAGES	16
#define FREED		0xdb
#define YIELDS		4
#define MAX_BY_COLLISION	1000000

struct pte {
	uint64_t pfn;		/* as hmm_range_fault() gave it; 0: none */
	void *exclusive;	/* or the bytes of a page that we have to ourselves */
};

/*
 * All of it is safe memory: callbacks run where the fault path runs.
 */
struct testdev {
	struct hmm_mm *mm;
	const void *owner;
	unsigned int flags;
	uint64_t nr_pages;
	size_t page_size;
	uintptr_t start;
	size_t nr_ptes;
	struct hmm_notifier *notifier;

	/* Readers use the handle of the memory, the writer replaces it. */
	pthread_rwlock_t handle_lock;
	struct hmm_devmem *devmem;
	_Atomic uint32_t id;

	/* From exclusive_begin() to the fill: one at a time, see take_exclusive(). */
	pthread_mutex_t exclusive_lock;

	/* The lock that invalidate() takes. Nothing under it can be away. */
	pthread_mutex_t lock;
	struct pte *ptes;
	uint8_t *lost;		/* per page: gone since our last exclusive_begin() */
	uint8_t *used;		/* per device page: handed out */
	uint64_t nr_used;
	uint64_t cursor;
	struct testdev_stats stats;

	/* Per device page: page tables that map it, of this device or of its group. */
	_Atomic uint32_t *mapped;
	_Atomic uint32_t *mapped_write;
	unsigned char *mem;
	_Atomic uint64_t nr_copies;
	_Atomic uint64_t nr_to_ram, nr_to_device, nr_from_device, nr_peer;
	const char *_Atomic broken;	/* the first rule that was */
};

/* By hmm_devmem_id(): pages of a shared owner can be another device's. */
static struct testdev *_Atomic devices[MAX_DEVICES];

static void broken(struct testdev *dev, const char *what)
{
	const char *none = NULL;

	atomic_compare_exchange_strong(&dev->broken, &none, what);
}

static void lock(struct testdev *dev)
{
	pthread_mutex_lock(&dev->lock);
}

static void unlock(struct testdev *dev)
{
	pthread_mutex_unlock(&dev->lock);
}

/* ---------------------------------------------------------------- page table */

static struct testdev *pfn_device(uint64_t pfn)
{
	return atomic_load(&devices[(pfn & HMM_PFN_DEVMEM_MASK) >> HMM_PFN_DEVMEM_SHIFT]);
}

static void pte_clear(struct pte *pte)
{
	struct testdev *dev;

	if (pte->pfn & HMM_PFN_DEVICE) {
		dev = pfn_device(pte->pfn);
		if (pte->pfn & HMM_PFN_WRITE)
			atomic_fetch_sub(&dev->mapped_write[pte->pfn & HMM_PFN_INDEX_MASK], 1);
		atomic_fetch_sub(&dev->mapped[pte->pfn & HMM_PFN_INDEX_MASK], 1);
	}
	pte->pfn = 0;
	pte->exclusive = NULL;
}

static void pte_set(struct testdev *dev, struct pte *pte, uint64_t pfn)
{
	struct testdev *where;
	uint64_t index;

	pte_clear(pte);
	if (pfn & HMM_PFN_DEVICE) {
		where = pfn_device(pfn);
		index = pfn & HMM_PFN_INDEX_MASK;
		if (!where || where->owner != dev->owner) {
			broken(dev, "a page entry names a device that is not of the owner");
			return;
		}
		if (index >= where->nr_pages || !where->used[index]) {
			broken(dev, "a page entry names a device page that is free");
			return;
		}
		if (pfn & HMM_PFN_WRITE)
			atomic_fetch_add(&where->mapped_write[index], 1);
		atomic_fetch_add(&where->mapped[index], 1);
	}
	pte->pfn = pfn;
}

/* @lost: somebody else's doing. */
static void erase(struct testdev *dev, uintptr_t start, uintptr_t end, bool lost)
{
	const uintptr_t limit = dev->start + dev->nr_ptes * dev->page_size;
	size_t i = start > dev->start ? (start - dev->start) / dev->page_size : 0;
	size_t last = end < limit ? (end - dev->start) / dev->page_size : dev->nr_ptes;

	for (; i < last; i++) {
		pte_clear(&dev->ptes[i]);
		dev->lost[i] = lost;
	}
}

static void invalidate(struct hmm_notifier *notifier, const struct hmm_event *event,
		       uint64_t seq, void *ctx)
{
	struct testdev *dev = ctx;
	bool ours = event->type == HMM_EVENT_EXCLUSIVE && event->owner == dev;
	uintptr_t end = dev->start + dev->nr_ptes * dev->page_size;

	(void)notifier;
	(void)seq;
	if (event->start >= end || event->end <= dev->start) {
		broken(dev, "an event beside the notifier's interval");
		return;
	}
	lock(dev);
	dev->stats.invalidates++;
	erase(dev, event->start, event->end, !ours);
	unlock(dev);
}

void testdev_forget(struct testdev *dev, uintptr_t start, uintptr_t end)
{
	lock(dev);
	erase(dev, start, end, true);
	unlock(dev);
}

/* ---------------------------------------------------------------- memory */

static unsigned char *page(const struct testdev *dev, uint64_t index)
{
	return dev->mem + index * dev->page_size;
}

static void free_pages(struct testdev *dev, uint64_t index, uint64_t nr)
{
	uint64_t i;

	if (index + nr > dev->nr_pages) {
		broken(dev, "pages beyond the memory freed");
		return;
	}
	lock(dev);
	for (i = index; i < index + nr; i++) {
		if (!dev->used[i])
			broken(dev, "a page freed twice");
		else
			dev->nr_used--;
		if (atomic_load(&dev->mapped[i]))
			broken(dev, "a page freed that a page table still maps");
		dev->used[i] = 0;
		memset(page(dev, i), FREED, dev->page_size);
	}
	unlock(dev);
}

static int64_t alloc_pages(struct testdev *dev, uint64_t nr, uint64_t *index)
{
	uint64_t i, n, first;

	if (dev->flags & TESTDEV_SHORT_RUNS && nr > SHORT_RUN)
		nr = SHORT_RUN;
	lock(dev);
	if (dev->nr_used == dev->nr_pages) {
		unlock(dev);
		return -ENOSPC;
	}
	for (i = 0; dev->used[(dev->cursor + i) % dev->nr_pages]; i++)
		;
	first = (dev->cursor + i) % dev->nr_pages;
	for (n = 0; n < nr && first + n < dev->nr_pages && !dev->used[first + n]; n++) {
		if (atomic_load(&dev->mapped[first + n]))
			broken(dev, "a free page that a page table maps");
		dev->used[first + n] = 1;
	}
	dev->nr_used += n;
	dev->cursor = (first + n) % dev->nr_pages;
	unlock(dev);
	*index = first;
	return (int64_t)n;
}

static int64_t op_page_alloc(struct hmm_devmem *devmem, uint64_t nr, uint64_t *index)
{
	struct testdev *dev = hmm_devmem_ctx(devmem);
	uint64_t victim;
	int64_t ret;

	ret = alloc_pages(dev, nr, index);
	if (ret != -ENOSPC || !(dev->flags & TESTDEV_MAKE_ROOM))
		return ret;
	lock(dev);
	victim = dev->cursor;
	unlock(dev);
	if (victim + ROOM_PAGES > dev->nr_pages)
		victim = dev->nr_pages > ROOM_PAGES ? dev->nr_pages - ROOM_PAGES : 0;
	ret = hmm_devmem_evict(devmem, victim,
			       ROOM_PAGES < dev->nr_pages ? ROOM_PAGES : dev->nr_pages);
	if (ret < 0)
		return ret;
	return alloc_pages(dev, nr, index);
}

static void op_page_free(struct hmm_devmem *devmem, uint64_t index, uint64_t nr)
{
	free_pages(hmm_devmem_ctx(devmem), index, nr);
}

/* What a copy answers, once its bytes are where they should be. */
static int copied(struct testdev *dev, struct hmm_copy *copy, uint64_t nr_pages, bool may_fail)
{
	uint64_t n = atomic_fetch_add(&dev->nr_copies, 1);
	int error = dev->flags & TESTDEV_FAIL_COPIES && may_fail && nr_pages && n % 13 == 5 ?
			    -EIO : 0;

	for (int i = 0; dev->flags & TESTDEV_YIELDS && i < YIELDS; i++)
		sched_yield();
	if (!(dev->flags & TESTDEV_EARLY_DONE) || n % 2)
		return error;
	hmm_copy_done(copy, error);
	return -EINPROGRESS;
}

static int op_copy_to_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			     const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct testdev *dev = hmm_devmem_ctx(devmem);
	uint64_t nr = 0;
	size_t i, k;

	for (i = 0; i < nr_runs; i++) {
		for (k = 0; k < runs[i].nr_pages; k++) {
			if (!dev->used[runs[i].index + k])
				broken(dev, "a copy into a free page");
			if (atomic_load(&dev->mapped[runs[i].index + k]))
				broken(dev, "a copy into a page that a page table maps");
		}
		if (runs[i].cpu)
			memcpy(page(dev, runs[i].index), runs[i].cpu,
			       runs[i].nr_pages * dev->page_size);
		else
			memset(page(dev, runs[i].index), 0, runs[i].nr_pages * dev->page_size);
		nr += runs[i].nr_pages;
	}
	atomic_fetch_add(&dev->nr_to_device, nr);
	return copied(dev, copy, nr, true);
}

static int op_copy_from_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			       const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct testdev *dev = hmm_devmem_ctx(devmem);
	uint64_t nr = 0;
	size_t i, k;

	for (i = 0; i < nr_runs; i++) {
		for (k = 0; k < runs[i].nr_pages; k++) {
			if (!dev->used[runs[i].index + k])
				broken(dev, "a copy out of a free page");
			if (atomic_load(&dev->mapped_write[runs[i].index + k]))
				broken(dev, "a copy out of a page that a device may write");
		}
		memcpy(runs[i].cpu, page(dev, runs[i].index), runs[i].nr_pages * dev->page_size);
		nr += runs[i].nr_pages;
	}
	atomic_fetch_add(&dev->nr_from_device, nr);
	/* A page that fails alone is lost, and nothing may be. */
	return copied(dev, copy, nr, nr > 1);
}

static int op_copy_peer(struct hmm_devmem *devmem, struct hmm_devmem *from,
			struct hmm_copy *copy, const struct hmm_peer_run *runs, size_t nr_runs)
{
	struct testdev *dev = hmm_devmem_ctx(devmem);
	struct testdev *peer = atomic_load(&devices[hmm_devmem_id(from)]);
	uint64_t nr = 0;
	size_t i, k;

	if (!(dev->flags & TESTDEV_PEER) || !peer)
		return -EOPNOTSUPP;
	for (i = 0; i < nr_runs; i++) {
		for (k = 0; k < runs[i].nr_pages; k++) {
			if (!dev->used[runs[i].to + k] || !peer->used[runs[i].from + k])
				broken(dev, "a copy between free pages");
			if (atomic_load(&peer->mapped_write[runs[i].from + k]))
				broken(peer, "a copy out of a page that a device may write");
		}
		memcpy(page(dev, runs[i].to), page(peer, runs[i].from),
		       runs[i].nr_pages * dev->page_size);
		nr += runs[i].nr_pages;
	}
	atomic_fetch_add(&dev->nr_peer, nr);
	return copied(dev, copy, nr, true);
}

static int op_migrate_to_ram(struct hmm_devmem *devmem, const struct hmm_fault *fault)
{
	struct testdev *dev = hmm_devmem_ctx(devmem);
	uintptr_t size = AROUND_PAGES * dev->page_size;
	uintptr_t start = fault->addr & ~(size - 1);
	int64_t ret;

	atomic_fetch_add(&dev->nr_to_ram, 1);
	if (!(dev->flags & TESTDEV_FAULT_AROUND))
		return 0;
	ret = hmm_evict(dev->mm, start, start + size);
	return ret < 0 ? (int)ret : 0;
}

/* ---------------------------------------------------------------- accesses */

/* A piece of one page. Exactly one of out, in and add is meant. */
struct access {
	void *out;
	const void *in;
	uint64_t add;
	size_t len;
};

static void access_do(const struct access *access, unsigned char *at)
{
	if (access->out)
		memcpy(access->out, at, access->len);
	else if (access->in)
		memcpy(at, access->in, access->len);
	else
		__atomic_fetch_add((uint64_t *)(void *)at, access->add, __ATOMIC_SEQ_CST);
}

static struct pte *pte_of(struct testdev *dev, uintptr_t addr)
{
	stress_check(addr >= dev->start && addr - dev->start < dev->nr_ptes * dev->page_size);
	return &dev->ptes[(addr - dev->start) / dev->page_size];
}

/*
 * Through the device's page table, under its lock: what holds the lock off is what
 * holds invalidate() off. False: not mapped for this, or by guarded copies only.
 */
static bool access_mapped(struct testdev *dev, uintptr_t addr, const struct access *access)
{
	struct pte *pte = pte_of(dev, addr);
	size_t offset = addr & (dev->page_size - 1);
	uint64_t need = access->out ? HMM_PFN_VALID : HMM_PFN_VALID | HMM_PFN_WRITE;
	bool done = true;

	lock(dev);
	if (pte->exclusive) {
		access_do(access, (unsigned char *)pte->exclusive + offset);
		dev->stats.exclusive++;
	} else if ((pte->pfn & need) != need) {
		done = false;
	} else if (pte->pfn & HMM_PFN_DEVICE) {
		access_do(access, page(pfn_device(pte->pfn), pte->pfn & HMM_PFN_INDEX_MASK) + offset);
		dev->stats.local++;
	} else if (!(pte->pfn & HMM_PFN_GUARDED)) {
		access_do(access, (unsigned char *)addr);
		dev->stats.direct++;
	} else {
		done = false;
	}
	unlock(dev);
	return done;
}

/* Ask for one page and put it into the table. 0 with @pfn, -EBUSY: go round. */
static int fill(struct testdev *dev, uintptr_t addr, bool write, uint64_t *pfn)
{
	uintptr_t start = addr & ~(dev->page_size - 1);
	uint64_t entry = 0;
	struct hmm_range range = {
		.size = sizeof(range),
		.start = start,
		.end = start + dev->page_size,
		.notifier = dev->notifier,
		.pfns = &entry,
		.default_flags = HMM_PFN_REQ_FAULT | (write ? HMM_PFN_REQ_WRITE : 0),
		.owner = dev->owner,
	};
	int ret;

	range.seq = hmm_notifier_read_begin(dev->notifier);
	ret = hmm_range_fault(dev->mm, &range);
	if (ret)
		return ret;
	if (!(entry & HMM_PFN_VALID) || (write && !(entry & HMM_PFN_WRITE)))
		broken(dev, "a fault that succeeded and gave no access");
	lock(dev);
	if (hmm_notifier_read_retry(dev->notifier, range.seq)) {
		dev->stats.refills++;
		ret = -EBUSY;
	} else {
		pte_set(dev, pte_of(dev, addr), entry);
		*pfn = entry;
	}
	unlock(dev);
	return ret;
}

/*
 * exclusive_begin() itself moves the notifier's sequence, so the collision is told by
 * the last event: ours comes before the page is taken, any other after it undoes that.
 *
 *   us                                  somebody touches the page
 *   --                                  -------------------------
 *   hmm_exclusive_begin()
 *     invalidate(ours): lost = 0
 *     takes the page
 *                                       invalidate(): lost = 1
 *   lock; lost: go round
 *
 * That our own events clear it leaves two of our threads taking one page from each
 * other: exclusive_lock.
 */
static int take_exclusive(struct testdev *dev, uintptr_t addr)
{
	uintptr_t start = addr & ~(dev->page_size - 1);
	size_t i = (start - dev->start) / dev->page_size;
	void *content = NULL;
	int64_t ret;

	pthread_mutex_lock(&dev->exclusive_lock);
	ret = hmm_exclusive_begin(dev->mm, start, start + dev->page_size, dev, &content);
	if (ret == 1 && content) {
		ret = -EAGAIN;
		lock(dev);
		if (!dev->lost[i]) {
			pte_clear(&dev->ptes[i]);
			dev->ptes[i].exclusive = content;
			ret = 0;
		}
		unlock(dev);
	} else if (ret >= 0) {
		broken(dev, "hmm_exclusive_begin: a count that is not that of the contents");
	}
	pthread_mutex_unlock(&dev->exclusive_lock);
	return (int)ret;
}

static int access_guarded(struct testdev *dev, uintptr_t addr, const struct access *access)
{
	int64_t ret;

	if (access->out)
		ret = hmm_copy_from_user(dev->mm, access->out, addr, access->len);
	else
		ret = hmm_copy_to_user(dev->mm, addr, access->in, access->len);
	if (ret < 0)
		return (int)ret;
	if ((size_t)ret != access->len)
		return -EFAULT;
	lock(dev);
	dev->stats.guarded++;
	unlock(dev);
	return 0;
}

static int access_page(struct testdev *dev, uintptr_t addr, const struct access *access)
{
	bool atomic = !access->out && !access->in;
	unsigned int round;
	uint64_t pfn = 0;
	int ret;

	for (round = 0; round < MAX_BY_COLLISION; round++) {
		if (access_mapped(dev, addr, access))
			return 0;
		ret = fill(dev, addr, !access->out, &pfn);
		if (ret == -EBUSY)
			continue;
		if (ret)
			return ret;
		if (pfn & HMM_PFN_DEVICE || !(pfn & HMM_PFN_GUARDED))
			continue;
		if (!atomic)
			return access_guarded(dev, addr, access);
		ret = take_exclusive(dev, addr);
		if (ret && ret != -EAGAIN)
			return ret;
	}
	stress_fail("device access to %#lx collided %d times", (unsigned long)addr, MAX_BY_COLLISION);
}

int testdev_read(struct testdev *dev, uintptr_t addr, void *buf, size_t len)
{
	struct access access = { .out = buf, .len = len };

	return access_page(dev, addr, &access);
}

int testdev_write(struct testdev *dev, uintptr_t addr, const void *buf, size_t len)
{
	struct access access = { .in = buf, .len = len };

	return access_page(dev, addr, &access);
}

int testdev_add(struct testdev *dev, uintptr_t addr, uint64_t value)
{
	struct access access = { .add = value, .len = sizeof(value) };

	return access_page(dev, addr, &access);
}

int testdev_write_exclusive(struct testdev *dev, uintptr_t addr, const void *buf, size_t len)
{
	struct access access = { .in = buf, .len = len };
	int ret;

	do {
		ret = take_exclusive(dev, addr);
		if (ret && ret != -EAGAIN)
			return ret;
	} while (ret || !access_mapped(dev, addr, &access));
	return 0;
}

/* ---------------------------------------------------------------- life */

static const struct hmm_devmem_ops devmem_ops = {
	.size = sizeof(devmem_ops),
	.copy_to_device = op_copy_to_device,
	.copy_from_device = op_copy_from_device,
	.page_free = op_page_free,
	.migrate_to_ram = op_migrate_to_ram,
	.page_alloc = op_page_alloc,
	.copy_peer = op_copy_peer,
};

static const struct hmm_notifier_ops notifier_ops = {
	.size = sizeof(notifier_ops),
	.invalidate = invalidate,
};

static void *safe(size_t nr, size_t size)
{
	void *p = hmm_safe_alloc(nr * size);

	if (!p)
		stress_fail("hmm_safe_alloc: nothing left for %zu bytes", nr * size);
	return p;
}

struct testdev *testdev_open(struct hmm_mm *mm, uint64_t nr_pages, unsigned int flags,
			     uintptr_t start, uintptr_t end, const void *owner)
{
	struct testdev *dev = safe(1, sizeof(*dev));
	pthread_rwlockattr_t attr;

	dev->mm = mm;
	dev->owner = owner ? owner : dev;
	dev->flags = flags;
	dev->nr_pages = nr_pages;
	dev->page_size = hmm_page_size();
	dev->start = start;
	dev->nr_ptes = (end - start) / dev->page_size;
	dev->ptes = safe(dev->nr_ptes, sizeof(*dev->ptes));
	dev->lost = safe(dev->nr_ptes, sizeof(*dev->lost));
	dev->used = safe(nr_pages, sizeof(*dev->used));
	dev->mapped = safe(nr_pages, sizeof(*dev->mapped));
	dev->mapped_write = safe(nr_pages, sizeof(*dev->mapped_write));
	dev->mem = safe(nr_pages, dev->page_size);
	memset(dev->mem, FREED, nr_pages * dev->page_size);
	pthread_mutex_init(&dev->lock, NULL);
	pthread_mutex_init(&dev->exclusive_lock, NULL);
	/* Or readers that come and go would keep the writer out for good. */
	pthread_rwlockattr_init(&attr);
#ifdef __GLIBC__
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
	pthread_rwlock_init(&dev->handle_lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	stress_check(hmm_notifier_insert(mm, start, end, &notifier_ops, dev, &dev->notifier) == 0);
	testdev_add_memory(dev);
	return dev;
}

void testdev_add_memory(struct testdev *dev)
{
	HMM_OPTS(hmm_devmem_opts, opts,
		 .flags = dev->flags & TESTDEV_THREADED ? 0 : HMM_DEVMEM_FAULT_SAFE,
		 .nr_pages = dev->nr_pages, .owner = dev->owner, .ops = &devmem_ops, .ctx = dev);
	int ret;

	pthread_rwlock_wrlock(&dev->handle_lock);
	ret = hmm_devmem_add(dev->mm, &opts, &dev->devmem);
	if (ret)
		stress_fail("hmm_devmem_add: %s", strerror(-ret));
	atomic_store(&dev->id, hmm_devmem_id(dev->devmem));
	atomic_store(&devices[dev->id], dev);
	pthread_rwlock_unlock(&dev->handle_lock);
}

void testdev_remove_memory(struct testdev *dev)
{
	uint64_t i;
	int ret;

	pthread_rwlock_wrlock(&dev->handle_lock);
	do {
		ret = hmm_devmem_remove(dev->devmem);
	} while (ret == -EAGAIN);
	if (ret)
		stress_fail("hmm_devmem_remove: %s", strerror(-ret));
	dev->devmem = NULL;
	/* A migration by hand may still hold pages it reserved, but map none. */
	for (i = 0; i < dev->nr_pages; i++)
		if (atomic_load(&dev->mapped[i]))
			broken(dev, "memory removed that a page table still maps");
	pthread_rwlock_unlock(&dev->handle_lock);
	testdev_check(dev);
}

void testdev_close(struct testdev *dev)
{
	int ret;

	testdev_remove_memory(dev);
	stress_check(dev->nr_used == 0);
	/* Our page table may map pages of the rest of the group, which stay. */
	testdev_forget(dev, dev->start, dev->start + dev->nr_ptes * dev->page_size);
	ret = hmm_notifier_remove(dev->notifier);
	if (ret)
		stress_fail("hmm_notifier_remove: %s", strerror(-ret));
	testdev_check(dev);
	atomic_store(&devices[dev->id], NULL);
	pthread_rwlock_destroy(&dev->handle_lock);
	pthread_mutex_destroy(&dev->exclusive_lock);
	pthread_mutex_destroy(&dev->lock);
	hmm_safe_free(dev->mem, dev->nr_pages * dev->page_size);
	hmm_safe_free(dev->mapped_write, dev->nr_pages * sizeof(*dev->mapped_write));
	hmm_safe_free(dev->mapped, dev->nr_pages * sizeof(*dev->mapped));
	hmm_safe_free(dev->used, dev->nr_pages * sizeof(*dev->used));
	hmm_safe_free(dev->lost, dev->nr_ptes * sizeof(*dev->lost));
	hmm_safe_free(dev->ptes, dev->nr_ptes * sizeof(*dev->ptes));
	hmm_safe_free(dev, sizeof(*dev));
}

void testdev_check(const struct testdev *dev)
{
	const char *what = atomic_load(&dev->broken);

	if (what)
		stress_fail("device %u: %s", atomic_load(&dev->id), what);
}

struct hmm_devmem *testdev_devmem(const struct testdev *dev)
{
	return dev->devmem;
}

const void *testdev_owner(const struct testdev *dev)
{
	return dev->owner;
}

uint32_t testdev_id(const struct testdev *dev)
{
	return atomic_load(&dev->id);
}

int64_t testdev_migrate(struct testdev *dev, uintptr_t start, uintptr_t end)
{
	int64_t ret = 0;

	pthread_rwlock_rdlock(&dev->handle_lock);
	if (dev->devmem)
		ret = hmm_migrate_to_device(dev->mm, dev->devmem, start, end,
					    HMM_MIGRATE_SYSTEM | HMM_MIGRATE_DEVICE, NULL);
	pthread_rwlock_unlock(&dev->handle_lock);
	if (ret < 0 && ret != -ENOSPC && ret != -ENOMEM)
		stress_fail("hmm_migrate_to_device(%#lx, %#lx): %s", (unsigned long)start,
			    (unsigned long)end, strerror((int)-ret));
	return ret;
}

int64_t testdev_alloc(struct testdev *dev, uint64_t nr, uint64_t *index)
{
	return alloc_pages(dev, nr, index);
}

void testdev_free(struct testdev *dev, uint64_t index, uint64_t nr)
{
	free_pages(dev, index, nr);
}

const void *testdev_page(const struct testdev *dev, uint64_t index)
{
	return page(dev, index);
}

void testdev_stats(const struct testdev *dev, struct testdev_stats *stats)
{
	*stats = dev->stats;
	stats->to_device = atomic_load(&dev->nr_to_device);
	stats->from_device = atomic_load(&dev->nr_from_device);
	stats->peer = atomic_load(&dev->nr_peer);
	stats->to_ram = atomic_load(&dev->nr_to_ram);
}
