/* SPDX-License-Identifier: MIT */
#include "device.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_MEM	(1ULL << 30)
#define MEM_MAX		(1ULL << 40)
#define LINK_NS_MAX	1000000000ULL
#define FAULT_PAGES_MAX	512
#define OPTS_SIZE_MAX	4096
#define MOVER_PAGES	1024	/* of staging memory at once: 4 MiB of the 64 */
#define REGISTERED	256	/* the core has ids for 255 devmems */

/*
 * Which devmem contexts are soft devices: a peer copy may be asked for with any
 * driver's. An entry is in use if it carries this process's id, so that a forked child
 * starts with none without having to clear the table.
 */
static struct {
	_Atomic pid_t pid;
	struct hmm_soft *_Atomic soft;
} registered[REGISTERED];

static void register_device(struct hmm_soft *soft)
{
	pid_t self = getpid(), pid;

	for (unsigned int i = 0; i < REGISTERED; i++) {
		pid = atomic_load_explicit(&registered[i].pid, memory_order_relaxed);
		if (pid == self ||
		    !atomic_compare_exchange_strong_explicit(&registered[i].pid, &pid, self,
							     memory_order_acquire,
							     memory_order_relaxed))
			continue;
		/* Published to whoever asks about a devmem, which comes to be after this. */
		atomic_store_explicit(&registered[i].soft, soft, memory_order_release);
		return;
	}
}

static void unregister_device(const struct hmm_soft *soft)
{
	for (unsigned int i = 0; i < REGISTERED; i++) {
		if (atomic_load_explicit(&registered[i].soft, memory_order_relaxed) != soft)
			continue;
		atomic_store_explicit(&registered[i].soft, NULL, memory_order_relaxed);
		atomic_store_explicit(&registered[i].pid, 0, memory_order_release);
	}
}

/* What hmm_soft_* options have in common: a size, and a tail that must be zero. */
static int size_check(const void *opts, uint64_t size, size_t known)
{
	const unsigned char *p = opts;

	if (size < known)
		return -EINVAL;
	if (size > OPTS_SIZE_MAX)
		return -E2BIG;
	for (size_t i = known; i < size; i++)
		if (p[i])
			return -E2BIG;
	return 0;
}

static int policy_check(const struct hmm_soft_opts *opts)
{
	if ((unsigned int)opts->migrate > HMM_SOFT_MIGRATE_NEVER || opts->prefetch > 101)
		return -EINVAL;
	if (opts->fault_around > FAULT_PAGES_MAX ||
	    opts->fault_around & (opts->fault_around - 1))
		return -EINVAL;
	return 0;
}

/* A copy of @opts with the defaults filled in. */
static int opts_take(const struct hmm_soft_opts *opts, struct hmm_soft_opts *out)
{
	size_t page = hmm_page_size();
	int ret;

	memset(out, 0, sizeof(*out));
	if (opts) {
		ret = size_check(opts, opts->size, sizeof(*opts));
		if (ret)
			return ret;
		*out = *opts;
	}
	if (out->flags || out->mem_bytes & (page - 1) || out->mem_bytes > MEM_MAX ||
	    out->lanes > SOFT_LANES || out->dma_queues > SOFT_DMA_QUEUES ||
	    out->link_ns > LINK_NS_MAX)
		return -EINVAL;
	if (!out->mem_bytes)
		out->mem_bytes = DEFAULT_MEM;
	if (!out->lanes) {
		long cpus = sysconf(_SC_NPROCESSORS_ONLN);

		out->lanes = cpus < 1 ? 1 : cpus > SOFT_LANES ? SOFT_LANES : (uint32_t)cpus;
	}
	return policy_check(out);
}

/*
 * All events alike: also those of our own migrations, whose old translation to the
 * system page has to go, while the new one is installed after the event.
 */
static void invalidate(struct hmm_notifier *notifier, const struct hmm_event *event, uint64_t seq,
		       void *ctx)
{
	struct hmm_soft *soft = ctx;
	bool unmapped = event->type == HMM_EVENT_UNMAP || event->type == HMM_EVENT_RELEASE;
	bool own = event->type == HMM_EVENT_EXCLUSIVE && event->owner == soft;
	uint64_t erased;

	(void)notifier;
	(void)seq;
	soft_table_lock(&soft->table);
	erased = soft_table_erase(&soft->table, event->start, event->end, unmapped);
	if (erased & SOFT_PTE_DIRECT)
		soft_tlb_shootdown(soft, event->start, event->end);
	soft_exclusive_watch(soft, event->start, event->end, own);
	soft_table_unlock(&soft->table);
	if (unmapped)
		soft_policy_forget(&soft->policy, event->start, event->end);
}

static void page_free(struct hmm_devmem *devmem, uint64_t index, uint64_t nr_pages)
{
	struct hmm_soft *soft = hmm_devmem_ctx(devmem);

	if (soft_memory_free(&soft->memory, index, nr_pages))
		soft_keeper_wake(&soft->keeper, false);
}

static void lanes_stop(struct hmm_soft *soft)
{
	soft_kernels_exit(&soft->kernels);
	for (unsigned int i = 0; i < soft->nr_lanes; i++)
		hmm_safe_thread_join(soft->lanes[i].thread);
	hmm_safe_free(soft->bounce, soft->nr_lanes * SOFT_BOUNCE_BYTES);
	hmm_safe_free(soft->lanes, soft->nr_lanes * sizeof(*soft->lanes));
}

static int lanes_start(struct hmm_soft *soft, uint32_t nr)
{
	bool fenced = !soft_tlb_register();
	int ret;

	soft->lanes = hmm_safe_alloc(nr * sizeof(*soft->lanes));
	if (!soft->lanes)
		return -ENOMEM;
	soft->nr_lanes = nr;
	soft->bounce = hmm_safe_alloc(nr * SOFT_BOUNCE_BYTES);
	for (uint32_t i = 0; i < nr; i++) {
		struct hmm_lane *lane = &soft->lanes[i];

		lane->soft = soft;
		lane->id = i;
		lane->fenced = fenced;
		soft_tlb_flush(lane);
		lane->bounce = soft->bounce + i * SOFT_BOUNCE_BYTES;
		ret = soft->bounce ? hmm_safe_thread_start(soft_lane_main, lane, SOFT_LANE_STACK,
							   &lane->thread) : -ENOMEM;
		if (ret) {
			lanes_stop(soft);
			return ret;
		}
	}
	return 0;
}

/* Everything that needs neither the mm nor a thread. */
static int parts_init(struct hmm_soft *soft, const struct hmm_soft_opts *opts)
{
	int ret = soft_memory_init(&soft->memory, opts->mem_bytes);

	if (ret)
		return ret;
	ret = soft_table_init(&soft->table);
	if (ret)
		goto err_memory;
	ret = soft_policy_init(&soft->policy, opts);
	if (ret)
		goto err_table;
	ret = soft_mover_init(&soft->mover, MOVER_PAGES);
	if (ret)
		goto err_policy;
	ret = soft_mover_init(&soft->fault_mover, SOFT_BLOCK_PAGES);
	if (ret)
		goto err_mover;
	ret = soft_exclusive_init(&soft->exclusive);
	if (ret)
		goto err_fault_mover;
	ret = soft_fault_init(soft);
	if (ret)
		goto err_exclusive;
	soft_kernels_init(&soft->kernels);
	return 0;

err_exclusive:
	soft_exclusive_destroy(&soft->exclusive);
err_fault_mover:
	soft_mover_destroy(&soft->fault_mover);
err_mover:
	soft_mover_destroy(&soft->mover);
err_policy:
	soft_policy_destroy(&soft->policy);
err_table:
	soft_table_destroy(&soft->table);
err_memory:
	soft_memory_destroy(&soft->memory);
	return ret;
}

static void parts_destroy(struct hmm_soft *soft)
{
	soft_kernels_destroy(&soft->kernels);
	soft_fault_destroy(soft);
	soft_exclusive_destroy(&soft->exclusive);
	soft_mover_destroy(&soft->fault_mover);
	soft_mover_destroy(&soft->mover);
	soft_policy_destroy(&soft->policy);
	soft_table_destroy(&soft->table);
	soft_memory_destroy(&soft->memory);
}

/* Meet the core: from here on callbacks come. */
static int attach(struct hmm_soft *soft)
{
	HMM_OPTS(hmm_notifier_ops, watch, .invalidate = invalidate);
	HMM_OPTS(hmm_devmem_ops, ops,
		 .copy_to_device = soft_copy_to_device, .copy_from_device = soft_copy_from_device,
		 .page_free = page_free, .migrate_to_ram = soft_migrate_to_ram,
		 .page_alloc = soft_page_alloc, .copy_peer = soft_copy_peer);
	HMM_OPTS(hmm_devmem_opts, opts, .flags = HMM_DEVMEM_FAULT_SAFE,
		 .nr_pages = soft->memory.nr_pages, .owner = soft->owner, .ops = &ops, .ctx = soft);
	int ret;

	ret = hmm_notifier_insert(soft->mm, 0, soft->user_end, &watch, soft, &soft->notifier);
	if (ret)
		return ret;
	register_device(soft);
	ret = hmm_devmem_add(soft->mm, &opts, &soft->devmem);
	if (ret) {
		unregister_device(soft);
		hmm_notifier_remove(soft->notifier);
		return ret;
	}
	soft->devmem_id = hmm_devmem_id(soft->devmem);
	return 0;
}

/* The devmem is gone, or never was. */
static void detach(struct hmm_soft *soft)
{
	unregister_device(soft);
	hmm_notifier_remove(soft->notifier);
}

int soft_check(const struct hmm_soft *soft)
{
	if (!soft)
		return -EINVAL;
	return atomic_load_explicit(&soft->magic, memory_order_relaxed) == SOFT_MAGIC ? 0 : -ECHILD;
}

struct hmm_soft *soft_of_devmem(const struct hmm_devmem *devmem)
{
	void *ctx = hmm_devmem_ctx(devmem);
	pid_t self = getpid();

	for (unsigned int i = 0; i < REGISTERED; i++)
		if (atomic_load_explicit(&registered[i].soft, memory_order_acquire) == ctx &&
		    atomic_load_explicit(&registered[i].pid, memory_order_relaxed) == self)
			return ctx;
	return NULL;
}

int hmm_soft_open(struct hmm_mm *mm, const struct hmm_soft_opts *opts, struct hmm_soft **out)
{
	HMM_OPTS(hmm_stats, stats);
	struct hmm_soft_opts given;
	struct hmm_soft *soft;
	int ret;

	_Static_assert(sizeof(*soft) <= 64 * 1024, "a forked child must read zeros here");
	if (!mm || !out)
		return -EINVAL;
	ret = opts_take(opts, &given);
	if (ret)
		return ret;
	/* Before anything is allocated: a forked child may not even have an arena. */
	ret = hmm_mm_stats(mm, &stats);
	if (ret)
		return ret;

	soft = hmm_safe_alloc(sizeof(*soft));
	if (!soft)
		return -ENOMEM;
	soft->mm = mm;
	soft->owner = given.peer_group ? given.peer_group : soft;
	soft->page_size = hmm_page_size();
	soft->user_end = hmm_user_end();
	soft->mem_mbps = given.mem_mbps;
	ret = parts_init(soft, &given);
	if (ret)
		goto err_free;
	ret = soft_dma_init(soft, &given);
	if (ret)
		goto err_dma;
	ret = lanes_start(soft, given.lanes);
	if (ret)
		goto err_dma;
	ret = soft_keeper_start(soft);
	if (ret)
		goto err_keeper;
	ret = soft_readahead_start(soft);
	if (ret)
		goto err_readahead;
	ret = attach(soft);
	if (ret)
		goto err_readahead;
	atomic_store_explicit(&soft->magic, SOFT_MAGIC, memory_order_relaxed);
	*out = soft;
	return 0;

err_readahead:
	soft_readahead_stop(&soft->readahead);
err_keeper:
	soft_keeper_stop(&soft->keeper);
	lanes_stop(soft);
err_dma:
	soft_dma_destroy(&soft->dma);
	parts_destroy(soft);
err_free:
	hmm_safe_free(soft, sizeof(*soft));
	return ret;
}

int hmm_soft_close(struct hmm_soft *soft)
{
	int ret = soft ? soft_check(soft) : 0;

	if (!soft || ret)
		return ret;
	if (soft_on_lane(soft))
		return -EDEADLK;

	soft_kernels_drain(&soft->kernels);
	soft_keeper_pause(&soft->keeper);
	ret = hmm_devmem_remove(soft->devmem);
	if (ret && ret != -EIO) {
		soft_keeper_resume(&soft->keeper);
		soft_kernels_resume(&soft->kernels);
		return ret;
	}
	soft_exclusive_end_all(soft);
	atomic_store_explicit(&soft->magic, 0, memory_order_relaxed);
	detach(soft);
	soft_readahead_stop(&soft->readahead);
	soft_keeper_stop(&soft->keeper);
	lanes_stop(soft);
	soft_dma_destroy(&soft->dma);
	parts_destroy(soft);
	hmm_safe_free(soft, sizeof(*soft));
	return ret;
}

int hmm_soft_set_policy(struct hmm_soft *soft, const struct hmm_soft_opts *opts)
{
	int ret = soft_check(soft);

	if (ret)
		return ret;
	if (!opts)
		return -EINVAL;
	ret = size_check(opts, opts->size, sizeof(*opts));
	if (!ret)
		ret = policy_check(opts);
	if (!ret)
		soft_policy_set(&soft->policy, opts);
	return ret;
}

int hmm_soft_inject(struct hmm_soft *soft, const struct hmm_soft_inject *inject)
{
	int ret = soft_check(soft);

	if (ret)
		return ret;
	if (!inject)
		return -EINVAL;
	ret = size_check(inject, inject->size, sizeof(*inject));
	if (ret)
		return ret;
	if ((inject->alloc_fail | inject->dma_error | inject->ecc_error | inject->reset) > INT64_MAX)
		return -EINVAL;
	atomic_store(&soft->dma.inject.alloc, (int64_t)inject->alloc_fail);
	atomic_store(&soft->dma.inject.dma, (int64_t)inject->dma_error);
	atomic_store(&soft->dma.inject.ecc, (int64_t)inject->ecc_error);
	atomic_store(&soft->dma.inject.reset, (int64_t)inject->reset);
	return 0;
}

uint32_t hmm_soft_pte(struct hmm_soft *soft, uintptr_t addr)
{
	uint64_t pte;

	if (soft_check(soft))
		return 0;
	soft_table_lock(&soft->table);
	pte = addr < soft->user_end ? soft_table_get(&soft->table, addr) : 0;
	soft_table_unlock(&soft->table);
	return pte & HMM_SOFT_PTE_VALID ? (uint32_t)pte & SOFT_PTE_PUBLIC : 0;
}

int hmm_soft_stats(struct hmm_soft *soft, struct hmm_soft_stats *stats)
{
	struct hmm_soft_stats now;
	int ret = soft_check(soft);

	if (ret)
		return ret;
	if (!stats || stats->size < sizeof(*stats))
		return -EINVAL;
	now = (struct hmm_soft_stats){
		.size = stats->size,
		.device_faults = soft->count.device_faults,
		.replays = soft->count.replays,
		.shootdowns = soft->count.shootdowns,
		.migrated_in = soft->count.migrated_in,
		.migrated_out = soft->count.migrated_out,
		.evicted = soft->count.evicted,
		.prefetched = soft->count.prefetched,
		.thrash_held = soft->count.thrash_held,
		.exclusive_pages = soft->count.exclusive_pages,
		.dma_transfers = soft->count.dma_transfers,
		.dma_bytes = soft->count.dma_bytes,
		.dma_errors = soft->count.dma_errors,
		.cpu_faults = soft->count.cpu_faults,
		.mem_bytes = soft->memory.bytes,
		.mem_used = soft->memory.nr_used << soft->memory.page_shift,
	};
	for (unsigned int i = 0; i < soft->nr_lanes; i++) {
		now.tlb_misses += soft->lanes[i].tlb_misses;
		now.guarded_accesses += soft->lanes[i].guarded;
		now.replays += soft->lanes[i].replays;
	}
	*stats = now;
	return 0;
}

uint32_t hmm_soft_devmem_id(const struct hmm_soft *soft)
{
	return soft_check(soft) ? 0 : soft->devmem_id;
}
