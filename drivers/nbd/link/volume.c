/* SPDX-License-Identifier: MIT */
#include "volume.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void report(const char *format, ...)
{
	char line[512] = "uhmm nbd: ";
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line + 10, sizeof(line) - 12, format, args);
	va_end(args);
	if (n < 0)
		return;
	n += 10;
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n] = '\n';
	/* Nobody is there to tell where this fails. */
	if (write(STDERR_FILENO, line, (size_t)n + 1) < 0)
		return;
}

void *map_zeroed(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int volume_lay_out(struct volume *v, const char **why)
{
	uint64_t chunks = UINT64_MAX, wanted;

	for (uint32_t i = 0; i < v->nr_servers; i++)
		if (v->server[i].nr_chunks < chunks)
			chunks = v->server[i].nr_chunks;
	v->nr_chunks = chunks * v->nr_groups;
	v->nr_pages = v->nr_chunks * v->chunk_pages;
	wanted = v->cfg.max_bytes / v->page;
	if (wanted > v->nr_pages) {
		*why = "the exports are smaller than mem=";
		return -EINVAL;
	}
	if (wanted)
		v->nr_pages = wanted;
	v->present = map_zeroed(v->nr_chunks * sizeof(*v->present));
	if (!v->present)
		goto no_memory;
	for (uint32_t i = 0; i < v->nr_servers; i++) {
		v->stale[i] = map_zeroed(v->nr_chunks * sizeof(*v->stale[i]));
		if (!v->stale[i])
			goto no_memory;
	}
	if (!v->cfg.seal || !seal_init(&v->seal, v->nr_pages, v->page))
		return 0;

no_memory:
	*why = "no memory for the tables, or no random numbers for the key";
	return -ENOMEM;
}
