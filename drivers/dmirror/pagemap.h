/* SPDX-License-Identifier: MIT */
/*
 * /proc/self/pagemap, as the kernel's HMM shows it: a page in device memory, or
 * exclusive to a device, is a swap entry there; here its page table is empty.
 *
 * What the program reads of its own pagemap is completed on the way: by hooks rather
 * than by markers in the page table, which userfaultfd could leave there, because a
 * large page comes back whole only to a place without markers.
 */
#ifndef DMIRROR_PAGEMAP_H
#define DMIRROR_PAGEMAP_H

#include <stdbool.h>
#include <sys/types.h>

/* Is it this process's pagemap? */
bool pagemap_is(const char *path);

/* A descriptor of it was opened, or a descriptor that may be one is closed. */
void pagemap_opened(int fd);
void pagemap_closed(int fd);

/* May the descriptor be one? Cheap. */
bool pagemap_has(int fd);

/* Complete @len bytes read from @offset of it. */
void pagemap_complete(int fd, void *buf, ssize_t len, off_t offset);

#endif
