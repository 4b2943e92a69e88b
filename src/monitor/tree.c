// SPDX-License-Identifier: MIT
#include "monitor/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/log.h"
#include "monitor/protocol.h"
#include "monitor/trace.h"
#include "sys/message.h"
#include "sys/process.h"
#include "sys/sys.h"

/* An exec that has not happened by then has failed. */
#define EXEC_PATIENCE_NS	(2 * 1000000000ULL)
#define LEFT_AT_ONCE	32u

/*
 * What a process comes to take: of one that has just been forked most is opened later. And
 * what is free besides: nobody who only looks into /proc may fail for want of one.
 */
#define SPACE_FDS	12u
#define OTHER_FDS	32u
#define ROOM_FDS	24u

/* Who has memory that its process has left, or its agent, is looked for that often. */
#define LOOK_TRIES	20
#define LOOK_AGAIN_US	500u
#define LOOK_PIDS	4096u

#define SAMPLED		4096u		/* processes, of those that there are */
#define SHARING_REST	10u		/* times as long as it took to see what they share */

void tree_init(struct tree *tree, int epoll, struct pool *pool,
	       void (*ended)(struct watch *watch))
{
	memset(tree, 0, sizeof(*tree));
	tree->epoll = epoll;
	tree->pool = pool;
	tree->ended = ended;
	pthread_mutex_init(&tree->lock, NULL);
}

static struct process **bucket(struct tree *tree, pid_t pid)
{
	return &tree->buckets[(uint32_t)pid % TREE_BUCKETS];
}

bool tree_has_room(struct tree *tree)
{
	const unsigned int spaces = atomic_load_explicit(&tree->pool->nr_spaces,
							 memory_order_relaxed);

	if (OTHER_FDS + (spaces + 1) * SPACE_FDS <= sys_descriptors_limit() &&
	    sys_descriptors_left(tree->epoll, ROOM_FDS))
		return true;
	if (!atomic_exchange(&tree->full, true))
		say(SAY_WARNING, "the monitor has no descriptors left to serve more processes: forks "
		    "fail (EAGAIN), new programs run plain; a higher hard limit would help "
		    "(ulimit -Hn)");
	return false;
}

static struct process *get(struct process *process)
{
	atomic_fetch_add_explicit(&process->refs, 1, memory_order_relaxed);
	return process;
}

void process_put(struct process *process)
{
	if (!process || atomic_fetch_sub_explicit(&process->refs, 1, memory_order_acq_rel) != 1)
		return;
	space_put(process->lent);
	sys_close(process->watch.fd);
	free(process);
}

/* Tree lock held. */
static struct process *known(struct tree *tree, pid_t pid)
{
	struct process *process = *bucket(tree, pid);

	while (process && process->pid != pid)
		process = process->next;
	return process;
}

/* Tree lock held. The number is not used again while its pidfd says that it lives. */
static int add(struct tree *tree, const struct sys_process *who, struct process **out)
{
	struct process *process = calloc(1, sizeof(*process));
	int pidfd, ret;

	if (!process)
		return -ENOMEM;
	pidfd = sys_pidfd_open(who->tgid);
	process->watch.fd = pidfd;
	process->watch.ready = tree->ended;
	process->tree = tree;
	ret = pidfd < 0 ? pidfd : sys_epoll_add(tree->epoll, pidfd, (uintptr_t)&process->watch);
	if (ret) {
		sys_close(pidfd);
		free(process);
		return ret;
	}
	atomic_init(&process->refs, 1);
	process->pid = who->tgid;
	process->parent = who->ppid;
	/* A forked child is the same program. */
	process->joined = known(tree, who->ppid) && known(tree, who->ppid)->joined;
	memcpy(process->name, who->name, sizeof(process->name));
	process->next = *bucket(tree, process->pid);
	*bucket(tree, process->pid) = process;
	tree->nr_seen++;
	*out = process;
	return 0;
}

/* /proc is read without the lock: other callers need not wait for it. */
int tree_find_anew(struct tree *tree, pid_t tid, struct process **out)
{
	struct sys_process who;
	struct process *process;
	int ret = sys_process_of(tid, &who);

	*out = NULL;
	if (ret)
		return ret == -ENOENT ? -ESRCH : ret;
	pthread_mutex_lock(&tree->lock);
	process = known(tree, who.tgid);
	if (!process)
		ret = add(tree, &who, &process);
	if (!ret) {
		tree->tasks[(uint32_t)tid % TREE_TASKS].tid = tid;
		tree->tasks[(uint32_t)tid % TREE_TASKS].process = process;
		*out = get(process);
	}
	pthread_mutex_unlock(&tree->lock);
	return ret;
}

/* Tree lock held. */
static struct process *remembered(const struct tree *tree, pid_t tid)
{
	const unsigned int i = (uint32_t)tid % TREE_TASKS;

	return tree->tasks[i].tid == tid ? tree->tasks[i].process : NULL;
}

int tree_find(struct tree *tree, pid_t tid, struct process **out)
{
	pthread_mutex_lock(&tree->lock);
	*out = remembered(tree, tid);
	if (*out)
		get(*out);
	pthread_mutex_unlock(&tree->lock);
	return *out ? 0 : tree_find_anew(tree, tid, out);
}

/* Tree lock held. */
static void forget_tasks(struct tree *tree, const struct process *process)
{
	for (unsigned int i = 0; i < TREE_TASKS; i++)
		if (tree->tasks[i].process == process)
			memset(&tree->tasks[i], 0, sizeof(tree->tasks[i]));
}

static void learn_name(struct process *process)
{
	struct sys_process who;

	if (!sys_process_of(process->pid, &who))
		memcpy(process->name, who.name, sizeof(process->name));
}

/* @process has @space from now on: the one that it had, with its reference, or NULL. */
static struct space *exchange(struct tree *tree, struct process *process, struct space *space)
{
	struct space *old;

	pthread_mutex_lock(&tree->lock);
	old = process->space == space ? NULL : process->space;
	if (process->space == space)
		space_put(space);	/* it has a reference already */
	process->space = space;
	if (space) {
		learn_name(process);
		trace_name(tree->pool->trace, hmm_mm_id(space->mm), process->pid, process->name);
	}
	process->joined |= space != NULL;
	pthread_mutex_unlock(&tree->lock);
	return old;
}

/* Whom it finds of those who have that memory. How many; @who: one of them. */
static unsigned int end_round(struct tree *tree, struct space *space, struct sys_process *who)
{
	pid_t pids[LOOK_PIDS];
	unsigned int nr = sys_descendants(tree->warden, AGENT_NAME, pids, LOOK_PIDS), ended = 0;

	while (nr--) {
		int pidfd = sys_pidfd_open(pids[nr]);

		if (pidfd >= 0 && space_has_process(space, pids[nr]) &&
		    !sys_process_of(pids[nr], who)) {
			sys_pidfd_kill(pidfd, SIGKILL);
			ended++;
		}
		sys_close(pidfd);
	}
	return ended;
}

static void say_ended(struct space *space, const char *name, pid_t pid)
{
	if (space_say_lost(space))
		say(SAY_ERROR, "the agent of %s (%d) was killed: ended the program, "
		    "whose memory it held", name, (int)pid);
}

/*
 * For a moment, until it finds nobody any more: one who was ended may have made another
 * before. Where /proc hides one, as while a parent of its ends, others look again.
 */
void tree_end_memory(struct tree *tree, struct space *space)
{
	struct sys_process who;

	for (int i = 0; i < LOOK_TRIES && end_round(tree, space, &who); i++) {
		say_ended(space, who.name, who.tgid);
		sys_rest(LOOK_AGAIN_US);
	}
}

void tree_end_process(struct tree *tree, const struct process *process, struct space *space)
{
	char name[sizeof(process->name)];

	pthread_mutex_lock(&tree->lock);
	memcpy(name, process->name, sizeof(name));
	pthread_mutex_unlock(&tree->lock);
	if (sys_pidfd_kill(process->watch.fd, SIGKILL) == 0)
		say_ended(space, name, process->pid);
}

static void leave(struct tree *tree, struct space *space, int tries);

/* Has it a space of the memory that it has now, other than @space? Then it needs no second. */
static bool has_another(struct tree *tree, const struct process *process, const struct space *space)
{
	struct space *own = NULL;
	bool has;

	pthread_mutex_lock(&tree->lock);
	if (process->space && process->space != space)
		own = space_get(process->space);
	pthread_mutex_unlock(&tree->lock);
	has = own && space_has_process(own, process->pid);
	space_put(own);
	return has;
}

/* Somebody who has it still has @space from now on, and the reference. False: nobody is found. */
static bool find_heir(struct tree *tree, struct space *space)
{
	pid_t pids[LOOK_PIDS];
	unsigned int nr = sys_descendants(tree->warden, AGENT_NAME, pids, LOOK_PIDS);
	struct process *heir = NULL;
	struct space *old;
	bool found;

	while (nr-- && !heir)
		if (space_has_process(space, pids[nr]))
			(void)tree_find_anew(tree, pids[nr], &heir);
	found = heir && !has_another(tree, heir, space) && space_inherit(space, heir->pid) == 0;
	if (found && (old = exchange(tree, heir, space)))
		leave(tree, old, 0);
	process_put(heir);
	return found;
}

/*
 * The process that had that memory has left it, by its end or by an exec. Another can
 * have it still, whom it made by clone(CLONE_VM), or by a vfork from which it was killed:
 * then it is that one's from now on, or ends with it where its agent is lost. While
 * somebody has it that cannot be found it does not end, and is looked after again with the
 * abandoned; so it is at once where there are no @tries. Takes the reference.
 */
static void leave(struct tree *tree, struct space *space, int tries)
{
	bool shared = space_is_shared(space);

	/* The one seen sharing it may be making another and ending itself. */
	for (int i = 0; i < tries && shared; i++) {
		if (find_heir(tree, space))
			return;
		sys_rest(LOOK_AGAIN_US);
		shared = space_is_shared(space);
	}
	if (space_losing(space)) {
		tree_end_memory(tree, space);
		shared = space_in_use(space);
	}
	if (shared && space->mm)
		space_abandon(space);
	else
		space_end(space);
	space_put(space);
}

void tree_attach(struct tree *tree, struct process *process, struct space *space)
{
	struct space *old = exchange(tree, process, space);

	pthread_mutex_lock(&tree->lock);
	process->exec_ns = 0;
	pthread_mutex_unlock(&tree->lock);
	if (old)
		leave(tree, old, LOOK_TRIES);
}

/* With its reference, or NULL. */
static struct space *take_space(struct tree *tree, struct process *process)
{
	struct space *space;

	pthread_mutex_lock(&tree->lock);
	space = process->space;
	process->space = NULL;
	pthread_mutex_unlock(&tree->lock);
	return space;
}

void tree_remove(struct tree *tree, struct process *process)
{
	struct space *space = take_space(tree, process);
	struct process **at;
	bool plain;

	if (space)
		leave(tree, space, LOOK_TRIES);
	pthread_mutex_lock(&tree->lock);
	for (at = bucket(tree, process->pid); *at != process; at = &(*at)->next)
		;
	*at = process->next;
	forget_tasks(tree, process);
	plain = !process->joined;
	tree->nr_plain += plain;
	pthread_mutex_unlock(&tree->lock);
	if (plain)
		say(SAY_DETAIL, "%s (%d) ran without device memory: no agent came (a setuid program, "
		    "one of a foreign kind, or one started without LD_PRELOAD)", process->name,
		    (int)process->pid);
	sys_epoll_remove(tree->epoll, process->watch.fd);
	process_put(process);
}

void tree_destroy(struct tree *tree)
{
	for (unsigned int i = 0; i < TREE_BUCKETS; i++)
		while (tree->buckets[i])
			tree_remove(tree, tree->buckets[i]);
	pthread_mutex_destroy(&tree->lock);
}

void tree_declined(struct tree *tree, struct process *process)
{
	pthread_mutex_lock(&tree->lock);
	process->joined = true;
	pthread_mutex_unlock(&tree->lock);
}

/* A process's, with a reference, or NULL. */
static struct space *reference(struct tree *tree, struct space *const *at)
{
	struct space *space;

	pthread_mutex_lock(&tree->lock);
	space = *at ? space_get(*at) : NULL;
	pthread_mutex_unlock(&tree->lock);
	return space;
}

static struct space *own_space(struct tree *tree, const struct process *process)
{
	return reference(tree, &process->space);
}

struct space *tree_claim(struct tree *tree, struct process *process)
{
	struct space *space = own_space(tree, process);

	if (space && space_has(space, process->pid))
		return space;
	space_put(space);
	space = pool_claim(tree->pool, process->pid);
	if (space)
		tree_attach(tree, process, space_get(space));
	return space;
}

static struct space *space_of_parent(struct tree *tree, struct process *process)
{
	struct process *parent;
	struct space *space;

	pthread_mutex_lock(&tree->lock);
	parent = known(tree, process->parent);
	space = parent && parent->space ? space_get(parent->space) : NULL;
	pthread_mutex_unlock(&tree->lock);
	return space;
}

static bool asks_to_exec(struct tree *tree, const struct process *process)
{
	bool asks;

	pthread_mutex_lock(&tree->lock);
	asks = process->exec_ns != 0;
	pthread_mutex_unlock(&tree->lock);
	return asks;
}

/*
 * Has the process still the memory that it had? Where that cannot be compared, as with a
 * program that made itself undumpable, it has, unless it has become another program: then
 * nobody shares it with the agent.
 */
static bool keeps(struct space *space, int relation, bool asks)
{
	if (relation != SPACE_OTHER)
		return relation > SPACE_OTHER || !asks || space_losing(space) ||
		       space_is_shared(space);
	return false;
}

/* Its own all the same, perhaps without its agent. */
static struct space *doubtful_space(struct tree *tree, struct process *process, pid_t tid,
				    bool *losing)
{
	struct space *space = own_space(tree, process);

	if (space && keeps(space, space_relation(space, tid), asks_to_exec(tree, process))) {
		*losing = space_losing(space);
		return space;
	}
	space_put(space);
	return NULL;
}

/* What it was found to share before. */
static struct space *lent_space(struct tree *tree, const struct process *process)
{
	return reference(tree, &process->lent);
}

/* It shares @space, or else none up to number @compared. */
static void note_lent(struct tree *tree, struct process *process, struct space *space,
		      uint64_t compared)
{
	struct space *old = NULL;

	pthread_mutex_lock(&tree->lock);
	if (space) {
		old = process->lent;
		process->lent = space_get(space);
	} else if (compared > process->compared) {
		process->compared = compared;
	}
	pthread_mutex_unlock(&tree->lock);
	space_put(old);
}

/*
 * That of who has made it, as after vfork; or else any. What it does not share now it
 * never will, since a process changes its memory for a new one only.
 */
static struct space *shared_space(struct tree *tree, struct process *process, pid_t tid,
				  bool *losing)
{
	struct space *space = space_of_parent(tree, process);
	uint64_t compared;

	if (space && space_has(space, tid))
		return space;
	space_put(space);
	space = lent_space(tree, process);
	if (space && space_has(space, tid))
		return space;
	space_put(space);
	pthread_mutex_lock(&tree->lock);
	compared = process->compared;
	pthread_mutex_unlock(&tree->lock);
	space = pool_find(tree->pool, tid, &compared, losing);
	note_lent(tree, process, space, compared);
	return space;
}

/* What the table of tasks said is a hint: a number may be another's by now. */
static int space_of_stranger(struct tree *tree, pid_t tid, struct space **out, bool *losing)
{
	struct process *process;
	int ret = tree_find_anew(tree, tid, &process);

	*out = NULL;
	if (ret)
		return ret;
	*out = tree_claim(tree, process);
	if (!*out)
		*out = doubtful_space(tree, process, tid, losing);
	if (!*out)
		*out = shared_space(tree, process, tid, losing);
	process_put(process);
	return 0;
}

struct space *tree_known_space(struct tree *tree, pid_t tid)
{
	struct process *process;
	struct space *space;

	pthread_mutex_lock(&tree->lock);
	process = remembered(tree, tid);
	space = process && process->space ? space_get(process->space) : NULL;
	pthread_mutex_unlock(&tree->lock);
	/* To compare with one that nobody has joined takes its mm's lock. */
	if (!space || (space_joined(space) && space_has(space, tid)))
		return space;
	space_put(space);
	return NULL;
}

int tree_space_of(struct tree *tree, struct process *process, pid_t tid, struct space **out,
		  bool *losing)
{
	*losing = false;
	*out = own_space(tree, process);
	if (*out && space_has(*out, tid))
		return 0;
	space_put(*out);
	return space_of_stranger(tree, tid, out, losing);
}

void tree_exec(struct tree *tree, struct process *process)
{
	pthread_mutex_lock(&tree->lock);
	process->exec_ns = sys_now_ns();
	process->joined &= process->space != NULL;
	pthread_mutex_unlock(&tree->lock);
}

/* Who asked to become another program, and the space that is left if it has. */
struct leaver {
	struct process *process;
	struct space *space;
};

/* With references. *again: some have to be looked at again. */
static unsigned int list_leavers(struct tree *tree, struct leaver *out, unsigned int max,
				 bool *again)
{
	const uint64_t now = sys_now_ns();
	struct process *process;
	unsigned int nr = 0;

	pthread_mutex_lock(&tree->lock);
	for (unsigned int i = 0; i < TREE_BUCKETS; i++) {
		for (process = tree->buckets[i]; process && nr < max; process = process->next) {
			if (!process->exec_ns)
				continue;
			learn_name(process);
			*again = true;
			if (process->space)
				out[nr++] = (struct leaver){ get(process),
							     space_get(process->space) };
			if (!process->space || now - process->exec_ns > EXEC_PATIENCE_NS)
				process->exec_ns = 0;
		}
	}
	pthread_mutex_unlock(&tree->lock);
	return nr;
}

/* It has become another program: it has not that space any more. */
static void has_left(struct tree *tree, struct process *process, struct space *space)
{
	bool has;

	pthread_mutex_lock(&tree->lock);
	has = process->space == space;
	if (has) {
		process->space = NULL;
		process->exec_ns = 0;
		process->joined = false;
	}
	pthread_mutex_unlock(&tree->lock);
	if (has)
		leave(tree, space, LOOK_TRIES);
}

bool tree_look_for_execs(struct tree *tree)
{
	struct leaver leavers[LEFT_AT_ONCE];
	bool again = false;
	unsigned int nr = list_leavers(tree, leavers, LEFT_AT_ONCE, &again);

	while (nr--) {
		struct leaver *l = &leavers[nr];

		if (!space_has_process(l->space, l->process->pid) &&
		    !keeps(l->space, space_relation(l->space, l->process->pid), true))
			has_left(tree, l->process, l->space);
		process_put(l->process);
		space_put(l->space);
	}
	return again;
}

/* One that has a lost space, and does not ask to leave it by an exec. */
struct orphan {
	struct process *process;
	struct space *space;
};

/* With references. Those that do ask are ended if they are found to have it still. */
static unsigned int list_orphans(struct tree *tree, struct orphan *out, unsigned int max)
{
	struct process *process;
	unsigned int nr = 0;

	pthread_mutex_lock(&tree->lock);
	for (unsigned int i = 0; i < TREE_BUCKETS; i++)
		for (process = tree->buckets[i]; process && nr < max; process = process->next)
			if (process->space && space_lost(process->space))
				out[nr++] = (struct orphan){
					process->exec_ns ? NULL : get(process),
					space_get(process->space),
				};
	pthread_mutex_unlock(&tree->lock);
	return nr;
}

/* What is abandoned is looked for again. */
static void leave_abandoned(struct tree *tree)
{
	struct space *left[LEFT_AT_ONCE];
	unsigned int nr = pool_abandoned(tree->pool, left, LEFT_AT_ONCE);

	while (nr--)
		leave(tree, left[nr], 1);
}

void tree_end_orphans(struct tree *tree)
{
	struct orphan orphans[LEFT_AT_ONCE];
	unsigned int nr = list_orphans(tree, orphans, LEFT_AT_ONCE);

	while (nr--) {
		struct orphan *o = &orphans[nr];

		tree_end_memory(tree, o->space);
		/* Whether or not its memory could be seen. */
		if (o->process)
			tree_end_process(tree, o->process, o->space);
		process_put(o->process);
		space_put(o->space);
	}
	leave_abandoned(tree);
}

unsigned int tree_list(struct tree *tree, struct tree_entry *out, unsigned int max)
{
	const struct process *process;
	unsigned int nr = 0;

	pthread_mutex_lock(&tree->lock);
	for (unsigned int i = 0; i < TREE_BUCKETS; i++) {
		for (process = tree->buckets[i]; process && nr < max; process = process->next) {
			out[nr] = (struct tree_entry){ .pid = process->pid };
			memcpy(out[nr].name, process->name, sizeof(out[nr].name));
			if (process->space)
				out[nr].space = space_get(process->space);
			nr++;
		}
	}
	pthread_mutex_unlock(&tree->lock);
	return nr;
}

static unsigned int list_pids(struct tree *tree, struct sharer *out, unsigned int max)
{
	const struct process *process;
	unsigned int nr = 0;

	pthread_mutex_lock(&tree->lock);
	for (unsigned int i = 0; i < TREE_BUCKETS; i++)
		for (process = tree->buckets[i]; process && nr < max; process = process->next)
			out[nr++] = (struct sharer){ .pid = process->pid, .memory = process->pid };
	pthread_mutex_unlock(&tree->lock);
	return nr;
}

void tree_sample(struct tree *tree)
{
	static struct sharer sharers[SAMPLED];
	unsigned int nr = list_pids(tree, sharers, SAMPLED);
	struct sys_memory memory;
	uint64_t sum;

	for (unsigned int i = 0; i < nr; i++) {
		(void)sys_memory_of(sharers[i].pid, &memory);
		sharers[i].resident = memory.resident;
	}
	sum = sharing_bytes(&tree->sharing, sharers, nr, 0, SHARING_REST);
	pthread_mutex_lock(&tree->lock);
	tree->resident_bytes = sum;
	if (tree->sharing.exact && sum > tree->resident_peak)
		tree->resident_peak = sum;
	pthread_mutex_unlock(&tree->lock);
}
