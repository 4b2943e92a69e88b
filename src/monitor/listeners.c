// SPDX-License-Identifier: MIT
#include "monitor/listeners.h"

#include <errno.h>
#include <linux/sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include <uhmm/remote.h>

#include "monitor/log.h"
#include "sys/seccomp.h"
#include "sys/sys.h"

/* How often to look whether a thread is out of its call, and when to believe it is. */
#define LOOK_US		200u
#define FIND_REST_US	1000u
#define FIND_TRIES	100
#define GO_PATIENCE_NS	(3 * 1000000000ULL)
#define HEARD_TRIES	5000	/* a second */

/* ---------------------------------------------------------------- who goes on by itself */

static void gone_on(struct going *going)
{
	hmm_remote_change_end(going->space->mm, going->tid);
	space_put(going->space);
	free(going);
}

static void goes_on(struct listeners *l, struct space *space, const struct sys_notif *n)
{
	struct going *going = calloc(1, sizeof(*going));

	if (!going) {
		/* What it concerns may leave while it is in the call: then it is brought back. */
		hmm_remote_change_end(space->mm, n->tid);
		return;
	}
	going->space = space_get(space);
	going->tid = n->tid;
	going->nr = n->nr;
	going->since_ns = sys_now_ns();
	pthread_mutex_lock(&l->lock);
	going->next = l->going;
	l->going = going;
	pthread_cond_signal(&l->some_go);
	pthread_mutex_unlock(&l->lock);
}

static struct going *unlink_first(struct listeners *l, bool (*fits)(const struct going *, uint32_t),
				  uint32_t tid)
{
	struct going **at, *found;

	pthread_mutex_lock(&l->lock);
	for (at = &l->going; *at && !fits(*at, tid); at = &(*at)->next)
		;
	found = *at;
	if (found)
		*at = found->next;
	pthread_mutex_unlock(&l->lock);
	return found;
}

static bool is_of(const struct going *going, uint32_t tid)
{
	return going->tid == tid;
}

static bool is_watched(struct listeners *l, uint32_t tid)
{
	const struct going *going;

	pthread_mutex_lock(&l->lock);
	for (going = l->going; going && !is_of(going, tid); going = going->next)
		;
	pthread_mutex_unlock(&l->lock);
	return going != NULL;
}

/* A thread that runs may be in user space or deep in the call: it counts as inside. */
static bool is_out(const struct going *going, uint32_t unused)
{
	(void)unused;
	return !sys_in_syscall(going->tid, going->nr) ||
	       sys_now_ns() - going->since_ns > GO_PATIENCE_NS;
}

static bool anyone(const struct going *going, uint32_t unused)
{
	(void)unused;
	return going != NULL;
}

static void *watch_main(void *arg)
{
	struct listeners *l = arg;
	struct going *going;

	for (;;) {
		pthread_mutex_lock(&l->lock);
		while (!l->going)
			pthread_cond_wait(&l->some_go, &l->lock);
		pthread_mutex_unlock(&l->lock);
		while ((going = unlink_first(l, is_out, 0)))
			gone_on(going);
		sys_rest(LOOK_US);
	}
	return NULL;
}

void listeners_forget(struct listeners *l)
{
	struct going *going;

	while ((going = unlink_first(l, anyone, 0)))
		gone_on(going);
	/* Who was killed in a call may be dealt with still. acquire: pairs with its end */
	for (int i = 0; i < HEARD_TRIES &&
			atomic_load_explicit(&l->hearing, memory_order_acquire); i++)
		sys_rest(LOOK_US);
}

/* ---------------------------------------------------------------- answers */

/* With references. */
struct caller {
	struct process *process;
	struct space *space;	/* NULL: none that is managed */
	bool losing;		/* as tree_space_of() */
};

struct call {
	struct listeners *listeners;
	const struct sys_notif *notif;
	int quiet;		/* of a fork: see space_forks_quietly() */
};

static void let_go(void *ctx)
{
	const struct call *call = ctx;

	sys_seccomp_continue(call->listeners->fd, call->notif->id);
}

static void let_fork(void *ctx)
{
	const struct call *call = ctx;

	if (call->quiet < 0 || !injector_fork(call->listeners->injector, call->notif, call->quiet))
		let_go(ctx);
}

static bool makes_process(const struct sys_notif *n)
{
	switch (n->nr) {
#ifdef SYS_fork
	case SYS_fork:
#endif
	case SYS_clone:
	case SYS_clone3:
		return true;
	default:
		return false;
	}
}

/* The memory of clone3's first argument is the caller's, and may be away. */
static bool copies_memory(const struct sys_notif *n)
{
	uint64_t flags = 0;

	if (n->nr == SYS_clone)
		flags = n->args[0];
	if (n->nr == SYS_clone3 &&
	    sys_vm_read((int)n->tid, &flags, (uintptr_t)n->args[0], sizeof(flags)) !=
		    (ssize_t)sizeof(flags))
		return false;	/* EFAULT is the kernel's to say */
	return !(flags & CLONE_VM);
}

/* Who is in a call that is not answered. While it is, its number is nobody else's. */
static void end_caller(struct listeners *l, struct space *space, const struct sys_notif *n)
{
	struct process *process;

	(void)tree_find_anew(l->tree, (pid_t)n->tid, &process);
	tree_end_memory(l->tree, space);
	if (process && sys_seccomp_waits(l->fd, n->id))
		tree_end_process(l->tree, process, space);
	process_put(process);
}

static void change(struct listeners *l, struct space *space, const struct sys_notif *n)
{
	int64_t result = HMM_CHANGE_CONTINUE;
	int ret;

	ret = hmm_remote_change(space->mm, n->tid, (uint64_t)n->nr, n->args, &result);
	if (ret == -ENOMEM) {
		sys_seccomp_answer(l->fd, n->id, ret);
	} else if (ret || result == HMM_CHANGE_CONTINUE || result == HMM_CHANGE_IGNORE) {
		sys_seccomp_continue(l->fd, n->id);
		if (!ret && result == HMM_CHANGE_CONTINUE)
			goes_on(l, space, n);
	} else if (result >= 0 || result <= -4096 || !space_lost(space)) {
		sys_seccomp_answer(l->fd, n->id, result);
	} else {
		/* Its agent was killed before it made the call, which no kernel refused. */
		end_caller(l, space, n);
	}
}

/* It is in a call now, so it is out of its last. */
static void left_last(struct listeners *l, uint32_t tid)
{
	struct going *before = unlink_first(l, is_of, tid);

	if (before)
		gone_on(before);
}

/*
 * A child that nobody could serve is not made: the kernel would keep the fork waiting until
 * there is a descriptor for the child's userfaultfd.
 */
static void fork_one(struct call *call, struct space *space)
{
	struct listeners *l = call->listeners;

	if (tree_has_room(l->tree)) {
		call->quiet = space_forks_quietly(space);
		pool_fork(l->pool, space, call->notif->tid, call->notif->nr, let_fork, call);
	} else {
		sys_seccomp_answer(l->fd, call->notif->id, -EAGAIN);
	}
}

static void answer(struct listeners *l, const struct caller *caller, const struct sys_notif *n)
{
	struct call call = { .listeners = l, .notif = n, .quiet = -1 };

	left_last(l, n->tid);
	if (caller->losing) {
		/* Not answered: nobody is left who could make its changes. */
		end_caller(l, caller->space, n);
	} else if (!caller->space) {
		let_go(&call);
	} else if (!makes_process(n)) {
		change(l, caller->space, n);
	} else if (copies_memory(n)) {
		fork_one(&call, caller->space);
	} else {
		let_go(&call);
	}
}

static void exec(struct listeners *l, struct process *process, const struct sys_notif *n)
{
	if (process) {
		tree_exec(l->tree, process);
		sys_eventfd_signal(l->exec_fd);
	}
	left_last(l, n->tid);
	if (!injector_exec(l->injector, n))
		sys_seccomp_continue(l->fd, n->id);
}

/* ---------------------------------------------------------------- hearing */

static bool is_exec(const struct sys_notif *n)
{
	return n->nr == SYS_execve || n->nr == SYS_execveat;
}

/* That there is no descriptor, or memory, to find out by. */
static bool is_want(int error)
{
	return error == -EMFILE || error == -ENFILE || error == -ENOMEM;
}

static int look(struct listeners *l, const struct sys_notif *n, struct caller *caller)
{
	int ret;

	memset(caller, 0, sizeof(*caller));
	ret = tree_find(l->tree, (pid_t)n->tid, &caller->process);
	if (!ret && !is_exec(n))
		ret = tree_space_of(l->tree, caller->process, (pid_t)n->tid, &caller->space,
				    &caller->losing);
	return ret;
}

/* False: nobody can tell whose call it is, and that does not end soon. */
static bool find_caller(struct listeners *l, const struct sys_notif *n, struct caller *caller)
{
	int ret = look(l, n, caller);

	for (int i = 0; i < FIND_TRIES && is_want(ret) && sys_seccomp_waits(l->fd, n->id); i++) {
		process_put(caller->process);
		sys_rest(FIND_REST_US);
		ret = look(l, n, caller);
	}
	return !is_want(ret);
}

/* What is not known to be nobody's is not let go: it may be of pages that are away. */
static void refuse(struct listeners *l, const struct sys_notif *n)
{
	left_last(l, n->tid);
	sys_seccomp_answer(l->fd, n->id, makes_process(n) ? -EAGAIN : -ENOMEM);
}

static void hear(struct listeners *l, const struct sys_notif *n)
{
	struct caller caller;
	bool told = find_caller(l, n, &caller);

	if (is_exec(n))
		exec(l, caller.process, n);
	else if (told)
		answer(l, &caller, n);
	else
		refuse(l, n);
	space_put(caller.space);
	process_put(caller.process);
}

/* A change that the kernel may make by itself, of who is not being watched. */
static bool passes(struct listeners *l, const struct sys_notif *n)
{
	struct space *space;
	bool ret;

	if (n->nr != SYS_munmap && n->nr != SYS_mprotect && n->nr != SYS_madvise)
		return false;
	space = tree_known_space(l->tree, (pid_t)n->tid);
	ret = space && !is_watched(l, n->tid) &&
	      hmm_remote_pass(space->mm, n->tid, (uint64_t)n->nr, n->args) == 1;
	space_put(space);
	return ret;
}

/* Its process is counted from now on. */
static void know(struct listeners *l, const struct sys_notif *n)
{
	struct process *process;

	(void)tree_find(l->tree, (pid_t)n->tid, &process);
	process_put(process);
}

/* With nothing managed only an exec is anybody's business. No program is waited for. */
static bool hear_at_once(struct listeners *l, const struct sys_notif *n)
{
	if (is_exec(n) || (l->pool->manages && !passes(l, n)))
		return false;
	if (!l->pool->manages)
		know(l, n);
	sys_seccomp_continue(l->fd, n->id);
	return true;
}

/* The next call that may take its time. -ECANCELED: no filter is left. */
static int receive(struct listeners *l, struct sys_notif *n)
{
	int ret;

	pthread_mutex_lock(&l->receiving);
	do {
		ret = sys_seccomp_recv(l->fd, n);
		if (!ret)
			atomic_fetch_add_explicit(&l->nr_calls, 1, memory_order_relaxed);
	} while (ret != -ECANCELED && (ret || hear_at_once(l, n)));
	pthread_mutex_unlock(&l->receiving);
	return ret;
}

static void *listen_main(void *arg)
{
	struct listeners *l = arg;
	struct sys_notif n;

	while (receive(l, &n) != -ECANCELED) {
		atomic_fetch_add_explicit(&l->hearing, 1, memory_order_relaxed);
		hear(l, &n);
		/* release: what it did to processes and spaces happened before */
		atomic_fetch_sub_explicit(&l->hearing, 1, memory_order_release);
	}
	return NULL;
}

int listeners_start(struct listeners *l, int fd, int exec_fd, struct tree *tree, struct pool *pool,
		    struct injector *injector)
{
	pthread_attr_t attr;
	pthread_t thread;
	int ret = 0;

	l->fd = fd;
	l->exec_fd = exec_fd;
	l->tree = tree;
	l->pool = pool;
	l->injector = injector;
	injector->listener = fd;
	pthread_mutex_init(&l->receiving, NULL);
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->some_go, NULL);
	sys_seccomp_sync_wake(fd);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	for (int i = 0; i < LISTENERS && !ret; i++)
		ret = pthread_create(&thread, &attr, listen_main, l);
	if (!ret && pool->manages)
		ret = pthread_create(&thread, &attr, watch_main, l);
	pthread_attr_destroy(&attr);
	return -ret;
}
