/* SPDX-License-Identifier: MIT */
/*
 * What migrates and when: the user's choice, each policy a file of its own. A policy
 * sees the pool's address spaces and the public interface of the core; it holds no lock
 * of the core's between two calls, so that the program waits for a batch at most.
 */
#ifndef UHMM_MONITOR_POLICY_H
#define UHMM_MONITOR_POLICY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "monitor/pool.h"

#define POLICY_WHY	128

struct policy;

struct policy_ops {
	const char *name;
	/*
	 * @options: what followed the name's colon, or NULL. 0 and *@ctx, or -EINVAL and
	 * one line in @why (POLICY_WHY bytes).
	 */
	int (*open)(const char *options, uint64_t dram_bytes, void **ctx, char *why);
	/*
	 * The first address space is there, and its program waits. Policies that have it bound
	 * what programs map, who then announce that; NULL: this one does not.
	 */
	void (*begin)(void *ctx, struct hmm_mm *mm);
	/*
	 * Do some of what there is to do in the policy's pool; when to do more, in ns. On a
	 * thread of its own. One that can take long asks policy_stops().
	 */
	uint64_t (*turn)(void *ctx, struct policy *policy);
	void (*close)(void *ctx);
};

extern const struct policy_ops policy_stress, policy_tier;

struct policy {
	const struct policy_ops *ops;	/* NULL: none */
	uint64_t dram_bytes;		/* the limit that was asked for, or 0 */
	void *ctx;
	struct pool *pool;
	pthread_t thread;
	bool running;

	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop;
};

/* By "NAME" or "NAME:key=value,...". 0, or -EINVAL with a line in @why. */
int policy_open(struct policy *policy, const char *spec, uint64_t dram_bytes, char *why);
int policy_start(struct policy *policy, struct pool *pool);
void policy_stop(struct policy *policy);	/* no turn runs any more */
void policy_close(struct policy *policy);

/* Somebody waits in policy_stop(). */
bool policy_stops(struct policy *policy);

/*
 * The next "key=value" of options, a decimal number, by which number it is in @keys (NULL
 * at its end). -EINVAL: no such.
 */
int policy_option(const char **options, const char *const *keys, uint64_t *value);

/*
 * Mappings of a space that pages may be taken from, as the kernel lists them: private,
 * anonymous, readable. At most @max, from @from on; how many.
 */
struct policy_mapping {
	uintptr_t start, end;
};
unsigned int policy_mappings(struct space *space, uintptr_t from, struct policy_mapping *out,
			     unsigned int max);

#endif
