/* SPDX-License-Identifier: MIT */
#include "channel.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <uhmm/plugin.h>

#define LINK_NAME	"uhmm-nbd-link"
#define LINK_FDS	(3 + LINK_WORKERS)
#define FD_ABOVE	32	/* while descriptors are put in their places */
#define GIVE_UP_MS	1000	/* between looks at whether the link lives */
#define END_MS		3000	/* for the link to end when it is told to */

extern char **environ;

/* ---------------------------------------------------------------- start */

/* Beside the plug-in, wherever that is. */
static bool link_path(char *path, size_t bytes)
{
	Dl_info info;
	const char *slash;

	if (!dladdr(&hmm_plugin, &info) || !info.dli_fname)
		return false;
	slash = strrchr(info.dli_fname, '/');
	return snprintf(path, bytes, "%.*s" LINK_NAME,
			slash ? (int)(slash + 1 - info.dli_fname) : 0, info.dli_fname) < (int)bytes;
}

static int pidfd_of(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

static bool lives(pid_t pid)
{
	int fd = pidfd_of(pid);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static bool link_ended(const struct nbd_channel *ch, int ms)
{
	struct pollfd fd = { .fd = ch->link_fd, .events = POLLIN };

	return poll(&fd, 1, ms) > 0;
}

/* The shared memory, of a size that neither side can change. Its descriptor. */
static int memory_make(struct nbd_channel *ch, const struct link_config *config)
{
	int fd = memfd_create("uhmm-nbd", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -EMFILE;
	ch->bytes = link_memory_bytes(ch->page);
	if (ftruncate(fd, (off_t)ch->bytes) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		close(fd);
		return -ENOMEM;
	}
	ch->mem = mmap(NULL, ch->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ch->mem == MAP_FAILED) {
		ch->mem = NULL;
		close(fd);
		return -ENOMEM;
	}
	/* A forked child must not post in our name. */
	(void)madvise(ch->mem, ch->bytes, MADV_DONTFORK);
	ch->mem->magic = LINK_MAGIC;
	ch->mem->config = *config;
	return fd;
}

/* Descriptors @from[] become LINK_FD_MEMORY and on in the child. */
static int spawn(const char *path, const int *from, unsigned int nr, pid_t *pid)
{
	char *argv[] = { (char *)LINK_NAME, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;
	int ret;

	sigemptyset(&none);
	if (posix_spawn_file_actions_init(&actions))
		return -ENOMEM;
	if (posix_spawnattr_init(&attr)) {
		posix_spawn_file_actions_destroy(&actions);
		return -ENOMEM;
	}
	ret = posix_spawnattr_setsigmask(&attr, &none) |
	      posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK) |
	      posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) |
	      posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	for (unsigned int i = 0; i < nr && !ret; i++)
		ret = posix_spawn_file_actions_adddup2(&actions, from[i], (int)(LINK_FD_MEMORY + i));
	if (!ret)
		ret = posix_spawn(pid, path, &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return -ret;
}

/*
 * Out of the way of the places that they will have. The link's first process leaves its
 * child's id in the shared memory and ends, so that the program has no child.
 */
static int link_spawn(struct nbd_channel *ch, int memory_fd, int lane_fd)
{
	int from[LINK_FDS] = { memory_fd, pidfd_of(getpid()) };
	int high[LINK_FDS], ret = 0;
	char path[PATH_MAX];
	pid_t pid;

	for (uint32_t i = 0; i < LINK_WORKERS; i++)
		from[2 + i] = ch->wake_fd[i];
	from[2 + LINK_WORKERS] = lane_fd;
	for (size_t i = 0; i < LINK_FDS; i++) {
		high[i] = from[i] < 0 ? -1 : fcntl(from[i], F_DUPFD_CLOEXEC, FD_ABOVE);
		if (high[i] < 0)
			ret = -EMFILE;
	}
	if (!ret && !link_path(path, sizeof(path)))
		ret = -ENOENT;
	if (!ret)
		ret = spawn(path, high, LINK_FDS, &pid);
	for (size_t i = 0; i < LINK_FDS; i++)
		if (high[i] >= 0)
			close(high[i]);
	if (from[1] >= 0)
		close(from[1]);
	if (ret)
		return ret;
	/* Where the program ignores or reaps its children, it has ended when this fails. */
	while (waitpid(pid, NULL, 0) < 0 && !ch->mem->pid && lives(pid))
		;
	ch->link_fd = ch->mem->pid ? pidfd_of(ch->mem->pid) : -1;
	return ch->link_fd < 0 ? -ECHILD : 0;
}

/* Until the link is ready or has said why it will not be. */
static int link_settle(struct nbd_channel *ch, char *said, size_t said_bytes)
{
	struct link_memory *mem = ch->mem;
	uint32_t phase;

	for (;;) {
		/* acquire: pairs with the link's settle(); the rest is written */
		phase = atomic_load_explicit(&mem->phase, memory_order_acquire);
		if (phase == LINK_READY)
			break;
		if (phase == LINK_FAILED) {
			snprintf(said, said_bytes, "nbd: %.*s", (int)sizeof(mem->said) - 1,
				 mem->said);
			return mem->error < 0 ? mem->error : -EIO;
		}
		if (link_ended(ch, 0)) {
			snprintf(said, said_bytes, "nbd: %s ended while it started", LINK_NAME);
			return -EIO;
		}
		link_futex_wait(&mem->phase, phase, 100);
	}
	ch->nr_pages = mem->nr_pages;
	ch->nr_groups = mem->nr_groups;
	ch->nr_workers = mem->nr_workers;
	return ch->nr_workers && ch->nr_workers <= LINK_WORKERS && ch->nr_groups ? 0 : -EIO;
}

int nbd_channel_open(struct nbd_channel *ch, const struct link_config *config, char *said,
		     size_t said_bytes)
{
	int fd, lane[2] = { -1, -1 }, ret = 0;

	ch->page = config->page_bytes;
	ch->chunk_pages = (uint32_t)(LINK_CHUNK_BYTES / ch->page);
	ch->link_fd = -1;
	ch->free_single = ch->free_bulk = ~0ULL;
	_Static_assert(LINK_SINGLE == 64 && LINK_BULK == 64, "a word of bits each");
	for (uint32_t i = 0; i < LINK_WORKERS; i++) {
		pthread_mutex_init(&ch->post_lock[i], NULL);
		ch->wake_fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	fd = memory_make(ch, config);
	if (fd < 0)
		ret = fd;
	else if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, lane))
		ret = -EMFILE;
	ch->lane_fd = lane[0];
	if (!ret)
		ret = link_spawn(ch, fd, lane[1]);
	if (fd >= 0)
		close(fd);
	if (lane[1] >= 0)
		close(lane[1]);
	if (ret)
		snprintf(said, said_bytes, "nbd: cannot start %s: %s", LINK_NAME, strerror(-ret));
	else
		ret = link_settle(ch, said, said_bytes);
	if (ret)
		nbd_channel_close(ch);
	return ret;
}

void nbd_channel_close(struct nbd_channel *ch)
{
	if (ch->link_fd >= 0) {
		atomic_store_explicit(&ch->mem->closing, 1, memory_order_release);
		link_futex_wake(&ch->mem->closing);
		if (!link_ended(ch, END_MS))
			syscall(SYS_pidfd_send_signal, ch->link_fd, SIGKILL, NULL, 0);
		close(ch->link_fd);
	}
	if (ch->lane_fd >= 0)
		close(ch->lane_fd);
	for (uint32_t i = 0; i < LINK_WORKERS; i++) {
		if (ch->wake_fd[i] >= 0)
			close(ch->wake_fd[i]);
		pthread_mutex_destroy(&ch->post_lock[i]);
	}
	if (ch->mem)
		munmap(ch->mem, ch->bytes);
	ch->mem = NULL;
}

/* ---------------------------------------------------------------- slots */

static uint32_t take_bit(_Atomic uint64_t *map)
{
	uint64_t free = atomic_load_explicit(map, memory_order_relaxed);

	while (free) {
		uint64_t bit = free & -free;

		/* acquire: pairs with nbd_channel_put(); the last owner is done with it */
		if (atomic_compare_exchange_weak_explicit(map, &free, free & ~bit,
							  memory_order_acquire,
							  memory_order_relaxed))
			return (uint32_t)__builtin_ctzll(bit);
	}
	return NO_SLOT;
}

uint32_t nbd_channel_get_single(struct nbd_channel *ch)
{
	return take_bit(&ch->free_single);
}

uint32_t nbd_channel_get_bulk(struct nbd_channel *ch)
{
	uint32_t bit = take_bit(&ch->free_bulk);

	return bit == NO_SLOT ? NO_SLOT : LINK_SINGLE + bit;
}

uint32_t nbd_channel_wait_bulk(struct nbd_channel *ch)
{
	uint32_t slot, seen;

	for (;;) {
		seen = atomic_load(&ch->freed);
		slot = nbd_channel_get_bulk(ch);
		if (slot != NO_SLOT)
			return slot;
		atomic_fetch_add(&ch->freed_waiters, 1);
		link_futex_wait(&ch->freed, seen, GIVE_UP_MS);
		atomic_fetch_sub(&ch->freed_waiters, 1);
	}
}

void nbd_channel_put(struct nbd_channel *ch, uint32_t slot)
{
	atomic_store_explicit(&ch->mem->slot[slot].state, LINK_FREE, memory_order_relaxed);
	if (slot < LINK_SINGLE) {
		atomic_fetch_or_explicit(&ch->free_single, 1ULL << slot, memory_order_release);
		return;
	}
	atomic_fetch_or(&ch->free_bulk, 1ULL << (slot - LINK_SINGLE));
	atomic_fetch_add(&ch->freed, 1);
	if (atomic_load(&ch->freed_waiters))
		link_futex_wake(&ch->freed);
}

/* ---------------------------------------------------------------- requests */

/* The link can answer no more: it is for us to say so. */
static void fail_slot(struct nbd_channel *ch, struct link_slot *s)
{
	uint32_t posted = LINK_POSTED;

	/* Done before the link ended: its result stands. */
	if (atomic_load(&s->state) != LINK_POSTED)
		return;
	s->error = -EIO;
	if (!atomic_compare_exchange_strong(&s->state, &posted, LINK_DONE))
		return;
	link_futex_wake(&s->state);
	atomic_fetch_add(&ch->mem->completions, 1);
	link_futex_wake(&ch->mem->completions);
}

void nbd_channel_post(struct nbd_channel *ch, uint32_t slot, enum link_op op, uint64_t index,
		      uint32_t nr, struct nbd_past past)
{
	uint32_t w = link_worker_of(index / ch->chunk_pages, ch->nr_groups, ch->nr_workers);
	struct link_slot *s = &ch->mem->slot[slot];
	struct link_ring *ring = &ch->mem->ring[w];
	uint32_t tail;

	s->op = op;
	s->index = index;
	s->nr = nr;
	s->avoid = past.avoid;
	s->shun = past.shun;
	s->waited_ms = past.waited_ms;
	s->error = 0;
	atomic_store_explicit(&s->waiters, 0, memory_order_relaxed);
	atomic_store(&s->state, LINK_POSTED);
	pthread_mutex_lock(&ch->post_lock[w]);
	tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
	ring->entry[tail % LINK_RING] = (uint16_t)slot;
	/* seq_cst against `sleeping`: either the worker sees this or we see it asleep */
	atomic_store_explicit(&ring->tail, tail + 1, memory_order_seq_cst);
	pthread_mutex_unlock(&ch->post_lock[w]);
	/* One wake-up for all that is posted before it is awake. */
	if (atomic_load_explicit(&ring->sleeping, memory_order_seq_cst) &&
	    atomic_exchange(&ring->sleeping, 0))
		eventfd_write(ch->wake_fd[w], 1);
	if (atomic_load(&ch->dead))
		fail_slot(ch, s);
}

bool nbd_channel_done(const struct nbd_channel *ch, uint32_t slot)
{
	/* acquire: pairs with slot_done() in the link */
	return atomic_load_explicit(&ch->mem->slot[slot].state, memory_order_acquire) == LINK_DONE;
}

int nbd_channel_wait(struct nbd_channel *ch, uint32_t slot)
{
	struct link_slot *s = &ch->mem->slot[slot];

	atomic_store(&s->waiters, 1);
	while (!nbd_channel_done(ch, slot)) {
		link_futex_wait(&s->state, LINK_POSTED, GIVE_UP_MS);
		/* The keeper, who looks for the link's end, may be the one who waits here. */
		if (!nbd_channel_done(ch, slot) && link_ended(ch, 0))
			nbd_channel_break(ch);
	}
	return s->error > 0 ? -EIO : s->error;
}

void nbd_channel_break(struct nbd_channel *ch)
{
	atomic_store(&ch->dead, true);
	for (uint32_t i = 0; i < LINK_SLOTS; i++)
		fail_slot(ch, &ch->mem->slot[i]);
}

/* ---------------------------------------------------------------- lanes */

int nbd_channel_lane(struct nbd_channel *ch, uint32_t *server)
{
	struct link_lane lane;
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { &lane, sizeof(lane) };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(ch->lane_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n == (ssize_t)sizeof(lane) ? CMSG_FIRSTHDR(&message) : NULL;
	int fd;

	/* Without room for a descriptor it is dropped: then there is a lane less. */
	if (!c || c->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	*server = lane.server;
	return fd;
}

void nbd_channel_lane_lost(struct nbd_channel *ch, uint32_t server)
{
	atomic_fetch_add_explicit(&ch->mem->lanes_lost[server], 1, memory_order_relaxed);
}
