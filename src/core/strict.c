/* SPDX-License-Identifier: MIT */
/*
 * A strict mm: the kernel announces every change of a mapping by seccomp user
 * notification before it is made, and a listener makes it on the caller's behalf, as
 * one transaction with the tables (transact.c). The listeners are threads of the
 * process: the call has the caller's descriptors, limits and credentials (but of who shares
 * the memory and no descriptors: then a file is looked up among ours). What
 * faults pages in (mlock) or copies the address space (fork) cannot be made under the
 * lock, or for another: those get what they need first, and go on by themselves.
 *
 * The filter outlives the mm, so the listeners do too, answering for whoever has it.
 * A process that ends leaves its children to the keeper (sys_seccomp_keeper()).
 */
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "core/devmem.h"
#include "core/thread.h"
#include "sys/seccomp.h"

#define LISTENERS	4

/*
 * How many of them wait for a call: the kernel wakes all that do, at every call and on the
 * caller's CPU, so the caller waits for each. With two the one that goes to serve has to
 * wake nobody in its place, which would take longer than the other's look.
 */
#define RECEIVERS	2u
#define CALLS_MAX	1024u

/*
 * A thread that runs cannot be told from one that is still in fork(): how long it may
 * take before we believe that it computes. Meanwhile nothing migrates.
 */
#define FORK_PATIENCE_NS	(3 * 1000000000ULL)

/* The process's, made once; a forked child has the filter and not the listeners. */
static struct {
	struct process *made_by;	/* NULL: not made */
	int listener;			/* published by ready */
	_Atomic uint32_t ready;		/* futex: 1, listener is there; 2, it cannot be had */
	_Atomic uint32_t receiving;	/* futex: listeners that wait for a call */

	/*
	 * All listeners but one may wait for our locks. The last one lets other processes'
	 * calls through, which the holder of a lock may depend on (a driver's process that
	 * inherited the filter), and keeps ours here until another has time.
	 */
	struct hmm_lock lock;
	uint32_t busy;
	uint32_t head, tail;		/* of the ring; free-running */
	struct sys_notif calls[CALLS_MAX];
} strict;

/* ---------------------------------------------------------------- what goes on by itself */

static void leave_to_caller(struct hmm_mm *mm, int listener, const struct sys_notif *n)
{
	uintptr_t start, end;

	(void)mm;
	if (n->nr == SYS_mlockall) {
		start = 0;
		end = sys_task_size();
	} else {
		mm_span(mm, n->args[0], n->args[1], &start, &end);
	}
	/* It faults pages in, which our handlers serve, and locks them once they are home. */
	if (start < end)
		mm_evict(mm, start, end, NULL, true);
	sys_seccomp_continue(listener, n->id);
}

static uint64_t clone_flags(const struct sys_notif *n)
{
	uint64_t flags = 0;

	switch (n->nr) {
	case SYS_clone:
		return n->args[0];
	case SYS_clone3:	/* the first member of what the caller points to */
		if (sys_copy_from(&flags, (uintptr_t)n->args[0], sizeof(flags)) !=
		    (ssize_t)sizeof(flags))
			return CLONE_VM;	/* EFAULT is the kernel's to say */
		return flags;
	default:
		return 0;
	}
}

/*
 * Home before, and held there until the caller is out of the call: only then has the
 * kernel copied the address space.
 */
static void let_fork(struct hmm_mm *mm, int listener, const struct sys_notif *n)
{
	uint64_t deadline = sys_now_ns() + FORK_PATIENCE_NS;

	/* libc's fork has closed the gate before it came here, and opens it. */
	if ((clone_flags(n) & CLONE_VM) || fork_announced(mm, n->tid)) {
		sys_seccomp_continue(listener, n->id);
		return;
	}
	fork_gate_close(mm);
	if (!sys_seccomp_continue(listener, n->id))
		while (sys_in_syscall(n->tid, n->nr) && sys_now_ns() < deadline)
			sys_rest(50);
	fork_gate_open(mm);
}

static void answer(struct hmm_mm *mm, int listener, const struct sys_notif *n)
{
	switch (n->nr) {
#ifdef SYS_fork
	case SYS_fork:
#endif
	case SYS_clone:
	case SYS_clone3:
		let_fork(mm, listener, n);
		return;
	case SYS_mlock:
	case SYS_mlock2:
	case SYS_mlockall:
		leave_to_caller(mm, listener, n);
		return;
	case SYS_process_madvise:
		if (!mm_discards(n->args[3])) {
			sys_seccomp_continue(listener, n->id);
			return;
		}
		/* fallthrough */
	default:
		sys_seccomp_answer(listener, n->id, mm_transact(mm, n));
	}
}

static void serve(int listener, const struct sys_notif *n)
{
	struct hmm_mm *mm = mm_use();

	if (mm && (mm->flags & HMM_MM_STRICT))
		answer(mm, listener, n);
	else
		sys_seccomp_continue(listener, n->id);
	if (mm)
		mm_unuse(mm);
}

/* Is this call of ours the calling listener's to serve, now? Else it is kept. */
static bool begin_serving(const struct sys_notif *n)
{
	bool now;

	lock_acquire(&strict.lock);
	/* More threads than the ring has places are in calls: better slow than lost. */
	now = strict.busy < LISTENERS - 1 || strict.tail - strict.head == CALLS_MAX;
	if (now)
		strict.busy++;
	else
		strict.calls[strict.tail++ % CALLS_MAX] = *n;
	lock_release(&strict.lock);
	return now;
}

/* What has been kept meanwhile, to be served next; false: nothing, and no longer busy. */
static bool serve_next(struct sys_notif *n)
{
	bool more;

	lock_acquire(&strict.lock);
	more = strict.head != strict.tail;
	if (more)
		*n = strict.calls[strict.head++ % CALLS_MAX];
	else
		strict.busy--;
	lock_release(&strict.lock);
	return more;
}

static void begin_receiving(void)
{
	uint32_t nr = atomic_load_explicit(&strict.receiving, memory_order_relaxed);

	for (;;) {
		if (nr == RECEIVERS) {
			sys_futex_wait(&strict.receiving, RECEIVERS, NULL);
			nr = atomic_load_explicit(&strict.receiving, memory_order_relaxed);
		} else if (atomic_compare_exchange_weak_explicit(&strict.receiving, &nr, nr + 1,
								 memory_order_relaxed,
								 memory_order_relaxed)) {
			return;
		}
	}
}

/* What it goes to serve may wait for another call. */
static void end_receiving(void)
{
	if (atomic_fetch_sub_explicit(&strict.receiving, 1, memory_order_relaxed) == 1)
		sys_futex_wake(&strict.receiving, 1);
}

static int receive(int listener, struct sys_notif *n)
{
	int ret;

	begin_receiving();
	ret = sys_seccomp_recv(listener, n);
	end_receiving();
	return ret;
}

static void *listen_main(void *arg)
{
	struct sys_notif n;
	int listener, ret;

	(void)arg;
	/* acquire: pairs with publish() */
	while (!(ret = (int)atomic_load_explicit(&strict.ready, memory_order_acquire)))
		sys_futex_wait(&strict.ready, 0, NULL);
	if (ret != 1)
		return NULL;
	listener = strict.listener;
	while ((ret = receive(listener, &n)) != -ECANCELED) {
		if (ret)
			continue;
		if (!sys_shares_mm(n.tid)) {
			sys_seccomp_continue(listener, n.id);
			continue;
		}
		if (begin_serving(&n))
			do
				serve(listener, &n);
			while (serve_next(&n));
	}
	sys_futex_wake(&strict.receiving, LISTENERS);
	return NULL;
}

/* ---------------------------------------------------------------- life */

static void publish(int listener)
{
	strict.listener = listener;
	/* release: pairs with listen_main() */
	atomic_store_explicit(&strict.ready, listener < 0 ? 2 : 1, memory_order_release);
	sys_futex_wake(&strict.ready, LISTENERS);
}

/*
 * The listeners first: with the filter in place a malloc of this very thread may wait
 * for one of them, and so may what else runs in a new thread before listen_main().
 */
static int listeners_start(struct thread **threads)
{
	uint32_t nr = 0;
	int ret = 0;

	for (; nr < LISTENERS && !ret; nr += !ret)
		ret = thread_start(listen_main, NULL, &threads[nr]);
	return ret;
}

int strict_start(struct hmm_mm *mm)
{
	struct thread *threads[LISTENERS] = { NULL };
	int ret;

	if (strict.made_by == mm->process)
		return 0;
	if (!sys_cap(CAP_SECCOMP_NOTIFY))
		return -EOPNOTSUPP;
	memset(&strict, 0, sizeof(strict));
	lock_init(&strict.lock, RANK_CALLS);
	ret = listeners_start(threads);
	if (!ret)
		ret = sys_seccomp_listen();
	publish(ret);
	if (ret >= 0) {
		strict.made_by = mm->process;
		ret = sys_seccomp_keeper(strict.listener);
		if (ret)
			core_log(mm, HMM_LOG_WARN,
				 "HMM-051 no keeper (%s): children that outlive this process "
				 "lose munmap, mremap and their like", errno_name(ret));
		return 0;
	}
	for (int i = 0; i < LISTENERS; i++)
		thread_join(threads[i]);
	return ret;
}
