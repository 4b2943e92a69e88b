/* SPDX-License-Identifier: MIT */
/*
 * A tree of programs under a random history, against a model of what each page of each
 * holds: written, mapped, moved, discarded, protected, migrated between two devices and
 * home, forked, killed. Meanwhile another thread migrates and evicts at random.
 *
 * UHMM_TEST_SEED repeats a run as far as its own choices go.
 */
#define _GNU_SOURCE
#include "prog.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define AREA		((uintptr_t)0x200000000000)
#define AREA_PAGES	1536u
#define MEMBERS		6u
#define STEPS		1800u

enum access { GAP, READ_WRITE, READ_ONLY };

/* A program, and what its memory is to hold: page i the words of value[i], 0 is zeros. */
struct member {
	struct prog *prog;
	pthread_mutex_t lock;		/* against the end of it while the other thread works */
	uint64_t value[AREA_PAGES];
	uint8_t access[AREA_PAGES];
};

static struct member members[MEMBERS];
static struct testdev *devs[2];
static uint64_t state, next_value = 1;
static _Atomic bool stop;

static uint64_t xorshift(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static uint32_t below(uint32_t n)
{
	return (uint32_t)(xorshift(&state) % n);
}

static uintptr_t at(uint32_t i)
{
	return AREA + i * page;
}

/* ---------------------------------------------------------------- in the programs */

static int64_t do_write(uint64_t addr, uint64_t nr, uint64_t value)
{
	for (uint64_t i = 0; i < nr; i++) {
		volatile uint64_t *w = (uint64_t *)(uintptr_t)(addr + i * page);

		for (size_t j = 0; j < page / 8; j++)
			w[j] = value + i + j;
	}
	return 1;
}

/* The page's value: of its first word, if all others fit; else -1. */
static int64_t do_read(uint64_t addr, uint64_t unused, uint64_t unused2)
{
	const uint64_t *w = (const uint64_t *)(uintptr_t)addr;
	uint64_t first = w[0];

	(void)unused;
	(void)unused2;
	for (size_t j = 0; j < page / 8; j++)
		if (w[j] != (first ? first + j : 0))
			return -1;
	return (int64_t)first;
}

/* Pages and values in pairs, ended by 0: the first page that is wrong, or 0. */
struct claims {
	uint64_t nr;
	struct {
		uint64_t addr, value;
	} of[AREA_PAGES];
};

static int64_t do_check(uint64_t claims, uint64_t unused, uint64_t unused2)
{
	const struct claims *c = (const struct claims *)(uintptr_t)claims;

	(void)unused;
	(void)unused2;
	for (uint64_t i = 0; i < c->nr; i++)
		if (do_read(c->of[i].addr, 0, 0) != (int64_t)c->of[i].value)
			return (int64_t)c->of[i].addr;
	return 0;
}

static struct claims *claims_of[MEMBERS];	/* shared with the programs */

/* ---------------------------------------------------------------- the model */

static struct member *anybody(void)
{
	struct member *m;

	do {
		m = &members[below(MEMBERS)];
	} while (!m->prog);
	return m;
}

/* A range whose pages are all of one access, from a random place on. */
static uint32_t same_access(const struct member *m, uint32_t *first)
{
	uint32_t most = 1 + below(below(4) ? 40 : 700), n = 1;

	*first = below(AREA_PAGES);
	while (n < most && *first + n < AREA_PAGES &&
	       m->access[*first + n] == m->access[*first])
		n++;
	return n;
}

static void check_start(struct member *m, uint32_t first, uint32_t nr)
{
	struct claims *c = claims_of[m - members];

	c->nr = 0;
	for (uint32_t i = first; i < first + nr; i++) {
		if (m->access[i] == GAP)
			continue;
		c->of[c->nr].addr = at(i);
		c->of[c->nr++].value = m->value[i];
	}
	prog_go(m->prog, do_check, (uintptr_t)c, 0, 0);
}

static void check_end(struct member *m)
{
	int64_t bad = prog_wait(m->prog);

	if (bad)
		printf("member %td: page %jx is wrong, or the program dead\n", m - members,
		       (uintmax_t)bad);
	assert_int_equal(bad, 0);
}

static void check_range(struct member *m, uint32_t first, uint32_t nr)
{
	check_start(m, first, nr);
	check_end(m);
}

static void op_write(struct member *m)
{
	uint32_t first, nr = same_access(m, &first);

	if (m->access[first] != READ_WRITE)
		return;
	assert_int_equal(prog_run(m->prog, do_write, at(first), nr, next_value), 1);
	for (uint32_t i = 0; i < nr; i++)
		m->value[first + i] = next_value + i;
	next_value += 1000000;
}

static void op_check(struct member *m)
{
	uint32_t first = below(AREA_PAGES), nr = 1 + below(AREA_PAGES - first);

	check_range(m, first, nr);
}

static void op_guarded(struct member *m)
{
	uint32_t i = below(AREA_PAGES);
	uint64_t *words = malloc(page);
	int64_t got = hmm_copy_from_user(m->prog->mm, words, at(i), page);

	assert_int_equal(got, m->access[i] == GAP ? -EFAULT : (int64_t)page);
	for (size_t j = 0; got > 0 && j < page / 8; j++)
		assert_int_equal(words[j], m->value[i] ? m->value[i] + j : 0);
	free(words);
}

static void op_map(struct member *m)
{
	uint32_t first = below(AREA_PAGES), nr = 1 + below(100);

	nr = nr < AREA_PAGES - first ? nr : AREA_PAGES - first;
	assert_int_equal(prog_change(m->prog, SYS_mmap, at(first), nr * page,
				     PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, (uint64_t)-1),
			 at(first));
	memset(&m->access[first], READ_WRITE, nr);
	memset(&m->value[first], 0, nr * sizeof(m->value[0]));
}

static void op_unmap(struct member *m)
{
	uint32_t first = below(AREA_PAGES), nr = 1 + below(60);

	nr = nr < AREA_PAGES - first ? nr : AREA_PAGES - first;
	assert_int_equal(prog_change(m->prog, SYS_munmap, at(first), nr * page, 0, 0, 0), 0);
	memset(&m->access[first], GAP, nr);
}

static void op_protect(struct member *m)
{
	uint32_t first, nr = same_access(m, &first);
	bool readonly = below(2);

	if (m->access[first] == GAP)
		return;
	assert_int_equal(prog_change(m->prog, SYS_mprotect, at(first), nr * page,
				     readonly ? PROT_READ : PROT_READ | PROT_WRITE, 0, 0), 0);
	memset(&m->access[first], readonly ? READ_ONLY : READ_WRITE, nr);
}

static void op_discard(struct member *m)
{
	uint32_t first, nr = same_access(m, &first);

	if (m->access[first] == GAP)
		return;
	assert_int_equal(prog_change(m->prog, SYS_madvise, at(first), nr * page, MADV_DONTNEED,
				     0, 0), 0);
	memset(&m->value[first], 0, nr * sizeof(m->value[0]));
}

/* mremap unmaps the new place before it finds that it cannot: what is there now? */
static void look_again(struct member *m, uint32_t first, uint32_t nr)
{
	uint8_t places[AREA_PAGES];

	assert_int_equal(hmm_residency(m->prog->mm, at(first), at(first + nr), places), 0);
	for (uint32_t i = 0; i < nr; i++)
		if (places[i] == HMM_PLACE_GAP)
			m->access[first + i] = GAP;
}

static void op_move(struct member *m)
{
	uint32_t from, nr = same_access(m, &from), to = below(AREA_PAGES);
	int64_t ret;

	nr = nr < AREA_PAGES - to ? nr : AREA_PAGES - to;
	if (m->access[from] == GAP || (to < from + nr && from < to + nr))
		return;
	ret = prog_change(m->prog, SYS_mremap, at(from), nr * page, nr * page,
			  MREMAP_MAYMOVE | MREMAP_FIXED, at(to));
	if (ret < 0) {
		assert_int_equal(ret, -EFAULT);		/* in several mappings */
		look_again(m, to, nr);
		return;
	}
	assert_int_equal(ret, at(to));
	memcpy(&m->access[to], &m->access[from], nr);
	memcpy(&m->value[to], &m->value[from], nr * sizeof(m->value[0]));
	memset(&m->access[from], GAP, nr);
}

static void migrate_some(struct prog *p, uint64_t *random)
{
	uint32_t first = (uint32_t)(xorshift(random) % AREA_PAGES);
	uint32_t nr = 1 + (uint32_t)(xorshift(random) % (AREA_PAGES - first));
	uint64_t flags = HMM_MIGRATE_SYSTEM;

	if (xorshift(random) % 4 == 0)
		flags |= HMM_MIGRATE_DEVICE;
	if (xorshift(random) % 4 == 0)
		flags |= HMM_MIGRATE_KEEP_HOLES;
	if (xorshift(random) % 4)
		IGNORE(hmm_migrate_to_device(p->mm, devs[xorshift(random) % 2]->devmem, at(first),
					     at(first + nr), flags, NULL));
	else
		IGNORE(hmm_evict(p->mm, at(first), at(first + nr)));
}

/* While the program reads it all. */
static void op_migrate(struct member *m)
{
	check_start(m, 0, AREA_PAGES);
	migrate_some(m->prog, &state);
	migrate_some(m->prog, &state);
	check_end(m);
}

static void op_evict_index(struct member *m)
{
	struct testdev *d = devs[below(2)];
	uint64_t first = below(1000);

	(void)m;
	IGNORE(hmm_devmem_evict(d->devmem, first, 1 + below(500)));
}

static void op_exclusive(struct member *m)
{
	uint32_t first, nr = same_access(m, &first);
	void *contents[16];

	nr = nr < 16 ? nr : 16;
	if (hmm_exclusive_begin(m->prog->mm, at(first), at(first + nr), &members, contents) > 0)
		check_range(m, first, nr);
}

static void op_fork(struct member *m)
{
	struct member *child = NULL;

	for (uint32_t i = 0; i < MEMBERS && !child; i++)
		if (!members[i].prog)
			child = &members[i];
	if (!child)
		return;
	memcpy(child->value, m->value, sizeof(m->value));
	memcpy(child->access, m->access, sizeof(m->access));
	pthread_mutex_lock(&child->lock);
	child->prog = prog_fork(m->prog, true);
	pthread_mutex_unlock(&child->lock);
}

static void op_end(struct member *m)
{
	uint32_t alive = 0;

	for (uint32_t i = 0; i < MEMBERS; i++)
		alive += members[i].prog != NULL;
	if (alive < 2)
		return;
	if (below(2))
		prog_kill(m->prog);
	pthread_mutex_lock(&m->lock);
	assert_int_equal(prog_end(m->prog), 0);
	m->prog = NULL;
	pthread_mutex_unlock(&m->lock);
}

/* ---------------------------------------------------------------- the run */

static void *disturb(void *arg)
{
	uint64_t random = *(uint64_t *)arg;

	while (!atomic_load(&stop)) {
		struct member *m = &members[xorshift(&random) % MEMBERS];
		struct timespec nap = { .tv_nsec = 200000 };

		pthread_mutex_lock(&m->lock);
		if (m->prog)
			migrate_some(m->prog, &random);
		pthread_mutex_unlock(&m->lock);
		nanosleep(&nap, NULL);
	}
	return NULL;
}

static void step(void)
{
	static void (*const ops[])(struct member *m) = {
		op_write, op_write, op_write, op_write, op_check, op_check, op_guarded, op_map,
		op_map, op_unmap, op_protect, op_discard, op_move, op_migrate, op_migrate,
		op_migrate, op_migrate, op_evict_index, op_exclusive, op_fork,
	};

	if (below(25) == 0)
		op_end(anybody());
	else
		ops[below(ARRAY_LEN(ops))](anybody());
}

static uint64_t seed_of_run(void)
{
	const char *s = getenv("UHMM_TEST_SEED");
	struct timespec ts;

	if (s)
		return strtoull(s, NULL, 0);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_nsec ^ (uint64_t)getpid() << 20;
}

static void a_random_history_is_what_the_model_says(void **unused)
{
	uint64_t seed = seed_of_run(), random;
	uint32_t steps = getenv("UHMM_TEST_LONG") ? 7 * STEPS : rounds(STEPS);
	pthread_t thread;

	(void)unused;
	printf("seed %ju\n", (uintmax_t)seed);
	state = seed * 2 + 1;
	random = xorshift(&state);
	for (uint32_t i = 0; i < MEMBERS; i++) {
		pthread_mutex_init(&members[i].lock, NULL);
		claims_of[i] = mmap(NULL, sizeof(struct claims), PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		assert_ptr_not_equal(claims_of[i], MAP_FAILED);
	}
	members[0].prog = prog_start(NULL);
	devs[0] = testdev_new(members[0].prog->mm, 1500, world_owner_a, HMM_DEVMEM_FAULT_SAFE);
	devs[1] = testdev_new(members[0].prog->mm, 1500, world_owner_b, 0);
	atomic_store(&devs[0]->around, 8);
	assert_int_equal(pthread_create(&thread, NULL, disturb, &random), 0);
	for (uint32_t i = 0; i < steps; i++)
		step();
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	for (uint32_t i = 0; i < MEMBERS; i++)
		if (members[i].prog)
			check_range(&members[i], 0, AREA_PAGES);
	assert_int_equal(testdev_remove(devs[0]), 0);
	assert_int_equal(testdev_remove(devs[1]), 0);
	for (uint32_t i = 0; i < MEMBERS; i++) {
		if (!members[i].prog)
			continue;
		check_range(&members[i], 0, AREA_PAGES);
		assert_int_equal(prog_end(members[i].prog), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_random_history_is_what_the_model_says),
	};

	need_mm();
	if (!(hmm_remote_features() & (1 << 1)))
		skip_program("this user may not have EVENT_FORK");
	progs_begin();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
