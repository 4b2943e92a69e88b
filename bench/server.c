/* SPDX-License-Identifier: MIT */
/*
 * A bare userfaultfd page server on raw system calls: the floor under cpu_fault, and
 * with one thread the design that programs use today.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

#define MAX_HANDLERS	3

struct bench_server {
	int uffd, stop_fd;
	uintptr_t start, len, store;
	size_t granule;
	bool follows;			/* the first handler, who touches */
	unsigned int nr_handlers;
	pthread_t handlers[MAX_HANDLERS];
};

/* A granule that another handler has filled already only needs its waiters woken. */
static void serve(const struct bench_server *server, uintptr_t addr)
{
	uintptr_t offset = (addr - server->start) & ~(server->granule - 1);
	struct uffdio_range range = { .start = server->start + offset, .len = server->granule };

	if (bench_uffd_copy(server->uffd, (void *)range.start, (void *)(server->store + offset),
			    server->granule))
		(void)ioctl(server->uffd, UFFDIO_WAKE, &range);
}

static void *handler(void *arg)
{
	const struct bench_server *server = arg;
	struct pollfd fds[2] = {
		{ .fd = server->uffd, .events = POLLIN },
		{ .fd = server->stop_fd, .events = POLLIN },
	};
	struct uffd_msg msg;

	for (;;) {
		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents)
			return NULL;
		while (read(server->uffd, &msg, sizeof(msg)) == (ssize_t)sizeof(msg))
			if (msg.event == UFFD_EVENT_PAGEFAULT)
				serve(server, (uintptr_t)msg.arg.pagefault.address);
	}
}

static int pin(pthread_t thread, int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return -pthread_setaffinity_np(thread, sizeof(one), &one);
}

static int start_handlers(struct bench_server *server, unsigned int nr)
{
	for (server->nr_handlers = 0; server->nr_handlers < nr; server->nr_handlers++) {
		int ret = pthread_create(&server->handlers[server->nr_handlers], NULL, handler,
					 server);

		if (ret)
			return -ret;
	}
	return 0;
}

static int start_placed(struct bench_server *server)
{
	unsigned int nr = 0;
	cpu_set_t allowed;
	int ret;

	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		return -EINVAL;
	server->follows = CPU_COUNT(&allowed) > MAX_HANDLERS;
	ret = start_handlers(server, server->follows ? 2 : (unsigned int)CPU_COUNT(&allowed));
	for (int cpu = 0; cpu < CPU_SETSIZE && !ret && nr < server->nr_handlers; cpu++)
		if (CPU_ISSET(cpu, &allowed) && !server->follows)
			ret = pin(server->handlers[nr++], cpu);
	return ret;
}

int bench_server_start(const struct bench_area *area, const struct bench_area *store,
		       size_t granule, enum bench_placement placement,
		       struct bench_server **out)
{
	struct bench_server *server = calloc(1, sizeof(*server));
	int ret;

	if (!server)
		return -ENOMEM;
	server->start = (uintptr_t)area->base;
	server->len = area->len;
	server->store = (uintptr_t)store->base;
	server->granule = granule;
	server->stop_fd = eventfd(0, EFD_CLOEXEC);
	server->uffd = bench_uffd_open(0);
	ret = server->uffd < 0 ? server->uffd : bench_uffd_register(server->uffd, area);
	if (!ret)
		ret = placement == BENCH_PLACED ? start_placed(server) : start_handlers(server, 1);
	if (ret) {
		bench_server_stop(server);
		return ret;
	}
	*out = server;
	return 0;
}

void bench_server_stop(struct bench_server *server)
{
	uint64_t one = 1;

	if (!server)
		return;
	if (write(server->stop_fd, &one, sizeof(one)) == (ssize_t)sizeof(one))
		for (unsigned int i = 0; i < server->nr_handlers; i++)
			pthread_join(server->handlers[i], NULL);
	if (server->uffd >= 0)
		close(server->uffd);
	close(server->stop_fd);
	free(server);
}

int bench_server_reset(struct bench_server *server)
{
	int ret = server->follows ? pin(server->handlers[0], sched_getcpu()) : 0;

	if (!ret && madvise((void *)server->start, server->len, MADV_DONTNEED))
		ret = -errno;
	return ret;
}
