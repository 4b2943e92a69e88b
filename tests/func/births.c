/* SPDX-License-Identifier: MIT */
/*
 * The library's own threads, and what others have them do before they are the library's:
 * a sanitizer, or whoever else stands between a program and pthread_create(), maps memory
 * there and touches it. Here it is this program that stands there, and takes its time.
 * And what each thread of the program has, those of the library have too.
 */
#define _GNU_SOURCE
#include "world.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define NR	16
#define BIRTHS	256u
#define LABOUR_NS	2000000L	/* time enough for a birth to be missed */

/* With pages of 4 KiB more than a whole stack of the library's is without it. */
static __thread unsigned char of_each_thread[5 << 20];

struct birth {
	void *(*fn)(void *);
	void *arg;
};

/* Not from malloc: it is made where a callback of the library's might be. */
static struct birth births[BIRTHS];
static _Atomic uint32_t nr_made, nr_born;
static volatile unsigned char *_Atomic touched_first;
static uint32_t made_with_mm, born_with_mm;

static void *be_born(void *arg)
{
	const struct timespec labour = { .tv_nsec = LABOUR_NS };
	const struct birth *b = arg;
	volatile unsigned char *first = atomic_load(&touched_first);
	unsigned char *own = mmap(NULL, page, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (own == MAP_FAILED)
		abort();
	nanosleep(&labour, NULL);
	own[0] = first ? first[0] : 0;
	munmap(own, page);
	atomic_fetch_add(&nr_born, 1);
	return b->fn(b->arg);
}

/* Called by the library, as one of a sanitizer's would be. */
__attribute__((visibility("default")))
int pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
	struct birth *b = &births[atomic_fetch_add(&nr_made, 1)];

	*(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
	if (b >= births + BIRTHS || !real)
		abort();
	*b = (struct birth){ fn, arg };
	return real(id, attr, be_born, b);
}

static int begin(void **state)
{
	int ret = world_begin(state);

	made_with_mm = atomic_load(&nr_made);
	born_with_mm = atomic_load(&nr_born);
	return ret;
}

/*
 * Whoever has an mm may take memory at once: nobody is left that might be stopped by it. In a
 * strict mm what they map first is not announced yet: the listeners are among them.
 */
static void handlers_and_listeners_are_there_with_the_mm(void **state)
{
	(void)state;
	assert_true(made_with_mm >= (strict() ? 5 : 1));
	assert_int_equal(born_with_mm, made_with_mm);
}

static void *pass(void *arg)
{
	return arg;
}

/* As a driver's threads, those of the library for it too. */
static void threads_for_devices_are_there_with_them(void **state)
{
	struct world *w = *state;
	struct hmm_safe_thread *thread;
	struct testdev *dev;
	uint32_t made = atomic_load(&nr_made);

	dev = testdev_new(w->mm, 1, world_owner_a, 0);
	assert_int_equal(atomic_load(&nr_made), made + 1);
	assert_int_equal(atomic_load(&nr_born), made + 1);
	assert_int_equal(hmm_safe_thread_start(pass, NULL, 0, &thread), 0);
	assert_int_equal(atomic_load(&nr_made), made + 2);
	assert_int_equal(atomic_load(&nr_born), made + 2);
	hmm_safe_thread_join(thread);
	assert_int_equal(testdev_remove(dev), 0);
}

static void *use_stack_and_tls(void *arg)
{
	volatile unsigned char deep[100 << 10];
	_Atomic bool *fine = arg;
	size_t wrong = 0;

	for (size_t i = 0; i < sizeof(of_each_thread); i += 512)
		wrong += of_each_thread[i];
	memset(of_each_thread, 7, sizeof(of_each_thread));
	for (size_t i = sizeof(deep); i; i--)
		deep[i - 1] = 9;
	for (size_t i = 0; i < sizeof(of_each_thread); i++)
		wrong += of_each_thread[i] != 7;
	atomic_store(fine, !wrong && deep[0] == 9);
	return arg;
}

/* A stack is as long as was asked, beside all that the program has for each thread. */
static void thread_local_storage_comes_on_top(void **state)
{
	struct hmm_safe_thread *thread;
	_Atomic bool fine = false;

	(void)state;
	memset(of_each_thread, 5, sizeof(of_each_thread));
	assert_int_equal(hmm_safe_thread_start(use_stack_and_tls, &fine, 128 << 10, &thread), 0);
	hmm_safe_thread_join(thread);
	assert_true(fine);
	for (size_t i = 0; i < sizeof(of_each_thread); i++)
		assert_true(of_each_thread[i] == 5);
}

/* A thread's first page may be away: it comes home, nobody holds it up. */
static void births_touch_what_is_away(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 1);
	struct hmm_safe_thread *thread;
	struct testdev *dev;

	atomic_store(&touched_first, p);
	assert_int_equal(hmm_safe_thread_start(pass, NULL, 0, &thread), 0);
	hmm_safe_thread_join(thread);
	atomic_store(&touched_first, p + 2 * page);
	dev = testdev_new(w->mm, 1, world_owner_a, 0);
	atomic_store(&touched_first, NULL);
	assert_int_equal(testdev_remove(dev), 0);
	assert_at(w, p, 1, HMM_PLACE_SYSTEM);
	assert_at(w, p + 2 * page, 1, HMM_PLACE_SYSTEM);
	assert_int_equal(moved(w, cpu_faults), 2);
	assert_holds(p, NR, 1, 0);
	munmap(p, NR * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(handlers_and_listeners_are_there_with_the_mm),
		world_test(threads_for_devices_are_there_with_them),
		world_test(thread_local_storage_comes_on_top),
		world_test(births_touch_what_is_away),
	};

	need_mm();
	return cmocka_run_group_tests_name("births", tests, begin, world_end);
}
