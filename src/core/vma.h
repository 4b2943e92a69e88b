/* SPDX-License-Identifier: MIT */
/*
 * The program's mappings, and what of them is not the program's to lose: threads' stacks
 * and control blocks, static data, memory of the library's own.
 */
#ifndef UHMM_CORE_VMA_H
#define UHMM_CORE_VMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uhmm/driver.h>

#include "sys/sys.h"

#define VMA_CACHE	32u		/* more than mapping_run() looks at */
#define STATICS_MAX	512u

struct hmm_mm;

/* Mappings known to hold no thread's control block, and no static data. */
struct vma_cache {
	uintptr_t start[VMA_CACHE], end[VMA_CACHE];
	uint32_t next;
};

/* The threads' control blocks, as of the operation under way. */
struct tcb_list {
	struct tcb {
		uintptr_t addr;
		bool main;
	} tcb[SYS_TCBS_MAX];
	uint32_t nr;
	bool valid, overflow;
	uint64_t mark, looked_ns;	/* the threads' when all were found, and when; 0: not all */
};

/*
 * Static data without a file (.bss), and how far it reaches around a thread's control
 * block (TLS), as of the last time that somebody new could want it: the fault path and
 * drivers stand on its never being away.
 */
struct static_list {
	struct static_span {
		uintptr_t start, end;
	} span[STATICS_MAX];
	uint32_t nr, missed;
	size_t tls_below, tls_above;	/* as sys_tls_around(); not of a remote mm */
};

/*
 * The mapping at @addr or the next above; -ENOENT. Where a thread's stack or control
 * block, or static data, lies in a mapping of the program's (the kernel merges
 * neighbours), it counts as one of its own, SYS_VMA_STACK: it is neither taken nor
 * trapped, so that a thread that holds the mm lock never faults on it. Lock held.
 */
int mm_vma(struct hmm_mm *mm, uintptr_t addr, struct sys_vma *vma);

/* Look where static data is: a driver, or a library, may have been loaded. No lock held. */
void mm_statics_look(struct hmm_mm *mm);

/* May pages of this mapping be taken? HMM_REASON_NONE: yes. */
enum hmm_reason mm_vma_reason(const struct hmm_mm *mm, const struct sys_vma *vma);

/* Is it private anonymous memory of the program's, whatever its protection is by now? */
bool mm_vma_anonymous(const struct hmm_mm *mm, const struct sys_vma *vma);

/* An operation begins: at its first look it finds out where the threads are. Lock held. */
void mm_vma_begin(struct hmm_mm *mm);

/* Mappings change: what was found to be free of threads may be so no more. Lock held. */
void mm_vma_forget(struct hmm_mm *mm);

#endif
