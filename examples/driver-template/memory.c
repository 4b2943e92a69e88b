/* SPDX-License-Identifier: MIT */
/*
 * Device memory. Everything here but open and close is a callback that may run on the
 * thread that serves CPU faults: no malloc, no stdio, no mapping of memory, and locks
 * alone that are held for a few instructions.
 */
#define _GNU_SOURCE
#include "template.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define ZEROS_BYTES	(64 * 1024)

static const char zeros[ZEROS_BYTES];

static bool is_used(const struct template_device *dev, uint64_t index)
{
	return dev->used[index / 64] >> (index % 64) & 1;
}

/* ---------------------------------------------------------------- bytes */

/* All of it or an error: a short transfer would be a lost byte. */
static int file_read(int fd, void *buf, size_t len, uint64_t at)
{
	char *p = buf;

	while (len) {
		ssize_t n = pread(fd, p, len, (off_t)at);

		if (n <= 0)
			return -EIO;
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static int file_write(int fd, const void *buf, size_t len, uint64_t at)
{
	const char *p = buf;

	while (len) {
		ssize_t n = pwrite(fd, p, len, (off_t)at);

		if (n <= 0)
			return -EIO;
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static int file_zero(int fd, uint64_t len, uint64_t at)
{
	int ret = 0;

	while (len && !ret) {
		size_t n = len < sizeof(zeros) ? (size_t)len : sizeof(zeros);

		ret = file_write(fd, zeros, n, at);
		at += n;
		len -= n;
	}
	return ret;
}

int memory_read(const struct template_device *dev, uint64_t index, size_t offset, void *buf,
		size_t len)
{
	return file_read(dev->fd, buf, len, index * dev->page_size + offset);
}

int memory_write(const struct template_device *dev, uint64_t index, size_t offset,
		 const void *buf, size_t len)
{
	return file_write(dev->fd, buf, len, index * dev->page_size + offset);
}

/* ---------------------------------------------------------------- operations */

/*
 * Both copies end before they return, so that @copy, the handle of one that does not,
 * is not used. A device with queues would submit @runs, return -EINPROGRESS and
 * call hmm_copy_done(copy, error) from its completion.
 */
static int copy_to_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			  const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct template_device *dev = hmm_devmem_ctx(devmem);
	int ret = 0;

	(void)copy;
	for (size_t i = 0; i < nr_runs && !ret; i++) {
		uint64_t at = runs[i].index * dev->page_size;
		uint64_t len = runs[i].nr_pages * dev->page_size;

		/* No content: the page was a hole, and reads as zeros. */
		ret = runs[i].cpu ? file_write(dev->fd, runs[i].cpu, len, at) :
				    file_zero(dev->fd, len, at);
	}
	return ret;
}

static int copy_from_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			    const struct hmm_copy_run *runs, size_t nr_runs)
{
	struct template_device *dev = hmm_devmem_ctx(devmem);
	int ret = 0;

	(void)copy;
	for (size_t i = 0; i < nr_runs && !ret; i++)
		ret = file_read(dev->fd, runs[i].cpu, runs[i].nr_pages * dev->page_size,
				runs[i].index * dev->page_size);
	return ret;
}

/* Consecutive pages, as many as are free in one piece: the core asks again for more. */
static int64_t page_alloc(struct hmm_devmem *devmem, uint64_t nr, uint64_t *index)
{
	struct template_device *dev = hmm_devmem_ctx(devmem);
	uint64_t first, n = 0;

	pthread_mutex_lock(&dev->pages_lock);
	first = dev->next;
	for (uint64_t seen = 0; seen < dev->nr_pages && is_used(dev, first); seen++)
		first = (first + 1) % dev->nr_pages;
	for (; n < nr && first + n < dev->nr_pages && !is_used(dev, first + n); n++)
		dev->used[(first + n) / 64] |= 1ULL << ((first + n) % 64);
	dev->next = (first + n) % dev->nr_pages;
	pthread_mutex_unlock(&dev->pages_lock);
	if (!n)
		return -ENOSPC;
	*index = first;
	return (int64_t)n;
}

static void page_free(struct hmm_devmem *devmem, uint64_t index, uint64_t nr_pages)
{
	struct template_device *dev = hmm_devmem_ctx(devmem);

	pthread_mutex_lock(&dev->pages_lock);
	for (uint64_t i = index; i < index + nr_pages; i++)
		dev->used[i / 64] &= ~(1ULL << (i % 64));
	pthread_mutex_unlock(&dev->pages_lock);
}

/* A CPU touched one page: its neighbours are likely to be next. */
static int migrate_to_ram(struct hmm_devmem *devmem, const struct hmm_fault *fault)
{
	struct template_device *dev = hmm_devmem_ctx(devmem);
	uintptr_t size = AROUND_PAGES * dev->page_size;
	uintptr_t start = fault->addr & ~(size - 1);
	int64_t ret = hmm_evict(fault->mm, start, start + size);

	return ret < 0 ? (int)ret : 0;
}

const struct hmm_devmem_ops memory_ops = {
	.size = sizeof(memory_ops),
	.copy_to_device = copy_to_device,
	.copy_from_device = copy_from_device,
	.page_free = page_free,
	.page_alloc = page_alloc,
	.migrate_to_ram = migrate_to_ram,
};

/* ---------------------------------------------------------------- life */

static size_t used_bytes(const struct template_device *dev)
{
	return (dev->nr_pages + 63) / 64 * sizeof(*dev->used);
}

/* A file without a name: nobody else opens it, and it goes with its last descriptor. */
int memory_open(struct template_device *dev, const char *folder, uint64_t bytes)
{
	dev->nr_pages = bytes / dev->page_size;
	dev->used = hmm_safe_alloc(used_bytes(dev));
	if (!dev->used)
		return -ENOMEM;
	dev->fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (dev->fd >= 0 && !ftruncate(dev->fd, (off_t)(dev->nr_pages * dev->page_size))) {
		pthread_mutex_init(&dev->pages_lock, NULL);
		return 0;
	}
	if (dev->fd >= 0)
		close(dev->fd);
	hmm_safe_free(dev->used, used_bytes(dev));
	return -EIO;
}

void memory_close(struct template_device *dev)
{
	close(dev->fd);
	pthread_mutex_destroy(&dev->pages_lock);
	hmm_safe_free(dev->used, used_bytes(dev));
}
