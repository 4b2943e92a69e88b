/* SPDX-License-Identifier: MIT */
/* The caller's buffer, which may be anywhere, or nowhere. */
#ifndef DMIRROR_CALLER_H
#define DMIRROR_CALLER_H

#include <stddef.h>
#include <stdint.h>

struct dmirror;

/*
 * Copy @len bytes of memory that is never away to the caller's at @to. 0 or -EFAULT; then
 * some may have been copied.
 */
int caller_put(struct dmirror *mirror, uintptr_t to, const void *from, size_t len);

#endif
