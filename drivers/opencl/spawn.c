/* SPDX-License-Identifier: MIT */
/*
 * The engine is started so that the program does not notice: no SIGCHLD, nothing for
 * its wait(-1), and no fork, for which every page would have to come home.
 *
 *	program		clone(VM, VFORK, no exit signal)
 *	  helper	  clone(VM, VFORK)
 *	    engine	    execve; its parent is gone, init (or a subreaper) takes it
 *	  helper	  exits; collected with __WCLONE
 */
#include "spawn.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <uhmm/driver.h>

#define ENGINE		"uhmm-opencl-engine"
#define STACK_BYTES	(64UL << 10)
#define START_MS	20000
#define FD_HIGH		16	/* above what the engine's descriptors become */

extern char **environ;

struct launch {
	char path[4096];
	char parent[16];
	int wire, socket, pools;
	char *stack;
	int error;		/* of execve */
};

static int engine_main(void *arg)
{
	struct launch *launch = arg;
	char *argv[] = { launch->path, launch->parent, NULL };

	/* dup2 clears close-on-exec; the sources are above all targets. */
	if (dup2(launch->wire, OCL_FD_WIRE) >= 0 && dup2(launch->socket, OCL_FD_SOCKET) >= 0 &&
	    dup2(launch->pools, OCL_FD_POOLS) >= 0)
		execve(launch->path, argv, environ);
	launch->error = errno;
	_exit(127);
}

static int helper_main(void *arg)
{
	struct launch *launch = arg;

	if (clone(engine_main, launch->stack + STACK_BYTES / 2, CLONE_VM | CLONE_VFORK | SIGCHLD,
		  launch) < 0)
		launch->error = errno;
	_exit(0);
}

/* uhmm/ENGINE beside this library, or ENGINE itself (in the build tree). */
static int find_engine(char *path, size_t bytes)
{
	static const char *const places[] = { "uhmm/", "engine/", "" };
	Dl_info info;
	const char *slash;

	if (!dladdr((void *)(uintptr_t)find_engine, &info) || !info.dli_fname)
		return -ENOENT;
	slash = strrchr(info.dli_fname, '/');
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		int len = snprintf(path, bytes, "%.*s%s" ENGINE,
				   slash ? (int)(slash - info.dli_fname + 1) : 0, info.dli_fname,
				   places[i]);

		if (len > 0 && (size_t)len < bytes && !access(path, X_OK))
			return 0;
	}
	return -ENOENT;
}

static int start(struct launch *launch)
{
	sigset_t all, old;
	pid_t helper;
	int status, ret = 0;

	/* A handler of the program's may not run in a task that shares its memory. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	helper = clone(helper_main, launch->stack + STACK_BYTES, CLONE_VM | CLONE_VFORK, launch);
	if (helper < 0)
		ret = -errno;
	else
		while (waitpid(helper, &status, __WCLONE) < 0 && errno == EINTR)
			;
	sigprocmask(SIG_SETMASK, &old, NULL);
	return ret ? ret : -launch->error;
}

/* The engine says its pid when it has come up. */
static int hear(struct ocl_process *process)
{
	struct pollfd fd = { .fd = process->socket, .events = POLLIN };
	int32_t pid = 0;

	while (poll(&fd, 1, START_MS) < 0 && errno == EINTR)
		;
	if (recv(process->socket, &pid, sizeof(pid), MSG_DONTWAIT) != sizeof(pid))
		return -EIO;
	process->pid = pid;
	process->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	return process->pidfd < 0 ? -EIO : 0;
}

static int memory(const char *name)
{
	int low = (int)syscall(SYS_memfd_create, name, 1U /* MFD_CLOEXEC */), fd;

	if (low < 0)
		return -1;
	fd = fcntl(low, F_DUPFD_CLOEXEC, FD_HIGH);
	close(low);
	return fd;
}

static int map_wire(struct ocl_process *process, struct launch *launch)
{
	process->pools = launch->pools = memory("uhmm-opencl-pools");
	launch->wire = memory("uhmm-opencl");
	if (launch->pools < 0 || launch->wire < 0 || ftruncate(launch->wire, OCL_SHARED_BYTES))
		return -ENOMEM;
	process->wire = mmap(NULL, OCL_SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			     launch->wire, 0);
	if (process->wire == MAP_FAILED) {
		process->wire = NULL;
		return -ENOMEM;
	}
	atomic_store_explicit(&process->wire->posted, OCL_POSTED_FIRST, memory_order_relaxed);
	/* A forked child has no engine; its driver handle reads zeros and says so. */
	(void)madvise(process->wire, OCL_SHARED_BYTES, MADV_DONTFORK);
	return 0;
}

static int connect_both(struct ocl_process *process, struct launch *launch)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return -ENOMEM;
	process->socket = ends[0];
	launch->socket = fcntl(ends[1], F_DUPFD_CLOEXEC, FD_HIGH);
	close(ends[1]);
	return launch->socket < 0 ? -ENOMEM : 0;
}

int ocl_spawn(struct ocl_process *process, char *why, size_t why_bytes)
{
	struct launch *launch = hmm_safe_alloc(sizeof(*launch));
	int ret = -ENOMEM;

	*process = (struct ocl_process){ .socket = -1, .pidfd = -1, .pools = -1 };
	if (!launch)
		return -ENOMEM;
	launch->wire = launch->socket = -1;
	launch->stack = hmm_safe_alloc(STACK_BYTES);
	snprintf(launch->parent, sizeof(launch->parent), "%d", (int)getpid());
	ret = find_engine(launch->path, sizeof(launch->path));
	if (ret) {
		snprintf(why, why_bytes, "%s is not installed beside libuhmm-opencl", ENGINE);
		goto out;
	}
	ret = launch->stack ? map_wire(process, launch) : -ENOMEM;
	if (!ret)
		ret = connect_both(process, launch);
	if (!ret)
		ret = start(launch);
	/* Before hear(): the other end is the engine's alone, so that its end is seen. */
	if (launch->socket >= 0)
		close(launch->socket);
	launch->socket = -1;
	if (!ret) {
		ret = hear(process);
		if (ret)
			snprintf(why, why_bytes, "%s did not start; it needs libOpenCL.so.1",
				 launch->path);
	}
out:
	if (launch->wire >= 0)
		close(launch->wire);
	if (launch->socket >= 0)
		close(launch->socket);
	hmm_safe_free(launch->stack, STACK_BYTES);
	hmm_safe_free(launch, sizeof(*launch));
	if (ret)
		ocl_spawn_end(process);
	return ret;
}

void ocl_spawn_forget_pools(struct ocl_process *process)
{
	if (process->pools >= 0)
		close(process->pools);
	process->pools = -1;
}

void ocl_spawn_end(struct ocl_process *process)
{
	ocl_spawn_forget_pools(process);
	if (process->socket >= 0)
		close(process->socket);
	if (process->pidfd >= 0)
		close(process->pidfd);
	if (process->wire)
		munmap(process->wire, OCL_SHARED_BYTES);
	*process = (struct ocl_process){ .socket = -1, .pidfd = -1, .pools = -1 };
}

int ocl_spawn_gone(const struct ocl_process *process)
{
	struct pollfd fd = { .fd = process->pidfd, .events = POLLIN };

	/* Or the program has closed what it does not know. */
	return poll(&fd, 1, 0) > 0;
}
