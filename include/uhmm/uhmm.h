/* SPDX-License-Identifier: MIT */
/*
 * uhmm - heterogeneous memory management in userspace.
 *
 * The vocabulary is that of the kernel's HMM, in the kernel's sense:
 *
 *   system page   a page whose bytes are in RAM, where the CPU has them
 *   device page   a page whose bytes are in a device's memory; the CPU's next
 *                 touch faults and brings it home
 *   hole          a page of a mapping with nothing populated yet
 *   gap           an address that no mapping covers
 *   mirror        a device's copy of a part of the CPU's page table
 *   invalidate    "stop using these addresses before you return"
 *   owner         a cookie that says who caused an event, so that it may ignore it
 *
 * Ranges are [start, end), in bytes, both page aligned unless said otherwise.
 * Functions return 0 or a count, or a negative errno; out parameters are written
 * on success only. What each value means everywhere:
 *
 *   -EINVAL      the arguments break the contract; nothing was done
 *   -EFAULT      a gap, no read permission, or the fault failed
 *   -EPERM       write where the mapping forbids it, or a privilege is missing
 *   -EBUSY       invalidated while we worked: go round; only where a page says so
 *   -ETIMEDOUT   went round until the caller's time was up
 *   -EOPNOTSUPP  this kernel, mapping or driver cannot; `uhmm doctor` says why
 *   -ENOSPC      device memory is full
 *   -ENOMEM      system memory or address space is full
 *   -ECHILD      the object belongs to the process that this one was forked from
 *   -EDEADLK     called from inside a callback that may not
 *   -EIO         the device failed, or bytes are lost
 *   -E2BIG       options of a newer libuhmm
 */
#ifndef UHMM_UHMM_H
#define UHMM_UHMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define HMM_MUST_CHECK __attribute__((warn_unused_result))

/* Options begin with their size; HMM_OPTS(hmm_mm_opts, o, .flags = 1); sets it. */
#define HMM_OPTS(type, name, ...) \
	struct type name = { .size = sizeof(struct type), ##__VA_ARGS__ }

struct hmm_mm;		/* an address space */
struct hmm_notifier;	/* a subscription to changes of an interval of it */
struct hmm_devmem;	/* memory of a device (driver.h) */

/** hmm_page_size() - bytes of a page on this machine. Any thread; never fails. */
size_t hmm_page_size(void);

/**
 * hmm_user_end() - the first address that no program of this machine has
 *
 * What ranges and notifiers end at or before: [0, hmm_user_end()) is the whole address
 * space. A choice of the kernel's build on some machines. Any thread; never fails.
 */
uintptr_t hmm_user_end(void);

/** hmm_version() - "MAJOR.MINOR.PATCH" of the library at run time; static storage. */
const char *hmm_version(void);

/* ------------------------------------------------------------------ mm */

/*
 * STRICT: every change of a mapping made by this process (munmap, mremap, mmap
 * over something, mprotect, madvise that discards, brk, mlock, fork, through libc
 * or by a raw system call) is announced by the kernel before it is made, by
 * seccomp user notification, and made as one transaction with the core's tables.
 * Without it the guarantee is that of userfaultfd's own events. What that excludes:
 *
 *  - a page migrated between another thread's madvise(DONTNEED or FREE) being
 *    announced and being done keeps its old bytes instead of reading as zeros;
 *  - mprotect is not announced: a mirror learns of it at its next device fault;
 *  - nor is madvise(GUARD_INSTALL): pages that are away keep their bytes under the guard;
 *  - a change of the mappings racing with fork() in another thread may hand the
 *    child zeros for pages that were away;
 *  - a mapping that one thread moves by mremap to an address that another thread has
 *    just unmapped can lose what it has in device memory (zeros): realloc and free
 *    of large blocks in several threads do that, when such blocks are migrated;
 *  - mremap of memory that was mapped in several pieces, next to each other, fails with
 *    EFAULT if some of them were being migrated: the kernel has not merged those;
 *  - before Linux 6.8, where mremap(DONTUNMAP) takes the pages, it can take what another
 *    thread maps at an address while it is being migrated;
 *  - a notifier hears of a munmap or a discard soon after it, not before;
 *  - changes of mappings that are not private anonymous memory are not announced;
 *  - from Linux 6.8 on, pages of read-only mappings stay where they are (reason `kernel`).
 *
 * so a program that does none of these from several threads at once needs no
 * STRICT. What not even STRICT hears of is IORING_OP_MADVISE: of pages that are away it
 * discards nothing. A thread with descriptors of its own (unshare(CLONE_FILES)) may not map
 * a file over something: it would be the process's file of that number. The price of
 * STRICT: some 7 us for each such call, no_new_privs for a process without CAP_SYS_ADMIN,
 * a filter that can never be removed (a small keeper process outlives this one and answers
 * for children that inherited it), and no second listener in the tree.
 */
#define HMM_MM_STRICT		(1ULL << 0)

/*
 * Accept a userfaultfd that serves faults of user code only, where the privilege
 * for the full one is missing. System calls on buffers that are away then fail
 * with EFAULT: only for programs that never do that.
 */
#define HMM_MM_USER_FAULTS_ONLY	(1ULL << 1)

enum hmm_log_level {
	HMM_LOG_ERROR,		/* bytes or a promise lost */
	HMM_LOG_WARN,		/* less than was asked for; says what would help */
	HMM_LOG_INFO,		/* once per object */
};

/*
 * Called with one line, no newline, code first ("HMM-042 ..."). From any thread,
 * with no core lock held, possibly from a fault handler: it may use nothing that
 * could be away, so neither malloc nor stdio. NULL: warnings and errors go to
 * file descriptor 2.
 */
typedef void (*hmm_log_fn)(void *ctx, enum hmm_log_level level, const char *line);

struct hmm_mm_opts {
	uint64_t size;		/* sizeof(struct hmm_mm_opts) */
	uint64_t flags;		/* HMM_MM_* */
	uint32_t nr_handlers;	/* fault handler threads; 0: one per CPU, at most 8 */
	uint32_t reserved;	/* zero */
	uint64_t staging_bytes;	/* RAM kept ready for migrations; 0: 64 MiB; at most 1 GiB */
	hmm_log_fn log;
	void *log_ctx;
};

/**
 * hmm_mm_create() - start managing the address space of this process
 * @opts: NULL for defaults
 * @out:  the mm; owned by the caller until hmm_mm_destroy()
 *
 * Reserves address space once (16 GiB of it, not memory; less where less is to be
 * had), opens a userfaultfd and starts the fault handlers, each with a descriptor of its
 * own. Nothing of the program is touched yet. One mm per process at a time.
 *
 * fork(): the child has its own bytes of every page, wherever they were. The mm
 * and everything made from it stay the parent's: in the child every call with
 * them returns -ECHILD, and it may create an mm of its own. For that every page comes
 * home before the process forks, and none leaves until it has; a thread may not fork
 * between its own hmm_migrate_setup() and hmm_migrate_finalize().
 *
 * Threads call into the library on their own stack, not on one that they have put in
 * memory that is migrated (as coroutines may).
 *
 * Context: any thread; blocks, until its threads run: the caller holds no lock that a fork
 *   handler of the program's takes, or whatever runs in a new thread at first.
 *
 * Return: 0, or
 *   -EINVAL      @out NULL, an unknown flag, more than 1 GiB of staging, size not set
 *   -E2BIG       a non-zero field that this library does not know
 *   -EPERM       no full userfaultfd for this user; the log names `uhmm doctor`
 *   -EOPNOTSUPP  the kernel has no userfaultfd, /proc is not mounted, or STRICT and no
 *                seccomp notification (5.5)
 *   -EBUSY       the process has an mm already, or STRICT and an ancestor listens
 *   -EMFILE      the process has no descriptors left; -ENFILE: the machine has none
 *   -ENOMEM      address space, threads or memory exhausted
 */
int hmm_mm_create(const struct hmm_mm_opts *opts, struct hmm_mm **out) HMM_MUST_CHECK;

/**
 * hmm_mm_destroy() - bring every page home and let go of the address space
 *
 * Tells every notifier RELEASE, evicts every device page, stops the handlers.
 * Notifiers still inserted are removed; devmem regions must have been removed.
 *
 * Return: 0 (also for NULL), or
 *   -EBUSY   a devmem is still registered; nothing was done
 *   -EIO     pages were lost on the way home (each was logged); the mm is gone
 *   -ECHILD  not this process's mm; nothing was done
 *   -EDEADLK from a callback
 */
int hmm_mm_destroy(struct hmm_mm *mm);

/**
 * hmm_mm_flags() - the HMM_MM_* flags this mm runs with. 0 for another process's mm.
 */
uint64_t hmm_mm_flags(const struct hmm_mm *mm);

/* Why a page stayed where it was. */
enum hmm_reason {
	HMM_REASON_NONE,
	HMM_REASON_PINNED,	/* DMA may go to it (io_uring, RDMA, VFIO, O_DIRECT) */
	HMM_REASON_SHARED,	/* shared memory: memfd, shared anonymous */
	HMM_REASON_FILE,	/* mapping of a file, private copies included */
	HMM_REASON_LOCKED,	/* mlock */
	HMM_REASON_FOREIGN,	/* the program's own userfaultfd holds the mapping */
	HMM_REASON_RESERVED,	/* stack or control block of a thread, static data, or memory
				   of libuhmm */
	HMM_REASON_PROT,	/* no read permission */
	HMM_REASON_GAP,		/* nothing mapped */
	HMM_REASON_BUSY,	/* changed or was in flight while we tried */
	HMM_REASON_NOMEM,	/* out of staging or mapping slots */
	HMM_REASON_DEVICE,	/* already in a device's memory, and that was not asked for */
	HMM_REASON_COPY,	/* the driver gave no destination, or its copy failed */
	HMM_REASON_KERNEL,	/* this kernel has no safe way to take it */
	HMM_REASON_HUGETLB,	/* pages of hugetlb */
	HMM_REASONS
};

/** hmm_reason_name() - "pinned", "shared" ...; "?" out of range. Static storage. */
const char *hmm_reason_name(enum hmm_reason reason);

/* Totals since the mm was made. Each counter is exact; the set is no snapshot. */
struct hmm_stats {
	uint64_t size;			/* in: sizeof(struct hmm_stats) */
	uint64_t pages_to_device;	/* system page or hole -> device */
	uint64_t pages_to_system;	/* device -> system, faults included */
	uint64_t pages_between;		/* device -> device */
	uint64_t cpu_faults;		/* faults on device or exclusive pages */
	uint64_t fault_waits;		/* faults that met a page in flight */
	uint64_t zero_fills;		/* holes filled on a touch (pages) */
	uint64_t exclusive_begun;
	uint64_t exclusive_ended;
	uint64_t invalidations;		/* callbacks made */
	uint64_t changes;		/* announced changes of mappings acted on */
	uint64_t forks;
	uint64_t refused[HMM_REASONS];
	uint64_t poisoned_pages;	/* told to the program as SIGBUS */
	uint64_t lost_pages;		/* bytes that could not be brought back */
	uint64_t device_pages;		/* now */
	uint64_t exclusive_pages;	/* now */
	uint64_t moved_runs;		/* taken or given by UFFDIO_MOVE ... */
	uint64_t remapped_runs;		/* ... by mremap(DONTUNMAP) ... */
	uint64_t copied_pages;		/* ... or by copy */
	uint64_t moved_huge;		/* 2 MiB pages moved whole */
	uint64_t metadata_bytes;	/* RAM for the directory and devmem tables, now */
	uint64_t adopted_pages;		/* private copies that hmm_adopt() has carried over */
};

/**
 * hmm_mm_stats() - read the counters
 *
 * Return: 0; -EINVAL on NULL or a size not set; -ECHILD.
 */
int hmm_mm_stats(struct hmm_mm *mm, struct hmm_stats *stats) HMM_MUST_CHECK;

/*
 * Times on a logarithmic scale: bucket[b] counts those in [low(b), low(b + 1)), where
 * low(b) is b ns for b < 8, and else (8 + b % 8) << (b / 8 - 1) ns: eight steps to each
 * power of two. The last bucket has no upper end.
 */
#define HMM_TIMES_BUCKETS	256

struct hmm_times {
	uint64_t size;			/* in: sizeof(struct hmm_times) */
	uint64_t nr;			/* in all buckets */
	uint64_t sum_ns, max_ns;
	uint64_t bucket[HMM_TIMES_BUCKETS];
};

/**
 * hmm_mm_fault_times() - how long the CPU's faults have taken, since the mm was made
 *
 * From the moment the library had read the kernel's message to the moment the page was
 * in place: of faults on device and exclusive pages. Of those that met a page in flight
 * the first of each flight, until that had ended. What the kernel takes to wake a handler
 * and the thread that waits is not in it, nor are first touches of holes.
 *
 * Context: any thread.
 *
 * Return: 0; -EINVAL on NULL or another size; -ECHILD; -EDEADLK.
 */
int hmm_mm_fault_times(struct hmm_mm *mm, struct hmm_times *times) HMM_MUST_CHECK;

/** hmm_times_add() - add the times of @one to @sum. Any thread that owns both; no errors. */
void hmm_times_add(struct hmm_times *sum, const struct hmm_times *one);

/**
 * hmm_times_ns() - what @permille of the times do not exceed, in ns
 * @permille: 500 for the median; from 1000 on the longest
 *
 * The upper end of a bucket, so up to an eighth too much, but never above the longest.
 *
 * Return: 0 where there are no times.
 */
uint64_t hmm_times_ns(const struct hmm_times *times, uint32_t permille);

/**
 * hmm_copy_from_user() - guarded copy out of the managed address space
 * hmm_copy_to_user()   - guarded copy into it
 *
 * Obey the mapping's permissions as they are now, fault where needed, and fail
 * instead of raising a signal. @addr and @len are in bytes, any alignment.
 *
 * Context: any thread that holds no lock a fault handler could want; blocks.
 *
 * Return: bytes copied, less than @len when the rest cannot be reached; -EFAULT
 *   when not even the first byte could be; -EINVAL on NULL or a range that wraps;
 *   -ECHILD.
 */
int64_t hmm_copy_from_user(struct hmm_mm *mm, void *dst, uintptr_t addr, size_t len) HMM_MUST_CHECK;
int64_t hmm_copy_to_user(struct hmm_mm *mm, uintptr_t addr, const void *src, size_t len) HMM_MUST_CHECK;

/* ------------------------------------------------------------------ notifier */

enum hmm_event_type {
	HMM_EVENT_UNMAP,	/* the range is going away, or moving (mremap) */
	HMM_EVENT_CLEAR,	/* its contents are (madvise) */
	HMM_EVENT_PROTECT,	/* its permissions change */
	HMM_EVENT_MIGRATE,	/* its pages move; owner: who asked */
	HMM_EVENT_EXCLUSIVE,	/* exclusive access begins (owner) or ends (NULL) */
	HMM_EVENT_FORK,		/* the process forks; pages turn copy-on-write */
	HMM_EVENT_RELEASE,	/* the mm is being destroyed */
	HMM_EVENTS
};

struct hmm_event {
	enum hmm_event_type type;
	uintptr_t start, end;	/* may reach beyond the notifier's interval */
	const void *owner;	/* of MIGRATE and EXCLUSIVE, else NULL */
};

struct hmm_notifier_ops {
	uint64_t size;		/* sizeof(struct hmm_notifier_ops) */

	/*
	 * When this returns the device uses no translation in [start, end).
	 *
	 * The mm lock is held: it must be short, must not wait for a CPU fault on
	 * managed memory to be served, nor for another thread that could map, unmap or
	 * allocate (STRICT announces that too), and must call nothing of libuhmm but
	 * hmm_notifier_read_*(). The lock
	 * it takes is one under which the driver neither allocates, frees nor maps
	 * memory, nor touches memory that can be away (its threads' untouched stack
	 * can): any of these may wait for the very invalidation that wants the lock.
	 */
	void (*invalidate)(struct hmm_notifier *notifier, const struct hmm_event *event,
			   uint64_t seq, void *ctx);
};

/**
 * hmm_notifier_insert() - subscribe to the changes of [start, end)
 * @ops: checked and copied
 * @ctx: passed to every callback
 * @out: the notifier, owned by the caller until hmm_notifier_remove()
 *
 * The interval need not be mapped. Kernel: mmu_interval_notifier_insert().
 *
 * Context: any thread, not from a callback; blocks.
 *
 * Return: 0, -EINVAL (NULL, not aligned, end <= start, no invalidate),
 *   -E2BIG, -ENOMEM, -ECHILD, -EDEADLK (from a callback).
 */
int hmm_notifier_insert(struct hmm_mm *mm, uintptr_t start, uintptr_t end,
			const struct hmm_notifier_ops *ops, void *ctx,
			struct hmm_notifier **out) HMM_MUST_CHECK;

/**
 * hmm_notifier_remove() - end a subscription
 *
 * Once this returns no callback of it is running or will run; the handle is dead.
 *
 * Return: 0 (also for NULL), -ECHILD, -EDEADLK from inside a callback (still inserted).
 */
int hmm_notifier_remove(struct hmm_notifier *notifier);

/**
 * hmm_notifier_read_begin() - start a read of the address space
 * hmm_notifier_read_retry() - did an invalidation touch the interval since?
 *
 * The one rule that makes a mirror correct:
 *
 *   invalidation                        driver fills its page table
 *   ------------                        ---------------------------
 *                                       seq = read_begin(n)
 *                                       hmm_range_fault(mm, range)     may block
 *   n->seq++                            .
 *   invalidate():                       .
 *     driver's lock                     .
 *       erase [start, end)              .
 *     unlock                            .
 *                                       driver's lock
 *                                         read_retry(n, seq): true, go round
 *                                         else fill the device's table
 *                                       unlock
 *
 * read_retry() is meant to be called under the lock that invalidate() takes: were
 * it called before, the erase could fall between check and fill.
 *
 * Context: any thread, any lock held; never block.
 */
uint64_t hmm_notifier_read_begin(const struct hmm_notifier *notifier);
bool hmm_notifier_read_retry(const struct hmm_notifier *notifier, uint64_t seq);

/* ------------------------------------------------------------------ range */

/*
 * A page entry of hmm_range_fault().
 *
 *   bit    on input                   on output
 *   63     REQ_FAULT: make it valid   VALID: the device may read
 *   62     REQ_WRITE: for writing     WRITE: the device may write
 *   61                                ERROR: gap, no read permission, poison
 *   60                                DEVICE: in the memory of the range's owner
 *   59                                ZERO: the zero page
 *   58                                GUARDED: see below
 *   55-51                             order: the mapping's size is page << order
 *   50-43                             DEVICE: hmm_devmem_id() of the device
 *   42-41  (reserved)                 (reserved)
 *   40-0                              DEVICE: index in that device's memory
 *
 * A system page is reached by the CPU's own address. Where GUARDED is clear a
 * driver in this process may load and store there directly until the next
 * invalidation; where it is set changes are not announced before they happen (the
 * mm is not STRICT, the program's own userfaultfd holds the mapping, or it is of a file
 * or a memfd, which anybody may truncate), or the program has protection keys, which
 * bind its threads and no device; only hmm_copy_from_user() and hmm_copy_to_user()
 * are safe then.
 */
#define HMM_PFN_VALID		(1ULL << 63)
#define HMM_PFN_WRITE		(1ULL << 62)
#define HMM_PFN_ERROR		(1ULL << 61)
#define HMM_PFN_DEVICE		(1ULL << 60)
#define HMM_PFN_ZERO		(1ULL << 59)
#define HMM_PFN_GUARDED		(1ULL << 58)
#define HMM_PFN_REQ_FAULT	HMM_PFN_VALID
#define HMM_PFN_REQ_WRITE	HMM_PFN_WRITE
#define HMM_PFN_ORDER_SHIFT	51
#define HMM_PFN_ORDER_MASK	(31ULL << HMM_PFN_ORDER_SHIFT)
#define HMM_PFN_DEVMEM_SHIFT	43
#define HMM_PFN_DEVMEM_MASK	(255ULL << HMM_PFN_DEVMEM_SHIFT)
#define HMM_PFN_INDEX_MASK	((1ULL << 41) - 1)

struct hmm_range {
	uint64_t size;			/* sizeof(struct hmm_range) */
	uintptr_t start, end;
	struct hmm_notifier *notifier;	/* or NULL for a mere snapshot */
	uint64_t seq;			/* its read_begin(); hmm_range_fault_wait() sets it */
	uint64_t *pfns;			/* (end - start) / page size entries, the caller's;
					   memory that is never away (the stack, hmm_safe_alloc()) */
	uint64_t default_flags;		/* REQ_* for every page */
	uint64_t pfn_flags_mask;	/* which REQ_* of pfns[] count besides */
	const void *owner;		/* whose device pages are reported as such */
};

/**
 * hmm_range_fault() - report, and where asked make valid, the pages of a range
 *
 * What is wanted of page i is ((pfns[i] & pfn_flags_mask) | default_flags). A page
 * of which nothing is wanted never makes the call fail: a hole is not VALID, a gap
 * or unreadable page is ERROR. Device pages of others are brought home when a fault
 * is wanted and are not VALID otherwise.
 *
 * The entries hold until the notifier's next invalidation: take your own lock, ask
 * hmm_notifier_read_retry(), and only then program the device. They belong to the
 * caller. Kernel: hmm_range_fault_unlocked_timeout().
 *
 * Context: any thread, not from a callback, no lock held that invalidate() takes.
 * Blocks.
 *
 * Return: 0, or
 *   -EINVAL   NULL, start or end not aligned, end <= start, beyond user space,
 *             flags other than REQ_*
 *   -EPERM    write was wanted of a mapping that forbids it
 *   -EFAULT   a wanted page is not mapped, not readable, or its fault failed
 *   -EBUSY    the notifier's sequence moved: go round from read_begin()
 *   -ENOMEM   no memory to fault a page in
 *   -E2BIG, -ECHILD, -EDEADLK
 * On error the entries hold the requests again, as they were given.
 */
int hmm_range_fault(struct hmm_mm *mm, struct hmm_range *range) HMM_MUST_CHECK;

/**
 * hmm_range_fault_wait() - the same, going round on -EBUSY
 * @timeout_ms: bounds repeated collisions, never a running fault; 0: no bound
 *
 * Return: as hmm_range_fault() without -EBUSY, and -ETIMEDOUT.
 */
int hmm_range_fault_wait(struct hmm_mm *mm, struct hmm_range *range,
			 uint32_t timeout_ms) HMM_MUST_CHECK;

/* ------------------------------------------------------------------ placement */

/**
 * hmm_evict() - bring every device page of [start, end) home
 *
 * Pages in system memory are left alone, gaps are skipped. Neither end need be
 * mapped.
 *
 * Context: any thread, not from a callback; blocks for the copies.
 *
 * Return: pages brought home; -EINVAL; -ECHILD; -EDEADLK; -EIO when a page could
 *   not be brought home (others may have been).
 */
int64_t hmm_evict(struct hmm_mm *mm, uintptr_t start, uintptr_t end) HMM_MUST_CHECK;

/* What hmm_residency() writes per page. */
enum hmm_place {
	HMM_PLACE_GAP,		/* not mapped */
	HMM_PLACE_HOLE,		/* nothing populated */
	HMM_PLACE_SYSTEM,
	HMM_PLACE_DEVICE,
	HMM_PLACE_EXCLUSIVE,
	HMM_PLACE_FLIGHT,	/* being migrated at this moment */
};

/**
 * hmm_residency() - where each page of a range is now
 * @places: (end - start) / page size bytes, enum hmm_place, the caller's
 *
 * True when looked at, perhaps not when read.
 *
 * Return: 0, -EINVAL, -ECHILD, -EDEADLK.
 */
int hmm_residency(struct hmm_mm *mm, uintptr_t start, uintptr_t end,
		  uint8_t *places) HMM_MUST_CHECK;

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
