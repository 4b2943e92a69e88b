// SPDX-License-Identifier: MIT
/*
 * Find the monitor, give it what it needs of this process, start the agent. Whatever
 * fails, the program goes on without.
 */
#include "join.h"

#include <fcntl.h>
#include <linux/ioctl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "agent.h"
#include "message.h"
#include "sys/raw.h"

/*
 * Programs expect the lowest free descriptor and walk through the low ones; a table
 * that reaches to a thousand costs a fork nothing.
 */
#define FD_HIGH		960

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW	_IO(0xAA, 0x00)
#endif

/* What a descriptor is a descriptor of. */
struct identity {
	uint64_t dev, inode;
};

static int kept_uffd = -1;
static struct identity kept;	/* of that number, when it was kept */

static long failed(long err, long nr, struct agent_ready *ready)
{
	if (err < 0 && err > -4096 && !ready->error) {
		ready->error = (int32_t)-err;
		ready->failed_call = (int32_t)nr;
	}
	return err;
}

static long call(struct agent_ready *ready, long nr, long a, long b, long c, long d, long e, long f)
{
	return failed(sys_raw(nr, a, b, c, d, e, f), nr, ready);
}

static void close_fd(int fd)
{
	if (fd >= 0)
		sys_raw(SYS_close, fd, 0, 0, 0, 0, 0);
}

/* ---------------------------------------------------------------- the userfaultfd */

static long open_device(void)
{
	long device, fd;

	device = sys_raw(SYS_openat, AT_FDCWD, (long)"/dev/userfaultfd", O_RDWR | O_CLOEXEC, 0, 0, 0);
	if (device < 0)
		return device;
	fd = sys_raw(SYS_ioctl, device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK, 0, 0, 0);
	close_fd((int)device);
	return fd;
}

static long open_plain(void)
{
	long fd = sys_raw(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0, 0, 0, 0);
	long other;

	if (fd >= 0)
		return fd;
	other = open_device();
	return other < 0 ? fd : other;
}

/* One that serves faults of system calls too, or none. A handshake can be tried once. */
static int open_uffd(const struct agent_config *config, struct agent_ready *ready)
{
	struct uffdio_api api = { .api = UFFD_API, .features = config->uffd_features };
	long fd, ret;

	fd = failed(open_plain(), SYS_userfaultfd, ready);
	if (fd < 0)
		return -1;
	ret = sys_raw(SYS_ioctl, fd, (long)UFFDIO_API, (long)&api, 0, 0, 0);
	if (ret == -1 /* EPERM */ && config->uffd_optional) {
		close_fd((int)fd);
		fd = failed(open_plain(), SYS_userfaultfd, ready);
		api = (struct uffdio_api){
			.api = UFFD_API,
			.features = config->uffd_features & ~config->uffd_optional,
		};
		ret = sys_raw(SYS_ioctl, fd, (long)UFFDIO_API, (long)&api, 0, 0, 0);
	}
	if (failed(ret, SYS_ioctl, ready) < 0) {
		close_fd((int)fd);
		return -1;
	}
	ready->uffd_features = api.features & config->uffd_features;
	return (int)fd;
}

static bool identify(int fd, struct identity *out)
{
	struct stat st;

	if (sys_raw(SYS_fstat, fd, (long)&st, 0, 0, 0, 0))
		return false;
	*out = (struct identity){ .dev = st.st_dev, .inode = st.st_ino };
	return true;
}

/* Its name, which needs a /proc, says that it is something else. */
static bool is_no_uffd(int fd)
{
	static const char name[] = "anon_inode:[userfaultfd]";
	char path[] = "/proc/self/fd///////////", target[sizeof(name)];
	size_t at = sizeof(path) - 1;
	long ret;

	do {
		path[--at] = (char)('0' + fd % 10);
	} while (fd /= 10);
	ret = sys_raw(SYS_readlinkat, AT_FDCWD, (long)path, (long)target, sizeof(target), 0, 0);
	if (ret >= 0 && ret != (long)sizeof(name) - 1)
		return true;
	for (long i = 0; i < ret; i++)
		if (target[i] != name[i])
			return true;
	return false;
}

/*
 * The program may have closed it, and opened something else under its number. Before Linux
 * 5.12 all that is anonymous has one inode.
 */
static bool is_kept(int fd)
{
	struct identity now;

	return fd >= 0 && identify(fd, &now) && now.dev == kept.dev && now.inode == kept.inode &&
	       !is_no_uffd(fd);
}

static int move_high(int fd)
{
	long high = sys_raw(SYS_fcntl, fd, F_DUPFD_CLOEXEC, FD_HIGH, 0, 0, 0);

	if (high < 0)		/* a low RLIMIT_NOFILE */
		return fd;
	close_fd(fd);
	return (int)high;
}

/* ---------------------------------------------------------------- the agent's memory */

/*
 * One reservation; a forked child gets nothing of it. Its writable parts are mapped
 * over it: the program's own may lie next to it. Who has put this code into the program
 * from outside has reserved it already, with the code at its start.
 */
static struct agent *map_own(const struct agent_config *config, const struct agent_entry *entry,
			     int shm, struct agent_ready *ready)
{
	const unsigned long image = entry ? entry->image_bytes : 0;
	const unsigned long size = image + agent_bytes(config);
	long base, at;

	base = entry ? (long)entry->base :
	       call(ready, SYS_mmap, 0, (long)size, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base < 0 && base > -4096)
		return NULL;
	ready->own_start = (uint64_t)base;
	ready->shm_addr = (uint64_t)base + image + AGENT_STACK;
	ready->own_end = ready->shm_addr + config->shm_bytes;
	ready->limbo = !config->limbo_bytes ? 0 :
		       (ready->own_end + config->limbo_block - 1) & ~(config->limbo_block - 1);
	call(ready, SYS_mprotect, base + (long)image, AGENT_STACK, PROT_READ | PROT_WRITE, 0, 0, 0);
	at = call(ready, SYS_mmap, (long)ready->shm_addr, (long)config->shm_bytes,
		  PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, shm, 0);
	if (at != (long)ready->shm_addr)
		failed(-22, SYS_mmap, ready);
	call(ready, SYS_madvise, base, (long)size, MADV_DONTFORK, 0, 0, 0);
	if (!ready->error)
		return (struct agent *)(base + (long)image);
	if (!entry)
		sys_raw(SYS_munmap, base, (long)size, 0, 0, 0, 0);
	return NULL;
}

/* ---------------------------------------------------------------- joining */

/* False: the monitor has been told why there will be no agent. */
static bool introduce(int sock, const struct agent_config *config,
		      const struct agent_entry *entry, int fds[MESSAGE_FDS])
{
	struct agent_ready ready = { .version = AGENT_VERSION };
	struct agent *agent = NULL;
	int uffd = fds[2];

	if (uffd < 0)
		uffd = open_uffd(config, &ready);
	else
		ready.uffd_features = config->uffd_features;
	if (uffd >= 0) {
		uffd = move_high(uffd);
		agent = map_own(config, entry, fds[0], &ready);
	}
	if (agent) {
		agent->sock = sock;
		agent->uffd = uffd;
		agent->warden_pidfd = fds[1];
		agent->warden = (int)config->warden;
		agent->shm = (struct agent_shm *)ready.shm_addr;
		ready.agent_uffd = uffd;
		ready.follows_forks = !entry;
		agent->ready = ready;
		failed(agent_start(agent), SYS_clone, &ready);
	}
	if (agent && !ready.error) {
		/* So that the agent's is never the last one. */
		kept_uffd = identify(uffd, &kept) ? uffd : -1;
		return true;
	}
	close_fd(uffd);
	message_send(sock, &ready, sizeof(ready), -1);
	return false;
}

int join(const char *path, const struct agent_entry *entry)
{
	int fds[MESSAGE_FDS], none[MESSAGE_FDS];
	struct agent_config config;
	struct agent_go go;
	int joined = 0;
	int sock;

	sock = message_connect(path);
	if (sock < 0)
		return 0;
	sock = move_high(sock);
	if (message_recv(sock, &config, sizeof(config), fds) == (int)sizeof(config) &&
	    config.version == AGENT_VERSION && fds[0] >= 0 && fds[1] >= 0) {
		joined = config.serve_forks ? JOIN_FORKS : 0;
		/* When it is known there: from main() on all is managed. */
		if (introduce(sock, &config, entry, fds)) {
			joined |= JOIN_AGENT;
			message_recv(sock, &go, sizeof(go), none);
		}
	}
	close_fd(fds[0]);
	close_fd(fds[1]);
	close_fd(sock);
	return joined;
}

void join_leave_parent(void)
{
	if (is_kept(kept_uffd))
		close_fd(kept_uffd);
	kept_uffd = -1;
}
