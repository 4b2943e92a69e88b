// SPDX-License-Identifier: MIT
#include "monitor/sharing.h"

#include "sys/process.h"
#include "sys/sys.h"

#define SHARER_BYTES	(1u << 20)	/* of less it is not worth asking */
#define LITTLE_PART	64u		/* of all; and how seldom it is asked then */

struct sum {
	uint64_t bytes, most, who;	/* of all, of one; see struct sharing */
};

static struct sum add_up(const struct sharer *sharers, unsigned int nr)
{
	struct sum sum = { 0 };

	for (unsigned int i = 0; i < nr; i++) {
		sum.bytes += sharers[i].resident;
		sum.most = sharers[i].resident > sum.most ? sharers[i].resident : sum.most;
		sum.who += (uint64_t)sharers[i].pid * 0x9e3779b97f4a7c15u >> 8;
	}
	return sum;
}

static uint64_t faults_of(const struct sharer *sharers, unsigned int nr)
{
	uint64_t faults = 0;

	for (unsigned int i = 0; i < nr; i++)
		faults += sys_minor_faults(sharers[i].pid);
	return faults;
}

static void ask(struct sharing *s, const struct sharer *sharers, unsigned int nr)
{
	const uint64_t begin = sys_now_ns();
	uint64_t part;

	s->faults = faults_of(sharers, nr);
	s->often = 0;
	/* Who has ended, or cannot be asked, counts in full. */
	for (unsigned int i = 0; i < nr; i++)
		if (sharers[i].resident >= SHARER_BYTES &&
		    !sys_memory_share(sharers[i].memory, &part) && part < sharers[i].resident)
			s->often += sharers[i].resident - part;
	s->since_ns = sys_now_ns();
	s->cost_ns = s->since_ns - begin;
}

/* Of what was too often, what is by now in RAM more than once, at most. */
static uint64_t copied(const struct sharing *s, const struct sharer *sharers, unsigned int nr)
{
	uint64_t faults = faults_of(sharers, nr);
	uint64_t bytes = faults > s->faults ? (faults - s->faults) * sys_page_size() : 0;

	return bytes < s->often ? bytes : s->often;
}

static uint64_t at_most(const struct sharing *s, const struct sum *sum, uint64_t copies)
{
	uint64_t often = s->often - copies;

	/* Processes may have ended since; in none of them is anything twice. */
	return sum->bytes - sum->most > often ? sum->bytes - often : sum->most;
}

uint64_t sharing_bytes(struct sharing *s, const struct sharer *sharers, unsigned int nr,
		       uint64_t enough, unsigned int rest)
{
	const struct sum sum = add_up(sharers, nr);
	bool little = s->often < sum.bytes / LITTLE_PART && sum.who == s->who;
	uint64_t bytes;

	if (nr < 2 || sum.bytes <= enough)
		return sum.bytes;
	bytes = at_most(s, &sum, copied(s, sharers, nr));
	if ((bytes <= enough && sum.who == s->who) ||
	    sys_now_ns() - s->since_ns < s->cost_ns * (little ? LITTLE_PART : rest))
		return bytes;
	ask(s, sharers, nr);
	s->who = sum.who;
	return at_most(s, &sum, 0);
}
