/* SPDX-License-Identifier: MIT */
/* System calls on buffers that are away behave as if they had never left. */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "uring.h"

#define NR	16
#define RW	(PROT_READ | PROT_WRITE)

static void home(struct world *w, void *p)
{
	assert_int_equal(moved(w, lost_pages), 0);
	munmap(p, NR * page);
}

/* read(2) into pages that are away: all bytes arrive, short counts none. */
static void read_into_pages_away(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 1), *src = map_filled(NR, 2);
	int fd = memfd_create("source", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, src, NR * page), NR * page);
	assert_int_equal(pread(fd, p + 100, 4 * page, 100), 4 * page);
	assert_memory_equal(p + 100, src + 100, 4 * page);
	assert_holds(p + 5 * page, NR - 5, 1, 5);
	close(fd);
	munmap(src, NR * page);
	home(w, p);
}

/* write(2) from pages that are away writes their bytes, all of them. */
static void write_from_pages_away(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 3), *back = map_pages(NR, RW, 0);
	int fd = memfd_create("sink", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, p, NR * page), NR * page);
	assert_int_equal(pread(fd, back, NR * page, 0), NR * page);
	assert_holds(back, NR, 3, 0);
	close(fd);
	munmap(back, NR * page);
	home(w, p);
}

/* A pipe, with the iovec itself away as well. */
static void vectors_that_are_away(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 4);
	struct iovec *iov = (struct iovec *)(void *)p;
	char seen[8];
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	iov[0] = (struct iovec) { p + page, 4 };
	iov[1] = (struct iovec) { p + 3 * page, 4 };
	to_device(w, w->dev, p, NR);
	assert_int_equal(writev(fds[1], iov, 2), 8);
	assert_int_equal(read(fds[0], seen, 8), 8);
	assert_memory_equal(seen, p + page, 4);
	assert_memory_equal(seen + 4, p + 3 * page, 4);
	close(fds[0]);
	close(fds[1]);
	home(w, p);
}

/* A datagram received into pages that are away is neither lost nor cut. */
static void datagram_into_pages_away(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 5), *src = map_filled(4, 6);
	int fds[2], room = (int)(8 * page);

	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds), 0);
	IGNORE(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)));
	assert_int_equal(send(fds[0], src, 3 * page, 0), 3 * page);
	assert_int_equal(send(fds[0], "second", 6, 0), 6);
	assert_int_equal(recv(fds[1], p, NR * page, 0), 3 * page);
	assert_holds(p, 3, 6, 0);
	assert_int_equal(recv(fds[1], p + 8 * page, 100, 0), 6);
	assert_memory_equal(p + 8 * page, "second", 6);
	close(fds[0]);
	close(fds[1]);
	munmap(src, 4 * page);
	home(w, p);
}

/* O_DIRECT, whose DMA wants the pages themselves. */
static void direct_io_on_pages_away(void **state)
{
	struct world *w = *state;
	char path[] = "/var/tmp/uhmm-direct-XXXXXX";
	int fd = mkstemp(path), direct;
	unsigned char *p, *q;

	assert_true(fd >= 0);
	direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	unlink(path);
	close(fd);
	if (direct < 0)
		lacks("O_DIRECT in /var/tmp");
	p = map_away(w, NR, 7);
	q = map_away(w, NR, 8);
	assert_int_equal(pwrite(direct, p, NR * page, 0), NR * page);
	assert_int_equal(pread(direct, q, NR * page, 0), NR * page);
	assert_holds(q, NR, 7, 0);
	assert_holds(p, NR, 7, 0);
	close(direct);
	home(w, p);
	home(w, q);
}

struct sleeper {
	pthread_t thread;
	_Atomic uint32_t *word;
	_Atomic uint32_t tid;
	long ret;
	int err;
};

static void *sleeper_run(void *arg)
{
	struct sleeper *s = arg;
	struct timespec limit = { .tv_sec = 20 };

	atomic_store(&s->tid, (uint32_t)syscall(SYS_gettid));
	s->ret = syscall(SYS_futex, s->word, FUTEX_WAIT_PRIVATE, 1, &limit, NULL, 0);
	s->err = errno;
	return NULL;
}

/* futex(2) on a word that is away: wait sees its value, wake reaches the sleeper. */
static void futex_word_away(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, 0);
	_Atomic uint32_t *word = (void *)(p + 5 * page);
	struct sleeper s = { .word = word };
	long woken = 0;

	atomic_store(word, 1);
	to_device(w, w->dev, p, NR);
	assert_int_equal(syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0), -1);
	assert_int_equal(errno, EAGAIN);
	to_device(w, w->dev, p, NR);
	assert_int_equal(pthread_create(&s.thread, NULL, sleeper_run, &s), 0);
	/* The page goes away under the sleeper, again and again, until it is woken. */
	assert_true(eventually(({
		IGNORE(try_device(w, w->dev, p, NR, NULL));
		woken = syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
		woken == 1;
	})));
	pthread_join(s.thread, NULL);
	assert_int_equal(s.ret, 0);
	home(w, p);
}

/* A mutex in memory that migrates all the time still excludes. */
static struct {
	pthread_mutex_t *mutex;
	uint64_t *count;
} locked;

static void *lock_run(void *arg)
{
	(void)arg;
	for (int i = 0; i < 3000; i++) {
		pthread_mutex_lock(locked.mutex);
		++*locked.count;
		pthread_mutex_unlock(locked.mutex);
	}
	return NULL;
}

/* Threads that lock a mutex which migrates under them exclude each other. */
static void mutex_that_migrates(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, 0);
	pthread_t threads[3];

	locked.mutex = (void *)p;
	locked.count = (void *)(p + page);
	assert_int_equal(pthread_mutex_init(locked.mutex, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, lock_run, NULL), 0);
	for (int i = 0; i < 100; i++)
		IGNORE(try_device(w, w->dev, p, 2, NULL));
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(*locked.count, 9000);
	home(w, p);
}

/* io_uring reads into and writes from pages that are away. */
static void io_uring_on_pages_away(void **state)
{
	struct world *w = *state;
	struct uring ring;
	unsigned char *p, *q;
	int fd;

	if (uring_open(&ring))
		lacks("io_uring");
	fd = memfd_create("ring", MFD_CLOEXEC);
	assert_true(fd >= 0);
	p = map_away(w, NR, 9);
	q = map_away(w, NR, 10);
	assert_int_equal(uring_do(&ring, IORING_OP_WRITE, fd, p, (uint32_t)(NR * page), 0),
			 NR * page);
	assert_int_equal(uring_do(&ring, IORING_OP_READ, fd, q, (uint32_t)(NR * page), 0),
			 NR * page);
	assert_holds(q, NR, 9, 0);
	close(fd);
	uring_close(&ring);
	home(w, p);
	home(w, q);
}

/* Paths, stat buffers, poll sets and timespecs that are away. */
static void small_arguments_away(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, 0);
	struct stat *st = (void *)(p + page);
	struct pollfd *pfd = (void *)(p + 2 * page);
	struct timespec *ts = (void *)(p + 3 * page);
	int fds[2], fd;

	assert_int_equal(pipe(fds), 0);
	strcpy((char *)p, "/proc/self/exe");
	*pfd = (struct pollfd) { .fd = fds[0], .events = POLLIN };
	*ts = (struct timespec) { .tv_nsec = 1 };
	to_device(w, w->dev, p, NR);
	assert_int_equal(stat((char *)p, st), 0);
	assert_true(S_ISREG(st->st_mode));
	to_device(w, w->dev, p, NR);
	fd = open((char *)p, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(poll(pfd, 1, 0), 1);
	assert_true(pfd->revents & POLLIN);
	assert_int_equal(nanosleep(ts, NULL), 0);
	assert_non_null(getcwd((char *)p + 4 * page, page));
	close(fd);
	close(fds[0]);
	close(fds[1]);
	home(w, p);
}

/* A failing system call fails as ever: EFAULT at a gap next to pages that are away. */
static void short_read_at_a_gap(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 11);
	int fds[2];

	assert_int_equal(munmap(p + 2 * page, (NR - 2) * page), 0);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], p + 2 * page, 1), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(write(fds[1], p + page, 2 * page), page);
	assert_int_equal(write(fds[1], "y", 1), 1);
	close(fds[0]);
	close(fds[1]);
	home(w, p);
}

static volatile sig_atomic_t signalled;

static void on_signal(int sig)
{
	(void)sig;
	signalled++;
}

static _Atomic uint32_t signalling;

static void *signal_run(void *arg)
{
	while (atomic_load(&signalling)) {
		pthread_kill(*(pthread_t *)arg, SIGUSR1);
		sched_yield();
	}
	return NULL;
}

/* Signals during faults: handlers run, and no access sees anything but its bytes. */
static void signals_during_faults(void **state)
{
	struct world *w = *state;
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, old;
	unsigned char *p = map_filled(NR, 12);
	pthread_t self = pthread_self(), thread;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(sigaction(SIGUSR1, &sa, &old), 0);
	signalled = 0;
	atomic_store(&signalling, 1);
	assert_int_equal(pthread_create(&thread, NULL, signal_run, &self), 0);
	for (int round = 0; round < 50; round++) {
		const sig_atomic_t before = signalled;

		assert_true(eventually(signalled != before));
		to_device(w, w->dev, p, NR);
		assert_holds(p, NR / 2, 12, 0);
		assert_int_equal(write(fds[1], p + NR / 2 * page, page), page);
		assert_int_equal(read(fds[0], p + (NR / 2 + 1) * page, page), page);
		fill(p, NR, 12);
	}
	atomic_store(&signalling, 0);
	pthread_join(thread, NULL);
	sigaction(SIGUSR1, &old, NULL);
	close(fds[0]);
	close(fds[1]);
	home(w, p);
}

/* process_vm_readv, as a debugger or another process reads us, serves the fault. */
static void process_vm_readv_of_pages_away(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_away(w, NR, 13);
	static unsigned char buf[NR * PAGE_MAX];
	struct iovec local = { buf, NR * page }, remote = { p, NR * page };

	assert_int_equal(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), NR * page);
	assert_holds(buf, NR, 13, 0);
	home(w, p);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(read_into_pages_away),
		world_test(write_from_pages_away),
		world_test(vectors_that_are_away),
		world_test(datagram_into_pages_away),
		world_test(direct_io_on_pages_away),
		world_test(futex_word_away),
		world_test(mutex_that_migrates),
		world_test(io_uring_on_pages_away),
		world_test(small_arguments_away),
		world_test(short_read_at_a_gap),
		world_test(signals_during_faults),
		world_test(process_vm_readv_of_pages_away),
	};

	need_mm();
	return cmocka_run_group_tests_name("syscalls", tests, world_begin, world_end);
}
