// SPDX-License-Identifier: MIT
#include "monitor/listeners.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include "sys/seccomp.h"
#include "sys/sys.h"

/* Who is it, and what will become of it? */
static void take_note(struct listeners *listeners, const struct sys_notif *n)
{
	struct process *process = tree_find(listeners->tree, (pid_t)n->tid);

	if (!process)
		return;
	if (n->nr == SYS_execve || n->nr == SYS_execveat) {
		tree_exec(listeners->tree, process);
		sys_eventfd_signal(listeners->exec_fd);
	}
	process_put(process);
}

static void *listen_main(void *arg)
{
	struct listeners *listeners = arg;
	struct sys_notif n;
	int ret;

	while ((ret = sys_seccomp_recv(listeners->fd, &n)) != -ECANCELED) {
		if (ret)
			continue;
		atomic_fetch_add_explicit(&listeners->nr_calls, 1, memory_order_relaxed);
		take_note(listeners, &n);
		sys_seccomp_continue(listeners->fd, n.id);
	}
	return NULL;
}

int listeners_start(struct listeners *listeners, int fd, int exec_fd, struct tree *tree)
{
	pthread_attr_t attr;
	pthread_t thread;
	int ret = 0;

	listeners->fd = fd;
	listeners->exec_fd = exec_fd;
	listeners->tree = tree;
	sys_seccomp_sync_wake(fd);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	for (int i = 0; i < LISTENERS && !ret; i++)
		ret = pthread_create(&thread, &attr, listen_main, listeners);
	pthread_attr_destroy(&attr);
	return -ret;
}
