// SPDX-License-Identifier: MIT
/*
 * The agent's task. See agent.h.
 */
#include "agent.h"

#include <limits.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/wait.h>
#include <poll.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "message.h"
#include "sys/raw.h"

/* <signal.h> has libc's idea of these; the kernel's are what is needed here. */
#define SIG_KILL	9
#define SIG_LAST	64	/* a real-time signal that no user's pkill sends by habit */
#define SIG_MASK_UNBLOCK 1
#define SIG_MASK_SET	2
#define SA_WITH_RESTORER 0x04000000UL

struct kernel_sigaction {
	void (*handler)(int sig);
	unsigned long flags;
#ifdef __x86_64__
	void (*restorer)(void);
#endif
	uint64_t mask;
};

/* The one of this process; found by the handler, which gets no argument of ours. */
static struct agent *self;

/* ---------------------------------------------------------------- the end of the monitor */

/*
 * Who adopted the agent is gone, so nobody serves the program's faults and calls any
 * more. The program ends first: the agent holds a copy of the userfaultfd, and with
 * its last copy closed what is away would read as zeros.
 */
static void on_orphaned(int sig)
{
	struct pollfd wait = { .fd = self->pidfd, .events = POLLIN };

	(void)sig;
	if (sys_raw(SYS_getppid, 0, 0, 0, 0, 0, 0) == self->parent)
		return;		/* somebody else's idea */
	sys_raw(SYS_pidfd_send_signal, self->pidfd, SIG_KILL, 0, 0, 0, 0);
	while (sys_raw(SYS_ppoll, (long)&wait, 1, 0, 0, 0, 0) < 0)
		;
	sys_raw(SYS_exit_group, 1, 0, 0, 0, 0, 0);
}

#ifdef __x86_64__
void agent_sigreturn(void);
__asm__(".text\n"
	".hidden agent_sigreturn\n"
	".globl agent_sigreturn\n"
	".type agent_sigreturn, @function\n"
	"agent_sigreturn:\n\t"
	"mov $15, %eax\n\t"
	"syscall\n");
#endif

static void watch_parent(struct agent *agent)
{
	struct kernel_sigaction action = { .handler = on_orphaned };
	uint64_t mask = 1ULL << (SIG_LAST - 1);

#ifdef __x86_64__
	action.flags = SA_WITH_RESTORER;
	action.restorer = agent_sigreturn;
#endif
	sys_raw(SYS_rt_sigaction, SIG_LAST, (long)&action, 0, sizeof(mask), 0, 0);
	sys_raw(SYS_rt_sigprocmask, SIG_MASK_UNBLOCK, (long)&mask, 0, sizeof(mask), 0, 0);
	sys_raw(SYS_prctl, PR_SET_PDEATHSIG, SIG_LAST, 0, 0, 0, 0);
	/* It may have gone before it was watched; then this is our new parent's pid. */
	if (sys_raw(SYS_getppid, 0, 0, 0, 0, 0, 0) != agent->parent)
		on_orphaned(SIG_LAST);
}

/* ---------------------------------------------------------------- leaving the program */

static void close_span(unsigned int first, unsigned int last)
{
	struct rlimit limit;

	if (first > last || sys_raw(SYS_close_range, first, last, 0, 0, 0, 0) == 0)
		return;
	if (sys_raw(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&limit, 0, 0))
		return;
	for (unsigned int fd = first; fd <= last && fd < limit.rlim_cur; fd++)
		sys_raw(SYS_close, fd, 0, 0, 0, 0, 0);
}

/* The program's pipes must close when it closes them. */
static void close_others(const struct agent *agent)
{
	int keep[3] = { agent->sock, agent->uffd, agent->pidfd };
	unsigned int next = 0;

	for (int i = 0; i < 3; i++)
		for (int j = i + 1; j < 3; j++)
			if (keep[j] < keep[i]) {
				int swap = keep[i];

				keep[i] = keep[j];
				keep[j] = swap;
			}
	for (int i = 0; i < 3; i++) {
		if (keep[i] < 0)
			continue;
		if (keep[i] > 0)
			close_span(next, (unsigned int)keep[i] - 1);
		next = (unsigned int)keep[i] + 1;
	}
	close_span(next, UINT_MAX);
}

/*
 * The first child ends at once; until then it is our parent. In between the kernel may say
 * that we have none: it has looked up the first child, whose number is gone when it asks
 * for that.
 */
static void await_adoption(struct agent *agent)
{
	for (;;) {
		agent->parent = (int)sys_raw(SYS_getppid, 0, 0, 0, 0, 0, 0);
		if (agent->parent && agent->parent != agent->starter)
			return;
		sys_raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
	}
}

/* ---------------------------------------------------------------- work */

static void serve(struct agent_shm *shm)
{
	uint32_t done = 0, want;

	for (;;) {
		/* acquire: pairs with the monitor's release after it wrote the calls */
		want = atomic_load_explicit(&shm->submitted, memory_order_acquire);
		if (want == done) {
			sys_raw(SYS_futex, (long)&shm->submitted, FUTEX_WAIT, done, 0, 0, 0);
			continue;
		}
		while (done != want) {
			struct agent_call *call = &shm->calls[done++ % AGENT_RING];

			call->ret = sys_raw((long)call->nr, (long)call->args[0],
					    (long)call->args[1], (long)call->args[2],
					    (long)call->args[3], (long)call->args[4],
					    (long)call->args[5]);
		}
		atomic_store_explicit(&shm->completed, done, memory_order_release);
		sys_raw(SYS_futex, (long)&shm->completed, FUTEX_WAKE, 1, 0, 0, 0);
	}
}

/* All signals are blocked since agent_start(). */
static int agent_main(void *arg)
{
	static const char name[] = AGENT_NAME;
	struct agent *agent = arg;

	await_adoption(agent);
	sys_raw(SYS_prctl, PR_SET_NAME, (long)name, 0, 0, 0, 0);
	sys_raw(SYS_setsid, 0, 0, 0, 0, 0, 0);
	sys_raw(SYS_chdir, (long)"/", 0, 0, 0, 0, 0);
	close_others(agent);
	watch_parent(agent);
	if (message_send(agent->sock, &agent->ready, sizeof(agent->ready), agent->uffd) < 0)
		return 1;
	sys_raw(SYS_close, agent->sock, 0, 0, 0, 0, 0);
	serve(agent->shm);
	return 0;
}

/* ---------------------------------------------------------------- starting it */

/*
 * In the first child, on the second half of the stack: its end makes the agent a child
 * of whoever adopts orphans here. What it returns is its exit status: an errno.
 */
static int starter_main(void *arg)
{
	struct agent *agent = arg;
	long pid;

	agent->starter = (int)sys_raw(SYS_getpid, 0, 0, 0, 0, 0, 0);
	pid = sys_raw_clone(agent_main, agent, (char *)agent + AGENT_STACK, CLONE_VM);
	return pid < 0 ? (int)-pid : 0;
}

/*
 * No exit signal, so that only a wait with __WALL sees the first child, and none in a
 * handler of the program's, for all signals are blocked.
 */
int agent_start(struct agent *agent)
{
	uint64_t all = ~0ULL, old = 0;
	int status = 0;
	long pid, ret;

	self = agent;
	agent->pidfd = (int)sys_raw(SYS_pidfd_open, sys_raw(SYS_getpid, 0, 0, 0, 0, 0, 0), 0, 0, 0, 0,
				    0);
	sys_raw(SYS_rt_sigprocmask, SIG_MASK_SET, (long)&all, (long)&old, sizeof(all), 0, 0);
	pid = sys_raw_clone(starter_main, agent, (char *)agent + AGENT_STACK / 2,
			    CLONE_VM | CLONE_VFORK);
	ret = pid;
	if (pid > 0)
		do {
			ret = sys_raw(SYS_wait4, pid, (long)&status, __WALL, 0, 0, 0);
		} while (ret == -4 /* EINTR */);
	sys_raw(SYS_rt_sigprocmask, SIG_MASK_SET, (long)&old, 0, sizeof(old), 0, 0);
	if (agent->pidfd >= 0)
		sys_raw(SYS_close, agent->pidfd, 0, 0, 0, 0, 0);
	return ret < 0 ? (int)ret : -(status >> 8 & 0xff);
}
