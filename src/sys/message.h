/* SPDX-License-Identifier: MIT */
/*
 * Messages between processes of this machine: Unix sockets of whole messages, with
 * descriptors in them, and memory that two processes map. Descriptors are O_CLOEXEC.
 */
#ifndef UHMM_SYS_MESSAGE_H
#define UHMM_SYS_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SYS_SOCKET_FDS	4u

struct sys_message {
	void *data;
	size_t len;		/* room; received: what came */
	int fds[SYS_SOCKET_FDS];
	unsigned int nr_fds;	/* those beyond what is expected are closed */
	pid_t sender;		/* received by a sys_socket_accept()ed one: who sent it */
};

int sys_socket_pair(int socks[2]);

/*
 * A name that nobody has, or can guess, in XDG_RUNTIME_DIR, TMPDIR or /tmp, whichever is
 * the first that can be written and that LD_PRELOAD can name; and its directory.
 */
int sys_private_dir_name(char *path, size_t size);
int sys_private_dir(const char *path);
int sys_private_dir_remove(const char *path);

/* Those that other processes of this user have made, wherever we would make one. */
void sys_private_dirs(void (*fn)(void *ctx, const char *path), void *ctx);

/* Listen at @path, which may not exist. O_NONBLOCK. */
int sys_socket_listen(const char *path);
/*
 * O_NONBLOCK; @pid and @uid are those of the process that connected. -EAGAIN: nobody;
 * -EMFILE: no descriptor is left, and who connected waits still.
 */
int sys_socket_accept(int listener, pid_t *pid, uid_t *uid);
int sys_socket_connect(const char *path);	/* O_NONBLOCK; never waits */
void sys_unlink(const char *path);
int sys_link_to(const char *target, const char *path);	/* a symbolic link */
uid_t sys_uid(void);

/* One message; a failure to send never raises SIGPIPE. 0 or a negative errno. */
int sys_socket_send(int sock, const struct sys_message *msg);

/* Blocks unless the socket does not. 0; -EPIPE: closed; -EAGAIN; -EMSGSIZE: too long. */
int sys_socket_recv(int sock, struct sys_message *msg);

/* Memory of a size that nobody can change any more, mapped at *@out. Its descriptor. */
int sys_shared_memory(const char *name, size_t bytes, void **out);

#endif
