// SPDX-License-Identifier: MIT
#include "message.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "sys/raw.h"

union fds_room {
	struct cmsghdr head;
	char room[CMSG_SPACE(MESSAGE_FDS * sizeof(int))];
};

int message_connect(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	long sock, ret;

	for (size_t i = 0; path[i]; i++) {
		if (i + 1 >= sizeof(addr.sun_path))
			return -36;	/* ENAMETOOLONG */
		addr.sun_path[i] = path[i];
	}
	sock = sys_raw(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, 0, 0, 0);
	if (sock < 0)
		return (int)sock;
	do {
		ret = sys_raw(SYS_connect, sock, (long)&addr, sizeof(addr), 0, 0, 0);
	} while (ret == -4);	/* EINTR */
	if (ret < 0) {
		sys_raw(SYS_close, sock, 0, 0, 0, 0, 0);
		return (int)ret;
	}
	return (int)sock;
}

int message_send(int sock, const void *data, size_t len, int fd)
{
	struct iovec part = { .iov_base = (void *)data, .iov_len = len };
	struct msghdr head = { .msg_iov = &part, .msg_iovlen = 1 };
	union fds_room control = { 0 };
	long ret;

	if (fd >= 0) {
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(sizeof(int));
		*(int *)CMSG_DATA(&control.head) = fd;
		head.msg_control = &control;
		head.msg_controllen = CMSG_SPACE(sizeof(int));
	}
	do {
		ret = sys_raw(SYS_sendmsg, sock, (long)&head, MSG_NOSIGNAL, 0, 0, 0);
	} while (ret == -4);
	return ret < 0 ? (int)ret : 0;
}

int message_recv(int sock, void *data, size_t len, int fds[MESSAGE_FDS])
{
	struct iovec part = { .iov_base = data, .iov_len = len };
	union fds_room control = { 0 };
	struct msghdr head = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	long ret;

	for (unsigned int i = 0; i < MESSAGE_FDS; i++)
		fds[i] = -1;
	do {
		ret = sys_raw(SYS_recvmsg, sock, (long)&head, MSG_CMSG_CLOEXEC, 0, 0, 0);
	} while (ret == -4);
	if (ret <= 0 || head.msg_controllen < CMSG_LEN(sizeof(int)) ||
	    control.head.cmsg_type != SCM_RIGHTS)
		return (int)ret;
	for (unsigned int i = 0; i < MESSAGE_FDS; i++)
		if (control.head.cmsg_len >= CMSG_LEN((i + 1) * sizeof(int)))
			fds[i] = ((int *)CMSG_DATA(&control.head))[i];
	return (int)ret;
}
