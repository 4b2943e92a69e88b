// SPDX-License-Identifier: MIT
/*
 * Static data of what is loaded, and where its threads' is.
 */
#include <link.h>
#include <stddef.h>

#include "sys/internal.h"
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

struct tls_reach {
	uintptr_t block;		/* an address in the thread's control block */
	size_t below, above;
};

/* A library's TLS that was made later than the thread is somewhere else altogether. */
#define STATIC_TLS_MAX	(1u << 20)

static void tls_reach(struct tls_reach *r, uintptr_t start, uintptr_t end)
{
	if (start < r->block && r->block - start < STATIC_TLS_MAX && r->block - start > r->below)
		r->below = r->block - start;
	if (end > r->block && end - r->block < STATIC_TLS_MAX && end - r->block > r->above)
		r->above = end - r->block;
}

static int tls_of_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t start = size > offsetof(struct dl_phdr_info, dlpi_tls_data) ?
				  (uintptr_t)info->dlpi_tls_data : 0;

	for (unsigned int i = 0; start && i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_TLS)
			tls_reach(arg, start, start + info->dlpi_phdr[i].p_memsz);
	return 0;
}

void sys_tls_around(size_t *below, size_t *above)
{
	struct tls_reach reach = { .block = 0 };
	uintptr_t rseq = sys_own_rseq();

	sys_tell_tcb();
	reach.block = sys_own_tcb();
	if (reach.block)
		dl_iterate_phdr(tls_of_object, &reach);
	if (reach.block && rseq)
		tls_reach(&reach, rseq, rseq + SYS_RSEQ_SIZE);
	*below = reach.block ? reach.below : sys_page_size();
	*above = reach.above;
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
