/* SPDX-License-Identifier: MIT */
#include "engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A copy that has been enqueued and not answered yet. */
static struct ocl_request *under_way[ENGINE_QUEUES];

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

static void answer(struct ocl_request *request, int result)
{
	request->result = result;
	/* release: pairs with the driver's wait; publishes result and staging */
	atomic_store_explicit(&request->done, 1, memory_order_release);
	syscall(SYS_futex, &request->done, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void copy_finish(struct engine *e, unsigned int q)
{
	struct ocl_request *request = under_way[q];
	cl_int err;

	if (!request)
		return;
	err = clFinish(e->queue[q]);
	under_way[q] = NULL;
	answer(request, err ? engine_error(request, "a copy", err) : 0);
}

/* Enqueue on the queue that is free, or the one that was given work first. */
static void copy_start(struct engine *e, struct ocl_request *request, char *staging)
{
	static unsigned int next;
	unsigned int q = next++ % ENGINE_QUEUES;
	int ret;

	copy_finish(e, q);
	ret = engine_copy(e, request, staging, q);
	if (ret) {
		/* What was enqueued of it may not touch the staging any more. */
		clFinish(e->queue[q]);
		answer(request, ret);
		return;
	}
	clFlush(e->queue[q]);
	under_way[q] = request;
}

static void finish_all(struct engine *e)
{
	for (unsigned int q = 0; q < ENGINE_QUEUES; q++)
		copy_finish(e, q);
}

struct build {
	struct engine *e;
	struct ocl_request *request;
	char *staging;
};

static void *build_main(void *arg)
{
	struct build build = *(struct build *)arg;

	free(arg);
	answer(build.request, engine_build(build.e, build.request, build.staging));
	return NULL;
}

/*
 * A compiler takes seconds, for which no CPU fault should wait. The driver asks for one
 * build at a time, and uses no program before it is answered.
 */
static void build_start(struct engine *e, struct ocl_request *request, char *staging)
{
	struct build *build = malloc(sizeof(*build));
	pthread_t thread;

	if (build) {
		*build = (struct build){ e, request, staging };
		if (!pthread_create(&thread, NULL, build_main, build)) {
			pthread_detach(thread);
			return;
		}
		free(build);
	}
	answer(request, -ENOMEM);
}

static int handle(struct engine *e, struct ocl_request *request, char *staging)
{
	if (!e->context && request->op != OCL_DESCRIBE && request->op != OCL_OPEN)
		return -EINVAL;
	switch ((enum ocl_op)request->op) {
	case OCL_DESCRIBE:
		return engine_describe(request, staging);
	case OCL_OPEN:
		return engine_open(e, request, staging);
	case OCL_MAKE:
		return engine_pools(e, request);
	case OCL_BACK:
		return engine_back(e, request);
	case OCL_COPY_WITHIN:
		return engine_copy_within(e, request);
	case OCL_TABLE:
		return engine_table(e, request, staging);
	case OCL_GROW:
		return engine_grow(e, request);
	case OCL_FREE:
		return engine_free(request);
	case OCL_KERNEL:
		return engine_kernel(request, staging);
	case OCL_KERNEL_FREE:
		return engine_kernel_free(request);
	case OCL_ARG:
		return engine_arg(request, staging);
	case OCL_RUN:
		return engine_run(e, request, staging);
	case OCL_MAIL:
		return engine_mail(e, request, staging);
	case OCL_SAVE:
		return engine_save(e, request, staging);
	case OCL_SWAP:
		return engine_swap(e, request);
	case OCL_COMPARE:
		return engine_compare(e, request);
	default:
		return -EINVAL;
	}
}

static bool works_on_pools(const struct ocl_request *request, const char *staging)
{
	switch (request->op) {
	case OCL_RUN:
		return ((const struct ocl_launch *)(const void *)staging)->count;
	case OCL_SAVE:
	case OCL_SWAP:
	case OCL_COMPARE:
		return true;
	default:
		return false;
	}
}

/* Pools that do not go or come back are lost: as if this had ended in between. */
static int work(struct engine *e, struct ocl_request *request, char *staging)
{
	int ret;

	if (!e->context)
		return -EINVAL;
	if (engine_pools_give(e))
		_exit(1);
	ret = handle(e, request, staging);
	if (engine_pools_take(e))
		_exit(1);
	return ret;
}

static void serve(struct engine *e)
{
	struct ocl_wire *wire = e->wire;
	uint32_t taken = OCL_POSTED_FIRST;

	for (;;) {
		/* acquire: pairs with the driver's post; the request is there */
		uint32_t posted = atomic_load_explicit(&wire->posted, memory_order_acquire);
		struct ocl_request *request;
		char *staging;
		uint32_t i;

		if (posted == taken) {
			if (under_way[0] || under_way[1])
				finish_all(e);
			else
				futex_wait(&wire->posted, posted);
			continue;
		}
		i = wire->queue[taken++ % OCL_QUEUE] % OCL_SLOTS;
		request = &wire->slot[i];
		staging = ocl_staging(wire, i);
		request->text[0] = '\0';
		if (request->op == OCL_EXIT)
			return;
		if (e->context && (request->op == OCL_COPY_IN || request->op == OCL_COPY_OUT)) {
			copy_start(e, request, staging);
			continue;
		}
		if (e->context && request->op == OCL_BUILD) {
			build_start(e, request, staging);
			continue;
		}
		finish_all(e);
		answer(request, works_on_pools(request, staging) ?
				work(e, request, staging) : handle(e, request, staging));
	}
}

/* The program's end closes its socket, unless a forked child has that too. */
static void *watch(void *arg)
{
	struct pollfd fds[2] = {
		{ .fd = OCL_FD_SOCKET, .events = POLLRDHUP },
		{ .fd = *(int *)arg, .events = POLLIN },
	};

	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	_exit(0);
}

/* Whatever the program had open stays open in here otherwise, pipes too. */
static void close_others(void)
{
	DIR *dir;
	struct dirent *entry;

#ifdef SYS_close_range
	if (!syscall(SYS_close_range, OCL_FDS_END, ~0U, 0))
		return;
#endif
	dir = opendir("/proc/self/fd");
	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		int fd = atoi(entry->d_name);

		if (fd >= OCL_FDS_END && fd != dirfd(dir))
			close(fd);
	}
	closedir(dir);
}

static void leave_program(void)
{
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	setsid();
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		dup2(null, fd);
	if (null >= OCL_FDS_END)
		close(null);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	/* Of a program with a small RLIMIT_FSIZE: then pools are not in place. */
	signal(SIGXFSZ, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/*
	 * Under the filter of a strict program each munmap, mprotect and brk asks the
	 * program's listeners, which may all be waiting for an invalidation that waits for
	 * the launch that this call is part of. So keep what was freed, in one heap.
	 */
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, INT32_MAX);
	mallopt(M_TOP_PAD, 64 << 20);
}

int main(int argc, char **argv)
{
	static struct engine engine;
	static int program;
	pthread_t watcher;
	int32_t pid = getpid();

	if (argc != 2) {
		fprintf(stderr, "usage: started by libuhmm-opencl\n");
		return 2;
	}
	close_others();
	/* A compiler that the runtime starts has no use for them, and may live longer. */
	fcntl(OCL_FD_SOCKET, F_SETFD, FD_CLOEXEC);
	fcntl(OCL_FD_POOLS, F_SETFD, FD_CLOEXEC);
	leave_program();
	program = (int)syscall(SYS_pidfd_open, atoi(argv[1]), 0);
	engine.wire = mmap(NULL, OCL_SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, OCL_FD_WIRE,
			   0);
	if (engine.wire == MAP_FAILED || pthread_create(&watcher, NULL, watch, &program))
		return 1;
	close(OCL_FD_WIRE);
	if (send(OCL_FD_SOCKET, &pid, sizeof(pid), MSG_NOSIGNAL) != sizeof(pid))
		return 1;
	serve(&engine);
	/* Not exit(): destructors of a runtime may wait for what a lost device owes them. */
	_exit(0);
}
