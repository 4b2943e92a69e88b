// SPDX-License-Identifier: MIT
/*
 * Static data of what is loaded, and where its threads' is.
 */
#include <errno.h>
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

static int add_tls(struct dl_phdr_info *info, size_t size, void *arg)
{
	size_t *bytes = arg;

	(void)size;
	for (unsigned int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_TLS)
			*bytes += info->dlpi_phdr[i].p_memsz + info->dlpi_phdr[i].p_align;
	return 0;
}

size_t sys_tls_bytes(void)
{
	size_t bytes = 0;

	dl_iterate_phdr(add_tls, &bytes);
	return page_up(bytes);
}

struct tls_reach {
	uintptr_t from;		/* what is told of the thread */
	size_t most;		/* what is further away libc has made later, somewhere else */
	size_t below, above;
};

static void reach(struct tls_reach *r, uintptr_t start, uintptr_t end)
{
	if (start < r->from && r->from - start > r->below)
		r->below = r->from - start;
	if (end > r->from && end - r->from > r->above)
		r->above = end - r->from;
}

#define CONTROL_BLOCK_MAX	(1u << 20)

static int reach_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct tls_reach *r = arg;
	uintptr_t start = size > offsetof(struct dl_phdr_info, dlpi_tls_data) ?
				  (uintptr_t)info->dlpi_tls_data : 0;
	size_t away = start < r->from ? r->from - start : start - r->from;

	for (unsigned int i = 0; start && away < r->most && i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_TLS)
			reach(r, start, start + info->dlpi_phdr[i].p_memsz);
	return 0;
}

void sys_tls_around(const void *own, size_t bytes, size_t *below, size_t *above)
{
	const struct sys_own_block block = sys_own_block();
	struct tls_reach r = { .from = block.told, .most = CONTROL_BLOCK_MAX + sys_tls_bytes() };
	const uintptr_t rseq = sys_own_rseq();

	*below = sys_page_size();
	*above = sys_page_size();
	if (!block.told)
		return;
	reach(&r, block.low, block.high);
	reach(&r, (uintptr_t)&errno, (uintptr_t)(&errno + 1));
	reach(&r, (uintptr_t)own, (uintptr_t)own + bytes);
	if (rseq)
		reach(&r, rseq, rseq + SYS_RSEQ_SIZE);
	dl_iterate_phdr(reach_object, &r);
	*below = r.below + block.up;
	*above = r.above + block.down;
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
