/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "liar.h"

#include <endian.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAGIC		0x4e42444d41474943ULL
#define OPTION_MAGIC	0x49484156454f5054ULL
#define REPLY_MAGIC	0x3e889045565a9ULL
#define REQUEST		0x25609513u
#define RESPONSE	0x67446698u
#define OPT_ABORT	2u
#define OPT_GO		7u
#define REP_ACK		1u
#define REP_INFO	3u
#define REP_UNSUP	0x80000001u
#define FLAGS		(1u | 1u << 5 | 1u << 8)	/* HAS_FLAGS, TRIM, MULTI_CONN */
#define PIECE		(256u << 10)

const char *const lie_names[LIES] = {
	"honest", "nonsense", "wrong bytes", "short data", "errors", "silence", "late",
	"stale cookie", "halves",
};

struct option_reply {
	uint64_t magic;
	uint32_t option, type, len;
} __attribute__((packed));

struct request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t len;
} __attribute__((packed));

struct response {
	uint32_t magic, error;
	uint64_t cookie;
} __attribute__((packed));

static unsigned char *disk;
static uint64_t disk_bytes;
static struct liar *control;

static void put(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n <= 0)
			_exit(0);
		p += n;
		len -= (size_t)n;
	}
}

static void get(int fd, void *data, size_t len)
{
	if (len && recv(fd, data, len, MSG_WAITALL) != (ssize_t)len)
		_exit(0);
}

static void option_answer(int fd, uint32_t option, uint32_t type, const void *data, uint32_t len)
{
	struct option_reply r = {
		htobe64(REPLY_MAGIC), htobe32(option), htobe32(type), htobe32(len),
	};

	put(fd, &r, sizeof(r));
	put(fd, data, len);
}

static void handshake(int fd)
{
	struct { uint64_t magic, option; uint16_t flags; } __attribute__((packed)) hello = {
		htobe64(MAGIC), htobe64(OPTION_MAGIC), htobe16(3),
	};
	struct { uint64_t magic; uint32_t option, len; } __attribute__((packed)) ask;
	struct { uint16_t type; uint64_t size; uint16_t flags; } __attribute__((packed)) info = {
		0, htobe64(disk_bytes), htobe16(FLAGS),
	};
	static char data[4096];
	uint32_t flags;

	put(fd, &hello, sizeof(hello));
	get(fd, &flags, sizeof(flags));
	for (;;) {
		get(fd, &ask, sizeof(ask));
		if (be32toh(ask.len) > sizeof(data))
			_exit(0);
		get(fd, data, be32toh(ask.len));
		if (be32toh(ask.option) == OPT_GO)
			break;
		option_answer(fd, be32toh(ask.option),
			      be32toh(ask.option) == OPT_ABORT ? REP_ACK : REP_UNSUP, NULL, 0);
	}
	option_answer(fd, OPT_GO, REP_INFO, &info, sizeof(info));
	option_answer(fd, OPT_GO, REP_ACK, NULL, 0);
}

static void nap_ms(uint32_t ms)
{
	struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&ts, NULL);
}

/* The answer to a read that is no identity's. true: it was given. */
static bool lie_about(int fd, const struct request *q, const unsigned char *bytes, uint32_t len)
{
	struct response r = { htobe32(RESPONSE), 0, q->cookie };
	static unsigned char wrong[PIECE];
	uint32_t lie = atomic_load(&control->lie);

	if (lie != HONEST)
		atomic_fetch_add(&control->lied, 1);
	switch (lie) {
	case NONSENSE:
		memset(wrong, 0x5a, sizeof(wrong));
		put(fd, wrong, sizeof(r) + len);
		return true;
	case WRONG_BYTES:
		memcpy(wrong, bytes, len);
		wrong[len / 2] ^= 1;
		put(fd, &r, sizeof(r));
		put(fd, wrong, len);
		return true;
	case SHORT_DATA:
		put(fd, &r, sizeof(r));
		put(fd, bytes, len / 2);
		_exit(0);
	case ERRORS:
		r.error = htobe32(5);
		put(fd, &r, sizeof(r));
		return true;
	case SILENCE:
		return true;
	case STALE_COOKIE:
		r.cookie ^= 1ULL << 40;
		put(fd, &r, sizeof(r));
		put(fd, bytes, len);
		return true;
	case HALVES:
		put(fd, &r, sizeof(r));
		nap_ms(atomic_load(&control->late_ms));
		put(fd, bytes, len);
		return true;
	case LATE:
		nap_ms(atomic_load(&control->late_ms));
		return false;
	}
	return false;
}

static void serve(int fd)
{
	struct request q;

	handshake(fd);
	for (;;) {
		struct response r = { htobe32(RESPONSE), 0, 0 };
		uint32_t len;
		uint64_t at;

		get(fd, &q, sizeof(q));
		at = be64toh(q.offset);
		len = be32toh(q.len);
		if (be32toh(q.magic) != REQUEST || be16toh(q.type) == 2)
			_exit(0);
		if (at > disk_bytes || len > disk_bytes - at || len > PIECE)
			_exit(1);
		r.cookie = q.cookie;
		if (be16toh(q.type) == 1)
			get(fd, disk + at, len);
		if (be16toh(q.type) == 1 && atomic_load(&control->holds)) {
			atomic_fetch_add(&control->held, 1);
			continue;
		}
		if (be16toh(q.type) == 0 && len >= 4096 && lie_about(fd, &q, disk + at, len))
			continue;
		put(fd, &r, sizeof(r));
		if (be16toh(q.type) == 0)
			put(fd, disk + at, len);
	}
}

static void listen_on(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	uint32_t nr = 0;

	strcpy(addr.sun_path, path);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 32))
		_exit(1);
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int conn = accept(fd, NULL, NULL);
		uint32_t most = atomic_load(&control->most);

		if (conn >= 0 && (!most || nr < most) && ++nr && !fork()) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(fd);
			serve(conn);
		}
		close(conn);
	}
}

struct server *liar_run(struct nbd_world *n, int nr, uint64_t bytes, struct liar **out)
{
	struct server *s = &n->server[nr];
	char path[sizeof(s->path)];

	snprintf(path, sizeof(path), "%s/s%d", n->folder, nr);
	memcpy(s->path, path, sizeof(path));
	s->port = 0;
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///?socket=%s", path);
	unlink(s->path);
	disk_bytes = bytes;
	disk = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	control = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(disk, MAP_FAILED);
	assert_ptr_not_equal(control, MAP_FAILED);
	fflush(NULL);
	s->pid = fork();
	if (!s->pid) {
		alarm(0);
		signal(SIGALRM, SIG_DFL);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		listen_on(s->path);
	}
	assert_true(eventually(access(s->path, F_OK) == 0));
	*out = control;
	return s;
}
