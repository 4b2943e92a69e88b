/* SPDX-License-Identifier: MIT */
/*
 * Messages with descriptors, from whoever may have sent them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "sys/message.h"

#define NR	12u

/* Whoever sends more than are expected overruns nothing, and leaves none here. */
static void too_many_descriptors_are_closed(void **state)
{
	char control[CMSG_SPACE(NR * sizeof(int))] = { 0 };
	struct iovec part = { .iov_base = (char[]){ "?" }, .iov_len = 1 };
	struct msghdr head = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control };
	struct sys_message msg = { .data = (char[1]){ 0 }, .len = 1 };
	struct cmsghdr *c;
	int socks[2], fds[NR], next;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks), 0);
	for (size_t i = 0; i < NR; i++)
		fds[i] = socks[0];
	next = dup(socks[0]);
	close(next);
	for (size_t nr = 1; nr <= NR; nr++) {
		head.msg_controllen = CMSG_SPACE(nr * sizeof(int));
		c = CMSG_FIRSTHDR(&head);
		*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
				       .cmsg_len = CMSG_LEN(nr * sizeof(int)) };
		memcpy(CMSG_DATA(c), fds, nr * sizeof(int));
		assert_int_equal(sendmsg(socks[0], &head, 0), 1);
		assert_int_equal(sys_socket_recv(socks[1], &msg),
				 nr <= SYS_SOCKET_FDS ? 0 : -EMSGSIZE);
		assert_int_equal(msg.nr_fds, nr <= SYS_SOCKET_FDS ? nr : 0);
		while (msg.nr_fds)
			close(msg.fds[--msg.nr_fds]);
		fds[0] = dup(socks[0]);
		assert_int_equal(fds[0], next);
		close(fds[0]);
		fds[0] = socks[0];
	}
	close(socks[0]);
	close(socks[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(too_many_descriptors_are_closed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
