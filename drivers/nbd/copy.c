/* SPDX-License-Identifier: MIT */
/*
 * Copies between pages and servers. A copy is cut into requests, none of which crosses a
 * chunk; many are under way together, and each is taken in as it ends. Pages of zeros are
 * neither sent nor fetched. What is read comes over lanes, one of each server for as long
 * as the copy takes, and where there is none by the link.
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

#define LANE_UNTRIED	(NO_LANE - 1)

struct flight {
	uint32_t slot;		/* NO_SLOT: it is on the lane of */
	uint32_t server;
	char *cpu;
	uint64_t index;
	uint32_t nr;
};

/* What has to be read again: all of it, or pages (bits) that were wrong. */
struct again {
	struct flight f;
	uint64_t wrong;
	bool all;
};

struct transfer {
	struct nbd_device *dev;
	enum link_op op;
	uint64_t begun_ms;
	uint32_t lane[LINK_SERVERS];	/* ours while this lasts; NO_LANE; LANE_UNTRIED */
	struct flight flight[FLYING];
	uint32_t nr_flights;
	struct again again[FLYING];
	uint32_t nr_again;
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

static struct nbd_past past_of(const struct transfer *t, uint32_t avoid, uint32_t shun)
{
	return (struct nbd_past){ avoid, shun, nbd_waited_ms(t->dev, t->begun_ms) };
}

static uint64_t wrong_pages(const struct nbd_device *dev, const struct flight *f)
{
	uint64_t wrong = 0;

	for (uint32_t i = 0; i < f->nr; i++)
		if (!nbd_page_intact(dev, f->index + i, f->cpu + i * dev->channel.page))
			wrong |= 1ULL << i;
	return wrong;
}

/* ---------------------------------------------------------------- again */

/*
 * A page whose bytes were wrong, by itself: once more from anywhere, for what was wrong
 * on the way, then from another server than that.
 */
static int read_again(struct transfer *t, uint64_t index, char *cpu)
{
	struct nbd_device *dev = t->dev;
	struct nbd_channel *ch = &dev->channel;
	uint32_t slot = nbd_channel_wait_bulk(ch), avoid = 0;
	int ret = -EIO;

	for (int i = 0; i < 2; i++) {
		nbd_channel_post(ch, slot, LINK_READ, index, 1, past_of(t, avoid, 0));
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

/* A request that failed as a whole. A single page is known to be lost. */
static void read_lost(struct transfer *t, const struct flight *f)
{
	if (f->nr == 1)
		lose(t->dev, f->index);
}

/* What a lane has not brought. */
static int read_whole(struct transfer *t, const struct flight *f)
{
	struct nbd_channel *ch = &t->dev->channel;
	uint32_t slot = nbd_channel_wait_bulk(ch);
	int ret;

	nbd_channel_post(ch, slot, LINK_READ, f->index, f->nr, past_of(t, 0, 1u << f->server));
	ret = nbd_channel_wait(ch, slot);
	if (!ret)
		memcpy(f->cpu, nbd_channel_buffer(ch, slot), f->nr * ch->page);
	nbd_channel_put(ch, slot);
	if (ret)
		read_lost(t, f);
	return ret;
}

/* The last of them. Nothing of ours is under way: it needs a slot. */
static void again(struct transfer *t)
{
	struct again a = t->again[--t->nr_again];
	size_t page = t->dev->channel.page;
	int ret = 0;

	if (t->error)
		return;
	if (a.all) {
		ret = read_whole(t, &a.f);
		a.wrong = ret ? 0 : wrong_pages(t->dev, &a.f);
	}
	for (; a.wrong && !ret; a.wrong &= a.wrong - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(a.wrong);

		ret = read_again(t, a.f.index + i, a.f.cpu + i * page);
	}
	t->error = ret;
}

/* ---------------------------------------------------------------- landing */

static void flight_remove(struct transfer *t, uint32_t i)
{
	memmove(&t->flight[i], &t->flight[i + 1], (--t->nr_flights - i) * sizeof(t->flight[0]));
}

static void later(struct transfer *t, const struct flight *f, uint64_t wrong, bool all)
{
	if (wrong || all)
		t->again[t->nr_again++] = (struct again){ *f, wrong, all };
}

/* The lane is of no more use: what is on it is the link's to read. */
static void lane_break(struct transfer *t, uint32_t server)
{
	nbd_lane_drop(t->dev, server, t->lane[server]);
	t->lane[server] = NO_LANE;
	for (uint32_t i = t->nr_flights; i--;) {
		struct flight f = t->flight[i];

		if (f.slot != NO_SLOT || f.server != server)
			continue;
		flight_remove(t, i);
		later(t, &f, 0, true);
	}
}

static int flight_on_lane(const struct transfer *t, uint32_t server, uint64_t cookie)
{
	for (uint32_t i = 0; i < t->nr_flights; i++)
		if (t->flight[i].slot == NO_SLOT && t->flight[i].server == server &&
		    t->flight[i].index == cookie)
			return (int)i;
	return -1;
}

/* Until when to wait for what comes next: it must not use up the link's patience, too. */
static uint64_t lane_patience(const struct transfer *t)
{
	const struct nbd_lanes *lanes = &t->dev->lanes;
	uint64_t stalled = nbd_now_ms() + lanes->stall_ms;
	uint64_t late = t->begun_ms + lanes->timeout_ms / 2;

	return stalled < late ? stalled : late;
}

/* The next answer on a lane, to whatever of ours it is. */
static void lane_land(struct transfer *t, uint32_t server)
{
	struct nbd_device *dev = t->dev;
	int fd = nbd_lane_fd_of(&dev->lanes, server, t->lane[server]), i = -1;
	enum nbd_lane_says says = LANE_NONSENSE;
	char reply[LANE_REPLY];
	uint64_t cookie, wrong = 0;
	struct flight f;

	if (nbd_lane_get(fd, reply, sizeof(reply), lane_patience(t)))
		says = nbd_lane_reply(reply, &cookie);
	if (says != LANE_NONSENSE)
		i = flight_on_lane(t, server, cookie);
	if (i < 0) {
		lane_break(t, server);
		return;
	}
	f = t->flight[i];
	if (says == LANE_BYTES &&
	    !nbd_lane_get(fd, f.cpu, f.nr * dev->channel.page, lane_patience(t))) {
		lane_break(t, server);
		return;
	}
	flight_remove(t, (uint32_t)i);
	if (says == LANE_BYTES)
		wrong = wrong_pages(dev, &f);
	later(t, &f, wrong, says == LANE_REFUSES);
	if (wrong)
		lane_break(t, server);
}

/* One of the link's has ended. */
static void slot_land(struct transfer *t, uint32_t i)
{
	struct nbd_channel *ch = &t->dev->channel;
	struct flight f = t->flight[i];
	int ret = nbd_channel_wait(ch, f.slot);
	bool taken = !ret && t->op == LINK_READ && !t->error;

	flight_remove(t, i);
	if (taken)
		memcpy(f.cpu, nbd_channel_buffer(ch, f.slot), f.nr * ch->page);
	nbd_channel_put(ch, f.slot);
	if (taken)
		later(t, &f, wrong_pages(t->dev, &f), false);
	if (ret && t->op == LINK_READ)
		read_lost(t, &f);
	if (ret && !t->error)
		t->error = ret;
}

/* One that has ended, or else the oldest; wait for it and take it in. */
static void land(struct transfer *t)
{
	uint32_t i = 0;

	while (i < t->nr_flights && (t->flight[i].slot == NO_SLOT ||
				     !nbd_channel_done(&t->dev->channel, t->flight[i].slot)))
		i++;
	i = i < t->nr_flights ? i : 0;
	if (t->flight[i].slot == NO_SLOT)
		lane_land(t, t->flight[i].server);
	else
		slot_land(t, i);
}

static void step(struct transfer *t)
{
	if (t->nr_flights)
		land(t);
	else
		again(t);
}

/* ---------------------------------------------------------------- launching */

/* By a lane of a server that has the page, if there is one to be had. */
static bool launch_on_lane(struct transfer *t, struct flight *f)
{
	struct nbd_device *dev = t->dev;
	const struct nbd_channel *ch = &dev->channel;
	uint64_t chunk = f->index / ch->chunk_pages;
	uint64_t offset = link_offset_of(chunk, ch->nr_groups,
					 (uint32_t)(f->index % ch->chunk_pages), ch->page);
	uint32_t mirror = dev->lanes.mirror;

	for (uint32_t i = 0; i < mirror; i++) {
		uint32_t turn = link_turn_of(chunk, ch->nr_groups, mirror, i);
		uint32_t s = link_server_of(chunk, ch->nr_groups, mirror, turn);

		if (t->lane[s] == LANE_UNTRIED)
			t->lane[s] = nbd_lane_take(dev, s);
		if (t->lane[s] == NO_LANE)
			continue;
		f->slot = NO_SLOT;
		f->server = s;
		if (nbd_lane_ask(nbd_lane_fd_of(&dev->lanes, s, t->lane[s]), f->index, offset,
				 f->nr * ch->page))
			return true;
		lane_break(t, s);
	}
	return false;
}

static void launch_by_link(struct transfer *t, struct flight *f)
{
	struct nbd_channel *ch = &t->dev->channel;

	/* Short of slots: first those that we hold. */
	while ((f->slot = nbd_channel_get_bulk(ch)) == NO_SLOT && t->nr_flights)
		land(t);
	if (f->slot == NO_SLOT)
		f->slot = nbd_channel_wait_bulk(ch);
	if (t->op == LINK_WRITE) {
		nbd_pages_written(&t->dev->pages, f->index, f->nr);
		memcpy(nbd_channel_buffer(ch, f->slot), f->cpu, f->nr * ch->page);
	}
	nbd_channel_post(ch, f->slot, t->op, f->index, f->nr, past_of(t, 0, 0));
}

static void launch(struct transfer *t, char *cpu, uint64_t index, uint32_t nr)
{
	struct flight f = { .cpu = cpu, .index = index, .nr = nr };

	while (t->nr_flights + t->nr_again == FLYING)
		step(t);
	if (t->op != LINK_READ || !launch_on_lane(t, &f))
		launch_by_link(t, &f);
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
	struct transfer t = { .dev = dev, .op = op, .begun_ms = nbd_now_ms() };

	for (uint32_t s = 0; s < LINK_SERVERS; s++)
		t.lane[s] = LANE_UNTRIED;
	for (size_t i = 0; i < nr_runs && !t.error; i++)
		move_run(&t, &runs[i]);
	while (t.nr_flights || t.nr_again)
		step(&t);
	for (uint32_t s = 0; s < LINK_SERVERS; s++)
		if (t.lane[s] < LANE_UNTRIED)
			nbd_lane_put(dev, s, t.lane[s]);
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
