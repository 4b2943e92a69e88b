// SPDX-License-Identifier: MIT
#include "monitor/link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sys/process.h"
#include "sys/seccomp.h"
#include "sys/sys.h"

/* How long to wait before looking whether the agent still lives. */
#define PATIENCE_NS	(50 * 1000000L)

int link_create(const struct agent_ready *ready, pid_t agent, int agent_pidfd, int uffd,
		struct agent_shm *shm, uint64_t shm_bytes, struct link **out)
{
	struct link *link = calloc(1, sizeof(*link));

	if (!link) {
		sys_close(agent_pidfd);
		sys_close(uffd);
		sys_munmap(shm, shm_bytes);
		return -ENOMEM;
	}
	atomic_init(&link->refs, 1);
	link->agent = agent;
	link->agent_pidfd = agent_pidfd;
	link->uffd = uffd;
	link->shm = shm;
	link->shm_bytes = shm_bytes;
	link->ready = *ready;
	pthread_mutex_init(&link->lock, NULL);
	*out = link;
	return 0;
}

struct link *link_get(struct link *link)
{
	atomic_fetch_add_explicit(&link->refs, 1, memory_order_relaxed);
	return link;
}

void link_put(struct link *link)
{
	/* acq_rel: what others did with it happened before the last one frees it */
	if (!link || atomic_fetch_sub_explicit(&link->refs, 1, memory_order_acq_rel) != 1)
		return;
	sys_close(link->agent_pidfd);
	sys_close(link->uffd);
	sys_munmap(link->shm, link->shm_bytes);
	pthread_mutex_destroy(&link->lock);
	free(link);
}

void link_close(struct link *link)
{
	if (!atomic_exchange_explicit(&link->closed, true, memory_order_acq_rel))
		sys_pidfd_kill(link->agent_pidfd, SIGKILL);
}

bool link_has(const struct link *link, pid_t tid)
{
	return sys_same_memory(link->agent, tid) == 1;
}

/* Signal 0 is a question; of one that was ended and not yet reaped the answer is yes. */
static bool agent_lives(const struct link *link)
{
	bool ended = false, same = false;

	if (atomic_load_explicit(&link->closed, memory_order_acquire))
		return false;
	sys_poll2(link->agent_pidfd, link->agent_pidfd, 0, &ended, &same);
	return !ended;
}

static int await(struct link *link, uint32_t target)
{
	const struct timespec patience = { .tv_nsec = PATIENCE_NS };
	uint32_t done;

	for (;;) {
		/* acquire: pairs with the agent's release after the results */
		done = atomic_load_explicit(&link->shm->completed, memory_order_acquire);
		if (done == target)
			return 0;
		if (sys_futex_wait_shared(&link->shm->completed, done, &patience) == -ETIMEDOUT &&
		    !agent_lives(link))
			return -ESRCH;
	}
}

/* Up to a ring of them. Link lock held. */
static int call_some(struct link *link, struct agent_call *calls, size_t nr)
{
	struct agent_shm *shm = link->shm;
	int ret;

	if (!agent_lives(link))
		return -ESRCH;
	for (size_t i = 0; i < nr; i++) {
		struct agent_call *slot = &shm->calls[(link->submitted + i) % AGENT_RING];

		*slot = calls[i];
		sys_seccomp_pass((int)slot->nr, slot->args);
	}
	link->submitted += (uint32_t)nr;
	/* release: pairs with the agent's acquire before it reads the calls */
	atomic_store_explicit(&shm->submitted, link->submitted, memory_order_release);
	sys_futex_wake_shared(&shm->submitted, 1);
	ret = await(link, link->submitted);
	for (size_t i = 0; i < nr && !ret; i++)
		calls[i].ret = shm->calls[(link->submitted - nr + i) % AGENT_RING].ret;
	return ret;
}

int link_call(struct link *link, struct agent_call *calls, size_t nr)
{
	int ret = 0;

	pthread_mutex_lock(&link->lock);
	for (size_t done = 0, part; done < nr && !ret; done += part) {
		part = nr - done < AGENT_RING ? nr - done : AGENT_RING;
		ret = call_some(link, calls + done, part);
	}
	pthread_mutex_unlock(&link->lock);
	return ret;
}
