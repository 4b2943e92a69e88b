// SPDX-License-Identifier: MIT
/*
 * userfaultfd: one function per ioctl.
 */
#include <fcntl.h>
#include <sys/ioctl.h>

#include "sys/internal.h"
#include "sys/sys.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY	1
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW	_IO(0xAA, 0x00)
#endif

#define OPEN_FLAGS	(O_CLOEXEC | O_NONBLOCK)

/* The device file asks for permission on the file alone, not for a capability. */
static int open_device(void)
{
	int dev, fd;

	dev = sys_ret(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
	if (dev < 0)
		return dev;
	fd = sys_ret(ioctl(dev, USERFAULTFD_IOC_NEW, OPEN_FLAGS));
	close(dev);
	return fd;
}

static int open_full(void)
{
	int fd, dev;

	fd = (int)sys_ret(syscall(SYS_userfaultfd, OPEN_FLAGS));
	if (fd >= 0)
		return fd;
	dev = open_device();
	if (dev >= 0)
		return dev;
	/* Who is let in and has no descriptor left is not forbidden it. */
	if (dev == -EMFILE || dev == -ENFILE || dev == -ENOMEM)
		return dev;
	return fd == -ENOSYS ? -EOPNOTSUPP : fd;
}

/* Kernels before 5.11 do not know the flag, and there open_full() needed no privilege. */
static int open_user_only(void)
{
	int fd = (int)sys_ret(syscall(SYS_userfaultfd, OPEN_FLAGS | UFFD_USER_MODE_ONLY));

	return fd == -EINVAL ? -EPERM : fd == -ENOSYS ? -EOPNOTSUPP : fd;
}

static int shake_hands(int fd, uint64_t features, uint64_t *have)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int ret;

	if (fd < 0)
		return fd;
	ret = (int)sys_ret(ioctl(fd, UFFDIO_API, &api));
	if (ret < 0) {
		close(fd);
		return ret;
	}
	if (have)
		*have = api.features;
	return fd;
}

int sys_uffd_open_any(uint64_t features, bool user_only, uint64_t *have)
{
	int fd = open_full();

	if (fd < 0 && fd != -EOPNOTSUPP && user_only)
		fd = open_user_only();
	return shake_hands(fd, features, have);
}

int sys_uffd_open(uint64_t features, bool user_only, uint64_t *have)
{
	if (!sys_cap(CAP_UFFD))
		return -EOPNOTSUPP;
	/* Masked: behave as where it is missing, system calls' faults included. */
	if (!sys_cap(CAP_UFFD_KERNEL))
		return user_only ? shake_hands(open_user_only(), features, have) : -EPERM;
	return sys_uffd_open_any(features, user_only, have);
}

int sys_uffd_register(int fd, uintptr_t start, size_t len, uint64_t mode)
{
	struct uffdio_register reg = { .range = { start, len } };

	if (mode & SYS_UFFD_MISSING)
		reg.mode |= UFFDIO_REGISTER_MODE_MISSING;
	if (mode & SYS_UFFD_WP)
		reg.mode |= UFFDIO_REGISTER_MODE_WP;
	if (mode & SYS_UFFD_RWP)
		reg.mode |= UHMM_UFFDIO_REGISTER_MODE_RWP;
	return sys_ret(ioctl(fd, UFFDIO_REGISTER, &reg));
}

/*
 * Older kernels let go of a mapping for whoever asks, also one that the program watches
 * by a userfaultfd of its own, which would then see zeros. What another has cannot be
 * registered, and what is ours, or nobody's, can be once more.
 */
int sys_uffd_unregister(int fd, uintptr_t start, size_t len)
{
	struct uffdio_range range = { start, len };

	if (!sys_cap(CAP_UFFD_OWNERS) &&
	    sys_uffd_register(fd, start, len, SYS_UFFD_MISSING) == -EBUSY)
		return -EBUSY;
	return sys_ret(ioctl(fd, UFFDIO_UNREGISTER, &range));
}

int sys_uffd_wake(int fd, uintptr_t start, size_t len)
{
	struct uffdio_range range = { start, len };

	return sys_ret(ioctl(fd, UFFDIO_WAKE, &range));
}

/* The kernel asks that of itself before it looks at what is to be filled: here, nothing. */
bool sys_uffd_changing(int fd)
{
	struct uffdio_copy nothing = { .len = 0 };

	return sys_ret(ioctl(fd, UFFDIO_COPY, &nothing)) == -EAGAIN;
}

/*
 * From 6.8 on a fill asks whether a change is under way, looks the mapping up, and asks once
 * more: one that began in between has taken the mapping away, and ENOENT comes before the
 * second answer. Until its event has been read that mapping may well be elsewhere.
 */
static int settled(int fd, int ret)
{
	return ret == -ENOENT && sys_uffd_changing(fd) ? -EAGAIN : ret;
}

/*
 * What a fill call did: @count is the field in which the kernel leaves the bytes done
 * or a negative errno. It stays 0, as we set it, where the kernel gives up early.
 */
static int fill_result(int fd, int ret, int64_t count, size_t *done)
{
	*done = count > 0 ? (size_t)count : 0;
	return settled(fd, ret);
}

int sys_uffd_copy(int fd, uintptr_t dst, const void *src, size_t len, unsigned int flags,
		  size_t *done)
{
	struct uffdio_copy copy = { .dst = dst, .src = (uintptr_t)src, .len = len };
	int ret;

	if (flags & SYS_UFFD_DONTWAKE)
		copy.mode = UFFDIO_COPY_MODE_DONTWAKE;
	ret = sys_ret(ioctl(fd, UFFDIO_COPY, &copy));
	return fill_result(fd, ret, copy.copy, done);
}

int sys_uffd_zeropage(int fd, uintptr_t dst, size_t len, unsigned int flags, size_t *done)
{
	struct uffdio_zeropage zero = { .range = { dst, len } };
	int ret;

	if (flags & SYS_UFFD_DONTWAKE)
		zero.mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE;
	ret = sys_ret(ioctl(fd, UFFDIO_ZEROPAGE, &zero));
	return fill_result(fd, ret, zero.zeropage, done);
}

int sys_uffd_move(int fd, uintptr_t dst, uintptr_t src, size_t len, unsigned int flags,
		  size_t *done)
{
	struct uhmm_uffdio_move move = { .dst = dst, .src = src, .len = len };
	int ret;

	if (flags & SYS_UFFD_DONTWAKE)
		move.mode |= UHMM_UFFDIO_MOVE_MODE_DONTWAKE;
	if (flags & SYS_UFFD_HOLES)
		move.mode |= UHMM_UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES;
	ret = sys_ret(ioctl(fd, UHMM_UFFDIO_MOVE, &move));
	return fill_result(fd, ret, move.move, done);
}

int sys_uffd_poison(int fd, uintptr_t start, size_t len)
{
	struct uhmm_uffdio_poison poison = { .range = { start, len } };

	return settled(fd, sys_ret(ioctl(fd, UHMM_UFFDIO_POISON, &poison)));
}

int sys_uffd_writeprotect(int fd, uintptr_t start, size_t len, bool protect)
{
	struct uffdio_writeprotect wp = { .range = { start, len } };

	if (protect)
		wp.mode = UFFDIO_WRITEPROTECT_MODE_WP;
	return sys_ret(ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
}

int sys_uffd_rwprotect(int fd, uintptr_t start, size_t len, bool protect)
{
	struct uhmm_uffdio_rwprotect rwp = { .range = { start, len } };

	if (protect)
		rwp.mode = UHMM_UFFDIO_RWPROTECT_MODE_RWP;
	return sys_ret(ioctl(fd, UHMM_UFFDIO_RWPROTECT, &rwp));
}

int sys_uffd_read(int fd, struct uffd_msg *msgs, unsigned int nr)
{
	long ret;

	do {
		ret = sys_ret(read(fd, msgs, nr * sizeof(*msgs)));
	} while (ret == -EINTR);
	if (ret == -EAGAIN)
		return 0;
	return ret < 0 ? (int)ret : (int)((size_t)ret / sizeof(*msgs));
}
