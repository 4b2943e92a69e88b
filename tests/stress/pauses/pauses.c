// SPDX-License-Identifier: MIT
/*
 * A machine of two CPUs seldom runs a program's thread between two system calls of the
 * core's: here the core rests before one in four of them, up to 200 us, with its locks
 * held, and then they do. The linker puts this between (--wrap, see meson.build).
 */
#include <stdatomic.h>
#include <stdint.h>

#include "sys/sys.h"

#define ONE_IN		4
#define LONGEST_US	200

/* Whatever thread it is, also one that serves faults: static data alone. */
static void rest_perhaps(void)
{
	static _Atomic uint64_t calls;
	uint64_t x = atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);

	x *= 0x9e3779b97f4a7c15ULL;
	x ^= x >> 32;
	if (x % ONE_IN == 0)
		sys_rest((unsigned int)(x / ONE_IN % LONGEST_US));
}

#define WRAP(name, parameters, arguments)		\
	int __real_##name parameters;			\
	int __wrap_##name parameters;			\
	int __wrap_##name parameters			\
	{						\
		rest_perhaps();				\
		return __real_##name arguments;		\
	}

WRAP(sys_uffd_register, (int fd, uintptr_t start, size_t len, uint64_t mode),
     (fd, start, len, mode))
WRAP(sys_uffd_unregister, (int fd, uintptr_t start, size_t len), (fd, start, len))
WRAP(sys_uffd_copy, (int fd, uintptr_t dst, const void *src, size_t len, unsigned int flags,
		     size_t *done), (fd, dst, src, len, flags, done))
WRAP(sys_uffd_zeropage, (int fd, uintptr_t dst, size_t len, unsigned int flags, size_t *done),
     (fd, dst, len, flags, done))
WRAP(sys_uffd_move, (int fd, uintptr_t dst, uintptr_t src, size_t len, unsigned int flags,
		     size_t *done), (fd, dst, src, len, flags, done))
WRAP(sys_uffd_read, (int fd, struct uffd_msg *msgs, unsigned int nr), (fd, msgs, nr))
