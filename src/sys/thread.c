// SPDX-License-Identifier: MIT
/*
 * Threads, waiting and waking.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "sys/internal.h"
#include "sys/sys.h"

/* As getdents64(2) writes it; libc has the struct only behind its own readdir. */
struct dirent_raw {
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

/* As glibc has it from 2.35 on; elsewhere they are not there. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

#define RSEQ_CPU_ID	4	/* the offset in struct rseq */

int sys_futex_wait(_Atomic uint32_t *word, uint32_t expected, const struct timespec *timeout)
{
	return (int)sys_ret(syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, timeout, NULL, 0));
}

int sys_futex_wake(_Atomic uint32_t *word, int nr)
{
	return (int)sys_ret(syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, nr, NULL, NULL, 0));
}

/* Nobody wakes it: touches nothing but the stack. */
void sys_rest(uint32_t us)
{
	const struct timespec time = { .tv_nsec = us * 1000L };
	_Atomic uint32_t never = 0;

	sys_futex_wait(&never, 0, &time);
}

void sys_yield(void)
{
	syscall(SYS_sched_yield);
}

int sys_futex_wait_shared(_Atomic uint32_t *word, uint32_t expected, const struct timespec *timeout)
{
	return (int)sys_ret(syscall(SYS_futex, word, FUTEX_WAIT, expected, timeout, NULL, 0));
}

int sys_futex_wake_shared(_Atomic uint32_t *word, int nr)
{
	return (int)sys_ret(syscall(SYS_futex, word, FUTEX_WAKE, nr, NULL, NULL, 0));
}

uint32_t sys_gettid(void)
{
	return (uint32_t)syscall(SYS_gettid);
}

/* One bit for each CPU; as many as the kernel can have. */
struct cpu_set {
	uint64_t words[128];
};

int sys_pin_to_cpu(uint32_t tid, unsigned int cpu)
{
	struct cpu_set set = { { 0 } };

	if (cpu >= ARRAY_SIZE(set.words) * 64)
		return -EINVAL;
	set.words[cpu / 64] = BIT(cpu % 64);
	return (int)sys_ret(syscall(SYS_sched_setaffinity, tid, sizeof(set), &set));
}

unsigned int sys_cpus(unsigned int *cpus, unsigned int max)
{
	struct cpu_set set = { { 0 } };
	unsigned int nr = 0;

	if (sys_ret(syscall(SYS_sched_getaffinity, 0, sizeof(set), &set)) < 0)
		return 0;
	for (unsigned int cpu = 0; cpu < ARRAY_SIZE(set.words) * 64 && nr < max; cpu++)
		if (set.words[cpu / 64] & BIT(cpu % 64))
			cpus[nr++] = cpu;
	return nr;
}

static uintptr_t thread_pointer(void)
{
#ifdef __x86_64__
	uintptr_t self;

	__asm__("mov %%fs:0, %0" : "=r"(self));
	return self;
#else
	return (uintptr_t)__builtin_thread_pointer();
#endif
}

static uintptr_t own_list_head(void)
{
	uintptr_t head = 0;
	size_t len;

	return syscall(SYS_get_robust_list, 0, &head, &len) ? 0 : head;
}

uintptr_t sys_own_rseq(void)
{
	return &__rseq_size && __rseq_size ? thread_pointer() + (uintptr_t)__rseq_offset : 0;
}

/*
 * libc has a thread's robust list in its control block, the same way from the thread
 * pointer in each, and so from the list to the rseq area.
 */
uintptr_t sys_thread_cpu_word(uint32_t tid)
{
	uintptr_t mine = own_list_head(), area = sys_own_rseq(), its = 0;
	size_t len;

	if (!mine || !area || syscall(SYS_get_robust_list, tid, &its, &len))
		return 0;
	return its + area + RSEQ_CPU_ID - mine;
}

int sys_cpu_in(uintptr_t word)
{
	int32_t cpu;

	if (!word || sys_copy_from(&cpu, word, sizeof(cpu)) != (ssize_t)sizeof(cpu) || cpu < 0)
		return -EFAULT;
	return cpu;
}

/* The kernel compares it, and has nobody to wake. */
bool sys_word_is(uintptr_t word, uint32_t value)
{
	return syscall(SYS_futex, word, FUTEX_CMP_REQUEUE_PRIVATE, 0, 0, word, value) == 0;
}

bool sys_thread_is_ours(uint32_t tid)
{
	return syscall(SYS_tgkill, getpid(), (pid_t)tid, 0) == 0;
}

int sys_kill_thread(uint32_t tid, int sig, uintptr_t addr)
{
	siginfo_t info;
	long ret;

	memset(&info, 0, sizeof(info));
	info.si_signo = sig;
	/* The first code of SIGBUS that names an address, and SIGSEGV's no mapping. */
	info.si_code = sig == SIGBUS ? BUS_ADRERR : SEGV_MAPERR;
	info.si_addr = (void *)addr;
	ret = sys_ret(syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)tid, sig, &info));
	/* The queue may be full (RLIMIT_SIGPENDING): then without the address. */
	if (ret == -EPERM || ret == -EAGAIN || ret == -ENOSYS)
		ret = sys_ret(syscall(SYS_tgkill, getpid(), (pid_t)tid, sig));
	return (int)ret;
}

uint64_t sys_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int sys_membarrier_register(void)
{
	return (int)sys_ret(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
}

int sys_membarrier(void)
{
	return (int)sys_ret(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
}

/* 0 for "." and ".." */
static long parse_tid(const char *name)
{
	long tid = 0;

	for (; *name >= '0' && *name <= '9'; name++)
		tid = tid * 10 + (*name - '0');
	return tid;
}

/* ---------------------------------------------------------------- control blocks */

#ifdef __GLIBC__

/* Each thread has told the kernel where its robust list is, which lies in the block. */
void sys_tell_tcb(void)
{
}

static ptrdiff_t tcb_behind_list(void)
{
	return 0;
}

#else

/*
 * musl tells the kernel of a list only when the thread first locks a robust mutex, and
 * then of one in the block. Until then the kernel has an empty one of ours, in the
 * thread's static TLS, which is next to the block.
 */
static __thread struct robust_list_head own_list;
static pthread_once_t untell_once = PTHREAD_ONCE_INIT;
static pthread_key_t untell_key;

/* The thread ends: by the time that the kernel looks the memory may be another's. */
static void untell(void *list)
{
	uintptr_t head = 0;
	size_t len;

	if (!syscall(SYS_get_robust_list, 0, &head, &len) && head == (uintptr_t)list)
		syscall(SYS_set_robust_list, NULL, sizeof(own_list));
}

static void untell_begin(void)
{
	if (pthread_key_create(&untell_key, untell))
		abort();
}

void sys_tell_tcb(void)
{
	uintptr_t head = 0;
	size_t len;

	pthread_once(&untell_once, untell_begin);
	if (syscall(SYS_get_robust_list, 0, &head, &len) || head)
		return;
	own_list.list.next = &own_list.list;
	if (!syscall(SYS_set_robust_list, &own_list, sizeof(own_list)))
		pthread_setspecific(untell_key, &own_list);
}

/* Other libraries' TLS can lie between; it is the same way in each thread. */
static ptrdiff_t tcb_behind_list(void)
{
	return (ptrdiff_t)(thread_pointer() - (uintptr_t)&own_list);
}

#endif

/*
 * What of a control block lies beyond the robust list's head, of whatever libc: behind it
 * may be other memory.
 */
#define TCB_REST	2048u

void sys_tcb_around(uintptr_t addr, uintptr_t *low, uintptr_t *high)
{
	const ptrdiff_t block = tcb_behind_list();

	*low = addr + (uintptr_t)(block < 0 ? block : 0);
	*high = addr + (uintptr_t)(block > 0 ? block : 0) + TCB_REST;
}

#define MUSL_BLOCK	208u	/* struct pthread: 200 bytes in 1.2.3 */

/*
 * A block begins at the thread pointer, or ends there where TLS lies above it; libc's
 * structures have grown at their ends alone. Of glibc's, what has a fixed place is taken:
 * behind the last of it there is but the rseq area, from 2.35 to 2.40.
 */
#if defined(__GLIBC__) && defined(__x86_64__)
#define BLOCK_LOW(list, tp)	(tp)
#define BLOCK_HIGH(list, tp)	((list) + 1536)
#elif defined(__GLIBC__)
#define BLOCK_LOW(list, tp)	((list) - 224)
#define BLOCK_HIGH(list, tp)	((tp) + 16)
#elif defined(__x86_64__)
#define BLOCK_LOW(list, tp)	(tp)
#define BLOCK_HIGH(list, tp)	((tp) + MUSL_BLOCK)
#else
#define BLOCK_LOW(list, tp)	((tp) - MUSL_BLOCK)
#define BLOCK_HIGH(list, tp)	((tp) + 16)
#endif

struct sys_own_block sys_own_block(void)
{
	const ptrdiff_t behind = tcb_behind_list();
	struct sys_own_block block = { 0 };
	const uintptr_t tp = thread_pointer();

	sys_tell_tcb();
	block.told = own_list_head();
	block.low = BLOCK_LOW(block.told, tp);
	block.high = BLOCK_HIGH(block.told, tp);
	/* Another thread's list may be the one in its block instead of ours beside it. */
	if (behind > 0)
		block.up = (size_t)behind + MUSL_BLOCK;
	if (behind < 0)
		block.down = (size_t)-behind;
	return block;
}

/* It may have ended meanwhile, or never have told the kernel of a list. */
static int tell_tcb(long tid, long pid, void (*fn)(uintptr_t addr, bool main, void *ctx), void *ctx)
{
	uintptr_t head = 0;
	size_t len;
	int ret = (int)sys_ret(syscall(SYS_get_robust_list, tid, &head, &len));

	if (!ret && head)
		fn(head, tid == pid, ctx);
	return ret == -EPERM ? ret : 0;
}

struct tids {
	uint32_t nr;
	int32_t tid[SYS_TCBS_MAX];
};

/* The folder's entries, as the kernel goes through them. */
static int read_tids(int tasks_fd, struct tids *tids)
{
	_Alignas(struct dirent_raw) char buf[2048];
	const struct dirent_raw *entry;
	long got = sys_ret(syscall(SYS_lseek, tasks_fd, 0L, SEEK_SET)), tid;

	if (got < 0)
		return (int)got;
	tids->nr = 0;
	while ((got = sys_ret(syscall(SYS_getdents64, tasks_fd, buf, sizeof(buf)))) > 0) {
		for (long at = 0; at < got; at += entry->reclen) {
			entry = (const struct dirent_raw *)(buf + at);
			tid = parse_tid(entry->name);
			if (tid && tids->nr == SYS_TCBS_MAX)
				return -E2BIG;
			if (tid)
				tids->tid[tids->nr++] = (int32_t)tid;
		}
	}
	return (int)got;
}

/* Is the one, in its order, a part of the other? */
static bool are_among(const struct tids *some, const struct tids *all)
{
	uint32_t i = 0;

	for (uint32_t j = 0; j < all->nr && i < some->nr; j++)
		i += some->tid[i] == all->tid[j];
	return i == some->nr;
}

/*
 * All threads that there were at some time, or -EAGAIN. The kernel goes on in the folder
 * by number where a thread that it was at has just ended, and so passes over another, in
 * silence. But those that are found both before and after the folder's links are counted
 * were there then, and if they are as many they were all.
 */
static int list_tids(int tasks_fd, struct tids *tids)
{
	struct tids again;
	struct stat folder;
	int ret = read_tids(tasks_fd, tids);

	if (!ret)
		ret = (int)sys_ret(fstat(tasks_fd, &folder));
	if (!ret)
		ret = read_tids(tasks_fd, &again);
	if (!ret && (folder.st_nlink != 2 + tids->nr || !are_among(tids, &again)))
		ret = -EAGAIN;
	return ret;
}

int sys_tcbs_of(int tasks_fd, int pid, void (*fn)(uintptr_t addr, bool main, void *ctx), void *ctx)
{
	struct tids tids;
	int ret = list_tids(tasks_fd, &tids);

	for (uint32_t i = 0; !ret && i < tids.nr; i++)
		ret = tell_tcb(tids.tid[i], pid, fn, ctx);
	return ret;
}

int sys_tasks_open(void)
{
	return (int)sys_ret(open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

int sys_for_each_tcb(int tasks_fd, void (*fn)(uintptr_t addr, bool main, void *ctx), void *ctx)
{
	return sys_tcbs_of(tasks_fd, getpid(), fn, ctx);
}

uint64_t sys_threads_mark(int tasks_fd, uint32_t *nr)
{
	uint64_t mark = 0xcbf29ce484222325ULL;
	struct tids tids;

	*nr = 0;
	if (list_tids(tasks_fd, &tids))
		return 0;
	*nr = tids.nr;
	for (uint32_t i = 0; i < tids.nr; i++)
		mark = (mark ^ (uint64_t)tids.tid[i]) * 0x100000001b3ULL;
	return mark;
}

int sys_eventfd(void)
{
	return (int)sys_ret(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

int sys_eventfd_signal(int fd)
{
	uint64_t one = 1;
	long ret;

	do {
		ret = sys_ret(write(fd, &one, sizeof(one)));
	} while (ret == -EINTR);
	/* -EAGAIN: the counter is at its maximum, which is a signal as well. */
	return ret == -EAGAIN || ret > 0 ? 0 : (int)ret;
}

void sys_eventfd_clear(int fd)
{
	uint64_t count;

	while (sys_ret(read(fd, &count, sizeof(count))) == -EINTR)
		;
}

static int left_ms(uint64_t deadline_ns)
{
	uint64_t now = sys_now_ns();

	return now >= deadline_ns ? 0 : (int)((deadline_ns - now + 999999) / 1000000);
}

int sys_poll2(int fd_a, int fd_b, int timeout_ms, bool *a, bool *b)
{
	struct pollfd fds[2] = {
		{ .fd = fd_a, .events = POLLIN },
		{ .fd = fd_b, .events = POLLIN },
	};
	uint64_t deadline_ns = 0;
	int ret;

	if (timeout_ms > 0)
		deadline_ns = sys_now_ns() + (uint64_t)timeout_ms * 1000000u;
	for (;;) {
		ret = (int)sys_ret(poll(fds, 2, timeout_ms));
		if (ret != -EINTR)
			break;
		if (timeout_ms > 0)
			timeout_ms = left_ms(deadline_ns);
	}
	if (ret < 0)
		return ret;
	/* An error or hang-up is for the reader to find: it would wait for ever else. */
	*a = fds[0].revents != 0;
	*b = fds[1].revents != 0;
	return ret;
}

int sys_epoll_open(void)
{
	return (int)sys_ret(epoll_create1(EPOLL_CLOEXEC));
}

static int epoll_add(int epoll, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	return (int)sys_ret(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

int sys_epoll_add(int epoll, int fd, uint64_t data)
{
	return epoll_add(epoll, fd, EPOLLIN, data);
}

int sys_epoll_add_exclusive(int epoll, int fd, uint64_t data)
{
	return epoll_add(epoll, fd, EPOLLIN | EPOLLEXCLUSIVE, data);
}

void sys_epoll_remove(int epoll, int fd)
{
	struct epoll_event unused;

	epoll_ctl(epoll, EPOLL_CTL_DEL, fd, &unused);
}

int sys_epoll_wait(int epoll, uint64_t *data, int max, int timeout_ms)
{
	struct epoll_event events[16];
	int nr;

	do {
		nr = (int)sys_ret(epoll_wait(epoll, events, max < 16 ? max : 16, timeout_ms));
	} while (nr == -EINTR && timeout_ms < 0);
	for (int i = 0; i < nr; i++)
		data[i] = events[i].data.u64;
	return nr == -EINTR ? 0 : nr;
}

void sys_close(int fd)
{
	if (fd >= 0)
		close(fd);
}

void sys_write_stderr(const char *line)
{
	size_t len = strlen(line);
	struct iovec parts[2] = {
		{ .iov_base = (void *)line, .iov_len = len },
		{ .iov_base = "\n", .iov_len = len && line[len - 1] == '\n' ? 0 : 1 },
	};
	ssize_t ignored;

	/* Nowhere to report that standard error cannot be written to. */
	ignored = writev(STDERR_FILENO, parts, 2);
	(void)ignored;
}
