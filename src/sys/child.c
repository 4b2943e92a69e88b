// SPDX-License-Identifier: MIT
/*
 * Short-lived processes that share this one's memory.
 */
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "sys/internal.h"
#include "sys/sys.h"

#define STACK_SIZE	65536

/*
 * clone(2) by hand: libc's is a place where sanitizers and preloaded libraries hook
 * in, and what they do to a new process they do here to this one, whose memory it is.
 * @top is 16-byte aligned and holds @fn and @arg.
 */
static long clone_on(uintptr_t top, long flags)
{
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

/*
 * No exit signal: wait() without __WALL does not see it. Sharing the memory also
 * keeps every page exclusively the program's, which a fork would end.
 */
static int start(int (*fn)(void *arg), void *arg, void *stack, long flags)
{
	uintptr_t *top = (uintptr_t *)stack - 2;

	top[0] = (uintptr_t)fn;
	top[1] = (uintptr_t)arg;
	return (int)clone_on((uintptr_t)top, CLONE_VM | flags);
}

int sys_start_child(int (*fn)(void *arg), void *arg, void *stack)
{
	return start(fn, arg, stack, 0);
}

int sys_exec_child(int (*fn)(void *arg), void *arg, void *stack)
{
	return start(fn, arg, stack, CLONE_VFORK);
}

/*
 * All signals are blocked, in the child too: a handler of the program that ran there
 * would run in the program's memory, but in another process.
 */
int sys_call_in_child(int (*fn)(void *arg), void *arg)
{
	uint64_t all = ~0ULL, old;
	void *stack;
	int status = 0;
	int pid, ret;

	ret = sys_map_anon(STACK_SIZE, &stack);
	if (ret)
		return ret;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof(all));
	pid = start(fn, arg, (char *)stack + STACK_SIZE, CLONE_VFORK);
	if (pid >= 0)
		ret = (int)sys_ret(syscall(SYS_wait4, (long)pid, &status, (long)__WALL, NULL));
	else
		ret = pid;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, sizeof(old));
	sys_munmap(stack, STACK_SIZE);
	if (ret < 0)
		return ret;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -ECHILD;
}
