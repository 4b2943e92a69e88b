// SPDX-License-Identifier: MIT
#include "monitor/window.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sys/message.h"
#include "sys/sys.h"

#define VIEWERS_MAX	16u

struct viewer {
	struct watch watch;
	struct window *window;
	struct viewer *next;
};

size_t window_bytes(const struct window_view *view)
{
	return offsetof(struct window_view, process) +
	       view->nr_processes * sizeof(view->process[0]);
}

size_t window_map_bytes(const struct window_map *map)
{
	return offsetof(struct window_map, mapping) + map->nr_mappings * sizeof(map->mapping[0]);
}

static void viewer_leave(struct viewer *viewer)
{
	struct viewer **at = &viewer->window->viewers;

	while (*at != viewer)
		at = &(*at)->next;
	*at = viewer->next;
	sys_epoll_remove(viewer->window->epoll, viewer->watch.fd);
	sys_close(viewer->watch.fd);
	free(viewer);
}

static int send_view(struct viewer *viewer, const struct window_ask *ask)
{
	static struct window_view view;
	struct sys_message answer = { .data = &view };

	memset(&view, 0, sizeof(view));
	view.version = WINDOW_VERSION;
	view.pid = getpid();
	if (ask->version == WINDOW_VERSION)
		viewer->window->look(viewer->window, &view);
	answer.len = window_bytes(&view);
	return sys_socket_send(viewer->watch.fd, &answer);
}

static int send_map(struct viewer *viewer, pid_t pid)
{
	static struct window_map map;
	struct sys_message answer = { .data = &map };

	memset(&map, 0, sizeof(map));
	map.version = WINDOW_VERSION;
	map.pid = getpid();
	viewer->window->map(viewer->window, pid, &map);
	answer.len = window_map_bytes(&map);
	return sys_socket_send(viewer->watch.fd, &answer);
}

static void viewer_asks(struct watch *watch)
{
	struct viewer *viewer = watch_owner(watch, struct viewer, watch);
	struct window_ask ask;
	struct sys_message question = { .data = &ask, .len = sizeof(ask) };
	int ret;

	ret = sys_socket_recv(watch->fd, &question);
	if (ret == -EAGAIN)
		return;
	while (!ret && question.nr_fds)
		sys_close(question.fds[--question.nr_fds]);
	if (!ret && question.len != sizeof(ask))
		ret = -EINVAL;
	if (!ret)
		ret = ask.version == WINDOW_VERSION && ask.pid ? send_map(viewer, ask.pid) :
								 send_view(viewer, &ask);
	if (ret)
		viewer_leave(viewer);
}

static unsigned int nr_viewers(const struct window *window)
{
	unsigned int nr = 0;

	for (const struct viewer *v = window->viewers; v; v = v->next)
		nr++;
	return nr;
}

static void viewer_come(struct window *window, int sock)
{
	struct viewer *viewer = calloc(1, sizeof(*viewer));

	if (!viewer || sys_epoll_add(window->epoll, sock, (uintptr_t)&viewer->watch)) {
		sys_close(sock);
		free(viewer);
		return;
	}
	viewer->watch.fd = sock;
	viewer->watch.ready = viewer_asks;
	viewer->window = window;
	viewer->next = window->viewers;
	window->viewers = viewer;
}

/* Without a descriptor for one nobody can look in, and the kernel would tell us for ever. */
static void window_ready(struct watch *watch)
{
	struct window *window = watch_owner(watch, struct window, watch);
	uid_t uid;
	pid_t pid;
	int sock;

	while ((sock = sys_socket_accept(watch->fd, &pid, &uid)) >= 0) {
		if (uid == sys_uid() && nr_viewers(window) < VIEWERS_MAX)
			viewer_come(window, sock);
		else
			sys_close(sock);
	}
	if (sock != -EAGAIN)
		sys_epoll_remove(window->epoll, watch->fd);
}

void window_name(struct window *window, const char *dir)
{
	window->watch.fd = -1;
	snprintf(window->path, sizeof(window->path), "%s/" WINDOW_NAME, dir);
}

int window_open(struct window *window)
{
	window->watch.ready = window_ready;
	window->watch.fd = sys_socket_listen(window->path);
	return window->watch.fd < 0 ? window->watch.fd : 0;
}

int window_serve(struct window *window, int epoll,
		 void (*look)(struct window *window, struct window_view *view),
		 void (*map)(struct window *window, pid_t pid, struct window_map *map))
{
	window->epoll = epoll;
	window->look = look;
	window->map = map;
	return sys_epoll_add(epoll, window->watch.fd, (uintptr_t)&window->watch);
}

void window_close(struct window *window)
{
	while (window->viewers)
		viewer_leave(window->viewers);
	sys_close(window->watch.fd);
	sys_unlink(window->path);
}
