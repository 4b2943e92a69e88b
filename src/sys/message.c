// SPDX-License-Identifier: MIT
#include "sys/message.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "sys/internal.h"
#include "sys/process.h"
#include "sys/sys.h"

union fds_room {
	struct cmsghdr head;
	char room[CMSG_SPACE(SYS_SOCKET_FDS * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
};

int sys_socket_pair(int socks[2])
{
	return (int)sys_ret(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks));
}

/* ---------------------------------------------------------------- listening */

static int name_in(const char *parent, uint64_t number, char *path, size_t size)
{
	int len;

	if (!parent || parent[0] != '/' || !sys_preload_names(parent) || access(parent, W_OK | X_OK))
		return -ENOENT;
	len = snprintf(path, size, "%s/uhmm-%016llx", parent, (unsigned long long)number);
	return len < 0 || (size_t)len >= size ? -ENAMETOOLONG : 0;
}

int sys_private_dir_name(char *path, size_t size)
{
	uint64_t number;
	int ret = sys_random(&number, sizeof(number));

	if (ret)
		return ret;
	if (!name_in(getenv("XDG_RUNTIME_DIR"), number, path, size) ||
	    !name_in(getenv("TMPDIR"), number, path, size))
		return 0;
	return name_in("/tmp", number, path, size);
}

int sys_private_dir(const char *path)
{
	return (int)sys_ret(mkdir(path, 0700));
}

static void dirs_in(const char *parent, void (*fn)(void *ctx, const char *path), void *ctx)
{
	const struct dirent *entry;
	struct stat st;
	char path[PATH_MAX];
	DIR *dir;

	if (!parent || parent[0] != '/')
		return;
	dir = opendir(parent);
	while (dir && (entry = readdir(dir))) {
		if (strncmp(entry->d_name, "uhmm-", 5) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", parent, entry->d_name);
		if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid())
			fn(ctx, path);
	}
	if (dir)
		closedir(dir);
}

void sys_private_dirs(void (*fn)(void *ctx, const char *path), void *ctx)
{
	const char *run = getenv("XDG_RUNTIME_DIR"), *tmp = getenv("TMPDIR");

	dirs_in(run, fn, ctx);
	if (tmp && (!run || strcmp(tmp, run) != 0))
		dirs_in(tmp, fn, ctx);
	if ((!run || strcmp(run, "/tmp") != 0) && (!tmp || strcmp(tmp, "/tmp") != 0))
		dirs_in("/tmp", fn, ctx);
}

int sys_private_dir_remove(const char *path)
{
	return (int)sys_ret(rmdir(path));
}

void sys_unlink(const char *path)
{
	unlink(path);
}

int sys_link_to(const char *target, const char *path)
{
	return (int)sys_ret(symlink(target, path));
}

uid_t sys_uid(void)
{
	return geteuid();
}

/* A socket, and the address of @path. */
static int socket_for(const char *path, struct sockaddr_un *addr)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(addr->sun_path))
		return -ENAMETOOLONG;
	memcpy(addr->sun_path, path, strlen(path) + 1);
	return (int)sys_ret(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

int sys_socket_connect(const char *path)
{
	struct sockaddr_un addr;
	int fd = socket_for(path, &addr);
	int ret;

	if (fd < 0)
		return fd;
	ret = (int)sys_ret(connect(fd, (struct sockaddr *)&addr, sizeof(addr)));
	if (!ret)
		return fd;
	close(fd);
	return ret;
}

int sys_socket_listen(const char *path)
{
	struct sockaddr_un addr;
	int fd = socket_for(path, &addr);
	int one = 1, ret;

	if (fd < 0)
		return fd;
	ret = (int)sys_ret(bind(fd, (struct sockaddr *)&addr, sizeof(addr)));
	if (!ret)
		ret = (int)sys_ret(listen(fd, SOMAXCONN));
	/* Inherited by what is accepted: from the first message on the sender is told. */
	if (!ret)
		ret = (int)sys_ret(setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
	if (ret) {
		close(fd);
		return ret;
	}
	return fd;
}

int sys_socket_accept(int listener, pid_t *pid, uid_t *uid)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int one = 1;
	int fd, ret;

	do {
		fd = (int)sys_ret(accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
	} while (fd == -EINTR);
	if (fd < 0)
		return fd;
	ret = (int)sys_ret(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len));
	if (!ret)
		ret = (int)sys_ret(setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
	if (ret) {
		close(fd);
		return ret;
	}
	*pid = peer.pid;
	*uid = peer.uid;
	return fd;
}

/* ---------------------------------------------------------------- messages */

int sys_socket_send(int sock, const struct sys_message *msg)
{
	union fds_room control;
	struct iovec part = { .iov_base = msg->data, .iov_len = msg->len };
	struct msghdr head = { .msg_iov = &part, .msg_iovlen = 1 };
	const size_t bytes = msg->nr_fds * sizeof(int);
	long ret;

	if (msg->nr_fds) {
		memset(&control, 0, sizeof(control));
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(bytes);
		memcpy(CMSG_DATA(&control.head), msg->fds, bytes);
		head.msg_control = &control;
		head.msg_controllen = CMSG_SPACE(bytes);
	}
	do {
		ret = sys_ret(sendmsg(sock, &head, MSG_NOSIGNAL));
	} while (ret == -EINTR);
	return ret < 0 ? (int)ret : 0;
}

/*
 * The room is enough for more of them than are expected, where the sender is not told: what
 * is too many is closed. False, then.
 */
static bool take_fds(const struct cmsghdr *c, struct sys_message *msg)
{
	const unsigned int nr = (unsigned int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	int fd;

	for (unsigned int i = 0; i < nr; i++) {
		memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
		if (msg->nr_fds < SYS_SOCKET_FDS)
			msg->fds[msg->nr_fds++] = fd;
		else
			close(fd);
	}
	return nr <= SYS_SOCKET_FDS;
}

static bool take_control(struct msghdr *head, struct sys_message *msg)
{
	struct cmsghdr *c;
	struct ucred sender;
	bool right = true;

	for (c = CMSG_FIRSTHDR(head); c; c = CMSG_NXTHDR(head, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS) {
			memcpy(&sender, CMSG_DATA(c), sizeof(sender));
			msg->sender = sender.pid;
		} else if (c->cmsg_type == SCM_RIGHTS) {
			right &= take_fds(c, msg);
		}
	}
	return right;
}

int sys_socket_recv(int sock, struct sys_message *msg)
{
	union fds_room control;
	struct iovec part = { .iov_base = msg->data, .iov_len = msg->len };
	struct msghdr head = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	bool right;
	long ret;

	do {
		ret = sys_ret(recvmsg(sock, &head, MSG_CMSG_CLOEXEC));
	} while (ret == -EINTR);
	msg->nr_fds = 0;
	msg->sender = 0;
	if (ret < 0)
		return ret == -ECONNRESET ? -EPIPE : (int)ret;
	right = take_control(&head, msg);
	if (ret > 0 && right && !(head.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
		msg->len = (size_t)ret;
		return 0;
	}
	while (msg->nr_fds)
		close(msg->fds[--msg->nr_fds]);
	return ret ? -EMSGSIZE : -EPIPE;
}

/* ---------------------------------------------------------------- shared memory */

int sys_shared_memory(const char *name, size_t bytes, void **out)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	long mem;
	int fd;

	fd = (int)sys_ret(syscall(SYS_memfd_create, name, (long)(MFD_CLOEXEC | MFD_ALLOW_SEALING)));
	if (fd < 0)
		return fd;
	mem = sys_ret(ftruncate(fd, (off_t)bytes));
	if (!mem)
		mem = sys_ret(fcntl(fd, F_ADD_SEALS, seals));
	if (!mem)
		mem = sys_cookie_call(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
				      sys_mmap_fd(sys_cookie(), fd), 0);
	if (mem < 0 && mem > -4096) {
		close(fd);
		return (int)mem;
	}
	*out = (void *)mem;
	return fd;
}
