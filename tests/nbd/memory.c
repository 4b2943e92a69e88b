/* SPDX-License-Identifier: MIT */
/*
 * Memory on servers that are well: bytes come back, zeros and freed pages cost nothing,
 * stripes, encryption, options.
 */
#define _GNU_SOURCE
#include "servers.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NR	256

/* What one run of nbdkit's stats filter counted, when it has ended. */
static unsigned long long counted(struct nbd_world *n, const char *kind, const char *unit)
{
	unsigned long long value = 0;
	char path[128], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/stats", n->folder);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		const char *comma = strchr(line, ',');

		if (strncmp(line, kind, strlen(kind)) != 0)
			continue;
		if (!strcmp(unit, "ops"))
			sscanf(strchr(line, ':') + 1, "%llu ops", &value);
		else if (comma)
			value = 1;
	}
	fclose(f);
	return value;
}

static struct server *counting_server(struct nbd_world *n, int nr)
{
	char words[256];

	snprintf(words, sizeof(words), "--filter=stats memory 64M statsfile=%s/stats", n->folder);
	return server_run(n, nr, words);
}

/* Ends a server in the way that makes it write its figures. */
static void server_end(struct server *s)
{
	kill(s->pid, SIGTERM);
	wait_child(s->pid);
	s->pid = 0;
}

/* To the server and back, by eviction and by touch: every byte. */
static void pages_come_back(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 64M");
	unsigned char *p;

	nbd_open(n, "uri=%s", s->uri);
	p = map_filled(NR, 1);
	nbd_move_in(n, p, NR);
	assert_int_equal(cpu_maps_count(p, NR), 0);
	assert_int_equal(evict(n->w, p, NR), NR);
	assert_holds(p, NR, 1, 0);
	nbd_move_in(n, p, NR);
	assert_holds(p, NR, 1, 0);
	assert_at(n->w, p, NR, HMM_PLACE_SYSTEM);
	munmap(p, NR * page);
}

/* A stream of touches is noticed: far fewer faults than pages. */
static void a_stream_has_few_faults(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 64M");
	size_t nr = 4096;
	unsigned char *p;

	nbd_open(n, "uri=%s", s->uri);
	p = map_filled(nr, 2);
	nbd_move_in(n, p, nr);
	stats_mark(n->w);
	assert_holds(p, nr, 2, 0);
	assert_true(moved(n->w, cpu_faults) < nr / 16);
	munmap(p, nr * page);
}

/* With fault_around=1 a touch brings its page and no other. */
static void fault_around_of_one(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 64M");
	unsigned char *p;

	nbd_open(n, "uri=%s,fault_around=1", s->uri);
	p = map_filled(NR, 3);
	nbd_move_in(n, p, NR);
	assert_int_equal(touch_read(p + 7 * page), 0);
	assert_int_equal(touch_read(p + 8 * page), 0);
	assert_int_equal(count_at(n->w, p, NR, HMM_PLACE_DEVICE), NR - 2);
	assert_holds(p, NR, 3, 0);
	munmap(p, NR * page);
}

struct touching {
	unsigned char *p;
	size_t first, step, nr;
	bool right;
};

static void *touch_many(void *arg)
{
	struct touching *t = arg;

	t->right = true;
	for (size_t i = t->first; i < t->nr; i += t->step)
		t->right &= holds(t->p + i * page, 1, 4, i);
	return NULL;
}

/* Many threads fault at once, each on pages of its own and on the same ones. */
static void threads_fault_together(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "--filter=delay memory 64M rdelay=1ms");
	struct touching t[16];
	pthread_t threads[16];
	unsigned char *p;

	nbd_open(n, "uri=%s,fault_around=1", s->uri);
	p = map_filled(NR, 4);
	nbd_move_in(n, p, NR);
	for (size_t i = 0; i < 16; i++) {
		t[i] = (struct touching){ p, i % 8, 8, NR, false };
		assert_int_equal(pthread_create(&threads[i], NULL, touch_many, &t[i]), 0);
	}
	for (size_t i = 0; i < 16; i++) {
		pthread_join(threads[i], NULL);
		assert_true(t[i].right);
	}
	munmap(p, NR * page);
}

/* Zeros, holes and what comes home as such never touch the network. */
static void zeros_cost_no_traffic(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = counting_server(n, 0);
	unsigned char *p;

	nbd_open(n, "uri=%s", s->uri);
	p = map_pages(NR, PROT_READ | PROT_WRITE, 0);
	memset(p, 0, NR / 2 * page);
	nbd_move_in(n, p, NR);
	assert_true(all_zero(p, NR * page));
	assert_int_equal(nbd_close_device(n), 0);
	server_end(s);
	/* The identity, once each way, is all. */
	assert_int_equal(counted(n, "write", "ops"), 1);
	assert_true(counted(n, "read", "ops") <= 4);
	assert_int_equal(counted(n, "trim", "ops"), 0);
	munmap(p, NR * page);
}

/* What the program frees is trimmed, in few requests, and never read. */
static void freed_pages_are_trimmed(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = counting_server(n, 0);
	unsigned char *p;

	nbd_open(n, "uri=%s", s->uri);
	p = map_filled(NR, 5);
	nbd_move_in(n, p, NR);
	munmap(p, NR * page);
	assert_int_equal(nbd_close_device(n), 0);
	server_end(s);
	assert_in_range(counted(n, "trim", "ops"), NR / 64, NR / 64 + 2);
	assert_true(counted(n, "read", "ops") <= 4);
}

/*
 * Pages that faults bring home one by one are trimmed together. How many come together
 * depends on how long they take: a run or two each time the driver looks.
 */
static void pages_that_fault_are_trimmed_together(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = counting_server(n, 0);
	uint64_t start_ms, ms;
	unsigned char *p;

	nbd_open(n, "uri=%s,fault_around=1", s->uri);
	p = map_filled(4 * NR, 7);
	nbd_move_in(n, p, 4 * NR);
	start_ms = clock_ms();
	assert_holds(p, 4 * NR, 7, 0);
	ms = clock_ms() - start_ms;
	munmap(p, 4 * NR * page);
	assert_int_equal(nbd_close_device(n), 0);
	server_end(s);
	assert_true(counted(n, "trim", "ops") <= 4 * NR / 64 + 2 * (ms / 100 + 2));
}

/* A page that was freed and taken again holds its new bytes, however the trims fall. */
static void trims_lose_nothing(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 2M");
	unsigned char *p;

	nbd_open(n, "uri=%s,mem=1M", s->uri);
	for (uint32_t round = 0; round < 40; round++) {
		p = map_filled(200, round);
		nbd_move_in(n, p, 200);
		if (round % 2)
			assert_holds(p, 200, round, 0);
		munmap(p, 200 * page);
	}
}

/* Full is full, and says so; what did not fit is where it was. */
static void a_full_device_refuses(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 1M");
	unsigned char *p;

	nbd_open(n, "uri=%s", s->uri);
	p = map_filled(NR, 6);
	/* 1 MiB less the identity's page, in whole chunks: three. */
	assert_int_equal(nbd_try_move_in(n, p, NR), 3 * 64);
	assert_int_equal(nbd_try_move_in(n, p, NR), -ENOSPC);
	assert_holds(p, NR, 6, 0);
	munmap(p, NR * page);
}

/* Pages go round the servers by chunks; each has its share, and all come back. */
static void stripes_over_three_servers(void **state)
{
	struct nbd_world *n = *state;
	struct server *a = server_run(n, 0, "memory 16M"), *b = server_run(n, 1, "memory 16M"),
		      *c = counting_server(n, 2);
	unsigned char *p;

	nbd_open(n, "uri=%s,uri2=%s,uri3=%s", a->uri, b->uri, c->uri);
	p = map_filled(3 * NR, 7);
	nbd_move_in(n, p, 3 * NR);
	assert_holds(p, 3 * NR, 7, 0);
	assert_int_equal(nbd_close_device(n), 0);
	server_end(c);
	assert_in_range(counted(n, "write", "ops"), 1 + NR / 64, 1 + NR / 64 + 2);
	munmap(p, 3 * NR * page);
}

static bool file_has(const char *path, const char *text)
{
	char line[256];

	snprintf(line, sizeof(line), "grep -qaF '%s' %s", text, path);
	return system(line) == 0;
}

static void on_file(struct nbd_world *n, const char *encrypt, bool seen)
{
	static const char secret[] = "nobody else need know";
	char words[256], path[96];
	struct server *s;
	unsigned char *p;

	snprintf(path, sizeof(path), "%s/disk", n->folder);
	snprintf(words, sizeof(words), "truncate -s 16M %s", path);
	assert_int_equal(system(words), 0);
	snprintf(words, sizeof(words), "file %s", path);
	s = server_run(n, 0, words);
	nbd_open(n, "uri=%s,encrypt=%s", s->uri, encrypt);
	p = map_filled(NR, 8);
	for (size_t i = 0; i < NR; i++)
		memcpy(p + i * page + 100, secret, sizeof(secret));
	nbd_move_in(n, p, NR);
	assert_true(file_has(path, secret) == seen);
	for (size_t i = 0; i < NR; i++)
		assert_memory_equal(p + i * page + 100, secret, sizeof(secret));
	munmap(p, NR * page);
	assert_int_equal(nbd_close_device(n), 0);
	server_kill(s);
	unlink(path);
}

/* encrypt=on: what lies on the server says nothing. Without it, it says everything. */
static void encrypted_pages_tell_nothing(void **state)
{
	on_file(*state, "on", false);
	on_file(*state, "off", true);
}

/* More than fits the window of requests, over one connection and over eight. */
static void any_number_of_connections(void **state)
{
	static const int nr_connections[] = { 1, 2, 3, 8, 16 };
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 64M");
	size_t nr = 4096;

	for (size_t i = 0; i < ARRAY_LEN(nr_connections); i++) {
		unsigned char *p;

		nbd_open(n, "uri=%s,connections=%d", s->uri, nr_connections[i]);
		p = map_filled(nr, (uint32_t)i);
		nbd_move_in(n, p, nr);
		assert_int_equal(evict(n->w, p, nr), nr);
		assert_holds(p, nr, (uint32_t)i, 0);
		munmap(p, nr * page);
	}
}

struct mover {
	struct nbd_world *n;
	unsigned char *p;
	int64_t moved;
};

static void *move_slowly(void *arg)
{
	struct mover *m = arg;
	int64_t ret;

	/* A page may be busy for a moment. */
	do {
		ret = nbd_try_move_in(m->n, m->p, 2048);
		m->moved = ret < 0 ? ret : m->moved + ret;
	} while (m->moved >= 0 && m->moved < 2048);
	return NULL;
}

/* 10 MB/s a connection, and far more to send than it takes: senders wait, faults are served. */
static void a_slow_link_holds_back_senders(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "--filter=rate memory 64M rate=80M");
	struct mover m[3] = { { .n = n }, { .n = n }, { .n = n } };
	pthread_t threads[3];
	unsigned char *p;

	nbd_open(n, "uri=%s,timeout=30,fault_around=1", s->uri);
	p = map_filled(16, 20);
	nbd_move_in(n, p, 16);
	for (uint32_t i = 0; i < 3; i++) {
		m[i].p = map_filled(2048, 21 + i);
		assert_int_equal(pthread_create(&threads[i], NULL, move_slowly, &m[i]), 0);
	}
	assert_holds(p, 16, 20, 0);
	for (uint32_t i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(m[i].moved, 2048);
		assert_holds(m[i].p, 4, 21 + i, 0);
		munmap(m[i].p, 2048 * page);
	}
	munmap(p, 16 * page);
}

/* A server that allows one connection gets one. */
static void a_server_without_multi_conn(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0,
				      "--filter=multi-conn memory 16M multi-conn-mode=disable");
	unsigned char *p;

	nbd_open(n, "uri=%s,connections=8", s->uri);
	p = map_filled(NR, 9);
	nbd_move_in(n, p, NR);
	assert_holds(p, NR, 9, 0);
	munmap(p, NR * page);
}

#define assert_refused(expected, text, ...) do {			\
	assert_int_equal(nbd_try_open(n, __VA_ARGS__), expected);	\
	if (!strstr(n->device.said, text))				\
		fail_msg("said \"%s\", not \"%s\"", n->device.said, text);	\
} while (0)

/* What cannot be is refused in words. */
static void impossible_options(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 16M"), *readonly, *small;

	assert_refused(-EINVAL, "uri= is missing", "mem=1M");
	assert_refused(-EINVAL, "without gaps", "uri=%s,uri3=%s", s->uri, s->uri);
	assert_refused(-EINVAL, "even number", "uri=%s,mirror=2", s->uri);
	assert_refused(-EINVAL, "smaller than mem", "uri=%s,mem=17M", s->uri);
	assert_refused(-EINVAL, "mem", "uri=%s,mem=1000", s->uri);
	assert_refused(-EINVAL, "mirror", "uri=%s,mirror=3", s->uri);
	assert_refused(-EINVAL, "fault_around", "uri=%s,fault_around=3", s->uri);
	assert_refused(-EINVAL, "nbds", "uri=%s,tls_psk=/nonexistent", s->uri);
	assert_refused(-EHOSTUNREACH, "nowhere", "uri=nbd+unix:///?socket=%s/nowhere", n->folder);
	assert_refused(-EHOSTUNREACH, "URI", "uri=gopher://x");
	readonly = server_run(n, 1, "-r memory 16M");
	assert_refused(-EINVAL, "read-only", "uri=%s", readonly->uri);
	small = server_run(n, 2, "memory 100K");
	assert_refused(-EINVAL, "smaller than", "uri=%s", small->uri);
}

static struct hmm_device *forked;

static int child_closes(void *arg)
{
	(void)arg;
	return hmm_device_close(forked) != -ECHILD;
}

/* A forked child has its bytes, and the device is its parent's. */
static void a_forked_child(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 16M");
	unsigned char *p;

	nbd_open(n, "uri=%s", s->uri);
	p = map_filled(NR, 10);
	nbd_move_in(n, p, NR);
	forked = &n->device;
	assert_int_equal(in_child(child_closes, NULL), 0);
	assert_holds(p, NR, 10, 0);
	nbd_move_in(n, p, NR);
	assert_holds(p, NR, 10, 0);
	munmap(p, NR * page);
}

/* The program has no child that it did not make. */
static void the_link_is_nobodys_child(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 16M");
	char path[96], line[256];
	FILE *f;

	nbd_open(n, "uri=%s", s->uri);
	server_kill(s);
	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	f = fopen(path, "re");
	/* Without CONFIG_PROC_CHILDREN there is nothing to look at. */
	if (!f)
		return;
	assert_null(fgets(line, sizeof(line), f));
	fclose(f);
}

/* Descriptors of ours. */
static int descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int nr = 0;

	while (readdir(dir))
		nr++;
	closedir(dir);
	return nr;
}

static void on_tick(int sig)
{
	(void)sig;
}

/* Signals interrupt the wait for the link, again and again: none costs a descriptor. */
static void signals_while_it_opens(void **state)
{
	const struct itimerspec often = { { 0, 500000 }, { 0, 500000 } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct sigaction tick = { .sa_handler = on_tick }, before;
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 16M");
	timer_t timer;
	int nr, ret;

	nbd_open(n, "uri=%s", s->uri);
	assert_int_equal(nbd_close_device(n), 0);
	nr = descriptors();
	sigaction(SIGUSR1, &tick, &before);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	assert_int_equal(timer_settime(timer, 0, &often, NULL), 0);
	ret = nbd_try_open(n, "uri=%s", s->uri);
	timer_delete(timer);
	sigaction(SIGUSR1, &before, NULL);
	assert_int_equal(ret, 0);
	assert_int_equal(nbd_close_device(n), 0);
	assert_int_equal(descriptors(), nr);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		nbd_test(pages_come_back),
		nbd_test(a_stream_has_few_faults),
		nbd_test(fault_around_of_one),
		nbd_test(threads_fault_together),
		nbd_test(zeros_cost_no_traffic),
		nbd_test(freed_pages_are_trimmed),
		nbd_test(pages_that_fault_are_trimmed_together),
		nbd_test(trims_lose_nothing),
		nbd_test(a_full_device_refuses),
		nbd_test(stripes_over_three_servers),
		nbd_test(encrypted_pages_tell_nothing),
		nbd_test(any_number_of_connections),
		nbd_test(a_slow_link_holds_back_senders),
		nbd_test(a_server_without_multi_conn),
		nbd_test(impossible_options),
		nbd_test(a_forked_child),
		nbd_test(the_link_is_nobodys_child),
		nbd_test(signals_while_it_opens),
	};

	need_nbd();
	return cmocka_run_group_tests_name("nbd_memory", tests, nbd_world_begin, nbd_world_end);
}
