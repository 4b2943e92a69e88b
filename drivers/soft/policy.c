/* SPDX-License-Identifier: MIT */
#include "policy.h"

#include <errno.h>
#include <string.h>

#include <uhmm/driver.h>

#include "clock.h"
#include "device.h"

#define RECORDS			4096
#define WINDOW_NS		500000000ULL	/* in which bounces count ... */
#define HOLD_NS			500000000ULL	/* ... and for which they then hold a block back */
#define BOUNCES			3
#define REFUSED_NS		10000000ULL
#define DEFAULT_NTH		3
#define DEFAULT_PREFETCH	51
#define MIRROR_PAGES		16u		/* looked at around a fault of the lanes */
#define FAULT_AROUND_MAX	512u
#define READAHEAD_MIN		(512u << 10)	/* bytes of a window for which a thread is worth waking */
#define FORGET_BLOCKS		64		/* above it, all refusals are forgotten */

static struct soft_record *record_slot(struct soft_policy *policy, uintptr_t block)
{
	uint64_t hash = (uint64_t)(block / SOFT_BLOCK_BYTES) * 0x9e3779b97f4a7c15ULL;

	return &policy->records[hash >> 52];
}

/* The record of @va's block, a new one in place of another if need be. Lock held. */
static struct soft_record *record_get(struct soft_policy *policy, uintptr_t va, uint64_t now)
{
	uintptr_t block = va & ~(SOFT_BLOCK_BYTES - 1);
	struct soft_record *record = record_slot(policy, block);

	if (record->block != block)
		*record = (struct soft_record){ .block = block, .window_ns = now };
	if (now - record->refused_ns > REFUSED_NS)
		record->refused = 0;
	if (now - record->window_ns > WINDOW_NS) {
		record->window_ns = now;
		record->came = 0;
		record->bounces = 0;
	}
	return record;
}

static unsigned int chunk_of(uintptr_t va)
{
	return (unsigned int)(va % SOFT_BLOCK_BYTES / SOFT_CHUNK_BYTES);
}

/* Is it time for NTH? Lock held. */
static bool count_fault(struct soft_policy *policy, struct soft_record *record, unsigned int chunk)
{
	if (atomic_load_explicit(&policy->migrate, memory_order_relaxed) != HMM_SOFT_MIGRATE_NTH)
		return true;
	if (record->faults[chunk] < UINT16_MAX)
		record->faults[chunk]++;
	return record->faults[chunk] >=
	       atomic_load_explicit(&policy->migrate_nth, memory_order_relaxed);
}

/* Would most of the block be on the device with this chunk? Then take all of it. */
static bool block_is_dense(struct hmm_soft *soft, uintptr_t block)
{
	uint32_t percent = atomic_load_explicit(&soft->policy.prefetch, memory_order_relaxed);
	size_t local, pages = SOFT_BLOCK_BYTES / soft->page_size;

	if (percent > 100)
		return false;
	soft_table_lock(&soft->table);
	local = soft_table_count_local(&soft->table, block, block + SOFT_BLOCK_BYTES);
	soft_table_unlock(&soft->table);
	return (local + SOFT_CHUNK_BYTES / soft->page_size) * 100 >= percent * pages;
}

static void window_of(struct hmm_soft *soft, uintptr_t va, uint32_t pages, uintptr_t *start,
		      uintptr_t *end)
{
	uintptr_t bytes = (uintptr_t)pages * soft->page_size;

	*start = va & ~(bytes - 1);
	*end = *start + bytes;
	if (*end > soft->user_end)
		*end = soft->user_end;
}

/* A power of two, not above @most. */
/* At most a block, and at least the page that faulted. */
static uint32_t block_pages(const struct hmm_soft *soft)
{
	return soft->page_size < SOFT_BLOCK_BYTES ?
	       (uint32_t)(SOFT_BLOCK_BYTES / soft->page_size) : 1;
}

int soft_policy_init(struct soft_policy *policy, const struct hmm_soft_opts *opts)
{
	pthread_mutex_init(&policy->lock, NULL);
	soft_policy_set(policy, opts);
	policy->records = hmm_safe_alloc(RECORDS * sizeof(*policy->records));
	return policy->records ? 0 : -ENOMEM;
}

void soft_policy_destroy(struct soft_policy *policy)
{
	hmm_safe_free(policy->records, RECORDS * sizeof(*policy->records));
	pthread_mutex_destroy(&policy->lock);
}

void soft_policy_set(struct soft_policy *policy, const struct hmm_soft_opts *opts)
{
	atomic_store_explicit(&policy->migrate, opts->migrate, memory_order_relaxed);
	atomic_store_explicit(&policy->migrate_nth,
			      opts->migrate_nth ? opts->migrate_nth : DEFAULT_NTH,
			      memory_order_relaxed);
	atomic_store_explicit(&policy->prefetch,
			      opts->prefetch ? opts->prefetch : DEFAULT_PREFETCH,
			      memory_order_relaxed);
	atomic_store_explicit(&policy->fault_around, opts->fault_around, memory_order_relaxed);
}

bool soft_policy_migrate(struct hmm_soft *soft, uintptr_t page, uintptr_t *start, uintptr_t *end)
{
	struct soft_policy *policy = &soft->policy;
	uintptr_t block = page & ~(SOFT_BLOCK_BYTES - 1);
	uint64_t now = soft_now_ns();
	struct soft_record *record;
	bool held, yes;

	if (atomic_load_explicit(&policy->migrate, memory_order_relaxed) == HMM_SOFT_MIGRATE_NEVER)
		return false;

	pthread_mutex_lock(&policy->lock);
	record = record_get(policy, page, now);
	held = record->held_ns > now;
	yes = !held && !(record->refused >> chunk_of(page) & 1) &&
	      count_fault(policy, record, chunk_of(page));
	pthread_mutex_unlock(&policy->lock);

	if (held)
		soft_count(&soft->count.thrash_held, 1);
	if (!yes)
		return false;
	*start = page & ~(SOFT_CHUNK_BYTES - 1);
	*end = *start + SOFT_CHUNK_BYTES;
	if (block_is_dense(soft, block)) {
		*start = block;
		*end = block + SOFT_BLOCK_BYTES;
	}
	if (*end > soft->user_end)
		*end = soft->user_end;
	return true;
}

/* While NTH counts, each page has to fault for itself. */
void soft_policy_mirror(struct hmm_soft *soft, uintptr_t page, uintptr_t *start, uintptr_t *end)
{
	struct soft_policy *policy = &soft->policy;
	uint32_t pages = 1, most = block_pages(soft);

	if (atomic_load_explicit(&policy->migrate, memory_order_relaxed) != HMM_SOFT_MIGRATE_NTH) {
		pthread_mutex_lock(&policy->lock);
		pages = hmm_streams_pages(&policy->device, page, MIRROR_PAGES < most ? MIRROR_PAGES :
					  most, most);
		pthread_mutex_unlock(&policy->lock);
	}
	window_of(soft, page, pages, start, end);
}

void soft_policy_came(struct soft_policy *policy, uintptr_t page, uintptr_t start, uintptr_t end)
{
	uint64_t now = soft_now_ns();
	struct soft_record *record;

	pthread_mutex_lock(&policy->lock);
	record = record_get(policy, page, now);
	/* One round trip is one bounce, however many of its chunks come again. */
	if (record->came >> chunk_of(page) & 1) {
		record->bounces++;
		record->came = 0;
	}
	for (; start < end; start += SOFT_CHUNK_BYTES)
		record->came |= 1U << chunk_of(start);
	if (record->bounces >= BOUNCES) {
		record->held_ns = now + HOLD_NS;
		record->bounces = 0;
		record->came = 0;
	}
	pthread_mutex_unlock(&policy->lock);
}

void soft_policy_refused(struct soft_policy *policy, uintptr_t page)
{
	uint64_t now = soft_now_ns();
	struct soft_record *record;

	pthread_mutex_lock(&policy->lock);
	record = record_get(policy, page, now);
	record->refused |= 1U << chunk_of(page);
	record->refused_ns = now;
	pthread_mutex_unlock(&policy->lock);
}

void soft_policy_forget(struct soft_policy *policy, uintptr_t start, uintptr_t end)
{
	uintptr_t block = start & ~(SOFT_BLOCK_BYTES - 1);

	pthread_mutex_lock(&policy->lock);
	if (end - start > FORGET_BLOCKS * SOFT_BLOCK_BYTES) {
		for (unsigned int i = 0; i < RECORDS; i++)
			policy->records[i].block = 0;
	} else {
		for (; block < end; block += SOFT_BLOCK_BYTES)
			if (record_slot(policy, block)->block == block)
				record_slot(policy, block)->block = 0;
	}
	pthread_mutex_unlock(&policy->lock);
}

int soft_migrate_to_ram(struct hmm_devmem *devmem, const struct hmm_fault *fault)
{
	struct hmm_soft *soft = hmm_devmem_ctx(devmem);
	uint32_t pages = atomic_load_explicit(&soft->policy.fault_around, memory_order_relaxed);
	uint32_t most = hmm_fault_pages(fault, block_pages(soft));
	bool ahead = !pages;
	uintptr_t start, end;
	int64_t ret;

	soft_count(&soft->count.cpu_faults, 1);
	if (!pages) {
		pthread_mutex_lock(&soft->policy.lock);
		pages = hmm_streams_pages(&soft->policy.cpu, fault->addr, 1,
					  most < FAULT_AROUND_MAX ? most : FAULT_AROUND_MAX);
		pthread_mutex_unlock(&soft->policy.lock);
	}
	if (pages > most)
		pages = most;
	/* One page is what the core brings without being asked, at less cost. */
	if (pages == 1)
		return 0;
	window_of(soft, fault->addr, pages, &start, &end);
	ret = hmm_evict(fault->mm, start, end);
	/*
	 * The CPU goes on with these; what follows comes meanwhile. Not for another mm of
	 * the family, which could be gone before the thread gets to it.
	 */
	if (ahead && end - start >= READAHEAD_MIN && 2 * pages <= fault->most && fault->mm == soft->mm &&
	    end + (end - start) <= soft->user_end)
		soft_readahead_post(&soft->readahead, end, end + (end - start));
	return ret < 0 ? (int)ret : 0;
}
