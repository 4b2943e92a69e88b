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

#define AWAKE_NS	60000u	/* how long for an answer, since the last */
#define OUSTED_NS	20000u	/* somebody else has had the CPU */
#define STINT_NS	1000000u	/* then it looks for lanes that have stalled */
#define KEEN_MOST	8
#define KEEN_LOSS	4
#define REST_LEAST	32
#define REST_MOST	4096

/* An answer to a request of before is not one to this. */
static uint64_t cookie_of(const struct nbd_asking *a, uint32_t slot)
{
	return (uint64_t)a->nr_of[slot] << 32 | slot;
}

/* ---------------------------------------------------------------- asking */

static bool ask(struct nbd_device *dev, struct nbd_asking *a, uint32_t slot, uint64_t offset)
{
	bool sent = false;

	pthread_mutex_lock(&a->lock);
	if (a->fd >= 0) {
		if (!a->asked)
			a->moved_ms = nbd_now_ms();
		a->nr_of[slot] = a->nr++;
		a->asked |= 1ULL << slot;
		sent = nbd_lane_ask(a->fd, cookie_of(a, slot), offset, dev->channel.page);
		if (!sent) {
			a->asked &= ~(1ULL << slot);
			/* Half a request may be on its way. The thread sees the end. */
			shutdown(a->fd, SHUT_RDWR);
		}
	}
	pthread_mutex_unlock(&a->lock);
	return sent;
}

/* It may go to sleep just now: then the answer wakes it. */
static void rouse(struct nbd_reader *r)
{
	if (atomic_load(&r->sleeps) && atomic_exchange(&r->sleeps, false))
		eventfd_write(r->wake_fd, 1);
}

/* Two in a row: askers on several CPUs do not send it back and forth. */
static void follow(struct nbd_reader *r)
{
	const int cpu = sched_getcpu(), tid = atomic_load_explicit(&r->tid, memory_order_relaxed);
	cpu_set_t set;

	if (cpu < 0 || !tid ||
	    atomic_exchange_explicit(&r->asker, cpu, memory_order_relaxed) != cpu ||
	    atomic_load_explicit(&r->cpu, memory_order_relaxed) == cpu)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (!sched_setaffinity(tid, sizeof(set), &set))
		atomic_store_explicit(&r->cpu, cpu, memory_order_relaxed);
}

bool nbd_reader_ask(struct nbd_device *dev, uint32_t slot, uint64_t index)
{
	const struct nbd_channel *ch = &dev->channel;
	uint64_t chunk = index / ch->chunk_pages;
	uint64_t offset = link_offset_of(chunk, ch->nr_groups, (uint32_t)(index % ch->chunk_pages),
					 ch->page);
	uint32_t mirror = dev->lanes.mirror;

	for (uint32_t i = 0; i < mirror; i++) {
		uint32_t turn = link_turn_of(chunk, ch->nr_groups, mirror, i);
		uint32_t server = link_server_of(chunk, ch->nr_groups, mirror, turn);

		if (ask(dev, &dev->reader.asking[server], slot, offset)) {
			rouse(&dev->reader);
			follow(&dev->reader);
			return true;
		}
	}
	return false;
}

bool nbd_reader_add(struct nbd_device *dev, uint32_t server, int fd)
{
	struct nbd_asking *a = &dev->reader.asking[server];
	bool added;

	pthread_mutex_lock(&a->lock);
	added = a->fd < 0;
	if (added)
		a->fd = fd;
	pthread_mutex_unlock(&a->lock);
	if (added)
		eventfd_write(dev->reader.wake_fd, 1);
	return added;
}

/* ---------------------------------------------------------------- answers */

/* Close the lane, and let the link read what it has not brought. */
static void drop(struct nbd_device *dev, uint32_t server)
{
	struct nbd_asking *a = &dev->reader.asking[server];
	uint64_t asked;

	pthread_mutex_lock(&a->lock);
	close(a->fd);
	a->fd = -1;
	asked = a->asked;
	a->asked = 0;
	pthread_mutex_unlock(&a->lock);
	a->have = 0;
	nbd_channel_lane_lost(&dev->channel, server);
	for (; asked; asked &= asked - 1)
		nbd_faults_answer(dev, (uint32_t)__builtin_ctzll(asked), server, NULL);
}

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

/* false: drop the lane. *@more: it waits for the rest of an answer. */
static bool take_in(struct nbd_device *dev, uint32_t server, bool *more)
{
	struct nbd_asking *a = &dev->reader.asking[server];
	size_t at = 0;
	ssize_t n = recv(a->fd, a->bytes + a->have, dev->reader.room - a->have, MSG_DONTWAIT);

	*more = a->have > 0;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n <= 0)
		return false;
	a->have += (size_t)n;
	while ((n = answer(dev, server, a->bytes + at, a->have - at)) > 0) {
		at += (size_t)n;
		a->answers++;
	}
	a->have -= at;
	memmove(a->bytes, a->bytes + at, a->have);
	pthread_mutex_lock(&a->lock);
	a->moved_ms = nbd_now_ms();
	pthread_mutex_unlock(&a->lock);
	*more = a->have > 0;
	return n == 0;
}

/* An answer's first bytes come by themselves: to sleep for the rest is a switch too many. */
static bool receive(struct nbd_device *dev, uint32_t server)
{
	bool more = true, ok = true;

	for (uint32_t i = 0; i < SPINS && more && ok; i++)
		ok = take_in(dev, server, &more);
	return ok;
}

static bool stalled(const struct nbd_device *dev, struct nbd_asking *a)
{
	bool late;

	pthread_mutex_lock(&a->lock);
	late = a->fd >= 0 && a->asked && nbd_now_ms() - a->moved_ms >= dev->lanes.stall_ms;
	pthread_mutex_unlock(&a->lock);
	return late;
}

static bool is_asked(struct nbd_asking *a)
{
	bool asked;

	pthread_mutex_lock(&a->lock);
	asked = a->asked != 0;
	pthread_mutex_unlock(&a->lock);
	return asked;
}

/* What has come by now; *@came: something has. Is more to come? */
static bool take_all(struct nbd_device *dev, bool *came)
{
	bool more = false;

	*came = false;
	for (uint32_t s = 0; s < dev->lanes.nr_servers; s++) {
		struct nbd_asking *a = &dev->reader.asking[s];
		uint32_t answers = a->answers;

		if (is_asked(a) && !receive(dev, s))
			drop(dev, s);
		*came |= a->answers != answers;
		more |= is_asked(a);
	}
	return more;
}

/* It was of use to be awake. */
static void grow_keen(struct nbd_reader *r)
{
	if (r->keen < KEEN_MOST)
		r->keen++;
	else
		r->rest = REST_LEAST;
}

/* It was of none. @at_once, or when that goes on: sleeps, each time for twice as many answers. */
static void tire(struct nbd_reader *r, bool at_once)
{
	r->keen -= KEEN_LOSS;
	if (r->keen >= 0 && !at_once)
		return;
	r->keen = -r->rest;
	r->rest = r->rest * 2 < REST_MOST ? r->rest * 2 : REST_MOST;
}

/* The CPU to who wants it. false: somebody has kept it. */
static bool yield(uint64_t *now)
{
	const uint64_t before = nbd_now_ns();

	sched_yield();
	*now = nbd_now_ns();
	return *now - before <= OUSTED_NS;
}

/* Until nothing is to come, or that takes too long. */
static void stay_awake(struct nbd_device *dev)
{
	const uint64_t begun = nbd_now_ns();
	uint64_t now = begun, last = begun;
	bool came, any = false, mine = true;

	while (take_all(dev, &came) && now - begun < STINT_NS) {
		any |= came;
		if (came)
			last = now;
		if (!mine || now - last > AWAKE_NS) {
			tire(&dev->reader, !mine);
			return;
		}
		mine = yield(&now);
	}
	if (any || came)
		grow_keen(&dev->reader);
}

static uint32_t poll_fill(struct nbd_reader *r, uint32_t nr_servers, struct pollfd *fds)
{
	fds[0] = (struct pollfd){ .fd = r->wake_fd, .events = POLLIN };
	for (uint32_t s = 0; s < nr_servers; s++) {
		struct nbd_asking *a = &r->asking[s];

		pthread_mutex_lock(&a->lock);
		fds[1 + s] = (struct pollfd){ .fd = a->fd, .events = POLLIN };
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

	atomic_store_explicit(&r->tid, gettid(), memory_order_relaxed);
	while (!atomic_load(&r->stopping)) {
		for (uint32_t s = 0; s < nr; s++)
			if (stalled(dev, &r->asking[s]))
				drop(dev, s);
		if (r->keen >= 0)
			stay_awake(dev);
		else
			r->keen++;
		atomic_store(&r->sleeps, r->keen >= 0);
		/* Whoever asks for something tells the keen, and nobody else. */
		if (poll(fds, poll_fill(r, nr, fds), (int)dev->lanes.stall_ms / 4) <= 0)
			continue;
		atomic_store(&r->sleeps, false);
		if (fds[0].revents) {
			eventfd_t count;

			eventfd_read(r->wake_fd, &count);
		}
		for (uint32_t s = 0; s < nr; s++)
			if (fds[1 + s].revents && !receive(dev, s))
				drop(dev, s);
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
	}
}

int nbd_reader_start(struct nbd_device *dev)
{
	struct nbd_reader *r = &dev->reader;
	int ret = 0;

	r->cpu = r->asker = -1;
	r->rest = REST_LEAST;
	r->room = ANSWERS * (LANE_REPLY + dev->channel.page);
	for (uint32_t s = 0; s < LINK_SERVERS; s++) {
		pthread_mutex_init(&r->asking[s].lock, NULL);
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
