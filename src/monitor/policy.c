// SPDX-License-Identifier: MIT
#include "monitor/policy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "sys/process.h"
#include "sys/sys.h"

static const struct policy_ops *const policies[] = { &policy_stress, &policy_tier };

/* ---------------------------------------------------------------- options */

/* Decimal digits, behind which @end is; false: none, or more than fit. */
static bool take_number(const char *text, const char **end, uint64_t *out)
{
	uint64_t n = 0;

	for (*end = text; **end >= '0' && **end <= '9'; ++*end)
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (unsigned int)(**end - '0'), &n))
			return false;
	*out = n;
	return *end != text;
}

int policy_option(const char **options, const char *const *keys, uint64_t *value)
{
	const char *at = *options;
	size_t len = strcspn(at, "=,");
	const char *end;

	if (at[len] != '=')
		return -EINVAL;
	for (int i = 0; keys[i]; i++) {
		if (strlen(keys[i]) != len || strncmp(keys[i], at, len) != 0)
			continue;
		if (!take_number(at + len + 1, &end, value) || (*end && *end != ','))
			return -EINVAL;
		*options = *end ? end + 1 : end;
		return i;
	}
	return -EINVAL;
}

int policy_open(struct policy *policy, const char *spec, uint64_t dram_bytes, char *why)
{
	const size_t len = strcspn(spec, ":");
	const char *options = spec[len] ? spec + len + 1 : NULL;

	memset(policy, 0, sizeof(*policy));
	policy->dram_bytes = dram_bytes;
	pthread_mutex_init(&policy->lock, NULL);
	pthread_cond_init(&policy->wake, NULL);
	if (strcmp(spec, "none") == 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++) {
		if (strlen(policies[i]->name) != len || strncmp(policies[i]->name, spec, len) != 0)
			continue;
		policy->ops = policies[i];
		return policy->ops->open(options, dram_bytes, &policy->ctx, why);
	}
	snprintf(why, POLICY_WHY, "no such policy");
	return -EINVAL;
}

void policy_close(struct policy *policy)
{
	if (policy->ctx)
		policy->ops->close(policy->ctx);
	pthread_cond_destroy(&policy->wake);
	pthread_mutex_destroy(&policy->lock);
}

/* ---------------------------------------------------------------- its thread */

bool policy_stops(struct policy *policy)
{
	bool stop;

	pthread_mutex_lock(&policy->lock);
	stop = policy->stop;
	pthread_mutex_unlock(&policy->lock);
	return stop;
}

/* False: it is to stop. */
static bool rest(struct policy *policy, uint64_t ns)
{
	struct timespec until;
	bool stop;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += (time_t)((ns + (uint64_t)until.tv_nsec) / 1000000000u);
	until.tv_nsec = (long)((ns + (uint64_t)until.tv_nsec) % 1000000000u);
	pthread_mutex_lock(&policy->lock);
	while (!policy->stop && pthread_cond_timedwait(&policy->wake, &policy->lock, &until) == 0)
		;
	stop = policy->stop;
	pthread_mutex_unlock(&policy->lock);
	return !stop;
}

static void *policy_main(void *arg)
{
	struct policy *policy = arg;
	uint64_t ns;

	/* The program has as many threads as it likes, and this one has to keep up. */
	sys_prefer(0);
	do {
		ns = policy->ops->turn(policy->ctx, policy);
	} while (rest(policy, ns));
	return NULL;
}

int policy_start(struct policy *policy, struct pool *pool)
{
	int ret;

	policy->pool = pool;
	if (!policy->ops)
		return 0;
	pool->begun = policy->ops->begin;
	pool->begun_ctx = policy->ctx;
	ret = pthread_create(&policy->thread, NULL, policy_main, policy);
	policy->running = ret == 0;
	return -ret;
}

void policy_stop(struct policy *policy)
{
	if (!policy->running)
		return;
	pthread_mutex_lock(&policy->lock);
	policy->stop = true;
	pthread_cond_signal(&policy->wake);
	pthread_mutex_unlock(&policy->lock);
	pthread_join(policy->thread, NULL);
	policy->running = false;
}

/* ---------------------------------------------------------------- what it looks at */

struct found {
	struct policy_mapping *out;
	unsigned int nr, max;
};

static bool note_mapping(void *arg, const struct sys_vma *vma)
{
	const uint32_t no = SYS_VMA_SHARED | SYS_VMA_FILE | SYS_VMA_STACK | SYS_VMA_SPECIAL;
	struct found *found = arg;

	if ((vma->flags & SYS_VMA_READ) && !(vma->flags & no))
		found->out[found->nr++] = (struct policy_mapping){ vma->start, vma->end };
	return found->nr < found->max;
}

unsigned int policy_mappings(struct space *space, uintptr_t from, struct policy_mapping *out,
			     unsigned int max)
{
	struct found found = { .out = out, .max = max };

	if (max)
		sys_vma_each(space->maps_fd, from, note_mapping, &found);
	return found.nr;
}
