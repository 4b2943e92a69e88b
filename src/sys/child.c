// SPDX-License-Identifier: MIT
/*
 * Short-lived processes that share this one's memory.
 */
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "sys/internal.h"
#include "sys/raw.h"
#include "sys/sys.h"

#define STACK_SIZE	65536

/*
 * No exit signal: wait() without __WALL does not see it. Sharing the memory also
 * keeps every page exclusively the program's, which a fork would end.
 */
static int start(int (*fn)(void *arg), void *arg, void *stack, long flags)
{
	return (int)sys_raw_clone(fn, arg, stack, CLONE_VM | flags);
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
