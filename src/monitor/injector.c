// SPDX-License-Identifier: MIT
#include "monitor/injector.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "monitor/log.h"
#include "sys/exec.h"
#include "sys/process.h"
#include "sys/sys.h"
#include "sys/tracee.h"

/* How often to look whether a thread has left its call without an event. */
#define LOOK_US		30u
#define LOOK_PATIENCE_NS	(3 * 1000000000ULL)

struct injection {
	const struct injector *injector;
	struct sys_notif notif;
	int uffd;		/* of the parent, where it is about a fork */
};

static void say_plain(pid_t tid, const char *why)
{
	struct sys_process who;

	if (!sys_process_of(tid, &who))
		say(SAY_DETAIL, "%s (%d) runs without device memory: %s", who.name,
		    (int)who.tgid, why);
}

/* ---------------------------------------------------------------- putting it in */

/* With the cookie: nobody needs to hear of it. */
static int64_t call(struct sys_tracee *t, long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
		    uint64_t e)
{
	uint64_t args[6] = { a, b, c, d, e, 0 };

	sys_seccomp_pass((int)nr, args);
	return sys_tracee_call(t, nr, args);
}

static int write_image(const struct injector *injector, const struct sys_tracee *t, uint64_t base,
		       const struct agent_entry *entry)
{
	const struct sys_image *image = &injector->image;
	char *bytes = sys_image_at(image, base);
	ssize_t done;

	if (!bytes)
		return -ENOMEM;
	done = sys_vm_write((int)t->tid, base, bytes, image->size);
	free(bytes);
	if (done != (ssize_t)image->size ||
	    sys_vm_write((int)t->tid, base + image->size, entry, sizeof(*entry)) !=
		    (ssize_t)sizeof(*entry))
		return -EFAULT;
	return 0;
}

/* The library and its stack, in what is reserved. */
static int place(const struct injector *injector, struct sys_tracee *t,
		 const struct agent_entry *entry)
{
	const struct sys_image *image = &injector->image;
	int64_t ret;

	ret = call(t, SYS_mprotect, entry->base, entry->image_bytes, PROT_READ | PROT_WRITE, 0, 0);
	if (!ret)
		ret = write_image(injector, t, entry->base, entry);
	if (!ret)
		ret = call(t, SYS_mprotect, entry->base + image->text,
			   image->text_end - image->text, PROT_READ | PROT_EXEC, 0, 0);
	return (int)ret;
}

static int start(const struct injector *injector, struct sys_tracee *t, struct agent_entry *entry)
{
	const uint64_t at = entry->base + injector->image.size;
	int ret;

	ret = place(injector, t, entry);
	if (!ret)
		ret = sys_tracee_run(t, entry->base + injector->image.entry, at,
				     entry->base + entry->image_bytes,
				     at + offsetof(struct agent_entry, done));
	if (ret)
		return ret;
	return sys_vm_read((int)t->tid, entry, at, sizeof(*entry)) == (ssize_t)sizeof(*entry) ?
	       0 : -EFAULT;
}

/* What it has not joined with goes. Why it has not, the door has said, if it came that far. */
static int inject_borrowed(const struct injector *injector, struct sys_tracee *t, int inherited)
{
	struct agent_entry entry = {
		.image_bytes = injector->image.size + AGENT_ENTRY_BYTES,
		.inherited = inherited,
	};
	const uint64_t bytes = entry.image_bytes + agent_bytes(injector->config);
	const int64_t base = call(t, SYS_mmap, 0, bytes, PROT_NONE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, (uint64_t)-1);
	int ret;

	if (base < 0 && base > -4096)
		return (int)base;
	entry.base = (uint64_t)base;
	snprintf(entry.path, sizeof(entry.path), "%s", injector->path);
	ret = start(injector, t, &entry);
	if (ret || !entry.joined)
		call(t, SYS_munmap, (uint64_t)base, bytes, 0, 0, 0);
	return ret;
}

/* @pid, a process of one thread, stands where it has been asked to. */
static void inject(const struct injector *injector, pid_t pid, int inherited)
{
	struct sys_tracee tracee;
	int ret;

	ret = sys_tracee_borrow(pid, &tracee);
	if (!ret) {
		ret = inject_borrowed(injector, &tracee, inherited);
		sys_tracee_return(&tracee);
	}
	if (ret && ret != -ESRCH)
		say_plain(pid, strerror(-ret));
}

/* ---------------------------------------------------------------- stopping it */

/*
 * The next stop of any that this thread traces. @notif's thread is asked to stop once it
 * is out of its call: then what was waited for did not happen.
 */
static bool next_stop(const struct sys_notif *notif, bool *asked, struct sys_stop *stop)
{
	const uint64_t start = sys_now_ns();

	while (!*asked) {
		if (!sys_trace_wait(0, stop, false))
			return false;
		if (stop->kind != STOP_NONE)
			return true;
		if (!sys_in_syscall(notif->tid, notif->nr) ||
		    sys_now_ns() - start > LOOK_PATIENCE_NS) {
			(void)sys_trace_interrupt((pid_t)notif->tid);
			*asked = true;
		} else {
			sys_rest(LOOK_US);
		}
	}
	return sys_trace_wait(0, stop, true);
}

/* From within the call that has made it another program, to its first instruction. */
static void *exec_main(void *arg)
{
	struct injection *in = arg;
	const int ret = sys_trace_exec((pid_t)in->notif.tid);
	bool asked = false, program = false;
	struct sys_stop stop;

	/* Before it goes on: it may end, and the monitor with it, before this thread is back. */
	if (ret)
		say_plain((pid_t)in->notif.tid, "it cannot be traced");
	sys_seccomp_continue(in->injector->listener, in->notif.id);
	while (!ret && next_stop(&in->notif, &asked, &stop)) {
		if (stop.kind == STOP_EXEC) {
			asked = true;
			program = sys_process_is_static(stop.tid);
			(void)sys_trace_interrupt(stop.tid);
		}
		if (stop.kind == STOP_ASKED) {
			if (program)
				inject(in->injector, stop.tid, -1);
			sys_trace_leave(stop.tid);
		} else if (stop.kind != STOP_ENDED) {
			sys_trace_go_on(&stop);
		}
	}
	free(in);
	return NULL;
}

/* A descriptor of a child, if it is a userfaultfd still. */
static int inherited(pid_t child, int uffd)
{
	return sys_has_uffd(child, uffd) ? uffd : -1;
}

/* Parent and child stop in any order; the parent need not wait. */
static void *fork_main(void *arg)
{
	struct injection *in = arg;
	const pid_t parent = (pid_t)in->notif.tid;
	const int ret = sys_trace_fork(parent);
	bool asked = false, left = false;
	struct sys_stop stop;
	pid_t child = 0;

	sys_seccomp_continue(in->injector->listener, in->notif.id);
	while (!ret && next_stop(&in->notif, &asked, &stop)) {
		if (stop.tid == parent && (stop.kind == STOP_CHILD || stop.kind == STOP_ASKED)) {
			sys_trace_leave(parent);
			asked = left = true;
		} else if (stop.tid != parent && stop.kind == STOP_ASKED) {
			child = stop.tid;
		} else if (stop.kind != STOP_ENDED) {
			sys_trace_go_on(&stop);
		} else {
			left |= stop.tid == parent;
		}
		if (!child || !left)
			continue;
		inject(in->injector, child, inherited(child, in->uffd));
		sys_trace_leave(child);
		child = 0;
	}
	free(in);
	return NULL;
}

/* ---------------------------------------------------------------- starting it */

static bool start_thread(void *(*fn)(void *), const struct injector *injector,
			 const struct sys_notif *notif, int uffd)
{
	struct injection *in = malloc(sizeof(*in));
	pthread_attr_t attr;
	pthread_t thread;
	int ret;

	if (!in)
		return false;
	*in = (struct injection){ .injector = injector, .notif = *notif, .uffd = uffd };
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	ret = pthread_create(&thread, &attr, fn, in);
	pthread_attr_destroy(&attr);
	if (ret)
		free(in);
	return !ret;
}

bool injector_exec(const struct injector *injector, const struct sys_notif *notif)
{
	return sys_exec_is_static(notif) && start_thread(exec_main, injector, notif, -1);
}

bool injector_fork(const struct injector *injector, const struct sys_notif *notif, int uffd)
{
	return start_thread(fork_main, injector, notif, uffd);
}

int injector_open(struct injector *injector, const char *preload, const char *path,
		  const struct agent_config *config)
{
	int ret = sys_image_load(preload, &injector->image);

	if (ret)
		return ret;
	injector->path = path;
	injector->config = config;
	injector->listener = -1;
	return 0;
}
