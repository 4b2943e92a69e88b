/* SPDX-License-Identifier: MIT */
/*
 * Pages on their way through three devices. A and B are of one peer group and copy
 * between themselves; C is alone, so what goes from B to C bounces through RAM. At
 * each place the device there adds the data up, and the CPU does at the end.
 */
#include <uhmm/soft.h>

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS		(1u << 20)	/* 8 MiB */
#define CHUNK		512		/* words that one item adds up */

struct world {
	struct hmm_mm *mm;
	struct hmm_soft *a, *b, *c;
	uint64_t *data;			/* page aligned */
	uint64_t *sum;			/* malloc'ed; kernels add to it */
	uint64_t expected;
	bool wrong;
};

struct job {
	const uint64_t *data;
	uint64_t *sum;
};

/* Depends on the position, so that exchanged words are noticed. */
static uint64_t weigh(uint64_t position, uint64_t value)
{
	return (value ^ position) * (2 * position + 1);
}

/*
 * What the kernels are told lies on the stack of main's thread, which no device
 * ever takes away; the sum and the data are reached as a device reaches them.
 */
static void kernel_sum(struct hmm_lane *lane, uint64_t item, void *arg)
{
	const struct job *job = arg;
	uint64_t words[CHUNK], sum = 0;

	hmm_lane_read(lane, words, job->data + item * CHUNK, sizeof(words));
	for (unsigned int i = 0; i < CHUNK; i++)
		sum += weigh(item * CHUNK + i, words[i]);
	hmm_lane_add(lane, job->sum, sum, 8);
}

static uint64_t cpu_sum(const struct world *world)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < WORDS; i++)
		sum += weigh(i, world->data[i]);
	return sum;
}

static int fail(const char *what, int ret)
{
	fprintf(stderr, "two_devices: %s: %s\n", what, strerror(-ret));
	if (ret == -EPERM || ret == -EOPNOTSUPP)
		fprintf(stderr, "two_devices: `uhmm doctor` says what is missing here\n");
	return ret;
}

/* ------------------------------------------------------------------ the way */

static void print_place(struct world *world, const char *place, uint64_t sum)
{
	struct hmm_stats stats = { .size = sizeof(stats) };
	bool same = sum == world->expected;

	world->wrong |= !same;
	if (hmm_mm_stats(world->mm, &stats))
		return;
	printf("%-22s %016" PRIx64 "  %-4s %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %8" PRIu64 "\n",
	       place, sum, same ? "yes" : "NO", stats.pages_to_device, stats.pages_between,
	       stats.pages_to_system, stats.cpu_faults);
}

static int visit(struct world *world, const char *place, struct hmm_soft *soft)
{
	struct job job = { world->data, world->sum };
	uintptr_t start = (uintptr_t)world->data;
	int64_t moved;
	int ret;

	moved = hmm_soft_migrate_in(soft, start, start + WORDS * sizeof(uint64_t), NULL);
	if (moved < 0)
		return fail("migrating", moved);
	*world->sum = 0;
	ret = hmm_soft_run(soft, kernel_sum, WORDS / CHUNK, &job, NULL);
	if (ret)
		return fail("adding up on a device", ret);
	print_place(world, place, *world->sum);
	return 0;
}

static void print_device(const char *name, struct hmm_soft *soft)
{
	struct hmm_soft_stats stats = { .size = sizeof(stats) };

	if (hmm_soft_stats(soft, &stats))
		return;
	printf("device %s: %" PRIu64 " pages in, %" PRIu64 " out, %" PRIu64 " MiB in %" PRIu64
	       " transfers of its DMA engine\n", name, stats.migrated_in, stats.migrated_out,
	       stats.dma_bytes >> 20, stats.dma_transfers);
}

static int travel(struct world *world)
{
	int ret;

	printf("%-22s %-16s  %-4s %10s %10s %10s %8s\n", "the data are in", "their sum",
	       "same", "to device", "between", "to system", "faults");
	print_place(world, "system memory", cpu_sum(world));
	ret = visit(world, "device A", world->a);
	if (!ret)
		ret = visit(world, "device B, A's peer", world->b);
	if (!ret)
		ret = visit(world, "device C, alone", world->c);
	if (ret)
		return ret;
	print_place(world, "system memory again", cpu_sum(world));
	print_device("A", world->a);
	print_device("B", world->b);
	print_device("C", world->c);
	return 0;
}

/* ------------------------------------------------------------------ main */

static int open_devices(struct world *world)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 64 << 20,
		 .migrate = HMM_SOFT_MIGRATE_NEVER, .peer_group = world);
	int ret = hmm_mm_create(NULL, &world->mm);

	if (ret)
		return fail("managing this address space", ret);
	ret = hmm_soft_open(world->mm, &opts, &world->a);
	if (!ret)
		ret = hmm_soft_open(world->mm, &opts, &world->b);
	opts.peer_group = NULL;
	if (!ret)
		ret = hmm_soft_open(world->mm, &opts, &world->c);
	return ret ? fail("opening a device", ret) : 0;
}

static int prepare(struct world *world)
{
	uint64_t value = 88172645463325252ULL;

	world->sum = malloc(sizeof(*world->sum));
	world->data = aligned_alloc(hmm_page_size(), WORDS * sizeof(uint64_t));
	if (!world->sum || !world->data)
		return fail("data", -ENOMEM);
	for (uint64_t i = 0; i < WORDS; i++) {
		value ^= value << 13;
		value ^= value >> 7;
		value ^= value << 17;
		world->data[i] = value;
	}
	world->expected = cpu_sum(world);
	return 0;
}

static int close_devices(struct world *world)
{
	struct hmm_soft *devices[] = { world->a, world->b, world->c };
	int ret, first = 0;

	for (unsigned int i = 0; i < 3; i++) {
		ret = hmm_soft_close(devices[i]);
		if (ret && !first)
			first = ret;
	}
	ret = hmm_mm_destroy(world->mm);
	return first ? first : ret;
}

int main(void)
{
	struct world world = { 0 };
	int ret = prepare(&world), closed;

	if (!ret)
		ret = open_devices(&world);
	if (!ret)
		ret = travel(&world);
	closed = close_devices(&world);
	if (closed)
		fail("closing", closed);
	free(world.data);
	free(world.sum);
	if (ret || closed)
		return 1;
	printf(world.wrong ? "The sums DIFFER.\n" : "Every sum was the same.\n");
	return world.wrong;
}
