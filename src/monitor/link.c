// SPDX-License-Identifier: MIT
#include "monitor/link.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys/process.h"
#include "sys/seccomp.h"
#include "sys/sys.h"

/* How long to wait before looking whether the agent still lives. */
#define PATIENCE_NS	(50 * 1000000L)

/* A call may take as long as the unmapping of all memory takes: some seconds per 100 GiB. */
#define ANSWER_NS	(20 * 1000000000ULL)

static void link_free(struct link *link)
{
	sys_close(link->agent_pidfd);
	sys_close(link->uffd);
	sys_munmap(link->shm, link->shm_bytes);
	pthread_mutex_destroy(&link->lock);
	free(link);
}

int link_create(const struct agent_ready *ready, const struct agent_config *config, pid_t agent,
		int agent_pidfd, int uffd, struct agent_shm *shm, struct link **out)
{
	struct link *link = calloc(1, sizeof(*link));

	if (!link) {
		sys_pidfd_kill(agent_pidfd, SIGKILL);
		sys_close(agent_pidfd);
		sys_close(uffd);
		sys_munmap(shm, config->shm_bytes);
		return -ENOMEM;
	}
	atomic_init(&link->refs, 1);
	link->agent = agent;
	link->agent_pidfd = agent_pidfd;
	link->uffd = uffd;
	link->shm = shm;
	link->shm_bytes = config->shm_bytes;
	link->limbo_bytes = config->limbo_bytes;
	link->limbo_block = config->limbo_block;
	link->ready = *ready;
	pthread_mutex_init(&link->lock, NULL);
	*out = link;
	return 0;
}

void link_dismiss(struct agent_shm *shm)
{
	shm->calls[0] = (struct agent_call){ .nr = SYS_exit_group, .args = { 1 } };
	/* release: pairs with the agent's acquire before it reads the call */
	atomic_store_explicit(&shm->submitted, 1, memory_order_release);
	sys_futex_wake_shared(&shm->submitted, 1);
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
	link_free(link);
}

void link_close(struct link *link)
{
	if (!atomic_exchange_explicit(&link->closed, true, memory_order_acq_rel))
		sys_pidfd_kill(link->agent_pidfd, SIGKILL);
}

int link_has(const struct link *link, pid_t tid)
{
	return sys_same_memory(link->agent, tid);
}

static bool agent_ended(const struct link *link)
{
	bool ended = false, same = false;

	sys_poll2(link->agent_pidfd, link->agent_pidfd, 0, &ended, &same);
	return ended;
}

static bool is_closed(const struct link *link)
{
	return atomic_load_explicit(&link->closed, memory_order_acquire);
}

bool link_lost(const struct link *link)
{
	return agent_ended(link) && !is_closed(link);
}

bool link_losing(const struct link *link)
{
	return (agent_ended(link) || sys_memory_gone(link->agent, link->agent_pidfd)) &&
	       !is_closed(link);
}

int link_had(const struct link *link, pid_t tid)
{
	const uintptr_t addr = link->ready.shm_addr;
	struct sys_vma vma, shm;
	int ret = sys_mapping_of(tid, addr, &vma);

	if (!ret && vma.start > addr)
		ret = -ENOENT;
	if (!ret)
		ret = sys_mapping_of(getpid(), (uintptr_t)link->shm, &shm);
	if (ret)
		return ret == -ENOENT ? 0 : ret;
	return vma.inode == shm.inode && vma.dev_major == shm.dev_major &&
	       vma.dev_minor == shm.dev_minor;
}

static bool agent_lives(const struct link *link)
{
	return !is_closed(link) && !agent_ended(link);
}

static int await(struct link *link, uint32_t target)
{
	const struct timespec patience = { .tv_nsec = PATIENCE_NS };
	const uint64_t start = sys_now_ns();
	uint32_t done;

	for (;;) {
		/* acquire: pairs with the agent's release after the results */
		done = atomic_load_explicit(&link->shm->completed, memory_order_acquire);
		if (done == target)
			return 0;
		if (sys_futex_wait_shared(&link->shm->completed, done, &patience) != -ETIMEDOUT)
			continue;
		if (!agent_lives(link))
			return -ESRCH;
		/* Stopped, most likely: then it is as good as dead, and is seen to be. */
		if (sys_now_ns() - start > ANSWER_NS)
			sys_pidfd_kill(link->agent_pidfd, SIGKILL);
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
