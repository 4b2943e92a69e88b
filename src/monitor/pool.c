// SPDX-License-Identifier: MIT
#include "monitor/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include <uhmm/driver.h>
#include <uhmm/remote.h>

#include "monitor/log.h"
#include "monitor/trace.h"
#include "sys/process.h"
#include "sys/sys.h"

#define PENDING_AT_ONCE	64u
#define FIND_AT_ONCE	64u

/* All processes were looked at that often, and none had that memory. */
#define OVERLOOKED_MAX	2

/* ---------------------------------------------------------------- spaces */

static struct space *space_new(struct pool *pool, struct hmm_mm *mm)
{
	struct space *space = calloc(1, sizeof(*space));

	if (!space)
		return NULL;
	atomic_init(&space->refs, 1);
	space->pool = pool;
	space->mm = mm;
	space->maps_fd = -1;
	atomic_fetch_add_explicit(&pool->nr_spaces, 1, memory_order_relaxed);
	pthread_mutex_lock(&pool->lock);
	space->id = ++pool->last_id;
	space->next = pool->spaces;
	pool->spaces = space;
	pthread_mutex_unlock(&pool->lock);
	return space;
}

struct space *space_get(struct space *space)
{
	atomic_fetch_add_explicit(&space->refs, 1, memory_order_relaxed);
	return space;
}

static void add_stats(struct hmm_stats *sum, const struct hmm_stats *one)
{
	sum->pages_to_device += one->pages_to_device;
	sum->pages_to_system += one->pages_to_system;
	sum->cpu_faults += one->cpu_faults;
	sum->zero_fills += one->zero_fills;
	sum->changes += one->changes;
	sum->forks += one->forks;
	for (int i = 0; i < HMM_REASONS; i++)
		sum->refused[i] += one->refused[i];
	sum->poisoned_pages += one->poisoned_pages;
	sum->lost_pages += one->lost_pages;
	sum->device_pages += one->device_pages;
}

static void remember(struct pool *pool, struct hmm_mm *mm)
{
	struct hmm_stats stats = { .size = sizeof(stats) };
	struct hmm_times times = { .size = sizeof(times) };

	if (hmm_mm_stats(mm, &stats) || hmm_mm_fault_times(mm, &times))
		return;
	stats.device_pages = 0;
	pthread_mutex_lock(&pool->lock);
	add_stats(&pool->past, &stats);
	hmm_times_add(&pool->past_faults, &times);
	pthread_mutex_unlock(&pool->lock);
}

/* Nobody knows it any more. */
static void space_free(struct space *space)
{
	struct pool *pool = space->pool;

	if (space->mm) {
		remember(pool, space->mm);
		if (space->mm != pool->first && hmm_mm_destroy(space->mm))
			say(SAY_ERROR, "an address space could not be given up");
	}
	link_put(space->link);
	sys_close(space->maps_fd);
	free(space);
	atomic_fetch_sub_explicit(&pool->nr_spaces, 1, memory_order_relaxed);
}

void space_put(struct space *space)
{
	/* acq_rel: what others did with it happened before the last one frees it */
	if (space && atomic_fetch_sub_explicit(&space->refs, 1, memory_order_acq_rel) == 1)
		space_free(space);
}

/* The list's reference goes with it. The agent last: it keeps the memory that is looked at. */
void space_end(struct space *space)
{
	struct pool *pool = space->pool;
	struct space **at;

	pthread_mutex_lock(&pool->lock);
	if (space->ended) {
		pthread_mutex_unlock(&pool->lock);
		return;
	}
	space->ended = true;
	for (at = &pool->spaces; *at != space; at = &(*at)->next)
		;
	*at = space->next;
	pthread_mutex_unlock(&pool->lock);
	if (space->mm)
		hmm_remote_gone(space->mm);
	if (space->link)
		link_close(space->link);
	space_put(space);
}

/* Set once, and kept as long as the space. */
static struct link *space_link(struct space *space)
{
	struct link *link;

	pthread_mutex_lock(&space->pool->lock);
	link = space->link;
	pthread_mutex_unlock(&space->pool->lock);
	return link;
}

/* The kernel refuses to unshare from others what others have, and does nothing else. */
bool space_is_shared(struct space *space)
{
	struct agent_call unshare = { .nr = SYS_unshare, .args = { CLONE_VM } };
	struct link *link = space_link(space);

	if (!link)
		return space_in_use(space);
	return link_call(link, &unshare, 1) == 0 && unshare.ret != 0;
}

bool space_in_use(struct space *space)
{
	const int ret = space->mm ? hmm_remote_in_use(space->mm) : 0;

	return ret == 1 || ret == -ENOMEM;
}

int space_inherit(struct space *space, pid_t pid)
{
	int pidfd = sys_pidfd_open(pid);
	int ret = pidfd < 0 ? pidfd : 0;

	if (!ret && space->mm)
		ret = hmm_remote_inherit(space->mm, pid, pidfd);
	if (ret || !space->mm)
		sys_close(pidfd);
	pthread_mutex_lock(&space->pool->lock);
	if (!ret) {
		space->pid = pid;
		space->abandoned = false;
	}
	pthread_mutex_unlock(&space->pool->lock);
	return ret;
}

bool space_lost(struct space *space)
{
	struct link *link = space_link(space);

	return space->mm && link && link_lost(link);
}

bool space_losing(struct space *space)
{
	struct link *link = space_link(space);

	return space->mm && link && link_losing(link);
}

bool space_say_lost(struct space *space)
{
	bool first;

	pthread_mutex_lock(&space->pool->lock);
	first = !space->said_lost;
	space->said_lost = true;
	pthread_mutex_unlock(&space->pool->lock);
	return first;
}

void space_abandon(struct space *space)
{
	pthread_mutex_lock(&space->pool->lock);
	space->abandoned = true;
	pthread_mutex_unlock(&space->pool->lock);
}

bool space_joined(struct space *space)
{
	return space_link(space) != NULL;
}

int space_forks_quietly(struct space *space)
{
	const struct link *link = space_link(space);

	return link && !link->ready.follows_forks ? link->ready.agent_uffd : -1;
}

/* The main thread can be gone, with /proc's idea of its memory; the agent is not. */
void space_memory(const struct space *space, struct sys_memory *out)
{
	/* Limbo is writable but for its first block. */
	const uint64_t own = space->link->limbo_bytes - space->link->limbo_block;

	(void)sys_memory_of(space->link->agent, out);
	out->writable = out->writable > own ? out->writable - own : 0;
}

bool space_has(struct space *space, pid_t tid)
{
	struct link *link = space_link(space);

	if (link)
		return link_has(link, tid) == 1;
	return space->mm && hmm_remote_matches(space->mm, tid) == 1;
}

int space_relation(struct space *space, pid_t tid)
{
	struct link *link = space_link(space);
	int ret;

	if (!space->mm)
		return SPACE_OTHER;
	if (!link)
		return hmm_remote_matches(space->mm, tid);
	/* The number of an agent that has ended can be another's. */
	if (!link_losing(link))
		return link_has(link, tid);
	ret = link_had(link, tid);
	return ret == 1 ? SPACE_LOSING : ret;
}

pid_t space_agent(const struct space *space)
{
	return space->link->agent;
}

pid_t space_pid(struct space *space)
{
	pid_t pid;

	pthread_mutex_lock(&space->pool->lock);
	pid = space->pid;
	pthread_mutex_unlock(&space->pool->lock);
	return pid;
}

static bool in_bare(pid_t tid, const void *mm)
{
	return hmm_remote_matches((struct hmm_mm *)mm, tid) == 1;
}

static bool had(pid_t tid, const void *link)
{
	return link_had(link, tid) == 1;
}

bool space_has_process(struct space *space, pid_t pid)
{
	struct link *link = space_link(space);

	if (!link)
		return space->mm && sys_any_thread(pid, in_bare, space->mm);
	if (space_losing(space))
		return sys_any_thread(pid, had, link);
	return sys_process_shares(pid, link->agent);
}

/* ---------------------------------------------------------------- joining */

static int call_agent(void *ctx, struct hmm_agent_call *calls, size_t nr)
{
	_Static_assert(sizeof(struct hmm_agent_call) == sizeof(struct agent_call) &&
		       offsetof(struct hmm_agent_call, ret) == offsetof(struct agent_call, ret),
		       "one is the other");

	return link_call(ctx, (struct agent_call *)calls, nr);
}

static void core_says(void *ctx, enum hmm_log_level level, const char *line)
{
	(void)ctx;
	say(level <= HMM_LOG_ERROR ? SAY_ERROR : level <= HMM_LOG_WARN ? SAY_WARNING : SAY_DETAIL,
	    "%s", line);
}

static void describe(const struct pool *pool, struct link *link, pid_t pid,
		     struct hmm_remote_opts *opts)
{
	*opts = (struct hmm_remote_opts){
		.size = sizeof(*opts),
		.pid = pid,
		.agent_pid = link->agent,
		.uffd = -1,
		.agent_uffd = link->ready.agent_uffd,
		.features = link->ready.uffd_features,
		.shm = (char *)link->shm + AGENT_SHM_ARGS,
		.shm_addr = link->ready.shm_addr + AGENT_SHM_ARGS,
		.shm_bytes = link->shm_bytes - AGENT_SHM_ARGS,
		.limbo = link->ready.limbo,
		.limbo_bytes = link->limbo_bytes,
		.own_start = link->ready.own_start,
		.own_end = link->ready.own_end,
		.call = call_agent,
		.ctx = link,
		.sibling = pool->first,
		.log = core_says,
	};
}

/* A device does not say how much it has, but which pages are none of its own. */
static uint64_t count_pages(struct hmm_devmem *devmem)
{
	uint64_t low = 0, high = 1ULL << 36;
	uintptr_t unused;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (hmm_devmem_lookup(devmem, middle, &unused) == -EINVAL)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* The first address space brings the devices with it. */
static int open_device(struct pool *pool, struct hmm_mm *mm)
{
	int ret;

	pool->first = mm;
	if (pool->trace) {
		ret = hmm_trace_start(mm, trace_hear, pool->trace);
		if (ret)
			return ret;
	}
	ret = hmm_device_open(mm, pool->plugin, pool->device_options, &pool->device);
	if (ret) {
		say(SAY_ERROR, "device %s: %s", pool->plugin->name,
		    pool->device.said[0] ? pool->device.said : strerror(-ret));
		return ret;
	}
	if (!pool->device.devmem) {
		say(SAY_ERROR, "device %s has no memory for pages", pool->plugin->name);
		hmm_device_close(&pool->device);
		return -EOPNOTSUPP;
	}
	pool->device_pages = count_pages(pool->device.devmem);
	pool->device_open = true;
	if (pool->begun)
		pool->begun(pool->begun_ctx, mm);
	return 0;
}

static int open_mm(struct pool *pool, struct link *link, pid_t pid, struct hmm_mm **out)
{
	struct hmm_remote_opts opts;
	int ret;

	describe(pool, link, pid, &opts);
	opts.uffd = link->uffd;
	opts.pidfd = sys_pidfd_open(pid);
	if (opts.pidfd < 0)
		return opts.pidfd;
	ret = hmm_mm_open_remote(&opts, out);
	if (ret) {
		sys_close(opts.pidfd);
		return ret;
	}
	link->uffd = -1;		/* the mm's now */
	return pool->first ? 0 : open_device(pool, *out);
}

static int attach_mm(struct pool *pool, struct link *link, pid_t pid, struct hmm_mm *mm)
{
	struct hmm_remote_opts opts;
	int ret;

	describe(pool, link, pid, &opts);
	opts.pidfd = sys_pidfd_open(pid);
	if (opts.pidfd < 0)
		return opts.pidfd;
	ret = hmm_remote_attach(mm, &opts);
	if (ret)
		sys_close(opts.pidfd);
	return ret;
}

int pool_join(struct pool *pool, struct link *link, pid_t pid, struct space *forked,
	      struct space **out)
{
	struct space *space = forked ? space_get(forked) : NULL;
	struct hmm_mm *mm = NULL;
	int ret = 0;

	if (forked)
		ret = attach_mm(pool, link, pid, forked->mm);
	else if (pool->manages)
		ret = open_mm(pool, link, pid, &mm);
	if (!ret && !space) {
		space = space_new(pool, mm);
		ret = space ? 0 : -ENOMEM;
		if (space)
			space_get(space);
	}
	if (ret) {
		link_close(link);
		link_put(link);
		space_put(space);
		return ret;
	}
	pthread_mutex_lock(&pool->lock);
	space->link = link;
	space->pid = pid;
	space->maps_fd = sys_proc_open(link->agent, "maps", false);
	pthread_mutex_unlock(&pool->lock);
	if (pool->manages)
		sys_prefer(link->agent);	/* the program waits for what it does */
	*out = space;
	return 0;
}

/* ---------------------------------------------------------------- forks */

/* Pool lock held. There are as many slots as threads that call pool_fork(). */
static uint64_t *free_slot(struct pool *pool)
{
	for (unsigned int i = 0; i < POOL_FORKS; i++)
		if (!pool->forks[i])
			return &pool->forks[i];
	return NULL;
}

static uint64_t *fork_begins(struct pool *pool)
{
	uint64_t *slot;

	pthread_mutex_lock(&pool->lock);
	while (!(slot = free_slot(pool)))
		pthread_cond_wait(&pool->fork_done, &pool->lock);
	*slot = ++pool->last_fork;
	pthread_mutex_unlock(&pool->lock);
	return slot;
}

static void fork_ends(struct pool *pool, uint64_t *slot)
{
	pthread_mutex_lock(&pool->lock);
	*slot = 0;
	pthread_cond_broadcast(&pool->fork_done);
	pthread_mutex_unlock(&pool->lock);
}

void pool_fork(struct pool *pool, struct space *space, uint32_t tid, int nr,
	       void (*let_go)(void *ctx), void *ctx)
{
	struct hmm_mm *child = NULL;
	uint64_t *slot;

	if (hmm_remote_fork_begin(space->mm, tid)) {
		let_go(ctx);
		return;
	}
	slot = fork_begins(pool);	/* the child cannot be there yet */
	let_go(ctx);
	if (hmm_remote_fork_end(space->mm, tid, (uint64_t)nr, &child))
		child = NULL;
	if (child && !space_new(pool, child)) {
		say(SAY_ERROR, "no memory for a forked process");
		hmm_remote_gone(child);
		(void)hmm_mm_destroy(child);
	}
	fork_ends(pool, slot);
}

/* Pool lock held. */
static bool older_fork(const struct pool *pool, uint64_t than)
{
	for (unsigned int i = 0; i < POOL_FORKS; i++)
		if (pool->forks[i] && pool->forks[i] <= than)
			return true;
	return false;
}

/*
 * References to the newest of the pending spaces that are older than number @than, once
 * all forks that have begun by now have ended.
 */
static unsigned int pending(struct pool *pool, uint64_t than, struct space **out, unsigned int max)
{
	unsigned int nr = 0;
	uint64_t now;

	pthread_mutex_lock(&pool->lock);
	now = pool->last_fork;
	while (older_fork(pool, now))
		pthread_cond_wait(&pool->fork_done, &pool->lock);
	/* The list begins with the newest. */
	for (struct space *space = pool->spaces; space && nr < max; space = space->next)
		if (!space->pid && space->id < than)
			out[nr++] = space_get(space);
	pthread_mutex_unlock(&pool->lock);
	return nr;
}

static bool take_pending(struct pool *pool, struct space *space, pid_t pid)
{
	bool taken = false;

	if (hmm_remote_matches(space->mm, pid) != 1)
		return false;
	pthread_mutex_lock(&pool->lock);
	if (!space->pid && !space->ended) {
		space->pid = pid;
		taken = true;
	}
	pthread_mutex_unlock(&pool->lock);
	return taken;
}

struct space *pool_claim(struct pool *pool, pid_t pid)
{
	struct space *some[PENDING_AT_ONCE], *found = NULL;
	uint64_t last = UINT64_MAX;
	unsigned int nr;

	if (!pool->manages)
		return NULL;
	while (!found && (nr = pending(pool, last, some, PENDING_AT_ONCE))) {
		last = some[nr - 1]->id;
		for (unsigned int i = 0; i < nr; i++) {
			if (!found && take_pending(pool, some[i], pid))
				found = some[i];
			else
				space_put(some[i]);
		}
	}
	return found;
}

void pool_forget_pending(struct pool *pool)
{
	struct space *some[PENDING_AT_ONCE];
	uint64_t last = UINT64_MAX;
	unsigned int nr;
	bool dead;

	while ((nr = pending(pool, last, some, PENDING_AT_ONCE))) {
		last = some[nr - 1]->id;
		for (unsigned int i = 0; i < nr; i++) {
			pthread_mutex_lock(&pool->lock);
			dead = !some[i]->pid && ++some[i]->overlooked > OVERLOOKED_MAX;
			pthread_mutex_unlock(&pool->lock);
			if (dead)
				space_end(some[i]);
			space_put(some[i]);
		}
	}
}

bool pool_has_pending(struct pool *pool)
{
	const struct space *space;

	pthread_mutex_lock(&pool->lock);
	for (space = pool->spaces; space && space->pid; space = space->next)
		;
	pthread_mutex_unlock(&pool->lock);
	return space != NULL;
}

/* ---------------------------------------------------------------- looking at them */

/* References to the oldest of the spaces that are newer than number @than. */
static unsigned int newer(struct pool *pool, uint64_t than, struct space **out, unsigned int max)
{
	unsigned int nr = 0;

	pthread_mutex_lock(&pool->lock);
	/* The list begins with the newest. */
	for (struct space *space = pool->spaces; space && space->id > than; space = space->next)
		out[nr++ % max] = space;
	nr = nr < max ? nr : max;
	for (unsigned int i = 0; i < nr; i++)
		space_get(out[i]);
	pthread_mutex_unlock(&pool->lock);
	return nr;
}

struct space *pool_find(struct pool *pool, pid_t tid, uint64_t *after, bool *losing)
{
	struct space *some[FIND_AT_ONCE], *found = NULL;
	uint64_t last = *after, known = UINT64_MAX;
	unsigned int nr;

	while (!found && (nr = newer(pool, last, some, FIND_AT_ONCE))) {
		for (unsigned int i = 0; i < nr; i++) {
			const uint64_t id = some[i]->id;
			const int is = found ? SPACE_OTHER : space_relation(some[i], tid);

			last = id > last ? id : last;
			if (is > SPACE_OTHER) {
				found = space_get(some[i]);
				*losing = is == SPACE_LOSING;
			}
			if (is < SPACE_OTHER && id <= known)
				known = id - 1;
			space_put(some[i]);
		}
	}
	if (!found)
		*after = last < known ? last : known;
	return found;
}

bool pool_has_bare(struct pool *pool)
{
	const struct space *space;

	pthread_mutex_lock(&pool->lock);
	for (space = pool->spaces; space && space->link; space = space->next)
		;
	pthread_mutex_unlock(&pool->lock);
	return space != NULL;
}

static bool is_abandoned(const struct space *space)
{
	return space->abandoned;
}

static bool has_agent(const struct space *space)
{
	return space->link && space->mm;
}

/* References to those that fit. */
static unsigned int list(struct pool *pool, bool (*fits)(const struct space *space),
			 struct space **out, unsigned int max)
{
	unsigned int nr = 0;

	pthread_mutex_lock(&pool->lock);
	for (struct space *space = pool->spaces; space && nr < max; space = space->next)
		if (fits(space))
			out[nr++] = space_get(space);
	pthread_mutex_unlock(&pool->lock);
	return nr;
}

unsigned int pool_abandoned(struct pool *pool, struct space **out, unsigned int max)
{
	return list(pool, is_abandoned, out, max);
}

unsigned int pool_spaces(struct pool *pool, struct space **out, unsigned int max)
{
	return list(pool, has_agent, out, max);
}

void pool_stats(struct pool *pool, struct hmm_stats *stats)
{
	struct space *space;

	pthread_mutex_lock(&pool->lock);
	*stats = pool->past;
	for (space = pool->spaces; space; space = space->next) {
		struct hmm_stats one = { .size = sizeof(one) };

		if (space->mm && !hmm_mm_stats(space->mm, &one))
			add_stats(stats, &one);
	}
	if (stats->device_pages > pool->device_pages_peak)
		pool->device_pages_peak = stats->device_pages;
	pthread_mutex_unlock(&pool->lock);
}

void pool_fault_times(struct pool *pool, struct hmm_times *times)
{
	struct space *space;

	pthread_mutex_lock(&pool->lock);
	*times = pool->past_faults;
	for (space = pool->spaces; space; space = space->next) {
		struct hmm_times one = { .size = sizeof(one) };

		if (space->mm && !hmm_mm_fault_times(space->mm, &one))
			hmm_times_add(times, &one);
	}
	pthread_mutex_unlock(&pool->lock);
}

uint64_t pool_room(struct pool *pool)
{
	struct hmm_stats stats;

	pool_stats(pool, &stats);
	return stats.device_pages < pool->device_pages ? pool->device_pages - stats.device_pages : 0;
}

/* ---------------------------------------------------------------- life */

int pool_open(struct pool *pool, const char *device)
{
	char name[PATH_MAX], why[HMM_DEVICE_SAID] = "";
	const char *colon;
	size_t len;
	int ret;

	memset(pool, 0, sizeof(*pool));
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->fork_done, NULL);
	if (!device)
		return 0;
	colon = strchr(device, ':');
	len = colon ? (size_t)(colon - device) : strlen(device);
	if (len >= sizeof(name)) {
		say(SAY_ERROR, "the device's name is too long");
		return -EINVAL;
	}
	memcpy(name, device, len);
	name[len] = '\0';
	pool->device_options = colon ? colon + 1 : NULL;
	ret = hmm_plugin_load(name, &pool->plugin, why, sizeof(why));
	if (!ret)
		ret = hmm_device_check(pool->plugin, pool->device_options, why, sizeof(why));
	if (ret) {
		say(SAY_ERROR, "device %s: %s", name, why[0] ? why : strerror(-ret));
		return ret;
	}
	pool->manages = true;
	return 0;
}

void pool_end(struct pool *pool)
{
	while (pool->spaces)
		space_end(pool->spaces);
}

int pool_close(struct pool *pool)
{
	int ret = 0;

	if (pool->device_open)
		ret = hmm_device_close(&pool->device);
	if (pool->first && hmm_mm_destroy(pool->first))
		say(SAY_ERROR, "the first address space could not be given up");
	pthread_cond_destroy(&pool->fork_done);
	pthread_mutex_destroy(&pool->lock);
	return ret;
}
