/* SPDX-License-Identifier: MIT */
#include "dma.h"

#include <errno.h>
#include <string.h>

#include "device.h"

/*
 * Small enough that staging and transfer overlap, and that what is staged is still in
 * the cache when the engine reads it; large enough for a call of the runtime.
 */
#define PIECE_BYTES	(512UL << 10)
#define IN_FLIGHT	3

/* Where a transfer stands in its runs. */
struct cursor {
	struct hmm_opencl *ocl;
	const struct hmm_copy_run *runs;
	size_t nr_runs, run;
	uint64_t page;			/* of the run */
};

/* A piece that was posted, and what of the runs it is. */
struct piece {
	unsigned int slot;
	struct cursor from;
	uint64_t pages;
};

/* The next part of a run, of at most @most pages; false: there is none. */
static bool next_part(struct cursor *c, uint64_t most, struct hmm_copy_run *part)
{
	const struct hmm_copy_run *run;

	if (c->run == c->nr_runs)
		return false;
	run = &c->runs[c->run];
	*part = (struct hmm_copy_run){
		.index = run->index + c->page,
		.nr_pages = run->nr_pages - c->page,
	};
	if (run->cpu)
		part->cpu = (char *)run->cpu + c->page * c->ocl->page_size;
	if (part->nr_pages > most)
		part->nr_pages = most;
	c->page += part->nr_pages;
	if (c->page == run->nr_pages) {
		c->run++;
		c->page = 0;
	}
	return true;
}

/* Fill @request with a piece; pages. Zeros take no staging. */
static uint64_t gather(struct cursor *c, struct ocl_request *request, char *staging, bool in)
{
	uint64_t most = PIECE_BYTES / c->ocl->page_size, pages = 0, staged = 0;
	struct hmm_copy_run part;

	request->nr_runs = 0;
	while (staged < most && request->nr_runs < OCL_RUNS && next_part(c, most - staged, &part)) {
		struct ocl_run *run = &request->runs[request->nr_runs++];

		*run = (struct ocl_run){
			.index = part.index, .at = OCL_ZERO, .nr = part.nr_pages,
		};
		pages += part.nr_pages;
		if (!part.cpu)
			continue;
		run->at = staged;
		if (in)
			memcpy(staging + staged * c->ocl->page_size, part.cpu,
			       part.nr_pages * c->ocl->page_size);
		staged += part.nr_pages;
	}
	return pages;
}

static void spread(struct piece *piece, const char *staging)
{
	size_t page = piece->from.ocl->page_size;
	uint64_t left = piece->pages;
	struct hmm_copy_run part;

	while (left && next_part(&piece->from, left, &part)) {
		memcpy(part.cpu, staging, part.nr_pages * page);
		staging += part.nr_pages * page;
		left -= part.nr_pages;
	}
}

static int piece_end(struct hmm_opencl *ocl, struct piece *piece, bool in)
{
	int ret = ocl_channel_wait(&ocl->channel, piece->slot);

	if (!ret && !in)
		spread(piece, ocl_channel_staging(&ocl->channel, piece->slot));
	ocl_channel_put(&ocl->channel, piece->slot);
	if (!ret) {
		ocl_count(&ocl->count.transfers, 1);
		ocl_count(&ocl->count.transfer_bytes, piece->pages * ocl->page_size);
	}
	return ret;
}

/*
 * The first slot is waited for, others are taken if there are any: were they waited for
 * too, all could hold one and wait for another.
 */
static int transfer_staged(struct hmm_opencl *ocl, const struct hmm_copy_run *runs, size_t nr_runs,
			   bool in)
{
	struct cursor c = { .ocl = ocl, .runs = runs, .nr_runs = nr_runs };
	struct piece pieces[IN_FLIGHT];
	unsigned int head = 0, tail = 0;
	int ret = 0, end;

	while ((c.run < nr_runs && !ret) || head != tail) {
		struct piece *piece;

		if (head - tail == IN_FLIGHT || c.run == nr_runs || ret) {
			end = piece_end(ocl, &pieces[tail++ % IN_FLIGHT], in);
			ret = ret ? ret : end;
			continue;
		}
		piece = &pieces[head % IN_FLIGHT];
		if (head == tail)
			piece->slot = ocl_channel_get(&ocl->channel);
		else if (!ocl_channel_try(&ocl->channel, &piece->slot)) {
			ret = piece_end(ocl, &pieces[tail++ % IN_FLIGHT], in);
			continue;
		}
		piece->from = c;
		piece->pages = gather(&c, ocl_request(&ocl->channel, piece->slot),
				      ocl_channel_staging(&ocl->channel, piece->slot), in);
		ocl_channel_post(&ocl->channel, piece->slot, in ? OCL_COPY_IN : OCL_COPY_OUT);
		head++;
	}
	return ret;
}

static int transfer(struct hmm_opencl *ocl, const struct hmm_copy_run *runs, size_t nr_runs,
		    bool in)
{
	return ocl->pools.base ? ocl_pools_transfer(ocl, runs, nr_runs, in) :
				 transfer_staged(ocl, runs, nr_runs, in);
}

int ocl_dma_ask(struct hmm_opencl *ocl, unsigned int slot, enum ocl_op op)
{
	return ocl->pools.base ? ocl_pools_copy(ocl, slot, op) :
				 ocl_channel_ask(&ocl->channel, slot, op);
}

int ocl_copy_to_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
		       const struct hmm_copy_run *runs, size_t nr_runs)
{
	(void)copy;	/* always done when it returns */
	return transfer(hmm_devmem_ctx(devmem), runs, nr_runs, true);
}

int ocl_copy_from_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			 const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct hmm_opencl *ocl = hmm_devmem_ctx(devmem);
	int ret = transfer(ocl, runs, nr_runs, false);

	(void)copy;
	for (size_t i = 0; i < nr_runs && !ret; i++)
		ocl_count(&ocl->count.migrated_out, runs[i].nr_pages);
	return ret;
}

/* Only inside of one device: two engines share nothing. */
int ocl_copy_peer(struct hmm_devmem *devmem, struct hmm_devmem *from, struct hmm_copy *copy,
		  const struct hmm_peer_run *runs, size_t nr_runs)
{
	struct hmm_opencl *ocl = hmm_devmem_ctx(devmem);
	int ret = 0;
	size_t i = 0;

	(void)copy;
	if (from != devmem)
		return -EOPNOTSUPP;
	while (i < nr_runs && !ret) {
		unsigned int slot = ocl_channel_get(&ocl->channel);
		struct ocl_request *request = ocl_request(&ocl->channel, slot);

		for (request->nr_runs = 0; i < nr_runs && request->nr_runs < OCL_RUNS; i++)
			request->runs[request->nr_runs++] = (struct ocl_run){
				.index = runs[i].to, .at = runs[i].from, .nr = runs[i].nr_pages,
			};
		ret = ocl_dma_ask(ocl, slot, OCL_COPY_WITHIN);
		ocl_channel_put(&ocl->channel, slot);
	}
	return ret;
}
