/* SPDX-License-Identifier: MIT */
#include "keeper.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "device.h"

#define SETTLE_MS	100	/* pages that are freed and taken again need no trim */
#define LAST_MS		1000	/* for trimming when the device is closed */
#define TRIMS		16u	/* under way at once */

struct trim {
	uint32_t slot;
	uint64_t first, nr;
};

/* Answers count for nothing: what a server does not trim is overwritten one day. */
static void trim_end(struct nbd_device *dev, const struct trim *t)
{
	int ret = nbd_channel_wait(&dev->channel, t->slot);

	(void)ret;
	nbd_channel_put(&dev->channel, t->slot);
	nbd_pages_trim_done(&dev->pages, t->first, t->nr);
}

/* false: nothing is left. */
static bool trim_some(struct nbd_device *dev)
{
	struct nbd_channel *ch = &dev->channel;
	struct trim trim[TRIMS];
	uint32_t n = 0;
	bool more = true;

	while (n < TRIMS && more) {
		struct trim *t = &trim[n];

		t->slot = nbd_channel_get_bulk(ch);
		if (t->slot == NO_SLOT)
			break;
		t->nr = nbd_pages_trim_begin(&dev->pages, ch->chunk_pages, &t->first);
		more = t->nr > 0;
		if (!more) {
			nbd_channel_put(ch, t->slot);
			break;
		}
		nbd_channel_post(ch, t->slot, LINK_TRIM, t->first, (uint32_t)t->nr,
				 (struct nbd_past){ 0 });
		n++;
	}
	for (uint32_t i = 0; i < n; i++)
		trim_end(dev, &trim[i]);
	return more && n;
}

static void trim_all(struct nbd_device *dev, uint64_t until)
{
	while (!atomic_load(&dev->channel.dead) && nbd_now_ms() < until && trim_some(dev))
		;
}

static void say_dead(void)
{
	static const char line[] =
		"uhmm nbd: the process that holds the connections has ended; pages that cannot be "
		"read over one that is left are lost, their readers get SIGBUS\n";

	/* Nobody is there to tell where this fails. */
	if (write(STDERR_FILENO, line, sizeof(line) - 1) < 0)
		return;
}

static void *keeper_main(void *arg)
{
	struct nbd_device *dev = arg;
	struct nbd_keeper *k = &dev->keeper;
	struct pollfd fds[3] = {
		{ .fd = k->wake_fd, .events = POLLIN },
		{ .fd = dev->channel.link_fd, .events = POLLIN },
		{ .fd = dev->channel.lane_fd, .events = POLLIN },
	};

	while (!atomic_load(&k->stopping)) {
		eventfd_t count;

		if (poll(fds, 3, -1) < 0)
			continue;
		if (fds[2].revents)
			nbd_lanes_adopt(dev);
		if (fds[2].revents & POLLHUP)
			fds[2].fd = -1;
		if (fds[1].revents) {
			say_dead();
			nbd_channel_break(&dev->channel);
			fds[1].fd = -1;
		}
		if (!fds[0].revents)
			continue;
		eventfd_read(k->wake_fd, &count);
		/*
		 * Or until stopping, or the link's end; what is freed meanwhile does not wake
		 * us, or each page that a fault brings home would have a trim of its own.
		 */
		poll(fds, 2, SETTLE_MS);
		atomic_store(&k->woken, false);
		trim_all(dev, UINT64_MAX);
	}
	trim_all(dev, nbd_now_ms() + LAST_MS);
	return NULL;
}

void nbd_keeper_wake(struct nbd_device *dev)
{
	if (!atomic_exchange(&dev->keeper.woken, true))
		eventfd_write(dev->keeper.wake_fd, 1);
}

int nbd_keeper_start(struct nbd_device *dev)
{
	struct nbd_keeper *k = &dev->keeper;
	int ret;

	k->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (k->wake_fd < 0)
		return -EMFILE;
	ret = hmm_safe_thread_start(keeper_main, dev, 0, &k->thread);
	if (ret)
		close(k->wake_fd);
	return ret;
}

void nbd_keeper_stop(struct nbd_device *dev)
{
	atomic_store(&dev->keeper.stopping, true);
	eventfd_write(dev->keeper.wake_fd, 1);
	hmm_safe_thread_join(dev->keeper.thread);
	close(dev->keeper.wake_fd);
}
