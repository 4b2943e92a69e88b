// SPDX-License-Identifier: MIT
/*
 * tier: the tree's private memory in RAM stays under a limit; what is coldest lives on
 * the device.
 *
 * A clock. Its hand goes through all address spaces, in chunks of half a MiB, and has
 * what it finds in RAM migrate, until little enough is left. No hardware tells us which
 * pages are in use, but coming back does: a chunk that the hand finds in RAM although
 * it has been sent away was wanted, and is passed over once (twice, if it was wanted
 * within one turn of the clock). So memory in use costs one fault and then stays.
 *
 * Where most of what is sent comes back, more is in use than fits, and going round in
 * order would send away just what is wanted next: then the hand skips every other
 * chunk, at random, so that a part of it stays and is hit.
 *
 * A program that allocates at full speed must not get far beyond the limit, whenever we
 * get to run. So programs may map half of the limit, and the first touches of what they
 * map then are the core's to serve; and faults may bring what fits until the next look:
 *
 *	touched at the kernel's speed	what was mapped first		<= limit / 2
 *	touched by our leave		all else, and coming home	<= limit - what is there
 *
 * It looks again the sooner the less room is left.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uhmm/driver.h>
#include <uhmm/remote.h>

#include "monitor/log.h"
#include "monitor/policy.h"
#include "monitor/sharing.h"
#include "sys/process.h"
#include "sys/sys.h"

#define SPACES		1024u
#define CHUNK_PAGES	128u
#define RUN_CHUNKS	16u		/* sent in one go */
#define WINDOW_PAGES	4096u		/* looked at in one go */
#define TURN_PAGES	1024u		/* sent between two looks at what is left */
#define NOTES		65536u		/* chunks remembered; a power of two */

#define SHARING_REST	4u		/* times as long as it took to see what is shared */
#define HIGH_PERMILLE	960u		/* of the limit: start sending ... */
#define LOW_PERMILLE	920u		/* ... until that little is left */
#define LIMIT_MIN	(4u << 20)

#define FASTEST		3u		/* bytes per ns that a program can allocate */
#define LARGE_BYTES	(1u << 20)	/* of a mapping that is watched */
#define MAPPINGS	256u

#define REST_MIN_NS	500000u
#define REST_MAX_NS	20000000u
#define FULL_REST_NS	100000000u
#define STUCK_MAX	8u

/* What is known of a chunk that was sent away, until another needs the place. */
struct note {
	uint64_t key;			/* 0: none */
	uint32_t round;			/* of the clock, when it was sent */
	uint8_t chances;		/* times to pass it over */
	bool away;			/* sent, and not yet seen in RAM again */
};

struct tier {
	uint64_t page;
	uint64_t limit, high, low;	/* bytes */
	struct hmm_mm *_Atomic mm;	/* one of the tree's, for its bounds; from the first program on */
	uint64_t watched;		/* bytes of writable mappings when they were gone through; 0: not */
	uint64_t hand_space;		/* id; the hand */
	uintptr_t hand;
	uint32_t round;
	uint64_t rng;
	uint32_t sent, back;		/* chunks of late: sent, and found back */
	uint64_t sent_in_round;		/* pages, and ... */
	bool insist;			/* ... a round without any: nobody has chances */
	unsigned int stuck;		/* turns in a row in which nothing went */
	unsigned int bare;		/* ... in which nobody had an agent */
	bool full_said;
	struct sharing sharing;
	struct sharer sharers[SPACES];
	uint8_t places[WINDOW_PAGES];
	struct note notes[NOTES];
};

/* ---------------------------------------------------------------- which chunks */

static struct note *note_of(struct tier *tier, const struct space *space, uintptr_t chunk)
{
	uint64_t key = (space->id << 40 ^ chunk / (CHUNK_PAGES * tier->page)) + 1;
	struct note *note = &tier->notes[key * 0x9e3779b97f4a7c15u >> 48 & (NOTES - 1)];

	if (note->key != key)
		*note = (struct note){ .key = key };
	return note;
}

static bool thrashing(const struct tier *tier)
{
	return tier->sent > 64 && tier->back > tier->sent / 2;
}

static bool coin(struct tier *tier)
{
	tier->rng ^= tier->rng << 13;
	tier->rng ^= tier->rng >> 7;
	tier->rng ^= tier->rng << 17;
	return tier->rng >> 33 & 1;
}

/* Of a chunk with pages in RAM. Old experience fades. */
static bool wanted(struct tier *tier, struct note *note)
{
	if (note->away) {
		note->away = false;
		note->chances = tier->round - note->round <= 1 ? 2 : 1;
		tier->back++;
	}
	if (tier->sent > 4096) {
		tier->sent /= 2;
		tier->back /= 2;
	}
	if (tier->insist)
		return false;
	if (note->chances) {
		note->chances--;
		return true;
	}
	return thrashing(tier) && coin(tier);
}

/* ---------------------------------------------------------------- sending */

/* All of it that is in RAM; holes stay holes. Pages that went, 0, or -ENOSPC. */
static int64_t send_chunks(struct tier *tier, struct pool *pool, struct space *space,
			   uintptr_t start, const uint8_t *places, unsigned int nr)
{
	const uint64_t flags = HMM_MIGRATE_SYSTEM | HMM_MIGRATE_KEEP_HOLES;
	int64_t ret;

	while (nr && *places != HMM_PLACE_SYSTEM) {
		places++;
		nr--;
		start += tier->page;
	}
	while (nr && places[nr - 1] != HMM_PLACE_SYSTEM)
		nr--;
	if (!nr)
		return 0;
	ret = hmm_migrate_to_device(space->mm, pool->device.devmem, start, start + nr * tier->page,
				    flags, NULL);
	return ret > 0 || ret == -ENOSPC ? ret : 0;
}

static bool any_system(const uint8_t *places, unsigned int nr)
{
	return memchr(places, HMM_PLACE_SYSTEM, nr) != NULL;
}

/* The chunk at the hand, and whether it is to go; the hand moves on. */
static bool next_chunk(struct tier *tier, const struct space *space, uintptr_t start, uintptr_t end,
		       struct note **note)
{
	const uint64_t chunk_bytes = CHUNK_PAGES * tier->page;
	const uint8_t *places = tier->places + (tier->hand - start) / tier->page;
	uintptr_t stop = (tier->hand & ~(chunk_bytes - 1)) + chunk_bytes;
	unsigned int nr;

	stop = stop < end ? stop : end;
	nr = (unsigned int)((stop - tier->hand) / tier->page);
	*note = note_of(tier, space, tier->hand);
	tier->hand = stop;
	return any_system(places, nr) && !wanted(tier, *note);
}

/*
 * From the hand on to the end of what was looked at, or until @goal pages went. The hand
 * is where to go on.
 */
static int64_t sweep_window(struct tier *tier, struct pool *pool, struct space *space,
			    uintptr_t end, int64_t goal)
{
	const uintptr_t start = tier->hand;
	struct note *notes[RUN_CHUNKS];
	int64_t sum = 0, ret;

	if (hmm_residency(space->mm, start, end, tier->places)) {
		tier->hand = end;
		return 0;
	}
	while (tier->hand < end && sum < goal) {
		const uintptr_t first = tier->hand;
		uintptr_t stop = first;
		unsigned int nr = 0;

		while (nr < RUN_CHUNKS && tier->hand < end &&
		       next_chunk(tier, space, start, end, &notes[nr])) {
			stop = tier->hand;
			nr++;
		}
		if (!nr)
			continue;
		ret = send_chunks(tier, pool, space, first, tier->places + (first - start) / tier->page,
				  (unsigned int)((stop - first) / tier->page));
		if (ret < 0)
			return sum ? sum : ret;
		while (nr--) {
			notes[nr]->round = tier->round;
			notes[nr]->away = true;
			tier->sent++;
		}
		sum += ret;
	}
	return sum;
}

/* The rest of one space, as sweep_window(). The hand is 0 when its end was reached. */
static int64_t sweep_space(struct tier *tier, struct pool *pool, struct space *space, int64_t goal)
{
	const uint64_t window = WINDOW_PAGES * tier->page;
	struct policy_mapping mapping;
	int64_t sum = 0, ret;
	uintptr_t end;

	while (sum < goal && policy_mappings(space, tier->hand, &mapping, 1) == 1) {
		if (tier->hand < mapping.start)
			tier->hand = mapping.start;
		end = mapping.end - tier->hand < window ? mapping.end : tier->hand + window;
		ret = sweep_window(tier, pool, space, end, goal - sum);
		if (ret < 0)
			return sum ? sum : ret;
		sum += ret;
	}
	if (sum < goal)
		tier->hand = 0;
	return sum;
}

/* Spaces come in no order: the one that the hand is in, or the next by its number. */
static struct space *under_hand(const struct tier *tier, struct space **spaces, unsigned int nr)
{
	struct space *best = NULL;

	for (unsigned int i = 0; i < nr; i++)
		if (spaces[i]->id >= tier->hand_space && (!best || spaces[i]->id < best->id))
			best = spaces[i];
	return best;
}

static void next_round(struct tier *tier)
{
	tier->insist = tier->sent_in_round == 0;
	tier->sent_in_round = 0;
	tier->round++;
	tier->hand_space = 0;
	tier->hand = 0;
}

/* Once round at most. Pages that went; less than @goal: there was nothing more to send. */
static int64_t sweep(struct tier *tier, struct pool *pool, struct space **spaces, unsigned int nr,
		     int64_t goal)
{
	const uint32_t last_round = tier->round + 2;
	struct space *space;
	int64_t sum = 0, ret;

	while (sum < goal && tier->round != last_round) {
		space = under_hand(tier, spaces, nr);
		if (!space) {
			next_round(tier);
			continue;
		}
		if (space->id != tier->hand_space)
			tier->hand = 0;
		tier->hand_space = space->id;
		ret = sweep_space(tier, pool, space, goal - sum);
		if (ret < 0)
			return sum ? sum : ret;
		sum += ret;
		tier->sent_in_round += (uint64_t)ret;
		if (!tier->hand)
			tier->hand_space = space->id + 1;
	}
	return sum;
}

/* ---------------------------------------------------------------- turns */

/* What there is, and what faults have brought and programs mapped by then. */
struct look {
	struct sys_memory memory;
	uint64_t brought, mapped;	/* pages */
};

/*
 * As long as the limit is not near it is no matter that what processes share counts for
 * each of them.
 */
static void look(struct tier *tier, struct space **spaces, unsigned int nr, struct look *out)
{
	struct sys_memory one;

	memset(out, 0, sizeof(*out));
	/* Counted first: what comes meanwhile counts twice, and not not at all. */
	(void)hmm_remote_count(tier->mm, &out->brought, &out->mapped);
	for (unsigned int i = 0; i < nr; i++) {
		space_memory(spaces[i], &one);
		out->memory.resident += one.resident;
		out->memory.writable += one.writable;
		tier->sharers[i] = (struct sharer){ space_pid(spaces[i]), space_agent(spaces[i]),
						    one.resident };
	}
	out->memory.resident = sharing_bytes(&tier->sharing, tier->sharers, nr, tier->low,
					     SHARING_REST);
}

/* Until half of the limit, or the limit, can be reached. */
static uint64_t rest_for(const struct tier *tier, uint64_t bytes)
{
	uint64_t next = bytes < tier->limit / 2 ? tier->limit / 2 : tier->high;
	uint64_t ns = bytes < next ? (next - bytes) / FASTEST : 0;

	return ns < REST_MIN_NS ? REST_MIN_NS : ns > REST_MAX_NS ? REST_MAX_NS : ns;
}

static uint64_t device_is_full(struct tier *tier)
{
	if (!tier->full_said)
		say(SAY_WARNING, "the device is full: what does not fit stays in RAM");
	tier->full_said = true;
	return FULL_REST_NS;
}

static void watch_space(struct space *space)
{
	static struct policy_mapping mappings[MAPPINGS];
	unsigned int nr;
	uintptr_t from = 0;

	do {
		nr = policy_mappings(space, from, mappings, MAPPINGS);
		for (unsigned int i = 0; i < nr; i++) {
			from = mappings[i].end;
			if (mappings[i].end - mappings[i].start >= LARGE_BYTES)
				(void)hmm_remote_watch(space->mm, mappings[i].start);
		}
	} while (nr == MAPPINGS);
}

/*
 * Where more is mapped than half of the limit, all of it is watched, whatever there was
 * before: looked through again when there is more of it that nobody has announced.
 */
static void watch(struct tier *tier, struct space **spaces, unsigned int nr, uint64_t writable)
{
	const uint64_t half = tier->limit / 2;

	if (writable > half && (!tier->watched || writable > tier->watched + tier->limit / 64)) {
		for (unsigned int i = 0; i < nr; i++)
			watch_space(spaces[i]);
		tier->watched = writable;
	} else if (writable < tier->watched) {
		tier->watched = writable > half ? writable : 0;
	}
}

static uint64_t pages_left(const struct tier *tier, uint64_t limit, uint64_t bytes)
{
	return bytes < limit ? (limit - bytes) / tier->page : 0;
}

/* Until the next look. What is not watched can be touched without us. */
static void allow(const struct tier *tier, const struct look *now)
{
	const uint64_t half = tier->limit / 2;
	uint64_t bytes = now->memory.resident;

	if (!tier->watched && bytes < half)
		bytes = half;
	(void)hmm_remote_allow(tier->mm, now->brought + pages_left(tier, tier->limit, bytes),
			       now->mapped + pages_left(tier, half, now->memory.writable));
}

static void allow_all(struct tier *tier)
{
	tier->watched = 0;
	(void)hmm_remote_allow(tier->mm, UINT64_MAX, UINT64_MAX);
}

/*
 * Nothing went: what could is in flight, or wanted. A little is allowed, and it is tried
 * again; if that goes on nothing can go, and nothing is gained by waiting.
 */
static uint64_t nothing_went(struct tier *tier, struct look *now)
{
	uint64_t ns;

	if (tier->stuck == STUCK_MAX) {
		allow_all(tier);
		return REST_MAX_NS;
	}
	now->brought += tier->limit / 64 / tier->page;
	allow(tier, now);
	ns = REST_MIN_NS << tier->stuck++;
	return ns < REST_MAX_NS ? ns : REST_MAX_NS;
}

/*
 * Pages that went of what is too much; 0: none of it can go; -ENOSPC. A driver whose
 * memory is full would send home what came first, to take what comes now: so it is
 * not asked.
 */
static int64_t send_some(struct tier *tier, struct pool *pool, struct space **spaces,
			 unsigned int nr, uint64_t bytes)
{
	uint64_t goal = (bytes - tier->low + tier->page - 1) / tier->page;
	uint64_t room = pool_room(pool);

	if (room <= CHUNK_PAGES)
		return -ENOSPC;
	if (goal > room - CHUNK_PAGES)
		goal = room - CHUNK_PAGES;
	return sweep(tier, pool, spaces, nr, (int64_t)(goal < TURN_PAGES ? goal : TURN_PAGES));
}

static uint64_t turn(struct tier *tier, struct pool *pool, struct space **spaces, unsigned int nr)
{
	uint64_t bytes;
	struct look now;
	int64_t sent = 1;

	if (!tier->mm)
		return REST_MAX_NS;
	/* What there is has no agent, and nothing of it can go; unless one is on its way. */
	tier->bare = !nr && pool_has_bare(pool) ? tier->bare + 1 : 0;
	if (tier->bare > 1)
		allow_all(tier);
	if (!nr)
		return REST_MAX_NS;
	look(tier, spaces, nr, &now);
	bytes = now.memory.resident;
	allow(tier, &now);
	watch(tier, spaces, nr, now.memory.writable);
	if (bytes <= tier->high)
		return rest_for(tier, bytes);
	while (bytes > tier->low && sent > 0) {
		sent = send_some(tier, pool, spaces, nr, bytes);
		look(tier, spaces, nr, &now);
		bytes = now.memory.resident;
		allow(tier, &now);
	}
	if (sent == -ENOSPC) {
		allow_all(tier);
		return device_is_full(tier);
	}
	if (!sent)
		return nothing_went(tier, &now);
	tier->stuck = 0;
	return REST_MIN_NS;
}

static uint64_t tier_turn(void *ctx, struct policy *policy)
{
	static struct space *spaces[SPACES];
	unsigned int nr = pool_spaces(policy->pool, spaces, SPACES);
	uint64_t ns = turn(ctx, policy->pool, spaces, nr);

	for (unsigned int i = 0; i < nr; i++)
		space_put(spaces[i]);
	return ns;
}

/* ---------------------------------------------------------------- life */

static void tier_begin(void *ctx, struct hmm_mm *mm)
{
	struct tier *tier = ctx;

	tier->mm = mm;
	(void)hmm_remote_allow(mm, tier->limit / 2 / tier->page, tier->limit / 2 / tier->page);
}

static int tier_open(const char *options, uint64_t dram_bytes, void **ctx, char *why)
{
	struct tier *tier;

	if (options || dram_bytes < LIMIT_MIN) {
		snprintf(why, POLICY_WHY, "tier takes no options, but a --dram of 4 MiB or more");
		return -EINVAL;
	}
	tier = calloc(1, sizeof(*tier));
	if (!tier)
		return -ENOMEM;
	tier->page = sys_page_size();
	tier->limit = dram_bytes;
	tier->high = dram_bytes / 1000 * HIGH_PERMILLE;
	tier->low = dram_bytes / 1000 * LOW_PERMILLE;
	tier->rng = 88172645463325252u;
	*ctx = tier;
	return 0;
}

static void tier_close(void *ctx)
{
	free(ctx);
}

const struct policy_ops policy_tier = {
	.name = "tier",
	.open = tier_open,
	.begin = tier_begin,
	.turn = tier_turn,
	.close = tier_close,
};
