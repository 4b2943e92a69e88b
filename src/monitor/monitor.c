// SPDX-License-Identifier: MIT
#include "monitor/monitor.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <uhmm/remote.h>

#include "monitor/door.h"
#include "monitor/injector.h"
#include "monitor/listeners.h"
#include "monitor/log.h"
#include "monitor/map.h"
#include "monitor/protocol.h"
#include "monitor/trace.h"
#include "monitor/tree.h"
#include "monitor/view.h"
#include "monitor/warden.h"
#include "monitor/window.h"
#include "sys/message.h"
#include "sys/process.h"
#include "sys/sys.h"

#define EXEC_LOOK_MS	20
#define SAMPLE_MS	50
#define TRACED_SPACES	256u		/* whose places are looked at: the first of them */
#define SWEEP_MS	100
#define SWEEP_PIDS	4096
#define LIMBO_BLOCKS	8u
#define PROGRESS_MS	200
#define LEFT_MAX	1024u		/* processes that are signalled when the program has ended */

struct monitor {
	const struct monitor_opts *opts;
	struct monitor_result *result;
	int epoll;
	struct tree tree;
	struct pool pool;
	struct door door;
	struct window window;
	struct listeners listeners;
	struct injector injector;
	struct warden warden;
	struct watch warden_watch, signal_watch, exec_watch;
	struct sys_signals program_signals;	/* that the program is to have */
	pid_t program;			/* 0: not started, or ended */
	bool started;			/* it has been, whether or not it still runs */
	uint64_t early;			/* signals that came before: bit N - 1 is signal N */
	uint64_t start_ns, sample_ns, progress_ns, sweep_ns;	/* of the last one */
	bool execs;			/* look for them */
	bool empty;			/* nobody is left */
	int error;			/* why the monitor itself failed */
};

/* ---------------------------------------------------------------- the warden's word */

static void filter_result(struct monitor *m, int error, int fd)
{
	if (fd < 0) {
		say(SAY_DETAIL, "%s runs plain: its calls cannot be seen here (seccomp: %s)",
		    m->opts->argv[0], strerror(-error));
		return;
	}
	m->error = listeners_start(&m->listeners, fd, m->exec_watch.fd, &m->tree, &m->pool,
				   &m->injector);
	m->empty |= m->error != 0;
}

/* What was meant for it before we knew it. */
static void program_started(struct monitor *m, pid_t pid)
{
	m->program = pid;
	m->started = true;
	for (int sig = 1; sig <= 64; sig++)
		if (m->early & 1ULL << (sig - 1))
			sys_kill(pid, sig);
}

static void take_message(struct monitor *m, const struct warden_message *msg, int fd)
{
	switch (msg->event) {
	case WARDEN_FILTER:
		filter_result(m, msg->value, fd);
		break;
	case WARDEN_STARTED:
		program_started(m, msg->value);
		break;
	case WARDEN_FAILED:
		m->result->exec_error = msg->value;
		break;
	case WARDEN_ENDED:
		m->result->status = msg->value;
		m->program = 0;
		break;
	case WARDEN_EMPTY:
		m->empty = true;
		break;
	}
}

static void warden_ready(struct watch *watch)
{
	struct monitor *m = watch_owner(watch, struct monitor, warden_watch);
	struct warden_message msg;
	int fd;

	if (warden_receive(&m->warden, &msg, &fd) == 0) {
		take_message(m, &msg, fd);
		return;
	}
	sys_kill_descendants(AGENT_NAME);
	say(SAY_ERROR, "the warden is gone: the program and all that it started were ended");
	m->error = -ECANCELED;
	m->empty = true;
}

/* ---------------------------------------------------------------- signals */

/*
 * What a terminal sends, it sends to the program too; and what the program's own tree sends
 * to its group comes here as well. SIGPIPE and SIGXFSZ can be of a call of our own.
 */
static bool is_for_program(const struct monitor *m, const struct sys_signal *signal)
{
	return signal->nr != SIGCHLD && signal->by_user && signal->sender != getpid() &&
	       signal->sender != m->warden.pid &&
	       !sys_process_descends(signal->sender, m->warden.pid);
}

/* The program has ended, and what it has left behind is waited for. */
static void signal_the_rest(const struct monitor *m, int sig)
{
	pid_t rest[LEFT_MAX];
	unsigned int nr = sys_descendants(m->warden.pid, AGENT_NAME, rest, LEFT_MAX);

	while (nr)
		sys_kill(rest[--nr], sig);
}

/* Whoever signals `uhmm run` means the program. */
static void signal_ready(struct watch *watch)
{
	struct monitor *m = watch_owner(watch, struct monitor, signal_watch);
	struct sys_signal signal;

	while (sys_signal_read(watch->fd, &signal)) {
		if (!is_for_program(m, &signal))
			continue;
		if (!m->started)
			m->early |= 1ULL << (signal.nr - 1);
		else if (!m->program || sys_kill(m->program, signal.nr) == -ESRCH)
			signal_the_rest(m, signal.nr);
	}
}

/* All but those that mean a fault of our own. */
static int block_signals(struct monitor *m)
{
	static const int ours[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS };
	sigset_t mask;

	sigfillset(&mask);
	for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
		sigdelset(&mask, ours[i]);
	m->signal_watch.ready = signal_ready;
	m->signal_watch.fd = sys_signalfd(&mask, &m->program_signals);
	return m->signal_watch.fd < 0 ? m->signal_watch.fd : 0;
}

/* ---------------------------------------------------------------- processes */

static void process_ended(struct watch *watch)
{
	struct process *process = watch_owner(watch, struct process, watch);

	tree_remove(process->tree, process);
}

static void exec_asked(struct watch *watch)
{
	struct monitor *m = watch_owner(watch, struct monitor, exec_watch);

	sys_eventfd_clear(watch->fd);
	m->execs = true;
}

/* ---------------------------------------------------------------- the loop */

static void collect(struct monitor *m, struct monitor_stats *stats)
{
	const uint64_t page = sys_page_size();

	stats->elapsed_s = (double)(sys_now_ns() - m->start_ns) / 1e9;
	stats->processes = m->tree.nr_seen;
	stats->plain_processes = m->tree.nr_plain;
	stats->changes = atomic_load_explicit(&m->listeners.nr_calls, memory_order_relaxed);
	stats->resident_bytes = m->tree.resident_bytes;
	stats->resident_peak = m->tree.resident_peak;
	pool_stats(&m->pool, &stats->pages);
	pool_fault_times(&m->pool, &stats->faults);
	stats->device_bytes = stats->pages.device_pages * page;
	stats->device_peak = m->pool.device_pages_peak * page;
	stats->device = m->pool.device_open ? m->pool.plugin->name : NULL;
}

/* ---------------------------------------------------------------- the view from outside */

static void look(struct window *window, struct window_view *view)
{
	struct monitor *m = watch_owner(window, struct monitor, window);
	struct monitor_stats stats;

	tree_sample(&m->tree);
	collect(m, &stats);
	view->start_ns = m->start_ns;
	snprintf(view->program, sizeof(view->program), "%s", m->opts->argv[0]);
	view_policy(view, m->opts->policy);
	view_totals(view, &stats);
	if (stats.device)
		view_device(view, &stats, m->pool.device_pages * sys_page_size());
	view_processes(view, &m->tree);
}

static void look_closer(struct window *window, pid_t pid, struct window_map *map)
{
	map_process(map, &watch_owner(window, struct monitor, window)->tree, pid);
}

/* Processes that nobody has heard of, and spaces that nobody has claimed. */
static void sweep(struct monitor *m)
{
	pid_t pids[SWEEP_PIDS];
	struct process *process;
	unsigned int nr;

	tree_end_orphans(&m->tree);
	if (!pool_has_pending(&m->pool))
		return;
	nr = sys_descendants(m->warden.pid, AGENT_NAME, pids, SWEEP_PIDS);
	for (unsigned int i = 0; i < nr; i++) {
		if (!tree_find_anew(&m->tree, pids[i], &process))
			space_put(tree_claim(&m->tree, process));
		process_put(process);
	}
	if (nr < SWEEP_PIDS)
		pool_forget_pending(&m->pool);
}

static void trace_sample(struct monitor *m, uint64_t device_bytes)
{
	static struct space *spaces[TRACED_SPACES];
	const unsigned int nr = pool_spaces(&m->pool, spaces, TRACED_SPACES);

	trace_memory(m->pool.trace, m->tree.resident_bytes, device_bytes);
	for (unsigned int i = 0; i < nr; i++) {
		(void)hmm_trace_away(spaces[i]->mm);
		space_put(spaces[i]);
	}
}

static void tick(struct monitor *m)
{
	struct monitor_stats stats;
	uint64_t now = sys_now_ns();

	if (m->execs)
		m->execs = tree_look_for_execs(&m->tree);
	if (m->opts->sample && now - m->sample_ns >= SAMPLE_MS * 1000000ULL) {
		m->sample_ns = now;
		tree_sample(&m->tree);
		pool_stats(&m->pool, &stats.pages);	/* for its peak */
		if (m->pool.trace)
			trace_sample(m, stats.pages.device_pages * sys_page_size());
	}
	if (m->pool.manages && now - m->sweep_ns >= SWEEP_MS * 1000000ULL) {
		m->sweep_ns = now;
		sweep(m);
	}
	if (m->opts->progress && now - m->progress_ns >= PROGRESS_MS * 1000000ULL) {
		m->progress_ns = now;
		collect(m, &stats);
		m->opts->progress(m->opts->ctx, &stats);
	}
}

static int patience_ms(const struct monitor *m)
{
	if (m->execs)
		return EXEC_LOOK_MS;
	if (m->opts->sample)
		return SAMPLE_MS;
	if (m->pool.manages)
		return SWEEP_MS;
	return m->opts->progress ? PROGRESS_MS : -1;
}

static void loop(struct monitor *m)
{
	struct watch *watch;
	uint64_t data;

	while (!m->empty && !m->door.error) {
		/* One at a time: what one does may end another. */
		if (sys_epoll_wait(m->epoll, &data, 1, patience_ms(m)) > 0) {
			watch = (struct watch *)(uintptr_t)data;
			watch->ready(watch);
		}
		tick(m);
	}
}

/* ---------------------------------------------------------------- life */

/* What was inherited is the program's: pipes must close when it closes them. */
static void let_go(const struct monitor *m)
{
	int keep[] = { m->epoll, m->door.watch.fd, m->signal_watch.fd, m->exec_watch.fd,
		       m->warden.sock, m->opts->keep_fd, m->opts->trace_fd, m->window.watch.fd };

	sys_raise_descriptors();	/* the program has its own limit by now */
	sys_detach_streams();
	sys_close_others(keep, ARRAY_SIZE(keep));
}

static int launch(struct monitor *m)
{
	const struct launch launch = {
		.argv = m->opts->argv,
		.filter = true,
		.new_memory = m->opts->policy->ops && m->opts->policy->ops->begin,
		.preload = m->door.preload,
		.socket = m->door.path,
		.window = m->window.path,
		.dir = m->door.dir,
		.signals = &m->program_signals,
	};
	int ret;

	m->start_ns = sys_now_ns();
	ret = warden_start(&launch, &m->warden);
	m->tree.warden = m->warden.pid;
	if (!ret)
		ret = door_open(&m->door, m->opts->preload);
	if (!ret)
		ret = window_open(&m->window);
	if (!ret)
		ret = warden_go(&m->warden);
	if (ret)
		return ret;
	let_go(m);
	m->warden_watch.fd = m->warden.sock;
	m->warden_watch.ready = warden_ready;
	ret = sys_epoll_add(m->epoll, m->warden.sock, (uintptr_t)&m->warden_watch);
	if (!ret)
		ret = door_serve(&m->door, &m->tree, &m->pool, m->warden.pid);
	return ret ? ret : window_serve(&m->window, m->epoll, look, look_closer);
}

/* What the monitor waits for before there is a program. */
static int prepare(struct monitor *m)
{
	int ret;

	m->epoll = sys_epoll_open();
	if (m->epoll < 0)
		return m->epoll;
	tree_init(&m->tree, m->epoll, &m->pool, process_ended);
	ret = block_signals(m);
	if (ret)
		return ret;
	m->exec_watch.ready = exec_asked;
	m->exec_watch.fd = sys_eventfd();
	if (m->exec_watch.fd < 0)
		return m->exec_watch.fd;
	ret = sys_epoll_add(m->epoll, m->exec_watch.fd, (uintptr_t)&m->exec_watch);
	return ret ? ret : sys_epoll_add(m->epoll, m->signal_watch.fd, (uintptr_t)&m->signal_watch);
}

/* The program is not ours to keep waiting: the warden ends what it has started. */
static void give_up(struct monitor *m)
{
	sys_close(m->warden.sock);
	sys_reap(m->warden.pid);
}

/* What agents are to do. */
static void instruct(struct monitor *m)
{
	m->door.config = (struct agent_config){
		.version = AGENT_VERSION,
		.shm_bytes = AGENT_SHM_BYTES,
	};
	if (!m->pool.manages)
		return;
	m->door.config.serve_forks = 1;
	m->door.config.uffd_features = hmm_remote_features();
	m->door.config.uffd_optional = UFFD_FEATURE_EVENT_FORK;
	m->door.config.limbo_block = 512 * sys_page_size();
	m->door.config.limbo_bytes = LIMBO_BLOCKS * m->door.config.limbo_block;
}

/* Nobody is left, or has to be. Who still waits for an answer does so in vain. */
static int wind_up(struct monitor *m)
{
	int ret, traced;

	policy_stop(m->opts->policy);
	listeners_forget(&m->listeners);
	tree_destroy(&m->tree);
	window_close(&m->window);
	door_close(&m->door);
	pool_end(&m->pool);
	collect(m, &m->result->stats);
	ret = pool_close(&m->pool);
	traced = trace_close(m->pool.trace);
	if (traced)
		say(SAY_ERROR, "the trace could not be written: %s", strerror(-traced));
	sys_close(m->epoll);
	return m->error ? m->error : m->door.error ? m->door.error : ret;
}

int monitor_run(const struct monitor_opts *opts, struct monitor_result *result)
{
	static struct monitor m;	/* listeners may outlive the call */
	int ret;

	m = (struct monitor){ .opts = opts, .result = result };
	memset(result, 0, sizeof(*result));
	ret = pool_open(&m.pool, opts->policy->ops ? opts->device : NULL);
	if (ret) {
		result->bad_device = ret == -EINVAL;
		return -ECANCELED;
	}
	instruct(&m);
	ret = opts->trace_fd < 0 ? 0 : trace_open(opts->trace_fd, &m.pool.trace);
	if (!ret)
		ret = prepare(&m);
	if (!ret)
		ret = injector_open(&m.injector, opts->preload, m.door.path, &m.door.config);
	if (!ret)
		ret = door_name(&m.door);
	if (ret)
		return ret;
	window_name(&m.window, m.door.dir);
	ret = launch(&m);
	if (!ret && m.pool.trace)
		ret = trace_start(m.pool.trace);
	if (!ret)
		ret = policy_start(opts->policy, &m.pool);
	if (!ret)
		loop(&m);
	if (m.warden.pid > 0)
		give_up(&m);
	m.error = ret ? ret : m.error;
	return wind_up(&m);
}
