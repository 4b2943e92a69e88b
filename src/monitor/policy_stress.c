// SPDX-License-Identifier: MIT
/*
 * stress: whatever can migrate does, at random, all the time, there and back. Not for
 * use: it finds what is wrong with uhmm.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <uhmm/driver.h>

#include "monitor/log.h"
#include "monitor/policy.h"
#include "sys/sys.h"

#define RATE_PAGES	50000u		/* per second */
#define RATE_MAX	10000000u	/* more than memory gives */
#define CHUNK_PAGES	16u		/* at a time, at most */
#define CHUNK_MAX	4096u
#define SPACES		64u
#define MAPPINGS	256u
#define TURN_NS		1000000u
#define SECOND_NS	1000000000u

struct stress {
	uint64_t seed, state;
	uint64_t rate, chunk;
	uint64_t last_ns;
	struct policy_mapping mappings[MAPPINGS];
};

/* splitmix64 */
static uint64_t draw(struct stress *stress, uint64_t below)
{
	uint64_t z = stress->state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (z ^ z >> 31) % below;
}

static int stress_open(const char *options, uint64_t dram_bytes, void **ctx, char *why)
{
	static const char *const keys[] = { "seed", "rate", "chunk", NULL };
	struct stress *stress = calloc(1, sizeof(*stress));
	uint64_t value;

	(void)dram_bytes;
	if (!stress)
		return -ENOMEM;
	stress->seed = sys_now_ns();
	stress->rate = RATE_PAGES;
	stress->chunk = CHUNK_PAGES;
	while (options && *options) {
		switch (policy_option(&options, keys, &value)) {
		case 0:
			stress->seed = value;
			break;
		case 1:
			stress->rate = value;
			break;
		case 2:
			stress->chunk = value;
			break;
		default:
			options = NULL;
			stress->chunk = 0;
		}
	}
	if (!stress->chunk || stress->chunk > CHUNK_MAX || !stress->rate ||
	    stress->rate > RATE_MAX) {
		snprintf(why, POLICY_WHY, "stress takes seed=N, rate=PAGES (per second, at most %u) and "
			 "chunk=PAGES (at most %u)", RATE_MAX, CHUNK_MAX);
		free(stress);
		return -EINVAL;
	}
	stress->state = stress->seed;
	say(SAY_DETAIL, "stress: seed=%llu", (unsigned long long)stress->seed);
	*ctx = stress;
	return 0;
}

/* How many pages were asked for. */
static uint64_t move_some(struct stress *stress, struct pool *pool, struct space *space)
{
	const uint64_t page = sys_page_size();
	const struct policy_mapping *mapping;
	uint64_t nr_pages, first, nr;
	unsigned int nr_mappings;
	uintptr_t start;
	int64_t ret;

	nr_mappings = policy_mappings(space, 0, stress->mappings, MAPPINGS);
	if (!nr_mappings)
		return stress->chunk;
	mapping = &stress->mappings[draw(stress, nr_mappings)];
	nr_pages = (mapping->end - mapping->start) / page;
	first = draw(stress, nr_pages);
	nr = 1 + draw(stress, stress->chunk);
	if (nr > nr_pages - first)
		nr = nr_pages - first;
	start = mapping->start + first * page;
	/*
	 * Refused and failed pages are counted by the core; here there is nothing to do. A
	 * hole would come home as a page: a program that puts a userfaultfd of its own over
	 * its memory would find filled there what it has not filled.
	 */
	if (draw(stress, 8) == 0) {
		ret = hmm_evict(space->mm, start, start + nr * page);
		return nr;
	}
	ret = hmm_migrate_to_device(space->mm, pool->device.devmem, start, start + nr * page,
				    HMM_MIGRATE_SYSTEM | HMM_MIGRATE_KEEP_HOLES, NULL);
	if (ret == -ENOSPC)
		ret = hmm_evict(space->mm, mapping->start, mapping->end);
	return nr;
}

/* Pages, for what has passed. What could not be done in time is not made up for. */
static uint64_t budget_of(const struct stress *stress, uint64_t now)
{
	const uint64_t most = stress->rate < 100 ? 1 : stress->rate / 100;
	uint64_t ns = stress->last_ns ? now - stress->last_ns : 0;
	uint64_t pages = (ns < SECOND_NS ? ns : SECOND_NS) * stress->rate / SECOND_NS;

	return pages < most ? pages : most;
}

static uint64_t stress_turn(void *ctx, struct policy *policy)
{
	struct stress *stress = ctx;
	struct space *spaces[SPACES];
	uint64_t now = sys_now_ns(), budget = budget_of(stress, now), done = 0;
	unsigned int nr;

	nr = pool_spaces(policy->pool, spaces, SPACES);
	if (!nr || !stress->last_ns || budget)
		stress->last_ns = now;
	while (nr && done < budget && !policy_stops(policy))
		done += move_some(stress, policy->pool, spaces[draw(stress, nr)]);
	for (unsigned int i = 0; i < nr; i++)
		space_put(spaces[i]);
	return TURN_NS;
}

static void stress_close(void *ctx)
{
	free(ctx);
}

const struct policy_ops policy_stress = {
	.name = "stress",
	.open = stress_open,
	.turn = stress_turn,
	.close = stress_close,
};
