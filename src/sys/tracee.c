// SPDX-License-Identifier: MIT
#include "sys/tracee.h"

#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "sys/internal.h"
#include "sys/sys.h"

#define VDSO_BYTES	8192u	/* where a call is looked for */
#define AUXV_MAX	64u

/* ---------------------------------------------------------------- stops */

static long trace(int request, pid_t tid, uintptr_t addr, uintptr_t data)
{
	return sys_ret(ptrace(request, tid, (void *)addr, (void *)data));
}

int sys_trace_exec(pid_t tid)
{
	return (int)trace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC);
}

int sys_trace_fork(pid_t tid)
{
	return (int)trace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK |
			  PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE);
}

/* At the stop of a process that was stopped as a whole the signal stands where SIGTRAP does. */
static void understand(int status, struct sys_stop *stop)
{
	const int sig = WSTOPSIG(status);
	unsigned long child = 0;

	stop->kind = STOP_OTHER;
	stop->sig = 0;
	if (!WIFSTOPPED(status)) {
		stop->kind = STOP_ENDED;
		return;
	}
	switch (status >> 16) {
	case 0:
		stop->kind = sig == (SIGTRAP | 0x80) ? STOP_CALL : STOP_SIGNAL;
		stop->sig = stop->kind == STOP_SIGNAL ? sig : 0;
		break;
	case PTRACE_EVENT_EXEC:
		stop->kind = STOP_EXEC;
		break;
	case PTRACE_EVENT_FORK:
	case PTRACE_EVENT_VFORK:
	case PTRACE_EVENT_CLONE:
		stop->kind = STOP_CHILD;
		trace(PTRACE_GETEVENTMSG, stop->tid, 0, (uintptr_t)&child);
		stop->child = (pid_t)child;
		break;
	case PTRACE_EVENT_STOP:
		if (sig == SIGTRAP)
			stop->kind = STOP_ASKED;
		break;
	default:
		break;
	}
}

bool sys_trace_wait(pid_t tid, struct sys_stop *stop, bool block)
{
	int status = 0;
	pid_t found;

	do {
		found = (pid_t)sys_ret(waitpid(tid ? tid : -1, &status, __WALL | __WNOTHREAD |
					       (block ? 0 : WNOHANG)));
	} while (found == -EINTR);
	memset(stop, 0, sizeof(*stop));
	if (found <= 0)
		return found == 0;
	stop->tid = found;
	understand(status, stop);
	return true;
}

int sys_trace_interrupt(pid_t tid)
{
	return (int)trace(PTRACE_INTERRUPT, tid, 0, 0);
}

void sys_trace_go_on(const struct sys_stop *stop)
{
	trace(PTRACE_CONT, stop->tid, 0, (uintptr_t)stop->sig);
}

void sys_trace_leave(pid_t tid)
{
	trace(PTRACE_DETACH, tid, 0, 0);
}

/* ---------------------------------------------------------------- registers */

static int regs_get(pid_t tid, struct user_regs_struct *regs)
{
	struct iovec part = { .iov_base = regs, .iov_len = sizeof(*regs) };

	return (int)trace(PTRACE_GETREGSET, tid, NT_PRSTATUS, (uintptr_t)&part);
}

static int regs_set(pid_t tid, const struct user_regs_struct *regs)
{
	struct iovec part = { .iov_base = (void *)regs, .iov_len = sizeof(*regs) };

	return (int)trace(PTRACE_SETREGSET, tid, NT_PRSTATUS, (uintptr_t)&part);
}

/* None of these restarts the call that the task was in: that is for when it is left. */
#if defined(__x86_64__)
static const uint8_t call_instruction[] = { 0x0f, 0x05 };

static void regs_call(struct user_regs_struct *r, uintptr_t gate, long nr, const uint64_t a[6])
{
	r->orig_rax = (unsigned long long)-1;
	r->rip = gate;
	r->rax = (unsigned long long)nr;
	r->rdi = a[0];
	r->rsi = a[1];
	r->rdx = a[2];
	r->r10 = a[3];
	r->r8 = a[4];
	r->r9 = a[5];
}

static void regs_run(struct user_regs_struct *r, uintptr_t entry, uintptr_t arg, uintptr_t stack)
{
	r->orig_rax = (unsigned long long)-1;
	r->rip = entry;
	r->rdi = arg;
	r->rsp = stack - 8;	/* as if it had been called */
	r->rbp = 0;
	r->eflags &= ~0x400ULL;	/* direction */
}

static int64_t regs_result(const struct user_regs_struct *r)
{
	return (int64_t)r->rax;
}
#elif defined(__aarch64__)
static const uint8_t call_instruction[] = { 0x01, 0x00, 0x00, 0xd4 };

static void regs_call(struct user_regs_struct *r, uintptr_t gate, long nr, const uint64_t a[6])
{
	r->pc = gate;
	r->regs[8] = (unsigned long long)nr;
	for (int i = 0; i < 6; i++)
		r->regs[i] = a[i];
}

static void regs_run(struct user_regs_struct *r, uintptr_t entry, uintptr_t arg, uintptr_t stack)
{
	r->pc = entry;
	r->regs[0] = arg;
	r->regs[29] = r->regs[30] = 0;
	r->sp = stack;
}

static int64_t regs_result(const struct user_regs_struct *r)
{
	return (int64_t)r->regs[0];
}
#endif

/* ---------------------------------------------------------------- the vDSO */

static uintptr_t vdso_of(pid_t tid)
{
	uint64_t auxv[2 * AUXV_MAX];
	int fd = sys_proc_open(tid, "auxv", false);
	ssize_t got;

	if (fd < 0)
		return 0;
	got = sys_read_full(fd, auxv, sizeof(auxv));
	close(fd);
	for (ssize_t i = 0; (i + 2) * (ssize_t)sizeof(auxv[0]) <= got; i += 2)
		if (auxv[i] == AT_SYSINFO_EHDR)
			return auxv[i + 1];
	return 0;
}

/* Bytes that look like it are it, for who jumps there. */
static uintptr_t find_gate(pid_t tid)
{
	const size_t len = sizeof(call_instruction);
	const uintptr_t vdso = vdso_of(tid);
	uint8_t code[VDSO_BYTES];
	ssize_t got = vdso ? sys_vm_read((int)tid, code, vdso, sizeof(code)) : 0;

	for (ssize_t i = 0; i + (ssize_t)len <= got; i += len == 2 ? 1 : (ssize_t)len)
		if (memcmp(code + i, call_instruction, len) == 0)
			return vdso + (uintptr_t)i;
	return 0;
}

/* ---------------------------------------------------------------- use */

int sys_tracee_borrow(pid_t tid, struct sys_tracee *out)
{
	uint64_t blocked = ~(1ULL << (SIGTRAP - 1));
	int ret;

	memset(out, 0, sizeof(*out));
	out->tid = tid;
	out->gate = find_gate(tid);
	if (!out->gate)
		return -EOPNOTSUPP;
	ret = regs_get(tid, &out->regs);
	/* A child has got its parent's: its own children are not to be traced. */
	if (!ret)
		ret = (int)trace(PTRACE_SETOPTIONS, tid, 0, PTRACE_O_TRACESYSGOOD);
	if (!ret)
		ret = (int)trace(PTRACE_GETSIGMASK, tid, sizeof(out->mask), (uintptr_t)&out->mask);
	if (!ret)
		ret = (int)trace(PTRACE_SETSIGMASK, tid, sizeof(blocked), (uintptr_t)&blocked);
	return ret;
}

void sys_tracee_return(struct sys_tracee *t)
{
	regs_set(t->tid, &t->regs);
	trace(PTRACE_SETSIGMASK, t->tid, sizeof(t->mask), (uintptr_t)&t->mask);
	if (t->trapped)
		syscall(SYS_tkill, (long)t->tid, (long)SIGTRAP);
}

/*
 * Go on, as @request says, up to a stop that is not between here and there. SIGSTOP is
 * let through: its process stops as a whole, which for one that is traced is a stop like
 * others, and it stops again when it is left. 0: a step of a call; SIGTRAP: it has sent
 * itself that.
 */
static int resume(const struct sys_tracee *t, int request)
{
	struct sys_stop stop = { .tid = t->tid };

	for (;;) {
		if (trace(request, t->tid, 0, (uintptr_t)stop.sig) || !sys_trace_wait(t->tid, &stop, true))
			return -ESRCH;
		if (stop.kind == STOP_ENDED)
			return -ESRCH;
		if (stop.kind == STOP_SIGNAL && stop.sig != SIGSTOP)
			return stop.sig == SIGTRAP ? SIGTRAP : -EFAULT;
		if (stop.kind == STOP_CALL)
			return 0;
	}
}

int64_t sys_tracee_call(struct sys_tracee *t, long nr, const uint64_t args[6])
{
	struct user_regs_struct regs = t->regs;
	int ret;

	regs_call(&regs, t->gate, nr, args);
	ret = regs_set(t->tid, &regs);
	for (int step = 0; step < 2 && !ret; step++)
		ret = resume(t, PTRACE_SYSCALL);
	if (!ret)
		ret = regs_get(t->tid, &regs);
	return ret ? (ret < 0 ? ret : -EFAULT) : regs_result(&regs);
}

static bool is_done(const struct sys_tracee *t, uintptr_t done)
{
	uint32_t word = 0;

	return sys_vm_read((int)t->tid, &word, done, sizeof(word)) != (ssize_t)sizeof(word) || word;
}

int sys_tracee_run(struct sys_tracee *t, uintptr_t entry, uintptr_t arg, uintptr_t stack,
		   uintptr_t done)
{
	struct user_regs_struct regs = t->regs;
	int ret;

	regs_run(&regs, entry, arg, stack);
	ret = regs_set(t->tid, &regs);
	if (!ret)
		ret = resume(t, PTRACE_CONT);
	while (ret == SIGTRAP && !is_done(t, done)) {
		t->trapped = true;
		ret = resume(t, PTRACE_CONT);
	}
	return ret == SIGTRAP ? 0 : ret < 0 ? ret : -EFAULT;
}
