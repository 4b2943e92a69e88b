// SPDX-License-Identifier: MIT
/*
 * The memory of another process.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "sys/internal.h"
#include "sys/sys.h"

/* A kernel call of process_vm_* pins as many pages before it copies, if it must. */
#define PIN_PAGES	512

static char *append(char *to, char *end, const char *text)
{
	while (*text && to < end)
		*to++ = *text++;
	return to;
}

static char *append_uint(char *to, char *end, unsigned int value)
{
	char digits[16];
	char *first = digits + sizeof(digits) - 1;

	*first = '\0';
	do {
		*--first = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	return append(to, end, first);
}

int sys_proc_open(int pid, const char *name, bool write)
{
	char path[64], *end = path + sizeof(path) - 1;
	char *at = append(path, end, "/proc/");

	at = append_uint(at, end, (unsigned int)pid);
	at = append(at, end, "/");
	at = append(at, end, name);
	*at = '\0';
	return (int)sys_ret(open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC));
}

int sys_mapping_of(int tid, uintptr_t addr, struct sys_vma *vma)
{
	int fd = sys_proc_open(tid, "maps", false);
	int ret = fd < 0 ? fd : sys_vma_find(fd, addr, vma);

	sys_close(fd);
	return ret;
}

ssize_t sys_mem_read(int mem_fd, void *dst, uintptr_t addr, size_t len)
{
	size_t done = 0;
	long got = 0;

	while (done < len) {
		got = sys_ret(pread(mem_fd, (char *)dst + done, len - done, (off_t)(addr + done)));
		if (got == -EINTR)
			continue;
		if (got <= 0)
			break;
		done += (size_t)got;
	}
	return done ? (ssize_t)done : got;
}

static ssize_t vm_call(long nr, int pid, void *own, uintptr_t addr, size_t len)
{
	struct iovec local = { .iov_base = own, .iov_len = len };
	struct iovec remote = { .iov_base = (void *)addr, .iov_len = len };

	return sys_ret(syscall(nr, (long)pid, &local, 1L, &remote, 1L, 0L));
}

ssize_t sys_vm_read(int pid, void *dst, uintptr_t addr, size_t len)
{
	return vm_call(SYS_process_vm_readv, pid, dst, addr, len);
}

ssize_t sys_vm_write(int pid, uintptr_t addr, const void *src, size_t len)
{
	return vm_call(SYS_process_vm_writev, pid, (void *)src, addr, len);
}

/*
 * The pages of the other side are pinned, and so faulted in, before our side is looked
 * at; from and to a page that cannot be reached nothing is then copied.
 */
int sys_vm_populate(int pid, uintptr_t start, size_t len, bool write)
{
	const size_t most = PIN_PAGES * sys_page_size();
	uintptr_t own = sys_unreachable_page();

	if (!own)
		return -ENOMEM;
	for (uintptr_t a = start; a < start + len; a += most) {
		size_t piece = start + len - a < most ? start + len - a : most;
		struct iovec local = { .iov_base = (void *)own, .iov_len = 1 };
		struct iovec remote = { .iov_base = (void *)a, .iov_len = piece };
		long ret = sys_ret(syscall(write ? SYS_process_vm_writev : SYS_process_vm_readv,
					   (long)pid, &local, 1L, &remote, 1L, 0L));

		if (ret == -ESRCH || ret == -EPERM)
			return (int)ret;
	}
	return 0;
}

int sys_vm_for_each_tcb(int pid, void (*fn)(uintptr_t addr, bool main, void *ctx), void *ctx)
{
	int fd = sys_proc_open(pid, "task", false);
	int ret;

	if (fd < 0)
		return fd;
	ret = sys_tcbs_of(fd, pid, fn, ctx);
	close(fd);
	return ret;
}

/* No address comes with it: that the kernel lets a process tell itself only. */
int sys_vm_kill_thread(int pid, uint32_t tid, int sig)
{
	return (int)sys_ret(syscall(SYS_tgkill, (long)pid, (long)tid, (long)sig));
}

long sys_stat_number(const char *stat, unsigned int field)
{
	const char *at = strrchr(stat, ')');
	long value = 0;

	for (unsigned int i = 2; at && i < field; i++)
		at = strchr(at + 1, ' ');
	if (!at || at[1] < '0' || at[1] > '9')
		return -EIO;
	while (*++at >= '0' && *at <= '9')
		value = value * 10 + (*at - '0');
	return value;
}

int sys_vm_thread_cpu(int pid, uint32_t tid)
{
	char text[1024], *end = text + sizeof(text) - 1;
	char *at = append(text, end, "task/");
	ssize_t got;
	int fd;

	at = append_uint(at, end, tid);
	at = append(at, end, "/stat");
	*at = '\0';
	fd = sys_proc_open(pid, text, false);
	if (fd < 0)
		return fd;
	got = sys_ret(read(fd, text, sizeof(text) - 1));
	close(fd);
	if (got <= 0)
		return got < 0 ? (int)got : -ESRCH;
	text[got] = '\0';
	return (int)sys_stat_number(text, 39);
}

void sys_vm_limits_follow(int from, int to)
{
	static const int limits[] = { RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK };

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		struct rlimit ours, theirs;

		if (!prlimit(from, limits[i], NULL, &ours) && !prlimit(to, limits[i], NULL, &theirs) &&
		    (ours.rlim_cur != theirs.rlim_cur || ours.rlim_max != theirs.rlim_max))
			(void)prlimit(to, limits[i], &ours, NULL);
	}
}

bool sys_pidfd_dead(int pidfd)
{
	struct pollfd wait = { .fd = pidfd, .events = POLLIN };

	return pidfd >= 0 && poll(&wait, 1, 0) == 1;
}

int sys_random(void *dst, size_t len)
{
	long got = sys_ret(syscall(SYS_getrandom, dst, len, 0L));

	return got < 0 ? (int)got : (size_t)got == len ? 0 : -EIO;
}
