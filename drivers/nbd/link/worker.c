/* SPDX-License-Identifier: MIT */
#include "worker.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include <libnbd.h>

#define IDLE_MS		1000
#define SHUN_MS		1000u	/* doubled with each time up to ... */
#define SHUN_MAX_MS	60000u
#define BUSY_MS		20	/* while something has to be looked at again */

/* ---------------------------------------------------------------- commands */

static void list_push(struct command **list, struct command *c)
{
	c->next = *list;
	c->link = list;
	if (c->next)
		c->next->link = &c->next;
	*list = c;
}

static void list_remove(struct command *c)
{
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
}

/* There are as many as all requests can have together. */
struct command *command_new(struct worker *w)
{
	struct command *c = w->free;

	if (!c)
		abort();
	list_remove(c);
	memset(c, 0, sizeof(*c));
	c->worker = w;
	return c;
}

void command_free(struct worker *w, struct command *c)
{
	list_push(&w->free, c);
}

void command_park(struct worker *w, struct command *c, uint32_t ms)
{
	c->retry_ms = w->now_ms + ms;
	list_push(&w->parked, c);
}

/* Called by libnbd under the handle's lock, and for commands of a handle that is closed. */
static int on_completion(void *ctx, int *error)
{
	struct command *c = ctx;

	list_remove(c);
	c->ended = true;
	c->error = -*error;
	list_push(&c->worker->ended, c);
	return 1;
}

static struct conn *conn_choose(struct worker *w, uint32_t server)
{
	struct conn *best = NULL;

	for (uint32_t i = 0; i < WORKER_CONNS; i++) {
		struct conn *conn = &w->conn[i];

		if (conn->nbd && conn->server == server &&
		    (!best || conn->nr_flying < best->nr_flying))
			best = conn;
	}
	return best;
}

static char *command_bytes(const struct worker *w, const struct command *c)
{
	if (c->refill)
		return c->refill->bytes;
	return c->op->bytes + (c->first - c->op->first) * w->volume->page;
}

static int64_t command_post(struct worker *w, struct command *c, struct nbd_handle *nbd)
{
	const struct volume *v = w->volume;
	uint64_t chunk = c->refill ? c->refill->chunk : c->op->chunk;
	uint64_t offset = volume_offset(v, chunk, c->first);
	size_t bytes = c->nr * v->page;
	nbd_completion_callback done = { .callback = on_completion, .user_data = c };

	switch (c->kind) {
	case LINK_READ:
		return nbd_aio_pread(nbd, command_bytes(w, c), bytes, offset, done, 0);
	case LINK_WRITE:
		return nbd_aio_pwrite(nbd, command_bytes(w, c), bytes, offset, done, 0);
	case LINK_TRIM:
		break;
	}
	if (v->server[c->server].can_trim)
		return nbd_aio_trim(nbd, bytes, offset, done, 0);
	return nbd_aio_zero(nbd, bytes, offset, done, 0);
}

bool command_send(struct worker *w, struct command *c)
{
	struct conn *conn = conn_choose(w, c->server);

	if (!conn)
		return false;
	c->conn = conn;
	c->ended = false;
	c->error = 0;
	c->sent_ms = w->ran_ms;
	list_push(&conn->flying, c);
	if (!conn->nr_flying++)
		conn->moved_ms = w->now_ms;
	/*
	 * On a handle that dies in here libnbd may have called back already; then the
	 * command is in `ended`, and has been sent as far as the caller is concerned.
	 */
	if (command_post(w, c, conn->nbd) >= 0 || c->ended)
		return true;
	list_remove(c);
	conn->nr_flying--;
	return false;
}

/* ---------------------------------------------------------------- connections */

/* A server that takes connections and then fails must not have its turn each time. */
void view_shun(struct worker *w, uint32_t server)
{
	struct view *view = &w->view[server];

	if (w->now_ms < view->shun_ms)
		return;
	view->shun_for = view->shun_for ? view->shun_for * 2 : SHUN_MS;
	if (view->shun_for > SHUN_MAX_MS)
		view->shun_for = SHUN_MAX_MS;
	view->shun_ms = w->now_ms + view->shun_for;
}

static void conn_drop(struct worker *w, struct conn *conn)
{
	struct server *server = &w->volume->server[conn->server];
	struct view *view = &w->view[conn->server];
	struct nbd_handle *nbd = conn->nbd;

	/* Nothing is stored into a buffer from here on. */
	nbd_close(nbd);
	while (conn->flying) {
		struct command *c = conn->flying;

		list_remove(c);
		c->conn = NULL;		/* another may be in its place before this is served */
		c->ended = true;
		c->error = -ENOTCONN;
		list_push(&w->ended, c);
	}
	conn->nbd = NULL;
	view_shun(w, conn->server);
	if (--view->nr_conns == 0) {
		view->lost = true;
		view->sick_ms = w->now_ms;
	}
	server_lost(server, w->nr, w->now_ms);
}

/* The server has lost all that it had: of our chunks, what was written is stale. */
static void view_renew(struct worker *w, uint32_t server, uint32_t generation)
{
	struct volume *v = w->volume;
	uint64_t lost = 0;

	w->view[server].generation = generation;
	for (uint64_t c = 0; c < v->nr_chunks; c++) {
		if (c % v->nr_groups != server / v->cfg.mirror ||
		    link_worker_of(c, v->nr_groups, v->nr_workers) != w->nr)
			continue;
		v->stale[server][c] |= v->present[c];
		lost += (uint64_t)__builtin_popcountll(v->present[c]);
	}
	/* What it had taken of a write that another has not yet is gone, too. */
	for (struct op *op = w->writes; op; op = op->next) {
		if (op->chunk % v->nr_groups != server / v->cfg.mirror)
			continue;
		v->stale[server][op->chunk] |= mask_of(op->first, op->nr);
		op->good &= ~(1u << server);
	}
	if (lost && v->cfg.mirror == 1)
		report("%s: %llu pages that it had are lost", v->cfg.uri[server],
		       (unsigned long long)lost);
	/* What is left of the connections is to the server as it was. */
	for (uint32_t i = 0; i < WORKER_CONNS; i++)
		if (w->conn[i].nbd && w->conn[i].server == server &&
		    w->conn[i].generation != generation)
			conn_drop(w, &w->conn[i]);
}

static void conn_adopt(struct worker *w, uint32_t nr, struct connection made)
{
	struct server *server = &w->volume->server[nr];
	struct view *view = &w->view[nr];
	uint32_t i = 0;

	while (w->conn[i].nbd)
		i++;
	if (made.generation < view->generation) {
		nbd_close(made.nbd);
		atomic_fetch_add(&server->live, 1);
		server_lost(server, w->nr, w->now_ms);
		return;
	}
	if (view->generation && made.generation != view->generation)
		view_renew(w, nr, made.generation);
	view->generation = made.generation;
	w->conn[i] = (struct conn){
		.nbd = made.nbd, .server = nr, .generation = made.generation,
		.moved_ms = w->now_ms,
	};
	/* It has just read its identity back to us. */
	view->sick_ms = 0;
	view->nr_conns++;
	server_back(server, view->lost);
	if (view->lost)
		refill_server(w, nr);
	view->lost = false;
	/* Who waited for it need not wait on. */
	for (struct command *c = w->parked; c; c = c->next)
		c->retry_ms = w->now_ms;
}

/* One on which nothing has moved for too long. */
static bool conn_stalled(const struct worker *w, const struct conn *conn)
{
	return conn->nr_flying && w->now_ms - conn->moved_ms >= w->volume->stall_ms;
}

/*
 * One that is busy but keeps an answer back: each copy has its share of the timeout, so that
 * there is time to ask the other.
 */
static bool conn_withholds(const struct worker *w, const struct conn *conn)
{
	uint64_t most = w->volume->timeout_ms / w->volume->cfg.mirror;

	for (const struct command *c = conn->flying; c; c = c->next)
		if (w->ran_ms - c->sent_ms >= most)
			return true;
	return false;
}

static void drop_withholding(struct worker *w)
{
	if (w->ran_ms < w->look_ms)
		return;
	w->look_ms = w->ran_ms + w->volume->stall_ms / 4;
	for (uint32_t i = 0; i < WORKER_CONNS; i++)
		if (w->conn[i].nbd && conn_withholds(w, &w->conn[i]))
			conn_drop(w, &w->conn[i]);
}

/*
 * Where one connection has stalled, the server's others are no better unless they have just
 * shown so: a command that was sent over each in turn would stall as often.
 */
static void drop_stalled(struct worker *w, uint32_t server)
{
	for (uint32_t i = 0; i < WORKER_CONNS; i++)
		if (w->conn[i].nbd && w->conn[i].server == server &&
		    w->now_ms - w->conn[i].moved_ms >= w->volume->stall_ms)
			conn_drop(w, &w->conn[i]);
}

static void conns_check(struct worker *w)
{
	for (uint32_t i = 0; i < WORKER_CONNS; i++) {
		struct conn *conn = &w->conn[i];

		if (conn->nbd && (nbd_aio_is_dead(conn->nbd) || nbd_aio_is_closed(conn->nbd)))
			conn_drop(w, conn);
		else if (conn->nbd && conn_stalled(w, conn))
			drop_stalled(w, conn->server);
	}
	drop_withholding(w);
	for (uint32_t s = 0; s < w->volume->nr_servers; s++) {
		struct connection made;

		while (server_take(&w->volume->server[s], w->nr, &made))
			conn_adopt(w, s, made);
	}
}

/* ---------------------------------------------------------------- the loop */

static bool ring_take(struct worker *w, uint32_t *slot)
{
	struct link_ring *ring = &w->volume->mem->ring[w->nr];
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);

	/* acquire: pairs with the driver's post; the slot is filled */
	if (head == atomic_load_explicit(&ring->tail, memory_order_acquire))
		return false;
	*slot = ring->entry[head % LINK_RING];
	atomic_store_explicit(&ring->head, head + 1, memory_order_release);
	return true;
}

static bool ring_empty(const struct worker *w)
{
	struct link_ring *ring = &w->volume->mem->ring[w->nr];

	return atomic_load_explicit(&ring->head, memory_order_relaxed) ==
	       atomic_load_explicit(&ring->tail, memory_order_seq_cst);
}

static void ring_serve(struct worker *w)
{
	uint32_t slot;

	while (ring_take(w, &slot))
		if (slot < LINK_SLOTS)
			op_start(w, slot);
}

/*
 * What a command's end says of its server. That a write failed says nothing about reads; a
 * connection that broke has been looked at when it was dropped.
 */
static void view_learn(struct worker *w, const struct command *c)
{
	struct view *view = &w->view[c->server];

	if (!c->error) {
		view->sick_ms = 0;
		if (c->kind == LINK_READ)
			view->shun_ms = view->shun_for = 0;
		return;
	}
	view_shun(w, c->server);
	if (c->kind == LINK_READ && c->error != -ENOTCONN && !view->sick_ms)
		view->sick_ms = w->now_ms;
}

static void command_ended(struct worker *w, struct command *c)
{
	list_remove(c);
	if (c->conn) {
		c->conn->nr_flying--;
		c->conn->moved_ms = w->now_ms;
	}
	view_learn(w, c);
	if (c->refill)
		refill_command_ended(w, c);
	else
		op_command_ended(w, c);
}

static void ended_serve(struct worker *w)
{
	while (w->ended)
		command_ended(w, w->ended);
}

static void parked_serve(struct worker *w)
{
	struct command *c = w->parked, *due = NULL;

	while (c) {
		struct command *next = c->next;

		if (c->retry_ms <= w->now_ms) {
			list_remove(c);
			list_push(&due, c);
		}
		c = next;
	}
	while (due) {
		c = due;
		list_remove(c);
		op_read_route(w, c);
	}
}

static uint32_t poll_fill(struct worker *w, struct pollfd *fds, struct conn **conns)
{
	uint32_t n = 1;

	fds[0] = (struct pollfd){ .fd = w->wake_fd, .events = POLLIN };
	for (uint32_t i = 0; i < WORKER_CONNS; i++) {
		struct conn *conn = &w->conn[i];
		unsigned int way;

		if (!conn->nbd)
			continue;
		way = nbd_aio_get_direction(conn->nbd);
		conns[n] = conn;
		fds[n++] = (struct pollfd){
			.fd = nbd_aio_get_fd(conn->nbd),
			.events = (short)((way & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
					  (way & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0)),
		};
	}
	return n;
}

/* How long nothing has to be looked at if nothing happens. */
static int patience(const struct worker *w)
{
	if (w->ended)
		return 0;
	if (w->parked)
		return BUSY_MS;
	for (uint32_t s = 0; s < w->volume->nr_servers; s++)
		if (w->view[s].refilling)
			return BUSY_MS;
	for (uint32_t i = 0; i < WORKER_CONNS; i++)
		if (w->conn[i].nbd && w->conn[i].nr_flying)
			return (int)(w->volume->stall_ms / 4);
	return IDLE_MS;
}

static void conns_notify(const struct pollfd *fds, struct conn **conns, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++) {
		unsigned int way = nbd_aio_get_direction(conns[i]->nbd);

		if ((fds[i].revents & (POLLIN | POLLHUP | POLLERR)) &&
		    (way & LIBNBD_AIO_DIRECTION_READ))
			nbd_aio_notify_read(conns[i]->nbd);
		else if ((fds[i].revents & (POLLOUT | POLLHUP | POLLERR)) &&
			 (way & LIBNBD_AIO_DIRECTION_WRITE))
			nbd_aio_notify_write(conns[i]->nbd);
	}
}

/* Once in a turn, which takes no longer than this unless we are stopped. */
static void look_at_clock(struct worker *w)
{
	uint64_t now = now_ms(), turn = now - w->now_ms, most = w->volume->stall_ms / 2;

	w->now_ms = now;
	w->ran_ms += turn < most ? turn : most;
}

static void wait_for_work(struct worker *w)
{
	struct link_ring *ring = &w->volume->mem->ring[w->nr];
	struct pollfd fds[WORKER_CONNS + 1];
	struct conn *conns[WORKER_CONNS + 1];
	uint32_t n = poll_fill(w, fds, conns);
	int ms = patience(w);

	/* seq_cst against the driver's tail: either it sees us asleep or we see its post */
	atomic_store_explicit(&ring->sleeping, 1, memory_order_seq_cst);
	if (!ring_empty(w))
		ms = 0;
	if (poll(fds, n, ms) < 0)
		n = 0;
	atomic_store_explicit(&ring->sleeping, 0, memory_order_relaxed);
	look_at_clock(w);
	if (n && fds[0].revents) {
		eventfd_t count;

		eventfd_read(w->wake_fd, &count);
	}
	conns_notify(fds, conns, n);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	w->now_ms = now_ms();
	for (;;) {
		conns_check(w);
		ring_serve(w);
		ended_serve(w);
		parked_serve(w);
		refill_step(w);
		wait_for_work(w);
		ended_serve(w);
	}
	return NULL;
}

int worker_start(struct volume *volume, uint32_t nr, struct worker **out)
{
	struct worker *w = map_zeroed(sizeof(*w));
	int ret;

	if (!w)
		return -ENOMEM;
	w->volume = volume;
	w->nr = nr;
	w->wake_fd = (int)(LINK_FD_WAKE + nr);
	for (uint32_t i = 0; i < WORKER_COMMANDS; i++)
		list_push(&w->free, &w->command[i]);
	for (uint32_t i = 0; i < WORKER_REFILLS; i++) {
		w->refill[i].bytes = map_zeroed(LINK_CHUNK_BYTES);
		if (!w->refill[i].bytes)
			return -ENOMEM;
	}
	ret = seal_thread_init(&volume->seal, &w->seal);
	if (!ret)
		ret = -pthread_create(&w->thread, NULL, worker_main, w);
	*out = w;
	return ret;
}
