// SPDX-License-Identifier: MIT
#include "sys/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "sys/internal.h"
#include "sys/sys.h"

/* ---------------------------------------------------------------- who */

static ssize_t read_proc(pid_t pid, const char *file, char *text, size_t size)
{
	char path[64];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	fd = (int)sys_ret(open(path, O_RDONLY | O_CLOEXEC));
	if (fd < 0)
		return fd == -ENOENT ? -ESRCH : fd;
	got = sys_ret(read(fd, text, size - 1));
	close(fd);
	text[got > 0 ? got : 0] = '\0';
	return got;
}

static long status_number(const char *text, const char *key)
{
	const char *line = strstr(text, key);

	return line ? strtol(line + strlen(key), NULL, 10) : -1;
}

/* Not only the first thread, whose state is the process's until the last one ends. */
static bool all_ended(pid_t tid)
{
	char text[512];

	return read_proc(tid, "stat", text, sizeof(text)) <= 0 || sys_stat_number(text, 20) <= 1;
}

int sys_process_of(pid_t tid, struct sys_process *out)
{
	char text[512];
	const char *name;
	size_t len;
	ssize_t got;

	got = read_proc(tid, "status", text, sizeof(text));
	if (got <= 0)
		return got < 0 ? (int)got : -ESRCH;
	if (strncmp(text, "Name:\t", 6) != 0)
		return -EIO;
	name = text + 6;
	len = strcspn(name, "\n");
	if (len >= sizeof(out->name))
		len = sizeof(out->name) - 1;
	memcpy(out->name, name, len);
	out->name[len] = '\0';
	/* From the second line on: a name cannot forge these, its newlines are escaped. */
	out->tgid = (pid_t)status_number(name, "\nTgid:\t");
	out->ppid = (pid_t)status_number(name, "\nPPid:\t");
	out->zombie = (strstr(name, "\nState:\tZ") || strstr(name, "\nState:\tX")) &&
		      all_ended(tid);
	return out->tgid > 0 && out->ppid >= 0 ? 0 : -EIO;
}

static bool is_below(const struct sys_process *process, pid_t ancestor)
{
	struct sys_process parent = *process;

	while (parent.ppid != ancestor)
		if (parent.ppid <= 1 || sys_process_of(parent.ppid, &parent))
			return false;
	return true;
}

bool sys_process_descends(pid_t pid, pid_t ancestor)
{
	struct sys_process process;

	return !sys_process_of(pid, &process) && is_below(&process, ancestor);
}

int sys_same_memory(pid_t a, pid_t b)
{
	long ret = sys_ret(syscall(SYS_kcmp, (long)a, (long)b, (long)KCMP_VM, 0L, 0L));

	return ret < 0 ? (int)ret : ret == 0;
}

bool sys_any_thread(pid_t process, bool (*is)(pid_t tid, const void *ctx), const void *ctx)
{
	const struct dirent *entry;
	bool some = false;
	char path[64];
	pid_t tid;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)process);
	dir = opendir(path);
	while (dir && !some && (entry = readdir(dir))) {
		tid = (pid_t)strtol(entry->d_name, NULL, 10);
		some = tid > 0 && is(tid, ctx);
	}
	if (dir)
		closedir(dir);
	return some;
}

static bool shares(pid_t tid, const void *task)
{
	return sys_same_memory(tid, *(const pid_t *)task) == 1;
}

bool sys_process_shares(pid_t process, pid_t task)
{
	struct sys_memory memory;

	/* Two that have none are the same to the kernel. */
	if (sys_memory_of(task, &memory) || !memory.writable)
		return false;
	return sys_any_thread(process, shares, &task);
}

bool sys_has_uffd(pid_t pid, int fd)
{
	static const char name[] = "anon_inode:[userfaultfd]";
	char path[64], target[sizeof(name)];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
	return sys_ret(readlink(path, target, sizeof(target))) == (ssize_t)sizeof(name) - 1 &&
	       memcmp(target, name, sizeof(name) - 1) == 0;
}

int sys_pidfd_open(pid_t pid)
{
	return (int)sys_ret(syscall(SYS_pidfd_open, (long)pid, 0L));
}

/* Advice about nothing asks for the memory all the same, and waits for nobody who has it. */
bool sys_memory_gone(pid_t pid, int pidfd)
{
	long ret = sys_ret(syscall(SYS_process_madvise, (long)pidfd, 0L, 0L, (long)MADV_COLD, 0L));
	struct sys_memory memory;

	if (ret == 0 || ret == -ESRCH)
		return ret != 0;
	return !sys_memory_of(pid, &memory) && !memory.writable;
}

int sys_pidfd_kill(int pidfd, int sig)
{
	return (int)sys_ret(syscall(SYS_pidfd_send_signal, (long)pidfd, (long)sig, NULL, 0L));
}

/* ---------------------------------------------------------------- starting and ending */

pid_t sys_fork(int parent_death)
{
	pid_t parent = getpid();
	pid_t pid = (pid_t)sys_ret(fork());

	if (pid == 0 && parent_death) {
		prctl(PR_SET_PDEATHSIG, (long)parent_death, 0L, 0L, 0L);
		if (getppid() != parent)
			raise(parent_death);
	}
	return pid;
}

bool sys_same_group(pid_t pid)
{
	return getpgid(pid) == getpgrp();
}

int sys_kill(pid_t pid, int sig)
{
	return (int)sys_ret(kill(pid, sig));
}

bool sys_in_foreground(void)
{
	int tty = open("/dev/tty", O_RDONLY | O_CLOEXEC | O_NOCTTY);
	bool in = tty >= 0 && tcgetpgrp(tty) == getpgrp();

	sys_close(tty);
	return in;
}

void sys_reap(pid_t pid)
{
	while (sys_ret(waitpid(pid, NULL, __WALL)) == -EINTR)
		;
}

int sys_memory_of(pid_t pid, struct sys_memory *out)
{
	unsigned long field[6] = { 0 };	/* all, in RAM, shared of it, text, 0, data */
	char text[128], *at = text;
	ssize_t got = read_proc(pid, "statm", text, sizeof(text));

	if (got > 0)
		for (size_t i = 0; i < ARRAY_SIZE(field); i++)
			field[i] = strtoul(at, &at, 10);
	out->resident = field[1] > field[2] ? (field[1] - field[2]) * sys_page_size() : 0;
	out->writable = field[5] * sys_page_size();
	return got < 0 ? (int)got : 0;
}

int sys_memory_share(pid_t pid, uint64_t *bytes)
{
	char text[2048];
	const char *line;
	ssize_t got = read_proc(pid, "smaps_rollup", text, sizeof(text));

	if (got < 0)
		return (int)got;
	line = strstr(text, "\nPss_Anon:");
	if (!line)
		return got ? -ENOENT : -ESRCH;
	*bytes = strtoull(strchr(line, ':') + 1, NULL, 10) << 10;
	return 0;
}

/* Fields 10 and 12: those without a device, and those with, as one that was retried counts. */
uint64_t sys_faults(pid_t pid)
{
	char text[512];
	long minor, major;

	if (read_proc(pid, "stat", text, sizeof(text)) <= 0)
		return 0;
	minor = sys_stat_number(text, 10);
	major = sys_stat_number(text, 12);
	return (uint64_t)(minor > 0 ? minor : 0) + (uint64_t)(major > 0 ? major : 0);
}

int sys_program_path(char *path, size_t size)
{
	ssize_t len = sys_ret(readlink("/proc/self/exe", path, size));

	if (len < 0)
		return (int)len;
	if ((size_t)len == size)
		return -ENAMETOOLONG;
	path[len] = '\0';
	return 0;
}

bool sys_file_exists(const char *path)
{
	return access(path, R_OK) == 0;
}

bool sys_preload_names(const char *path)
{
	/* glibc ends a name at the first two, musl at all but the last. */
	return !strpbrk(path, " :\t\n\v\f\r$");
}

int sys_exec(char *const argv[])
{
	execvp(argv[0], argv);
	return -errno;
}

int sys_subreaper(void)
{
	return (int)sys_ret(prctl(PR_SET_CHILD_SUBREAPER, 1L, 0L, 0L, 0L));
}

pid_t sys_wait_any(int *status)
{
	pid_t pid;

	do {
		pid = (pid_t)sys_ret(waitpid(-1, status, WNOHANG | WUNTRACED | WCONTINUED | __WALL));
	} while (pid == -EINTR);
	return pid;
}

unsigned int sys_descendants(pid_t pid, const char *but, pid_t *out, unsigned int max)
{
	const struct dirent *entry;
	struct sys_process process;
	DIR *dir = opendir("/proc");
	unsigned int nr = 0;
	pid_t one;

	while (dir && nr < max && (entry = readdir(dir))) {
		one = (pid_t)strtol(entry->d_name, NULL, 10);
		if (one > 0 && !sys_process_of(one, &process) && !process.zombie &&
		    strcmp(process.name, but) != 0 && is_below(&process, pid))
			out[nr++] = one;
	}
	if (dir)
		closedir(dir);
	return nr;
}

/* Kills what it finds; how many of them are not yet dead. */
static unsigned int kill_round(const char *last, bool last_too)
{
	const struct dirent *entry;
	struct sys_process process;
	unsigned int alive = 0;
	DIR *dir = opendir("/proc");
	pid_t pid;

	if (!dir)
		return 0;
	while ((entry = readdir(dir))) {
		pid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (pid <= 0 || sys_process_of(pid, &process) || process.zombie ||
		    !is_below(&process, getpid()))
			continue;
		if (!last_too && strcmp(process.name, last) == 0)
			continue;
		alive++;
		kill(pid, SIGKILL);
	}
	closedir(dir);
	return alive;
}

/* False: there are no children any more, and so, for a subreaper, no descendants. */
static bool reap_all(void)
{
	ssize_t pid;

	while ((pid = sys_ret(waitpid(-1, NULL, WNOHANG | __WALL))) > 0)
		;
	return pid != -ECHILD;
}

unsigned int sys_kill_descendants(const char *last)
{
	const struct timespec tick = { .tv_nsec = 1000 * 1000 };
	unsigned int first = 0, alive;

	for (bool again = false; reap_all(); again = true) {
		alive = kill_round(last, false);
		first = again ? first : alive;
		if (!alive && !kill_round(last, true))
			break;
		nanosleep(&tick, NULL);
	}
	reap_all();
	return first;
}

void sys_name_process(const char *name)
{
	prctl(PR_SET_NAME, name, 0L, 0L, 0L);
}

void sys_prefer(pid_t tid)
{
	setpriority(PRIO_PROCESS, (id_t)tid, -10);
}

/* ---------------------------------------------------------------- descriptors */

static void close_span(unsigned int first, unsigned int last)
{
	struct rlimit limit;

	if (first > last || syscall(SYS_close_range, (long)first, (long)last, 0L) == 0)
		return;
	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	for (unsigned int fd = first; fd <= last && fd < limit.rlim_cur; fd++)
		close((int)fd);
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

void sys_close_others(int *keep, unsigned int nr)
{
	unsigned int next = 3;

	qsort(keep, nr, sizeof(*keep), by_number);
	for (unsigned int i = 0; i < nr; i++) {
		if (keep[i] < (int)next)
			continue;
		if (keep[i] > (int)next)
			close_span(next, (unsigned int)keep[i] - 1);
		next = (unsigned int)keep[i] + 1;
	}
	close_span(next, ~0U);
}

void sys_raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

unsigned int sys_descriptors_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > UINT_MAX)
		return UINT_MAX;
	return (unsigned int)limit.rlim_cur;
}

bool sys_descriptors_left(int fd, unsigned int nr)
{
	int fds[32];
	unsigned int got = 0;

	while (got < nr && got < ARRAY_SIZE(fds) &&
	       (fds[got] = fcntl(fd, F_DUPFD_CLOEXEC, 0)) >= 0)
		got++;
	for (unsigned int i = 0; i < got; i++)
		close(fds[i]);
	return got >= nr;
}

void sys_detach_streams(void)
{
	int fd = (int)sys_ret(open("/dev/null", O_RDWR | O_CLOEXEC));

	if (fd < 0)
		return;
	dup2(fd, STDIN_FILENO);
	dup2(fd, STDOUT_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

/* ---------------------------------------------------------------- signals */

void sys_signals_restore(const struct sys_signals *old)
{
	if (old->no_children)
		signal(SIGCHLD, SIG_IGN);
	sigprocmask(SIG_SETMASK, &old->mask, NULL);
}

int sys_signalfd(const sigset_t *mask, struct sys_signals *old)
{
	struct sys_signals was = { .no_children = false };

	if (sigprocmask(SIG_BLOCK, mask, &was.mask))
		return -errno;
	if (sigismember(mask, SIGCHLD))
		was.no_children = signal(SIGCHLD, SIG_DFL) == SIG_IGN;
	if (old)
		*old = was;
	return (int)sys_ret(signalfd(-1, mask, SFD_CLOEXEC | SFD_NONBLOCK));
}

int sys_signal_read(int signalfd, struct sys_signal *out)
{
	struct signalfd_siginfo info;

	if (sys_ret(read(signalfd, &info, sizeof(info))) != sizeof(info))
		return 0;
	out->nr = (int)info.ssi_signo;
	out->by_user = info.ssi_code <= 0;
	out->sender = (pid_t)info.ssi_pid;
	return 1;
}
