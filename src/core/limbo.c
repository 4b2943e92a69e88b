/* SPDX-License-Identifier: MIT */
#include "core/limbo.h"

#include <sys/mman.h>

#include "core/mm.h"

uintptr_t limbo_of(const struct hmm_mm *mm, uintptr_t addr)
{
	return mm->limbo + (addr - block_base(addr));
}

/* Address space for one block, at the first use. */
static int limbo_open(struct hmm_mm *mm)
{
	void *p;
	int ret;

	if (mm->limbo)
		return 0;
	ret = arena_chunks_get(1, &p);
	if (!ret)
		mm->limbo = (uintptr_t)p;
	return ret;
}

void limbo_close(struct hmm_mm *mm)
{
	if (mm->limbo)
		arena_chunks_put((void *)mm->limbo, 1);
	mm->limbo = 0;
}

size_t limbo_take(struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t addr, size_t len)
{
	size_t head = 0;
	uintptr_t to;

	lock_assert_held(&mm->lock);
	if (limbo_open(mm))
		return 0;
	to = limbo_of(mm, addr);
	/* A mapping emptied in one call could never be merged with its neighbours again. */
	if (len > mm->page && vma->start == addr && vma->end == addr + len)
		head = mm->page;
	if (head && sys_mremap_dontunmap(addr, head, to))
		return 0;
	if (sys_mremap_dontunmap(addr + head, len - head, to + head))
		len = head;
	mm->stats.remapped_runs++;
	/* Refused, MOVE will say so and the pages go back. */
	(void)sys_mprotect((void *)to, len, PROT_READ | PROT_WRITE);
	return len;
}

int limbo_return(struct hmm_mm *mm, const struct sys_vma *vma, uintptr_t addr, size_t len)
{
	int prot = PROT_READ | (vma->flags & SYS_VMA_EXEC ? PROT_EXEC : 0);
	uintptr_t from = limbo_of(mm, addr);
	int ret = sys_mprotect((void *)from, len, prot);

	if (!ret)
		ret = sys_mremap_dontunmap(from, len, addr);
	if (ret)
		return ret;
	/* What came is trapped by nobody, and a mapping apart until it is. */
	(void)sys_uffd_register(mm->uffd, addr, len, SYS_UFFD_MISSING);
	return 0;
}

void limbo_clear(struct hmm_mm *mm)
{
	void *p = (void *)mm->limbo;

	if (!sys_map_fixed(p, arena_chunk_bytes(), PROT_NONE))
		(void)sys_madvise(p, arena_chunk_bytes(), MADV_DONTFORK);
}
