/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "prog.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIMBO_BLOCK	(512 * page)
#define LIMBO_BYTES	(8 * LIMBO_BLOCK)
#define HUGE		((size_t)2 << 20)
#define CALLS_MAX	600

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW	_IO(0xAA, 0x00)
#endif

/* What libc's fork() calls. */
#if defined(__GLIBC__) || !defined(SYS_fork)
#define FORK_NR		SYS_clone
#else
#define FORK_NR		SYS_fork
#endif

/* One program's, in memory that test and program share at the same address. */
struct prog_area {
	_Atomic uint32_t in_use;

	/* To the main thread: run fn. Each side bumps its own number. */
	_Atomic uint32_t asked, done;
	prog_fn fn;
	uint64_t args[3];
	int64_t result;

	/* To the agent. */
	_Atomic uint32_t calls_asked, calls_done;
	uint32_t nr_calls;
	struct hmm_agent_call calls[CALLS_MAX];
	char shm[4096] __attribute__((aligned(64)));

	/* What it says of itself. */
	_Atomic uint32_t ready, forks;
	int32_t tid, agent_tid, uffd;
	uint64_t features, limbo;
};

static struct prog_area *areas;
static pid_t tester;

void (*prog_before_call)(struct prog *p, struct hmm_agent_call *calls, size_t nr);
_Atomic uint64_t prog_batches;

static bool futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
	const struct timespec tick = { .tv_nsec = 20 * 1000 * 1000 };

	return syscall(SYS_futex, word, FUTEX_WAIT, seen, &tick, NULL, 0) && errno == ETIMEDOUT;
}

static void bump(_Atomic uint32_t *word)
{
	atomic_fetch_add(word, 1);
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void progs_begin(void)
{
	void *p = mmap(NULL, PROGS * sizeof(*areas), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	areas = p;
	tester = getpid();
	/* What a program leaves behind when it dies is the test's to reap. */
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
}

/* ---------------------------------------------------------------- in the program */

static void *agent_main(void *arg)
{
	struct prog_area *a = arg;
	uint32_t seen = 0;

	a->agent_tid = (int32_t)syscall(SYS_gettid);
	bump(&a->ready);
	for (;;) {
		while (atomic_load(&a->calls_asked) == seen)
			futex_wait(&a->calls_asked, seen);
		seen++;
		for (uint32_t i = 0; i < a->nr_calls; i++) {
			struct hmm_agent_call *c = &a->calls[i];
			long ret = syscall((long)c->nr, c->args[0], c->args[1], c->args[2],
					   c->args[3], c->args[4], c->args[5]);

			c->ret = ret == -1 ? -errno : ret;
		}
		bump(&a->calls_done);
	}
	return NULL;
}

static int open_uffd(struct prog_area *a)
{
	struct uffdio_api api = { .api = UFFD_API, .features = hmm_remote_features() };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), device;

	if (fd < 0) {
		device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		fd = device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(device);
	}
	if (fd < 0)
		return -errno;
	if (ioctl(fd, UFFDIO_API, &api))
		return -errno;
	a->features = hmm_remote_features();
	return fd;
}

static uint64_t reserve_limbo(void)
{
	char *p = mmap(NULL, LIMBO_BYTES + LIMBO_BLOCK, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t at = ((uintptr_t)p + LIMBO_BLOCK - 1) & ~(LIMBO_BLOCK - 1);

	if (p == MAP_FAILED || madvise(p, LIMBO_BYTES + LIMBO_BLOCK, MADV_DONTFORK))
		return 0;
	return at;
}

static void agent_begin(struct prog_area *a)
{
	static pthread_t agent;

	a->limbo = reserve_limbo();
	if (!a->limbo || pthread_create(&agent, NULL, agent_main, a))
		_exit(3);
	while (!atomic_load(&a->ready))
		futex_wait(&a->ready, 0);
}

static void serve(struct prog_area *a)
{
	uint32_t seen = 0;

	for (;;) {
		/* A test that died has nobody left to end its programs. */
		while (atomic_load(&a->asked) == seen)
			if (futex_wait(&a->asked, seen) && kill(tester, 0))
				_exit(5);
		seen++;
		a->result = a->fn(a->args[0], a->args[1], a->args[2]);
		bump(&a->done);
	}
}

/* A file descriptor over a socket; -1: none came. */
static void send_fd(int sock, int fd)
{
	char data = 0, room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &data, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room,
			      .msg_controllen = sizeof(room) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	if (sendmsg(sock, &msg, 0) != 1)
		_exit(4);
}

static int receive_fd(int sock)
{
	char data, room[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &data, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room,
			      .msg_controllen = sizeof(room) };
	struct cmsghdr *c;
	int fd = -1;

	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) == 1 && (c = CMSG_FIRSTHDR(&msg)))
		memcpy(&fd, CMSG_DATA(c), sizeof(int));
	return fd;
}

static void prog_main(struct prog_area *a, int sock)
{
	child_signals();
	a->tid = (int32_t)syscall(SYS_gettid);
	a->uffd = open_uffd(a);
	if (a->uffd < 0)
		_exit(2);
	send_fd(sock, a->uffd);
	agent_begin(a);
	serve(a);
}

/* ---------------------------------------------------------------- in the test */

static bool is_dead(struct prog *p)
{
	struct pollfd wait = { .fd = p->pidfd, .events = POLLIN };

	return p->dead || poll(&wait, 1, 0) == 1;
}

static int agent_link(void *ctx, struct hmm_agent_call *calls, size_t nr)
{
	struct prog *p = ctx;
	struct prog_area *a = p->area;
	uint32_t done;

	/* One at a time, as a link has to see to. */
	static pthread_mutex_t one[PROGS] = { [0 ... PROGS - 1] = PTHREAD_MUTEX_INITIALIZER };
	pthread_mutex_t *mine = &one[a - areas];
	int ret = 0;

	pthread_mutex_lock(mine);
	atomic_fetch_add(&prog_batches, 1);
	if (prog_before_call)
		prog_before_call(p, calls, nr);
	nr = nr < p->agent_calls_left ? nr : (size_t)p->agent_calls_left;
	p->agent_calls_left -= nr;
	done = atomic_load(&a->calls_done);
	memcpy(a->calls, calls, nr * sizeof(*calls));
	a->nr_calls = (uint32_t)nr;
	bump(&a->calls_asked);
	while (!ret && atomic_load(&a->calls_done) == done) {
		futex_wait(&a->calls_done, done);
		if (atomic_load(&a->calls_done) == done && is_dead(p))
			ret = -ESRCH;
	}
	if (!p->agent_calls_left)
		ret = -ESRCH;
	if (!ret)
		memcpy(calls, a->calls, nr * sizeof(*calls));
	pthread_mutex_unlock(mine);
	return ret;
}

static struct prog *prog_new(void)
{
	struct prog *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	for (uint32_t i = 0; i < PROGS && !p->area; i++) {
		uint32_t free = 0;

		if (atomic_compare_exchange_strong(&areas[i].in_use, &free, 1))
			p->area = &areas[i];
	}
	assert_non_null(p->area);
	p->agent_calls_left = UINT64_MAX;
	memset((char *)p->area + sizeof(uint32_t), 0, sizeof(*p->area) - sizeof(uint32_t));
	return p;
}

static struct hmm_remote_opts opts_for(struct prog *p, int uffd)
{
	struct prog_area *a = p->area;
	HMM_OPTS(hmm_remote_opts, o, .pid = p->pid, .pidfd = dup(p->pidfd),
		 .agent_pid = a->agent_tid, .uffd = uffd, .agent_uffd = a->uffd,
		 .features = a->features, .shm = a->shm, .shm_addr = (uintptr_t)a->shm,
		 .shm_bytes = sizeof(a->shm), .limbo = a->limbo, .limbo_bytes = LIMBO_BYTES,
		 .call = agent_link, .ctx = p);

	return o;
}

static void wait_ready(struct prog *p)
{
	while (!atomic_load(&p->area->ready)) {
		assert_false(is_dead(p));
		futex_wait(&p->area->ready, 0);
	}
}

struct prog *prog_start(struct prog *sibling)
{
	struct prog *p = prog_new();
	struct hmm_remote_opts opts;
	int socks[2], uffd;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
	p->pid = fork();
	assert_true(p->pid >= 0);
	if (!p->pid)
		prog_main(p->area, socks[1]);
	close(socks[1]);
	p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	uffd = receive_fd(socks[0]);
	close(socks[0]);
	if (uffd < 0)
		skip_program("this user may not have a userfaultfd");
	wait_ready(p);
	opts = opts_for(p, uffd);
	opts.sibling = sibling ? sibling->mm : NULL;
	assert_int_equal(hmm_mm_open_remote(&opts, &p->mm), 0);
	return p;
}

void prog_kill(struct prog *p)
{
	int status;

	if (p->dead)
		return;
	kill(p->pid, SIGKILL);
	while (waitpid(p->pid, &status, __WALL) < 0 && errno == EINTR)
		;
	/* A grandchild's parent is another program; its death is seen all the same. */
	while (!is_dead(p))
		;
	p->dead = true;
}

int prog_end(struct prog *p)
{
	int ret = 0;

	if (p->mm && is_dead(p))
		hmm_remote_gone(p->mm);
	if (p->mm)
		ret = hmm_mm_destroy(p->mm);
	prog_kill(p);
	close(p->pidfd);
	atomic_store(&p->area->in_use, 0);
	free(p);
	return ret;
}

void prog_go(struct prog *p, prog_fn fn, uint64_t a, uint64_t b, uint64_t c)
{
	p->area->fn = fn;
	p->area->args[0] = a;
	p->area->args[1] = b;
	p->area->args[2] = c;
	bump(&p->area->asked);
}

bool prog_idle(struct prog *p)
{
	return atomic_load(&p->area->done) == atomic_load(&p->area->asked);
}

int64_t prog_wait(struct prog *p)
{
	while (!prog_idle(p)) {
		futex_wait(&p->area->done, atomic_load(&p->area->asked) - 1);
		if (!prog_idle(p) && is_dead(p))
			return -ECHILD;
	}
	return p->area->result;
}

int64_t prog_run(struct prog *p, prog_fn fn, uint64_t a, uint64_t b, uint64_t c)
{
	prog_go(p, fn, a, b, c);
	return prog_wait(p);
}

/* ---------------------------------------------------------------- calls */

static int64_t do_call(uint64_t args, uint64_t unused, uint64_t unused2)
{
	const uint64_t *a = (const uint64_t *)(uintptr_t)args;
	long ret = syscall((long)a[0], a[1], a[2], a[3], a[4], a[5], 0UL);

	(void)unused;
	(void)unused2;
	return ret == -1 ? -errno : ret;
}

/* Arguments at the end of the shared area, where no batch of moves reaches. */
static int64_t raw_call(struct prog *p, long nr, const uint64_t *args)
{
	uint64_t *at = (uint64_t *)(p->area->shm + sizeof(p->area->shm)) - 6;

	at[0] = (uint64_t)nr;
	memcpy(at + 1, args, 5 * sizeof(*args));
	return prog_run(p, do_call, (uintptr_t)at, 0, 0);
}

int64_t prog_call(struct prog *p, long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	return raw_call(p, nr, (const uint64_t[]){ a, b, c, d, 0 });
}

int64_t prog_change(struct prog *p, long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
		    uint64_t e)
{
	const uint64_t args[6] = { a, b, c, d, e, 0 };
	uint32_t tid = (uint32_t)p->area->tid;
	int64_t result = 0;

	assert_int_equal(hmm_remote_change(p->mm, tid, (uint64_t)nr, args, &result), 0);
	if (result == HMM_CHANGE_IGNORE)
		return raw_call(p, nr, args);
	if (result != HMM_CHANGE_CONTINUE)
		return result;
	result = raw_call(p, nr, args);
	hmm_remote_change_end(p->mm, tid);
	return result;
}

/* ---------------------------------------------------------------- forks */

static int64_t do_fork(uint64_t area, uint64_t forks, uint64_t unused2)
{
	struct prog_area *a = (struct prog_area *)(uintptr_t)area;
	pid_t pid;

	(void)unused2;
	/* No call that can wait stands between this and clone(). */
	atomic_fetch_add((_Atomic uint32_t *)(uintptr_t)forks, 1);
	pid = fork();
	if (pid)
		return pid < 0 ? -errno : pid;
	a->tid = (int32_t)syscall(SYS_gettid);
	agent_begin(a);
	serve(a);
	return 0;
}

/*
 * The child's number of its userfaultfd: it gets its copy by pidfd_getfd() from the test.
 */
static int64_t do_take_fd(uint64_t pid, uint64_t fd, uint64_t unused)
{
	int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
	int ret = (int)syscall(SYS_pidfd_getfd, pidfd, (int)fd, 0);

	(void)unused;
	close(pidfd);
	return ret < 0 ? -errno : ret;
}

/* Returns when it runs on its way into clone(), or is there: fork_end() can tell. */
static void prog_go_fork(struct prog *p, struct prog_area *child)
{
	const uint32_t seen = atomic_load(&p->area->forks);

	prog_go(p, do_fork, (uintptr_t)child, (uintptr_t)&p->area->forks, 0);
	while (atomic_load(&p->area->forks) == seen && !is_dead(p))
		sched_yield();
}

struct prog *prog_fork(struct prog *p, bool attach)
{
	struct prog *child = prog_new();
	uint32_t tid = (uint32_t)p->area->tid;
	int64_t pid;

	assert_int_equal(hmm_remote_fork_begin(p->mm, tid), 0);
	prog_go_fork(p, child->area);
	assert_int_equal(hmm_remote_fork_end(p->mm, tid, FORK_NR, &child->mm), 0);
	pid = prog_wait(p);
	assert_true(pid > 0);
	child->pid = (pid_t)pid;
	child->pidfd = (int)syscall(SYS_pidfd_open, child->pid, 0);
	assert_true(child->pidfd >= 0);
	wait_ready(child);
	if (attach && child->mm)
		prog_attach(child);
	return child;
}

void prog_attach(struct prog *p)
{
	struct hmm_remote_opts opts;

	p->area->uffd = (int32_t)prog_run(p, do_take_fd, (uint64_t)getpid(),
					  (uint64_t)hmm_remote_uffd(p->mm), 0);
	assert_true(p->area->uffd > 0);
	opts = opts_for(p, -1);
	assert_int_equal(hmm_remote_attach(p->mm, &opts), 0);
}

/* ---------------------------------------------------------------- memory */

static int64_t do_map(uint64_t nr, uint64_t prot, uint64_t seed)
{
	void *p = mmap(NULL, nr * page + HUGE, (int)prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));

	if (p == MAP_FAILED)
		return -ENOMEM;
	if (at > (char *)p)
		munmap(p, (size_t)(at - (char *)p));
	munmap(at + nr * page, HUGE - (size_t)(at - (char *)p));
	if (seed != UINT64_MAX)
		fill(at, nr, (uint32_t)seed);
	return (int64_t)(uintptr_t)at;
}

static int64_t do_holds(uint64_t addr, uint64_t nr, uint64_t seed_first)
{
	return holds((void *)(uintptr_t)addr, nr, (uint32_t)seed_first, seed_first >> 32);
}

uintptr_t prog_map(struct prog *p, size_t nr, uint32_t seed)
{
	int64_t at = prog_run(p, do_map, nr, PROT_READ | PROT_WRITE, seed);

	assert_true(at > 0);
	return (uintptr_t)at;
}

uintptr_t prog_map_empty(struct prog *p, size_t nr, int prot)
{
	int64_t at = prog_run(p, do_map, nr, (uint64_t)prot, UINT64_MAX);

	assert_true(at > 0);
	return (uintptr_t)at;
}

int64_t prog_holds(struct prog *p, uintptr_t addr, size_t nr, uint32_t seed, uint64_t first)
{
	return prog_run(p, do_holds, addr, nr, seed | first << 32);
}

int64_t prog_grow_heap(uint64_t nr, uint64_t seed, uint64_t unused)
{
	uint64_t at = (uint64_t)syscall(SYS_brk, 0UL);

	(void)unused;
	at = (at + page - 1) & ~(page - 1);
	syscall(SYS_brk, at + nr * page);
	fill((void *)(uintptr_t)at, nr, (uint32_t)seed);
	return (int64_t)at;
}

int64_t prog_loads(uint64_t addr, uint64_t nr, uint64_t value)
{
	for (uint64_t i = 0; i < nr; i++)
		if (*(volatile uint64_t *)(uintptr_t)(addr + i * page) != value + i)
			return -1;
	return 1;
}

int64_t prog_stores(uint64_t addr, uint64_t nr, uint64_t value)
{
	for (uint64_t i = 0; i < nr; i++)
		*(volatile uint64_t *)(uintptr_t)(addr + i * page) = value + i;
	return 0;
}

/* ---------------------------------------------------------------- and its device */

struct hmm_stats prog_stats(struct prog *p)
{
	struct hmm_stats s = { .size = sizeof(s) };

	assert_int_equal(hmm_mm_stats(p->mm, &s), 0);
	return s;
}

int64_t prog_migrate(struct prog *p, struct testdev *dev, uintptr_t addr, size_t nr)
{
	return hmm_migrate_to_device(p->mm, dev->devmem, addr, addr + nr * page,
				     HMM_MIGRATE_SYSTEM, NULL);
}

void prog_places(struct prog *p, uintptr_t addr, size_t nr, enum hmm_place place)
{
	uint8_t *places = malloc(nr);

	assert_int_equal(hmm_residency(p->mm, addr, addr + nr * page, places), 0);
	for (size_t i = 0; i < nr; i++)
		assert_int_equal(places[i], place);
	free(places);
}

void prog_to_dev(struct prog *p, struct testdev *dev, uintptr_t addr, size_t nr)
{
	assert_int_equal(prog_migrate(p, dev, addr, nr), nr);
	prog_places(p, addr, nr, HMM_PLACE_DEVICE);
}

void prog_and_device(struct prog **p, struct testdev **dev)
{
	*p = prog_start(NULL);
	*dev = testdev_new((*p)->mm, DEV_PAGES, world_owner_a, HMM_DEVMEM_FAULT_SAFE);
}

void prog_and_device_end(struct prog *p, struct testdev *dev)
{
	prog_before_call = NULL;
	assert_int_equal(testdev_remove(dev), 0);
	assert_int_equal(prog_end(p), 0);
}
