/* SPDX-License-Identifier: MIT */
/*
 * One byte for each page: what the device could do with it now, without a fault.
 */
#include <errno.h>
#include <string.h>

#include "dmirror.h"

#define PUD_ORDER	18u	/* 1 GiB of 4 KiB pages */

static uint8_t kind_byte(const struct dmirror *m, uint64_t pfn)
{
	switch (pfn_kind(m, pfn)) {
	case KIND_PRIVATE:
		return DMIRROR_PROT_DEV_PRIVATE_LOCAL;
	case KIND_COHERENT:
		return pfn_is_local(m, pfn) ? DMIRROR_PROT_DEV_COHERENT_LOCAL :
					      DMIRROR_PROT_DEV_COHERENT_REMOTE;
	default:
		return pfn & HMM_PFN_ZERO ? DMIRROR_PROT_ZERO : 0;
	}
}

static uint8_t order_byte(uint64_t pfn)
{
	uint64_t order = (pfn & HMM_PFN_ORDER_MASK) >> HMM_PFN_ORDER_SHIFT;
	unsigned int pmd = (unsigned int)__builtin_ctz(FRAMES_BLOCK);

	return order == PUD_ORDER ? DMIRROR_PROT_PUD : order == pmd ? DMIRROR_PROT_PMD : 0;
}

static uint8_t byte_of(const struct dmirror *m, uint64_t pfn)
{
	if (pfn & HMM_PFN_ERROR)
		return DMIRROR_PROT_ERROR;
	if (!(pfn & HMM_PFN_VALID))
		return DMIRROR_PROT_NONE;
	/* Private memory of another device is not for this one to reach. */
	if (pfn_kind(m, pfn) == KIND_PRIVATE && !pfn_is_local(m, pfn))
		return DMIRROR_PROT_NONE;
	return (uint8_t)(kind_byte(m, pfn) | order_byte(pfn) |
			 (pfn & HMM_PFN_WRITE ? DMIRROR_PROT_WRITE : DMIRROR_PROT_READ));
}

int request_snapshot(struct request *r)
{
	struct dmirror *m = r->mirror;
	size_t page = m->process->page_size;
	uintptr_t stop;

	for (uintptr_t va = r->start; va < r->end; va = stop) {
		uint64_t pfns[PIECE_PAGES], seq;
		uint8_t bytes[PIECE_PAGES];
		size_t nr;
		int ret;

		stop = min_addr(va + PIECE_PAGES * page, r->end);
		nr = (stop - va) / page;
		ret = mirror_look(m, va, stop, 0, pfns, &seq);
		if (ret && ret != -EFAULT)
			return ret;
		for (size_t i = 0; i < nr; i++)		/* EFAULT: beyond user space */
			bytes[i] = ret ? DMIRROR_PROT_ERROR : byte_of(m, pfns[i]);
		if (hmm_copy_to_user(m->process->mm, r->cmd.ptr + (va - r->start) / page, bytes,
				     nr) != (int64_t)nr)
			return -EFAULT;
		r->cmd.cpages += nr;
	}
	return 0;
}
