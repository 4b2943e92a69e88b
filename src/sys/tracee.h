/* SPDX-License-Identifier: MIT */
/*
 * Another task's thread of execution, borrowed by ptrace(2).
 *
 * A task is traced by the thread that began to, and by no other; when that ends all that
 * it traces go on as if nothing had been. What is done here changes nothing that a task
 * can see of itself once it is left: it is resumed at a stop where the kernel lets a
 * debugger change all registers (PTRACE_EVENT_STOP), with all signals blocked but those
 * that cannot be, and gets back its registers and its mask.
 */
#ifndef UHMM_SYS_TRACEE_H
#define UHMM_SYS_TRACEE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/* Begin. -EPERM: another traces it, or it may not be traced; -ESRCH. */
int sys_trace_exec(pid_t tid);		/* it will stop once it is another program */
int sys_trace_fork(pid_t tid);		/* ... once it has a child, traced too */

enum sys_stop_kind {
	STOP_NONE,		/* nobody has stopped */
	STOP_ENDED,		/* it is no more */
	STOP_EXEC,
	STOP_CHILD,
	STOP_ASKED,		/* interrupted; or a child's first */
	STOP_SIGNAL,		/* about to get one */
	STOP_CALL,		/* begins or ends a system call */
	STOP_OTHER,		/* with its whole process, by SIGSTOP and the like */
};

struct sys_stop {
	enum sys_stop_kind kind;
	pid_t tid;
	pid_t child;		/* STOP_CHILD: who that is */
	int sig;		/* STOP_SIGNAL */
};

/* The next stop of @tid, or of any (0), that this thread traces. False: it traces none. */
bool sys_trace_wait(pid_t tid, struct sys_stop *stop, bool block);

int sys_trace_interrupt(pid_t tid);	/* it stops soon, wherever it is */
void sys_trace_go_on(const struct sys_stop *stop);	/* ... from there, with its signal */
void sys_trace_leave(pid_t tid);	/* it stands; it goes on, untraced */

/* One that stands at STOP_ASKED: what it has to get back, and what is needed to use it. */
struct sys_tracee {
	pid_t tid;
	uint64_t mask;
	struct user_regs_struct regs;
	uintptr_t gate;		/* a system call instruction of its vDSO */
	bool trapped;		/* somebody else has sent it SIGTRAP meanwhile */
};

/* -EOPNOTSUPP: it has no vDSO to make calls from. -ESRCH: it is gone. */
int sys_tracee_borrow(pid_t tid, struct sys_tracee *out);

/* Have it make a system call: its result, or -ESRCH, -EFAULT: it did not. */
int64_t sys_tracee_call(struct sys_tracee *tracee, long nr, const uint64_t args[6]);

/*
 * Have it call @entry(@arg) on the stack below @stack, 16-byte aligned, until it sends
 * itself SIGTRAP, which is not delivered; the 32-bit word at @done is not 0 by then. 0;
 * -ESRCH; -EFAULT: it broke down.
 */
int sys_tracee_run(struct sys_tracee *tracee, uintptr_t entry, uintptr_t arg, uintptr_t stack,
		   uintptr_t done);

/* All as it was. It still stands. */
void sys_tracee_return(struct sys_tracee *tracee);

#endif
