// SPDX-License-Identifier: MIT
#include "monitor/door.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uhmm/remote.h>

#include "monitor/log.h"
#include "sys/message.h"
#include "sys/process.h"
#include "sys/sys.h"

/* Between connecting and being ready. */
struct guest {
	struct watch watch;
	struct door *door;
	struct guest *next;
	pid_t pid;
	struct process *process;
	struct space *space;		/* that waits for it since a fork, or NULL */
	struct agent_shm *shm;		/* until the link has it */
};

static void guest_leave(struct guest *guest)
{
	struct door *door = guest->door;
	struct guest **at = &door->guests;

	while (*at != guest)
		at = &(*at)->next;
	*at = guest->next;
	sys_epoll_remove(door->tree->epoll, guest->watch.fd);
	sys_close(guest->watch.fd);
	if (guest->shm) {
		link_dismiss(guest->shm);
		sys_munmap(guest->shm, door->config.shm_bytes);
	}
	space_put(guest->space);
	process_put(guest->process);
	free(guest);
}

/* ---------------------------------------------------------------- what it says of itself */

/* Its own memory, in the order that agent.h draws. */
static bool places_make_sense(const struct agent_ready *ready, const struct agent_config *config)
{
	const uint64_t page = sys_page_size(), top = sys_task_size();

	if (ready->own_start >= ready->own_end || ready->own_end > top ||
	    (ready->own_start | ready->own_end | ready->shm_addr) % page)
		return false;
	if (ready->shm_addr < ready->own_start ||
	    ready->shm_addr + config->shm_bytes > ready->own_end)
		return false;
	return !config->limbo_bytes ||
	       (ready->limbo >= ready->own_end && ready->limbo < top &&
		ready->limbo + config->limbo_bytes <= top && ready->limbo % config->limbo_block == 0);
}

/* The kernel says who sent it; it has to have the program's memory and be nothing else. */
static bool agent_is_one(const struct guest *guest, pid_t agent)
{
	struct sys_process who;

	return agent > 0 && agent != guest->pid && !sys_process_of(agent, &who) &&
	       who.tgid == agent && sys_same_memory(agent, guest->pid) == 1;
}

/* If it is the first, and for want of a privilege, then none of the tree will have any. */
static void say_plain(const struct guest *guest, const struct agent_ready *ready)
{
	struct door *door = guest->door;
	const bool all = ready->error == EPERM && !door->answered && door->pool->manages;

	door->answered = true;
	tree_declined(door->tree, guest->process);
	say(all ? SAY_WARNING : SAY_DETAIL, "%s (%d) runs without device memory: %s%s",
	    guest->process->name, (int)guest->pid, strerror(ready->error),
	    ready->error == EPERM ? "; uhmm doctor says what would help" : "");
}

/* Takes @uffd. */
static int welcome(struct guest *guest, const struct agent_ready *ready, pid_t agent, int uffd)
{
	struct door *door = guest->door;
	struct agent_shm *shm = guest->shm;
	struct space *space;
	struct link *link;
	int pidfd = sys_pidfd_open(agent);
	int ret;

	if (pidfd < 0) {
		sys_close(uffd);
		return pidfd;
	}
	guest->shm = NULL;
	ret = link_create(ready, &door->config, agent, pidfd, uffd, shm, &link);
	if (ret)
		return ret;
	ret = pool_join(door->pool, link, guest->pid, guest->space, &space);
	if (ret)
		return ret;
	door->answered = true;
	tree_attach(door->tree, guest->process, space);
	return 0;
}

static void guest_ready(struct watch *watch)
{
	struct guest *guest = watch_owner(watch, struct guest, watch);
	struct agent_go go = { .version = AGENT_VERSION };
	struct sys_message answer = { .data = &go, .len = sizeof(go) };
	struct agent_ready ready;
	struct sys_message msg = { .data = &ready, .len = sizeof(ready) };
	int ret;

	ret = sys_socket_recv(watch->fd, &msg);
	if (ret == -EAGAIN)
		return;
	if (!ret && msg.len == sizeof(ready) && ready.version == AGENT_VERSION) {
		if (ready.error) {
			say_plain(guest, &ready);
		} else if (msg.nr_fds && places_make_sense(&ready, &guest->door->config) &&
			   agent_is_one(guest, msg.sender)) {
			ret = welcome(guest, &ready, msg.sender, msg.fds[0]);
			msg.nr_fds = 0;
			/* A process that dies at the door is not the door's failure. */
			if (ret && ret != -ESRCH && !guest->door->pool->device_open)
				guest->door->error = ret;
			if (!ret)
				ret = sys_socket_send(watch->fd, &answer);
		} else {
			say(SAY_WARNING, "process %d has an agent that is none of ours; it runs plain",
			    (int)guest->pid);
		}
	}
	while (!ret && msg.nr_fds)
		sys_close(msg.fds[--msg.nr_fds]);
	/* Else the program would go on, a moment before it is ended. */
	if (!guest->door->error)
		guest_leave(guest);
}

/* ---------------------------------------------------------------- coming in */

/*
 * A child of a fork whose memory is served already gets the userfaultfd that does. One
 * agent is enough: a program can have loaded the library twice.
 */
static int guest_greet(struct guest *guest)
{
	struct door *door = guest->door;
	struct sys_message msg = { .data = &door->config, .len = sizeof(door->config), .nr_fds = 2 };
	void *shm;
	int ret;

	msg.fds[1] = door->warden_pidfd;
	msg.fds[0] = sys_shared_memory("uhmm-agent", door->config.shm_bytes, &shm);
	if (msg.fds[0] < 0)
		return msg.fds[0];
	guest->shm = shm;
	guest->space = door->pool->manages ? tree_claim(door->tree, guest->process) : NULL;
	if (guest->space && space_joined(guest->space)) {
		sys_close(msg.fds[0]);
		return -EBUSY;
	}
	if (guest->space)
		msg.fds[msg.nr_fds++] = hmm_remote_uffd(guest->space->mm);
	ret = sys_socket_send(guest->watch.fd, &msg);
	sys_close(msg.fds[0]);
	return ret;
}

static void guest_come(struct door *door, int sock, pid_t pid)
{
	struct guest *guest = calloc(1, sizeof(*guest));
	int ret;

	if (!guest || sys_epoll_add(door->tree->epoll, sock, (uintptr_t)&guest->watch)) {
		sys_close(sock);
		free(guest);
		return;
	}
	guest->watch.fd = sock;
	guest->watch.ready = guest_ready;
	guest->door = door;
	guest->pid = pid;
	ret = tree_find_anew(door->tree, pid, &guest->process);
	guest->next = door->guests;
	door->guests = guest;
	if (!ret)
		ret = guest_greet(guest);
	if (ret && ret != -ESRCH && ret != -EBUSY && ret != -EPIPE)
		say(SAY_WARNING, "process %d runs plain: its agent cannot be given what it needs: %s",
		    (int)pid, strerror(-ret));
	if (ret)
		guest_leave(guest);
}

/*
 * They would wait for ever, and we be told of them for ever. False: there is nobody,
 * which the kernel does not say as long as it has no descriptor for one.
 */
static bool turn_away(struct door *door)
{
	uid_t uid;
	pid_t pid;
	int sock;

	sys_close(door->spare);
	sock = sys_socket_accept(door->watch.fd, &pid, &uid);
	sys_close(sock);
	door->spare = sys_eventfd();
	return sock >= 0;
}

static void door_ready(struct watch *watch)
{
	struct door *door = watch_owner(watch, struct door, watch);
	uid_t uid;
	pid_t pid;
	int sock;

	while ((sock = sys_socket_accept(watch->fd, &pid, &uid)) != -EAGAIN) {
		if (sock < 0) {
			if (!turn_away(door))
				return;
			continue;
		}
		if (!tree_has_room(door->tree)) {
			sys_close(sock);
			continue;
		}
		if (uid == sys_uid() && sys_process_descends(pid, door->warden)) {
			guest_come(door, sock, pid);
			continue;
		}
		say(SAY_WARNING, "process %d of user %u is not of this tree; sent away", (int)pid,
		    (unsigned int)uid);
		sys_close(sock);
	}
}

/* ---------------------------------------------------------------- life */

int door_name(struct door *door)
{
	int ret = sys_private_dir_name(door->dir, sizeof(door->dir));

	door->watch.fd = door->warden_pidfd = door->spare = -1;
	if (ret)
		return ret;
	snprintf(door->path, sizeof(door->path), "%s/monitor", door->dir);
	snprintf(door->preload, sizeof(door->preload), "%s/libuhmm-preload.so", door->dir);
	return 0;
}

int door_open(struct door *door, const char *preload)
{
	int ret;

	ret = sys_private_dir(door->dir);
	if (ret)
		return ret;
	ret = sys_link_to(preload, door->preload);
	if (ret)
		goto err_dir;
	door->watch.ready = door_ready;
	door->watch.fd = sys_socket_listen(door->path);
	if (door->watch.fd >= 0)
		return 0;
	ret = door->watch.fd;
	sys_unlink(door->preload);
err_dir:
	sys_private_dir_remove(door->dir);
	return ret;
}

int door_serve(struct door *door, struct tree *tree, struct pool *pool, pid_t warden)
{
	door->tree = tree;
	door->pool = pool;
	door->warden = warden;
	door->config.warden = warden;
	door->warden_pidfd = sys_pidfd_open(warden);
	if (door->warden_pidfd < 0)
		return door->warden_pidfd;
	door->spare = sys_eventfd();
	return sys_epoll_add(tree->epoll, door->watch.fd, (uintptr_t)&door->watch);
}

void door_close(struct door *door)
{
	while (door->guests)
		guest_leave(door->guests);
	sys_close(door->spare);
	sys_close(door->warden_pidfd);
	sys_close(door->watch.fd);
	sys_unlink(door->path);
	sys_unlink(door->preload);
	sys_private_dir_remove(door->dir);
}
