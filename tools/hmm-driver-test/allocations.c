/* SPDX-License-Identifier: MIT */
/*
 * This program's malloc and mmap come first in the search order of every library it
 * loads, the driver's too. They do what libc's do, and see who calls from a callback
 * that may not: there the heap may itself be away, and its lock may be held by a
 * thread that waits for this very callback.
 */
#include "kit.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

/* libc's own, which in glibc have names; elsewhere they are the next ones after ours. */
#ifdef __GLIBC__
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t nr, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);
void __libc_free(void *p);
#define LIBC(name)	__libc_##name
#else
#define LIBC(name) ({						\
	static __typeof__(&(name)) found_;			\
								\
	if (!found_)						\
		found_ = (__typeof__(&(name)))dlsym(RTLD_NEXT, #name);	\
	found_;							\
})
#endif

static void check(const char *what)
{
	const char *callback = watch_forbids();

	if (callback)
		broke(D_SAFE, "%s() was called in %s", what, callback);
}

EXPORTED void *malloc(size_t bytes)
{
	check("malloc");
	return LIBC(malloc)(bytes);
}

EXPORTED void *calloc(size_t nr, size_t bytes)
{
	check("calloc");
	return LIBC(calloc)(nr, bytes);
}

EXPORTED void *realloc(void *p, size_t bytes)
{
	check("realloc");
	return LIBC(realloc)(p, bytes);
}

EXPORTED void free(void *p)
{
	if (p)
		check("free");
	LIBC(free)(p);
}

/*
 * Not from <sys/mman.h>, which renames mmap where offsets have 64 bits: callers are
 * compiled either way.
 */
EXPORTED void *mmap(void *addr, size_t len, int prot, int flags, int fd, long offset);
EXPORTED void *mmap64(void *addr, size_t len, int prot, int flags, int fd, long offset);
EXPORTED int munmap(void *addr, size_t len);

void *mmap(void *addr, size_t len, int prot, int flags, int fd, long offset)
{
	check("mmap");
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
}

void *mmap64(void *addr, size_t len, int prot, int flags, int fd, long offset)
{
	check("mmap");
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
}

int munmap(void *addr, size_t len)
{
	check("munmap");
	return (int)syscall(SYS_munmap, addr, len);
}
