/* SPDX-License-Identifier: MIT */
/*
 * A driver to copy: its device memory is a file, reached by pread() and pwrite(), and
 * its device is a few accesses made on behalf of the caller. It is complete: take it,
 * put your device in the place of the file, and keep what stays.
 *
 *	memory.c	the device's memory: who has which page, and the copies
 *	mirror.c	the device's translations, their invalidation, its accesses
 *	plugin.c	options, open, close
 *
 * docs/driver-guide.md walks through it.
 */
#ifndef TEMPLATE_H
#define TEMPLATE_H

#include <pthread.h>

#include <uhmm/plugin.h>

#define TRANSLATIONS	1024
#define AROUND_PAGES	16	/* moved together, in either direction */

/* What the device knows of one page of the program. */
struct translation {
	uintptr_t page;		/* 0: nothing */
	uint64_t pfn;		/* as hmm_range_fault() gave it */
};

/*
 * From hmm_safe_alloc(), with all that it points to: callbacks run where CPU faults
 * are served, and may touch nothing that could itself be away.
 */
struct template_device {
	struct hmm_mm *mm;
	struct hmm_devmem *devmem;
	struct hmm_notifier *notifier;
	size_t page_size;
	bool migrates;		/* the device's own accesses bring pages in */

	int fd;			/* the device's memory; page i at i * page_size */
	uint64_t nr_pages;

	pthread_mutex_t pages_lock;	/* inner to every lock of the core: no call under it */
	uint64_t *used;			/* a bit per page */
	uint64_t next;			/* where to look first */

	pthread_mutex_t mirror_lock;	/* the lock that invalidate() takes */
	struct translation translations[TRANSLATIONS];
};

/* memory.c */
int memory_open(struct template_device *dev, const char *folder, uint64_t bytes);
void memory_close(struct template_device *dev);
int memory_read(const struct template_device *dev, uint64_t index, size_t offset, void *buf,
		size_t len);
int memory_write(const struct template_device *dev, uint64_t index, size_t offset,
		 const void *buf, size_t len);
extern const struct hmm_devmem_ops memory_ops;

/* mirror.c */
int mirror_open(struct template_device *dev);
int mirror_close(struct template_device *dev);
int mirror_read(struct template_device *dev, uintptr_t addr, void *buf, size_t len);
int mirror_write(struct template_device *dev, uintptr_t addr, const void *buf, size_t len);

#endif
