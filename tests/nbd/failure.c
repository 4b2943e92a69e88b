/* SPDX-License-Identifier: MIT */
/*
 * Servers that are lost, come back, answer with errors, late, in part, or with nonsense,
 * under running programs. Never a wrong byte, never a wait beyond the timeout: none is
 * measured, but as many are made as would take longer than a test may.
 */
#define _GNU_SOURCE
#include "liar.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR		256
#define NEVER		"timeout=3600"	/* no test waits that long */

static unsigned char *mirrored(struct nbd_world *n, uint32_t seed)
{
	struct server *a = server_run(n, 0, "memory 16M"), *b = server_run(n, 1, "memory 16M");
	unsigned char *p;

	nbd_open(n, "uri=%s,uri2=%s,mirror=2,timeout=20,fault_around=1", a->uri, b->uri);
	p = map_filled(NR, seed);
	nbd_move_in(n, p, NR);
	return p;
}

/* Of two copies one is enough: nobody notices. */
static void a_mirror_hides_a_lost_server(void **state)
{
	struct nbd_world *n = *state;
	unsigned char *p;

	for (int lost = 0; lost < 2; lost++) {
		p = mirrored(n, 1);
		server_kill(&n->server[lost]);
		assert_holds(p, NR, 1, 0);
		munmap(p, NR * page);
		server_kill(&n->server[!lost]);
	}
}

/* A server that comes back empty is filled again, and then the other may go. */
static void a_mirror_is_refilled(void **state)
{
	struct nbd_world *n = *state;
	unsigned char *p = mirrored(n, 2);

	server_kill(&n->server[0]);
	assert_holds(p, 8, 2, 0);
	assert_true(eventually(nbd_said(n, "lost")));
	server_again(&n->server[0]);
	assert_true(eventually(nbd_said(n, "refilled")));
	server_kill(&n->server[1]);
	assert_holds(p, NR, 2, 0);
	munmap(p, NR * page);
}

/* What was written while one server was away is on both in the end. */
static void writes_while_one_is_away(void **state)
{
	struct nbd_world *n = *state;
	unsigned char *p = mirrored(n, 3), *q;

	server_kill(&n->server[1]);
	q = map_filled(NR, 4);
	nbd_move_in(n, q, NR);
	assert_true(eventually(nbd_said(n, "lost")));
	server_again(&n->server[1]);
	assert_true(eventually(nbd_said(n, "refilled")));
	server_kill(&n->server[0]);
	assert_holds(q, NR, 4, 0);
	assert_holds(p, NR, 3, 0);
	munmap(p, NR * page);
	munmap(q, NR * page);
}

/* What a worker wrote before it had its first connection to a server gets there, too. */
static void writes_before_the_first_connection(void **state)
{
	struct nbd_world *n = *state;
	struct server *s, *other;
	struct liar *liar;
	unsigned char *p;
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) || CPU_COUNT(&cpus) < 2) {
		print_message("          not here: on one CPU the link has one worker\n");
		skip();
	}
	s = liar_run(n, 0, 16 << 20, &liar);
	other = server_run(n, 1, "memory 16M");
	atomic_store(&liar->most, 1);
	nbd_open(n, "uri=%s,uri2=%s,mirror=2,timeout=20,connections=2,encrypt=on", s->uri,
		 other->uri);
	p = map_filled(NR, 23);
	nbd_move_in(n, p, NR);
	atomic_store(&liar->most, 0);
	assert_true(eventually(nbd_said(n, "refilled")));
	server_kill(other);
	assert_holds(p, NR, 23, 0);
	munmap(p, NR * page);
}

static unsigned char *moving;

static void *move_in(void *arg)
{
	IGNORE(nbd_try_move_in(arg, moving, NR));
	return NULL;
}

/*
 * One server has taken a write and comes back without its memory before the other has, which
 * is lost: then nobody has it.
 */
static void a_write_meets_an_empty_server(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 16M"), *other;
	struct liar *liar;
	pthread_t thread;
	uint64_t held_ms;

	other = liar_run(n, 1, 16 << 20, &liar);
	nbd_open(n, "uri=%s,uri2=%s,mirror=2," NEVER ",connections=1", s->uri, other->uri);
	moving = map_filled(NR, 24);
	atomic_store(&liar->holds, true);
	assert_int_equal(pthread_create(&thread, NULL, move_in, n), 0);
	assert_true(eventually(atomic_load(&liar->held)));
	held_ms = clock_ms();
	/* The first has answered long ago. If not, this shows less. */
	usleep(200000);
	server_kill(s);
	assert_true(eventually(nbd_said(n, "lost")));
	server_again(s);
	assert_true(eventually(nbd_said(n, "is back")));
	/* After 5 s of silence the link has dropped the other by itself, which may be too early. */
	n->w->may_lose = clock_ms() - held_ms >= 4000;
	server_kill(other);
	pthread_join(thread, NULL);
	if (!n->w->may_lose)
		assert_holds(moving, NR, 24, 0);
	munmap(moving, NR * page);
}

/* The program goes on writing while pages are copied to the server that came back. */
static void a_refill_under_writes(void **state)
{
	struct nbd_world *n = *state;
	unsigned char *p = mirrored(n, 5), *q = NULL;
	uint32_t seed = 100;

	server_kill(&n->server[0]);
	assert_int_equal(touch_read(p), 0);
	assert_true(eventually(nbd_said(n, "lost")));
	server_again(&n->server[0]);
	do {
		if (q)
			munmap(q, NR * page);
		q = map_filled(NR, ++seed);
		nbd_move_in(n, q, NR);
	} while (!nbd_said(n, "refilled") && seed < 1000);
	assert_true(eventually(nbd_said(n, "refilled")));
	server_kill(&n->server[1]);
	assert_holds(q, NR, seed, 0);
	assert_holds(p, NR, 5, 0);
	munmap(p, NR * page);
	munmap(q, NR * page);
}

static struct server *on_disk(struct nbd_world *n, int nr)
{
	char words[256];

	snprintf(words, sizeof(words), "truncate -s 16M %s/disk%d", n->folder, nr);
	assert_int_equal(system(words), 0);
	snprintf(words, sizeof(words), "file %s/disk%d", n->folder, nr);
	return server_run(n, nr, words);
}

static void *read_page(void *arg)
{
	return (void *)(uintptr_t)touch_read(arg);
}

/* Without a mirror a fault waits for the server; back with its memory, nothing is lost. */
static void a_fault_waits_for_its_server(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = on_disk(n, 0);
	pthread_t thread;
	unsigned char *p;
	void *sig;

	nbd_open(n, "uri=%s,timeout=20", s->uri);
	p = map_filled(NR, 6);
	nbd_move_in(n, p, NR);
	server_kill(s);
	assert_int_equal(pthread_create(&thread, NULL, read_page, p), 0);
	assert_true(eventually(nbd_said(n, "lost")));
	assert_at(n->w, p, NR, HMM_PLACE_DEVICE);
	server_again(s);
	pthread_join(thread, &sig);
	assert_null(sig);
	assert_holds(p, NR, 6, 0);
	munmap(p, NR * page);
}

/* That a write failed, long ago, does not count as time that its server was away. */
static void a_failed_write_shortens_no_wait(void **state)
{
	struct nbd_world *n = *state;
	char words[320], full[128];
	unsigned char *p, *q;
	struct server *s;
	pthread_t thread;
	void *sig;

	snprintf(full, sizeof(full), "%s/full", n->folder);
	snprintf(words, sizeof(words), "truncate -s 16M %s/disk0", n->folder);
	assert_int_equal(system(words), 0);
	snprintf(words, sizeof(words), "--filter=error file %s/disk0 error-pwrite=ENOSPC "
		 "error-pwrite-rate=100%% error-pwrite-file=%s", n->folder, full);
	s = server_run(n, 0, words);
	nbd_open(n, "uri=%s,timeout=4,connections=1", s->uri);
	p = map_filled(NR, 21);
	q = map_filled(NR, 22);
	nbd_move_in(n, p, NR);
	assert_int_equal(close(creat(full, 0600)), 0);
	IGNORE(nbd_try_move_in(n, q, NR));
	assert_at(n->w, q, NR, HMM_PLACE_SYSTEM);
	assert_int_equal(unlink(full), 0);
	/* Longer than the timeout: it would have been up before the server is away. */
	usleep(4500000);
	server_kill(s);
	assert_int_equal(pthread_create(&thread, NULL, read_page, p), 0);
	assert_true(eventually(nbd_said(n, "lost")));
	server_again(s);
	pthread_join(thread, &sig);
	assert_null(sig);
	assert_holds(p, NR, 21, 0);
	assert_holds(q, NR, 22, 0);
	munmap(p, NR * page);
	munmap(q, NR * page);
}

/* When it does not come back the wait ends, in SIGBUS and a report; all else goes on. */
static void a_lost_server_costs_its_pages(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 16M");
	unsigned char *p, *q = map_filled(NR, 8);
	uint64_t killed_ms;

	n->w->may_lose = true;
	nbd_open(n, "uri=%s,timeout=3,fault_around=1", s->uri);
	p = map_filled(NR, 7);
	nbd_move_in(n, p, NR);
	killed_ms = clock_ms();
	server_kill(s);
	assert_int_equal(touch_read(p + page), SIGBUS);
	assert_true(clock_ms() - killed_ms >= 900);
	assert_true(nbd_said(n, "lost"));
	assert_true(moved(n->w, lost_pages) == 1);
	/* The next ones know already: a second for each would be more than there is. */
	for (size_t i = 2; i < NR / 2; i++)
		assert_int_equal(touch_read(p + i * page), SIGBUS);
	assert_holds(q, NR, 8, 0);
	/* To a server that is away nothing is given. */
	assert_int_equal(nbd_try_move_in(n, q, NR), 0);
	assert_holds(q, NR, 8, 0);
	/* Nor does closing wait for each page. */
	assert_int_equal(nbd_close_device(n), -EIO);
	munmap(p, NR * page);
	munmap(q, NR * page);
}

/* Faults on a server that is silent keep nobody else: more of them than there are handlers. */
static void waiting_faults_keep_nobody(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 16M");
	pthread_t threads[24];
	unsigned char *p, *q;
	struct testdev *dev;
	void *sig;

	nbd_open(n, "uri=%s,timeout=20", s->uri);
	p = map_filled(NR, 9);
	nbd_move_in(n, p, NR);
	dev = testdev_new(n->w->mm, 64, world_owner_a, HMM_DEVMEM_FAULT_SAFE);
	q = map_filled(64, 10);
	server_stop(s);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_page, p + i * page), 0);
	/* Another device's faults, again and again, while those wait. */
	for (int round = 0; round < 20; round++) {
		to_device(n->w, dev, q, 64);
		assert_holds(q, 64, 10, 0);
	}
	server_go_on(s);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
		pthread_join(threads[i], &sig);
		assert_null(sig);
	}
	assert_int_equal(testdev_remove(dev), 0);
	assert_holds(p, NR, 9, 0);
	munmap(p, NR * page);
	munmap(q, 64 * page);
}

/* A server that comes back empty, and no mirror: a signal, never its zeros. */
static void an_empty_server_gives_no_zeros(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 16M");
	unsigned char *p;

	n->w->may_lose = true;
	nbd_open(n, "uri=%s,timeout=20", s->uri);
	p = map_filled(NR, 11);
	nbd_move_in(n, p, NR);
	server_kill(s);
	server_again(s);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(touch_read(p + i * page), SIGBUS);
	assert_true(eventually(nbd_said(n, "are lost")));
	/* The device goes on with what the server has now. */
	munmap(p, NR * page);
	p = map_filled(NR, 12);
	nbd_move_in(n, p, NR);
	assert_holds(p, NR, 12, 0);
	munmap(p, NR * page);
}

/* One answer in five is an error: reads are asked again, writes that fail stay in RAM. */
static void errors_now_and_then(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "--filter=error memory 16M error-pread-rate=20% "
					    "error-pwrite-rate=20% error-file=/dev/null");
	unsigned char *p;

	/* The identity's own read and write may fail, too. */
	assert_true(eventually(!nbd_try_open(n, "uri=%s,timeout=20", s->uri)));
	p = map_filled(NR, 13);
	for (int round = 0; round < 4; round++) {
		IGNORE(nbd_try_move_in(n, p, NR));
		assert_holds(p, NR, 13, 0);
	}
	/* A server that answers with an error has not lost anything. */
	assert_false(nbd_said(n, "without its memory"));
	munmap(p, NR * page);
}

/* Whatever one of two servers says, the other's copy is the program's. */
static void a_mirror_beside_a_liar(void **state)
{
	struct nbd_world *n = *state;

	for (int lie = NONSENSE; lie < LIES; lie++) {
		struct liar *liar;
		struct server *s = liar_run(n, 0, 16 << 20, &liar);
		struct server *other = server_run(n, 1, "memory 16M");
		unsigned char *p;

		nbd_open(n, "uri=%s,uri2=%s,mirror=2,timeout=4,fault_around=4", s->uri,
			 other->uri);
		p = map_filled(NR, (uint32_t)lie);
		nbd_move_in(n, p, NR);
		atomic_store(&liar->late_ms, 20);
		atomic_store(&liar->lie, (uint32_t)lie);
		assert_holds(p, NR, (uint32_t)lie, 0);
		if (!atomic_load(&liar->lied))
			fail_msg("%s: never asked", lie_names[lie]);
		munmap(p, NR * page);
		assert_int_equal(nbd_close_device(n), 0);
		server_kill(s);
		server_kill(other);
	}
}

/* Alone, a liar costs the pages that are read while it lies: a signal, no wrong byte. */
static void a_liar_alone(void **state)
{
	struct nbd_world *n = *state;

	n->w->may_lose = true;
	for (int lie = NONSENSE; lie < LIES; lie++) {
		struct liar *liar;
		struct server *s = liar_run(n, 0, 16 << 20, &liar);
		unsigned char *p;
		size_t i = 64;
		int sig;

		nbd_open(n, "uri=%s,timeout=3,fault_around=1", s->uri);
		p = map_filled(NR, (uint32_t)lie);
		nbd_move_in(n, p, NR);
		atomic_store(&liar->late_ms, 50);
		atomic_store(&liar->lie, (uint32_t)lie);
		sig = touch_read(p);
		if ((lie == LATE || lie == HALVES) && !sig)
			assert_holds(p, 1, (uint32_t)lie, 0);
		else if (sig != SIGBUS)
			fail_msg("%s: signal %d", lie_names[lie], sig);
		atomic_store(&liar->lie, HONEST);
		/* Once it is honest and connected again the rest is as it was. */
		while (i < NR && touch_read(p + i * page))
			i++;
		assert_true(i < NR);
		for (; i < NR; i++)
			if (!touch_read(p + i * page))
				assert_holds(p + i * page, 1, (uint32_t)lie, i);
		munmap(p, NR * page);
		IGNORE(nbd_close_device(n));
		server_kill(s);
	}
}

/* encrypt=on: a server that hands out other ciphertext is found out before anybody reads. */
static void an_encrypted_page_cannot_be_changed(void **state)
{
	struct nbd_world *n = *state;
	struct liar *liar;
	struct server *s = liar_run(n, 0, 16 << 20, &liar);
	unsigned char *p;

	n->w->may_lose = true;
	nbd_open(n, "uri=%s,timeout=5,encrypt=on", s->uri);
	p = map_filled(NR, 14);
	nbd_move_in(n, p, NR);
	atomic_store(&liar->lie, WRONG_BYTES);
	assert_int_equal(touch_read(p), SIGBUS);
	atomic_store(&liar->lie, HONEST);
	assert_holds(p + page, NR - 1, 14, 1);
	munmap(p, NR * page);
}

/* The process that holds the connections of this one; 0: there is none. */
static pid_t link_of(pid_t program)
{
	struct dirent *entry;
	DIR *dir = opendir("/proc");
	pid_t found = 0;

	while (!found && (entry = readdir(dir))) {
		char path[300], line[256];
		int pid = 0;
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (!fgets(line, sizeof(line), f) || strncmp(line, "uhmm-nbd-link", 13) != 0)
			line[0] = '\0';
		fclose(f);
		if (!line[0])
			continue;
		snprintf(path, sizeof(path), "/proc/%s/fdinfo/4", entry->d_name);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f))
			if (sscanf(line, "Pid: %d", &pid) == 1 && pid == program)
				found = (pid_t)strtol(entry->d_name, NULL, 10);
		if (f)
			fclose(f);
	}
	closedir(dir);
	return found;
}

/* Descriptors of ours that are sockets: of those that the driver reads from, and one more. */
static int sockets(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	int nr = 0;

	while ((entry = readdir(dir))) {
		char path[300], target[64] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
		if (readlink(path, target, sizeof(target) - 1) > 0)
			nr += !strncmp(target, "socket:", 7);
	}
	closedir(dir);
	return nr;
}

static void send_link(int sig)
{
	pid_t pid = link_of(getpid());

	assert_true(pid > 0);
	kill(pid, sig);
}

/* One answer, of each chunk's first at most, is kept back; how many reads ended all the same. */
static size_t reads_beside_a_silent_one(struct nbd_world *n, struct server *s, struct liar *liar)
{
	unsigned char *p = map_filled(NR, 25), *q = map_filled(NR, 26);
	const uint64_t until = clock_ms() + 40000;
	pthread_t threads[4];
	size_t done = 0;
	void *sig;

	nbd_move_in(n, p, NR);
	atomic_store(&liar->lied, 0);
	atomic_store(&liar->lie, SILENCE);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_page, p + i * NR / 4 * page),
				 0);
	assert_true(eventually(atomic_load(&liar->lied)));
	atomic_store(&liar->lie, HONEST);
	while (done < ARRAY_LEN(threads) && clock_ms() < until) {
		nbd_move_in(n, q, NR);
		assert_holds(q, NR, 26, 0);
		while (done < ARRAY_LEN(threads) && !pthread_tryjoin_np(threads[done], &sig)) {
			assert_null(sig);
			done++;
		}
	}
	/* For the others to end. */
	if (done < ARRAY_LEN(threads))
		server_kill(s);
	for (size_t i = done; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	if (done == ARRAY_LEN(threads))
		assert_holds(p, NR, 25, 0);
	munmap(p, NR * page);
	munmap(q, NR * page);
	return done;
}

/* A read that is never answered has an end, though its connection is busy with others. */
static void an_answer_that_is_kept_back(void **state)
{
	struct nbd_world *n = *state;
	struct liar *liar;
	struct server *s = liar_run(n, 0, 16 << 20, &liar);
	struct server *other = server_run(n, 1, "memory 16M");
	int before;

	/* Of the link; the mirror has it. */
	nbd_open(n, "uri=%s,uri2=%s,mirror=2,timeout=8,connections=1,encrypt=on,fault_around=1",
		 s->uri, other->uri);
	assert_int_equal(reads_beside_a_silent_one(n, s, liar), 4);
	assert_int_equal(nbd_close_device(n), 0);
	/* On a lane; the link asks again. */
	before = sockets();
	nbd_open(n, "uri=%s,timeout=8,fault_around=1", s->uri);
	assert_true(eventually(sockets() == before + 4));
	assert_int_equal(reads_beside_a_silent_one(n, s, liar), 4);
}

/* Where it is plain, pages come home without the link; to it falls what goes wrong. */
static void pages_come_home_by_lanes(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 16M");

	for (int around = 0; around < 2; around++) {
		int before = sockets();
		unsigned char *p;

		/* One for pages alone, and more than there are movers at work. */
		nbd_open(n, "uri=%s,connections=8," NEVER ",fault_around=%d", s->uri, around);
		assert_true(eventually(sockets() == before + 5));
		p = map_filled(NR, 17);
		nbd_move_in(n, p, NR);
		send_link(SIGSTOP);
		assert_holds(p, NR, 17, 0);
		send_link(SIGCONT);
		munmap(p, NR * page);
		assert_int_equal(nbd_close_device(n), 0);
	}
}

struct part {
	pthread_t thread;
	unsigned char *p;
	size_t first, nr;
	bool right;
};

static void *read_part(void *arg)
{
	struct part *part = arg;

	part->right = true;
	for (size_t i = part->first; i < part->first + part->nr; i++)
		part->right &= holds(part->p + i * page, 1, 20, i);
	return NULL;
}

/* How many have read what is right. The link goes on if they hang, for the test to end. */
static size_t join_or_go_on(struct part *parts, size_t nr)
{
	size_t right = 0;

	for (size_t j = 0; j < nr; j++) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 20;
		if (pthread_timedjoin_np(parts[j].thread, NULL, &until)) {
			send_link(SIGCONT);
			pthread_join(parts[j].thread, NULL);
			parts[j].right = false;
		}
		right += parts[j].right;
	}
	return right;
}

/* Whoever waits for an answer that is slow, or comes in pieces, gets it; by lanes alone. */
static void slow_answers_come_by_lanes(void **state)
{
	static const enum lie lies[] = { HONEST, LATE, HALVES };
	struct nbd_world *n = *state;
	struct liar *liar;
	struct server *s = liar_run(n, 0, 16 << 20, &liar);
	int before = sockets();

	nbd_open(n, "uri=%s," NEVER ",fault_around=1", s->uri);
	assert_true(eventually(sockets() == before + 4));
	for (size_t nr = 1; nr <= 16; nr *= 4) {
		for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
			unsigned char *p = map_filled(NR, 20);
			struct part parts[16];
			size_t right;

			nbd_move_in(n, p, NR);
			atomic_store(&liar->late_ms, 1);
			atomic_store(&liar->lie, (uint32_t)lies[i]);
			send_link(SIGSTOP);
			for (size_t j = 0; j < nr; j++) {
				parts[j] = (struct part){ .p = p, .first = j * (NR / nr),
							  .nr = NR / nr };
				assert_int_equal(pthread_create(&parts[j].thread, NULL, read_part,
								&parts[j]), 0);
			}
			right = join_or_go_on(parts, nr);
			send_link(SIGCONT);
			atomic_store(&liar->lie, HONEST);
			munmap(p, NR * page);
			assert_int_equal(right, nr);
			assert_int_equal(sockets(), before + 4);
		}
	}
}

/* A server that comes back has lanes again, and no page has missed them. */
static void lanes_are_made_again(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = on_disk(n, 0);
	unsigned char *p;
	int before = sockets();

	nbd_open(n, "uri=%s,timeout=20,fault_around=1", s->uri);
	assert_true(eventually(sockets() == before + 4));
	p = map_filled(NR, 18);
	nbd_move_in(n, p, NR);
	for (int round = 0; round < 3; round++) {
		server_kill(s);
		server_again(s);
		assert_holds(p, NR, 18, 0);
		assert_true(eventually(sockets() == before + 4));
		nbd_move_in(n, p, NR);
	}
	munmap(p, NR * page);
}

/*
 * nbdkit 1.32 now and then ends by an assertion of its own where a connection goes while it
 * answers; then it is started again, with what it has on disk, until @reader has read.
 */
static void *join_serving(struct server *s, pthread_t reader)
{
	void *sig;

	while (pthread_tryjoin_np(reader, &sig) == EBUSY) {
		if (waitpid(s->pid, NULL, WNOHANG) == s->pid)
			server_again(s);
		sched_yield();
	}
	return sig;
}

/* The first signal, or NULL. */
static void *read_pages(void *arg)
{
	unsigned char *p = arg;
	int sig = 0;

	for (size_t i = 0; i < NR && !sig; i++)
		sig = touch_read(p + i * page);
	return (void *)(intptr_t)sig;
}

/* A program that was stopped for longer than the timeout has not waited for its server. */
static void a_stopped_program_has_not_waited(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = on_disk(n, 0);
	pthread_t thread;
	char words[128];
	unsigned char *p;

	if (strict()) {
		print_message("          not here: in a strict mm who wakes us is answered by us\n");
		skip();
	}
	nbd_open(n, "uri=%s,timeout=4,fault_around=1", s->uri);
	p = map_filled(NR, 19);
	nbd_move_in(n, p, NR);
	server_stop(s);
	assert_int_equal(pthread_create(&thread, NULL, read_pages, p), 0);
	snprintf(words, sizeof(words), "kill -STOP %d; sleep 5; kill -CONT %d %d", (int)getpid(),
		 (int)s->pid, (int)getpid());
	assert_int_equal(system(words), 0);
	assert_null(join_serving(s, thread));
	assert_holds(p, NR, 19, 0);
	munmap(p, NR * page);
}

/* The link dies: what only it could read is lost and says so, and nothing hangs. */
static void the_link_is_killed(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 16M");
	unsigned char *p;

	n->w->may_lose = true;
	nbd_open(n, "uri=%s,encrypt=on," NEVER, s->uri);
	p = map_filled(NR, 15);
	nbd_move_in(n, p, NR);
	send_link(SIGKILL);
	assert_int_equal(touch_read(p), SIGBUS);
	assert_true(nbd_said(n, "has ended"));
	assert_int_equal(nbd_close_device(n), -EIO);
	munmap(p, NR * page);
	/* A new one works. */
	nbd_open(n, "uri=%s", s->uri);
	p = map_filled(NR, 16);
	nbd_move_in(n, p, NR);
	assert_holds(p, NR, 16, 0);
	munmap(p, NR * page);
}

/* It dies while freed pages are being trimmed, by who else would have noticed. */
static void the_link_is_killed_in_a_trim(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run(n, 0, "memory 16M");
	unsigned char *p, *q;

	n->w->may_lose = true;
	nbd_open(n, "uri=%s,encrypt=on," NEVER, s->uri);
	p = map_filled(NR, 15);
	q = map_filled(NR, 16);
	nbd_move_in(n, p, NR);
	nbd_move_in(n, q, NR);
	send_link(SIGSTOP);
	munmap(q, NR * page);
	/* Freed pages settle for a tenth of it. If no trim waits by then, this shows less. */
	usleep(1000000);
	send_link(SIGKILL);
	assert_int_equal(touch_read(p), SIGBUS);
	assert_true(eventually(nbd_said(n, "has ended")));
	assert_int_equal(nbd_close_device(n), -EIO);
	munmap(p, NR * page);
}

static _Atomic pid_t *left_behind;

static int open_and_leave(void *arg)
{
	struct nbd_world *n = arg;
	HMM_OPTS(hmm_mm_opts, opts, .flags = strict() ? HMM_MM_STRICT : 0);

	if (hmm_mm_create(&opts, &n->w->mm) || nbd_try_open(n, "uri=%s", n->server[0].uri))
		return 1;
	*left_behind = link_of(getpid());
	return *left_behind ? 0 : 1;
}

/* A program that ends without a word takes its link along. */
static void the_link_ends_with_its_program(void **state)
{
	struct nbd_world *n = *state, *child;
	char path[32], target[8];

	if (strict()) {
		print_message("          not here: a strict process has no child with a strict mm of its own\n");
		skip();
	}
	server_run(n, 0, "memory 16M");
	child = calloc(1, sizeof(*child));
	*child = *n;
	child->w = calloc(1, sizeof(*child->w));
	child->open = false;
	left_behind = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(left_behind, MAP_FAILED);
	assert_int_equal(in_child(open_and_leave, child), 0);
	snprintf(path, sizeof(path), "/proc/%d/exe", (int)*left_behind);
	assert_true(eventually(readlink(path, target, sizeof(target)) < 0));
	munmap((void *)left_behind, page);
	free(child->w);
	free(child);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		nbd_test(a_mirror_hides_a_lost_server),
		nbd_test(a_mirror_is_refilled),
		nbd_test(writes_while_one_is_away),
		nbd_test(writes_before_the_first_connection),
		nbd_test(a_write_meets_an_empty_server),
		nbd_test(a_refill_under_writes),
		nbd_test(a_fault_waits_for_its_server),
		nbd_test(a_failed_write_shortens_no_wait),
		nbd_test(a_lost_server_costs_its_pages),
		nbd_test(waiting_faults_keep_nobody),
		nbd_test(an_empty_server_gives_no_zeros),
		nbd_test(errors_now_and_then),
		nbd_test(a_mirror_beside_a_liar),
		nbd_test(a_liar_alone),
		nbd_test(an_encrypted_page_cannot_be_changed),
		nbd_test(an_answer_that_is_kept_back),
		nbd_test(pages_come_home_by_lanes),
		nbd_test(slow_answers_come_by_lanes),
		nbd_test(lanes_are_made_again),
		nbd_test(a_stopped_program_has_not_waited),
		nbd_test(the_link_is_killed),
		nbd_test(the_link_is_killed_in_a_trim),
		nbd_test(the_link_ends_with_its_program),
	};
	int rounds = getenv("UHMM_TEST_LONG") ? 50 : 1, failed = 0;

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	need_nbd();
	for (int i = 0; i < rounds && !failed; i++)
		failed = cmocka_run_group_tests_name("nbd_failure", tests, nbd_world_begin,
						     nbd_world_end);
	return failed;
}
