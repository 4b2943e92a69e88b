/* SPDX-License-Identifier: MIT */
/*
 * What does a round trip through a dmirror device cost, against copying there and back?
 *
 * MIGRATE_TO_DEV and MIGRATE_TO_SYS as a program makes them. The first one returns the
 * device's data to the caller as well, as the protocol wants, so a round trip copies
 * every byte three times where the floor, memcpy there and memcpy back, copies it twice:
 * what can be had is 0.67.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "bench.h"
#include "drivers/dmirror/protocol.h"
#include "sys/process.h"

static const struct bench_line lines[] = {
	{ "dmirror_roundtrip", "GB/s", "memcpy, 256 MiB of THP", BENCH_MORE, BENCH_RATIO, 0.5 },
	{ "dmirror_roundtrip_2m", "GB/s", "memcpy, 2 MiB of THP", BENCH_MORE, BENCH_RATIO, 0.5 },
	{ "dmirror_roundtrip_small", "GB/s", "memcpy, 256 MiB", BENCH_MORE, BENCH_RATIO, 0.5 },
	{ "dmirror_roundtrip_small_2m", "GB/s", "memcpy, 2 MiB", BENCH_MORE, BENCH_RATIO, 0.5 },
};

/* The hooks, called by name: they are in this process, but in nobody's way. */
struct trip {
	int (*ioctl)(int fd, unsigned long request, ...);
	int fd;
	struct bench_area area, copy, returned;
};

/* Beside the command: where it was built, or where both are installed. */
static void *load_hooks(void)
{
	static const char *const places[] = {
		"../../drivers/dmirror/libuhmm-dmirror.so", UHMM_DMIRROR_FROM_BINDIR,
	};
	char path[1024];
	void *object = NULL;

	for (size_t i = 0; i < COUNT(places) && !object; i++) {
		if (sys_program_path(path, sizeof(path) - 256))
			return NULL;
		strcpy(strrchr(path, '/') + 1, places[i]);
		object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	}
	return object;
}

static int take_memcpy(void *ctx, struct bench_samples *samples)
{
	struct trip *t = ctx;
	uint64_t start = bench_now_ns();

	memcpy(t->copy.base, t->area.base, t->area.len);
	memcpy(t->area.base, t->copy.base, t->area.len);
	bench_samples_add(samples, bench_gb_per_s(2 * t->area.len, bench_now_ns() - start));
	return 0;
}

static int request(struct trip *t, unsigned long nr)
{
	struct dmirror_cmd cmd = {
		.addr = (uintptr_t)t->area.base, .ptr = (uintptr_t)t->returned.base,
		.npages = t->area.len / hmm_page_size(),
	};

	if (t->ioctl(t->fd, nr, &cmd))
		return -errno;
	return cmd.cpages == cmd.npages ? 0 : -EIO;
}

static int take_trip(void *ctx, struct bench_samples *samples)
{
	struct trip *t = ctx;
	uint64_t start = bench_now_ns();
	int ret = request(t, DMIRROR_MIGRATE_TO_DEV);

	if (!ret)
		ret = request(t, DMIRROR_MIGRATE_TO_SYS);
	bench_samples_add(samples, bench_gb_per_s(2 * t->area.len, bench_now_ns() - start));
	return ret;
}

static int measure(struct bench_run *run, struct trip *t, const char *line)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 0.7), .warmup = 2, .min_rounds = 3,
	};
	struct bench_turn turns[] = {
		{ .take = take_memcpy, .ctx = t },
		{ .take = take_trip, .ctx = t },
	};
	int ret = bench_rounds(turns, COUNT(turns), &limits);

	if (!ret && (!bench_area_intact(&t->area) || !bench_area_intact(&t->returned)))
		ret = -EIO;
	if (!ret)
		bench_report(run, line, bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int measure_size(struct bench_run *run, struct trip *t, size_t len, bool huge,
			const char *line)
{
	int ret;

	if (!bench_wanted(run, line))
		return 0;
	ret = bench_area_map(&t->area, len, huge);
	if (!ret)
		ret = bench_area_map(&t->copy, len, huge);
	if (!ret)
		ret = bench_area_map(&t->returned, len, huge);
	if (!ret)
		ret = measure(run, t, line);
	bench_area_unmap(&t->returned);
	bench_area_unmap(&t->copy);
	bench_area_unmap(&t->area);
	return ret;
}

static int run_dmirror(struct bench_run *run)
{
	size_t large = bench_quick(run) ? 64 * MIB : 256 * MIB;
	int (*open_device)(const char *path, int flags, ...);
	struct trip t = { .fd = -1 };
	void *hooks = load_hooks();
	int ret;

	if (!hooks) {
		bench_note(run, "libuhmm-dmirror.so", -ENOENT);
		return -EOPNOTSUPP;
	}
	*(void **)&open_device = dlsym(hooks, "open");
	*(void **)&t.ioctl = dlsym(hooks, "ioctl");
	t.fd = open_device("/dev/hmm_dmirror0", O_RDWR);
	if (t.fd < 0)
		return -errno;
	ret = measure_size(run, &t, large, true, "dmirror_roundtrip");
	if (!ret)
		ret = measure_size(run, &t, 2 * MIB, true, "dmirror_roundtrip_2m");
	if (!ret)
		ret = measure_size(run, &t, large, false, "dmirror_roundtrip_small");
	if (!ret)
		ret = measure_size(run, &t, 2 * MIB, false, "dmirror_roundtrip_small_2m");
	return ret;
}

const struct bench bench_dmirror = {
	.name = "dmirror", .lines = lines, .nr_lines = COUNT(lines), .run = run_dmirror,
};
