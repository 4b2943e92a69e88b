// SPDX-License-Identifier: MIT
/*
 * Static data of what is loaded.
 */
#include <link.h>

#include "sys/sys.h"

struct telling {
	void (*fn)(uintptr_t start, uintptr_t end, void *ctx);
	void *ctx;
};

static uintptr_t page_up(uintptr_t a)
{
	return (a + sys_page_size() - 1) & ~(sys_page_size() - 1);
}

/* What a segment has in memory and not in the file lies in anonymous pages behind it. */
static int tell_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	const struct telling *t = arg;

	(void)size;
	for (unsigned int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t at = info->dlpi_addr + p->p_vaddr;
		uintptr_t start = page_up(at + p->p_filesz), end = page_up(at + p->p_memsz);

		if (p->p_type == PT_LOAD && start < end)
			t->fn(start, end, t->ctx);
	}
	return 0;
}

void sys_for_each_static(void (*fn)(uintptr_t start, uintptr_t end, void *ctx), void *ctx)
{
	struct telling t = { fn, ctx };

	dl_iterate_phdr(tell_object, &t);
}

struct asking {
	uintptr_t start, end;
};

static int object_overlaps(struct dl_phdr_info *info, size_t size, void *arg)
{
	const struct asking *a = arg;

	(void)size;
	for (unsigned int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t at = info->dlpi_addr + p->p_vaddr;

		if (p->p_type == PT_LOAD && at < a->end && page_up(at + p->p_memsz) > a->start)
			return 1;
	}
	return 0;
}

bool sys_in_object(uintptr_t start, uintptr_t end)
{
	struct asking a = { start, end };

	return dl_iterate_phdr(object_overlaps, &a) != 0;
}
