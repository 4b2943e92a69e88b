/* SPDX-License-Identifier: MIT */
#include "bounce.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <uhmm/driver.h>

#define LARGEST		(4UL << 30)
#define SMALLEST	(64UL << 20)

int bounce_init(struct bounce *b)
{
	b->len = LARGEST;
	while (!(b->base = hmm_safe_alloc(b->len))) {
		b->len /= 4;
		if (b->len < SMALLEST)
			return -ENOMEM;
	}
	pthread_mutex_init(&b->lock, NULL);
	b->nr = 0;
	return 0;
}

void bounce_destroy(struct bounce *b)
{
	pthread_mutex_destroy(&b->lock);
	hmm_safe_free(b->base, b->len);
}

void *bounce_get(struct bounce *b, size_t bytes)
{
	size_t page = hmm_page_size(), start = 0;
	void *found = NULL;
	unsigned int i;

	if (bytes > b->len)
		return NULL;
	bytes = (bytes + page - 1) & ~(page - 1);
	pthread_mutex_lock(&b->lock);
	for (i = 0; i < b->nr; i++) {
		if (b->buffer[i].start - start >= bytes)
			break;
		start = b->buffer[i].end;
	}
	if (b->nr < BOUNCE_BUFFERS && b->len - start >= bytes) {
		memmove(&b->buffer[i + 1], &b->buffer[i], (b->nr - i) * sizeof(b->buffer[0]));
		b->buffer[i] = (struct bounce_buffer){ start, start + bytes };
		b->nr++;
		found = b->base + start;
	}
	pthread_mutex_unlock(&b->lock);
	return found;
}

void bounce_put(struct bounce *b, void *buffer)
{
	size_t start = (size_t)((char *)buffer - b->base), end, kept;
	unsigned int i;

	if (!buffer)
		return;
	pthread_mutex_lock(&b->lock);
	for (i = 0; b->buffer[i].start != start; i++)
		;
	end = b->buffer[i].end;
	pthread_mutex_unlock(&b->lock);
	/* Before it is somebody else's. The core does not watch this memory. */
	kept = start < BOUNCE_KEPT ? BOUNCE_KEPT : start;
	if (end > kept)
		(void)madvise(b->base + kept, end - kept, MADV_DONTNEED);
	pthread_mutex_lock(&b->lock);
	for (i = 0; b->buffer[i].start != start; i++)
		;
	b->nr--;
	memmove(&b->buffer[i], &b->buffer[i + 1], (b->nr - i) * sizeof(b->buffer[0]));
	pthread_mutex_unlock(&b->lock);
}
