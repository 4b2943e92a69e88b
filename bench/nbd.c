/* SPDX-License-Identifier: MIT */
/*
 * What does memory on another machine cost, against what the network block device
 * itself costs? Server: nbdkit's memory plug-in on a socket of this machine, so that the
 * link is as fast as links get, and whatever the driver adds shows.
 *
 * nbd_stream: a program reads through memory that is on the server, front to back, against
 * nbdcopy of the same export to nowhere over as many connections. nbd_fault: one page at
 * a time in random order, nothing around it, against a bare libnbd read of 4 KiB plus a
 * bare userfaultfd round trip: the two things that a fault cannot do without.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <uhmm/plugin.h>

#include "bench.h"
#include "sys/process.h"

#define CONNECTIONS	"4"
#define PAGES		512u

static const struct bench_line lines[] = {
	{ "nbd_stream", "GB/s", "nbdcopy", BENCH_MORE, BENCH_RATIO, 0.7 },
	{ "nbd_fault", "us", "libnbd read + userfault", BENCH_LESS, BENCH_RATIO, 1 / 1.5 },
};

extern char **environ;

/* libnbd, without linking it: the command does not need it for anything else. */
struct libnbd {
	void *(*create)(void);
	int (*connect_uri)(void *nbd, const char *uri);
	int (*pread)(void *nbd, void *buf, size_t count, uint64_t offset, uint32_t flags);
	void (*close)(void *nbd);
};

struct nbd {
	struct hmm_mm *mm;
	struct hmm_device device;
	struct bench_server *server;
	struct bench_area area, bare, store;
	struct libnbd lib;
	void *handle;
	uint32_t order[PAGES];
	char folder[32], socket[48], uri[96];
	pid_t kit;
};

/* ---------------------------------------------------------------- the server */

static int run_program(char *const *argv, pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	int ret = posix_spawn_file_actions_init(&actions);

	if (ret)
		return -ret;
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
	ret = posix_spawnp(pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return -ret;
}

static bool answers(const struct nbd *n)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool yes;

	strcpy(addr.sun_path, n->socket);
	yes = connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0;
	close(fd);
	return yes;
}

static int server_start(struct nbd *n, size_t bytes)
{
	char size[32];
	char *argv[] = { "nbdkit", "-f", "-U", n->socket, "memory", size, NULL };
	uint64_t until;
	int ret;

	strcpy(n->folder, "/tmp/uhmm-bench-XXXXXX");
	if (!mkdtemp(n->folder))
		return -EIO;
	snprintf(n->socket, sizeof(n->socket), "%s/nbd", n->folder);
	snprintf(n->uri, sizeof(n->uri), "nbd+unix:///?socket=%s", n->socket);
	snprintf(size, sizeof(size), "%zu", bytes);
	ret = run_program(argv, &n->kit);
	if (ret)
		return ret == -ENOENT ? -EOPNOTSUPP : ret;
	for (until = bench_now_ns() + 5000000000ULL; !answers(n); usleep(1000))
		if (bench_now_ns() > until)
			return -EOPNOTSUPP;
	return 0;
}

static void server_end(struct nbd *n)
{
	if (n->kit > 0) {
		kill(n->kit, SIGKILL);
		waitpid(n->kit, NULL, 0);
	}
	unlink(n->socket);
	rmdir(n->folder);
}

/* ---------------------------------------------------------------- the device */

static bool plugin_built(char *path, size_t bytes)
{
	static const char from_here[] = "/../../drivers/nbd/nbd.so";
	char *slash;

	if (sys_program_path(path, bytes))
		return false;
	slash = strrchr(path, '/');
	if (!slash || (size_t)(slash - path) + sizeof(from_here) > bytes)
		return false;
	memcpy(slash, from_here, sizeof(from_here));
	return true;
}

static int device_open(struct nbd *n, const char *how)
{
	const struct hmm_plugin *plugin;
	char options[192], path[512];
	int ret = hmm_plugin_load("nbd", &plugin, NULL, 0);

	/* In a build tree it lies beside the command. */
	if (ret == -ENOENT && plugin_built(path, sizeof(path)))
		ret = hmm_plugin_load(path, &plugin, NULL, 0);
	if (ret)
		return -EOPNOTSUPP;
	ret = hmm_mm_create(NULL, &n->mm);
	if (ret)
		return ret;
	snprintf(options, sizeof(options), "uri=%s,connections=" CONNECTIONS "%s", n->uri, how);
	ret = hmm_device_open(n->mm, plugin, options, &n->device);
	if (ret)
		hmm_mm_destroy(n->mm);
	return ret;
}

static int device_close(struct nbd *n)
{
	int ret = hmm_device_close(&n->device);
	int destroyed = hmm_mm_destroy(n->mm);

	return ret ? ret : destroyed;
}

/* A page whose fault a thread of the driver's has not quite ended is busy for a moment. */
static int move_in(struct nbd *n)
{
	uintptr_t start = (uintptr_t)n->area.base, end = start + n->area.len;
	size_t left = n->area.len / hmm_page_size();

	for (int tries = 0; left && tries < 1000; tries++) {
		int64_t pages = hmm_migrate_to_device(n->mm, n->device.devmem, start, end,
						      HMM_MIGRATE_SYSTEM, NULL);

		if (pages < 0)
			return (int)pages;
		left -= (size_t)pages;
	}
	return left ? -EBUSY : 0;
}

/* ---------------------------------------------------------------- stream */

static int take_nbdcopy(void *ctx, struct bench_samples *samples)
{
	struct nbd *n = ctx;
	char *argv[] = { "nbdcopy", "--connections=" CONNECTIONS, n->uri, "null:", NULL };
	int status, ret = move_in(n);
	uint64_t start;
	pid_t pid;

	/* The export is read as the driver has filled it. */
	if (ret)
		return ret;
	start = bench_now_ns();
	ret = run_program(argv, &pid);
	if (ret)
		return ret;
	if (waitpid(pid, &status, 0) != pid || status)
		return -EIO;
	bench_samples_add(samples, bench_gb_per_s(n->area.len, bench_now_ns() - start));
	return 0;
}

static int take_stream(void *ctx, struct bench_samples *samples)
{
	struct nbd *n = ctx;
	size_t page = hmm_page_size();
	uint64_t start = bench_now_ns(), wrong = 0;

	for (size_t at = 0; at < n->area.len; at += page)
		wrong |= *(volatile uint64_t *)(n->area.base + at) ^ at / page;
	bench_samples_add(samples, bench_gb_per_s(n->area.len, bench_now_ns() - start));
	return wrong ? -EBADMSG : 0;
}

static int measure_stream(struct bench_run *run, struct nbd *n)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 2), .warmup = 1, .min_rounds = 3,
	};
	struct bench_turn turns[] = {
		{ .take = take_nbdcopy, .ctx = n },
		{ .take = take_stream, .ctx = n },
	};
	int ret = bench_rounds(turns, COUNT(turns), &limits);

	if (!ret)
		bench_report(run, "nbd_stream", bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

/* ---------------------------------------------------------------- fault */

static int touch_all(const struct nbd *n, unsigned char *base, struct bench_samples *samples)
{
	size_t page = hmm_page_size();

	for (uint32_t i = 0; i < PAGES; i++) {
		volatile uint64_t *word = (volatile uint64_t *)(base + n->order[i] * page);
		uint64_t start = bench_now_ns();

		if (word[0] != n->order[i])
			return -EBADMSG;
		bench_samples_add(samples, (double)(bench_now_ns() - start) / 1e3);
	}
	return 0;
}

static int take_bare(void *ctx, struct bench_samples *samples)
{
	struct nbd *n = ctx;
	int ret = bench_server_reset(n->server);

	return ret ? ret : touch_all(n, n->bare.base, samples);
}

static int take_read(void *ctx, struct bench_samples *samples)
{
	struct nbd *n = ctx;
	size_t page = hmm_page_size();
	static char buf[65536];

	for (uint32_t i = 0; i < PAGES; i++) {
		uint64_t start = bench_now_ns();

		if (n->lib.pread(n->handle, buf, page, n->order[i] * page, 0) < 0)
			return -EIO;
		bench_samples_add(samples, (double)(bench_now_ns() - start) / 1e3);
	}
	return 0;
}

static int take_fault(void *ctx, struct bench_samples *samples)
{
	struct nbd *n = ctx;
	int ret = move_in(n);

	return ret ? ret : touch_all(n, n->area.base, samples);
}

static int measure_fault(struct bench_run *run, struct nbd *n)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 2), .warmup = 2, .min_rounds = 4,
	};
	struct bench_turn turns[] = {
		{ .take = take_bare, .ctx = n },
		{ .take = take_read, .ctx = n },
		{ .take = take_fault, .ctx = n },
	};
	int ret = bench_rounds(turns, COUNT(turns), &limits);

	if (!ret)
		bench_report(run, "nbd_fault", bench_quantile(&turns[2].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5) +
			     bench_quantile(&turns[1].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int libnbd_load(struct nbd *n)
{
	void *lib = dlopen("libnbd.so.0", RTLD_NOW);

	if (!lib)
		return -EOPNOTSUPP;
	*(void **)&n->lib.create = dlsym(lib, "nbd_create");
	*(void **)&n->lib.connect_uri = dlsym(lib, "nbd_connect_uri");
	*(void **)&n->lib.pread = dlsym(lib, "nbd_pread");
	*(void **)&n->lib.close = dlsym(lib, "nbd_close");
	if (!n->lib.create || !n->lib.connect_uri || !n->lib.pread || !n->lib.close)
		return -EOPNOTSUPP;
	n->handle = n->lib.create();
	return n->handle && n->lib.connect_uri(n->handle, n->uri) >= 0 ? 0 : -EIO;
}

/* ---------------------------------------------------------------- both */

static int run_stream(struct bench_run *run, struct nbd *n)
{
	size_t len = (bench_quick(run) ? 64 : 256) * MIB;
	int ret, close_ret;

	if (!bench_wanted(run, "nbd_stream"))
		return 0;
	ret = server_start(n, 2 * len + MIB);
	if (!ret)
		ret = bench_area_map(&n->area, len, false);
	if (!ret)
		ret = device_open(n, "");
	if (!ret) {
		ret = measure_stream(run, n);
		close_ret = device_close(n);
		ret = ret ? ret : close_ret;
	}
	bench_area_unmap(&n->area);
	server_end(n);
	return ret;
}

static int run_fault(struct bench_run *run, struct nbd *n)
{
	size_t len = PAGES * hmm_page_size();
	int ret, close_ret;

	if (!bench_wanted(run, "nbd_fault"))
		return 0;
	bench_shuffle(n->order, PAGES);
	ret = server_start(n, 2 * len + MIB);
	if (!ret)
		ret = bench_area_map(&n->area, len, false);
	if (!ret)
		ret = bench_area_map(&n->bare, len, false);
	if (!ret)
		ret = bench_area_map(&n->store, len, false);
	if (!ret)
		ret = bench_server_start(&n->bare, &n->store, hmm_page_size(), BENCH_PLACED,
					 &n->server);
	if (!ret)
		ret = libnbd_load(n);
	if (!ret)
		ret = device_open(n, ",fault_around=1");
	if (!ret) {
		ret = measure_fault(run, n);
		close_ret = device_close(n);
		ret = ret ? ret : close_ret;
	}
	if (n->handle)
		n->lib.close(n->handle);
	bench_server_stop(n->server);
	bench_area_unmap(&n->store);
	bench_area_unmap(&n->bare);
	bench_area_unmap(&n->area);
	server_end(n);
	return ret;
}

static int run_nbd(struct bench_run *run)
{
	struct nbd n = { 0 };
	int ret = run_stream(run, &n);

	if (!ret) {
		n = (struct nbd){ 0 };
		ret = run_fault(run, &n);
	}
	if (ret == -EOPNOTSUPP)
		bench_note(run, "needs nbdkit, nbdcopy, libnbd and the nbd plug-in", ret);
	return ret;
}

const struct bench bench_nbd = {
	.name = "nbd", .lines = lines, .nr_lines = COUNT(lines), .run = run_nbd,
};
