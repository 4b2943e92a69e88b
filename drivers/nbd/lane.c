/* SPDX-License-Identifier: MIT */
#include "lane.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "device.h"

#define REQUEST_MAGIC	0x25609513u
#define REPLY_MAGIC	0x67446698u
#define READ_COMMAND	0u

struct request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t bytes;
} __attribute__((packed));

struct reply {
	uint32_t magic, error;
	uint64_t cookie;
};

uint64_t nbd_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t nbd_now_ms(void)
{
	return nbd_now_ns() / 1000000;
}

uint32_t nbd_waited_ms(const struct nbd_device *dev, uint64_t since_ms)
{
	uint64_t waited = nbd_now_ms() - since_ms, most = dev->lanes.timeout_ms / 2;

	return (uint32_t)(waited < most ? waited : most);
}

/* ---------------------------------------------------------------- what is said */

bool nbd_lane_ask(int fd, uint64_t cookie, uint64_t offset, size_t bytes)
{
	struct request q = {
		.magic = htobe32(REQUEST_MAGIC), .type = htobe16(READ_COMMAND), .cookie = cookie,
		.offset = htobe64(offset), .bytes = htobe32((uint32_t)bytes),
	};

	return send(fd, &q, sizeof(q), MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(q);
}

bool nbd_lane_get(int fd, void *to, size_t bytes, uint64_t until_ms)
{
	size_t got = 0;

	while (got < bytes) {
		ssize_t n = recv(fd, (char *)to + got, bytes - got, MSG_WAITALL);

		if (n > 0)
			got += (size_t)n;
		else if (n == 0 || (errno != EINTR && errno != EAGAIN))
			return false;
		/* A part: a signal, or the socket's own, shorter patience. */
		if (got < bytes && nbd_now_ms() >= until_ms)
			return false;
	}
	return true;
}

enum nbd_lane_says nbd_lane_reply(const void *bytes, uint64_t *cookie)
{
	struct reply r;

	_Static_assert(sizeof(r) == LANE_REPLY, "as it is sent");
	memcpy(&r, bytes, sizeof(r));
	*cookie = r.cookie;
	if (r.magic != htobe32(REPLY_MAGIC))
		return LANE_NONSENSE;
	return r.error ? LANE_REFUSES : LANE_BYTES;
}

/* ---------------------------------------------------------------- who has which */

void nbd_lanes_init(struct nbd_device *dev, const struct link_config *config)
{
	struct nbd_lanes *lanes = &dev->lanes;

	lanes->nr_servers = config->nr_uris;
	lanes->mirror = config->mirror;
	lanes->timeout_ms = config->timeout_ms;
	/* Shorter than the link's, which has still to ask the others. */
	lanes->stall_ms = link_stall_ms(config->timeout_ms) / 2;
	pthread_mutex_init(&lanes->lock, NULL);
	for (uint32_t s = 0; s < LINK_SERVERS; s++)
		for (uint32_t i = 0; i < LINK_LANES; i++)
			lanes->fd[s][i] = -1;
}

void nbd_lanes_destroy(struct nbd_device *dev)
{
	struct nbd_lanes *lanes = &dev->lanes;

	for (uint32_t s = 0; s < LINK_SERVERS; s++)
		for (uint32_t i = 0; i < LINK_LANES; i++)
			if (lanes->fd[s][i] >= 0)
				close(lanes->fd[s][i]);
	pthread_mutex_destroy(&lanes->lock);
}

/* Readers sleep in recv(), and look at the clock from time to time. */
static bool make_blocking(const struct nbd_lanes *lanes, int fd)
{
	uint64_t us = (uint64_t)lanes->stall_ms * 1000 / 4;
	struct timeval look = { (time_t)(us / 1000000), (suseconds_t)(us % 1000000) };
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && !fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) &&
	       !setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &look, sizeof(look));
}

static bool lanes_add(struct nbd_lanes *lanes, uint32_t server, int fd)
{
	bool added = false;

	if (!make_blocking(lanes, fd))
		return false;
	pthread_mutex_lock(&lanes->lock);
	for (uint32_t i = 0; i < LINK_LANES && !added; i++) {
		added = lanes->fd[server][i] < 0;
		if (added)
			lanes->fd[server][i] = fd;
	}
	pthread_mutex_unlock(&lanes->lock);
	return added;
}

/* A server's first is for pages alone, which wait for no other thread's copy. */
void nbd_lanes_adopt(struct nbd_device *dev)
{
	uint32_t server;
	int fd;

	while ((fd = nbd_channel_lane(&dev->channel, &server)) >= 0)
		if (server >= dev->lanes.nr_servers ||
		    (!nbd_reader_add(dev, server, fd) && !lanes_add(&dev->lanes, server, fd)))
			close(fd);
}

uint32_t nbd_lane_take(struct nbd_device *dev, uint32_t server)
{
	struct nbd_lanes *lanes = &dev->lanes;
	uint32_t lane = NO_LANE;

	pthread_mutex_lock(&lanes->lock);
	for (uint32_t i = 0; i < LINK_LANES && lane == NO_LANE; i++)
		if (lanes->fd[server][i] >= 0 && !(lanes->taken[server] >> i & 1))
			lane = i;
	if (lane != NO_LANE)
		lanes->taken[server] |= 1u << lane;
	pthread_mutex_unlock(&lanes->lock);
	return lane;
}

void nbd_lane_put(struct nbd_device *dev, uint32_t server, uint32_t lane)
{
	struct nbd_lanes *lanes = &dev->lanes;

	pthread_mutex_lock(&lanes->lock);
	lanes->taken[server] &= ~(1u << lane);
	pthread_mutex_unlock(&lanes->lock);
}

void nbd_lane_drop(struct nbd_device *dev, uint32_t server, uint32_t lane)
{
	struct nbd_lanes *lanes = &dev->lanes;

	close(lanes->fd[server][lane]);
	pthread_mutex_lock(&lanes->lock);
	lanes->fd[server][lane] = -1;
	lanes->taken[server] &= ~(1u << lane);
	pthread_mutex_unlock(&lanes->lock);
	nbd_channel_lane_lost(&dev->channel, server);
}
