/* SPDX-License-Identifier: MIT */
/*
 * Messages to and from the monitor, without libc.
 */
#ifndef UHMM_PRELOAD_MESSAGE_H
#define UHMM_PRELOAD_MESSAGE_H

#include <stddef.h>

#define MESSAGE_FDS	3u

/* Connect to the monitor. A descriptor (close-on-exec), or a negative errno. */
int message_connect(const char *path);

/* One message, with descriptor @fd unless negative. 0 or a negative errno. */
int message_send(int sock, const void *data, size_t len, int fd);

/* Blocks. Bytes received, 0 when it was closed, or a negative errno; fds not received are -1. */
int message_recv(int sock, void *data, size_t len, int fds[MESSAGE_FDS]);

#endif
