// SPDX-License-Identifier: MIT
#include "monitor/tree.h"

#include <stdlib.h>
#include <string.h>

#include "monitor/log.h"
#include "sys/message.h"
#include "sys/process.h"
#include "sys/sys.h"

/* An exec that has not happened by then has failed. */
#define EXEC_PATIENCE_NS	(2 * 1000000000ULL)

void tree_init(struct tree *tree, int epoll, void (*ended)(struct watch *watch))
{
	memset(tree, 0, sizeof(*tree));
	tree->epoll = epoll;
	tree->ended = ended;
	pthread_mutex_init(&tree->lock, NULL);
}

static struct process **bucket(struct tree *tree, pid_t pid)
{
	return &tree->buckets[(uint32_t)pid % TREE_BUCKETS];
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
static struct process *add(struct tree *tree, const struct sys_process *who)
{
	struct process *process = calloc(1, sizeof(*process));
	int pidfd;

	if (!process)
		return NULL;
	pidfd = sys_pidfd_open(who->tgid);
	process->watch.fd = pidfd;
	process->watch.ready = tree->ended;
	process->tree = tree;
	if (pidfd < 0 || sys_epoll_add(tree->epoll, pidfd, (uintptr_t)&process->watch)) {
		sys_close(pidfd);
		free(process);
		return NULL;
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
	return process;
}

/* /proc is read without the lock: other callers need not wait for it. */
static struct process *find_slowly(struct tree *tree, pid_t tid)
{
	struct sys_process who;
	struct process *process;

	if (sys_process_of(tid, &who))
		return NULL;
	pthread_mutex_lock(&tree->lock);
	process = known(tree, who.tgid);
	if (!process)
		process = add(tree, &who);
	if (process) {
		tree->tasks[(uint32_t)tid % TREE_TASKS].tid = tid;
		tree->tasks[(uint32_t)tid % TREE_TASKS].process = process;
		get(process);
	}
	pthread_mutex_unlock(&tree->lock);
	return process;
}

struct process *tree_find(struct tree *tree, pid_t tid)
{
	struct process *process = NULL;

	pthread_mutex_lock(&tree->lock);
	if (tree->tasks[(uint32_t)tid % TREE_TASKS].tid == tid)
		process = get(tree->tasks[(uint32_t)tid % TREE_TASKS].process);
	pthread_mutex_unlock(&tree->lock);
	return process ? process : find_slowly(tree, tid);
}

/* Tree lock held. */
static void forget_tasks(struct tree *tree, const struct process *process)
{
	for (unsigned int i = 0; i < TREE_TASKS; i++)
		if (tree->tasks[i].process == process)
			memset(&tree->tasks[i], 0, sizeof(tree->tasks[i]));
}

void tree_remove(struct tree *tree, struct process *process)
{
	struct process **at;
	bool plain;

	tree_attach(tree, process, NULL);
	pthread_mutex_lock(&tree->lock);
	for (at = bucket(tree, process->pid); *at != process; at = &(*at)->next)
		;
	*at = process->next;
	forget_tasks(tree, process);
	plain = !process->joined;
	tree->nr_plain += plain;
	pthread_mutex_unlock(&tree->lock);
	if (plain)
		say(SAY_DETAIL, "%s (%d) ran without device memory: no agent came (a static or foreign "
		    "program, or one started without LD_PRELOAD)", process->name, (int)process->pid);
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

static void learn_name(struct process *process)
{
	struct sys_process who;

	if (!sys_process_of(process->pid, &who))
		memcpy(process->name, who.name, sizeof(process->name));
}

void tree_attach(struct tree *tree, struct process *process, struct link *link)
{
	struct link *old;

	pthread_mutex_lock(&tree->lock);
	old = process->link;
	process->link = link;
	if (link)
		learn_name(process);
	process->joined |= link != NULL;
	process->exec_ns = 0;
	pthread_mutex_unlock(&tree->lock);
	if (old)
		link_close(old);
	link_put(old);
}

void tree_declined(struct tree *tree, struct process *process)
{
	pthread_mutex_lock(&tree->lock);
	process->joined = true;
	pthread_mutex_unlock(&tree->lock);
}

struct link *tree_link(struct tree *tree, struct process *process)
{
	struct link *link;

	pthread_mutex_lock(&tree->lock);
	link = process->link ? link_get(process->link) : NULL;
	pthread_mutex_unlock(&tree->lock);
	return link;
}

void tree_exec(struct tree *tree, struct process *process)
{
	pthread_mutex_lock(&tree->lock);
	process->exec_ns = sys_now_ns();
	process->joined &= process->link != NULL;
	pthread_mutex_unlock(&tree->lock);
}

/* Tree lock held. Has it left the memory that its agent is in? */
static struct link *left_by_exec(struct process *process)
{
	struct link *link = process->link;

	if (!process->exec_ns)
		return NULL;
	learn_name(process);
	if (!link || sys_now_ns() - process->exec_ns > EXEC_PATIENCE_NS)
		process->exec_ns = 0;
	if (!link || link_has(link, process->pid))
		return NULL;
	process->link = NULL;
	process->exec_ns = 0;
	process->joined = false;
	return link;
}

bool tree_look_for_execs(struct tree *tree)
{
	struct process *process;
	struct link *link;
	bool again = false;

	pthread_mutex_lock(&tree->lock);
	for (unsigned int i = 0; i < TREE_BUCKETS; i++) {
		for (process = tree->buckets[i]; process; process = process->next) {
			link = left_by_exec(process);
			if (link)
				link_close(link);
			link_put(link);
			again |= process->exec_ns != 0;
		}
	}
	pthread_mutex_unlock(&tree->lock);
	return again;
}

void tree_sample(struct tree *tree)
{
	const struct process *process;
	uint64_t sum = 0;

	pthread_mutex_lock(&tree->lock);
	for (unsigned int i = 0; i < TREE_BUCKETS; i++)
		for (process = tree->buckets[i]; process; process = process->next)
			sum += sys_resident_bytes(process->pid);
	tree->resident_bytes = sum;
	if (sum > tree->resident_peak)
		tree->resident_peak = sum;
	pthread_mutex_unlock(&tree->lock);
}
