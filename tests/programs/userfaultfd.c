/* SPDX-License-Identifier: MIT */
/*
 * A program that pages memory of its own by userfaultfd, beside ordinary memory that
 * others may page: what it fills is what it finds, and nobody else fills it.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGES	1000u
#define ROUNDS	20u

static int uffd;
static size_t page;
static unsigned char *area;
static unsigned int filled;

static void *serve(void *room)
{
	struct uffd_msg msg;

	while (read(uffd, &msg, sizeof(msg)) == sizeof(msg)) {
		uint64_t at = msg.arg.pagefault.address & ~(uint64_t)(page - 1);
		struct uffdio_copy copy = { .dst = at, .src = (uintptr_t)room, .len = page };

		memset(room, (int)((at - (uintptr_t)area) / page % 251 + 1), page);
		filled++;
		if (ioctl(uffd, UFFDIO_COPY, &copy))
			abort();
	}
	return NULL;
}

int main(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	unsigned char *plain;
	pthread_t thread;
	uint64_t sum = 0;

	page = (size_t)sysconf(_SC_PAGESIZE);
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	area = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	plain = malloc(PAGES * page);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || area == MAP_FAILED || !plain)
		return 2;
	reg.range.start = (uintptr_t)area;
	reg.range.len = PAGES * page;
	if (ioctl(uffd, UFFDIO_REGISTER, &reg) ||
	    pthread_create(&thread, NULL, serve, aligned_alloc(page, page)))
		return 2;
	for (unsigned int round = 0; round < ROUNDS; round++) {
		memset(plain, (int)round, PAGES * page);
		for (size_t i = 0; i < PAGES; i++)
			sum = sum * 31 + area[i * page + round] + plain[i * page + round];
		madvise(area, PAGES * page, MADV_DONTNEED);
	}
	printf("%016llx %u\n", (unsigned long long)sum, filled);
	return 0;
}
