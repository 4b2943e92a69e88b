/* SPDX-License-Identifier: MIT */
/*
 * System calls by hand, for code that may not touch errno or has no libc at all: the
 * agent shares the program's memory but is no thread of it, so that libc's errno is
 * another's.
 */
#ifndef UHMM_SYS_RAW_H
#define UHMM_SYS_RAW_H

#include <stdint.h>
#include <sys/syscall.h>

/*
 * What the kernel returns: a value, or a negative errno. Always a part of its caller,
 * which may be code that is copied and run elsewhere (keeper.c).
 */
static inline __attribute__((always_inline)) long sys_raw(long nr, long a, long b, long c,
							  long d, long e, long f)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
#else
#error "no system call for this architecture"
#endif
}

/*
 * clone(2) of a process without thread, descriptor or signal sharing beyond @flags,
 * which calls @fn(@arg) on the stack whose upper end, 16-byte aligned, is @stack, and
 * ends with what it returns. libc's clone() is a place where sanitizers and preloaded
 * libraries hook in, and what they do to a new process they would do to this one,
 * whose memory it is.
 */
static inline long sys_raw_clone(int (*fn)(void *arg), void *arg, void *stack, long flags)
{
	uintptr_t *top = (uintptr_t *)stack - 2;

	top[0] = (uintptr_t)fn;
	top[1] = (uintptr_t)arg;
#if defined(__x86_64__)
	register long child_tid __asm__("r10") = 0;
	register long tls __asm__("r8") = 0;
	long ret;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "pop %%rax\n\t"
			 "pop %%rdi\n\t"
			 "call *%%rax\n\t"
			 "mov %%eax, %%edi\n\t"
			 "mov %[exit], %%eax\n\t"
			 "syscall\n\t"
			 "hlt\n"
			 "1:"
			 : "=a"(ret)
			 : "a"((long)SYS_clone), "D"(flags), "S"(top), "d"(0L), "r"(child_tid),
			   "r"(tls), [exit] "i"(SYS_exit)
			 : "rcx", "r11", "memory");
	return ret;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = SYS_clone;
	register long x0 __asm__("x0") = flags;
	register long x1 __asm__("x1") = (long)top;
	register long x2 __asm__("x2") = 0;
	register long x3 __asm__("x3") = 0;
	register long x4 __asm__("x4") = 0;

	__asm__ volatile("svc 0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x29, #0\n\t"
			 "ldp x1, x0, [sp], #16\n\t"
			 "blr x1\n\t"
			 "mov x8, %[exit]\n\t"
			 "svc 0\n"
			 "1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), [exit] "i"(SYS_exit)
			 : "memory");
	return x0;
#else
#error "no clone for this architecture"
#endif
}

#endif
