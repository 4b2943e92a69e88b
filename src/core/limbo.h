/* SPDX-License-Identifier: MIT */
/*
 * Limbo: where pages of a read-only mapping stop on their way to staging.
 *
 * UFFDIO_MOVE alone sees a pin, and it wants both sides writable. The program's mapping
 * is not, and cannot be made so for a moment: a store that has to raise SIGSEGV would
 * go through. mremap(DONTUNMAP) takes such pages pinned or not, each the same physical
 * page after as before. So they go by limbo, which is ours to write:
 *
 *	program's r--	limbo rw-	staging rw-
 *	A  B* C
 *	.  .  .		A  B* C				mremap
 *	.  .  .		.  B* .		A  .  C		MOVE: B* is pinned
 *	.  B* .		.  .  .		A  .  C		mremap
 *
 * and B* is back as if it had never left, with the DMA that goes to it. Only in a
 * strict mm, under its lock: the mapping stays what it is meanwhile, and who touches
 * its pages waits.
 */
#ifndef UHMM_CORE_LIMBO_H
#define UHMM_CORE_LIMBO_H

#include <stddef.h>
#include <stdint.h>

struct hmm_mm;
struct sys_vma;

/*
 * Take [addr, addr + len), inside one block and @vma. Returns how many bytes from
 * @addr on are in limbo now, at limbo_of(): all, or fewer, or 0.
 */
size_t limbo_take(struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t addr, size_t len);

/* Where in limbo a page of the program's is. */
uintptr_t limbo_of(const struct hmm_mm *mm, uintptr_t addr);

/* Put pages back to where they came from. 0, or an error: they are in limbo still. */
int limbo_return(struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t addr, size_t len);

/* Empty again, page tables too: a 2 MiB page can come whole. */
void limbo_clear(struct hmm_mm *mm);

void limbo_close(struct hmm_mm *mm);

#endif
