/* SPDX-License-Identifier: MIT */
/*
 * The other names that glibc has for calls of hooks.c: where offsets have 64 bits (here
 * they always have) and with _FORTIFY_SOURCE a program is compiled to call these.
 */
#undef _FILE_OFFSET_BITS	/* open and open64 are two names here */
#undef _FORTIFY_SOURCE

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hooks.h"

#ifdef __GLIBC__

HOOK int open64(const char *path, int flags, ...)
{
	mode_t mode;

	MODE(flags, mode);
	return open(path, flags, mode);
}

HOOK int openat64(int dirfd, const char *path, int flags, ...)
{
	mode_t mode;

	MODE(flags, mode);
	return openat(dirfd, path, flags, mode);
}

HOOK void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t offset)
{
	return mmap(addr, len, prot, flags, fd, offset);
}

HOOK ssize_t pread64(int fd, void *buf, size_t len, off64_t offset)
{
	return pread(fd, buf, len, offset);
}

/* What _FORTIFY_SOURCE calls where no mode is given: then no flag may ask for one. */
HOOK int __open_2(const char *path, int flags);
HOOK int __open64_2(const char *path, int flags);
HOOK int __openat_2(int dirfd, const char *path, int flags);
HOOK int __openat64_2(int dirfd, const char *path, int flags);

static void check_fortified(int flags)
{
	if (flags & O_CREAT || (flags & TMPFILE) == TMPFILE)
		abort();
}

int __open_2(const char *path, int flags)
{
	check_fortified(flags);
	return open(path, flags);
}

int __open64_2(const char *path, int flags)
{
	return __open_2(path, flags);
}

int __openat_2(int dirfd, const char *path, int flags)
{
	check_fortified(flags);
	return openat(dirfd, path, flags);
}

int __openat64_2(int dirfd, const char *path, int flags)
{
	return __openat_2(dirfd, path, flags);
}

HOOK ssize_t __read_chk(int fd, void *buf, size_t len, size_t room);
HOOK ssize_t __pread_chk(int fd, void *buf, size_t len, off_t offset, size_t room);
HOOK ssize_t __pread64_chk(int fd, void *buf, size_t len, off64_t offset, size_t room);

ssize_t __read_chk(int fd, void *buf, size_t len, size_t room)
{
	if (len > room)
		abort();
	return read(fd, buf, len);
}

ssize_t __pread_chk(int fd, void *buf, size_t len, off_t offset, size_t room)
{
	if (len > room)
		abort();
	return pread(fd, buf, len, offset);
}

ssize_t __pread64_chk(int fd, void *buf, size_t len, off64_t offset, size_t room)
{
	return __pread_chk(fd, buf, len, offset, room);
}

#endif
