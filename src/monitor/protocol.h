/* SPDX-License-Identifier: MIT */
/*
 * What passes between the monitor and the agent that it has in each program.
 *
 *	program				monitor
 *	-------				-------
 *	connect()			checks who it is
 *					config, with the shared memory
 *	maps it, starts the agent
 *	agent: ready, with the
 *	userfaultfd			checks that the agent has the program's memory
 *					go
 *	goes on to main()
 *
 * A program that has no dynamic linker to load the agent's library is stopped at its
 * first instruction, and the library written into it, with what it has to know
 * (struct agent_entry); from then on all is the same.
 *
 * Messages of a Unix socket, one struct each; the descriptors are O_CLOEXEC. From then
 * on the socket is closed and the two share one area of memory: a ring of system calls,
 * which the agent makes in order, from when it is ready on. It decides nothing; an agent
 * that is not wanted is asked to exit. To the monitor all that
 * the program's side writes is hearsay: a program can only harm itself.
 */
#ifndef UHMM_MONITOR_PROTOCOL_H
#define UHMM_MONITOR_PROTOCOL_H

#include <stdatomic.h>
#include <stdint.h>

/* Of the program's environment: where the monitor listens. */
#define AGENT_SOCKET_ENV	"UHMM_MONITOR"
#define AGENT_NAME		"uhmm-agent"	/* of its task */

#define AGENT_VERSION		4u

struct agent_config {
	uint32_t version;
	uint32_t serve_forks;	/* a child made by fork connects too, at once */
	uint64_t shm_bytes;	/* of the first descriptor; the second is a pidfd of the warden */
	uint64_t uffd_features;	/* to ask for, where no third descriptor is the userfaultfd */
	uint64_t uffd_optional;	/* of these, those that may need a privilege */
	uint64_t limbo_bytes;	/* to reserve, in blocks of 512 pages; 0: none */
	uint64_t limbo_block;	/* what a block has, and is aligned to */
	int64_t warden;		/* its pid, which in another namespace may be another's */
};

struct agent_ready {
	uint32_t version;
	int32_t error;		/* 0, or the errno that says why there is no agent */
	int32_t failed_call;	/* the system call that said so */
	int32_t agent_uffd;	/* its number in the agent's descriptor table */
	uint64_t uffd_features;	/* that it got */
	uint64_t own_start, own_end;	/* the agent's own memory: not to be managed */
	uint64_t shm_addr;	/* the shared memory, in the program */
	uint64_t limbo;
	uint64_t follows_forks;	/* not 0: children made by fork connect by themselves */
};

struct agent_go {
	uint32_t version;
};

/*
 * The agent's memory, in one reservation, which a forked child does not have:
 *
 *	[image and agent_entry][struct agent | stack][shared memory]   [limbo, aligned]
 *	own_start                                    shm_addr       own_end
 *
 * The first part is there only where the library was written into the program.
 */
#define AGENT_STACK		16384u

static inline uint64_t agent_bytes(const struct agent_config *config)
{
	return AGENT_STACK + config->shm_bytes +
	       (config->limbo_bytes ? config->limbo_bytes + config->limbo_block : 0);
}

#define AGENT_PATH		108u	/* what a Unix socket's address has room for */

/*
 * At the start of the last AGENT_ENTRY_BYTES of the image, which are else the stack of
 * who runs it.
 */
#define AGENT_ENTRY_BYTES	16384u

struct agent_entry {
	uint64_t base;		/* of the reservation: agent_bytes() and the image's */
	uint64_t image_bytes;
	int32_t inherited;	/* of a forked child: its parent's userfaultfd, to be closed; or -1 */
	int32_t joined;		/* out: an agent is there */
	int32_t done;		/* out: not 0 when all this is over */
	int32_t pad;
	char path[AGENT_PATH];	/* where the monitor listens */
};

#define AGENT_RING		64u	/* a power of two */

struct agent_call {
	uint64_t nr;		/* system call number */
	uint64_t args[6];	/* addresses are the program's */
	int64_t ret;		/* by the agent: result or negative errno */
};

/*
 * The shared memory. One writer per field. Call i lies at calls[i % AGENT_RING];
 *
 *	completed <= submitted <= completed + AGENT_RING	(modulo 2^32)
 */
struct agent_shm {
	_Atomic uint32_t submitted;	/* monitor: futex; release: the calls before it */
	uint32_t pad0[15];
	_Atomic uint32_t completed;	/* agent: futex; release: their results */
	uint32_t pad1[15];
	struct agent_call calls[AGENT_RING];
};

/* What follows in the shared memory: for arguments in memory. */
#define AGENT_SHM_ARGS		8192u	/* offset */
#define AGENT_SHM_BYTES		(64u << 10)

_Static_assert(sizeof(struct agent_shm) <= AGENT_SHM_ARGS, "the ring fits");

#endif
