/* SPDX-License-Identifier: MIT */
/*
 * Where something is full, missing or takes too long: the error that the header
 * states, nothing lost, and that it works again once there is room.
 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <uhmm/soft.h>

#define NR	16
#define RW	(PROT_READ | PROT_WRITE)

/* What this program does instead of its tests when it is told to: see main(). */
#define CREATE	"create"

static int create_and_exit(const char *kind)
{
	HMM_OPTS(hmm_mm_opts, opts, .flags = strcmp(kind, "strict") ? 0 : HMM_MM_STRICT);
	struct hmm_mm *mm;

	return -hmm_mm_create(&opts, &mm);
}

/* The error of making an mm where UHMM_CAPS masks @caps. Probes are made once: exec. */
static int create_without(const char *caps, const char *kind)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		child_signals();
		setenv("UHMM_CAPS", caps, 1);
		execl("/proc/self/exe", "limits", CREATE, kind, NULL);
		_exit(255);
	}
	return wait_child(pid);
}

/* A kernel without userfaultfd, or without seccomp notification: -EOPNOTSUPP. */
static void missing_kernel_features(void **state)
{
	(void)state;
	assert_int_equal(create_without("-uffd", "plain"), EOPNOTSUPP);
	assert_int_equal(create_without("-seccomp-notify", "strict"), EOPNOTSUPP);
	assert_int_equal(create_without("-seccomp-notify", "plain"), 0);
	assert_int_equal(create_without("-uffd-kernel", "plain"), EPERM);
}

struct flight {
	struct hmm_migrate m;
	uint64_t src[1], dst[1];
};

static int take_off(struct world *w, struct flight *f, void *p, uint64_t flags)
{
	f->m = (struct hmm_migrate){
		.size = sizeof(f->m), .flags = flags, .start = (uintptr_t)p,
		.end = (uintptr_t)p + page, .src = f->src, .dst = f->dst,
	};
	return hmm_migrate_setup(w->mm, &f->m);
}

static void land(struct world *w, struct flight *f)
{
	hmm_migrate_pages(w->mm, &f->m);
	hmm_migrate_finalize(w->mm, &f->m);
}

/* As many migrations at once as staging holds; one more is -ENOMEM, and has begun nothing. */
static void migrations_at_once(void **state)
{
	struct world *w = *state;
	static struct flight flights[64];
	unsigned char *p = map_filled(ARRAY_LEN(flights), 1);
	const size_t of_default = (64 << 20) / (512 * page), blocks = of_default < 4 ? 4 : of_default;
	size_t n = 0;
	int ret = 0;

	while (n < ARRAY_LEN(flights) &&
	       !(ret = take_off(w, &flights[n], p + n * page, HMM_MIGRATE_SYSTEM)))
		assert_int_equal(flights[n++].m.nr_pages, 1);
	assert_int_equal(ret, -ENOMEM);
	assert_in_range(n, blocks / 2, 2 * blocks - 1);
	assert_at(w, p, n, HMM_PLACE_FLIGHT);
	assert_holds(p + n * page, ARRAY_LEN(flights) - n, 1, n);
	for (size_t i = 0; i < n; i++)
		land(w, &flights[i]);
	assert_holds(p, ARRAY_LEN(flights), 1, 0);
	assert_int_equal(take_off(w, &flights[0], p, HMM_MIGRATE_SYSTEM), 0);
	land(w, &flights[0]);
	munmap(p, ARRAY_LEN(flights) * page);
}

/* A page that stays in flight is waited for until the caller's time is up, and no longer. */
static void collisions_end_in_etimedout(void **state)
{
	struct world *w = *state;
	static struct flight flight;
	unsigned char *p = map_filled(1, 2);
	uint64_t pfn = 0;
	struct hmm_range range = {
		.size = sizeof(range), .start = (uintptr_t)p, .end = (uintptr_t)p + page,
		.pfns = &pfn, .default_flags = HMM_PFN_REQ_FAULT,
	};

	assert_int_equal(take_off(w, &flight, p, HMM_MIGRATE_SYSTEM), 0);
	assert_int_equal(hmm_range_fault_wait(w->mm, &range, 1), -ETIMEDOUT);
	assert_int_equal(pfn, 0);
	land(w, &flight);
	assert_int_equal(hmm_range_fault_wait(w->mm, &range, 1), 0);
	assert_true(pfn & HMM_PFN_VALID);
	assert_holds(p, 1, 2, 0);
	munmap(p, page);
}

/* A device cannot go while a flight to or from it does not end: -EAGAIN, later 0. */
static void remove_gives_up_on_a_flight(void **state)
{
	struct world *w = *state;
	static struct flight flight;
	struct testdev *dev;
	unsigned char *p = map_filled(1, 3);

	if (!getenv("UHMM_TEST_LONG")) {
		print_message("          not here: takes 10 s, UHMM_TEST_LONG=1 does it\n");
		munmap(p, page);
		return;
	}
	dev = testdev_new(w->mm, NR, world_owner_a, 0);
	to_device(w, dev, p, 1);
	assert_int_equal(take_off(w, &flight, p, HMM_MIGRATE_DEVICE), 0);
	assert_int_equal(flight.m.nr_pages, 1);
	assert_int_equal(hmm_devmem_remove(dev->devmem), -EAGAIN);
	land(w, &flight);
	assert_int_equal(testdev_remove(dev), 0);
	assert_holds(p, 1, 3, 0);
	munmap(p, page);
}

static void *remove_run(void *arg)
{
	return (void *)(intptr_t)testdev_remove(arg);
}

/* Nothing goes to a device whose removal has begun, and that ends when its last flight does. */
static void nothing_goes_to_a_device_that_leaves(void **state)
{
	struct world *w = *state;
	struct testdev *dev = testdev_new(w->mm, NR, world_owner_a, 0);
	static struct flight away, here;
	unsigned char *p = map_filled(3, 4);
	uint64_t index;
	pthread_t remover;
	void *removed;

	to_device(w, dev, p, 1);
	assert_int_equal(take_off(w, &away, p, HMM_MIGRATE_DEVICE), 0);
	index = testdev_reserve(dev, 1);
	assert_int_equal(pthread_create(&remover, NULL, remove_run, dev), 0);
	assert_true(eventually(try_device(w, dev, p + 2 * page, 1, NULL) == 0 &&
			       all_at(w, p + 2 * page, 1, HMM_PLACE_SYSTEM)));
	assert_int_equal(take_off(w, &here, p + page, HMM_MIGRATE_SYSTEM), 0);
	here.dst[0] = hmm_dst(dev->id, index);
	hmm_migrate_pages(w->mm, &here.m);
	assert_int_equal(here.src[0] & HMM_SRC_MIGRATE, 0);
	hmm_migrate_finalize(w->mm, &here.m);
	testdev_release(dev, index, 1);
	land(w, &away);
	assert_int_equal(pthread_join(remover, &removed), 0);
	assert_null(removed);
	assert_holds(p, 3, 4, 0);
	munmap(p, 3 * page);
}

/* ---------------------------------------------------------------- the soft device */

static _Atomic uint32_t gate, at_gate, items;

static void kernel_gate(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)lane;
	(void)item;
	(void)arg;
	atomic_store(&at_gate, 1);
	while (atomic_load(&gate))
		usleep(100);
}

static void kernel_count(struct hmm_lane *lane, uint64_t item, void *arg)
{
	(void)lane;
	(void)item;
	(void)arg;
	atomic_fetch_add(&items, 1);
}

/* A device whose lanes stand at the gate. */
static struct hmm_soft *open_gated(struct world *w, int64_t *ticket)
{
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = 1 << 20, .lanes = 1);
	struct hmm_soft *soft;

	assert_int_equal(hmm_soft_open(w->mm, &opts, &soft), 0);
	atomic_store(&gate, 1);
	atomic_store(&at_gate, 0);
	atomic_store(&items, 0);
	*ticket = hmm_soft_submit(soft, kernel_gate, 1, NULL);
	assert_true(*ticket > 0);
	assert_true(eventually(atomic_load(&at_gate)));
	return soft;
}

/* 64 submissions wait at most; the next is -ENOMEM until one has been waited for. */
static void submissions_at_once(void **state)
{
	struct world *w = *state;
	int64_t tickets[128];
	struct hmm_soft *soft = open_gated(w, &tickets[0]);
	size_t n = 1;

	while (n < ARRAY_LEN(tickets) &&
	       (tickets[n] = hmm_soft_submit(soft, kernel_count, 1, NULL)) > 0)
		n++;
	assert_int_equal(n, 64);
	assert_int_equal(tickets[n], -ENOMEM);
	atomic_store(&gate, 0);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(hmm_soft_wait(soft, tickets[i], NULL), 0);
	assert_int_equal(items, 63);
	assert_int_equal(hmm_soft_run(soft, kernel_count, 1, NULL, NULL), 0);
	assert_int_equal(hmm_soft_close(soft), 0);
}

static void *close_run(void *arg)
{
	return (void *)(intptr_t)hmm_soft_close(arg);
}

/* What is submitted while the device closes is -ECANCELED; what was before runs. */
static void submissions_while_closing(void **state)
{
	struct world *w = *state;
	int64_t ticket, before = 0, ret;
	struct hmm_soft *soft = open_gated(w, &ticket);
	pthread_t closer;
	void *closed;

	assert_int_equal(pthread_create(&closer, NULL, close_run, soft), 0);
	do {
		ret = hmm_soft_submit(soft, kernel_count, 1, NULL);
		before += ret > 0;
	} while (ret > 0 || ret == -ENOMEM);
	assert_int_equal(ret, -ECANCELED);
	atomic_store(&gate, 0);
	assert_int_equal(pthread_join(closer, &closed), 0);
	assert_null(closed);
	assert_int_equal(items, before);
}

/* 255 devices, whoever drives them; the next soft one is -ENOSPC, and leaves nothing. */
static void soft_devices_at_once(void **state)
{
	struct world *w = *state;
	HMM_OPTS(hmm_soft_opts, opts, .mem_bytes = page, .lanes = 1);
	struct hmm_soft *soft = (void *)1;
	static struct testdev *devs[256];
	size_t n = 0;

	while (hmm_devmem_id(w->dev->devmem) + n + 2 <= 255)
		devs[n++] = testdev_new(w->mm, 1, world_owner_a, 0);
	while (n < ARRAY_LEN(devs) && hmm_soft_open(w->mm, &opts, &soft) == 0) {
		assert_int_equal(hmm_soft_close(soft), 0);
		soft = (void *)1;
		devs[n++] = testdev_new(w->mm, 1, world_owner_a, 0);
	}
	assert_int_equal(hmm_soft_open(w->mm, &opts, &soft), -ENOSPC);
	assert_ptr_equal(soft, (void *)1);
	while (n)
		assert_int_equal(testdev_remove(devs[--n]), 0);
	assert_int_equal(hmm_soft_open(w->mm, &opts, &soft), 0);
	assert_int_equal(hmm_soft_close(soft), 0);
}

#define LONG_BYTES	((size_t)5 << 29)	/* more than the kernel copies at once */
#define PIECE_BYTES	((size_t)2 << 20)

/* LONG_BYTES of addresses for PIECE_BYTES of memory. */
static unsigned char *map_over_and_over(void)
{
	unsigned char *p = mmap(NULL, LONG_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("pieces", MFD_CLOEXEC);

	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(ftruncate(fd, PIECE_BYTES), 0);
	for (size_t at = 0; at < LONG_BYTES; at += PIECE_BYTES)
		assert_ptr_equal(mmap(p + at, PIECE_BYTES, RW, MAP_SHARED | MAP_FIXED, fd, 0), p + at);
	close(fd);
	return p;
}

static void a_copy_may_be_longer_than_the_kernels(void **state)
{
	struct world *w = *state;
	unsigned char *zeros, *pieces;

	if (getenv("UHMM_TEST_PATIENCE")) {
		print_message("          not here: 5 GiB are copied, and this machine is slow\n");
		skip();
	}
	zeros = mmap(NULL, LONG_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(zeros, MAP_FAILED);
	pieces = map_over_and_over();
	memset(pieces, 1, PIECE_BYTES);
	assert_true(hmm_copy_from_user(w->mm, pieces, (uintptr_t)zeros, LONG_BYTES) ==
		    (int64_t)LONG_BYTES);
	assert_true(all_zero(pieces, PIECE_BYTES));
	memset(pieces, 1, PIECE_BYTES);
	assert_true(hmm_copy_to_user(w->mm, (uintptr_t)pieces, zeros, LONG_BYTES) ==
		    (int64_t)LONG_BYTES);
	assert_true(all_zero(pieces, PIECE_BYTES));
	munmap(pieces, LONG_BYTES);
	munmap(zeros, LONG_BYTES);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		world_test(missing_kernel_features),
		world_test(migrations_at_once),
		world_test(collisions_end_in_etimedout),
		world_test(remove_gives_up_on_a_flight),
		world_test(nothing_goes_to_a_device_that_leaves),
		world_test(submissions_at_once),
		world_test(submissions_while_closing),
		world_test(soft_devices_at_once),
		world_test(a_copy_may_be_longer_than_the_kernels),
	};

	if (argc == 3 && !strcmp(argv[1], CREATE))
		return create_and_exit(argv[2]);
	need_mm();
	return cmocka_run_group_tests_name("limits", tests, world_begin, world_end);
}
