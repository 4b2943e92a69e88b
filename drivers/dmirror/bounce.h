/* SPDX-License-Identifier: MIT */
/*
 * Buffers of requests, out of address space that is reserved when the first device is
 * opened: a program may have made a gap in its address space that it means to map
 * again, and a request that mapped memory could land in it.
 *
 * Memory is used as it is touched. What a request leaves behind beyond the first
 * BOUNCE_KEPT bytes is given back to the kernel.
 */
#ifndef DMIRROR_BOUNCE_H
#define DMIRROR_BOUNCE_H

#include <pthread.h>
#include <stddef.h>

#define BOUNCE_BUFFERS	64u		/* requests at once */
#define BOUNCE_KEPT	(16UL << 20)

struct bounce {
	char *base;			/* immutable, as len */
	size_t len;

	pthread_mutex_t lock;		/* a leaf; all that follows */
	unsigned int nr;
	struct bounce_buffer {
		size_t start, end;
	} buffer[BOUNCE_BUFFERS];	/* in use, by start */
};

int bounce_init(struct bounce *bounce);
void bounce_destroy(struct bounce *bounce);

/* Page aligned, contents undefined; NULL: no room for it. */
void *bounce_get(struct bounce *bounce, size_t bytes);
void bounce_put(struct bounce *bounce, void *buffer);

#endif
