/* SPDX-License-Identifier: MIT */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

size_t page;
struct dmirror_cmd cmd;

bool masked(const char *cap)
{
	const char *caps = getenv("UHMM_CAPS");

	return caps && strstr(caps, cap);
}

static int open_unit(unsigned int unit)
{
	char path[] = "/dev/hmm_dmirror0";

	path[sizeof(path) - 2] = (char)('0' + unit);
	return open(path, O_RDWR | O_CLOEXEC);
}

int device(unsigned int unit)
{
	int fd = open_unit(unit);

	assert_true(fd >= 0);
	return fd;
}

void need_devices(void)
{
	int fd = open_unit(0);

	page = (size_t)sysconf(_SC_PAGESIZE);
	if (fd < 0) {
		printf("SKIP: /dev/hmm_dmirror0: %s\n", strerror(errno));
		exit(EXIT_SKIP);
	}
	close(fd);
}

int request(int fd, unsigned long nr, const void *addr, size_t npages, void *buffer)
{
	cmd = (struct dmirror_cmd){
		.addr = (uintptr_t)addr, .ptr = (uintptr_t)buffer, .npages = npages,
		.cpages = 99, .faults = 99,
	};
	return ioctl(fd, nr, &cmd) ? -errno : 0;
}

void *map(size_t npages, int prot)
{
	void *p = mmap(NULL, npages * page, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static uint64_t word_of(uint32_t seed, size_t i)
{
	return ((uint64_t)seed << 32 | (uint32_t)i) * 0x9e3779b97f4a7c15u | 1;
}

void fill(void *p, size_t npages, uint32_t seed)
{
	uint64_t *words = p;

	for (size_t i = 0; i < npages * page / sizeof(*words); i++)
		words[i] = word_of(seed, i);
}

bool holds(const void *p, size_t npages, uint32_t seed)
{
	const volatile uint64_t *words = p;

	for (size_t i = 0; i < npages * page / sizeof(*words); i++)
		if (words[i] != word_of(seed, i))
			return false;
	return true;
}

bool holds_but(const void *p, size_t npages, uint32_t seed, size_t from, size_t len)
{
	const volatile uint64_t *words = p;
	const size_t size = sizeof(*words);

	for (size_t i = 0; i < npages * page / size; i++)
		if ((i * size < from || i * size >= from + len) && words[i] != word_of(seed, i))
			return false;
	return true;
}

bool all_zero(const void *p, size_t npages)
{
	const volatile uint64_t *words = p;

	for (size_t i = 0; i < npages * page / sizeof(*words); i++)
		if (words[i])
			return false;
	return true;
}

/* Of the mapping of @p, from /proc/self/smaps, in kB. */
static long huge_kb(const void *p)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	unsigned long start, end;
	bool inside = false;
	long kb = 0, n;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = (uintptr_t)p >= start && (uintptr_t)p < end;
		else if (inside && sscanf(line, "AnonHugePages: %ld", &n) == 1)
			kb = n;
	}
	if (f)
		fclose(f);
	return kb;
}

bool is_huge(const void *p)
{
	return huge_kb(p) >= 2048;
}

unsigned char *map_huge(unsigned char **base, uint32_t seed)
{
	unsigned char *p;

	*base = map(2 * HUGE / page, RW);
	p = (unsigned char *)(((uintptr_t)*base + HUGE - 1) & ~(HUGE - 1));
	if (!madvise(p, HUGE, MADV_HUGEPAGE)) {
		fill(p, HUGE / page, seed);
		if (is_huge(p))
			return p;
	}
	print_message("          not here: the kernel gave no large page of 2 MiB\n");
	return NULL;
}

const uint8_t *snapshot(int fd, const void *addr, size_t npages)
{
	static uint8_t bytes[2048];

	assert_true(npages <= sizeof(bytes));
	assert_int_equal(request(fd, DMIRROR_SNAPSHOT, addr, npages, bytes), 0);
	assert_int_equal(cmd.cpages, npages);
	return bytes;
}

uint64_t pagemap_entry(const void *addr)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0, again = 1;
	off_t at = (off_t)((uintptr_t)addr / page * sizeof(entry));

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &entry, sizeof(entry), at), sizeof(entry));
	assert_int_equal(lseek(fd, at, SEEK_SET), at);
	assert_int_equal(read(fd, &again, sizeof(again)), sizeof(again));
	assert_int_equal(entry, again);
	close(fd);
	return entry;
}

int in_child(int (*fn)(void *arg), void *arg)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(fn(arg));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
