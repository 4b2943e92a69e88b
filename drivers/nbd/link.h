/* SPDX-License-Identifier: MIT */
/*
 * What the driver (in the program) and its link (a process of its own that holds the
 * connections) share: one memory, mapped by both.
 *
 * A request is a slot. The driver fills it, posts its number to the ring of the worker
 * that its chunk belongs to, and has it back when its state is LINK_DONE:
 *
 *	driver		FREE -> (owned) -> POSTED	release, then the ring's tail
 *	link		POSTED -> DONE			release: bytes, error, served
 *	driver		DONE -> FREE
 *
 * A slot's buffer goes with it: the link touches it only while the slot is POSTED. The
 * slots below LINK_SINGLE have one page, the others a chunk. No request crosses a chunk,
 * and all of a chunk go to one worker, in which they are ordered by one thread.
 *
 * Neither side trusts a number in here to be in bounds: a stray store of the program
 * must not make the link write elsewhere, nor the other way round.
 *
 * Lanes: connections that the link has made and the driver reads from by itself. Each is
 * sent over LINK_FD_LANES, as a struct link_lane with the descriptor; where one was of no
 * more use, the driver counts it in lanes_lost and has another in a while.
 */
#ifndef NBD_LINK_H
#define NBD_LINK_H

#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LINK_MAGIC		0x316b6e696c64626eULL
#define LINK_CHUNK_BYTES	(256UL << 10)	/* of one stripe, and most of one request */
#define LINK_SINGLE		64u
#define LINK_BULK		64u
#define LINK_SLOTS		(LINK_SINGLE + LINK_BULK)
#define LINK_RING		256u		/* a power of two, more than there are slots */
#define LINK_WORKERS		4u
#define LINK_SERVERS		8u
#define LINK_CONNECTIONS	16u		/* most to one server */
#define LINK_LANES		4u		/* most of them that are lanes */
#define LINK_STALL_MS		5000u		/* most that a server may be silent when asked */
#define LINK_TEXT		512u

/* Descriptors that the link is started with; one event of LINK_FD_WAKE per worker. */
#define LINK_FD_MEMORY		3
#define LINK_FD_PROGRAM		4		/* pidfd: the link ends with its program */
#define LINK_FD_WAKE		5
#define LINK_FD_LANES		(LINK_FD_WAKE + (int)LINK_WORKERS)

enum link_op {
	LINK_READ,
	LINK_WRITE,
	LINK_TRIM,		/* the bytes are wanted no more; no buffer */
};

enum link_state {
	LINK_FREE,
	LINK_POSTED,
	LINK_DONE,
};

struct link_slot {
	_Atomic uint32_t state;		/* futex while somebody waits */
	_Atomic uint32_t waiters;
	uint32_t op;
	uint32_t nr;			/* pages */
	uint64_t index;			/* first page of the device */
	uint32_t avoid;			/* READ: servers (bits) whose copy was wrong */
	uint32_t shun;			/* READ: servers (bits) to ask after the others */
	uint32_t waited_ms;		/* READ: for how long it has been wanted */
	uint32_t served;		/* out: the server that it came from */
	int32_t error;			/* out: negative errno */
	uint32_t pad[3];
};

struct link_ring {
	_Atomic uint32_t tail;		/* the driver's; release publishes entry[] */
	_Atomic uint32_t head;		/* the worker's */
	_Atomic uint32_t sleeping;	/* the worker waits for its event */
	uint32_t pad[13];
	uint16_t entry[LINK_RING];
};

/* The driver's, complete before the link is started. */
struct link_config {
	uint64_t max_bytes;		/* 0: as much as the exports hold */
	uint32_t page_bytes;
	uint32_t nr_uris;
	uint32_t mirror;		/* copies of each page: 1 or 2 */
	uint32_t connections;		/* to each server; 0: the link chooses */
	uint32_t timeout_ms;
	uint32_t seal;			/* encrypt pages */
	char uri[LINK_SERVERS][LINK_TEXT];
	char tls_certs[LINK_TEXT], tls_psk[LINK_TEXT];
};

/* What a lane's descriptor is sent with. */
struct link_lane {
	uint32_t server;
};

enum link_phase {
	LINK_STARTING,
	LINK_READY,
	LINK_FAILED,		/* error and said[] tell why; the link has ended */
};

struct link_memory {
	uint64_t magic;
	struct link_config config;

	/* The link's, up to READY; then fixed. */
	_Atomic uint32_t phase;		/* futex; release publishes the rest */
	int32_t error;
	char said[160];
	int32_t pid;
	uint32_t nr_workers, nr_groups;
	uint64_t nr_pages;

	_Atomic uint32_t closing;	/* the driver's: end now */
	_Atomic uint32_t completions;	/* futex: single slots that were done */
	_Atomic uint32_t lanes_lost[LINK_SERVERS];	/* since the link last looked */
	struct link_ring ring[LINK_WORKERS];
	struct link_slot slot[LINK_SLOTS];
};

/* Shared between processes, so without FUTEX_PRIVATE_FLAG. */
static inline void link_futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static inline void link_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint32_t ms)
{
	struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	syscall(SYS_futex, word, FUTEX_WAIT, seen, &ts, NULL, 0);
}

static inline size_t link_round(size_t bytes)
{
	return (bytes + LINK_CHUNK_BYTES - 1) & ~(LINK_CHUNK_BYTES - 1);
}

static inline size_t link_memory_bytes(size_t page)
{
	return link_round(sizeof(struct link_memory)) + link_round(LINK_SINGLE * page) +
	       LINK_BULK * LINK_CHUNK_BYTES;
}

static inline char *link_buffer(struct link_memory *mem, uint32_t slot, size_t page)
{
	char *base = (char *)mem + link_round(sizeof(*mem));

	if (slot < LINK_SINGLE)
		return base + slot * page;
	return base + link_round(LINK_SINGLE * page) + (slot - LINK_SINGLE) * LINK_CHUNK_BYTES;
}

/* Pages of one slot's buffer. */
static inline uint32_t link_room(uint32_t slot, size_t page)
{
	return slot < LINK_SINGLE ? 1 : (uint32_t)(LINK_CHUNK_BYTES / page);
}

/* The server that has copy @replica of a chunk, and where in its export a page of it lies. */
static inline uint32_t link_server_of(uint64_t chunk, uint32_t nr_groups, uint32_t mirror,
				      uint32_t replica)
{
	return (uint32_t)(chunk % nr_groups) * mirror + replica;
}

static inline uint64_t link_offset_of(uint64_t chunk, uint32_t nr_groups, uint32_t within,
				      size_t page)
{
	return chunk / nr_groups * LINK_CHUNK_BYTES + within * page;
}

/* Copies take turns in being read. */
static inline uint32_t link_turn_of(uint64_t chunk, uint32_t nr_groups, uint32_t mirror,
				    uint32_t try)
{
	return (uint32_t)(chunk / nr_groups + try) % mirror;
}

static inline uint32_t link_stall_ms(uint32_t timeout_ms)
{
	return timeout_ms / 4 < LINK_STALL_MS ? timeout_ms / 4 : LINK_STALL_MS;
}

static inline uint32_t link_worker_of(uint64_t chunk, uint32_t nr_groups, uint32_t nr_workers)
{
	return (uint32_t)(chunk / nr_groups % nr_workers);
}

#endif
