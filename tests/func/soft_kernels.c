/* SPDX-License-Identifier: MIT */
/*
 * Work on the soft device: submissions, the lanes that share them, the tickets that
 * are waited for, and the end of it all when the device closes.
 */
#define _GNU_SOURCE
#include "softdev.h"

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>

#define RW	(PROT_READ | PROT_WRITE)

/* The device under test, and a word that its kernels count in. */
static struct hmm_soft *soft;
static uint64_t *counter;

static void soft_begin(struct world *w)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 1 << 20, .lanes = 2,
		 .migrate = HMM_SOFT_MIGRATE_NEVER);

	soft = soft_new(w, &opts);
}

static void soft_end(void)
{
	assert_int_equal(hmm_soft_close(soft), 0);
	soft = NULL;
}

static void kernel_add(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)item;
	(void)arg;
	hmm_lane_add(lane, counter, 1, 8);
}

static _Atomic uint64_t present;
static _Atomic bool release;

static void kernel_meet(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)item;
	(void)arg;
	atomic_fetch_or(&present, 1ULL << hmm_lane_id(lane));
	while (!atomic_load(&release))
		sched_yield();
}

/* There are as many lanes as were asked for, and all of them work at once. */
static void lanes_work_at_once(void **state)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 1 << 20, .lanes = 5);
	struct world *w = *state;
	int64_t ticket;

	soft = soft_new(w, &opts);
	atomic_store(&present, 0);
	atomic_store(&release, false);
	ticket = hmm_soft_submit(soft, kernel_meet, 5, NULL);
	assert_true(ticket > 0);
	assert_true(eventually(atomic_load(&present) == 0x1f));
	atomic_store(&release, true);
	assert_int_equal(hmm_soft_wait(soft, ticket, NULL), 0);
	soft_end();
}

static _Atomic uint32_t answered;

static void *wait_and_tell(void *ticket)
{
	intptr_t ret = hmm_soft_wait(soft, (int64_t)(intptr_t)ticket, NULL);

	atomic_fetch_add(&answered, 1);
	return (void *)ret;
}

/* Of two threads that wait for one ticket at the same time one is told -EINVAL. */
static void one_waits_for_a_ticket(void **state)
{
	struct world *w = *state;
	pthread_t threads[2];
	void *rets[2];
	int64_t ticket;
	bool told;

	soft_begin(w);
	atomic_store(&release, false);
	atomic_store(&answered, 0);
	ticket = hmm_soft_submit(soft, kernel_meet, 1, NULL);
	assert_true(ticket > 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, wait_and_tell,
						(void *)(intptr_t)ticket), 0);
	told = eventually(atomic_load(&answered) == 1);
	atomic_store(&release, true);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], &rets[i]);
	assert_true(told);
	assert_int_equal((intptr_t)rets[0] + (intptr_t)rets[1], -EINVAL);
	soft_end();
}

/* 64 submissions that nobody waits for are the limit; a wait makes room. */
static void submissions_end_at_64(void **state)
{
	struct world *w = *state;
	int64_t tickets[64];

	soft_begin(w);
	counter = map_pages(1, RW, 0);
	for (size_t i = 0; i < ARRAY_LEN(tickets); i++) {
		tickets[i] = hmm_soft_submit(soft, kernel_add, 1, NULL);
		assert_true(tickets[i] > 0);
	}
	assert_int_equal(hmm_soft_submit(soft, kernel_add, 1, NULL), -ENOMEM);
	assert_int_equal(hmm_soft_wait(soft, tickets[5], NULL), 0);
	assert_true(hmm_soft_submit(soft, kernel_add, 1, NULL) > tickets[63]);
	assert_int_equal(hmm_soft_submit(soft, kernel_add, 1, NULL), -ENOMEM);
	soft_end();
	assert_int_equal(*counter, 65);
	munmap(counter, page);
}

static void *close_it(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)hmm_soft_close(soft);
}

/* A device that is closing takes no more work. */
static void submit_while_closing(void **state)
{
	struct world *w = *state;
	pthread_t thread;
	bool canceled;
	void *ret;

	soft_begin(w);
	atomic_store(&release, false);
	assert_true(hmm_soft_submit(soft, kernel_meet, 1, NULL) > 0);
	assert_int_equal(pthread_create(&thread, NULL, close_it, NULL), 0);
	canceled = eventually(hmm_soft_submit(soft, kernel_meet, 1, NULL) == -ECANCELED);
	atomic_store(&release, true);
	pthread_join(thread, &ret);
	assert_int_equal((intptr_t)ret, 0);
	assert_true(canceled);
	soft = NULL;
}

static _Atomic uint64_t bad;

static void kernel_calls(struct hmm_lane *lane, uint64_t item, void *arg)
{
	uint64_t wrong = 0;

	(void)lane;
	(void)item;
	(void)arg;
	wrong += hmm_soft_close(soft) != -EDEADLK;
	wrong += hmm_soft_run(soft, kernel_calls, 1, NULL, NULL) != -EDEADLK;
	atomic_fetch_add(&bad, wrong);
}

/* From inside a kernel what would wait for that kernel is -EDEADLK. */
static void waiting_calls_from_a_kernel(void **state)
{
	struct world *w = *state;

	soft_begin(w);
	atomic_store(&bad, 0);
	assert_int_equal(hmm_soft_run(soft, kernel_calls, 4, NULL, NULL), 0);
	assert_int_equal(bad, 0);
	soft_end();
}

/* Tickets are waited for once; strange ones are -EINVAL. */
static void tickets_are_waited_for_once(void **state)
{
	struct world *w = *state;
	int64_t tickets[20];

	soft_begin(w);
	counter = map_pages(1, RW, 0);
	for (size_t i = 0; i < ARRAY_LEN(tickets); i++) {
		tickets[i] = hmm_soft_submit(soft, kernel_add, 10, NULL);
		assert_true(tickets[i] > 0);
	}
	for (size_t i = ARRAY_LEN(tickets); i-- > 0;)
		assert_int_equal(hmm_soft_wait(soft, tickets[i], NULL), 0);
	assert_int_equal(hmm_soft_wait(soft, tickets[0], NULL), -EINVAL);
	assert_int_equal(hmm_soft_wait(soft, 0, NULL), -EINVAL);
	assert_int_equal(hmm_soft_wait(soft, -5, NULL), -EINVAL);
	assert_int_equal(hmm_soft_wait(soft, INT64_MAX, NULL), -EINVAL);
	assert_int_equal(*counter, 10 * ARRAY_LEN(tickets));
	soft_end();
	munmap(counter, page);
}

/* Closing with work submitted waits for it. */
static void close_waits_for_kernels(void **state)
{
	struct world *w = *state;

	soft_begin(w);
	counter = map_pages(1, RW, 0);
	for (int i = 0; i < 10; i++)
		assert_true(hmm_soft_submit(soft, kernel_add, 100, NULL) > 0);
	soft_end();
	assert_int_equal(*counter, 1000);
	munmap(counter, page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(lanes_work_at_once),
		world_test(one_waits_for_a_ticket),
		world_test(submissions_end_at_64),
		world_test(submit_while_closing),
		world_test(waiting_calls_from_a_kernel),
		world_test(tickets_are_waited_for_once),
		world_test(close_waits_for_kernels),
	};

	need_mm();
	return cmocka_run_group_tests_name("soft_kernels", tests, world_begin, world_end);
}
