/* SPDX-License-Identifier: MIT */
/*
 * Copies between pages and servers. A copy is cut into requests, none of which crosses a
 * chunk; all that there are slots for are under way together, and each is taken in as it
 * ends. Pages of zeros are neither sent nor fetched.
 *
 * The checksum of a page is made of the bytes in RAM before they are handed out, and
 * compared with the bytes in RAM when they are back: whatever went wrong in between, in
 * the link, a library, the network or the server, is found.
 */
#include <errno.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "device.h"

/* Requests of one copy under way at once: 4 MiB. */
#define FLYING		16u

struct flight {
	uint32_t slot;
	char *cpu;
	uint64_t index;
	uint32_t nr;
};

struct transfer {
	struct nbd_device *dev;
	enum link_op op;
	struct flight flight[FLYING];
	uint32_t nr_flights;
	int error;
};

static bool all_zeros(const void *bytes, size_t len)
{
	const char *p = bytes;

	return !p[0] && !memcmp(p, p + 1, len - 1);
}

static uint64_t sum_of(const void *bytes, size_t len)
{
	uint64_t sum = XXH3_64bits(bytes, len);

	return sum ? sum : 1;
}

bool nbd_page_intact(const struct nbd_device *dev, uint64_t index, const void *bytes)
{
	return sum_of(bytes, dev->channel.page) == dev->pages.sum[index];
}

static void lose(struct nbd_device *dev, uint64_t index)
{
	pthread_mutex_lock(&dev->pages.lock);
	nbd_pages_lose(&dev->pages, index);
	pthread_mutex_unlock(&dev->pages.lock);
}

/*
 * A page whose bytes were wrong, by itself: once more from anywhere, for what was wrong
 * on the way, then from another server than that.
 */
static int read_again(struct nbd_device *dev, uint64_t index, char *cpu)
{
	struct nbd_channel *ch = &dev->channel;
	uint32_t slot = nbd_channel_wait_bulk(ch), avoid = 0;
	int ret = -EIO;

	for (int i = 0; i < 2; i++) {
		nbd_channel_post(ch, slot, LINK_READ, index, 1, avoid);
		ret = nbd_channel_wait(ch, slot);
		if (ret)
			break;
		memcpy(cpu, nbd_channel_buffer(ch, slot), ch->page);
		if (nbd_page_intact(dev, index, cpu))
			break;
		avoid |= 1u << (ch->mem->slot[slot].served % LINK_SERVERS);
		ret = -EIO;
	}
	nbd_channel_put(ch, slot);
	if (ret)
		lose(dev, index);
	return ret;
}

/* Take in what a request has read. The slot is given back first: read_again() needs one. */
static int read_land(struct transfer *t, const struct flight *f)
{
	struct nbd_device *dev = t->dev;
	struct nbd_channel *ch = &dev->channel;
	uint64_t wrong = 0;

	memcpy(f->cpu, nbd_channel_buffer(ch, f->slot), f->nr * ch->page);
	nbd_channel_put(ch, f->slot);
	for (uint32_t i = 0; i < f->nr; i++)
		if (!nbd_page_intact(dev, f->index + i, f->cpu + i * ch->page))
			wrong |= 1ULL << i;
	for (; wrong; wrong &= wrong - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(wrong);
		int ret = read_again(dev, f->index + i, f->cpu + i * ch->page);

		if (ret)
			return ret;
	}
	return 0;
}

/* The pages of a request that failed as a whole. A single one is known to be lost. */
static void read_lost(struct transfer *t, const struct flight *f)
{
	if (f->nr == 1)
		lose(t->dev, f->index);
}

/* One that has ended, or else the oldest; wait for it and take it in. */
static void land(struct transfer *t)
{
	struct nbd_channel *ch = &t->dev->channel;
	struct flight f;
	uint32_t i = 0;
	int ret;

	while (i < t->nr_flights && !nbd_channel_done(ch, t->flight[i].slot))
		i++;
	i = i < t->nr_flights ? i : 0;
	f = t->flight[i];
	memmove(&t->flight[i], &t->flight[i + 1], (--t->nr_flights - i) * sizeof(f));
	ret = nbd_channel_wait(ch, f.slot);
	if (!ret && t->op == LINK_READ && !t->error) {
		ret = read_land(t, &f);
	} else {
		if (ret && t->op == LINK_READ)
			read_lost(t, &f);
		nbd_channel_put(ch, f.slot);
	}
	if (ret && !t->error)
		t->error = ret;
}

static void launch(struct transfer *t, char *cpu, uint64_t index, uint32_t nr)
{
	struct nbd_channel *ch = &t->dev->channel;
	struct flight f = { .cpu = cpu, .index = index, .nr = nr };

	while (t->nr_flights == FLYING)
		land(t);
	/* Short of slots: first those that we hold. */
	while ((f.slot = nbd_channel_get_bulk(ch)) == NO_SLOT && t->nr_flights)
		land(t);
	if (f.slot == NO_SLOT)
		f.slot = nbd_channel_wait_bulk(ch);
	if (t->op == LINK_WRITE) {
		nbd_pages_written(&t->dev->pages, index, nr);
		memcpy(nbd_channel_buffer(ch, f.slot), cpu, nr * ch->page);
	}
	nbd_channel_post(ch, f.slot, t->op, index, nr, 0);
	t->flight[t->nr_flights++] = f;
}

/* Does the page need the network? Settles it where not. */
static bool page_to_send(struct nbd_device *dev, const char *cpu, uint64_t index)
{
	size_t page = dev->channel.page;
	bool zero = !cpu || all_zeros(cpu, page);

	dev->pages.sum[index] = zero ? 0 : sum_of(cpu, page);
	return !zero;
}

static bool page_to_fetch(const struct nbd_device *dev, char *cpu, uint64_t index)
{
	if (dev->pages.sum[index])
		return true;
	memset(cpu, 0, dev->channel.page);
	return false;
}

static bool page_to_move(struct transfer *t, char *cpu, uint64_t index)
{
	return t->op == LINK_WRITE ? page_to_send(t->dev, cpu, index) :
				     page_to_fetch(t->dev, cpu, index);
}

static void move_run(struct transfer *t, const struct hmm_copy_run *run)
{
	struct nbd_channel *ch = &t->dev->channel;
	uint32_t nr = 0;

	for (uint64_t i = 0; i < run->nr_pages && !t->error; i++) {
		uint64_t index = run->index + i;
		char *cpu = run->cpu ? (char *)run->cpu + i * ch->page : NULL;

		/* A request is index - nr to index; it ends at its chunk and before zeros. */
		if (nr && index % ch->chunk_pages == 0) {
			launch(t, cpu - nr * ch->page, index - nr, nr);
			nr = 0;
		}
		if (page_to_move(t, cpu, index)) {
			nr++;
		} else if (nr) {
			launch(t, cpu - nr * ch->page, index - nr, nr);
			nr = 0;
		}
	}
	if (nr && !t->error)
		launch(t, (char *)run->cpu + (run->nr_pages - nr) * ch->page,
		       run->index + run->nr_pages - nr, nr);
}

static int move(struct nbd_device *dev, enum link_op op, const struct hmm_copy_run *runs,
		size_t nr_runs)
{
	struct transfer t = { .dev = dev, .op = op };

	for (size_t i = 0; i < nr_runs && !t.error; i++)
		move_run(&t, &runs[i]);
	while (t.nr_flights)
		land(&t);
	return t.error;
}

int nbd_copy_to_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
		       const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct nbd_device *dev = hmm_devmem_ctx(devmem);

	(void)copy;	/* always done when this returns */
	return move(dev, LINK_WRITE, runs, nr_runs);
}

int nbd_copy_from_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			 const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct nbd_device *dev = hmm_devmem_ctx(devmem);
	int ret;

	(void)copy;
	if (nr_runs == 1 && runs->nr_pages == 1 &&
	    nbd_faults_take(dev, runs->index, runs->cpu, &ret))
		return ret;
	for (size_t i = 0; i < nr_runs; i++)
		if (nbd_pages_any_lost(&dev->pages, runs[i].index, runs[i].nr_pages))
			return -EIO;
	return move(dev, LINK_READ, runs, nr_runs);
}
