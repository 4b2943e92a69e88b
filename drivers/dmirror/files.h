/* SPDX-License-Identifier: MIT */
/*
 * Which of the program's descriptors is which device.
 *
 * A device that is opened is a memfd, so that the descriptor has a number that nobody
 * else gets, and is inherited, duplicated, passed on and closed as any other. Whether a
 * descriptor is a device is told by the file it names, never by its number, so none of
 * that has to be watched; only that the last descriptor of a file has gone is looked
 * for, in /proc/self/fd, when one is closed.
 */
#ifndef DMIRROR_FILES_H
#define DMIRROR_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hmm_mm;

/* The unit that a path names, or -1: it is no device. */
int file_unit(const char *path);

/* Opens a unit as open() would: a descriptor, or a negative errno. */
int file_open(unsigned int unit, int flags);

/* Is it one of ours? Cheap while no device is open. */
bool file_is_device(int fd);

/* ioctl() of a descriptor that is one. 0 or a negative errno. */
int file_ioctl(int fd, unsigned long request, uintptr_t arg);

/* mmap() of one: the address, or a negative errno. */
intptr_t file_mmap(void *addr, size_t len, int prot, int flags);

/* A descriptor of a device may have gone: close those that have none left. */
void files_reap(void);

/* The library's own calls of libc come through the hooks too: is this one of them? */
bool files_inside(void);

/* The address space that the devices see, which stays until files_mm_put(); or NULL. */
struct hmm_mm *files_mm_get(void);
void files_mm_put(void);

#endif
