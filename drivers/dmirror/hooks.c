/* SPDX-License-Identifier: MIT */
/*
 * The library that `uhmm dmirror` preloads: what a program calls to use a device file,
 * for the four device names and for its own pagemap. Everything else goes to libc as it
 * came, and errno is what libc would have left there.
 */
#undef _FILE_OFFSET_BITS	/* open and open64 are two names here, in glibc */
#undef _FORTIFY_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ioctl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "files.h"
#include "hooks.h"
#include "pagemap.h"

#ifdef __GLIBC__
typedef unsigned long request_t;
#else
typedef int request_t;
#endif

/* libc's own, found when the program starts: later dlsym() could be in somebody's way. */
static struct {
	int (*openat)(int dirfd, const char *path, int flags, ...);
	int (*close)(int fd);
	int (*dup2)(int from, int to);
	int (*dup3)(int from, int to, int flags);
	int (*close_range)(unsigned int first, unsigned int last, int flags);
	int (*ioctl)(int fd, request_t request, ...);
	void *(*mmap)(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
	ssize_t (*read)(int fd, void *buf, size_t len);
	ssize_t (*pread)(int fd, void *buf, size_t len, off_t offset);
} libc;

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

/* Also from hooks that constructors of other libraries call before ours has run. */
static void find_libc(void)
{
	if (libc.pread)
		return;
	libc.openat = (int (*)(int, const char *, int, ...))next("openat");
	libc.close = (int (*)(int))next("close");
	libc.dup2 = (int (*)(int, int))next("dup2");
	libc.dup3 = (int (*)(int, int, int))next("dup3");
	libc.close_range = (int (*)(unsigned int, unsigned int, int))next("close_range");
	libc.ioctl = (int (*)(int, request_t, ...))next("ioctl");
	libc.mmap = (void *(*)(void *, size_t, int, int, int, off_t))next("mmap");
	libc.read = (ssize_t (*)(int, void *, size_t))next("read");
	libc.pread = (ssize_t (*)(int, void *, size_t, off_t))next("pread");
}

__attribute__((constructor)) static void start(void)
{
	find_libc();
}

static int result(int ret)
{
	if (ret >= 0)
		return ret;
	errno = -ret;
	return -1;
}

/* ---------------------------------------------------------------- open */

static int open_any(int dirfd, const char *path, int flags, mode_t mode)
{
	int unit = file_unit(path), fd;

	if (unit >= 0)
		return result(file_open((unsigned int)unit, flags));
	find_libc();
	fd = libc.openat(dirfd, path, flags, mode);
	if (fd >= 0 && !files_inside() && pagemap_is(path))
		pagemap_opened(fd);
	return fd;
}

HOOK int open(const char *path, int flags, ...)
{
	mode_t mode;

	MODE(flags, mode);
	return open_any(AT_FDCWD, path, flags, mode);
}

HOOK int openat(int dirfd, const char *path, int flags, ...)
{
	mode_t mode;

	MODE(flags, mode);
	return open_any(dirfd, path, flags, mode);
}

/* ---------------------------------------------------------------- close */

HOOK int close(int fd)
{
	bool device = file_is_device(fd);
	int ret;

	find_libc();
	pagemap_closed(fd);
	ret = libc.close(fd);
	if (device)
		files_reap();
	return ret;
}

/* What the new number named is closed on the way. */
HOOK int dup2(int from, int to)
{
	bool device = from != to && file_is_device(to);
	int ret;

	find_libc();
	ret = libc.dup2(from, to);
	if (ret >= 0 && from != to)
		pagemap_closed(to);
	if (ret >= 0 && device)
		files_reap();
	return ret;
}

HOOK int dup3(int from, int to, int flags)
{
	bool device = file_is_device(to);
	int ret;

	find_libc();
	ret = libc.dup3(from, to, flags);
	if (ret >= 0)
		pagemap_closed(to);
	if (ret >= 0 && device)
		files_reap();
	return ret;
}

/* Not declared by every libc. */
HOOK int close_range(unsigned int first, unsigned int last, int flags);

int close_range(unsigned int first, unsigned int last, int flags)
{
	int ret;

	find_libc();
	if (!libc.close_range) {	/* before glibc 2.34, and in musl */
		errno = ENOSYS;
		return -1;
	}
	ret = libc.close_range(first, last, flags);
	if (!ret)
		files_reap();
	return ret;
}

/* ---------------------------------------------------------------- ioctl, mmap */

/*
 * What is not of the driver's kind is tried on the file first, so that no other ioctl()
 * of the process costs more: what the kernel does for any descriptor it does for ours.
 */
HOOK int ioctl(int fd, request_t request, ...)
{
	int saved = errno, ret;
	uintptr_t arg;
	va_list ap;

	va_start(ap, request);
	arg = va_arg(ap, uintptr_t);
	va_end(ap);
	find_libc();
	if (_IOC_TYPE(request) != 'H') {
		ret = libc.ioctl(fd, request, arg);
		if (ret != -1 || errno != ENOTTY)
			return ret;
	}
	if (!file_is_device(fd))
		return _IOC_TYPE(request) != 'H' ? -1 : libc.ioctl(fd, request, arg);
	errno = saved;
	return result(file_ioctl(fd, (unsigned int)request, arg));
}

HOOK void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	intptr_t ret;

	if (flags & MAP_ANONYMOUS || !file_is_device(fd)) {
		/* Before libc's is found there is no device either. */
		if (libc.mmap)
			return libc.mmap(addr, len, prot, flags, fd, offset);
		return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
	}
	ret = file_mmap(addr, len, prot, flags);
	if (ret < 0 && ret > -4096) {
		errno = (int)-ret;
		return MAP_FAILED;
	}
	return (void *)ret;
}

/* ---------------------------------------------------------------- pagemap */

HOOK ssize_t read(int fd, void *buf, size_t len)
{
	ssize_t ret;

	find_libc();
	ret = libc.read(fd, buf, len);
	if (ret > 0 && pagemap_has(fd))
		pagemap_complete(fd, buf, ret, lseek(fd, 0, SEEK_CUR) - ret);
	return ret;
}

HOOK ssize_t pread(int fd, void *buf, size_t len, off_t offset)
{
	ssize_t ret;

	find_libc();
	ret = libc.pread(fd, buf, len, offset);
	if (ret > 0 && pagemap_has(fd))
		pagemap_complete(fd, buf, ret, offset);
	return ret;
}
