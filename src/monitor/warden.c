// SPDX-License-Identifier: MIT
#include "monitor/warden.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor/log.h"
#include "monitor/protocol.h"
#include "sys/message.h"
#include "sys/process.h"
#include "sys/seccomp.h"
#include "sys/sys.h"

static int send_event(int sock, enum warden_event event, int value, int fd)
{
	struct warden_message body = { .event = (int32_t)event, .value = value };
	struct sys_message msg = { .data = &body, .len = sizeof(body) };

	if (fd >= 0) {
		msg.fds[0] = fd;
		msg.nr_fds = 1;
	}
	return sys_socket_send(sock, &msg);
}

static int receive_event(int sock, struct warden_message *body, int *fd)
{
	struct sys_message msg = { .data = body, .len = sizeof(*body) };
	int ret = sys_socket_recv(sock, &msg);

	*fd = -1;
	if (ret)
		return ret;
	if (msg.nr_fds)
		*fd = msg.fds[0];
	return msg.len == sizeof(*body) ? 0 : -EPIPE;
}

/* ---------------------------------------------------------------- the program's side */

/* What was preloaded already stays, after ours. */
static int preload(const struct launch *launch)
{
	const char *others = getenv("LD_PRELOAD");
	char *list;
	int ret;

	if (!others || !*others)
		return setenv("LD_PRELOAD", launch->preload, 1);
	if (asprintf(&list, "%s:%s", launch->preload, others) < 0)
		return -1;
	ret = setenv("LD_PRELOAD", list, 1);
	free(list);
	return ret;
}

/*
 * The filter is installed here, before the program is there: it holds from the first
 * instruction on, whatever the program is. From then on malloc may need an answer, so
 * the listener is on its way first.
 */
static void become_program(const struct launch *launch, int sock)
{
	const char *slash = strrchr(launch->argv[0], '/');
	int listener = -EOPNOTSUPP;
	int ret;

	sys_name_process(slash ? slash + 1 : launch->argv[0]);
	if (launch->filter)
		listener = sys_seccomp_listen_tree(launch->new_memory);
	send_event(sock, WARDEN_FILTER, listener < 0 ? listener : 0, listener);
	sys_close(listener);
	if (listener >= 0 && (preload(launch) || setenv(AGENT_SOCKET_ENV, launch->socket, 1))) {
		send_event(sock, WARDEN_FAILED, -ENOMEM, -1);
		_exit(1);
	}
	sys_signals_restore(launch->signals);
	ret = sys_exec(launch->argv);
	send_event(sock, WARDEN_FAILED, ret, -1);
	_exit(1);
}

/* ---------------------------------------------------------------- the warden's side */

struct ward {
	int monitor;		/* socket */
	int signals;		/* of SIGCHLD */
	int listener;
	pid_t above, program;	/* the monitor's process, while it is our parent */
};

/* -EPIPE: the program's side has closed the socket; or the monitor is gone. */
static int hear(const struct ward *ward, int sock, struct warden_message *msg, int *fd)
{
	bool child = false, gone = false;

	*fd = -1;
	if (sys_poll2(sock, ward->monitor, -1, &child, &gone) < 0 || !child)
		return -EPIPE;
	return receive_event(sock, msg, fd);
}

/* Without a word from the program's side it has become the program. */
static void report_start(struct ward *ward, int sock)
{
	struct warden_message msg;
	int fd;

	if (hear(ward, sock, &msg, &fd) == 0 && msg.event == WARDEN_FILTER) {
		ward->listener = fd;
		send_event(ward->monitor, WARDEN_FILTER, msg.value, fd);
		if (hear(ward, sock, &msg, &fd) == 0) {
			send_event(ward->monitor, WARDEN_FAILED, msg.value, -1);
			return;
		}
	}
	send_event(ward->monitor, WARDEN_STARTED, ward->program, -1);
}

static void signal_monitor(const struct ward *ward, int sig)
{
	if (getppid() == ward->above)
		sys_kill(ward->above, sig);
}

/*
 * A job of a shell stops as one: what the shell looks at is the monitor. SIGSTOP is no
 * terminal's doing: who is no job in the foreground is stopped for others of its tree to
 * wake it, whose calls the monitor has to answer. Stopped and woken from here alone, the
 * two cannot change places.
 */
static void stop_monitor(const struct ward *ward, int sig)
{
	if (sys_same_group(ward->program) && (sig != SIGSTOP || sys_in_foreground()))
		signal_monitor(ward, SIGSTOP);
}

/* False: there are no children any more. */
static bool reap(const struct ward *ward)
{
	int status;
	pid_t pid;

	while ((pid = sys_wait_any(&status)) > 0) {
		if (pid != ward->program)
			continue;
		if (WIFSTOPPED(status)) {
			stop_monitor(ward, WSTOPSIG(status));
			continue;
		}
		/* That it went on is not told of who has ended since. */
		signal_monitor(ward, SIGCONT);
		if (!WIFCONTINUED(status))
			send_event(ward->monitor, WARDEN_ENDED, status, -1);
	}
	return pid != -ECHILD;
}

/* Whichever of them there are. */
static void remove_files(const struct launch *launch)
{
	sys_unlink(launch->socket);
	sys_unlink(launch->window);
	sys_unlink(launch->preload);
	sys_private_dir_remove(launch->dir);
}

static void fail_stop(const struct launch *launch)
{
	unsigned int nr;

	/* First the deed: its reader may be slow. */
	nr = sys_kill_descendants(AGENT_NAME);
	remove_files(launch);
	if (nr)
		say(SAY_ERROR, "the monitor is gone: the program and all that it started were ended");
}

/* To the end of the program and its monitor, whichever comes first: who is last cleans up. */
static void watch(const struct ward *ward, const struct launch *launch)
{
	struct sys_signal signal;
	bool signalled, gone = false;

	while (reap(ward)) {
		if (sys_poll2(ward->signals, ward->monitor, -1, &signalled, &gone) < 0)
			continue;
		while (signalled && sys_signal_read(ward->signals, &signal))
			;
		/* It sends nothing more: readable is closed. */
		if (gone) {
			fail_stop(launch);
			return;
		}
	}
	send_event(ward->monitor, WARDEN_EMPTY, 0, -1);
	while (!gone)
		if (sys_poll2(ward->monitor, ward->monitor, -1, &gone, &signalled) < 0)
			return;
	fail_stop(launch);
}

static void keep_own(struct ward *ward)
{
	int keep[3] = { ward->signals, ward->monitor, ward->listener };

	sys_detach_streams();
	sys_close_others(keep, 3);
	if (chdir("/"))
		say(SAY_WARNING, "warden: cannot leave its directory");
}

/* False: the monitor was ended while it made its files, or could not make them. */
static bool told_to_go(int monitor)
{
	struct warden_message msg;
	int fd;

	return receive_event(monitor, &msg, &fd) == 0 && msg.event == WARDEN_GO;
}

static void warden_main(const struct launch *launch, int monitor, pid_t above)
{
	struct ward ward = { .monitor = monitor, .listener = -1, .above = above };
	int socks[2];
	sigset_t mask;

	sys_name_process("uhmm-warden");
	sys_subreaper();
	if (!told_to_go(monitor)) {
		remove_files(launch);
		_exit(1);
	}
	if (sys_socket_pair(socks))
		_exit(1);
	ward.program = sys_fork(0);
	if (ward.program == 0) {
		sys_close(monitor);
		sys_close(socks[0]);
		become_program(launch, socks[1]);
	}
	sys_close(socks[1]);
	if (ward.program < 0) {
		send_event(monitor, WARDEN_FAILED, ward.program, -1);
		_exit(1);
	}
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	ward.signals = sys_signalfd(&mask, NULL);
	report_start(&ward, socks[0]);
	keep_own(&ward);
	watch(&ward, launch);
	_exit(0);
}

int warden_start(const struct launch *launch, struct warden *out)
{
	const pid_t self = getpid();
	int socks[2];
	int ret;

	ret = sys_socket_pair(socks);
	if (ret)
		return ret;
	/* Should the program start before the monitor says so, its calls wait. */
	ret = sys_subreaper();
	out->pid = ret ? ret : sys_fork(0);
	if (out->pid == 0) {
		sys_close(socks[0]);
		warden_main(launch, socks[1], self);
	}
	sys_close(socks[1]);
	if (out->pid < 0) {
		sys_close(socks[0]);
		return out->pid;
	}
	out->sock = socks[0];
	return 0;
}

int warden_go(const struct warden *warden)
{
	return send_event(warden->sock, WARDEN_GO, 0, -1);
}

int warden_receive(const struct warden *warden, struct warden_message *msg, int *fd)
{
	return receive_event(warden->sock, msg, fd);
}
