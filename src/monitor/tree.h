/* SPDX-License-Identifier: MIT */
/*
 * The processes of the tree, as far as they have made themselves known: by a call that
 * the filter announced, which each program makes within its first instructions of
 * libc, or by an agent that connected.
 *
 *	process		known from then on until it ends
 *	  space		the address space that it has now, if that is managed
 *
 * A process that shares another's memory (vfork, CLONE_VM) is a process without a space:
 * who makes a call is found by its memory, not by its number.
 */
#ifndef UHMM_MONITOR_TREE_H
#define UHMM_MONITOR_TREE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "monitor/pool.h"
#include "monitor/sharing.h"
#include "monitor/watch.h"

#define TREE_BUCKETS	512u
#define TREE_TASKS	4096u

struct process {
	struct watch watch;		/* of its pidfd */
	struct tree *tree;
	_Atomic uint32_t refs;
	pid_t pid;			/* immutable */
	pid_t parent;			/* when it became known */

	/* tree lock */
	struct process *next;		/* of the bucket */
	struct space *space;
	uint64_t exec_ns;		/* when it last asked to become another program; 0: looked after */
	bool joined;			/* an agent is or was in this program, or said why not */
	uint64_t compared;		/* number of a space: it shares none up to that but its own */
	struct space *lent;		/* another's, that it shares or shared; a reference, or NULL */
	char name[16];
};

struct tree {
	int epoll;			/* immutable; where pidfds are watched */
	struct pool *pool;		/* immutable */
	void (*ended)(struct watch *watch);	/* immutable; of each process */
	pid_t warden;			/* all of them are below it; 0: it has not started */

	pthread_mutex_t lock;		/* all that follows */
	struct process *buckets[TREE_BUCKETS];
	struct {
		pid_t tid;
		struct process *process;	/* a hint: checked where it matters */
	} tasks[TREE_TASKS];
	_Atomic bool full;		/* and that was said */
	uint64_t nr_seen;		/* processes that were ever known */
	uint64_t nr_plain;		/* ... and ended without an agent ever */
	uint64_t resident_bytes, resident_peak;	/* as last sampled */
	struct sharing sharing;		/* who samples */
};

void tree_init(struct tree *tree, int epoll, struct pool *pool,
	       void (*ended)(struct watch *watch));
void tree_destroy(struct tree *tree);

/*
 * The process that task @tid belongs to; it becomes known. 0 and a reference; or why none
 * was found, and NULL: -ESRCH: it is gone, -EMFILE, -ENFILE, -ENOMEM: nobody can tell now.
 */
int tree_find(struct tree *tree, pid_t tid, struct process **out);
int tree_find_anew(struct tree *tree, pid_t tid, struct process **out);	/* not by what was true */
void process_put(struct process *process);

/* Are there descriptors for one more to be served? Says once that there are not. */
bool tree_has_room(struct tree *tree);

/* It has ended: forget it. Takes the reference that the tree holds. */
void tree_remove(struct tree *tree, struct process *process);

/*
 * @process has that address space from now on (NULL: none); the one it had ends. Takes
 * the reference.
 */
void tree_attach(struct tree *tree, struct process *process, struct space *space);

/* Its agent has said why there is none. */
void tree_declined(struct tree *tree, struct process *process);

/*
 * The managed address space that task @tid of @process is in, with a reference, or NULL:
 * the process's own, one that waited for it since a fork, or another's that it shares.
 * *losing: its agent has been killed, or is about to be gone. 0, or as tree_find().
 */
int tree_space_of(struct tree *tree, struct process *process, pid_t tid, struct space **out,
		  bool *losing);

/* That of a task that is known and in its process's own; no program is waited for. Or NULL. */
struct space *tree_known_space(struct tree *tree, pid_t tid);

/* An agent has come to @process: does a space wait for it since a fork? With a reference. */
struct space *tree_claim(struct tree *tree, struct process *process);

/* It asks to become another program. */
void tree_exec(struct tree *tree, struct process *process);

/*
 * Who has become another program, its space ends. True: some have asked to lately,
 * so look again soon.
 */
bool tree_look_for_execs(struct tree *tree);

/*
 * Programs whose agent was killed cannot go on, nor can who shares their memory: end
 * them, and say so. Or those of @space; or @process, which had it, whether or not its
 * memory can be seen.
 */
void tree_end_orphans(struct tree *tree);
void tree_end_memory(struct tree *tree, struct space *space);
void tree_end_process(struct tree *tree, const struct process *process, struct space *space);

/* Processes as they are now, at most @max; how many. Each space is a reference, or NULL. */
struct tree_entry {
	pid_t pid;
	char name[16];
	struct space *space;
};
unsigned int tree_list(struct tree *tree, struct tree_entry *out, unsigned int max);

/* Sum up what is in RAM of all of them. One thread. */
void tree_sample(struct tree *tree);

#endif
