/* SPDX-License-Identifier: MIT */
/*
 * Real servers for the tests of the nbd driver: nbdkit on a socket in a folder of the
 * test's own, to be stopped, killed and started again under a running program; and one
 * of our own, that lies.
 *
 * Servers are children with their own sessions; those that still run when the program
 * ends are killed.
 */
#ifndef UHMM_TEST_SERVERS_H
#define UHMM_TEST_SERVERS_H

#include "world.h"

#include <uhmm/plugin.h>

#define SERVERS		4
#define SERVER_ARGS	24

struct server {
	pid_t pid;
	char path[128];			/* of its socket, or */
	int port;			/* on 127.0.0.1 */
	char port_word[16];
	char uri[192];
	char *argv[SERVER_ARGS + 1];
	char words[1024];
};

/* The world, and the device under test. */
struct nbd_world {
	struct world *w;
	struct hmm_device device;
	bool open;
	struct server server[SERVERS];
	char folder[64];
	int said_fd;			/* what came on standard error while it was caught */
	int saved_stderr;
	char said[16384];
	size_t said_len;
};

/* 77 unless nbdkit, the plug-in and an mm can be had. */
void need_nbd(void);

int nbd_world_begin(void **state);
int nbd_world_end(void **state);
int nbd_test_begin(void **state);
int nbd_test_end(void **state);

#define nbd_test(f)	cmocka_unit_test_setup_teardown(f, nbd_test_begin, nbd_test_end)

/* Start number @nr: "memory 64M", "--filter=delay memory 64M rdelay=1ms" ... Words by spaces. */
struct server *server_run(struct nbd_world *n, int nr, const char *words);
struct server *server_run_tcp(struct nbd_world *n, int nr, int port, const char *words);
/* The same again, with the same arguments. */
void server_again(struct server *s);
/* SIGKILL, and it is gone when this returns. */
void server_kill(struct server *s);
void server_stop(struct server *s);	/* SIGSTOP: silent, but there */
void server_go_on(struct server *s);

/* Open the device: options by printf, "uri=%s" ...; closes an open one first. */
int nbd_try_open(struct nbd_world *n, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
#define nbd_open(n, ...)	assert_int_equal(nbd_try_open(n, __VA_ARGS__), 0)
int nbd_close_device(struct nbd_world *n);

/* Everything of it to the device, and says so by failing where not. */
void nbd_move_in(struct nbd_world *n, void *p, size_t nr);
int64_t nbd_try_move_in(struct nbd_world *n, void *p, size_t nr);

/* What the driver's process said on standard error since the test began. */
bool nbd_said(struct nbd_world *n, const char *text);

uint64_t clock_ms(void);

#endif
