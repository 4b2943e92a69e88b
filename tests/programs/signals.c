/* SPDX-License-Identifier: MIT */
/*
 * A program that lives by its SIGSEGV handler, as collectors and emulators do: memory is
 * protected, a write to it is caught, noted and let through, now and then by a jump out.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES	2000u

static sigjmp_buf again;
static volatile unsigned int caught;
static uintptr_t page;

static void on_segv(int sig, siginfo_t *info, void *context)
{
	uintptr_t addr = (uintptr_t)info->si_addr & ~(page - 1);

	(void)sig;
	(void)context;
	mprotect((void *)addr, page, PROT_READ | PROT_WRITE);
	if (++caught % 7 == 0)
		siglongjmp(again, 1);
}

static uint64_t sum(const unsigned char *p)
{
	uint64_t s = 0;

	for (size_t i = 0; i < PAGES * page; i++)
		s = s * 31 + p[i];
	return s;
}

int main(void)
{
	struct sigaction sa = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER };
	unsigned char *p;

	page = (uintptr_t)sysconf(_SC_PAGESIZE);
	p = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || sigaction(SIGSEGV, &sa, NULL))
		return 2;
	for (unsigned int round = 0; round < 20; round++) {
		volatile size_t i = 0;

		memset(p, (int)round, PAGES * page);
		if (mprotect(p, PAGES * page, PROT_READ))
			return 2;
		/* Who jumps out writes again. */
		sigsetjmp(again, 1);
		for (; i < PAGES; i++)
			p[i * page + round] = (unsigned char)i;
		printf("%016llx %u\n", (unsigned long long)sum(p), caught);
	}
	return 0;
}
