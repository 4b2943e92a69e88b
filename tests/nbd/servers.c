/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "servers.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TEST_SECONDS	150	/* of a machine that does other things besides */

static const struct hmm_plugin *plugin;
static struct nbd_world *the_world;

uint64_t clock_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static bool command_there(const char *name)
{
	char line[128];

	snprintf(line, sizeof(line), "command -v %s >/dev/null 2>&1", name);
	return system(line) == 0;
}

void need_nbd(void)
{
	char why[160];

	need_mm();
	if (!command_there("nbdkit"))
		skip_program("nbdkit is not installed");
	if (hmm_plugin_load("nbd", &plugin, why, sizeof(why))) {
		fprintf(stderr, "%s\n", why);
		exit(1);
	}
}

/* ---------------------------------------------------------------- servers */

static bool answers(const struct server *s)
{
	struct sockaddr_un local = { .sun_family = AF_UNIX };
	struct sockaddr_in tcp = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(s->port ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), ret;

	strcpy(local.sun_path, s->path);
	ret = s->port ? connect(fd, (struct sockaddr *)&tcp, sizeof(tcp)) :
			connect(fd, (struct sockaddr *)&local, sizeof(local));
	close(fd);
	return !ret;
}

/* No fork: that would bring every page home, and there would be nothing to test. */
void server_again(struct server *s)
{
	posix_spawnattr_t attr;
	sigset_t none;

	if (!s->port)
		unlink(s->path);
	sigemptyset(&none);
	assert_int_equal(posix_spawnattr_init(&attr), 0);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
	assert_int_equal(posix_spawnp(&s->pid, s->argv[0], NULL, &attr, s->argv, environ), 0);
	posix_spawnattr_destroy(&attr);
	assert_true(eventually(answers(s)));
}

/* "nbdkit -f -U SOCKET WORDS" or "nbdkit -f -p PORT WORDS". */
static struct server *run(struct server *s, const char *option, char *where, const char *words)
{
	int argc = 4;

	snprintf(s->words, sizeof(s->words), "%s", words);
	memset(s->argv, 0, sizeof(s->argv));
	s->argv[0] = (char *)"nbdkit";
	s->argv[1] = (char *)"-f";
	s->argv[2] = (char *)option;
	s->argv[3] = where;
	for (char *save, *word = strtok_r(s->words, " ", &save); word;
	     word = strtok_r(NULL, " ", &save)) {
		assert_true(argc < SERVER_ARGS);
		s->argv[argc++] = word;
	}
	server_again(s);
	return s;
}

struct server *server_run(struct nbd_world *n, int nr, const char *words)
{
	struct server *s = &n->server[nr];
	char path[sizeof(s->path)];

	assert_int_equal(s->pid, 0);
	snprintf(path, sizeof(path), "%s/s%d", n->folder, nr);
	memcpy(s->path, path, sizeof(path));
	s->port = 0;
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///?socket=%s", path);
	return run(s, "-U", s->path, words);
}

struct server *server_run_tcp(struct nbd_world *n, int nr, int port, const char *words)
{
	struct server *s = &n->server[nr];

	assert_int_equal(s->pid, 0);
	s->port = port;
	snprintf(s->port_word, sizeof(s->port_word), "%d", port);
	snprintf(s->uri, sizeof(s->uri), "nbd://127.0.0.1:%d", port);
	return run(s, "-p", s->port_word, words);
}

void server_kill(struct server *s)
{
	if (!s->pid)
		return;
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
	s->pid = 0;
}

void server_stop(struct server *s)
{
	kill(s->pid, SIGSTOP);
}

void server_go_on(struct server *s)
{
	kill(s->pid, SIGCONT);
}

static void kill_all(void)
{
	for (int i = 0; the_world && i < SERVERS; i++)
		if (the_world->server[i].pid)
			kill(the_world->server[i].pid, SIGKILL);
}

static void on_alarm(int sig)
{
	kill_all();
	signal(sig, SIG_DFL);
	raise(sig);
}

/* ---------------------------------------------------------------- device */

int nbd_close_device(struct nbd_world *n)
{
	if (!n->open)
		return 0;
	n->open = false;
	return hmm_device_close(&n->device);
}

int nbd_try_open(struct nbd_world *n, const char *format, ...)
{
	char options[2048];
	va_list args;
	int ret;

	assert_int_equal(nbd_close_device(n), 0);
	va_start(args, format);
	vsnprintf(options, sizeof(options), format, args);
	va_end(args);
	ret = hmm_device_open(n->w->mm, plugin, options, &n->device);
	n->open = !ret;
	return ret;
}

int64_t nbd_try_move_in(struct nbd_world *n, void *p, size_t nr)
{
	return hmm_migrate_to_device(n->w->mm, n->device.devmem, (uintptr_t)p,
				     (uintptr_t)p + nr * page,
				     HMM_MIGRATE_SYSTEM | HMM_MIGRATE_DEVICE, NULL);
}

void nbd_move_in(struct nbd_world *n, void *p, size_t nr)
{
	IGNORE(nbd_try_move_in(n, p, nr));
	/* A page may be busy for a moment. */
	for (size_t at = 0; at < nr; at += 4096) {
		size_t some = nr - at < 4096 ? nr - at : 4096;

		assert_true(eventually(all_at(n->w, (char *)p + at * page, some,
					      HMM_PLACE_DEVICE) ||
				       nbd_try_move_in(n, p, nr) == -1));
	}
}

/* ---------------------------------------------------------------- what it says */

static void said_read(struct nbd_world *n)
{
	ssize_t got;

	while (n->said_len + 1 < sizeof(n->said) &&
	       (got = read(n->said_fd, n->said + n->said_len,
			   sizeof(n->said) - 1 - n->said_len)) > 0)
		n->said_len += (size_t)got;
	n->said[n->said_len] = '\0';
}

bool nbd_said(struct nbd_world *n, const char *text)
{
	said_read(n);
	return strstr(n->said, text) != NULL;
}

/* ---------------------------------------------------------------- fixtures */

int nbd_world_begin(void **state)
{
	struct nbd_world *n = calloc(1, sizeof(*n));
	void *w = NULL;

	strcpy(n->folder, "/tmp/uhmm-nbd-XXXXXX");
	if (!mkdtemp(n->folder) || world_begin(&w))
		return -1;
	n->w = w;
	n->said_fd = n->saved_stderr = -1;
	the_world = n;
	atexit(kill_all);
	signal(SIGALRM, on_alarm);
	*state = n;
	return 0;
}

int nbd_world_end(void **state)
{
	struct nbd_world *n = *state;
	char line[128];
	void *w = n->w;
	int ret = world_end(&w);

	the_world = NULL;
	snprintf(line, sizeof(line), "rm -rf %s", n->folder);
	IGNORE(system(line));
	free(n);
	return ret;
}

/* Standard error goes to a pipe that nobody has to read in time. */
int nbd_test_begin(void **state)
{
	struct nbd_world *n = *state;
	int fds[2];

	alarm(TEST_SECONDS);
	n->w->may_lose = false;
	n->w->start = stats_now(n->w);
	n->said_len = 0;
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK))
		return -1;
	n->said_fd = fds[0];
	fflush(stderr);
	n->saved_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
	dup2(fds[1], STDERR_FILENO);
	close(fds[1]);
	return 0;
}

int nbd_test_end(void **state)
{
	struct nbd_world *n = *state;
	bool may_lose = n->w->may_lose;
	struct hmm_stats s;
	int ret;

	for (int i = 0; i < SERVERS; i++)
		if (n->server[i].pid)
			server_go_on(&n->server[i]);
	ret = nbd_close_device(n);
	for (int i = 0; i < SERVERS; i++)
		server_kill(&n->server[i]);
	fflush(stderr);
	dup2(n->saved_stderr, STDERR_FILENO);
	said_read(n);
	close(n->said_fd);
	close(n->saved_stderr);
	if (n->said_len)
		fprintf(stderr, "%s", n->said);
	s = stats_now(n->w);
	alarm(0);
	if (may_lose)
		return 0;
	assert_int_equal(ret, 0);
	assert_int_equal(s.lost_pages, n->w->start.lost_pages);
	assert_int_equal(s.device_pages, 0);
	return 0;
}
