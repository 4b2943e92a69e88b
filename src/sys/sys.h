/* SPDX-License-Identifier: MIT */
/*
 * The only place that talks to the kernel: one thin function per system call or
 * ioctl. Each returns 0, a count or a descriptor, or a negative errno; errno itself
 * is read here and nowhere else. None of them allocates, uses stdio, or touches
 * memory that could be away other than what it is given, unless it says so.
 *
 * Mapping calls carry a cookie in an argument register that the kernel ignores, so
 * that the seccomp filter of a STRICT mm (seccomp.c) lets the library's own through.
 */
#ifndef UHMM_SYS_H
#define UHMM_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#include "sys/uapi.h"

#define BIT(n)		(1ULL << (n))
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

/* ---------------------------------------------------------------- caps.c */

/* Capabilities of this kernel and this user. The order is that of `uhmm doctor`. */
enum sys_cap {
	CAP_UFFD,		/* userfaultfd at all, MISSING + COPY */
	CAP_UFFD_KERNEL,	/* ... serving faults of system calls too */
	CAP_UFFD_WP,		/* write protection that is really delivered */
	CAP_UFFD_OWNERS,	/* what one userfaultfd has registered no other lets go */
	CAP_UFFD_EVENTS,	/* UNMAP, REMAP, REMOVE events */
	CAP_UFFD_PENDING,	/* a change is known to be under way until its last event is read */
	CAP_FORK_EVENT,		/* EVENT_FORK: needs CAP_SYS_PTRACE */
	CAP_THREAD_ID,
	CAP_DONTUNMAP,		/* mremap(MREMAP_DONTUNMAP) */
	CAP_POPULATE,		/* MADV_POPULATE_READ/WRITE */
	CAP_MOVE,		/* UFFDIO_MOVE */
	CAP_POISON,		/* UFFDIO_POISON */
	CAP_PAGEMAP_SCAN,
	CAP_PROCMAP_QUERY,
	CAP_SECCOMP_NOTIFY,	/* user notification with CONTINUE */
	CAP_SECCOMP_KILLABLE,	/* WAIT_KILLABLE_RECV */
	CAP_SECCOMP_SYNC_WAKE,
	CAP_PROCESS_VM,		/* process_vm_readv/writev on oneself */
	CAP_MEMBARRIER,		/* PRIVATE_EXPEDITED */
	CAP_RWP,		/* userfaultfd read-write protection */
	CAP_NR
};

struct sys_cap_desc {
	const char *name;	/* "uffdio-move": what UHMM_CAPS=-name masks */
	const char *since;	/* first mainline release, for the message only */
	const char *without;	/* what the user loses */
	const char *fix;	/* one line a user can run, or NULL */
	int (*probe)(void);	/* 1 yes, 0 no, negative: could not tell */
};

/* The table's line; NULL out of range. */
const struct sys_cap_desc *sys_cap_desc(enum sys_cap cap);

/*
 * Have it? Probed once per process by trying the thing itself on scratch memory, at
 * the first call of any sys_cap*(), which must not be on a fault path (it maps
 * memory). UHMM_CAPS="-uffdio-move,-pagemap-scan" masks. An unknown name in it is
 * reported by sys_caps_unknown().
 */
bool sys_cap(enum sys_cap cap);

/* Present on this machine, masked or not. */
bool sys_cap_unmasked(enum sys_cap cap);

/* First unknown name in UHMM_CAPS, or NULL. */
const char *sys_caps_unknown(void);

/* ---------------------------------------------------------------- uffd.c */

/*
 * Open and shake hands, O_CLOEXEC | O_NONBLOCK. Tries the system call, then
 * /dev/userfaultfd, then, if @user_only, USER_MODE_ONLY. @features are those of
 * UFFDIO_API to request; @have gets the kernel's full mask. -EPERM when only
 * privilege is missing.
 */
int sys_uffd_open(uint64_t features, bool user_only, uint64_t *have);

#define SYS_UFFD_MISSING	BIT(0)
#define SYS_UFFD_WP		BIT(1)
#define SYS_UFFD_RWP		BIT(2)
int sys_uffd_register(int fd, uintptr_t start, size_t len, uint64_t mode);
int sys_uffd_unregister(int fd, uintptr_t start, size_t len);
int sys_uffd_wake(int fd, uintptr_t start, size_t len);

/*
 * Fill calls: *done gets the bytes filled, also when an error is returned. 0 means
 * all of it; -EAGAIN with *done > 0 is a short fill, and without a change of a mapping
 * whose event is to be read first. -ENOENT: there is no mapping, or not one of @fd's.
 */
#define SYS_UFFD_DONTWAKE	BIT(0)
#define SYS_UFFD_HOLES		BIT(1)	/* move: holes of the source count as moved */
int sys_uffd_copy(int fd, uintptr_t dst, const void *src, size_t len, unsigned int flags,
		  size_t *done);
int sys_uffd_zeropage(int fd, uintptr_t dst, size_t len, unsigned int flags, size_t *done);
int sys_uffd_move(int fd, uintptr_t dst, uintptr_t src, size_t len, unsigned int flags,
		  size_t *done);
int sys_uffd_poison(int fd, uintptr_t start, size_t len);
int sys_uffd_writeprotect(int fd, uintptr_t start, size_t len, bool protect);
int sys_uffd_rwprotect(int fd, uintptr_t start, size_t len, bool protect);

/* Is a change of a mapping under way, or done, whose event has not been read? */
bool sys_uffd_changing(int fd);

/* Up to @nr messages; 0 when there is none; never blocks. */
int sys_uffd_read(int fd, struct uffd_msg *msgs, unsigned int nr);

/* ---------------------------------------------------------------- mem.c */

/* Private anonymous memory, PROT_NONE | NORESERVE. @align is a power of two. */
int sys_reserve(size_t len, size_t align, void **out);
void sys_munlock(void *addr, size_t len);
int sys_map_fixed(void *addr, size_t len, int prot);	/* fresh anonymous memory, over what is there */
int sys_map_anon(size_t len, void **out);		/* RW, NORESERVE, where the kernel likes */
int sys_map_file_fixed(void *addr, size_t len, int fd, uint64_t offset);	/* private, PROT_READ */
int sys_munmap(void *addr, size_t len);
int sys_mprotect(void *addr, size_t len, int prot);
int sys_madvise(void *addr, size_t len, int advice);

/* Move the pages of [src, src+len) to @dst (replacing it), leaving src mapped and empty. */
int sys_mremap_dontunmap(uintptr_t src, size_t len, uintptr_t dst);

/*
 * Fault pages in for reading or writing: MADV_POPULATE_*, or before 5.14 a guarded
 * touch. 0; -EFAULT (gap, no permission, fault failed), -ENOMEM.
 */
int sys_populate(uintptr_t start, size_t len, bool write);

/*
 * A pipe, O_CLOEXEC | O_NONBLOCK, that holds up to *@room bytes of whole pages, perhaps
 * less than @want. sys_vmsplice() has it hold the very pages at @addr, which need not
 * hold still. sys_read_full() reads @len bytes or what there is.
 */
int sys_pipe(int fds[2], size_t want, size_t *room);
ssize_t sys_vmsplice(int fd, uintptr_t addr, size_t len);
ssize_t sys_read_full(int fd, void *buf, size_t len);
int sys_write_full(int fd, const void *buf, size_t len);	/* all of it, or why not */

/* Guarded copies on this very process: bytes copied (may be short), or -EFAULT. */
ssize_t sys_copy_from(void *dst, uintptr_t addr, size_t len);
ssize_t sys_copy_to(uintptr_t addr, const void *src, size_t len);

size_t sys_page_size(void);
uintptr_t sys_task_size(void);	/* first address beyond user space (47-bit layout) */

/* May the process have memory behind protection keys? Not told of: memory without read access. */
bool sys_keys_used(void);

/*
 * The calling thread, and who it starts until sys_keys_restore(), may go behind every key;
 * x86 only. Returns the rights it had.
 */
uint32_t sys_keys_open(void);
void sys_keys_restore(uint32_t rights);

/* ---------------------------------------------------------------- vm.c */

/*
 * Another process's memory. By its id or one of its threads', which the caller keeps
 * from being reused; needs the right to trace it.
 */

/*
 * A file of /proc/@pid, O_CLOEXEC. An open maps, pagemap or mem stays that address space's,
 * but where maps is read as text: then it is that of whatever @pid has become.
 */
int sys_proc_open(int pid, const char *name, bool write);

/*
 * Read by /proc/PID/mem: whatever is present, whatever its protection; never waits for
 * a fault to be served. Bytes read, perhaps short; 0: the address space is gone.
 */
ssize_t sys_mem_read(int mem_fd, void *dst, uintptr_t addr, size_t len);

/* As sys_copy_from(), sys_copy_to(): faults are served, and waited for. -EFAULT, -ESRCH ... */
ssize_t sys_vm_read(int pid, void *dst, uintptr_t addr, size_t len);
ssize_t sys_vm_write(int pid, uintptr_t addr, const void *src, size_t len);

/*
 * Fault in, as far as it can be done. 0: tried, what is there now is for the caller to
 * look at; -ESRCH, -EPERM.
 */
int sys_vm_populate(int pid, uintptr_t start, size_t len, bool write);

/* As sys_for_each_tcb(). -EPERM: some thread's cannot be told. */
int sys_vm_for_each_tcb(int pid, void (*fn)(uintptr_t addr, bool main, void *ctx), void *ctx);

int sys_vm_kill_thread(int pid, uint32_t tid, int sig);

/* By /proc: where a thread of @pid runs, or ran last. */
int sys_vm_thread_cpu(int pid, uint32_t tid);

/* What @to may have of memory, by its limits (setrlimit), is from now on what @from may. */
void sys_vm_limits_follow(int from, int to);
bool sys_pidfd_dead(int pidfd);
int sys_random(void *dst, size_t len);

/* ---------------------------------------------------------------- procmap.c */

#define SYS_VMA_READ	BIT(0)
#define SYS_VMA_WRITE	BIT(1)
#define SYS_VMA_EXEC	BIT(2)
#define SYS_VMA_SHARED	BIT(3)
#define SYS_VMA_FILE	BIT(4)	/* of a file, which memfd, shared anonymous and hugetlb are too */
#define SYS_VMA_STACK	BIT(5)	/* named [stack] */
#define SYS_VMA_SPECIAL	BIT(6)	/* [vdso], [vvar], [vsyscall] ... */
#define SYS_VMA_SHMEM	BIT(7)	/* FILE of no file: memfd, shared anonymous, SysV, hugetlb */
#define SYS_VMA_SHRINKS	BIT(8)	/* FILE that somebody can truncate: files, memfd */
#define SYS_VMA_HUGETLB	BIT(9)	/* of hugetlb, as far as the kernel says */

struct sys_vma {
	uintptr_t start, end;
	uint32_t flags;		/* SYS_VMA_* */
	uint64_t offset;	/* of a file mapping */
	uint64_t inode;
	uint32_t dev_major, dev_minor;
};

/*
 * The file of a file mapping, O_RDONLY | O_CLOEXEC: by /proc/self/map_files, which asks for
 * privilege, by its name, or by a descriptor that the process has of it. -ENOENT.
 */
int sys_vma_open(int maps_fd, const struct sys_vma *vma);

/* /proc/self/maps and /proc/self/pagemap, O_CLOEXEC. */
int sys_maps_open(void);
int sys_pagemap_open(void);

/* The mapping that holds @addr, or else the next above it. -ENOENT: there is none. */
int sys_vma_find(int maps_fd, uintptr_t addr, struct sys_vma *vma);

/*
 * Calls @each for the mappings from that of @from on, in order, until it says false. Where
 * every look-up reads the file (before 6.11) this reads it once, and what is ahead may be
 * told as it was a moment ago.
 */
void sys_vma_each(int maps_fd, uintptr_t from,
		  bool (*each)(void *arg, const struct sys_vma *vma), void *arg);

/* As sys_vma_find(), of task @tid; or why its mappings cannot be seen. */
int sys_mapping_of(int tid, uintptr_t addr, struct sys_vma *vma);

/* What the CPU's page table says, one byte per page. */
#define SYS_PAGE_PRESENT	0x01
#define SYS_PAGE_ZERO		0x02	/* the zero page */
#define SYS_PAGE_HUGE		0x04	/* mapped by a PMD */
#define SYS_PAGE_FILE		0x08	/* of a file or shared memory, not a private copy */
#define SYS_PAGE_SWAPPED	0x10	/* swap, or a marker */
int sys_page_states(int pagemap_fd, uintptr_t start, size_t nr_pages, uint8_t *states);

/* SYS_PAGE_FILE too: the kernel looks at each page's own structure, and takes twice as long. */
int sys_page_states_of_files(int pagemap_fd, uintptr_t start, size_t nr_pages, uint8_t *states);

/* ---------------------------------------------------------------- thread.c */

int sys_futex_wait(_Atomic uint32_t *word, uint32_t expected, const struct timespec *timeout);
int sys_futex_wake(_Atomic uint32_t *word, int nr);
void sys_rest(uint32_t us);		/* less than a second; a signal ends it early */
void sys_yield(void);			/* for who is ready to run, on this processor */
/* On memory that several processes map. */
int sys_futex_wait_shared(_Atomic uint32_t *word, uint32_t expected, const struct timespec *timeout);
int sys_futex_wake_shared(_Atomic uint32_t *word, int nr);
uint32_t sys_gettid(void);
/* A thread of ours. -EINVAL: that is none of its cpuset. */
int sys_pin_to_cpu(uint32_t tid, unsigned int cpu);
unsigned int sys_cpus(unsigned int *cpus, unsigned int max);	/* allowed; returns how many */

/*
 * Where a thread of this process was when it last left the kernel is in its rseq area:
 * opens no descriptor. 0: libc keeps none, or there is no such thread. What is there may be
 * gone, or be no CPU: -EFAULT.
 */
uintptr_t sys_thread_cpu_word(uint32_t tid);
int sys_cpu_in(uintptr_t word);
/* False, too, where it cannot be read. May fault where something else is mapped there by now. */
bool sys_word_is(uintptr_t word, uint32_t value);
bool sys_thread_is_ours(uint32_t tid);	/* a thread of this process */
int sys_kill_thread(uint32_t tid, int sig, uintptr_t addr);	/* as a fault at addr would */
uint64_t sys_now_ns(void);
int sys_membarrier_register(void);
int sys_membarrier(void);

int sys_tasks_open(void);		/* /proc/self/task */

#define SYS_TCBS_MAX	1024u

/*
 * Calls @fn with an address inside each thread's control block (get_robust_list), and
 * whether it is the main thread's. -EAGAIN: a thread has ended meanwhile, and another may
 * have been left out; -E2BIG: there are more than SYS_TCBS_MAX.
 * Reads the folder with raw system calls: not on two threads at once.
 */
int sys_for_each_tcb(int tasks_fd, void (*fn)(uintptr_t addr, bool main, void *ctx), void *ctx);

/*
 * [*low, *high): what belongs to the control block that lies around such an address, of a
 * process whose libc is not known; see sys_tls_around().
 */
void sys_tcb_around(uintptr_t addr, uintptr_t *low, uintptr_t *high);

/* Have the above find the calling thread, whatever its libc. */
void sys_tell_tcb(void);

/*
 * Stays the same while the process has the same threads, *nr of them; 0: could not
 * tell. Without a call for each thread. Ids come again when all have been used.
 */
uint64_t sys_threads_mark(int tasks_fd, uint32_t *nr);

/*
 * The anonymous pages with static data (.bss) of the program and of each library that is
 * loaded. Takes the dynamic linker's lock: no lock held, not on a thread that serves
 * faults.
 */
void sys_for_each_static(void (*fn)(uintptr_t start, uintptr_t end, void *ctx), void *ctx);

/*
 * How far a thread of this process reaches from the address that sys_for_each_tcb() tells
 * of it, in bytes, the same in each: its control block, static TLS, the kernel's rseq
 * area; and the @bytes at @own, TLS of the caller's, which the linker does not tell of in
 * a library that was loaded late. A page, where that cannot be told. Locks as the above.
 */
void sys_tls_around(const void *own, size_t bytes, size_t *below, size_t *above);

/*
 * The thread-local storage of the program and of each library that is loaded, in bytes,
 * whole pages; all of it may be on a new thread's stack. Locks as the above.
 */
size_t sys_tls_bytes(void);

/* Is any of [start, end) part of the program or of a library that is loaded? May lock. */
bool sys_in_object(uintptr_t start, uintptr_t end);

int sys_eventfd(void);
int sys_eventfd_signal(int fd);
void sys_eventfd_clear(int fd);
int sys_poll2(int fd_a, int fd_b, int timeout_ms, bool *a, bool *b);	/* readable? */

/* An epoll that says which of its descriptors are readable, by the @data they came with. */
int sys_epoll_open(void);
int sys_epoll_add(int epoll, int fd, uint64_t data);
/* Of those that have it so, and are waited in, it wakes the first to have come. */
int sys_epoll_add_exclusive(int epoll, int fd, uint64_t data);
void sys_epoll_remove(int epoll, int fd);
/* How many of them, @max at most; @timeout_ms negative: waits for ever. */
int sys_epoll_wait(int epoll, uint64_t *data, int max, int timeout_ms);
void sys_close(int fd);
void sys_write_stderr(const char *line);	/* with a newline, in one write */

#endif
