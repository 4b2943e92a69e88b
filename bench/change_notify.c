/* SPDX-License-Identifier: MIT */
/*
 * What does a program pay for each change of its mappings in a STRICT mm?
 *
 * munmap and mprotect of one populated page that is nobody's business, and munmap of
 * 64 KiB whose pages are on a device. STRICT cannot be undone, so the notified calls
 * are made by a forked process, in turns with the plain calls made here. Expected: a
 * round trip to the thread that listens, some 7 us where the kernel wakes it on the
 * same CPU (6.6), ten times that before.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static const struct bench_line lines[] = {
	{ "change_notify", "us", "plain munmap", BENCH_LESS, BENCH_OPEN, 0 },
	{ "change_notify_mprotect", "us", "plain mprotect", BENCH_LESS, BENCH_OPEN, 0 },
	{ "change_notify_device", "us", "plain munmap, 64 KiB", BENCH_LESS, BENCH_OPEN, 0 },
};

#define CALLS		128u
#define DEVICE_CALLS	16u

enum change {
	CHANGE_UNMAP,
	CHANGE_PROTECT,
	CHANGE_UNMAP_DEVICE,
	CHANGES
};

struct answer {
	int32_t ret;
	uint32_t nr;
	double us[CALLS];
};

struct change_notify {
	int fd;			/* to the strict process */
	struct answer answer;
};

struct side {
	struct change_notify *c;
	enum change change;
};

static int map_piece(size_t len, void **out)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -ENOMEM;
	memset(p, 1, len);
	*out = p;
	return 0;
}

static int timed_change(enum change change, void *p, size_t len, double *us)
{
	uint64_t start = bench_now_ns(), end;
	int ret;

	ret = change == CHANGE_PROTECT ? mprotect(p, len, PROT_READ) : munmap(p, len);
	end = bench_now_ns();
	*us = (double)(end - start) / 1e3;
	if (!ret && change == CHANGE_PROTECT)
		ret = munmap(p, len);
	return ret ? -errno : 0;
}

/* @device: where CHANGE_UNMAP_DEVICE finds its pages before it; NULL: in RAM. */
static int changes(enum change change, struct bench_device *device, struct answer *answer)
{
	uint32_t nr = change == CHANGE_UNMAP_DEVICE ? DEVICE_CALLS : CALLS;
	size_t len = change == CHANGE_UNMAP_DEVICE ? 64 * KIB : hmm_page_size();

	for (answer->nr = 0; answer->nr < nr; answer->nr++) {
		void *p;
		int ret = map_piece(len, &p);

		if (!ret && device && change == CHANGE_UNMAP_DEVICE)
			ret = bench_move_in(device, p, len);
		if (!ret)
			ret = timed_change(change, p, len, &answer->us[answer->nr]);
		if (ret)
			return ret;
	}
	return 0;
}

static int strict_open(struct bench_device *device)
{
	HMM_OPTS(hmm_mm_opts, mm_opts, .flags = HMM_MM_STRICT);
	HMM_OPTS(hmm_soft_opts, soft_opts, .mem_bytes = 16 * MIB,
		 .migrate = HMM_SOFT_MIGRATE_NEVER);
	int ret = hmm_mm_create(&mm_opts, &device->mm);

	if (ret)
		return ret;
	ret = hmm_soft_open(device->mm, &soft_opts, &device->soft);
	if (ret)
		(void)hmm_mm_destroy(device->mm);
	return ret;
}

/* The strict process: says whether it could begin, then answers until told no more. */
static int strict_process(int fd)
{
	struct bench_device device = { 0 };
	struct answer answer = { 0 };
	enum change change;
	int ret;

	answer.ret = strict_open(&device);
	ret = answer.ret;
	if (send(fd, &answer, sizeof(answer), MSG_NOSIGNAL) < 0 || ret)
		return 1;
	while (recv(fd, &change, sizeof(change), 0) == (ssize_t)sizeof(change)) {
		answer.ret = changes(change, &device, &answer);
		if (send(fd, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
			break;
	}
	return bench_device_close(&device) ? 1 : 0;
}

static int hear(struct change_notify *c)
{
	if (recv(c->fd, &c->answer, sizeof(c->answer), 0) != (ssize_t)sizeof(c->answer))
		return -EIO;
	return c->answer.ret;
}

static void add_all(const struct answer *answer, struct bench_samples *samples)
{
	for (uint32_t i = 0; i < answer->nr; i++)
		bench_samples_add(samples, answer->us[i]);
}

static int take_plain(void *ctx, struct bench_samples *samples)
{
	struct side *side = ctx;
	int ret = changes(side->change, NULL, &side->c->answer);

	add_all(&side->c->answer, samples);
	return ret;
}

static int take_strict(void *ctx, struct bench_samples *samples)
{
	struct side *side = ctx;
	struct change_notify *c = side->c;
	int ret;

	if (send(c->fd, &side->change, sizeof(side->change), MSG_NOSIGNAL) < 0)
		return -EIO;
	ret = hear(c);
	if (!ret)
		add_all(&c->answer, samples);
	return ret;
}

static int compare(struct bench_run *run, struct change_notify *c, enum change change)
{
	struct bench_limits limits = {
		.seconds = bench_seconds(run, 0.4), .warmup = 1, .min_rounds = 3,
	};
	struct side side = { c, change };
	struct bench_turn turns[] = {
		{ .take = take_plain, .ctx = &side },
		{ .take = take_strict, .ctx = &side },
	};
	int ret;

	if (!bench_wanted(run, lines[change].name))
		return 0;
	ret = bench_rounds(turns, COUNT(turns), &limits);
	if (!ret)
		bench_report(run, lines[change].name, bench_quantile(&turns[1].samples, 0.5),
			     bench_quantile(&turns[0].samples, 0.5));
	bench_turns_free(turns, COUNT(turns));
	return ret;
}

static int measure(struct bench_run *run, struct change_notify *c)
{
	int ret = hear(c);

	if (ret == -EOPNOTSUPP || ret == -EBUSY || ret == -EPERM) {
		bench_note(run, "no STRICT mm here", ret);
		return -EOPNOTSUPP;
	}
	for (enum change change = 0; change < CHANGES && !ret; change++)
		ret = compare(run, c, change);
	return ret;
}

static int run_change_notify(struct bench_run *run)
{
	struct change_notify c;
	int fds[2], ret, status;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return -errno;
	pid = fork();
	if (pid < 0) {
		close(fds[0]);
		close(fds[1]);
		return -EAGAIN;
	}
	if (!pid) {
		close(fds[0]);
		_exit(strict_process(fds[1]));
	}
	close(fds[1]);
	c.fd = fds[0];
	ret = measure(run, &c);
	close(c.fd);
	if (waitpid(pid, &status, 0) == pid && !ret && status)
		ret = -EIO;
	return ret;
}

const struct bench bench_change_notify = {
	.name = "change_notify", .lines = lines, .nr_lines = COUNT(lines),
	.run = run_change_notify,
};
