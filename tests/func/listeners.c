/* SPDX-License-Identifier: MIT */
/*
 * The threads that answer announced calls of a strict mm, when all of them could be waiting
 * for the library's locks.
 */
#define _GNU_SOURCE
#include "world.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CALLERS	8u	/* more than there are listeners */

static _Atomic uint32_t go, release_lock, in_callback;

/* So many that took turns instead would keep a slow machine's processor to themselves. */
static void nap(void)
{
	const struct timespec tick = { .tv_nsec = 1000000 };

	nanosleep(&tick, NULL);
}

static void on_invalidate(struct hmm_notifier *notifier, const struct hmm_event *event,
			  uint64_t seq, void *ctx)
{
	(void)notifier;
	(void)event;
	(void)seq;
	(void)ctx;
	/* A driver whose device is slow to stop; the mm lock is held. */
	atomic_store(&in_callback, 1);
	while (!atomic_load(&release_lock))
		nap();
}

struct caller {
	pthread_t thread;
	_Atomic int32_t tid;
	_Atomic uint32_t *go;
	unsigned char *p;
};

static void *caller_run(void *arg)
{
	struct caller *c = arg;

	atomic_store(&c->tid, (int32_t)syscall(SYS_gettid));
	while (!atomic_load(c->go))
		nap();
	return (void *)(intptr_t)munmap(c->p, page);
}

static bool in_munmap(int32_t tid)
{
	char path[64], text[16] = "";
	int fd, nr = -1;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
	fd = open(path, O_RDONLY);
	if (read(fd, text, sizeof(text) - 1) > 0)
		nr = atoi(text);
	close(fd);
	return nr == SYS_munmap;
}

/* Forked after the mm was made, so it has the filter: its change is announced as well. */
static pid_t child_with_filter(int *tell, int *hear)
{
	int down[2], up[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe(down), 0);
	assert_int_equal(pipe(up), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		child_signals();
		if (read(down[0], &c, 1) != 1)
			_exit(2);
		_exit(munmap(map_pages(1, PROT_READ, 0), page) || write(up[1], "x", 1) != 1);
	}
	*tell = down[1];
	*hear = up[0];
	close(down[0]);
	close(up[1]);
	return pid;
}

/*
 * Another process's change is let through while every listener that ours can have waits
 * for a lock: whoever holds that may be waiting for the other process.
 */
static void another_process_waits_for_no_lock_of_ours(void **state)
{
	static const struct hmm_notifier_ops ops = {
		.size = sizeof(ops), .invalidate = on_invalidate,
	};
	static struct caller callers[CALLERS];
	struct world *w = *state;
	struct hmm_notifier *notifier;
	struct pollfd heard = { .events = POLLIN };
	bool let_through;
	void *result;
	int tell;
	pid_t child = child_with_filter(&tell, &heard.fd);

	for (size_t i = 0; i < CALLERS; i++) {
		callers[i].p = map_filled(1, (uint32_t)i);
		callers[i].go = i ? &in_callback : &go;	/* the first takes the lock */
		assert_int_equal(pthread_create(&callers[i].thread, NULL, caller_run,
						&callers[i]), 0);
		assert_true(eventually(atomic_load(&callers[i].tid)));
	}
	assert_int_equal(hmm_notifier_insert(w->mm, (uintptr_t)callers[0].p,
					     (uintptr_t)callers[0].p + page, &ops, NULL, &notifier), 0);
	atomic_store(&go, 1);
	assert_true(eventually(atomic_load(&in_callback)));
	for (size_t i = 0; i < CALLERS; i++)
		assert_true(eventually(in_munmap(atomic_load(&callers[i].tid))));
	assert_int_equal(write(tell, "x", 1), 1);
	let_through = eventually(poll(&heard, 1, 0) == 1);
	atomic_store(&release_lock, 1);
	for (size_t i = 0; i < CALLERS; i++) {
		assert_int_equal(pthread_join(callers[i].thread, &result), 0);
		assert_null(result);
		assert_at(w, callers[i].p, 1, HMM_PLACE_GAP);
	}
	assert_true(let_through);
	assert_int_equal(hmm_notifier_remove(notifier), 0);
	assert_int_equal(wait_child(child), 0);
	close(tell);
	close(heard.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(another_process_waits_for_no_lock_of_ours),
	};

	if (!strict())
		skip_program("skipped: only a strict mm has listeners");
	need_mm();
	return cmocka_run_group_tests_name("listeners", tests, world_begin, world_end);
}
