// SPDX-License-Identifier: MIT
#include "monitor/sharing.h"

#include <errno.h>

#include "sys/process.h"
#include "sys/sys.h"

#define SHARER_BYTES	(1u << 20)	/* of less it is not worth asking */
#define ANEW_REST	2u		/* where others are there than before, as after a fork */
#define ENOUGH_RESTS	8u		/* where there is room, rests so many times as long ... */
#define LITTLE_RESTS	32u		/* ... and where as good as nothing is shared */
#define LITTLE_PART	64u		/* of all */

struct sum {
	uint64_t bytes, who;		/* counted; see struct sharing */
};

static struct sum add_up(const struct sharer *sharers, unsigned int nr)
{
	struct sum sum = { 0 };

	for (unsigned int i = 0; i < nr; i++) {
		sum.bytes += sharers[i].resident;
		sum.who += (uint64_t)sharers[i].pid * 0x9e3779b97f4a7c15u >> 8;
	}
	return sum;
}

static uint64_t faults_of(const struct sharer *sharers, unsigned int nr)
{
	uint64_t faults = 0;

	for (unsigned int i = 0; i < nr; i++)
		faults += sys_faults(sharers[i].pid);
	return faults;
}

/* Who has ended has none any more; who cannot be asked counts in full. */
static uint64_t part_of(const struct sharer *sharer)
{
	uint64_t part;
	int ret;

	if (sharer->resident < SHARER_BYTES)
		return sharer->resident;
	ret = sys_memory_share(sharer->memory, &part);
	return !ret ? part : ret == -ESRCH ? 0 : sharer->resident;
}

static void ask(struct sharing *s, const struct sharer *sharers, unsigned int nr)
{
	const uint64_t begin = sys_now_ns();

	s->faults = faults_of(sharers, nr);
	s->bytes = 0;
	for (unsigned int i = 0; i < nr; i++)
		s->bytes += part_of(&sharers[i]);
	s->since_ns = sys_now_ns();
	s->cost_ns = s->since_ns - begin;
}

/* By what was found then, and has come since. */
static uint64_t estimate(const struct sharing *s, const struct sum *sum, uint64_t faults)
{
	uint64_t bytes = s->bytes;

	bytes += sum->bytes > s->counts ? sum->bytes - s->counts : 0;
	bytes += faults > s->faults ? (faults - s->faults) * sys_page_size() : 0;
	return bytes < sum->bytes ? bytes : sum->bytes;
}

/* How long what was found stands. */
static uint64_t stands_ns(const struct sharing *s, const struct sum *sum, uint64_t bytes,
			  uint64_t enough, unsigned int rest)
{
	uint64_t ns = s->cost_ns * rest;

	if (sum->who != s->who)
		return s->cost_ns * ANEW_REST;
	if (s->bytes > s->counts - s->counts / LITTLE_PART)
		return ns * LITTLE_RESTS;
	return bytes > enough ? ns : ns * ENOUGH_RESTS;
}

uint64_t sharing_bytes(struct sharing *s, const struct sharer *sharers, unsigned int nr,
		       uint64_t enough, unsigned int rest)
{
	const struct sum sum = add_up(sharers, nr);
	uint64_t bytes;

	s->exact = nr < 2;
	if (nr < 2 || sum.bytes <= enough)
		return sum.bytes;
	bytes = estimate(s, &sum, faults_of(sharers, nr));
	if (sys_now_ns() - s->since_ns < stands_ns(s, &sum, bytes, enough, rest))
		return bytes;
	ask(s, sharers, nr);
	s->counts = sum.bytes;
	s->who = sum.who;
	s->exact = true;
	return s->bytes;
}
