/* SPDX-License-Identifier: MIT */
/*
 * TLS: with certificates both sides know each other, with pre-shared keys too; who has
 * neither, or the wrong ones, gets no connection.
 */
#define _GNU_SOURCE
#include "servers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NR	256

/* Certificates as nbdkit and libnbd want them, made by GnuTLS's certtool. */
static const char make_certs[] =
	"set -e; mkdir -p $D/pki; cd $D/pki\n"
	"for k in ca server client; do certtool --generate-privkey --key-type ecdsa "
	"--outfile $k-key.pem 2>/dev/null; done\n"
	"printf 'cn=\"test ca\"\\nca\\ncert_signing_key\\n' >ca.t\n"
	"printf 'cn=\"localhost\"\\ndns_name=\"localhost\"\\ntls_www_server\\nsigning_key\\n' >server.t\n"
	"printf 'cn=\"client\"\\ntls_www_client\\nsigning_key\\n' >client.t\n"
	"certtool --generate-self-signed --load-privkey ca-key.pem --template ca.t "
	"--outfile ca-cert.pem 2>/dev/null\n"
	"for k in server client; do certtool --generate-certificate --load-privkey $k-key.pem "
	"--load-ca-certificate ca-cert.pem --load-ca-privkey ca-key.pem --template $k.t "
	"--outfile $k-cert.pem 2>/dev/null; done\n"
	"printf 'alice:%032d%032d\\n' 7 9 >keys; printf 'alice:%032d%032d\\n' 7 8 >wrong\n";

static int tls_begin(void **state)
{
	struct nbd_world *n;
	int ret = nbd_world_begin(state);

	if (ret)
		return ret;
	n = *state;
	setenv("D", n->folder, 1);
	return system(make_certs) ? -1 : 0;
}

static struct server *tls_server(struct nbd_world *n, const char *how)
{
	char words[512];
	struct server *s;

	snprintf(words, sizeof(words), "--tls=require %s%s memory 16M", how,
		 strstr(how, "psk") ? "/keys" : "");
	s = server_run(n, 0, words);
	snprintf(s->uri, sizeof(s->uri), "nbds+unix://alice@localhost/?socket=%s/s0", n->folder);
	return s;
}

static void round_trip(struct nbd_world *n)
{
	unsigned char *p = map_filled(NR, 1);

	nbd_move_in(n, p, NR);
	assert_int_equal(evict(n->w, p, NR / 2), NR / 2);
	assert_holds(p, NR, 1, 0);
	munmap(p, NR * page);
}

static void refused(struct nbd_world *n, const char *options)
{
	assert_int_equal(nbd_try_open(n, "%s", options), -EHOSTUNREACH);
	assert_true(strlen(n->device.said) > 10);
}

/* Certificates: ours are taken, and without them there is no way in. */
static void certificates(void **state)
{
	struct nbd_world *n = *state;
	char how[256], options[512];
	struct server *s;

	snprintf(how, sizeof(how), "--tls-verify-peer --tls-certificates=%s/pki", n->folder);
	s = tls_server(n, how);
	nbd_open(n, "uri=%s,tls_certs=%s/pki,timeout=5", s->uri, n->folder);
	round_trip(n);
	assert_int_equal(nbd_close_device(n), 0);
	snprintf(options, sizeof(options), "uri=nbd+unix:///?socket=%s/s0,timeout=5", n->folder);
	refused(n, options);
	snprintf(options, sizeof(options), "uri=%s,timeout=5", s->uri);
	refused(n, options);
}

/* Pre-shared keys: the right one opens, the wrong one does not. */
static void pre_shared_keys(void **state)
{
	struct nbd_world *n = *state;
	char how[256], options[512];
	struct server *s;

	snprintf(how, sizeof(how), "--tls-psk=%s/pki", n->folder);
	s = tls_server(n, how);
	nbd_open(n, "uri=%s,tls_psk=%s/pki/keys,timeout=5", s->uri, n->folder);
	round_trip(n);
	assert_int_equal(nbd_close_device(n), 0);
	snprintf(options, sizeof(options), "uri=%s,tls_psk=%s/pki/wrong,timeout=5", s->uri,
		 n->folder);
	refused(n, options);
}

/* A TLS server that is lost and comes back is shaken hands with again. */
static void tls_after_a_restart(void **state)
{
	struct nbd_world *n = *state;
	struct server *s;
	unsigned char *p;
	char how[256];

	snprintf(how, sizeof(how), "--tls-psk=%s/pki", n->folder);
	s = tls_server(n, how);
	nbd_open(n, "uri=%s,tls_psk=%s/pki/keys,timeout=20", s->uri, n->folder);
	p = map_filled(NR, 2);
	server_kill(s);
	server_again(s);
	assert_true(eventually(({ IGNORE(nbd_try_move_in(n, p, NR));
				  all_at(n->w, p, NR, HMM_PLACE_DEVICE); })));
	assert_holds(p, NR, 2, 0);
	munmap(p, NR * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		nbd_test(certificates),
		nbd_test(pre_shared_keys),
		nbd_test(tls_after_a_restart),
	};

	need_nbd();
	if (system("command -v certtool >/dev/null 2>&1"))
		skip_program("certtool (gnutls-bin) is not installed");
	if (system("nbdkit --dump-config | grep -q '^tls=yes'"))
		skip_program("this nbdkit has no TLS");
	return cmocka_run_group_tests_name("nbd_tls", tests, tls_begin, nbd_world_end);
}
