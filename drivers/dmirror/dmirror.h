/* SPDX-License-Identifier: MIT */
/*
 * The dmirror driver: Linux's HMM test device, in a process of its own.
 *
 *	hooks.c			the program's open, close, ioctl, mmap ...
 *	  files.c		which descriptor is which mirror; fork
 *	    command.c		one request: its checks, its work
 *	      access.c		READ, WRITE		migrate.c	TO_DEV, TO_SYS
 *	      snapshot.c	SNAPSHOT		exclusive.c	EXCLUSIVE, CHECK_
 *	        mirror.c	an open file: page table, lock, invalidation
 *	        device.c	a device's memory	frames.c	its pages
 *	process.c		the mm, the four devices, the bounce buffers
 *	pagemap.c		device pages look swapped, as with the kernel's HMM
 *
 * Locks, in the order they are taken:
 *
 *	process->lock		opens, closes; held over calls of libuhmm
 *	mirror->lock		its page table; taken by invalidate()
 *	frames->lock, bounce->lock	leaves
 *
 * A request holds none of them while it faults, copies from or to the program, or
 * waits: the program's own userfaultfd handler may be what it waits for, and may
 * itself make a request.
 */
#ifndef DMIRROR_H
#define DMIRROR_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <uhmm/driver.h>

#include "bounce.h"
#include "frames.h"
#include "protocol.h"
#include "table.h"

/* A request of this many bytes is large: nothing of its start is cached at its end. */
#define LARGE_BYTES	(8UL << 20)

/* Pages looked at, faulted or copied in one step. */
#define PIECE_PAGES	64u

/* The kernel's driver gives up on collisions after a second. */
#define PATIENCE_MS	1000u

struct dmirror_process;

struct dmirror_device {
	struct dmirror_process *process;
	struct hmm_devmem *devmem;	/* immutable, as the next two */
	uint32_t id;			/* hmm_devmem_id() */
	bool coherent;
	_Atomic bool fail_large;	/* FLAGS: the next large allocation fails */
	_Atomic uint32_t large_requests;	/* under way: more than caches hold */
	struct frames frames;
};

enum device_kind {
	KIND_NONE,
	KIND_PRIVATE,
	KIND_COHERENT,
};

/* What a process has one of while a device is open. Zeros in a forked child. */
struct dmirror_process {
	struct hmm_mm *mm;
	size_t page_size;
	struct bounce bounce;
	_Atomic uint8_t kind[256];	/* enum device_kind, by hmm_devmem_id() */
	struct dmirror_device *device[DMIRROR_UNITS];	/* files.c's lock, as opens */
	uint32_t opens[DMIRROR_UNITS];
};

/*
 * A request for exclusive pages, while the core takes them: which of them have been
 * lost again before the page table could say so.
 */
struct exclusive_watch {
	uintptr_t start, end;
	uint64_t lost[FRAMES_BLOCK / 64];
	struct exclusive_watch *next;
};

/* An open file: one device's view of the address space of who opened it. */
struct dmirror {
	struct dmirror_process *process;	/* immutable, as the next two */
	struct dmirror_device *device;
	struct hmm_notifier *notifier;

	pthread_mutex_t lock;			/* all that follows */
	struct table table;
	uint64_t erased;			/* times entries were cleared */
	struct exclusive_watch *watches;
};

/* process.c, device.c: serialised by the caller. 0 or a negative errno. */
int dmirror_open(unsigned int unit, struct dmirror **out);
void dmirror_close(struct dmirror *mirror);
void dmirror_forget(void);	/* in a forked child: nothing is open */

/* The address space that the devices see; NULL while none is open. */
struct hmm_mm *dmirror_mm(void);

int device_open(struct dmirror_process *process, unsigned int unit,
		struct dmirror_device **out);
void device_close(struct dmirror_device *device);

/* Past the caches while a large request is under way. */
void device_copy(struct dmirror_device *device, void *to, const void *from, size_t len);

/* Bring everything home that the device has. */
void device_evict(struct dmirror_device *device);

/* All devices are of one owner: each sees where the others' pages are. */
extern const char dmirror_owner[];

/* mirror.c */
int mirror_create(struct dmirror_process *process, struct dmirror_device *device,
		  struct dmirror **out);
void mirror_destroy(struct dmirror *mirror);

/*
 * What the core says of [start, end), in an entry of @pfns for each page, with @want
 * (HMM_PFN_REQ_*) of each. The entries hold until *seq is no longer the notifier's. -EFAULT, -EPERM,
 * -EBUSY after PATIENCE_MS of collisions, -ENOMEM; -EFAULT also beyond user space.
 */
int mirror_look(struct dmirror *mirror, uintptr_t start, uintptr_t end, uint64_t want,
		uint64_t *pfns, uint64_t *seq);

/* Put them into the page table. false: they were out of date, and nothing was. */
bool mirror_fill(struct dmirror *mirror, uintptr_t start, uintptr_t end, const uint64_t *pfns,
		 uint64_t seq);

/* Clear [start, end) of the page table. */
void mirror_erase(struct dmirror *mirror, uintptr_t start, uintptr_t end);

/* Is the page of the entry in this device's memory? */
bool pfn_is_local(const struct dmirror *mirror, uint64_t pfn);
enum device_kind pfn_kind(const struct dmirror *mirror, uint64_t pfn);

/* A request; what it reads or writes besides lies in @bounce or with the caller. */
struct request {
	struct dmirror *mirror;
	uintptr_t start, end;
	struct dmirror_cmd cmd;
};

/* command.c: an ioctl of the program's. 0 or a negative errno. */
int dmirror_command(struct dmirror *mirror, unsigned long request, uintptr_t arg);

/* Each works on [start, end) and fills cpages and faults. 0 or a negative errno. */
int request_read(struct request *request);
int request_write(struct request *request);
int request_migrate_to_dev(struct request *request);
int request_migrate_to_sys(struct request *request);
int request_snapshot(struct request *request);
int request_exclusive(struct request *request);
int request_check_exclusive(struct request *request);

/*
 * access.c: copy [start, end), out of what the page table has, to the caller's buffer.
 * -ENOENT: a page is not in the table.
 */
int request_return(struct request *request);

static inline size_t request_bytes(const struct request *request)
{
	return request->end - request->start;
}

static inline uintptr_t min_addr(uintptr_t a, uintptr_t b)
{
	return a < b ? a : b;
}

#endif
