/* SPDX-License-Identifier: MIT */
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <libnbd.h>

#include "volume.h"

#define DIAL_MS		10000u
#define PAUSE_MS	50u		/* between tries, doubled up to ... */
#define PAUSE_MAX_MS	1000u
#define TELL_MS		1000u	/* a server that comes and goes is not reported each time */

static const char identity_text[32] = "uhmm nbd device memory, format 1";

struct identity_page {
	char text[sizeof(identity_text)];
	uint8_t id[16];
};

void server_init(struct server *server, struct volume *volume, uint32_t nr)
{
	server->volume = volume;
	server->nr = nr;
	server->uri = volume->cfg.uri[nr];
	pthread_mutex_init(&server->lock, NULL);
	pthread_cond_init(&server->work, NULL);
}

/* Let the connection work a little. false: it died, or time is up. */
static bool work(struct nbd_handle *nbd, uint64_t until)
{
	uint64_t now = now_ms();

	return !nbd_aio_is_dead(nbd) && !nbd_aio_is_closed(nbd) && now < until &&
	       nbd_poll(nbd, (int)(until - now)) >= 0;
}

static bool connected(struct nbd_handle *nbd, uint64_t until)
{
	while (!nbd_aio_is_ready(nbd))
		if (!work(nbd, until))
			return false;
	return true;
}

/* Did the command succeed in time? libnbd tells its outcome once. */
static bool succeeded(struct nbd_handle *nbd, int64_t cookie, uint64_t until)
{
	int ret = 0;

	while (cookie >= 0 && !ret) {
		ret = nbd_aio_command_completed(nbd, (uint64_t)cookie);
		if (!ret && !work(nbd, until))
			return false;
	}
	return ret > 0;
}

/* Replies of the one kind that the driver knows. */
static int handle_make_plain(struct nbd_handle *nbd)
{
#ifdef LIBNBD_HAVE_NBD_SET_REQUEST_EXTENDED_HEADERS
	if (nbd_set_request_extended_headers(nbd, false) < 0)
		return -1;
#endif
	return nbd_set_request_structured_replies(nbd, false);
}

/* @lane: the driver will read from it. */
static struct nbd_handle *handle_make(const struct link_config *cfg, bool lane)
{
	struct nbd_handle *nbd = nbd_create();

	if (!nbd)
		return NULL;
	if (nbd_set_uri_allow_local_file(nbd, true) < 0 ||
	    /* Every byte that is read is checked by whoever asked for it. */
	    nbd_set_pread_initialize(nbd, false) < 0 ||
	    (lane && handle_make_plain(nbd) < 0) ||
	    (cfg->tls_certs[0] && nbd_set_tls_certificates(nbd, cfg->tls_certs) < 0) ||
	    (cfg->tls_psk[0] && nbd_set_tls_psk_file(nbd, cfg->tls_psk) < 0)) {
		nbd_close(nbd);
		return NULL;
	}
	return nbd;
}

static void say_why(char *why, size_t why_bytes, const char *fallback)
{
	const char *error = nbd_get_error();

	snprintf(why, why_bytes, "%s", error && *error ? error : fallback);
}

static struct nbd_handle *dial(struct server *server, bool lane, char *why, size_t why_bytes)
{
	const struct volume *v = server->volume;
	uint64_t patience = v->timeout_ms < DIAL_MS ? v->timeout_ms : DIAL_MS;
	struct nbd_handle *nbd = handle_make(&v->cfg, lane);

	if (nbd && nbd_aio_connect_uri(nbd, server->uri) >= 0 &&
	    connected(nbd, now_ms() + patience))
		return nbd;
	say_why(why, why_bytes, "no answer");
	nbd_close(nbd);
	return NULL;
}

static uint64_t identity_offset(const struct server *server)
{
	const struct volume *v = server->volume;

	return server->nr_chunks * v->chunk_pages * v->page;
}

/* 1: it has our identity; 0: it has not; or negative. */
static int identity_read(struct server *server, struct nbd_handle *nbd)
{
	uint64_t until = now_ms() + server->volume->stall_ms;
	struct identity_page page;
	int64_t cookie = nbd_aio_pread(nbd, &page, sizeof(page), identity_offset(server),
				       NBD_NULL_COMPLETION, 0);

	if (!succeeded(nbd, cookie, until))
		return -EIO;
	return !memcmp(page.text, identity_text, sizeof(identity_text)) &&
	       !memcmp(page.id, server->identity, sizeof(page.id));
}

static int identity_write(struct server *server, struct nbd_handle *nbd)
{
	uint64_t until = now_ms() + server->volume->stall_ms;
	struct identity_page page = { .text = { 0 } };
	int64_t cookie;

	memcpy(page.text, identity_text, sizeof(identity_text));
	memcpy(page.id, server->identity, sizeof(page.id));
	cookie = nbd_aio_pwrite(nbd, &page, sizeof(page), identity_offset(server),
				NBD_NULL_COMPLETION, 0);
	return succeeded(nbd, cookie, until) ? 0 : -EIO;
}

/* What the export must be able to do; the reason where it cannot. */
static const char *export_check(struct server *server, struct nbd_handle *nbd)
{
	const struct volume *v = server->volume;
	int64_t size = nbd_get_size(nbd);
	int64_t least = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);
	int64_t most = nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM);

	if (nbd_is_read_only(nbd))
		return "the export is read-only";
	/* 0: the server does not say. */
	if (least > 0 && ((uint64_t)least > v->page || sizeof(struct identity_page) % (size_t)least))
		if ((uint64_t)least > sizeof(struct identity_page))
			return "the server wants requests of whole blocks";
	if (most > 0 && (uint64_t)most < LINK_CHUNK_BYTES)
		return "the server takes no requests of 256 KiB";
	if (size < 0 || (uint64_t)size < LINK_CHUNK_BYTES + v->page)
		return "the export is smaller than 260 KiB";
	if (server->nr_chunks && (uint64_t)size < identity_offset(server) + v->page)
		return "the export has shrunk";
	return NULL;
}

int server_open(struct server *server, char *why, size_t why_bytes)
{
	struct volume *v = server->volume;
	struct nbd_handle *nbd = dial(server, false, why, why_bytes);
	const char *unfit;

	if (!nbd)
		return -EHOSTUNREACH;
	unfit = export_check(server, nbd);
	if (unfit) {
		snprintf(why, why_bytes, "%s", unfit);
		nbd_close(nbd);
		return -EINVAL;
	}
	server->nr_chunks = ((uint64_t)nbd_get_size(nbd) - v->page) / LINK_CHUNK_BYTES;
	server->can_trim = nbd_can_trim(nbd) > 0;
	server->can_zero = nbd_can_zero(nbd) > 0;
	server->multi_conn = nbd_can_multi_conn(nbd) > 0;
	server->tls = nbd_get_tls_negotiated(nbd) != 0;
	if (getrandom(server->identity, sizeof(server->identity), 0) < 0 ||
	    identity_write(server, nbd) || identity_read(server, nbd) != 1) {
		say_why(why, why_bytes, "what was written cannot be read back");
		nbd_close(nbd);
		return -EIO;
	}
	server->generation = 1;
	server->ready[0][0] = (struct connection){ nbd, 1 };
	server->nr_ready[0] = 1;
	return 0;
}

/* ---------------------------------------------------------------- the thread */

static void pause_ms(uint32_t ms)
{
	struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&ts, NULL);
}

#define FOR_DRIVER	((int)LINK_WORKERS)

/* A worker that lacks a connection, or else FOR_DRIVER, a lane; -1: none. Lock held. */
static int next_wanted(const struct server *server)
{
	for (uint32_t w = 0; w < LINK_WORKERS; w++)
		if (server->wanted[w])
			return (int)w;
	return server->lanes_wanted ? FOR_DRIVER : -1;
}

/* Is it the server that it was? Its generation with the lock held, 0: of no use. */
static uint32_t recognise(struct server *server, struct nbd_handle *nbd)
{
	const char *unfit = export_check(server, nbd);
	int known = unfit ? -EINVAL : identity_read(server, nbd);

	if (known < 0 || (known == 0 && identity_write(server, nbd))) {
		if (unfit)
			report("%s: %s", server->uri, unfit);
		return 0;
	}
	pthread_mutex_lock(&server->lock);
	if (!known) {
		server->generation++;
		report("%s: came back without its memory", server->uri);
	}
	return server->generation;
}

static void hand_over(struct server *server, uint32_t worker, struct connection connection)
{
	server->ready[worker][server->nr_ready[worker]++] = connection;
	server->wanted[worker]--;
	eventfd_write((int)(LINK_FD_WAKE + worker), 1);
}

/*
 * The descriptor goes to the driver, and the handle is of no use any more: closing it
 * says nothing to the server. A connection that is not as plain as the driver needs it
 * is none, and the next would not be either. Lock held.
 */
static void lane_give(struct server *server, struct nbd_handle *nbd)
{
	struct link_lane lane = { .server = server->nr };
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .header = {
		.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)),
	} };
	struct iovec iov = { &lane, sizeof(lane) };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	int fd = nbd_aio_get_fd(nbd);
	bool plain = fd >= 0 && !nbd_get_tls_negotiated(nbd) &&
		     !nbd_get_structured_replies_negotiated(nbd);

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	if (!plain || sendmsg(LINK_FD_LANES, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		server->lanes = server->lanes_wanted = 0;
	else
		server->lanes_wanted--;
	nbd_close(nbd);
}

static void *server_main(void *arg)
{
	struct server *server = arg;
	uint32_t pause = PAUSE_MS;

	for (;;) {
		struct connection made;
		char why[160];
		bool lost;
		int worker;

		pthread_mutex_lock(&server->lock);
		while ((worker = next_wanted(server)) < 0)
			pthread_cond_wait(&server->work, &server->lock);
		lost = server->lost;
		server->lost = false;
		pthread_mutex_unlock(&server->lock);
		/* One that takes connections and breaks them must not keep us busy. */
		if (lost)
			pause_ms(PAUSE_MS);
		made.nbd = dial(server, worker == FOR_DRIVER, why, sizeof(why));
		made.generation = made.nbd ? recognise(server, made.nbd) : 0;
		if (!made.generation) {
			nbd_close(made.nbd);
			pause_ms(pause);
			pause = pause * 2 < PAUSE_MAX_MS ? pause * 2 : PAUSE_MAX_MS;
			continue;
		}
		if (worker == FOR_DRIVER)
			lane_give(server, made.nbd);
		else
			hand_over(server, (uint32_t)worker, made);
		pthread_mutex_unlock(&server->lock);
		pause = PAUSE_MS;
	}
	return NULL;
}

int server_start(struct server *server, uint32_t nr_workers, uint32_t wanted, uint32_t lanes)
{
	for (uint32_t w = 0; w < nr_workers; w++)
		server->wanted[w] = wanted;
	server->wanted[0]--;
	server->lanes = server->lanes_wanted = lanes;
	return -pthread_create(&server->thread, NULL, server_main, server);
}

void server_lanes_lost(struct server *server, uint32_t nr)
{
	if (!nr)
		return;
	pthread_mutex_lock(&server->lock);
	/* The number is the program's: never more than there were. */
	server->lanes_wanted += nr < server->lanes ? nr : server->lanes;
	if (server->lanes_wanted > server->lanes)
		server->lanes_wanted = server->lanes;
	server->lost = true;
	pthread_cond_signal(&server->work);
	pthread_mutex_unlock(&server->lock);
}

bool server_take(struct server *server, uint32_t worker, struct connection *out)
{
	bool have;

	pthread_mutex_lock(&server->lock);
	have = server->nr_ready[worker] > 0;
	if (have)
		*out = server->ready[worker][--server->nr_ready[worker]];
	pthread_mutex_unlock(&server->lock);
	return have;
}

void server_lost(struct server *server, uint32_t worker, uint64_t now_ms)
{
	pthread_mutex_lock(&server->lock);
	server->wanted[worker]++;
	server->lost = true;
	pthread_cond_signal(&server->work);
	pthread_mutex_unlock(&server->lock);
	if (atomic_fetch_sub(&server->live, 1) > 1 ||
	    now_ms - atomic_load(&server->told_ms) < TELL_MS)
		return;
	atomic_store(&server->told_ms, now_ms);
	atomic_store(&server->told, true);
	report("%s: lost; trying again", server->uri);
}

void server_back(struct server *server, bool was_lost)
{
	if (atomic_fetch_add(&server->live, 1) == 0 && was_lost &&
	    atomic_exchange(&server->told, false))
		report("%s: is back", server->uri);
}

bool server_complete(struct server *server)
{
	bool complete;

	pthread_mutex_lock(&server->lock);
	complete = next_wanted(server) < 0;
	pthread_mutex_unlock(&server->lock);
	return complete;
}
