/* SPDX-License-Identifier: MIT */
/*
 * A program that uses the devices: nothing but their files and the protocol. It runs
 * under `uhmm dmirror`, and under nothing where a kernel has the driver.
 */
#ifndef DMIRROR_TEST_PROGRAM_H
#define DMIRROR_TEST_PROGRAM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#include "drivers/dmirror/protocol.h"

#define RW	(PROT_READ | PROT_WRITE)
#define HUGE	((size_t)2 << 20)
#define PAGE_MOST	65536	/* bytes: of any kernel's page */
#define EXIT_SKIP	77

extern size_t page;

/* What the last request gave back. */
extern struct dmirror_cmd cmd;

int device(unsigned int unit);		/* open; fails the test where it cannot */

/* A request; 0 or a negative errno. */
int request(int fd, unsigned long nr, const void *addr, size_t npages, void *buffer);

void *map(size_t npages, int prot);
void fill(void *p, size_t npages, uint32_t seed);
bool holds(const void *p, size_t npages, uint32_t seed);
/* All but the @len bytes from @from on, both whole words. */
bool holds_but(const void *p, size_t npages, uint32_t seed, size_t from, size_t len);
bool all_zero(const void *p, size_t npages);

/*
 * 2 MiB aligned, one large page of the CPU's; @base is to unmap (4 MiB). NULL: none to be
 * had, and why a claim skips is said.
 */
unsigned char *map_huge(unsigned char **base, uint32_t seed);
bool is_huge(const void *p);

/* The bytes of a snapshot. */
const uint8_t *snapshot(int fd, const void *addr, size_t npages);

uint64_t pagemap_entry(const void *addr);	/* read() of one's own pagemap */

/* @fn in a forked child: 0 yes, 1 no, or 128 and a signal. */
int in_child(int (*fn)(void *arg), void *arg);

#define assert_holds(p, n, seed)	assert_true(holds(p, n, seed))

/* UHMM_CAPS masks it: what only that gives is not claimed. */
bool masked(const char *cap);

/* Both kinds, where a claim holds for both. */
#define for_each_kind(unit)	for (unsigned int unit = 0; unit < 4; unit += 2)

/* Prints why not and ends with 77 unless the devices are there. */
void need_devices(void);

#endif
