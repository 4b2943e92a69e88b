/* SPDX-License-Identifier: MIT */
/*
 * Other processes: who they are, whether they live, starting and ending them.
 */
#ifndef UHMM_SYS_PROCESS_H
#define UHMM_SYS_PROCESS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sys_process {
	pid_t tgid;		/* the process that the task belongs to */
	pid_t ppid;
	char name[16];
	bool zombie;		/* ended, all of it, and nobody has asked for its status */
};

/* What /proc says of a process or thread. -ESRCH: there is none. */
int sys_process_of(pid_t tid, struct sys_process *out);

/* Is @ancestor among the parents of @pid? */
bool sys_process_descends(pid_t pid, pid_t ancestor);

/* Processes below @pid, but zombies and those named @but; how many, at most @max. */
unsigned int sys_descendants(pid_t pid, const char *but, pid_t *out, unsigned int max);

/* 1: the tasks share their memory, 0: they do not, -ESRCH, -EPERM. */
int sys_same_memory(pid_t a, pid_t b);

/*
 * Does a thread of @process share @task's? The first one may have ended before the others.
 * A task that has let go of its memory shares it with nobody.
 */
bool sys_process_shares(pid_t process, pid_t task);

/* Does @is say so of any thread of @process? */
bool sys_any_thread(pid_t process, bool (*is)(pid_t tid, const void *ctx), const void *ctx);

/* Is number @fd of @pid's descriptors a userfaultfd? */
bool sys_has_uffd(pid_t pid, int fd);

/* Has process @pid let go of its memory? It does before it is seen to have ended. */
bool sys_memory_gone(pid_t pid, int pidfd);

int sys_pidfd_open(pid_t pid);			/* O_CLOEXEC; readable once it has ended */
int sys_pidfd_kill(int pidfd, int sig);

/*
 * fork(2). For a process of one thread. The child has @parent_death (0: none) sent to
 * it when the calling thread ends, even if that happened before it could ask.
 */
pid_t sys_fork(int parent_death);

/* Is @pid, a process, in our process group? */
bool sys_same_group(pid_t pid);

int sys_kill(pid_t pid, int sig);

/* Is our process group the one in the foreground of its terminal? */
bool sys_in_foreground(void);

/* Wait for @pid, a child. */
void sys_reap(pid_t pid);

/*
 * Private memory of @pid in bytes, as the kernel counts it; all 0: it has none any more.
 * 0, or a negative errno and all 0.
 */
struct sys_memory {
	uint64_t resident;	/* anonymous, in RAM */
	uint64_t writable;	/* address space; stacks too */
};
int sys_memory_of(pid_t pid, struct sys_memory *out);

/*
 * Of what is resident, the process's part: what it shares with n others counts for an
 * n-th. Goes through its page tables. 0, or a negative errno; -ENOENT: no such kernel.
 */
int sys_memory_share(pid_t pid, uint64_t *bytes);

/* Faults of @pid's threads so far; 0: it is gone. */
uint64_t sys_faults(pid_t pid);

/* Where this program's file lies, without a link in it. */
int sys_program_path(char *path, size_t size);
bool sys_file_exists(const char *path);

/* Can LD_PRELOAD name it? Blanks and colons end a name there, $ begins what is replaced. */
bool sys_preload_names(const char *path);

/* Become @argv[0], found along PATH. Returns a negative errno or not at all. */
int sys_exec(char *const argv[]);

/* Orphans of our descendants become our children. */
int sys_subreaper(void);

/* The next child that ended, stopped or went on; does not block. 0: none now. -ECHILD: no children. */
pid_t sys_wait_any(int *status);

/*
 * SIGKILL for every process below this one, again and again until none is left. Those
 * named @last (uhmm's agents hold what the others must not lose) go after the others.
 * None of them can fork meanwhile, if their filter's listener is held and not served.
 * For a subreaper alone, whose children all orphans become. Returns how many there were.
 */
unsigned int sys_kill_descendants(const char *last);

void sys_name_process(const char *name);

/* Have task @tid (0: this one) preferred by the scheduler, where this user may. */
void sys_prefer(pid_t tid);

/* Close all descriptors from 3 on but the @nr in @keep, which are sorted. */
void sys_close_others(int *keep, unsigned int nr);

/* As many descriptors as this process may have. */
void sys_raise_descriptors(void);

/* How many that is, or is by now. */
unsigned int sys_descriptors_limit(void);

/* Could it have @nr more now? At most 32 are tried, as copies of @fd. */
bool sys_descriptors_left(int fd, unsigned int nr);

/* Standard input and output: /dev/null from now on. */
void sys_detach_streams(void);

/* What a program inherits of signals, and we have changed for ourselves. */
struct sys_signals {
	sigset_t mask;
	bool no_children;	/* SIGCHLD is ignored: children leave neither it nor a status */
};

/*
 * Block @mask, for this thread and those it starts, and return a descriptor that tells
 * of its signals (O_CLOEXEC, O_NONBLOCK). SIGCHLD, if it is one of them, is ignored no
 * more. *@old (NULL: of no interest) is how it was before.
 */
int sys_signalfd(const sigset_t *mask, struct sys_signals *old);
void sys_signals_restore(const struct sys_signals *old);

struct sys_signal {
	int nr;
	bool by_user;		/* sent by a process, not by the kernel (a terminal) */
	pid_t sender;
};

/* 1: one was read; 0: there is none. */
int sys_signal_read(int signalfd, struct sys_signal *out);

#endif
