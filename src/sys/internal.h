/* SPDX-License-Identifier: MIT */
/*
 * Shared by the files of src/sys and nobody else: the errno convention and the cookie.
 */
#ifndef UHMM_SYS_INTERNAL_H
#define UHMM_SYS_INTERNAL_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What libc's syscall() returned, as a value: errno is folded in. */
static inline long sys_ret(long ret)
{
	return ret < 0 ? -errno : ret;
}

/*
 * The secret that the library's own mapping calls carry past the filter of seccomp.c.
 * It is drawn once per process and inherited by fork, as the filter is. Never zero,
 * and neither half is 0 or all ones, which programs leave in unused registers.
 *
 * Where: calls with at most five arguments carry it whole in the sixth. mmap uses all
 * six, but the kernel looks at the low half of its descriptor only (fget() takes an
 * unsigned int, whatever the mapping), so the high half carries SYS_COOKIE_MMAP. The
 * high halves of prot and flags would do as well, save that MAP_SHARED_VALIDATE
 * refuses unknown flags and that sandboxes commonly kill on a wide prot.
 */
uint64_t sys_cookie(void);

#define SYS_COOKIE_MMAP(cookie)	((uint32_t)((cookie) >> 32))

static inline uint64_t sys_mmap_fd(uint64_t cookie, int fd)
{
	return (uint64_t)SYS_COOKIE_MMAP(cookie) << 32 | (uint32_t)fd;
}

/*
 * A call that carries the cookie, which must not stay in an argument register: libc's
 * next munmap leaves those alone that munmap does not use, and would pass the filter.
 */
static inline long sys_cookie_call(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
				   uint64_t e, uint64_t f)
{
	long ret = syscall(nr, a, b, c, d, e, f);

#if defined(__x86_64__)
	__asm__ volatile("xorl %%r8d, %%r8d\n\txorl %%r9d, %%r9d" ::: "r8", "r9", "cc");
#elif defined(__aarch64__)
	__asm__ volatile("mov x4, xzr\n\tmov x5, xzr" ::: "x4", "x5");
#else
#error "which registers carry the fifth and sixth argument?"
#endif
	return ret == -1 ? -errno : ret;
}

/* The calling thread's control block is [low, high). */
struct sys_own_block {
	uintptr_t told;		/* as sys_for_each_tcb() tells it; 0: it does not */
	uintptr_t low, high;
	size_t up, down;	/* what is told of another may lie so much further up, or down */
};

struct sys_own_block sys_own_block(void);

uintptr_t sys_own_rseq(void);	/* the calling thread's area; 0: libc has none */

#define SYS_RSEQ_SIZE	32u	/* of struct rseq, what kernels write unasked */

/* The control blocks of the threads in the open /proc/@pid/task. */
int sys_tcbs_of(int tasks_fd, int pid, void (*fn)(uintptr_t addr, bool main, void *ctx), void *ctx);

/*
 * A field of the text of /proc/PID/stat, counted as proc(5) does; the second, a name in
 * parentheses, may hold anything. -EIO: it is not there, or no number.
 */
long sys_stat_number(const char *stat, unsigned int field);

/* One page that nothing can read or write, for as long as the process lives; 0: no memory. */
uintptr_t sys_unreachable_page(void);

/* sys_uffd_open() without asking sys_cap(): for the probes. */
int sys_uffd_open_any(uint64_t features, bool user_only, uint64_t *have);

/*
 * Run @fn(@arg) in a process of its own that shares this one's memory but no
 * descriptors, and return what it returned, once it has ended: it runs while the
 * calling thread stands still. Nothing that waits for children sees it. @fn makes
 * raw system calls only. Returns 0 to 255, or a negative errno.
 */
int sys_call_in_child(int (*fn)(void *arg), void *arg);

/* Start @fn(@arg) so and do not wait; @stack is the upper end of one. Returns its pid. */
int sys_start_child(int (*fn)(void *arg), void *arg, void *stack);

/*
 * Start @fn(@arg) so, and return its pid once it shares our memory no more: it has
 * become another program, or @fn has ended, and what it noted in @arg says which.
 */
int sys_exec_child(int (*fn)(void *arg), void *arg, void *stack);

#endif
