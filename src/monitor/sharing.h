/* SPDX-License-Identifier: MIT */
/*
 * What a fork leaves to several processes is in each one's count of memory, and in RAM
 * once. What of it is whose the kernel tells from the page tables (smaps_rollup), some 30
 * ns a page, with the lock of the mappings held: so it is asked for a part of the time.
 * In between RAM is what it was, and what the counts have grown by, and a page for each
 * fault, which may have copied one: that is too much rather than too little. Not seen is
 * who lets go of what he shares and takes as much anew, until it is asked again.
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
	uint64_t bytes, counts, faults;	/* in RAM when it was asked; counted, and faults, before */
	uint64_t since_ns, cost_ns;	/* when that was, and how long it took */
	uint64_t who;			/* what the processes' numbers came to */
	bool exact;			/* what sharing_bytes() said last is no estimate */
};

/*
 * Bytes in RAM of all @sharers together. The kernel is asked again when @rest times as long
 * has passed as that took, or twice where others are there than before; where no more than
 * @enough is in RAM, as far as is known, or next to nothing is shared, more seldom. One
 * thread.
 */
uint64_t sharing_bytes(struct sharing *sharing, const struct sharer *sharers, unsigned int nr,
		       uint64_t enough, unsigned int rest);

#endif
