/* SPDX-License-Identifier: MIT */
/* What a program may do between two requests, and during one. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.h"

#define NR	64
#define PM_PRESENT	(1ULL << 63)
#define PM_SWAPPED	(1ULL << 62)

static unsigned char buffer[2 * 512 * PAGE_MOST];

/*
 * ENOENT, as Linux's: a page was home again before its data could be returned. A fault of
 * before, served late, does that.
 */
static void to_device(int fd, void *p, size_t npages)
{
	int ret;

	do {
		ret = request(fd, DMIRROR_MIGRATE_TO_DEV, p, npages, buffer);
	} while (ret == -ENOENT);
	assert_int_equal(ret, 0);
	assert_int_equal(cmd.cpages, npages);
}

/* A page on a private device, or exclusive, reads as swapped; others as they are. */
static void pagemap_says_swapped(void **state)
{
	int fd = device(0), coherent = device(2);
	unsigned char *p = map(NR, RW);

	(void)state;
	fill(p, NR, 1);
	assert_true(pagemap_entry(p) & PM_PRESENT);
	to_device(fd, p, 4);
	assert_int_equal(request(fd, DMIRROR_EXCLUSIVE, p + 4 * page, 1, buffer), 0);
	to_device(coherent, p + 5 * page, 1);
	for (int i = 0; i < 7; i++)
		assert_true((pagemap_entry(p + i * page) & (PM_PRESENT | PM_SWAPPED)) ==
			    (i < 5 ? PM_SWAPPED : PM_PRESENT));
	assert_holds(p, NR, 1);
	assert_true((pagemap_entry(p) & (PM_PRESENT | PM_SWAPPED)) == PM_PRESENT);
	munmap(p, NR * page);
	assert_int_equal(pagemap_entry(p) & (PM_PRESENT | PM_SWAPPED), 0);
	close(fd);
	close(coherent);
}

/* A large page leaves whole and comes back whole, by request and by a touch. */
static void huge_page_stays_whole(void **state)
{
	int fd = device(0);
	unsigned char *base, *p = map_huge(&base, 2);

	(void)state;
	if (p) {
		for (int i = 0; i < 4; i++) {
			/* A fault of the round before, served late, brings its page home. */
			to_device(fd, p, HUGE / page);
			while (!(pagemap_entry(p + page) & PM_SWAPPED)) {
				assert_holds(p, HUGE / page, 2);
				to_device(fd, p, HUGE / page);
			}
			assert_holds(buffer, HUGE / page, 2);
			assert_false(is_huge(p));
			if (i % 2)
				assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_SYS, p, HUGE / page,
							 buffer), 0);
			else
				(void)*(volatile unsigned char *)(p + 100 * page);
			assert_true(is_huge(p) || masked("uffdio-move") ||
				    masked("pagemap-scan"));
			assert_holds(p, HUGE / page, 2);
		}
	}
	munmap(base, 2 * HUGE);
	close(fd);
	if (!p)
		skip();
}

/* Parts of a large page that is away are unmapped and moved: the rest keeps its bytes. */
static void parts_of_a_huge_page(void **state)
{
	const size_t n = HUGE / page;

	(void)state;
	for_each_kind(unit) {
		int fd = device(unit);
		unsigned char *base, *p = map_huge(&base, 3), *q;

		if (!p)
			skip();
		to_device(fd, p, n);
		assert_int_equal(munmap(p + 100 * page, 50 * page), 0);
		q = mremap(p + 200 * page, 100 * page, 100 * page, MREMAP_MAYMOVE | MREMAP_FIXED,
			   map(100, PROT_NONE));
		assert_ptr_not_equal(q, MAP_FAILED);
		assert_memory_equal(q, buffer + 200 * page, 100 * page);
		q = mremap(p + 300 * page, 100 * page, 100 * page, MREMAP_MAYMOVE | 4, NULL);
		if (q != MAP_FAILED) {	/* DONTUNMAP: its old place is empty */
			assert_memory_equal(q, buffer + 300 * page, 100 * page);
			assert_true(all_zero(p + 300 * page, 100));
		}
		assert_memory_equal(p, buffer, 100 * page);
		assert_memory_equal(p + 150 * page, buffer + 150 * page, 50 * page);
		assert_memory_equal(p + 400 * page, buffer + 400 * page, (n - 400) * page);
		munmap(base, 2 * HUGE);
		close(fd);
	}
}

/* What is mapped anew at an address is not what the device had there. */
static void address_is_used_again(void **state)
{
	(void)state;
	for_each_kind(unit) {
		int fd = device(unit);
		unsigned char *p = map(NR, RW);

		for (uint32_t i = 0; i < 20; i++) {
			fill(p, NR, i);
			assert_int_equal(request(fd, i & 1 ? DMIRROR_READ : DMIRROR_MIGRATE_TO_DEV,
						 p, NR, buffer), 0);
			assert_holds(buffer, NR, i);
			assert_int_equal(munmap(p, NR * page), 0);
			assert_ptr_equal(mmap(p, NR * page, RW, MAP_PRIVATE | MAP_ANONYMOUS |
					      MAP_FIXED_NOREPLACE, -1, 0), p);
			assert_int_equal(request(fd, DMIRROR_READ, p, NR, buffer), 0);
			assert_int_equal(cmd.faults, 1);
			assert_true(all_zero(buffer, NR));
		}
		munmap(p, NR * page);
		close(fd);
	}
}

/* Permissions are those of now, wherever the page is. */
static void mprotect_between_requests(void **state)
{
	(void)state;
	for_each_kind(unit) {
		for (int away = 0; away < 3; away++) {
			int fd = device(unit);
			unsigned char *p = map(NR, RW);

			fill(p, NR, 4);
			if (away)
				assert_int_equal(request(fd, away == 1 ? DMIRROR_MIGRATE_TO_DEV :
							 DMIRROR_EXCLUSIVE, p, NR, buffer), 0);
			else
				assert_int_equal(request(fd, DMIRROR_READ, p, NR, buffer), 0);
			assert_int_equal(mprotect(p, NR * page, PROT_READ), 0);
			assert_int_equal(request(fd, DMIRROR_WRITE, p, NR, buffer), -EPERM);
			assert_int_equal(request(fd, DMIRROR_READ, p, NR, buffer), 0);
			assert_holds(buffer, NR, 4);
			assert_int_equal(mprotect(p, NR * page, PROT_NONE), 0);
			assert_int_equal(request(fd, DMIRROR_READ, p, NR, buffer), -EFAULT);
			assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_SYS, p, NR, buffer), -EINVAL);
			assert_int_equal(mprotect(p, NR * page, RW), 0);
			assert_int_equal(request(fd, DMIRROR_WRITE, p, NR, buffer), 0);
			assert_holds(p, NR, 4);
			munmap(p, NR * page);
			close(fd);
		}
	}
}

struct family {
	int fd;
	unsigned char *p;
};

static int child_uses_it(void *arg)
{
	struct family *f = arg;
	int fd;

	if (!holds(f->p, NR, 5))
		return 1;
	/* The parent's file is of the parent's memory; closing it changes nothing there. */
	if (request(f->fd, DMIRROR_READ, f->p, NR, buffer) != -ECHILD)
		return 2;
	close(f->fd);
	fd = open("/dev/hmm_dmirror0", O_RDWR);
	if (fd < 0 || request(fd, DMIRROR_MIGRATE_TO_DEV, f->p, NR, buffer))
		return 3;
	fill(buffer, NR, 6);
	if (request(fd, DMIRROR_WRITE, f->p, NR, buffer) || !holds(f->p, NR, 6))
		return 4;
	return close(fd) ? 5 : 0;
}

/* fork() with pages away: both have their own, and the child may have devices of its own. */
static void fork_with_pages_away(void **state)
{
	(void)state;
	for (unsigned int unit = 0; unit < 4; unit++) {
		struct family f = { device(unit), map(NR, RW) };

		fill(f.p, NR, 5);
		to_device(f.fd, f.p, NR / 2);
		assert_int_equal(request(f.fd, DMIRROR_EXCLUSIVE, f.p + NR / 2 * page, 8, buffer), 0);
		assert_int_equal(in_child(child_uses_it, &f), 0);
		assert_holds(f.p, NR, 5);
		to_device(f.fd, f.p, NR);
		assert_holds(buffer, NR, 5);
		munmap(f.p, NR * page);
		close(f.fd);
	}
}

/* A descriptor is what it names: a copy works, and the last to close ends it. */
static void duplicates(void **state)
{
	int fd = device(0), two = dup(fd), three = fcntl(fd, F_DUPFD_CLOEXEC, 50);
	unsigned char *p = map(NR, RW);

	(void)state;
	fill(p, NR, 7);
	close(fd);
	to_device(two, p, NR);
	assert_int_equal(dup2(STDERR_FILENO, two), two);
	assert_true(pagemap_entry(p) & PM_SWAPPED);
	to_device(three, p, NR);
	assert_int_equal(request(two, DMIRROR_READ, p, NR, buffer), -ENOTTY);
	close(two);
	close(three);
	assert_true(pagemap_entry(p) & PM_PRESENT);
	assert_int_equal(request(three, DMIRROR_READ, p, NR, buffer), -EBADF);
	assert_holds(p, NR, 7);
	munmap(p, NR * page);
}

/* Devices open and close again and again; the program's memory is its own afterwards. */
static void open_and_close(void **state)
{
	unsigned char *p = map(NR, RW);

	(void)state;
	fill(p, NR, 8);
	for (int i = 0; i < 20; i++) {
		int fd = device((unsigned int)i % 4);

		to_device(fd, p, NR);
		assert_int_equal(close(fd), 0);
		assert_holds(p, NR, 8);
	}
	assert_int_equal(open("/dev/hmm_dmirror4", O_RDWR), -1);
	assert_int_equal(open("/dev/hmm_dmirror0", O_RDWR | O_CREAT | O_EXCL, 0600), -1);
	assert_int_equal(errno, EEXIST);
	munmap(p, NR * page);
}

/* Lines of /proc/self/maps. */
static size_t count_maps(void)
{
	static char text[1 << 16];
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	size_t lines = 0;
	ssize_t n;

	while ((n = read(fd, text, sizeof(text))) > 0)
		for (ssize_t i = 0; i < n; i++)
			lines += text[i] == '\n';
	close(fd);
	return lines;
}

/* A gap that the program made stays one: requests take no address space. */
static void gaps_stay_gaps(void **state)
{
	int fd = device(0);
	unsigned char *p = map(NR, RW), *gap = map(256, RW);
	size_t before;

	(void)state;
	fill(p, NR, 9);
	to_device(fd, p, NR);
	assert_int_equal(request(fd, DMIRROR_EXCLUSIVE, p, 1, buffer), 0);
	assert_holds(p, NR, 9);
	assert_int_equal(munmap(gap, 256 * page), 0);
	before = count_maps();
	for (int i = 0; i < 10; i++) {
		to_device(fd, p, NR);
		assert_int_equal(request(fd, DMIRROR_READ, p, NR, buffer), 0);
		assert_int_equal(request(fd, DMIRROR_WRITE, p, NR, buffer), 0);
		snapshot(fd, p, NR);
		assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_SYS, p, NR, buffer), 0);
	}
	assert_true(count_maps() <= before);
	assert_ptr_equal(mmap(gap, 256 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS |
			      MAP_FIXED_NOREPLACE, -1, 0), gap);
	munmap(gap, 256 * page);
	munmap(p, NR * page);
	close(fd);
}

static struct {
	int fd, device;
	unsigned char *p;
	int nested;
} pager;

/* Serves one fault, after a request of its own: who waits for it holds nothing. */
static void *pager_run(void *arg)
{
	static unsigned char fillers[65536] __attribute__((aligned(65536)));
	static unsigned char own[65536];
	struct pollfd wait = { .fd = pager.fd, .events = POLLIN };
	struct dmirror_cmd c = { .addr = (uintptr_t)arg, .ptr = (uintptr_t)own, .npages = 1 };
	struct uffd_msg msg;

	fill(fillers, 1, 11);
	for (int served = 0; served < 2; ) {
		struct uffdio_copy copy = { .src = (uintptr_t)fillers, .len = page };

		if (poll(&wait, 1, 10000) != 1 || read(pager.fd, &msg, sizeof(msg)) != sizeof(msg))
			return NULL;
		pager.nested |= ioctl(pager.device, DMIRROR_READ, &c);
		copy.dst = msg.arg.pagefault.address & ~(page - 1);
		served += !ioctl(pager.fd, UFFDIO_COPY, &copy);
	}
	return NULL;
}

/* READ_UNLOCKED goes through a userfaultfd of the program's, which may use the device too. */
static void own_userfaultfd(void **state)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	unsigned char *p = map(2, RW), *q = map(1, RW);
	pthread_t thread;

	(void)state;
	pager.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (pager.fd < 0) {
		print_message("          not here: needs a userfaultfd of its own\n");
		skip();
	}
	pager.device = device(0);
	pager.p = p;
	fill(q, 1, 12);
	reg.range.start = (uintptr_t)p;
	reg.range.len = 2 * page;
	assert_int_equal(ioctl(pager.fd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(pager.fd, UFFDIO_REGISTER, &reg), 0);
	assert_int_equal(pthread_create(&thread, NULL, pager_run, q), 0);
	assert_int_equal(request(pager.device, DMIRROR_READ_UNLOCKED, p, 2, buffer), 0);
	pthread_join(thread, NULL);
	assert_int_equal(pager.nested, 0);
	assert_holds(buffer, 1, 11);
	assert_holds(buffer + page, 1, 11);
	close(pager.fd);
	close(pager.device);
	munmap(p, 2 * page);
	munmap(q, page);
}

/* As large as the requests that go past the caches. */
#define MANY	((size_t)2048)

/* The data of a migration comes to the caller wherever the buffer is. */
static void data_comes_to_any_buffer(void **state)
{
	static const size_t offsets[] = { 0, 8, 64, 4032 };
	int fd[2] = { device(0), device(1) };
	unsigned char *p = map(MANY, RW), *to = map(MANY + 1, RW);

	(void)state;
	fill(p, MANY, 6);
	for (size_t i = 0; i < 4; i++) {
		fill(to, MANY + 1, 7);
		assert_int_equal(request(fd[0], DMIRROR_MIGRATE_TO_DEV, p, MANY, to + offsets[i]), 0);
		/* What lies around it is as it was. */
		assert_true(holds_but(to, MANY + 1, 7, offsets[i], MANY * page));
		memmove(to, to + offsets[i], MANY * page);
		assert_holds(to, MANY, 6);
		assert_int_equal(request(fd[0], DMIRROR_MIGRATE_TO_SYS, p, MANY, to), 0);
	}
	/* In the memory of this device, of another, and as one that only a device may touch. */
	for (size_t i = 0; i < 2; i++) {
		fill(to, MANY, 7);
		assert_int_equal(request(fd[i], DMIRROR_MIGRATE_TO_DEV, to, 512, buffer), 0);
		assert_int_equal(request(fd[0], DMIRROR_EXCLUSIVE, to + 600 * page, 8, buffer), 0);
		assert_int_equal(request(fd[0], DMIRROR_MIGRATE_TO_DEV, p, MANY, to), 0);
		assert_holds(to, MANY, 6);
	}
	munmap(p, MANY * page);
	munmap(to, (MANY + 1) * page);
	close(fd[0]);
	close(fd[1]);
}

/* A buffer that ends, or cannot be written from somewhere on, is EFAULT and no signal. */
static void buffers_that_end_are_refused(void **state)
{
	int fd = device(0);
	unsigned char *p = map(MANY, RW), *to = map(MANY, RW);

	(void)state;
	fill(p, MANY, 8);
	fill(to, MANY, 9);
	assert_int_equal(mprotect(to + 700 * page, 4 * page, PROT_READ), 0);
	assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, p, MANY, to), -EFAULT);
	assert_true(holds_but(to, MANY, 9, 0, 700 * page));
	assert_int_equal(munmap(to + 700 * page, 4 * page), 0);
	assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, p, MANY, to), -EFAULT);
	assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_SYS, p, MANY, to), 0);
	assert_holds(p, MANY, 8);
	munmap(p, MANY * page);
	munmap(to, MANY * page);
	close(fd);
}

static struct {
	unsigned char *_Atomic p;
	_Atomic int done;
} race;

static void *unmapper(void *arg)
{
	unsigned char *p;

	(void)arg;
	while (!atomic_load(&race.done)) {
		p = atomic_exchange(&race.p, NULL);
		if (p)
			munmap(p + NR / 2 * page, NR / 2 * page);
	}
	return NULL;
}

/* A request beside munmap ends with good data or an error, never with a signal. */
static void races_with_munmap(void **state)
{
	static const unsigned long requests[] = {
		DMIRROR_READ, DMIRROR_WRITE, DMIRROR_MIGRATE_TO_DEV, DMIRROR_EXCLUSIVE,
		DMIRROR_SNAPSHOT,
	};
	int fd[2] = { device(0), device(2) };
	pthread_t thread;

	(void)state;
	atomic_store(&race.done, 0);
	assert_int_equal(pthread_create(&thread, NULL, unmapper, NULL), 0);
	for (uint32_t i = 0; i < 200; i++) {
		unsigned long nr = requests[i % 5];
		unsigned char *p = map(NR, RW);
		int ret;

		fill(p, NR, i);
		fill(buffer, NR, nr == DMIRROR_WRITE ? i : 1000);
		atomic_store(&race.p, p);
		ret = request(fd[i / 5 % 2], nr, p, NR, buffer);
		if (!ret && nr != DMIRROR_SNAPSHOT)
			assert_holds(buffer, NR, i);
		else if (ret)
			assert_true(ret == -EFAULT || ret == -EINVAL || ret == -ENOENT ||
				    ret == -EBUSY);
		while (atomic_load(&race.p))
			;
		assert_holds(p, NR / 2, i);
		munmap(p, NR / 2 * page);
	}
	atomic_store(&race.done, 1);
	pthread_join(thread, NULL);
	close(fd[0]);
	close(fd[1]);
}

/*
 * The buffer goes away under the request: the data was there, or an error is told. Where
 * calls are not announced the pages beside it may be busy meanwhile, and stay (ENOENT).
 */
static void races_with_the_end_of_the_buffer(void **state)
{
	int fd = device(0);
	unsigned char *p = map(NR, RW);
	pthread_t thread;

	(void)state;
	fill(p, NR, 10);
	atomic_store(&race.done, 0);
	assert_int_equal(pthread_create(&thread, NULL, unmapper, NULL), 0);
	for (uint32_t i = 0; i < 200; i++) {
		unsigned char *to = map(NR, RW);
		int ret;

		fill(to, NR, 11);
		atomic_store(&race.p, to);
		ret = request(fd, DMIRROR_MIGRATE_TO_DEV, p, NR, to);
		while (atomic_load(&race.p))
			;
		assert_true(!ret || ret == -EFAULT || ret == -ENOENT);
		if (!ret)
			assert_holds(to, NR / 2, 10);
		assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_SYS, p, NR, buffer), 0);
		assert_holds(p, NR, 10);
		munmap(to, NR / 2 * page);	/* the rest is the other thread's */
	}
	atomic_store(&race.done, 1);
	pthread_join(thread, NULL);
	munmap(p, NR * page);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pagemap_says_swapped),
		cmocka_unit_test(huge_page_stays_whole),
		cmocka_unit_test(parts_of_a_huge_page),
		cmocka_unit_test(address_is_used_again),
		cmocka_unit_test(mprotect_between_requests),
		cmocka_unit_test(fork_with_pages_away),
		cmocka_unit_test(duplicates),
		cmocka_unit_test(open_and_close),
		cmocka_unit_test(gaps_stay_gaps),
		cmocka_unit_test(own_userfaultfd),
		cmocka_unit_test(races_with_munmap),
		cmocka_unit_test(data_comes_to_any_buffer),
		cmocka_unit_test(buffers_that_end_are_refused),
		cmocka_unit_test(races_with_the_end_of_the_buffer),
	};

	need_devices();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
