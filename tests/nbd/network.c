/* SPDX-License-Identifier: MIT */
/*
 * A network that is cut, slow and lossy: in a network namespace of this program's own,
 * with nbdkit on TCP over its loopback device. The first argument chooses: "cut" takes the
 * device down and up, "netem" delays and loses packets. Where the kernel has no netem, the
 * server delays its answers, each by itself, so that they come out of order.
 */
#define _GNU_SOURCE
#include "servers.h"

#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define NR	256
#define PORT	10809

static bool loopback(bool up)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), ret;

	ret = ioctl(fd, SIOCGIFFLAGS, &ifr);
	if (up)
		ifr.ifr_flags |= IFF_UP;
	else
		ifr.ifr_flags &= (short)~IFF_UP;
	ret |= ioctl(fd, SIOCSIFFLAGS, &ifr);
	close(fd);
	return !ret;
}

static struct server *tcp_server(struct nbd_world *n)
{
	return server_run_tcp(n, 0, PORT, "memory 64M");
}

static void *read_all(void *arg)
{
	return (void *)(uintptr_t)holds(arg, NR, 1, 0);
}

/* The link is cut in silence under a reading program, and mended: it goes on, all is right. */
static void a_cut_link_is_waited_for(void **state)
{
	struct nbd_world *n = *state;
	pthread_t thread;
	unsigned char *p;
	void *right;

	nbd_open(n, "uri=%s,timeout=20,fault_around=1", tcp_server(n)->uri);
	p = map_filled(NR, 1);
	nbd_move_in(n, p, NR);
	assert_true(loopback(false));
	assert_int_equal(pthread_create(&thread, NULL, read_all, p), 0);
	assert_true(eventually(nbd_said(n, "lost")));
	assert_true(loopback(true));
	pthread_join(thread, &right);
	assert_non_null(right);
	munmap(p, NR * page);
}

/* It stays cut: after the timeout the pages are lost, in so many words. */
static void a_cut_link_ends_in_a_signal(void **state)
{
	struct nbd_world *n = *state;
	unsigned char *p;
	uint64_t cut_ms;

	n->w->may_lose = true;
	nbd_open(n, "uri=%s,timeout=2,fault_around=1", tcp_server(n)->uri);
	p = map_filled(NR, 1);
	nbd_move_in(n, p, NR);
	cut_ms = clock_ms();
	assert_true(loopback(false));
	assert_int_equal(touch_read(p), SIGBUS);
	assert_true(clock_ms() - cut_ms >= 1900);
	assert_int_equal(nbd_close_device(n), -EIO);
	assert_true(loopback(true));
	munmap(p, NR * page);
}

/* Milliseconds of delay and one packet in a hundred lost: slower, and right. */
static void delay_and_loss(void **state)
{
	struct nbd_world *n = *state;
	unsigned char *p;

	nbd_open(n, "uri=%s,timeout=20", tcp_server(n)->uri);
	p = map_filled(4 * NR, 1);
	for (int round = 0; round < 3; round++) {
		IGNORE(nbd_try_move_in(n, p, 4 * NR));
		assert_holds(p, 4 * NR, 1, 0);
	}
	munmap(p, 4 * NR * page);
}

/* Answers that take their time, over more connections than one: slower, and right. */
static void late_answers(void **state)
{
	struct nbd_world *n = *state;
	struct server *s = server_run_tcp(n, 0, PORT, "--filter=delay memory 64M rdelay=20ms "
						       "wdelay=20ms delay-trim=50ms");
	unsigned char *p, *q;

	for (int around = 0; around < 2; around++) {
		nbd_open(n, "uri=%s,timeout=20,fault_around=%d", s->uri, around);
		p = map_filled(NR / 4, 1);
		q = map_filled(NR, 2);
		nbd_move_in(n, p, NR / 4);
		nbd_move_in(n, q, NR);
		/* Trimmed late, while the next are written. */
		munmap(q, NR * page);
		q = map_filled(NR, 3);
		nbd_move_in(n, q, NR);
		assert_holds(p, NR / 4, 1, 0);
		assert_holds(q + page, 16, 3, 1);
		munmap(p, NR / 4 * page);
		munmap(q, NR * page);
	}
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest cut[] = {
		nbd_test(a_cut_link_is_waited_for),
		nbd_test(a_cut_link_ends_in_a_signal),
		nbd_test(late_answers),
	};
	static const struct CMUnitTest netem[] = {
		nbd_test(delay_and_loss),
	};
	bool lossy = argc > 1 && !strcmp(argv[1], "netem");

	need_nbd();
	if (unshare(CLONE_NEWNET) || !loopback(true))
		skip_program("a network namespace of our own needs privileges");
	if (!lossy)
		return cmocka_run_group_tests_name("nbd_cut", cut, nbd_world_begin, nbd_world_end);
	if (system("tc qdisc add dev lo root netem delay 2ms 1ms loss 1% 2>/dev/null"))
		skip_program("this kernel has no netem, or tc is not installed");
	return cmocka_run_group_tests_name("nbd_netem", netem, nbd_world_begin, nbd_world_end);
}
