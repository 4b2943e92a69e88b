/* SPDX-License-Identifier: MIT */
/*
 * The link: a process of its own that holds a device's connections, so that nothing that
 * libnbd or TLS allocate lies in the program's memory, which may be away just when they
 * are needed. It is started by the driver with the shared memory, a pidfd of the
 * program and one event per worker, and ends with the program or when it is told to.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <libnbd.h>

#include "worker.h"

#define COMPLETE_MS	3000u	/* to wait for the last connections before we say READY */
#define LOOK_MS		250u	/* how soon the end of the program is seen */

static struct volume volume;

static void settle(struct link_memory *mem, enum link_phase phase)
{
	atomic_store_explicit(&mem->phase, phase, memory_order_release);
	link_futex_wake(&mem->phase);
}

static int fail(struct link_memory *mem, int error, const char *where, const char *why)
{
	mem->error = error;
	snprintf(mem->said, sizeof(mem->said), "%s%s%s", where, *where ? ": " : "", why);
	settle(mem, LINK_FAILED);
	return EXIT_FAILURE;
}

static struct link_memory *memory_map(void)
{
	struct link_memory *mem;
	struct stat st;

	if (fstat(LINK_FD_MEMORY, &st) || st.st_size < (off_t)sizeof(*mem))
		return NULL;
	mem = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, LINK_FD_MEMORY, 0);
	if (mem == MAP_FAILED || mem->magic != LINK_MAGIC ||
	    (size_t)st.st_size < link_memory_bytes(mem->config.page_bytes))
		return NULL;
	return mem;
}

static bool config_ok(const struct link_config *cfg)
{
	return cfg->page_bytes >= 4096 && cfg->page_bytes <= LINK_CHUNK_BYTES &&
	       !(cfg->page_bytes & (cfg->page_bytes - 1)) && cfg->nr_uris &&
	       cfg->nr_uris <= LINK_SERVERS && (cfg->mirror == 1 || cfg->mirror == 2) &&
	       cfg->nr_uris % cfg->mirror == 0 && cfg->connections <= LINK_CONNECTIONS &&
	       cfg->timeout_ms;
}

static void volume_init(struct volume *v, struct link_memory *mem)
{
	v->mem = mem;
	v->cfg = mem->config;
	v->page = v->cfg.page_bytes;
	v->chunk_pages = (uint32_t)(LINK_CHUNK_BYTES / v->page);
	v->nr_servers = v->cfg.nr_uris;
	v->nr_groups = v->nr_servers / v->cfg.mirror;
	v->timeout_ms = v->cfg.timeout_ms;
	v->stall_ms = link_stall_ms(v->timeout_ms);
}

static uint32_t cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) ? 1 : (uint32_t)CPU_COUNT(&set);
}

/*
 * Workers, and connections of each. Without multi-conn what one connection has written
 * another may not see: one of each then. Pages that are encrypted keep several workers
 * busy; otherwise one moves more than two that share its caches and wake each other.
 */
static void share_out(struct volume *v)
{
	uint32_t connections = v->cfg.connections ? v->cfg.connections : 4;

	for (uint32_t i = 0; i < v->nr_servers; i++)
		if (!v->server[i].multi_conn)
			connections = 1;
	v->nr_workers = v->cfg.seal ? cpus() : (cpus() + 1) / 2;
	if (v->nr_workers > LINK_WORKERS)
		v->nr_workers = LINK_WORKERS;
	/*
	 * Most of them are lanes, where the driver can do without TLS and our encryption: one
	 * for pages alone, and of the others as many as there are movers at work.
	 */
	v->lanes = v->cfg.seal ? 0 : connections * 3 / 4;
	if (v->lanes > LINK_LANES)
		v->lanes = LINK_LANES;
	for (uint32_t i = 0; i < v->nr_servers; i++)
		if (v->server[i].tls)
			v->lanes = 0;
	if (v->nr_workers > connections - v->lanes)
		v->nr_workers = connections - v->lanes;
	v->conns = (connections - v->lanes) / v->nr_workers;
}

static int open_servers(struct volume *v)
{
	char why[160];

	for (uint32_t i = 0; i < v->nr_servers; i++) {
		int ret;

		server_init(&v->server[i], v, i);
		ret = server_open(&v->server[i], why, sizeof(why));
		if (ret)
			return fail(v->mem, ret, v->cfg.uri[i], why);
	}
	return 0;
}

static void wait_complete(struct volume *v)
{
	uint64_t until = now_ms() + COMPLETE_MS;
	struct timespec nap = { .tv_nsec = 1000000 };

	for (uint32_t i = 0; i < v->nr_servers; i++)
		while (!server_complete(&v->server[i]) && now_ms() < until)
			nanosleep(&nap, NULL);
}

static int start(struct volume *v)
{
	const char *why = "";
	int ret;

	if (open_servers(v))
		return EXIT_FAILURE;
	ret = volume_lay_out(v, &why);
	if (ret)
		return fail(v->mem, ret, "", why);
	share_out(v);
	for (uint32_t i = 0; i < v->nr_servers && !ret; i++)
		ret = server_start(&v->server[i], v->nr_workers, v->conns, v->lanes);
	for (uint32_t w = 0; w < v->nr_workers && !ret; w++)
		ret = worker_start(v, w, &v->worker[w]);
	if (ret)
		return fail(v->mem, ret, "", "no memory or threads");
	wait_complete(v);
	v->mem->nr_pages = v->nr_pages;
	v->mem->nr_groups = v->nr_groups;
	v->mem->nr_workers = v->nr_workers;
	settle(v->mem, LINK_READY);
	return 0;
}

/* Until the program ends or has no more use for us. */
static void stay(struct volume *v)
{
	struct pollfd fd = { .fd = LINK_FD_PROGRAM, .events = POLLIN };
	struct link_memory *mem = v->mem;

	while (!atomic_load_explicit(&mem->closing, memory_order_acquire) && poll(&fd, 1, 0) <= 0) {
		for (uint32_t i = 0; i < v->nr_servers; i++)
			server_lanes_lost(&v->server[i],
					  atomic_exchange(&mem->lanes_lost[i], 0));
		link_futex_wait(&mem->closing, 0, LOOK_MS);
	}
}

/* The program must neither have us as a child to wait for nor get our signals. */
static bool leave_program(struct link_memory *mem)
{
	pid_t pid = fork();

	if (pid > 0)
		mem->pid = pid;
	if (pid)
		_exit(pid < 0);
	signal(SIGPIPE, SIG_IGN);
	/* Best effort (5.9): what the program has left open for its children. */
	(void)close_range(LINK_FD_LANES + 1, ~0u, 0);
	return setsid() >= 0 && !chdir("/");
}

int main(void)
{
	struct link_memory *mem = memory_map();
	int ret;

	if (!mem) {
		fprintf(stderr, "This is a part of uhmm's nbd driver, which starts it by itself.\n");
		return 2;
	}
	/* Memory that is freed stays ours: in a STRICT program's tree each call counts. */
	mallopt(M_TRIM_THRESHOLD, 256 << 20);
	mallopt(M_MMAP_THRESHOLD, 256 << 20);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (!leave_program(mem))
		return fail(mem, -EAGAIN, "", "cannot leave the program's session");
	if (!config_ok(&mem->config))
		return fail(mem, -EINVAL, "", "impossible configuration");
	volume_init(&volume, mem);
	ret = start(&volume);
	if (ret)
		return ret;
	stay(&volume);
	/* Threads may be in the middle of anything; the servers see the connections close. */
	_exit(0);
}
