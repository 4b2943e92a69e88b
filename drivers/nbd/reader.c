/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "reader.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device.h"

#define ANSWERS		16u	/* taken in at once */
#define SPINS		64u	/* for the rest of an answer: it is on its way */

#define AWAKE_NS	120000u	/* how long for an answer */
#define OUSTED_NS	20000u	/* somebody else has had the CPU */
#define KEEN_MOST	8
#define KEEN_LOSS	4
#define REST_LEAST	32
#define REST_MOST	4096

/* An answer to a request of before is not one to this. */
static uint64_t cookie_of(const struct nbd_asking *a, uint32_t slot)
{
	return (uint64_t)a->nr_of[slot] << 32 | slot;
}

/* Receiving: it stays what it is, unless there is none. */
static int fd_of(struct nbd_asking *a)
{
	int fd;

	pthread_mutex_lock(&a->lock);
	fd = a->fd;
	pthread_mutex_unlock(&a->lock);
	return fd;
}

/* Have the thread drop a lane, if it has not done so. Lock held. */
static void give_up(struct nbd_device *dev, struct nbd_asking *a, int fd)
{
	if (fd >= 0 && a->fd == fd && !a->broken) {
		a->broken = true;
		eventfd_write(dev->reader.wake_fd, 1);
	}
}

/* ---------------------------------------------------------------- answers */

/* Is it an answer to something that was asked? Then that is no more. */
static bool claim(struct nbd_asking *a, uint64_t cookie)
{
	uint32_t slot = (uint32_t)cookie;
	bool ours;

	pthread_mutex_lock(&a->lock);
	ours = slot < LINK_SINGLE && a->asked >> slot & 1 && cookie_of(a, slot) == cookie;
	if (ours)
		a->asked &= ~(1ULL << slot);
	pthread_mutex_unlock(&a->lock);
	return ours;
}

/* Bytes of the first answer in @bytes; 0: it is not all there; negative: drop the lane. */
static ssize_t answer(struct nbd_device *dev, uint32_t server, const char *bytes, size_t have)
{
	struct nbd_asking *a = &dev->reader.asking[server];
	size_t whole = LANE_REPLY;
	enum nbd_lane_says says;
	uint64_t cookie;

	if (have < whole)
		return 0;
	says = nbd_lane_reply(bytes, &cookie);
	if (says == LANE_BYTES)
		whole += dev->channel.page;
	if (says == LANE_NONSENSE)
		return -EPROTO;
	if (have < whole)
		return 0;
	if (!claim(a, cookie))
		return -EPROTO;
	if (!nbd_faults_answer(dev, (uint32_t)cookie, server,
			       says == LANE_BYTES ? bytes + LANE_REPLY : NULL))
		return -EBADMSG;
	return (ssize_t)whole;
}

/* Receiving: false: drop the lane. *@more: it waits for the rest of an answer. */
static bool take_in(struct nbd_device *dev, uint32_t server, bool *more)
{
	struct nbd_asking *a = &dev->reader.asking[server];
	size_t at = 0;
	ssize_t n = recv(fd_of(a), a->bytes + a->have, dev->reader.room - a->have, MSG_DONTWAIT);

	*more = a->have > 0;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n <= 0)
		return false;
	a->have += (size_t)n;
	while ((n = answer(dev, server, a->bytes + at, a->have - at)) > 0)
		at += (size_t)n;
	a->have -= at;
	memmove(a->bytes, a->bytes + at, a->have);
	pthread_mutex_lock(&a->lock);
	a->moved_ms = nbd_now_ms();
	pthread_mutex_unlock(&a->lock);
	*more = a->have > 0;
	return n == 0;
}

/*
 * An answer's first bytes come by themselves: to sleep for the rest is a switch too many.
 * Receiving: false: drop the lane.
 */
static bool receive(struct nbd_device *dev, uint32_t server)
{
	bool more = true, ok = true;

	for (uint32_t i = 0; i < SPINS && more && ok; i++)
		ok = take_in(dev, server, &more);
	return ok;
}

/* ---------------------------------------------------------------- asking */

/* A request on a lane. */
struct query {
	struct nbd_asking *asking;
	uint32_t server, slot;
	uint64_t cookie;
};

static bool ask(struct nbd_device *dev, struct query *q, uint64_t offset)
{
	struct nbd_asking *a = q->asking;
	bool sent = false;

	pthread_mutex_lock(&a->lock);
	if (a->fd >= 0 && !a->broken) {
		if (!a->asked)
			a->moved_ms = nbd_now_ms();
		a->nr_of[q->slot] = a->nr++;
		a->asked |= 1ULL << q->slot;
		q->cookie = cookie_of(a, q->slot);
		sent = nbd_lane_ask(a->fd, q->cookie, offset, dev->channel.page);
		if (!sent) {
			/* Half a request may be on its way. */
			a->asked &= ~(1ULL << q->slot);
			give_up(dev, a, a->fd);
		}
	}
	pthread_mutex_unlock(&a->lock);
	return sent;
}

static bool is_answered(const struct query *q)
{
	struct nbd_asking *a = q->asking;
	bool answered;

	pthread_mutex_lock(&a->lock);
	answered = !(a->asked >> q->slot & 1) || cookie_of(a, q->slot) != q->cookie;
	pthread_mutex_unlock(&a->lock);
	return answered;
}

/* Something is asked for that nobody waits for. The thread goes on until somebody does. */
static void watch(struct nbd_device *dev, struct nbd_asking *a)
{
	bool tell;

	pthread_mutex_lock(&a->lock);
	tell = a->asked && !a->watched;
	a->watched |= tell;
	pthread_mutex_unlock(&a->lock);
	if (tell)
		eventfd_write(dev->reader.wake_fd, 1);
}

/* Is it worth it to wait for the next? Then the thread need not. */
static bool is_keen(struct nbd_asking *a)
{
	bool keen;

	pthread_mutex_lock(&a->lock);
	keen = a->keen >= 0;
	if (keen)
		a->watched = false;
	else
		a->keen++;
	pthread_mutex_unlock(&a->lock);
	return keen;
}

/*
 * It was of use to wait. If not, and that goes on or others want the CPU, it is not done:
 * each time for twice as many pages.
 */
static void learn(struct nbd_asking *a, bool of_use, bool ousted)
{
	pthread_mutex_lock(&a->lock);
	if (!of_use)
		a->keen -= KEEN_LOSS;
	else if (a->keen < KEEN_MOST)
		a->keen++;
	else
		a->rest = REST_LEAST;
	if (!of_use && (a->keen < 0 || ousted)) {
		a->keen = -a->rest;
		a->rest = a->rest * 2 < REST_MOST ? a->rest * 2 : REST_MOST;
	}
	pthread_mutex_unlock(&a->lock);
}

/* Take in what has come; false: somebody else does, or the lane is no good. */
static bool look(struct nbd_device *dev, const struct query *q)
{
	struct nbd_asking *a = q->asking;
	int fd;
	bool ok;

	if (pthread_mutex_trylock(&a->receiving))
		return false;
	fd = fd_of(a);
	ok = receive(dev, q->server);
	if (!ok) {
		pthread_mutex_lock(&a->lock);
		give_up(dev, a, fd);
		pthread_mutex_unlock(&a->lock);
	}
	pthread_mutex_unlock(&a->receiving);
	return ok;
}

/* The CPU to who wants it. false: somebody has kept it. */
static bool yield(uint64_t *now)
{
	const uint64_t before = nbd_now_ns();

	sched_yield();
	*now = nbd_now_ns();
	return *now - before <= OUSTED_NS;
}

/* Until the page is home, or that takes too long. */
static void await(struct nbd_device *dev, const struct query *q)
{
	const uint64_t begun = nbd_now_ns();
	uint64_t now = begun;
	bool mine = true, home;

	while (look(dev, q)) {
		home = is_answered(q);
		/* Who had the CPU may have been the server: then it is home by now. */
		if (home || !mine || now - begun >= AWAKE_NS) {
			learn(q->asking, home && now - begun < AWAKE_NS, !mine);
			return;
		}
		mine = yield(&now);
	}
}

bool nbd_reader_ask(struct nbd_device *dev, uint32_t slot, uint64_t index, bool wait)
{
	const struct nbd_channel *ch = &dev->channel;
	uint64_t chunk = index / ch->chunk_pages;
	uint64_t offset = link_offset_of(chunk, ch->nr_groups, (uint32_t)(index % ch->chunk_pages),
					 ch->page);
	uint32_t mirror = dev->lanes.mirror;

	for (uint32_t i = 0; i < mirror; i++) {
		uint32_t turn = link_turn_of(chunk, ch->nr_groups, mirror, i);
		uint32_t server = link_server_of(chunk, ch->nr_groups, mirror, turn);
		struct query q = {
			.asking = &dev->reader.asking[server], .server = server, .slot = slot,
		};

		if (!ask(dev, &q, offset))
			continue;
		if (wait && is_keen(q.asking))
			await(dev, &q);
		/* What this one, or another that saw it receiving, has asked for and not got. */
		watch(dev, q.asking);
		return true;
	}
	return false;
}

/* ---------------------------------------------------------------- the thread */

bool nbd_reader_add(struct nbd_device *dev, uint32_t server, int fd)
{
	struct nbd_asking *a = &dev->reader.asking[server];
	bool added;

	/* Not `receiving`: its owner may wait for what only this thread can tell it. */
	pthread_mutex_lock(&a->lock);
	added = a->fd < 0;
	if (added)
		a->fd = fd;
	pthread_mutex_unlock(&a->lock);
	if (added)
		eventfd_write(dev->reader.wake_fd, 1);
	return added;
}

/* Close the lane, and let the link read what it has not brought. */
static void drop(struct nbd_device *dev, uint32_t server)
{
	struct nbd_asking *a = &dev->reader.asking[server];
	uint64_t asked;

	pthread_mutex_lock(&a->receiving);
	pthread_mutex_lock(&a->lock);
	close(a->fd);
	a->fd = -1;
	a->broken = a->watched = false;
	asked = a->asked;
	a->asked = 0;
	pthread_mutex_unlock(&a->lock);
	a->have = 0;
	pthread_mutex_unlock(&a->receiving);
	nbd_channel_lane_lost(&dev->channel, server);
	for (; asked; asked &= asked - 1)
		nbd_faults_answer(dev, (uint32_t)__builtin_ctzll(asked), server, NULL);
}

/* Has an answer not come for so long that the link needs what is left? Lock held. */
static bool is_kept_back(const struct nbd_device *dev, const struct nbd_asking *a, uint64_t now)
{
	for (uint64_t asked = a->asked; asked; asked &= asked - 1)
		if (now - dev->faults.fault[__builtin_ctzll(asked)].asked_ms >=
		    dev->lanes.timeout_ms / 2)
			return true;
	return false;
}

/* Broken, or nothing has come for too long, or not what somebody waits for. */
static bool is_over(const struct nbd_device *dev, struct nbd_asking *a)
{
	uint64_t now;
	bool over;

	pthread_mutex_lock(&a->lock);
	now = nbd_now_ms();	/* later than what is compared with it */
	over = a->broken ||
	       (a->fd >= 0 && a->asked && now - a->moved_ms >= dev->lanes.stall_ms) ||
	       is_kept_back(dev, a, now);
	pthread_mutex_unlock(&a->lock);
	return over;
}

static void take_all(struct nbd_device *dev, uint32_t server)
{
	struct nbd_asking *a = &dev->reader.asking[server];
	bool ok;

	pthread_mutex_lock(&a->receiving);
	ok = receive(dev, server);
	pthread_mutex_unlock(&a->receiving);
	if (!ok)
		drop(dev, server);
}

/* Of a lane that is not watched its end alone: answers there are somebody else's to take. */
static uint32_t poll_fill(struct nbd_reader *r, uint32_t nr_servers, struct pollfd *fds)
{
	fds[0] = (struct pollfd){ .fd = r->wake_fd, .events = POLLIN };
	for (uint32_t s = 0; s < nr_servers; s++) {
		struct nbd_asking *a = &r->asking[s];

		pthread_mutex_lock(&a->lock);
		fds[1 + s] = (struct pollfd){
			.fd = a->fd, .events = a->watched ? POLLIN : POLLRDHUP,
		};
		pthread_mutex_unlock(&a->lock);
	}
	return 1 + nr_servers;
}

static void *reader_main(void *arg)
{
	struct nbd_device *dev = arg;
	struct nbd_reader *r = &dev->reader;
	uint32_t nr = dev->lanes.nr_servers;
	struct pollfd fds[1 + LINK_SERVERS];

	while (!atomic_load(&r->stopping)) {
		for (uint32_t s = 0; s < nr; s++)
			if (is_over(dev, &r->asking[s]))
				drop(dev, s);
		if (poll(fds, poll_fill(r, nr, fds), (int)dev->lanes.stall_ms / 4) <= 0)
			continue;
		if (fds[0].revents) {
			eventfd_t count;

			eventfd_read(r->wake_fd, &count);
		}
		for (uint32_t s = 0; s < nr; s++)
			if (fds[1 + s].revents)
				take_all(dev, s);
	}
	return NULL;
}

/* ---------------------------------------------------------------- its life */

static void asking_free(struct nbd_device *dev)
{
	for (uint32_t s = 0; s < LINK_SERVERS; s++) {
		struct nbd_asking *a = &dev->reader.asking[s];

		if (a->fd >= 0)
			close(a->fd);
		hmm_safe_free(a->bytes, dev->reader.room);
		pthread_mutex_destroy(&a->lock);
		pthread_mutex_destroy(&a->receiving);
	}
}

int nbd_reader_start(struct nbd_device *dev)
{
	struct nbd_reader *r = &dev->reader;
	int ret = 0;

	r->room = ANSWERS * (LANE_REPLY + dev->channel.page);
	for (uint32_t s = 0; s < LINK_SERVERS; s++) {
		pthread_mutex_init(&r->asking[s].receiving, NULL);
		pthread_mutex_init(&r->asking[s].lock, NULL);
		r->asking[s].rest = REST_LEAST;
		r->asking[s].fd = -1;
		if (s >= dev->lanes.nr_servers)
			continue;
		r->asking[s].bytes = hmm_safe_alloc(r->room);
		if (!r->asking[s].bytes)
			ret = -ENOMEM;
	}
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->wake_fd < 0)
		ret = -EMFILE;
	if (!ret)
		ret = hmm_safe_thread_start(reader_main, dev, 0, &r->thread);
	if (!ret)
		return 0;
	if (r->wake_fd >= 0)
		close(r->wake_fd);
	asking_free(dev);
	return ret;
}

void nbd_reader_stop(struct nbd_device *dev)
{
	struct nbd_reader *r = &dev->reader;

	atomic_store(&r->stopping, true);
	eventfd_write(r->wake_fd, 1);
	hmm_safe_thread_join(r->thread);
	close(r->wake_fd);
	asking_free(dev);
}
