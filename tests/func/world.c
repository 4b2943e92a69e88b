/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TEST_SECONDS	60	/* of a machine that is not emulated */

const char world_owner_a[] = "device a", world_owner_b[] = "device b";
size_t page = 4096;

/* ---------------------------------------------------------------- environment */

bool strict(void)
{
	const char *s = getenv("UHMM_TEST_STRICT");

	return s && *s == '1';
}

uint64_t world_flags(void)
{
	const char *user = getenv("UHMM_TEST_USER_FAULTS");

	return (strict() ? HMM_MM_STRICT : 0) |
	       (user && *user == '1' ? HMM_MM_USER_FAULTS_ONLY : 0);
}

bool masked(const char *cap)
{
	const char *caps = getenv("UHMM_CAPS");
	size_t len = strlen(cap);

	for (const char *p = caps; p && (p = strstr(p, cap)); p += len)
		if (p > caps && p[-1] == '-' && (!p[len] || p[len] == ','))
			return true;
	return false;
}

void skip_program(const char *why)
{
	printf("skipped: %s\n", why);
	fflush(stdout);
	exit(EXIT_SKIP);
}

static int try_mm(void *arg)
{
	HMM_OPTS(hmm_mm_opts, opts, .flags = world_flags());
	struct hmm_mm *mm;
	int ret = hmm_mm_create(&opts, &mm);

	(void)arg;
	if (ret)
		return -ret;
	hmm_mm_destroy(mm);
	return 0;
}

/* In a child: a STRICT filter cannot be taken off again. */
void need_mm(void)
{
	int err = in_child(try_mm, NULL);

	page = hmm_page_size();
	if (err == EPERM)
		skip_program("this user may not have a userfaultfd that serves system calls");
	if (err == EOPNOTSUPP)
		skip_program("this kernel lacks what the mm needs");
	if (err == EBUSY && strict())
		skip_program("an ancestor of this process listens to seccomp already");
}

uint64_t deadline(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec + 20;
}

bool past(uint64_t until)
{
	const struct timespec nap = { .tv_nsec = 50000 };
	struct timespec ts;

	nanosleep(&nap, NULL);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec > until;
}

/* ---------------------------------------------------------------- testdev */

static void dev_lock(struct testdev *dev)
{
	while (atomic_flag_test_and_set_explicit(&dev->lock, memory_order_acquire))
		sched_yield();
}

static void dev_unlock(struct testdev *dev)
{
	atomic_flag_clear_explicit(&dev->lock, memory_order_release);
}

/* The nth call fails: counts down to it. */
static bool fails_now(_Atomic uint64_t *nth)
{
	uint64_t n = atomic_load(nth);

	while (n && !atomic_compare_exchange_weak(nth, &n, n - 1))
		;
	return n == 1;
}

static int dev_complete(struct testdev *dev, struct hmm_copy *copy)
{
	uint32_t slot;

	if (!dev->async)
		return 0;
	/* More than 64 copies in the air: this one is synchronous. */
	dev_lock(dev);
	slot = atomic_load(&dev->pending_head);
	if (slot - atomic_load(&dev->pending_tail) >= ARRAY_LEN(dev->pending)) {
		dev_unlock(dev);
		return 0;
	}
	atomic_store(&dev->pending[slot % ARRAY_LEN(dev->pending)], copy);
	atomic_store(&dev->pending_head, slot + 1);
	dev_unlock(dev);
	return -EINPROGRESS;
}

static void *dev_thread(void *arg)
{
	struct testdev *dev = arg;
	uint32_t tail = 0;

	while (!atomic_load(&dev->stop)) {
		struct timespec nap = { .tv_nsec = 50000 };

		if (tail == atomic_load(&dev->pending_head)) {
			nanosleep(&nap, NULL);
			continue;
		}
		hmm_copy_done(atomic_load(&dev->pending[tail % ARRAY_LEN(dev->pending)]), 0);
		atomic_store(&dev->pending_tail, ++tail);
	}
	return NULL;
}

static int dev_copy_to(struct hmm_devmem *devmem, struct hmm_copy *copy,
		       const struct hmm_copy_run *runs, size_t nr)
{
	struct testdev *dev = hmm_devmem_ctx(devmem);

	atomic_fetch_add(&dev->copies_to, 1);
	if (fails_now(&dev->fail_to))
		return -EIO;
	for (size_t i = 0; i < nr; i++) {
		if (dev->hook && dev->hook(dev, true, runs[i].index, runs[i].nr_pages))
			return -EIO;
		if (runs[i].cpu) {
			memcpy(testdev_page(dev, runs[i].index), runs[i].cpu,
			       runs[i].nr_pages * page);
			atomic_fetch_add(&dev->pages_to, runs[i].nr_pages);
		} else {
			memset(testdev_page(dev, runs[i].index), 0, runs[i].nr_pages * page);
			atomic_fetch_add(&dev->zeroed, runs[i].nr_pages);
		}
	}
	return dev_complete(dev, copy);
}

static int dev_copy_from(struct hmm_devmem *devmem, struct hmm_copy *copy,
			 const struct hmm_copy_run *runs, size_t nr)
{
	struct testdev *dev = hmm_devmem_ctx(devmem);

	atomic_fetch_add(&dev->copies_from, 1);
	if (atomic_load(&dev->broken) || fails_now(&dev->fail_from))
		return -EIO;
	for (size_t i = 0; i < nr; i++) {
		if (dev->hook && dev->hook(dev, false, runs[i].index, runs[i].nr_pages))
			return -EIO;
		memcpy(runs[i].cpu, testdev_page(dev, runs[i].index), runs[i].nr_pages * page);
		atomic_fetch_add(&dev->pages_from, runs[i].nr_pages);
	}
	return dev_complete(dev, copy);
}

static int dev_copy_peer(struct hmm_devmem *devmem, struct hmm_devmem *from,
			 struct hmm_copy *copy, const struct hmm_peer_run *runs, size_t nr)
{
	struct testdev *to_dev = hmm_devmem_ctx(devmem), *from_dev = hmm_devmem_ctx(from);

	if (!to_dev->peer || !from_dev->peer)
		return -EOPNOTSUPP;
	for (size_t i = 0; i < nr; i++) {
		memcpy(testdev_page(to_dev, runs[i].to), testdev_page(from_dev, runs[i].from),
		       runs[i].nr_pages * page);
		atomic_fetch_add(&to_dev->pages_peer, runs[i].nr_pages);
	}
	return dev_complete(to_dev, copy);
}

static void dev_page_free(struct hmm_devmem *devmem, uint64_t index, uint64_t nr)
{
	testdev_release(hmm_devmem_ctx(devmem), index, nr);
}

static int dev_to_ram(struct hmm_devmem *devmem, const struct hmm_fault *fault)
{
	struct testdev *dev = hmm_devmem_ctx(devmem);
	uint64_t around = atomic_load(&dev->around);
	uintptr_t start;
	int64_t ret;

	atomic_fetch_add(&dev->faults, 1);
	if (atomic_load(&dev->defer)) {
		uint32_t nr = atomic_load(&dev->nr_deferred);

		assert_true(nr < ARRAY_LEN(dev->deferred));
		dev->deferred[nr] = *fault;
		atomic_store(&dev->nr_deferred, nr + 1);
		return -EINPROGRESS;
	}
	if (!around)
		return 0;
	start = fault->addr & ~(uintptr_t)(around * page - 1);
	ret = hmm_evict(fault->mm, start, start + around * page);
	return ret < 0 ? (int)ret : 0;
}

static int64_t dev_page_alloc(struct hmm_devmem *devmem, uint64_t nr, uint64_t *index)
{
	struct testdev *dev = hmm_devmem_ctx(devmem);
	uint64_t limit = dev->limit ? dev->limit : dev->nr_pages;
	uint64_t got = 0, first = 0;

	dev_lock(dev);
	while (first < dev->nr_pages && dev->used[first])
		first++;
	while (got < nr && first + got < dev->nr_pages && !dev->used[first + got] &&
	       dev->nr_used < limit) {
		dev->used[first + got++] = true;
		dev->nr_used++;
	}
	dev_unlock(dev);
	if (!got)
		return -ENOSPC;
	/* Stale device memory must never be mistaken for zeroed pages, or for the last ones. */
	memset(testdev_page(dev, first), 0xd5, got * page);
	atomic_fetch_add(&dev->allocs, got);
	*index = first;
	return (int64_t)got;
}

uint64_t testdev_reserve(struct testdev *dev, uint64_t nr)
{
	uint64_t index = 0;

	assert_int_equal(dev_page_alloc(dev->devmem, nr, &index), nr);
	return index;
}

void testdev_release(struct testdev *dev, uint64_t index, uint64_t nr)
{
	atomic_fetch_add(&dev->frees, nr);
	dev_lock(dev);
	for (uint64_t i = index; i < index + nr; i++) {
		if (i >= dev->nr_pages || !dev->used[i]) {
			dev->bad_frees++;
			continue;
		}
		dev->used[i] = false;
		dev->nr_used--;
	}
	dev_unlock(dev);
}

uint64_t testdev_used(struct testdev *dev)
{
	uint64_t used;

	dev_lock(dev);
	used = dev->nr_used;
	dev_unlock(dev);
	return used;
}

struct testdev *testdev_new(struct hmm_mm *mm, uint64_t nr_pages, const void *owner,
			    uint64_t flags)
{
	static const struct hmm_devmem_ops ops = {
		.size = sizeof(ops),
		.copy_to_device = dev_copy_to,
		.copy_from_device = dev_copy_from,
		.page_free = dev_page_free,
		.migrate_to_ram = dev_to_ram,
		.page_alloc = dev_page_alloc,
		.copy_peer = dev_copy_peer,
	};
	HMM_OPTS(hmm_devmem_opts, opts, .flags = flags, .nr_pages = nr_pages, .owner = owner,
		 .ops = &ops);
	struct testdev *dev = hmm_safe_alloc(sizeof(*dev));

	assert_non_null(dev);
	assert_true(nr_pages <= DEV_PAGES);
	dev->mm = mm;
	dev->nr_pages = nr_pages;
	dev->bytes = nr_pages * page;
	dev->mem = hmm_safe_alloc(dev->bytes);
	assert_non_null(dev->mem);
	/* Most tests use few of its pages: the others shall cost nothing. */
	madvise(dev->mem, dev->bytes, MADV_NOHUGEPAGE);
	opts.ctx = dev;
	assert_int_equal(hmm_devmem_add(mm, &opts, &dev->devmem), 0);
	dev->id = hmm_devmem_id(dev->devmem);
	return dev;
}

void testdev_async(struct testdev *dev)
{
	assert_int_equal(hmm_safe_thread_start(dev_thread, dev, 0, &dev->thread), 0);
	dev->async = true;
}

int testdev_remove(struct testdev *dev)
{
	int ret = hmm_devmem_remove(dev->devmem);

	atomic_store(&dev->stop, 1);
	if (dev->async)
		hmm_safe_thread_join(dev->thread);
	assert_int_equal(dev->bad_frees, 0);
	assert_int_equal(dev->nr_used, 0);
	hmm_safe_free(dev->mem, dev->bytes);
	hmm_safe_free(dev, sizeof(*dev));
	return ret;
}

/* ---------------------------------------------------------------- fixtures */

int world_begin(void **state)
{
	const char *staging = getenv("UHMM_TEST_STAGING");	/* bytes */
	HMM_OPTS(hmm_mm_opts, opts, .flags = world_flags(),
		 .staging_bytes = staging ? strtoull(staging, NULL, 10) : 0);
	struct world *w = calloc(1, sizeof(*w));
	int ret;

	page = hmm_page_size();
	/*
	 * The kernel likes to map right below libc's block of thread-local storage, and
	 * what is beside a control block may be refused: keep the tests' memory off it.
	 */
	for (int i = 0; i < 8; i++)
		if (mmap(NULL, page << i, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
		    MAP_FAILED)
			return -1;
	ret = hmm_mm_create(&opts, &w->mm);
	if (ret) {
		fprintf(stderr, "hmm_mm_create: %s\n", strerror(-ret));
		return -1;
	}
	*state = w;
	return 0;
}

/* UHMM_TEST_PATIENCE: how many times slower than others the machine is. */
static unsigned int slower(void)
{
	const char *factor = getenv("UHMM_TEST_PATIENCE");

	return factor ? (unsigned int)atoi(factor) : 1;
}

static unsigned int patience(void)
{
	return TEST_SECONDS * slower();
}

uint32_t rounds(uint32_t nr)
{
	return getenv("UHMM_TEST_LONG") || nr < slower() ? nr : nr / slower();
}

int world_end(void **state)
{
	struct world *w = *state;
	int ret;

	alarm(patience());
	ret = hmm_mm_destroy(w->mm);
	alarm(0);
	if (ret)
		fprintf(stderr, "hmm_mm_destroy: %s\n", strerror(-ret));
	free(w);
	return ret;
}

int world_test_begin(void **state)
{
	struct world *w = *state;

	/* A test that hangs ends the program: SIGALRM kills it. */
	alarm(patience());
	w->may_lose = false;
	w->dev = testdev_new(w->mm, DEV_PAGES, world_owner_a, HMM_DEVMEM_FAULT_SAFE);
	w->other = testdev_new(w->mm, DEV_PAGES, world_owner_b, 0);
	w->start = stats_now(w);
	return 0;
}

int world_test_end(void **state)
{
	struct world *w = *state;
	struct hmm_stats s;
	int ret = testdev_remove(w->dev), ret_other = testdev_remove(w->other);

	s = stats_now(w);
	alarm(0);
	if (w->may_lose)
		return 0;
	assert_int_equal(ret, 0);
	assert_int_equal(ret_other, 0);
	assert_int_equal(s.lost_pages, w->start.lost_pages);
	assert_int_equal(s.device_pages, 0);
	assert_int_equal(s.exclusive_pages, 0);
	return 0;
}

struct hmm_stats stats_now(struct world *w)
{
	struct hmm_stats s = { .size = sizeof(s) };

	assert_int_equal(hmm_mm_stats(w->mm, &s), 0);
	return s;
}

/* ---------------------------------------------------------------- memory */

uint64_t pattern(uint32_t seed, uint64_t page_nr, uint64_t word)
{
	uint64_t x = (uint64_t)seed << 48 ^ page_nr << 16 ^ word;

	/* splitmix64: neighbours share no byte pattern, and 0 is as rare as any. */
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

void *map_pages(size_t nr, int prot, int flags)
{
	void *p;

	if (!(flags & (MAP_SHARED | MAP_PRIVATE)))
		flags |= MAP_PRIVATE;
	/*
	 * A page below that nobody may touch: right above a thread's stack the kernel
	 * would make one mapping of both, and its first page be the control block's.
	 */
	p = mmap(NULL, (nr + 1) * page, prot, flags | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(mprotect(p, page, PROT_NONE), 0);
	return (char *)p + page;
}

void fill(void *addr, size_t nr, uint32_t seed)
{
	for (size_t i = 0; i < nr; i++) {
		uint64_t *words = (uint64_t *)((char *)addr + i * page);

		for (size_t j = 0; j < page / 8; j++)
			words[j] = pattern(seed, i, j);
	}
}

void *map_filled(size_t nr, uint32_t seed)
{
	void *p = map_pages(nr, PROT_READ | PROT_WRITE, 0);

	fill(p, nr, seed);
	return p;
}

bool holds(const void *addr, size_t nr, uint32_t seed, uint64_t first)
{
	for (size_t i = 0; i < nr; i++) {
		const uint64_t *words = (const uint64_t *)((const char *)addr + i * page);

		for (size_t j = 0; j < page / 8; j++) {
			uint64_t seen = words[j];

			if (seen == pattern(seed, first + i, j))
				continue;
			fprintf(stderr, "page %zu word %zu: %#llx instead of %#llx\n", i, j,
				(unsigned long long)seen,
				(unsigned long long)pattern(seed, first + i, j));
			return false;
		}
	}
	return true;
}

bool all_zero(const void *addr, size_t bytes)
{
	const unsigned char *p = addr;

	for (size_t i = 0; i < bytes; i++) {
		if (!p[i])
			continue;
		fprintf(stderr, "byte %zu is %#x instead of 0\n", i, p[i]);
		return false;
	}
	return true;
}

int64_t try_device(struct world *w, struct testdev *dev, void *addr, size_t nr, uint64_t *reasons)
{
	return hmm_migrate_to_device(w->mm, dev->devmem, (uintptr_t)addr,
				     (uintptr_t)addr + nr * page,
				     HMM_MIGRATE_SYSTEM | HMM_MIGRATE_DEVICE, reasons);
}

void to_device(struct world *w, struct testdev *dev, void *addr, size_t nr)
{
	uint64_t reasons[HMM_REASONS] = { 0 };
	size_t there = count_at(w, addr, nr, HMM_PLACE_DEVICE);
	int64_t got = 0, more;

	/* A page may be busy for a moment: a change or a fork of before is on its way. */
	IGNORE(eventually(({
		memset(reasons, 0, sizeof(reasons));
		more = try_device(w, dev, addr, nr, reasons);
		got = more < 0 ? more : got + more;
		more < 0 || !reasons[HMM_REASON_BUSY];
	})));
	for (int i = 0; got != (int64_t)nr && i < HMM_REASONS; i++)
		if (reasons[i])
			fprintf(stderr, "refused: %llu %s\n", (unsigned long long)reasons[i],
				hmm_reason_name(i));
	/* What was there already stays and is not counted; what was on another is. */
	assert_true(got == (int64_t)nr || got == (int64_t)(nr - there));
	assert_at(w, addr, nr, HMM_PLACE_DEVICE);
	assert_int_equal(cpu_maps_count(addr, nr), 0);
}

void *map_away(struct world *w, size_t nr, uint32_t seed)
{
	void *p = map_filled(nr, seed);

	to_device(w, w->dev, p, nr);
	return p;
}

size_t count_at(struct world *w, const void *addr, size_t nr, enum hmm_place place)
{
	uint8_t places[4096];
	size_t n = 0;

	assert_true(nr <= sizeof(places));
	assert_int_equal(hmm_residency(w->mm, (uintptr_t)addr, (uintptr_t)addr + nr * page, places),
			 0);
	for (size_t i = 0; i < nr; i++)
		n += places[i] == place;
	return n;
}

bool all_at(struct world *w, const void *addr, size_t nr, enum hmm_place place)
{
	return count_at(w, addr, nr, place) == nr;
}

int64_t evict(struct world *w, void *addr, size_t nr)
{
	return hmm_evict(w->mm, (uintptr_t)addr, (uintptr_t)addr + nr * page);
}

void assert_refused(struct world *w, void *addr, size_t nr, enum hmm_reason reason)
{
	uint64_t reasons[HMM_REASONS] = { 0 }, before = stats_now(w).refused[reason];
	int64_t got = try_device(w, w->dev, addr, nr, reasons);

	for (int i = 0; i < HMM_REASONS; i++)
		if (reasons[i] && i != (int)reason)
			fail_msg("%llu pages %s instead of %s", (unsigned long long)reasons[i],
				 hmm_reason_name(i), hmm_reason_name(reason));
	assert_int_equal(got, 0);
	assert_int_equal(reasons[reason], nr);
	assert_int_equal(stats_now(w).refused[reason] - before, nr);
	assert_int_equal(testdev_used(w->dev), 0);
}

bool cpu_maps(const void *addr)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &entry, 8, (off_t)((uintptr_t)addr / page * 8)), 8);
	close(fd);
	return entry >> 63;
}

size_t cpu_maps_count(const void *addr, size_t nr)
{
	size_t n = 0;

	for (size_t i = 0; i < nr; i++)
		n += cpu_maps((const char *)addr + i * page);
	return n;
}

long smaps_kb(const void *addr, const char *field)
{
	unsigned long start, end;
	bool inside = false;
	char line[512];
	long kb = -1;
	FILE *f = fopen("/proc/self/smaps", "re");

	assert_non_null(f);
	while (kb < 0 && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = (uintptr_t)addr >= start && (uintptr_t)addr < end;
		else if (inside && !strncmp(line, field, strlen(field)))
			kb = strtol(line + strlen(field) + 1, NULL, 10);
	}
	fclose(f);
	return kb;
}

/* ---------------------------------------------------------------- processes, signals */

int wait_child(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int foreign_userfaultfd(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY), ret;

	if (fd < 0)	/* before 5.11 there is but the one for all faults */
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (fd >= 0 && !ioctl(fd, UFFDIO_API, &api))
		return fd;
	ret = -errno;
	close(fd);
	return ret;
}

int foreign_register(int fd, void *addr, size_t nr)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)addr, nr * page },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	return ioctl(fd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

/* A child that crashes or hangs dies of it, instead of going on as a second test run. */
void child_signals(void)
{
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE };

	for (size_t i = 0; i < ARRAY_LEN(fatal); i++)
		signal(fatal[i], SIG_DFL);
	alarm(patience() / 2);
}

int in_child(int (*fn)(void *arg), void *arg)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		child_signals();
		_exit(fn(arg));
	}
	return wait_child(pid);
}

static _Thread_local sigjmp_buf touch_jump;

static void on_touch_signal(int sig)
{
	siglongjmp(touch_jump, sig);
}

static int touch(volatile uint64_t *addr, bool write)
{
	struct sigaction sa = { .sa_handler = on_touch_signal }, old_bus, old_segv;
	int sig;

	sigaction(SIGBUS, &sa, &old_bus);
	sigaction(SIGSEGV, &sa, &old_segv);
	sig = sigsetjmp(touch_jump, 1);
	if (!sig) {
		uint64_t value = *addr;

		if (write)
			*addr = value;
	}
	sigaction(SIGBUS, &old_bus, NULL);
	sigaction(SIGSEGV, &old_segv, NULL);
	return sig;
}

int touch_read(const void *addr)
{
	return touch((volatile uint64_t *)addr, false);
}

int touch_write(void *addr)
{
	return touch(addr, true);
}

/* ---------------------------------------------------------------- notifiers */

static void on_invalidate(struct hmm_notifier *notifier, const struct hmm_event *event,
			  uint64_t seq, void *ctx)
{
	struct heard *h = ctx;
	uint32_t i = atomic_load(&h->nr);

	(void)notifier;
	if (i >= ARRAY_LEN(h->events))
		return;
	h->events[i].event = *event;
	h->events[i].seq = seq;
	atomic_store(&h->nr, i + 1);	/* callbacks of one notifier do not overlap: mm lock */
}

struct heard *listen_to(struct world *w, const void *start, const void *end)
{
	static const struct hmm_notifier_ops ops = {
		.size = sizeof(ops), .invalidate = on_invalidate,
	};
	struct heard *h = hmm_safe_alloc(sizeof(*h));

	assert_non_null(h);
	assert_int_equal(hmm_notifier_insert(w->mm, (uintptr_t)start, (uintptr_t)end, &ops, h,
					     &h->notifier), 0);
	return h;
}

void listen_end(struct heard *h)
{
	assert_int_equal(hmm_notifier_remove(h->notifier), 0);
	hmm_safe_free(h, sizeof(*h));
}

uint32_t heard_type(struct heard *h, enum hmm_event_type type)
{
	uint32_t nr = atomic_load(&h->nr), n = 0;

	for (uint32_t i = 0; i < nr; i++)
		n += h->events[i].event.type == type;
	return n;
}

bool heard_event(struct heard *h, enum hmm_event_type type, const void *owner, const void *start,
		 const void *end)
{
	uint32_t nr = atomic_load(&h->nr);

	for (uint32_t i = 0; i < nr; i++) {
		const struct hmm_event *e = &h->events[i].event;

		if (e->type == type && e->owner == owner && e->start < (uintptr_t)end &&
		    e->end > (uintptr_t)start)
			return true;
	}
	return false;
}
