/* SPDX-License-Identifier: MIT */
/*
 * What a driver of a device needs beyond uhmm.h: device memory, migration,
 * exclusive access, and memory that is never away.
 *
 * A driver is what a kernel driver is: it owns the device's page table, its memory,
 * its faults and its policy, and uses the core. The core never decides what moves.
 *
 * Where driver code runs, and what it may touch there:
 *
 *   invalidate          mm lock held; see struct hmm_notifier_ops
 *   page_free           mm lock may be held: as invalidate
 *   copy_*, migrate_to_ram
 *                       no core lock held, but for copy_from_device while a child made
 *                       by a raw clone is served in an mm that is not STRICT. copy_*
 *                       may call nothing of libuhmm but hmm_copy_done() and
 *                       hmm_bulk_copy(). With HMM_DEVMEM_FAULT_SAFE on the very
 *                       thread that serves CPU faults: whatever the code touches
 *                       must never be away (static data, the stack it runs on,
 *                       hmm_safe_alloc()), and it must not malloc, use stdio, map
 *                       memory or wait for a thread that could take a CPU fault.
 *                       Without it on the thread that asked for the migration, or on
 *                       one of the devmem's own: it may use any library, as long as
 *                       what it waits for is not behind a page of the same devmem.
 */
#ifndef UHMM_DRIVER_H
#define UHMM_DRIVER_H

#include <uhmm/uhmm.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/* ------------------------------------------------------------------ safe memory */

/**
 * hmm_safe_alloc() - zeroed memory that is never migrated and never away
 * @bytes: up to 64 KiB from the arena, more by a mapping of its own
 *
 * For what callbacks touch. Aligned to 64 bytes, to the page from 64 KiB up and to
 * 2 MiB from 2 MiB up. Not inherited by a forked child (reads as zeros or is not
 * there).
 *
 * Context: any thread; not from callbacks above 64 KiB (it maps memory).
 *
 * Return: the memory, or NULL: none left, or @bytes is 0.
 */
void *hmm_safe_alloc(size_t bytes);

/** hmm_safe_free() - give it back; NULL is fine. @bytes as allocated. */
void hmm_safe_free(void *p, size_t bytes);

struct hmm_safe_thread;		/* a thread on a stack of safe memory; opaque */

/**
 * hmm_safe_thread_start() - run @fn(@arg) on a thread that no page that is away can stop
 * @stack_bytes: a multiple of the page size from 128 KiB up; 0: 256 KiB. A guard page
 *               comes on top, and the thread-local storage of the program and its libraries
 * @out:         the thread, which hmm_safe_thread_join() ends and frees
 *
 * For a device's own threads: they run while pages are away, some for a CPU fault that
 * waits for them. The stack, with the thread control block in it, is safe memory above a
 * guard page, and every signal is blocked: a handler of the program's would run there.
 * What @fn touches beyond its stack is its own care. A forked child has neither the
 * thread nor its handle.
 *
 * Context: any thread, not from callbacks (it maps memory). It returns once the thread runs:
 *   the caller holds no lock that a callback takes, or whatever runs in a new thread before
 *   @fn (a sanitizer's part does, and may touch pages that are away).
 *
 * Return: 0, -EINVAL (NULL, or a size as above is not), -ENOMEM (no memory, or no more
 *   threads).
 */
int hmm_safe_thread_start(void *(*fn)(void *), void *arg, size_t stack_bytes,
			  struct hmm_safe_thread **out) HMM_MUST_CHECK;

/**
 * hmm_safe_thread_join() - wait for its end, and free it and its stack; NULL is fine
 *
 * Once. Not from the thread itself. Context: any thread, not from callbacks; blocks.
 */
void hmm_safe_thread_join(struct hmm_safe_thread *thread);

/* ------------------------------------------------------------------ devmem */

/* A piece of a copy: nr_pages pages, consecutive on both sides. */
struct hmm_copy_run {
	void *cpu;		/* NULL, towards the device only: fill with zeros */
	uint64_t index;		/* first device page */
	uint64_t nr_pages;
};

/* A piece of a copy between two devices. */
struct hmm_peer_run {
	uint64_t from, to;	/* first device page on each side */
	uint64_t nr_pages;
};

struct hmm_copy;		/* a copy under way; opaque */

/**
 * hmm_copy_done() - a copy that answered -EINPROGRESS has ended
 * @error: 0, or a negative errno: then the bytes of every run are taken as not
 *         copied (from a device: read again page by page to find the bad one)
 *
 * Exactly once per copy; afterwards the driver may not touch its buffers.
 * Context: any thread, any lock held.
 */
void hmm_copy_done(struct hmm_copy *copy, int error);

/* A CPU touched a device page. */
struct hmm_fault {
	struct hmm_mm *mm;
	uintptr_t addr;		/* of the page */
	uint64_t index;		/* of the page, when the fault was read */
	uint32_t write;		/* 1: the CPU wants to write */
	uint32_t thread;	/* its thread id, 0 where the kernel does not say */
	uint64_t read_ns;	/* when the fault was read; CLOCK_MONOTONIC */
	uint64_t most;		/* pages to bring at most, this one among them, or a limit that
				   somebody has set is exceeded: hmm_remote_allow() */
	uint32_t spare;		/* 1: no other fault of the mm's is known, and a handler waits for
				   the next: migrate_to_ram keeps nobody waiting if it takes a while */
};

/* How many pages a fault may bring of @pages, a power of two: one, from 1 to @pages. */
static inline uint32_t hmm_fault_pages(const struct hmm_fault *fault, uint32_t pages)
{
	while (pages > 1 && pages > fault->most)
		pages /= 2;
	return pages;
}

/**
 * hmm_fault_done() - end a fault that migrate_to_ram answered with -EINPROGRESS
 * @fault: as migrate_to_ram had it
 *
 * From migrate_to_ram as well, of the fault that it has or of any other.
 *
 * Brings the page home if it is still on a device: where that is @devmem its
 * copy_from_device is called by this very thread, so have the bytes at hand. The CPU
 * that waits goes on either way, and faults again if the page has changed hands. Once
 * per fault; hmm_devmem_remove() waits for it.
 *
 * Context: a thread of the driver's, not from a callback other than migrate_to_ram;
 * blocks.
 */
void hmm_fault_done(struct hmm_devmem *devmem, const struct hmm_fault *fault);

/**
 * hmm_bulk_copy() - copy past the caches, as a DMA engine does
 * @to:   aligned to 64 bytes, as @from; where they are not it is memcpy()
 * @from: does not overlap with @to
 * @len:  bytes
 *
 * For more than a CPU's cache holds, from 1 MiB or so on: a cached store reads the line that
 * it is about to overwrite, and leaves it dirty where another CPU has to fetch it. What is
 * read again at once is better left in the cache.
 *
 * Context: any. Whoever is told afterwards that the copy is done finds its bytes.
 */
void hmm_bulk_copy(void *to, const void *from, size_t len);

/* Faults that follow each other, as one reads on and on: HMM_STREAMS of them at a time. */
#define HMM_STREAMS	8

struct hmm_streams {
	struct {
		uintptr_t next;		/* where it is expected to go on */
		uint32_t pages;		/* of its last window */
		uint32_t used;		/* when it went on last, in faults */
	} stream[HMM_STREAMS];
	uint32_t faults;
	uint32_t strays;		/* faults of late that belonged to none */
};

/**
 * hmm_streams_pages() - how many pages a fault has earned
 * @streams: the driver's own, zeros at first; under a lock of its own if threads share it
 * @addr:    of the page that faulted
 * @least:   pages, a power of two
 * @most:    likewise, no less than @least
 *
 * For migrate_to_ram and for faults of a device: to bring neighbours along is a gain
 * where the program goes through its memory in order, and elsewhere sends away what is
 * wanted. So a stream's window grows fourfold each time it goes on where it was expected
 * to; a fault that belongs to none begins with 16 pages, and with half of that for each
 * of the latest that led nowhere, down to 1. The idea is that of Linux's read-ahead.
 *
 * The window is that many pages, aligned to as many, with @addr in it.
 *
 * Context: any; touches @streams alone.
 *
 * Return: a power of two from @least to @most.
 */
uint32_t hmm_streams_pages(struct hmm_streams *streams, uintptr_t addr, uint32_t least,
			   uint32_t most);

struct hmm_devmem_ops {
	uint64_t size;		/* sizeof(struct hmm_devmem_ops) */

	/*
	 * Copy @runs. 0: done. -EINPROGRESS: the driver has copied @runs for itself
	 * and will call hmm_copy_done(). Anything else: failed; as the error of
	 * hmm_copy_done(). Runs may fail in part: what was copied then is not used.
	 */
	int (*copy_to_device)(struct hmm_devmem *devmem, struct hmm_copy *copy,
			      const struct hmm_copy_run *runs, size_t nr_runs);
	int (*copy_from_device)(struct hmm_devmem *devmem, struct hmm_copy *copy,
				const struct hmm_copy_run *runs, size_t nr_runs);

	/* Pages that no address space uses any more: free them. */
	void (*page_free)(struct hmm_devmem *devmem, uint64_t index, uint64_t nr_pages);

	/*
	 * Optional. Bring fault->addr home with hmm_evict(), and as much around it
	 * as the driver likes. Without it, or where it leaves the page where it is
	 * (any other return), the core brings that page alone.
	 *
	 * -EINPROGRESS: the driver has copied @fault and ends it with hmm_fault_done(),
	 * mostly from a thread of its own. So a device that is slow to answer keeps no
	 * thread that serves CPU faults waiting.
	 */
	int (*migrate_to_ram)(struct hmm_devmem *devmem, const struct hmm_fault *fault);

	/*
	 * Optional; without it hmm_migrate_to_device() is not available. Reserve up
	 * to @nr consecutive pages; returns how many (> 0) and the first in @index,
	 * or -ENOSPC. May evict pages of this devmem to make room.
	 */
	int64_t (*page_alloc)(struct hmm_devmem *devmem, uint64_t nr, uint64_t *index);

	/*
	 * Optional. Copy from @from's memory into this one's without the CPU.
	 * -EOPNOTSUPP: not between these two; the core then copies through RAM.
	 */
	int (*copy_peer)(struct hmm_devmem *devmem, struct hmm_devmem *from,
			 struct hmm_copy *copy, const struct hmm_peer_run *runs,
			 size_t nr_runs);
};

/* The copy and migrate_to_ram operations keep the rules of the fault path (above). */
#define HMM_DEVMEM_FAULT_SAFE	(1ULL << 0)

/*
 * The CPU can load from and store to this memory (CXL, xGMI, the same RAM): a page
 * "on" it stays mapped for the CPU where it is. That it belongs to the device is
 * kept in the directory, and ends with an unmap, a discard, a fork or an eviction.
 * No copy operation is called for it except towards and from other devices.
 */
#define HMM_DEVMEM_COHERENT	(1ULL << 1)

struct hmm_devmem_opts {
	uint64_t size;			/* sizeof(struct hmm_devmem_opts) */
	uint64_t flags;			/* HMM_DEVMEM_* */
	uint64_t nr_pages;		/* 1 to 2^36 */
	const void *owner;		/* not NULL: the device, or a group that shares its pages */
	const struct hmm_devmem_ops *ops;	/* checked and copied */
	void *ctx;			/* hmm_devmem_ctx() */
};

/**
 * hmm_devmem_add() - register device memory with an mm
 *
 * Context: any thread, not from a callback; blocks, until a thread for it runs: locks as for
 *   hmm_safe_thread_start().
 *
 * Return: 0, or
 *   -EINVAL  NULL, owner NULL, an impossible size, a mandatory operation missing,
 *            an unknown flag
 *   -ENOMEM  no memory for 4 bytes per page
 *   -ENOSPC  255 devices are registered
 *   -E2BIG, -ECHILD, -EDEADLK
 */
int hmm_devmem_add(struct hmm_mm *mm, const struct hmm_devmem_opts *opts,
		   struct hmm_devmem **out) HMM_MUST_CHECK;

/**
 * hmm_devmem_remove() - evict everything, then unregister
 *
 * From its start on no page goes to this memory. Once it has returned 0 no
 * operation of it is running or will run, and the handle is dead.
 *
 * Context: any thread, not from a callback; blocks.
 *
 * Return: 0 (also for NULL), or
 *   -EIO     some pages cannot be read back: each was reported to the program as
 *            SIGBUS and logged; the devmem is gone nevertheless
 *   -EAGAIN  pages are in a migration of another thread that does not end: still
 *            registered, try again
 *   -ECHILD, -EDEADLK
 */
int hmm_devmem_remove(struct hmm_devmem *devmem);

/** hmm_devmem_id() - 1 to 255, unique among the registered; as in a page entry. */
uint32_t hmm_devmem_id(const struct hmm_devmem *devmem);

/** hmm_devmem_ctx() - the ctx given at registration. */
void *hmm_devmem_ctx(const struct hmm_devmem *devmem);

/**
 * hmm_devmem_lookup() - which address holds a device page
 *
 * Return: 0 with @addr; -ENOENT when no address does (free, or in flight); -EINVAL
 *   beyond nr_pages. May be stale when it returns.
 */
int hmm_devmem_lookup(struct hmm_devmem *devmem, uint64_t index, uintptr_t *addr) HMM_MUST_CHECK;

/**
 * hmm_devmem_evict() - bring device pages home by their index
 *
 * For making room: no address needed. Kernel: migrate_device_range().
 *
 * Context: any thread, not from invalidate or page_free; blocks for the copies.
 *
 * Return: pages brought home; -EINVAL beyond nr_pages; -EIO; -ECHILD; -EDEADLK.
 */
int64_t hmm_devmem_evict(struct hmm_devmem *devmem, uint64_t index,
			 uint64_t nr_pages) HMM_MUST_CHECK;

/**
 * hmm_devmem_poison() - these device pages are lost (ECC error, device reset)
 *
 * Each page's address is poisoned: its next reader gets SIGBUS (EFAULT in a system
 * call), where the kernel has UFFDIO_POISON (6.6). Elsewhere the reader is sent the
 * signal, and a system call on the page waits until its thread is killed. Never zeros.
 * The pages are freed (page_free).
 *
 * Return: pages poisoned; -EINVAL; -ECHILD; -EDEADLK.
 */
int64_t hmm_devmem_poison(struct hmm_devmem *devmem, uint64_t index,
			  uint64_t nr_pages) HMM_MUST_CHECK;

/* ------------------------------------------------------------------ migrate */

/*
 * An entry of src[], written by setup and pages:
 *
 *   63     MIGRATE: the page's content is out of the CPU's reach and yours to copy
 *   62     WRITE: the mapping may be written
 *   61     HOLE: no content, the page is all zeros (no address)
 *   60     DEVICE: the content is in a device's memory
 *   55-48  DEVICE: hmm_devmem_id() of it
 *   47-12  the content's address (page aligned), or DEVICE: index << 12
 *   11-0   without MIGRATE: enum hmm_reason, why not
 *
 * An entry of dst[], written by the driver between setup and pages: 0, leave the
 * page where it is; or HMM_DST(devmem, index), a page that the driver has reserved
 * and filled. After finalize the page belongs to the address space where src still
 * says MIGRATE, and to the driver again where not.
 */
#define HMM_SRC_MIGRATE		(1ULL << 63)
#define HMM_SRC_WRITE		(1ULL << 62)
#define HMM_SRC_HOLE		(1ULL << 61)
#define HMM_SRC_DEVICE		(1ULL << 60)
#define HMM_SRC_DEVMEM_SHIFT	48
#define HMM_SRC_ADDR_MASK	0x0000fffffffff000ULL
#define HMM_SRC_REASON_MASK	0xfffULL
#define HMM_DST_VALID		(1ULL << 63)

static inline void *hmm_src_addr(uint64_t src)
{
	return (void *)(uintptr_t)(src & HMM_SRC_ADDR_MASK);
}

static inline uint64_t hmm_src_index(uint64_t src)
{
	return (src & HMM_SRC_ADDR_MASK) >> 12;
}

static inline uint32_t hmm_src_devmem(uint64_t src)
{
	return (uint32_t)(src >> HMM_SRC_DEVMEM_SHIFT) & 255u;
}

static inline enum hmm_reason hmm_src_reason(uint64_t src)
{
	return (enum hmm_reason)(src & HMM_SRC_REASON_MASK);
}

static inline uint64_t hmm_dst(uint32_t devmem_id, uint64_t index)
{
	return HMM_DST_VALID | (uint64_t)devmem_id << HMM_SRC_DEVMEM_SHIFT | index << 12;
}

#define HMM_MIGRATE_SYSTEM	(1ULL << 0)	/* take system pages and holes */
#define HMM_MIGRATE_DEVICE	(1ULL << 1)	/* take device pages of from_owner */
/*
 * Holes are left, and src[] says nothing of them. One that is taken comes home as a page of zeros,
 * which is a difference to a program that traps first touches by a userfaultfd of its own.
 */
#define HMM_MIGRATE_KEEP_HOLES	(1ULL << 2)

/* Most pages of one hmm_migrate; larger ranges are several. */
#define HMM_MIGRATE_MAX_PAGES	4096

struct hmm_migrate {
	uint64_t size;			/* sizeof(struct hmm_migrate) */
	uint64_t flags;			/* HMM_MIGRATE_*; SYSTEM or DEVICE or both */
	uintptr_t start, end;
	uint64_t *src;			/* the caller's; ours to write in setup and pages */
	uint64_t *dst;			/* the caller's between setup and pages, then frozen */
	const void *owner;		/* of the MIGRATE events this causes */
	const void *from_owner;		/* whose device pages; NULL: anybody's */
	struct hmm_notifier *notifier;	/* optional, see seq */
	uint64_t seq;			/* out of setup: the notifier's sequence, after its own event */
	uint64_t nr_pages;		/* out of setup, lowered by pages: entries with MIGRATE */
	void *internal;			/* ours from setup to finalize */
};

/**
 * hmm_migrate_setup() - take what can be taken out of the CPU's reach
 *
 * Notifiers of the range hear MIGRATE first. Then each page is taken or left, best
 * effort: src[] says which and why not. A CPU that touches a taken page waits until
 * finalize. What is taken must go through pages and finalize, soon: it is RAM of
 * the staging budget, and threads may be waiting.
 *
 * Neither array may be memory that can be away or that lies in the range.
 * Kernel: migrate_vma_setup().
 *
 * Context: any thread, not from a callback other than migrate_to_ram; blocks.
 *
 * Return: 0 (perhaps with nr_pages 0), or
 *   -EINVAL  NULL, not aligned, end <= start, more than HMM_MIGRATE_MAX_PAGES,
 *            beyond user space, unknown flags or none
 *   -ENOMEM  no slot for another migration
 *   -E2BIG, -ECHILD, -EDEADLK
 * After an error there is nothing to finalize.
 */
int hmm_migrate_setup(struct hmm_mm *mm, struct hmm_migrate *migrate) HMM_MUST_CHECK;

/**
 * hmm_migrate_copy() - copy what setup took to where dst[] says
 *
 * For drivers that leave the moving of bytes to the core: batches the runs, calls
 * the devmem's copy_to_device, a peer copy between devices where there is one and a
 * bounce where not. Clears dst[] where a copy failed, so that the page stays.
 *
 * Return: 0, or the first error met; either way go on with pages and finalize.
 */
int hmm_migrate_copy(struct hmm_mm *mm, struct hmm_migrate *migrate);

/**
 * hmm_migrate_pages() - decide, page by page, what has migrated
 *
 * Clears MIGRATE (and sets HMM_REASON_COPY or _BUSY) in src[] where dst[] is 0 or
 * not a page of a registered devmem, or the program unmapped the page meanwhile.
 * Only now is success known: program the device's page table from src & MIGRATE,
 * under the driver's lock and only if
 * !hmm_notifier_read_retry(migrate->notifier, migrate->seq), before finalize.
 */
void hmm_migrate_pages(struct hmm_mm *mm, struct hmm_migrate *migrate);

/**
 * hmm_migrate_finalize() - make it so, give back the rest, wake the waiters
 *
 * A page that the program unmapped since hmm_migrate_pages() is freed by page_free.
 */
void hmm_migrate_finalize(struct hmm_mm *mm, struct hmm_migrate *migrate);

/**
 * hmm_migrate_to_device() - the three steps for a range of any size
 * @flags: HMM_MIGRATE_*
 * @reasons: NULL, or HMM_REASONS counters that refused pages are added to
 *
 * Uses the devmem's page_alloc and copy operations; device pages of any owner are
 * taken where HMM_MIGRATE_DEVICE asks. The device's own page table is not touched:
 * its next fault finds the pages by hmm_range_fault().
 *
 * Return: pages migrated; or an error before the first was: -EINVAL, -ENOSPC (device
 *   full), -EOPNOTSUPP (no page_alloc), -ENOMEM, -ECHILD, -EDEADLK.
 */
int64_t hmm_migrate_to_device(struct hmm_mm *mm, struct hmm_devmem *devmem, uintptr_t start,
			      uintptr_t end, uint64_t flags, uint64_t *reasons) HMM_MUST_CHECK;

/**
 * hmm_adopt() - make private copies of a file's pages migratable
 *
 * Userfaultfd cannot hold a private mapping of a file, so its pages are refused as
 * HMM_REASON_FILE (or _SHARED, of a memfd). This puts anonymous memory in the place of
 * each such mapping that has a private copy (a page that was written) in [start, end):
 * of the whole mapping, so that to the program it stays one. Every byte is kept, also
 * those that other threads store meanwhile; pages that were the file's become private
 * copies. Afterwards madvise(MADV_DONTNEED) brings the file's data back as before.
 *
 * What differs from then on: /proc/PID/maps shows anonymous memory, the memory of the
 * whole mapping counts as the process's, what others write to the file is not seen
 * before a MADV_DONTNEED, an mremap that grows the mapping appends zeros, and a forked
 * child, as well as this process once the mm is destroyed, has plain anonymous memory.
 * Not for memory that is the target of DMA (io_uring, O_DIRECT, RDMA) at the time, which
 * cannot be told. In an mm that is not STRICT the program must not change the mapping
 * meanwhile.
 *
 * Left alone: what is mlocked, hugetlb, or of a loaded program or library; and files
 * that cannot be opened any more (no name, no descriptor, and no privilege for
 * /proc/self/map_files).
 *
 * Context: any thread, not from a callback; blocks, for reading the file too.
 *
 * Return: private copies carried over, of all of the mappings; 0 if there was none; or,
 *   where nothing could be done,
 *   -EINVAL      not aligned, end <= start, beyond user space
 *   -EOPNOTSUPP  no userfaultfd events (4.11) or mremap(DONTUNMAP) (5.7); or not the
 *                mm of this process
 *   -ENOENT      the file cannot be opened
 *   -EBUSY       the mapping changed, or the process forks
 *   -ENOMEM      address space, memory or descriptors
 *   -ECHILD, -EDEADLK
 */
int64_t hmm_adopt(struct hmm_mm *mm, uintptr_t start, uintptr_t end) HMM_MUST_CHECK;

/* ------------------------------------------------------------------ exclusive */

/**
 * hmm_exclusive_begin() - give a device sole access to pages, for its atomics
 * @owner:    of the EXCLUSIVE events; not NULL
 * @contents: out, one per page: where the device finds the bytes, in RAM that stays
 *            mapped; NULL for a page that could not be had
 *
 * Faults each page in for writing, traps the CPU's access, and tells the notifiers
 * EXCLUSIVE with @owner. The CPU's next touch tells them EXCLUSIVE without owner,
 * waits for their invalidate(), and ends it. So does anything else that changes the
 * page. The device's page table is to be filled under the driver's lock, unless the
 * last event that invalidate() heard of the page is another than this call's own
 * EXCLUSIVE with @owner: the notifier's sequence alone cannot tell, since that event
 * (and perhaps a MIGRATE) moves it too.
 *
 * A page that is exclusive already changes hands. Kernel: make_device_exclusive().
 *
 * Context: any thread, not from a callback; blocks.
 *
 * Return: pages had, which is the number of non-NULL contents; or
 *   -EINVAL      NULL, not aligned, end <= start, over 512 pages
 *   -EFAULT      the first page is a gap or unreadable
 *   -EPERM       its mapping may not be written
 *   -EOPNOTSUPP  it is not private anonymous memory, or this kernel has no safe way to
 *                take a page
 *   -EBUSY       it is pinned or changes faster than we follow
 *   -ENOMEM, -ECHILD, -EDEADLK
 */
int64_t hmm_exclusive_begin(struct hmm_mm *mm, uintptr_t start, uintptr_t end,
			    const void *owner, void **contents) HMM_MUST_CHECK;

/**
 * hmm_exclusive_end() - the device is done: give the pages back
 *
 * Return: pages given back; -EINVAL; -ECHILD; -EDEADLK.
 */
int64_t hmm_exclusive_end(struct hmm_mm *mm, uintptr_t start, uintptr_t end) HMM_MUST_CHECK;

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
