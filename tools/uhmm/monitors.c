/* SPDX-License-Identifier: MIT */
#include "monitors.h"

#include <errno.h>	/* the names only */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sys/message.h"
#include "sys/sys.h"

#define MAP_PATIENCE_MS	5000
#define TURN_MS		20		/* one is waited for while others may have answered */

void monitors_open(struct monitors *m, pid_t only)
{
	memset(m, 0, sizeof(*m));
	m->only = only;
}

static void forget(struct monitors *m, size_t at)
{
	sys_close(m->seen[at].sock);
	free(m->seen[at].now);
	free(m->seen[at].before);
	m->seen[at] = m->seen[--m->nr];
}

void monitors_close(struct monitors *m)
{
	while (m->nr)
		forget(m, m->nr - 1);
	free(m->seen);
	m->seen = NULL;
}

/* ---------------------------------------------------------------- finding */

static bool known(const struct monitors *m, const char *path)
{
	for (size_t i = 0; i < m->nr; i++)
		if (strcmp(m->seen[i].path, path) == 0)
			return true;
	return false;
}

/* A directory of some monitor, perhaps of one that is no more. */
static void found(void *ctx, const char *dir)
{
	struct monitors *m = ctx;
	struct monitor_seen *more, one = { .sock = -1 };

	if (strlen(dir) + sizeof("/" WINDOW_NAME) > sizeof(one.path))
		return;
	snprintf(one.path, sizeof(one.path), "%.90s/" WINDOW_NAME, dir);
	if (known(m, one.path))
		return;
	one.sock = sys_socket_connect(one.path);
	if (one.sock < 0)
		return;
	more = realloc(m->seen, (m->nr + 1) * sizeof(*more));
	if (!more) {
		sys_close(one.sock);
		return;
	}
	m->seen = more;
	m->seen[m->nr++] = one;
}

/* ---------------------------------------------------------------- asking */

static int ask(const struct monitor_seen *seen, pid_t pid)
{
	struct window_ask ask = { .version = WINDOW_VERSION, .pid = pid };
	const struct sys_message msg = { .data = &ask, .len = sizeof(ask) };

	return sys_socket_send(seen->sock, &msg);
}

static bool makes_sense(const struct window_view *view, size_t bytes)
{
	return bytes >= offsetof(struct window_view, process) &&
	       view->nr_processes <= WINDOW_PROCESSES && view->nr_devices <= WINDOW_DEVICES &&
	       bytes == window_bytes(view);
}

/* One answer of at most @msg->len bytes. -ETIMEDOUT. */
static int receive(const struct monitor_seen *seen, struct sys_message *msg, uint64_t deadline_ns)
{
	const uint64_t now = sys_now_ns();
	const int ms = now < deadline_ns ? (int)((deadline_ns - now) / 1000000) : 0;
	bool readable = false, unused;
	int ret;

	ret = sys_poll2(seen->sock, -1, ms, &readable, &unused);
	ret = ret < 0 ? ret : readable ? sys_socket_recv(seen->sock, msg) : -ETIMEDOUT;
	while (!ret && msg->nr_fds)
		sys_close(msg->fds[--msg->nr_fds]);
	return ret;
}

/* 0; -ETIMEDOUT; -EPROTO: it is of another version; else it is gone. */
static int hear(struct monitor_seen *seen, uint64_t deadline_ns)
{
	struct window_view *view = calloc(1, sizeof(*view));
	struct sys_message msg = { .data = view, .len = sizeof(*view) };
	int ret;

	if (!view)
		return -ENOMEM;
	ret = receive(seen, &msg, deadline_ns);
	if (!ret && (msg.len < sizeof(view->version) || view->version != WINDOW_VERSION ||
		     !makes_sense(view, msg.len)))
		ret = -EPROTO;
	if (ret) {
		free(view);
		return ret;
	}
	free(seen->before);
	seen->before = seen->now;
	seen->now = view;
	return 0;
}

static bool wanted(const struct monitors *m, const struct window_view *view)
{
	if (!m->only || m->only == view->pid)
		return true;
	for (uint32_t i = 0; i < view->nr_processes; i++)
		if (view->process[i].pid == m->only)
			return true;
	return false;
}

/* The one that began first comes first. */
static int by_start(const void *a, const void *b)
{
	const struct window_view *one = ((const struct monitor_seen *)a)->now;
	const struct window_view *two = ((const struct monitor_seen *)b)->now;

	return (one->start_ns > two->start_ns) - (one->start_ns < two->start_ns);
}

/* Once round those that were asked. Is there anybody left to wait for? */
static bool hear_all(struct monitors *m)
{
	bool waiting = false, found = false;

	for (size_t i = 0; i < m->nr; i++) {
		struct monitor_seen *seen = &m->seen[i];
		int ret;

		if (seen->asked && !seen->gone) {
			ret = hear(seen, sys_now_ns() + TURN_MS * 1000000ULL);
			seen->asked = ret == -ETIMEDOUT;
			seen->gone = ret && !seen->asked;
			m->foreign |= ret == -EPROTO;
			waiting |= seen->asked;
			found |= !ret && m->only && wanted(m, seen->now);
		}
	}
	return waiting && !found;
}

void monitors_look(struct monitors *m, unsigned int patience_ms)
{
	const uint64_t deadline_ns = sys_now_ns() + patience_ms * 1000000ULL;

	sys_private_dirs(found, m);
	m->foreign = false;
	for (size_t i = 0; i < m->nr; i++) {
		m->seen[i].asked = m->seen[i].asked || ask(&m->seen[i], 0) == 0;
		m->seen[i].gone = !m->seen[i].asked;
	}
	while (hear_all(m) && sys_now_ns() < deadline_ns)
		;
	/* One that is busy keeps what it showed last; any other is found again. */
	for (size_t i = m->nr; i-- > 0; )
		if (m->seen[i].gone || !m->seen[i].now || !wanted(m, m->seen[i].now))
			forget(m, i);
	qsort(m->seen, m->nr, sizeof(*m->seen), by_start);
}

/* ---------------------------------------------------------------- one process */

static bool map_makes_sense(const struct window_map *map, size_t bytes)
{
	if (bytes < offsetof(struct window_map, mapping) || map->version != WINDOW_VERSION ||
	    map->nr_mappings > WINDOW_MAPPINGS || bytes != window_map_bytes(map))
		return false;
	for (uint32_t i = 0; i < map->nr_mappings; i++)
		if (map->mapping[i].nr_cells > WINDOW_CELLS ||
		    map->mapping[i].start >= map->mapping[i].end)
			return false;
	return true;
}

/* The answer of one that was asked for the map of @pid, if it comes by @deadline_ns. */
static bool hear_map(struct monitor_seen *seen, pid_t pid, struct window_map *map,
		     uint64_t deadline_ns)
{
	struct sys_message msg = { .data = map, .len = sizeof(*map) };
	const int ret = receive(seen, &msg, deadline_ns);

	seen->asked = ret == -ETIMEDOUT;
	return !ret && map_makes_sense(map, msg.len) && map->process == pid;
}

/* All are asked before any is heard: one that does not answer keeps nobody waiting. */
struct window_map *monitors_map(struct monitors *m, pid_t pid)
{
	const uint64_t deadline_ns = sys_now_ns() + MAP_PATIENCE_MS * 1000000ULL;
	struct window_map *map = calloc(1, sizeof(*map));
	bool waiting = map != NULL;

	sys_private_dirs(found, m);
	for (size_t i = 0; i < m->nr; i++)
		m->seen[i].asked = ask(&m->seen[i], pid) == 0;
	while (waiting && sys_now_ns() < deadline_ns) {
		waiting = false;
		for (size_t i = 0; i < m->nr; i++) {
			if (m->seen[i].asked &&
			    hear_map(&m->seen[i], pid, map, sys_now_ns() + TURN_MS * 1000000ULL))
				return map;
			waiting |= m->seen[i].asked;
		}
	}
	free(map);
	return NULL;
}
