/* SPDX-License-Identifier: MIT */
/*
 * Lanes: plain connections that the link has made and handed to us, on which we read
 * pages by ourselves, straight to where they are wanted. That saves both thread switches
 * and the copy that the link costs, where there is neither TLS nor encryption.
 *
 * A lane only reads, and only as long as all is well. An error, silence, an answer to
 * something else, bytes with another checksum: whatever goes wrong on it, the read is made
 * again by the link, which knows of mirrors, has patience, and says what is lost. It
 * need not be told of stale copies or of servers that were away for the same reason.
 *
 * What a server sends is 16 bytes, compared with what they have to be, and as many more
 * as were asked for: no number of its is used.
 */
#ifndef NBD_LANE_H
#define NBD_LANE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "link.h"

#define NO_LANE		UINT32_MAX
#define LANE_REPLY	16u	/* bytes in front of the answer */

struct nbd_device;

enum nbd_lane_says {
	LANE_BYTES,		/* as many as were asked for follow */
	LANE_REFUSES,		/* nothing follows */
	LANE_NONSENSE,
};

/* Those for many pages: a thread has one for as long as its copy takes. */
struct nbd_lanes {
	uint32_t nr_servers, mirror, stall_ms, timeout_ms;
	pthread_mutex_t lock;	/* a leaf: */
	int fd[LINK_SERVERS][LINK_LANES];	/* -1: there is none */
	uint32_t taken[LINK_SERVERS];		/* bits */
};

void nbd_lanes_init(struct nbd_device *dev, const struct link_config *config);
void nbd_lanes_destroy(struct nbd_device *dev);

/* What the link has made since the last time. */
void nbd_lanes_adopt(struct nbd_device *dev);

/* Of a lane that one has taken. */
static inline int nbd_lane_fd_of(const struct nbd_lanes *lanes, uint32_t server, uint32_t lane)
{
	return lanes->fd[server][lane];
}

/* One of @server, or NO_LANE. Nothing is under way on it, then and when it is put back. */
uint32_t nbd_lane_take(struct nbd_device *dev, uint32_t server);
void nbd_lane_put(struct nbd_device *dev, uint32_t server, uint32_t lane);
/* It is of no use any more. */
void nbd_lane_drop(struct nbd_device *dev, uint32_t server, uint32_t lane);

/* Ask for @bytes. false: not all of the request could be sent; drop the lane. */
bool nbd_lane_ask(int fd, uint64_t cookie, uint64_t offset, size_t bytes);
/* The whole of it; false: the lane ended, or time is up. */
bool nbd_lane_get(int fd, void *to, size_t bytes, uint64_t until_ms);
enum nbd_lane_says nbd_lane_reply(const void *reply, uint64_t *cookie);

uint64_t nbd_now_ns(void);
uint64_t nbd_now_ms(void);

/*
 * What the link is told of how long a read has been wanted: half of the timeout at most. A
 * program that was stopped for an hour has not waited for its server.
 */
uint32_t nbd_waited_ms(const struct nbd_device *dev, uint64_t since_ms);

#endif
