/* SPDX-License-Identifier: MIT */
/*
 * The protocol of Linux's HMM test driver, as its users see it: device numbers, one
 * structure for every request, one byte per page of a snapshot.
 */
#ifndef DMIRROR_PROTOCOL_H
#define DMIRROR_PROTOCOL_H

#include <stdint.h>
#include <sys/ioctl.h>

/* /dev/hmm_dmirror0 and 1 have private memory, 2 and 3 coherent. */
#define DMIRROR_UNITS		4u
#define DMIRROR_FIRST_COHERENT	2u

struct dmirror_cmd {
	uint64_t addr;		/* in: where, page aligned */
	uint64_t ptr;		/* in: the caller's buffer */
	uint64_t npages;	/* in: how many; FLAGS: the flags */
	uint64_t cpages;	/* out: pages copied, or moved */
	uint64_t faults;	/* out: rounds of device faults */
};

#define DMIRROR_READ		_IOWR('H', 0x00, struct dmirror_cmd)
#define DMIRROR_WRITE		_IOWR('H', 0x01, struct dmirror_cmd)
#define DMIRROR_MIGRATE_TO_DEV	_IOWR('H', 0x02, struct dmirror_cmd)
#define DMIRROR_MIGRATE_TO_SYS	_IOWR('H', 0x03, struct dmirror_cmd)
#define DMIRROR_SNAPSHOT	_IOWR('H', 0x04, struct dmirror_cmd)
#define DMIRROR_EXCLUSIVE	_IOWR('H', 0x05, struct dmirror_cmd)
#define DMIRROR_CHECK_EXCLUSIVE	_IOWR('H', 0x06, struct dmirror_cmd)
#define DMIRROR_RELEASE		_IOWR('H', 0x07, struct dmirror_cmd)
#define DMIRROR_FLAGS		_IOWR('H', 0x08, struct dmirror_cmd)
#define DMIRROR_READ_UNLOCKED	_IOWR('H', 0x09, struct dmirror_cmd)

#define DMIRROR_FLAG_FAIL_ALLOC	(1ULL << 0)	/* the next large allocation fails, once */

enum dmirror_prot {
	DMIRROR_PROT_NONE		 = 0x00,
	DMIRROR_PROT_READ		 = 0x01,
	DMIRROR_PROT_WRITE		 = 0x02,	/* instead of READ */
	DMIRROR_PROT_PMD		 = 0x04,
	DMIRROR_PROT_PUD		 = 0x08,
	DMIRROR_PROT_ZERO		 = 0x10,
	DMIRROR_PROT_DEV_PRIVATE_LOCAL	 = 0x20,
	DMIRROR_PROT_DEV_PRIVATE_REMOTE	 = 0x30,	/* as the kernel, we never say it */
	DMIRROR_PROT_DEV_COHERENT_LOCAL	 = 0x40,
	DMIRROR_PROT_DEV_COHERENT_REMOTE = 0x50,
	DMIRROR_PROT_ERROR		 = 0xff,
};

#endif
