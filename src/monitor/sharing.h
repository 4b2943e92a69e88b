/* SPDX-License-Identifier: MIT */
/*
 * What a fork leaves to several processes is in each one's count of memory, and in RAM
 * once. What of it is whose the kernel tells from the page tables (smaps_rollup), some 30
 * ns a page, with the lock of the mappings held: so it is asked seldom. Meanwhile what is
 * shared can only become less, by faults that copy a page each, and these are counted:
 *
 *	RAM when asked = the counts then - what they had too often
 *	RAM now       <= the counts now - that + a page for each fault since
 */
#ifndef UHMM_MONITOR_SHARING_H
#define UHMM_MONITOR_SHARING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sharer {
	pid_t pid;			/* whose faults count */
	pid_t memory;			/* who has its memory; often the same */
	uint64_t resident;		/* sys_memory_of() that */
};

/* Of one who asks. Zeroed: nothing is known yet. */
struct sharing {
	uint64_t often;			/* bytes that the counts together had too often */
	uint64_t faults;		/* of all, just before */
	uint64_t since_ns, cost_ns;	/* when that was asked, and how long it took */
	uint64_t who;			/* what the processes' numbers came to */
};

/*
 * Bytes in RAM of all @sharers together, or more; as exactly as can be where they are more
 * than @enough. The kernel is asked again once @rest times as long has passed as it took,
 * where little is shared by the same processes 64 times. One thread.
 */
uint64_t sharing_bytes(struct sharing *sharing, const struct sharer *sharers, unsigned int nr,
		       uint64_t enough, unsigned int rest);

#endif
