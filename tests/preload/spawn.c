// SPDX-License-Identifier: MIT
#include "spawn.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS	100000

int spawn_own_directory(void **state)
{
	static char dir[] = "/tmp/uhmm-test-XXXXXX";

	*state = mkdtemp(dir);
	return *state ? setenv("XDG_RUNTIME_DIR", dir, 1) : -1;
}

int spawn_remove_directory(void **state)
{
	return rmdir(*state);
}

uint64_t spawn_number(const struct spawned *s, const char *key)
{
	char quoted[64];
	const char *at;

	snprintf(quoted, sizeof(quoted), "\"%s\": ", key);
	at = strstr(s->complained, quoted);
	if (!at)
		fail_msg("no %s in: %s", key, s->complained);
	return strtoull(at + strlen(quoted), NULL, 10);
}

const char *spawn_path(const char *which)
{
	const char *path = getenv(which);

	if (!path) {
		fprintf(stderr, "%s is not set; meson test sets it\n", which);
		exit(77);
	}
	return path;
}

static bool is_wanted(const char *claim, char **argv)
{
	for (int i = 1; argv[i]; i++)
		if (strcmp(argv[i], claim) == 0)
			return true;
	return !argv[1];
}

int spawn_claims(const char *group, struct CMUnitTest *tests, size_t nr, char **argv,
		 int (*setup)(void **state), int (*teardown)(void **state))
{
	size_t wanted = 0;

	for (size_t i = 0; i < nr; i++)
		if (is_wanted(tests[i].name, argv))
			tests[wanted++] = tests[i];
	if (!wanted) {
		fprintf(stderr, "there is no such claim\n");
		return 1;
	}
	return _cmocka_run_group_tests(group, tests, wanted, setup, teardown);
}

static void make_pipe(int ends[2])
{
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
}

void spawn_start(struct spawned *s, const char *const argv[])
{
	int out[2], err[2];

	memset(s, 0, sizeof(*s));
	make_pipe(out);
	make_pipe(err);
	fflush(NULL);
	s->pid = fork();
	assert_true(s->pid >= 0);
	if (s->pid == 0) {
		int null = open("/dev/null", O_RDONLY);

		/* A test that fails leaves nothing running: the monitor goes with it. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);

		dup2(null, 0);
		close(null);
		dup2(out[1], 1);
		dup2(err[1], 2);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	close(out[1]);
	close(err[1]);
	s->out = out[0];
	s->err = err[0];
}

/* False: it was the last. */
static bool take(int fd, char *text)
{
	size_t len = strlen(text);
	ssize_t got = read(fd, text + len, SPAWN_TEXT - 1 - len);

	return got > 0;
}

void spawn_finish(struct spawned *s)
{
	struct pollfd fds[2] = {
		{ .fd = s->out, .events = POLLIN },
		{ .fd = s->err, .events = POLLIN },
	};
	int status;

	while (fds[0].fd >= 0 || fds[1].fd >= 0) {
		if (poll(fds, 2, PATIENCE_MS) <= 0) {
			kill(s->pid, SIGKILL);
			fail_msg("%s", "no end after 100 s");
		}
		if (fds[0].fd >= 0 && fds[0].revents && !take(s->out, s->said))
			fds[0].fd = -1;
		if (fds[1].fd >= 0 && fds[1].revents && !take(s->err, s->complained))
			fds[1].fd = -1;
	}
	close(s->out);
	close(s->err);
	assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
	s->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void spawn_run(struct spawned *s, ...)
{
	const char *argv[SPAWN_ARGS + 1];
	unsigned int nr = 0;
	va_list words;

	va_start(words, s);
	do {
		assert_true(nr <= SPAWN_ARGS);
		argv[nr] = va_arg(words, const char *);
	} while (argv[nr++]);
	va_end(words);
	spawn_start(s, argv);
	spawn_finish(s);
}

void spawn_line(struct spawned *s, char *line, size_t size)
{
	size_t len = 0;

	while (len < size - 1 && read(s->out, line + len, 1) == 1 && line[len] != '\n')
		len++;
	line[len] = '\0';
}

/* Field of /proc/PID/stat after the name; 0 when there is no such process. */
static bool look(pid_t pid, char *state, pid_t *parent, char *name, size_t size)
{
	char path[64], text[512], *end, *start;
	ssize_t got;
	int fd, ppid, threads;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return false;
	text[got] = '\0';
	start = strchr(text, '(');
	end = strrchr(text, ')');
	if (!start || !end ||
	    sscanf(end + 1, " %c %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %d",
		   state, &ppid, &threads) != 3)
		return false;
	if (*state == 'Z' && threads > 1)
		*state = 'S';	/* that is its first thread alone */
	*parent = ppid;
	*end = '\0';
	if (name)
		snprintf(name, size, "%s", start + 1);
	return true;
}

bool spawn_alive(pid_t pid)
{
	pid_t parent;
	char state;

	return look(pid, &state, &parent, NULL, 0) && state != 'Z' && state != 'X';
}

bool spawn_all_gone(const pid_t *pids, size_t nr, int ms)
{
	const struct timespec tick = { .tv_nsec = 5 * 1000000 };
	size_t alive;

	for (; ms >= 0; ms -= 5) {
		alive = 0;
		for (size_t i = 0; i < nr; i++)
			alive += spawn_alive(pids[i]);
		if (!alive)
			return true;
		nanosleep(&tick, NULL);
	}
	return false;
}

static bool below(pid_t pid, pid_t ancestor)
{
	pid_t parent;
	char state;

	while (pid > 1 && look(pid, &state, &parent, NULL, 0)) {
		if (parent == ancestor)
			return true;
		pid = parent;
	}
	return false;
}

size_t spawn_descendants(pid_t pid, pid_t *pids, size_t max)
{
	DIR *proc = opendir("/proc");
	const struct dirent *entry;
	size_t nr = 0;
	pid_t one;

	assert_non_null(proc);
	while ((entry = readdir(proc)) && nr < max) {
		one = (pid_t)strtol(entry->d_name, NULL, 10);
		if (one > 0 && spawn_alive(one) && below(one, pid))
			pids[nr++] = one;
	}
	closedir(proc);
	return nr;
}

pid_t spawn_named(const pid_t *pids, size_t nr, const char *name)
{
	char state, have[32];
	pid_t parent;

	for (size_t i = 0; i < nr; i++)
		if (look(pids[i], &state, &parent, have, sizeof(have)) && strcmp(have, name) == 0)
			return pids[i];
	return 0;
}

/* Tests give each monitor a directory of their own to put things in. */
size_t spawn_leftovers(void)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");
	const struct dirent *entry;
	size_t nr = 0;
	DIR *d;

	assert_non_null(dir);
	d = opendir(dir);
	assert_non_null(d);
	while ((entry = readdir(d)))
		nr += entry->d_name[0] != '.';
	closedir(d);
	return nr;
}

static int remove_below(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	return at->level ? remove(path) : 0;
}

void spawn_remove_leftovers(void)
{
	assert_int_equal(nftw(getenv("XDG_RUNTIME_DIR"), remove_below, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static unsigned int seed;

const char *spawn_seed(void)
{
	static char text[16];

	if (!seed) {
		seed = (unsigned int)time(NULL);
		printf("seed %u\n", seed);
	}
	snprintf(text, sizeof(text), "%u", seed);
	return text;
}

const char *spawn_stress(void)
{
	static char policy[64];

	snprintf(policy, sizeof(policy), "stress:seed=%s,rate=300000,chunk=%u", spawn_seed(),
		 1 + seed % 64);
	seed++;
	return policy;
}

void spawn_nothing_lost(const struct spawned *run)
{
	assert_int_equal(spawn_number(run, "lost_pages"), 0);
	assert_int_equal(spawn_number(run, "poisoned_pages"), 0);
	assert_int_equal(spawn_number(run, "device_bytes_end"), 0);
}

void spawn_same(const struct spawned *run, const struct spawned *plain, const char *what)
{
	if (run->status != plain->status || strcmp(run->said, plain->said) != 0)
		fail_msg("%s: status %d, plain %d; it said:\n%.2000s\n%.2000s", what, run->status,
			 plain->status, run->said, run->complained);
}
