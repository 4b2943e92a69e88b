/* SPDX-License-Identifier: MIT */
/*
 * What a change of the program's mappings does to the tables.
 */
#include "core/devmem.h"

/* The page's device memory, slot or flight is let go; its entry is PAGE_SYSTEM. */
static void drop_page(struct hmm_mm *mm, uintptr_t addr, uint64_t entry, struct free_run *run)
{
	switch (entry_state(entry)) {
	case PAGE_DEVICE:
	case PAGE_COHERENT:
		devmem_unbind(devmem_find(mm, entry_devmem(entry)), entry_index(entry), run);
		break;
	case PAGE_ISOLATED:
		isolation_forget(mm, entry);
		break;
	case PAGE_EXCLUSIVE:
		exclusive_drop(mm, entry_exclusive_slot(entry));
		break;
	case PAGE_LOST:
		break;
	default:
		return;
	}
	directory_set(&mm->dir, addr, PAGE_SYSTEM);
}

void mm_drop(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	struct free_run run = { 0 };
	uintptr_t a = directory_next(&mm->dir, start, end), last = 0, first = a;

	lock_assert_held(&mm->lock);
	for (; a < end; a = directory_next(&mm->dir, a + mm->page, end)) {
		drop_page(mm, a, directory_get(&mm->dir, a), &run);
		last = a + mm->page;
	}
	free_run_flush(&run);
	/* Who waits for one of these pages finds a gap, or a hole, at its next try. */
	if (last)
		sys_uffd_wake(mm->uffd, first, last - first);
}

static void rekey_page(struct hmm_mm *mm, uintptr_t from, uintptr_t to)
{
	uint64_t entry = directory_get(&mm->dir, from);
	enum page_state state = entry_state(entry);

	/* The table knows no way from device to device but through isolation. */
	if (state != PAGE_ISOLATED)
		directory_set(&mm->dir, to, entry_isolated(0, 0));
	directory_set(&mm->dir, to, entry);
	directory_set(&mm->dir, from, PAGE_SYSTEM);
	if (state == PAGE_DEVICE || state == PAGE_COHERENT)
		devmem_rebind(devmem_find(mm, entry_devmem(entry)), entry_index(entry), mm, to);
	else if (state == PAGE_ISOLATED)
		isolation_follow(mm, entry, to);
}

/* Leaves for where the pages of [@first, @end) are going, @shift further. */
static int reserve_for(struct hmm_mm *mm, uintptr_t first, uintptr_t end, uintptr_t shift)
{
	int ret = 0;

	for (uintptr_t a = first; a < end && !ret; a = directory_next(&mm->dir, a + mm->page, end))
		ret = directory_reserve(&mm->dir, a + shift, a + shift + mm->page);
	return ret;
}

/* Nothing can be kept in a table there is no leaf of: not even that they are lost. */
static void lose_all(struct hmm_mm *mm, uintptr_t from, uintptr_t end, uintptr_t shift)
{
	uint64_t lost = 0;

	for (uintptr_t a = directory_next(&mm->dir, from, end); a < end;
	     a = directory_next(&mm->dir, a + mm->page, end)) {
		mm_lost(mm, a + shift, false);
		lost++;
	}
	mm_drop(mm, from, end);
	core_log(mm, HMM_LOG_ERROR,
		 "HMM-045 no memory to follow a mremap from %x to %x: what was on a device reads "
		 "as zeros there (%l pages)", (uint64_t)from, (uint64_t)(from + shift), lost);
}

void mm_rekey(struct hmm_mm *mm, uintptr_t from, uintptr_t to, size_t len)
{
	uintptr_t end = from + len, first = directory_next(&mm->dir, from, end), a = first;

	lock_assert_held(&mm->lock);
	if (a == end)
		return;
	mm_drop(mm, to, to + len);
	if (reserve_for(mm, first, end, to - from)) {
		lose_all(mm, from, end, to - from);
		return;
	}
	for (; a < end; a = directory_next(&mm->dir, a + mm->page, end))
		rekey_page(mm, a, to + (a - from));
	sys_uffd_wake(mm->uffd, first, end - first);
}
