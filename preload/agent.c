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
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

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

/* ---------------------------------------------------------------- the end of the warden */

/* How long after the kernel told of a parent's end its pidfd may not have heard of it. */
#define HEARSAY_S	1

/*
 * Who is the agent's parent? The first child, where there is one, ends at once. In between
 * the kernel may say that we have none: it has looked up one whose number is gone when it
 * asks for that.
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

static bool warden_ended(const struct agent *agent, long patience_s)
{
	struct pollfd wait = { .fd = agent->warden_pidfd, .events = POLLIN };
	struct timespec patience = { .tv_sec = patience_s };

	return sys_raw(SYS_ppoll, (long)&wait, 1, (long)&patience, 0, 0, 0) > 0;
}

/*
 * The warden is gone, so nobody serves the program's faults and calls any more. The
 * program ends first: the agent holds a copy of the userfaultfd, and with its last copy
 * closed what is away would read as zeros.
 */
static void end_program(const struct agent *agent)
{
	struct pollfd wait = { .fd = agent->pidfd, .events = POLLIN };

	sys_raw(SYS_pidfd_send_signal, agent->pidfd, SIG_KILL, 0, 0, 0, 0);
	while (sys_raw(SYS_ppoll, (long)&wait, 1, 0, 0, 0, 0) < 0)
		;
	sys_raw(SYS_exit_group, 1, 0, 0, 0, 0, 0);
}

/*
 * Who adopted the agent is gone. That need not be the warden: in its tree others may adopt
 * orphans too. Then the next one does, and the program goes on.
 */
static void on_orphaned(int sig)
{
	const int before = self->parent;

	(void)sig;
	await_adoption(self);
	if (self->parent == before)
		return;		/* somebody else's idea */
	if (warden_ended(self, before == self->warden ? HEARSAY_S : 0))
		end_program(self);
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

#define KEPT	4

/* The program's pipes must close when it closes them. */
static void close_others(const struct agent *agent)
{
	int keep[KEPT] = { agent->sock, agent->uffd, agent->pidfd, agent->warden_pidfd };
	unsigned int next = 0;

	for (int i = 0; i < KEPT; i++)
		for (int j = i + 1; j < KEPT; j++)
			if (keep[j] < keep[i]) {
				int swap = keep[i];

				keep[i] = keep[j];
				keep[j] = swap;
			}
	for (int i = 0; i < KEPT; i++) {
		if (keep[i] < 0)
			continue;
		if (keep[i] > 0)
			close_span(next, (unsigned int)keep[i] - 1);
		next = (unsigned int)keep[i] + 1;
	}
	close_span(next, UINT_MAX);
}

/* ---------------------------------------------------------------- work */

/* The kernel tells of the warden's end where it is the parent; else it is looked at. */
static void await_call(const struct agent *agent, uint32_t done)
{
	const struct timespec tick = { .tv_sec = 1 };
	const bool told = agent->parent == agent->warden;
	long ret;

	ret = sys_raw(SYS_futex, (long)&agent->shm->submitted, FUTEX_WAIT, done,
		      told ? 0 : (long)&tick, 0, 0);
	if (ret == -110 /* ETIMEDOUT */ && warden_ended(agent, 0))
		end_program(agent);
}

static void serve(const struct agent *agent)
{
	struct agent_shm *shm = agent->shm;
	uint32_t done = 0, want;

	for (;;) {
		/* acquire: pairs with the monitor's release after it wrote the calls */
		want = atomic_load_explicit(&shm->submitted, memory_order_acquire);
		if (want == done) {
			await_call(agent, done);
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
	agent->starter = 0;	/* its number may be an adopter's one day */
	sys_raw(SYS_prctl, PR_SET_NAME, (long)name, 0, 0, 0, 0);
	sys_raw(SYS_setsid, 0, 0, 0, 0, 0, 0);
	sys_raw(SYS_chdir, (long)"/", 0, 0, 0, 0, 0);
	close_others(agent);
	watch_parent(agent);
	if (message_send(agent->sock, &agent->ready, sizeof(agent->ready), agent->uffd) < 0)
		return 1;
	sys_raw(SYS_close, agent->sock, 0, 0, 0, 0, 0);
	serve(agent);
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
 * handler of the program's, for all signals are blocked. 0 or a negative errno.
 */
static int start_adopted(struct agent *agent)
{
	int status = 0;
	long pid, ret;

	pid = sys_raw_clone(starter_main, agent, (char *)agent + AGENT_STACK / 2,
			    CLONE_VM | CLONE_VFORK);
	ret = pid;
	if (pid > 0)
		do {
			ret = sys_raw(SYS_wait4, pid, (long)&status, __WALL, 0, 0, 0);
		} while (ret == -4 /* EINTR */);
	return ret < 0 ? (int)ret : -(status >> 8 & 0xff);
}

/*
 * Who is adopted tells its parent of its end, and is seen by its wait(). So that this is
 * not the program, one that adopts orphans, since before it became this program, does not
 * for the moment: it has started nobody yet, as this program. The first process of a pid
 * namespace cannot but; there the agent remains the child with no exit signal that it is.
 */
static int start_unseen(struct agent *agent)
{
	int adopts = 0;
	long ret;

	if (sys_raw(SYS_getpid, 0, 0, 0, 0, 0, 0) == 1) {
		ret = sys_raw_clone(agent_main, agent, (char *)agent + AGENT_STACK, CLONE_VM);
		return ret < 0 ? (int)ret : 0;
	}
	sys_raw(SYS_prctl, PR_GET_CHILD_SUBREAPER, (long)&adopts, 0, 0, 0, 0);
	if (adopts)
		sys_raw(SYS_prctl, PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0, 0);
	ret = start_adopted(agent);
	if (adopts)
		sys_raw(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0, 0);
	return (int)ret;
}

int agent_start(struct agent *agent)
{
	uint64_t all = ~0ULL, old = 0;
	int ret;

	self = agent;
	agent->pidfd = (int)sys_raw(SYS_pidfd_open, sys_raw(SYS_getpid, 0, 0, 0, 0, 0, 0), 0, 0, 0, 0,
				    0);
	sys_raw(SYS_rt_sigprocmask, SIG_MASK_SET, (long)&all, (long)&old, sizeof(all), 0, 0);
	ret = start_unseen(agent);
	sys_raw(SYS_rt_sigprocmask, SIG_MASK_SET, (long)&old, 0, sizeof(old), 0, 0);
	if (agent->pidfd >= 0)
		sys_raw(SYS_close, agent->pidfd, 0, 0, 0, 0, 0);
	return ret;
}
