/* SPDX-License-Identifier: MIT */
/*
 * Pages of every kind: what can move moves with its bytes, what cannot stays with
 * its reason, and the device reaches both.
 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "uring.h"

#define NR	16
#define RW	(PROT_READ | PROT_WRITE)
#define HUGE	((size_t)2 << 20)

/* The device reads and writes @p by guarded copies. */
static void assert_device_reaches(struct world *w, void *p, size_t nr, uint32_t seed)
{
	static unsigned char buf[NR * PAGE_MAX];
	size_t bytes = nr * page;

	assert_int_equal(hmm_copy_from_user(w->mm, buf, (uintptr_t)p, bytes), bytes);
	assert_holds(buf, nr, seed, 0);
	fill(buf, nr, seed + 1);
	assert_int_equal(hmm_copy_to_user(w->mm, (uintptr_t)p, buf, bytes), bytes);
	assert_holds(p, nr, seed + 1, 0);
}

static unsigned char *map_huge(unsigned char **base)
{
	unsigned char *p;

	*base = map_pages(2 * HUGE / page, RW, 0);
	p = (void *)(((uintptr_t)*base + HUGE - 1) & ~(HUGE - 1));
	if (madvise(p, HUGE, MADV_HUGEPAGE))
		return NULL;
	fill(p, HUGE / page, 1);
	return smaps_kb(p, "AnonHugePages:") == 2048 ? p : NULL;
}

/* A 2 MiB page leaves whole, by one move, and comes back with every byte. */
static void huge_page_moves_whole(void **state)
{
	struct world *w = *state;
	unsigned char *base, *p = map_huge(&base);

	if (!p)
		lacks("no transparent huge page to be had");
	to_device(w, w->dev, p, 512);
	assert_int_equal(w->dev->pages_to, 512);
	if (!masked("uffdio-move") && !masked("pagemap-scan"))
		assert_int_equal(moved(w, moved_huge), 1);
	assert_int_equal(evict(w, p, 512), 512);
	assert_holds(p, 512, 1, 0);
	munmap(base, 2 * HUGE);
}

/* What is small pages by now comes back as such where a 2 MiB page was before. */
static void small_pages_after_a_huge_one_stay_small(void **state)
{
	struct world *w = *state;
	unsigned char *base, *p = map_huge(&base);
	uint64_t before;

	if (!p)
		lacks("no transparent huge page to be had");
	to_device(w, w->dev, p, 512);
	assert_int_equal(evict(w, p, 512), 512);
	assert_int_equal(madvise(p, HUGE, MADV_DONTNEED), 0);
	assert_int_equal(madvise(p, HUGE, MADV_NOHUGEPAGE), 0);
	fill(p, 512, 2);
	to_device(w, w->dev, p, 512);
	before = moved(w, moved_huge);
	assert_int_equal(evict(w, p, 512), 512);
	assert_int_equal(moved(w, moved_huge), before);
	assert_holds(p, 512, 2, 0);
	munmap(base, 2 * HUGE);
}

/* A 2 MiB page that gets no destination is back whole, still one page. */
static void refused_huge_page_stays_whole(void **state)
{
	struct world *w = *state;
	unsigned char *base, *p = map_huge(&base);
	static uint64_t src[512], dst[512];
	struct hmm_migrate m = {
		.size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM, .start = (uintptr_t)p,
		.end = (uintptr_t)p + HUGE, .src = src, .dst = dst,
	};

	if (!p)
		lacks("no transparent huge page to be had");
	if (masked("uffdio-move") || masked("pagemap-scan"))
		lacks("what keeps a huge page whole is masked");
	memset(dst, 0, sizeof(dst));
	assert_int_equal(hmm_migrate_setup(w->mm, &m), 0);
	assert_int_equal(m.nr_pages, 512);
	hmm_migrate_pages(w->mm, &m);
	hmm_migrate_finalize(w->mm, &m);
	assert_int_equal(smaps_kb(p, "AnonHugePages:"), 2048);
	assert_holds(p, 512, 1, 0);
	munmap(base, 2 * HUGE);
}

/* One page out of a 2 MiB page goes alone; the other 511 stay readable. */
static void one_page_out_of_a_huge_page(void **state)
{
	struct world *w = *state;
	unsigned char *base, *p = map_huge(&base);

	if (!p)
		lacks("no transparent huge page to be had");
	to_device(w, w->dev, p + 7 * page, 1);
	assert_int_equal(count_at(w, p, 512, HMM_PLACE_SYSTEM), 511);
	assert_holds(p, 512, 1, 0);
	munmap(base, 2 * HUGE);
}

/* Touched page by page after having left whole: each byte is there. */
static void huge_page_comes_back_in_parts(void **state)
{
	struct world *w = *state;
	unsigned char *base, *p = map_huge(&base);

	if (!p)
		lacks("no transparent huge page to be had");
	to_device(w, w->dev, p, 512);
	for (size_t i = 0; i < 512; i += 37)
		assert_holds(p + i * page, 1, 1, i);
	assert_int_equal(munmap(p + 100 * page, 50 * page), 0);
	assert_holds(p, 100, 1, 0);
	assert_holds(p + 150 * page, 362, 1, 150);
	munmap(base, 2 * HUGE);
}

/*
 * A 2 MiB page of which a fork has left the first page to others, by a write while
 * the child lived, is busy for the kernel's eyes in all its parts: they move all the same.
 */
static void huge_page_without_its_head_moves(void **state)
{
	struct world *w = *state;
	unsigned char *base, *p = map_huge(&base);
	int go[2];
	pid_t child;
	char c;

	if (!p)
		lacks("no transparent huge page to be had");
	assert_int_equal(pipe(go), 0);
	child = fork();
	if (!child) {
		child_signals();
		close(go[1]);
		_exit(read(go[0], &c, 1) == 0 ? 0 : 1);
	}
	assert_true(child > 0);
	fill(p, 1, 1);
	close(go[0]);
	close(go[1]);
	assert_int_equal(wait_child(child), 0);
	to_device(w, w->dev, p + 100 * page, 20);
	to_device(w, w->dev, p, 100);
	to_device(w, w->dev, p + 120 * page, 392);
	assert_holds(p, 512, 1, 0);
	munmap(base, 2 * HUGE);
}

static int ksm_write(const char *file, const char *value)
{
	char path[64];
	int fd;
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = write(fd, value, strlen(value));
	close(fd);
	return n < 0 ? -1 : 0;
}

static long number_in(const char *path, const char *format)
{
	char line[128];
	long nr = -1;
	FILE *f = fopen(path, "re");

	while (f && nr < 0 && fgets(line, sizeof(line), f))
		sscanf(line, format, &nr);
	if (f)
		fclose(f);
	return nr;
}

static long ksm_number(const char *file)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", file);
	return number_in(path, "%ld");
}

/* Of this process; before 5.19, of all. */
static bool ksm_merged(void)
{
	long nr = number_in("/proc/self/ksm_merging_pages", "%ld");

	return nr >= 0 ? nr >= NR : ksm_number("pages_sharing") >= NR - 1;
}

/* What has the machine's KSM merge at once, and what it was set to. */
static struct {
	const char *name, *hasty;
	long was;
} ksm_settings[] = { { "pages_to_scan", "10000", 0 }, { "sleep_millisecs", "0", 0 } };

static bool ksm_begin(void)
{
	for (size_t i = 0; i < ARRAY_LEN(ksm_settings); i++) {
		ksm_settings[i].was = ksm_number(ksm_settings[i].name);
		if (ksm_write(ksm_settings[i].name, ksm_settings[i].hasty))
			return false;
	}
	return !ksm_write("run", "1");
}

/* What is of all is to be none of the next test's. */
static void ksm_end(void)
{
	char value[32];

	ksm_write("run", number_in("/proc/self/ksm_merging_pages", "%ld") < 0 ? "2" : "0");
	for (size_t i = 0; i < ARRAY_LEN(ksm_settings); i++) {
		snprintf(value, sizeof(value), "%ld", ksm_settings[i].was);
		ksm_write(ksm_settings[i].name, value);
	}
}

/* Pages that KSM has merged move, each with its own bytes, and unmerge on a write. */
static void ksm_pages_move(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, 0);
	bool merged;

	memset(p, 0x77, NR * page);
	if (madvise(p, NR * page, MADV_MERGEABLE) || !ksm_begin())
		lacks("KSM cannot be run by this user");
	merged = eventually(ksm_merged());
	ksm_write("run", "0");		/* what it looks at has a reference more for a moment */
	if (merged) {
		to_device(w, w->dev, p, NR);
		p[3 * page] = 1;
		for (size_t i = 0; i < NR * page; i++)
			if (p[i] != (i == 3 * page ? 1 : 0x77))
				fail_msg("byte %zu is %#x", i, p[i]);
	}
	ksm_end();
	munmap(p, NR * page);
	if (!merged)
		lacks("KSM merged nothing in time");
}

/* mlocked pages stay, as the program asked. */
static void mlocked_pages_stay(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 2);

	assert_int_equal(mlock(p, NR * page), 0);
	assert_refused(w, p, NR, HMM_REASON_LOCKED);
	assert_int_equal(cpu_maps_count(p, NR), NR);
	assert_device_reaches(w, p, NR, 2);
	munmap(p, NR * page);
}

/* Do read-only pages move at all? */
static bool readonly_moves(void)
{
	return strict() || masked("uffdio-move");
}

/* Read-only anonymous pages move and come back, read-only. */
static void readonly_pages_move(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 3);

	if (!readonly_moves())
		lacks("only in a strict mm");
	assert_int_equal(mprotect(p, NR * page, PROT_READ), 0);
	to_device(w, w->dev, p, NR);
	assert_holds(p, NR / 2, 3, 0);
	assert_int_equal(evict(w, p, NR), NR / 2);
	assert_holds(p, NR, 3, 0);
	assert_int_equal(touch_write(p), SIGSEGV);
	assert_int_equal(mprotect(p, NR * page, RW), 0);
	fill(p, NR, 4);
	assert_holds(p, NR, 4, 0);
	munmap(p, NR * page);
}

/* Read-only pages that a child of fork shares move, and each side keeps its own. */
static void cow_shared_readonly_pages_move(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 3);
	int fds[2];
	char byte;
	pid_t pid;

	if (!readonly_moves())
		lacks("only in a strict mm");
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(mprotect(p, NR * page, PROT_READ), 0);
	pid = fork();
	if (!pid) {
		child_signals();
		close(fds[1]);
		_exit(read(fds[0], &byte, 1) == 0 && holds(p, NR, 3, 0) ? 0 : 1);
	}
	close(fds[0]);
	to_device(w, w->dev, p, NR);
	close(fds[1]);
	assert_int_equal(wait_child(pid), 0);
	assert_int_equal(evict(w, p, NR), NR);
	/* Alone again, but never written since: not its own in the kernel's books. */
	to_device(w, w->dev, p, NR);
	assert_holds(p, NR, 3, 0);
	munmap(p, NR * page);
}

/*
 * A read-only 2 MiB page leaves whole too, where it is not all of its mapping: taken by
 * mremap in one call, that could not be merged with its neighbours again.
 */
static void readonly_huge_page_moves_whole(void **state)
{
	struct world *w = *state;
	unsigned char *base, *p = map_huge(&base);

	if (!p)
		lacks("no transparent huge page to be had");
	if (!strict() || masked("uffdio-move") || masked("pagemap-scan"))
		lacks("only in a strict mm, by UFFDIO_MOVE");
	assert_int_equal(madvise(base, 2 * HUGE, MADV_HUGEPAGE), 0);
	assert_int_equal(mprotect(base, 2 * HUGE, PROT_READ), 0);
	to_device(w, w->dev, p, 512);
	assert_int_equal(moved(w, moved_huge), 1);
	assert_int_equal(evict(w, p, 512), 512);
	assert_holds(p, 512, 1, 0);
	munmap(base, 2 * HUGE);
}

/* src[] says of read-only pages that they may not be written. */
static void readonly_pages_lack_write(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(2, 3);
	static uint64_t src[2], dst[2];
	struct hmm_migrate m = {
		.size = sizeof(m), .flags = HMM_MIGRATE_SYSTEM, .start = (uintptr_t)p,
		.end = (uintptr_t)p + 2 * page, .src = src, .dst = dst,
	};

	memset(dst, 0, sizeof(dst));
	assert_int_equal(mprotect(p, page, PROT_READ), 0);
	assert_int_equal(hmm_migrate_setup(w->mm, &m), 0);
	assert_int_equal(src[0] & HMM_SRC_WRITE, 0);
	assert_true(src[1] & HMM_SRC_WRITE);
	hmm_migrate_pages(w->mm, &m);
	hmm_migrate_finalize(w->mm, &m);
	assert_holds(p, 2, 3, 0);
	munmap(p, 2 * page);
}

/* Executable anonymous memory, as a JIT has, moves too. */
static void executable_pages_move(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 5);

	assert_int_equal(mprotect(p, NR * page, RW | PROT_EXEC), 0);
	to_device(w, w->dev, p, NR);
	assert_holds(p, NR / 2, 5, 0);
	assert_int_equal(evict(w, p, NR), NR / 2);
	assert_holds(p, NR, 5, 0);
	fill(p, NR, 6);
	assert_holds(p, NR, 6, 0);
	munmap(p, NR * page);
}

/* PROT_NONE pages stay: nobody may read them. */
static void prot_none_pages_stay(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 7);
	char byte;

	assert_int_equal(mprotect(p, NR * page, PROT_NONE), 0);
	assert_refused(w, p, NR, HMM_REASON_PROT);
	assert_int_equal(hmm_copy_from_user(w->mm, &byte, (uintptr_t)p, 1), -EFAULT);
	assert_int_equal(mprotect(p, NR * page, RW), 0);
	assert_holds(p, NR, 7, 0);
	munmap(p, NR * page);
}

/*
 * Pages that io_uring has pinned stay, and what it reads into them afterwards lands,
 * whatever the mapping's protection has become since. Its unpinned pages go.
 */
static void pinned_pages_stay_under(struct world *w, int prot)
{
	unsigned char *p = map_filled(NR, 8), *pinned = p + 4 * page;
	uint64_t reasons[HMM_REASONS] = { 0 };
	struct uring ring;
	int fds[2];

	if (uring_open(&ring))
		lacks("io_uring");
	if (masked("uffdio-move"))
		lacks("without UFFDIO_MOVE a pin cannot be seen; mremap keeps the page");
	if (uring_register(&ring, pinned, 4 * page))
		lacks("registered buffers (RLIMIT_MEMLOCK)");
	assert_int_equal(mprotect(p, NR * page, prot), 0);
	assert_int_equal(try_device(w, w->dev, p, NR, reasons), NR - 4);
	assert_int_equal(reasons[HMM_REASON_PINNED], 4);
	assert_at(w, pinned, 4, HMM_PLACE_SYSTEM);
	assert_int_equal(cpu_maps_count(pinned, 4), 4);
	assert_holds(p, NR, 8, 0);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "fresh", 5), 5);
	assert_int_equal(uring_do(&ring, IORING_OP_READ_FIXED, fds[0], pinned + page, 5, 0), 5);
	assert_memory_equal(pinned + page, "fresh", 5);
	if (!(prot & PROT_WRITE))
		assert_int_equal(touch_write(pinned), SIGSEGV);
	assert_int_equal(uring_unregister(&ring), 0);
	/* The kernel lets go of the pins some time after the call. */
	assert_true(eventually(try_device(w, w->dev, p, NR, NULL) >= 0 &&
			       all_at(w, p, NR, HMM_PLACE_DEVICE)));
	assert_memory_equal(pinned + page, "fresh", 5);
	assert_holds(pinned + 2 * page, NR - 6, 8, 6);
	/* Still one mapping: mremap works inside one only. */
	p = mremap(p, NR * page, 2 * NR * page, MREMAP_MAYMOVE);
	assert_ptr_not_equal(p, MAP_FAILED);
	assert_holds(p, 5, 8, 0);
	close(fds[0]);
	close(fds[1]);
	uring_close(&ring);
	munmap(p, 2 * NR * page);
}

static void pinned_pages_stay(void **state)
{
	pinned_pages_stay_under(*state, RW);
}

/* A buffer registered while it could be written, made read-only since: pinned still. */
static void pinned_readonly_pages_stay(void **state)
{
	if (!strict())
		lacks("read-only pages move in a strict mm only");
	pinned_pages_stay_under(*state, PROT_READ);
}

static void pinned_executable_pages_stay(void **state)
{
	pinned_pages_stay_under(*state, RW | PROT_EXEC);
}

/*
 * Read-only pages stay in an mm that is not strict: a pin on them cannot be seen
 * without taking them, and they could not be put back without a race.
 */
static void readonly_pages_stay_unless_strict(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 3);

	if (readonly_moves())
		lacks("they move");
	assert_int_equal(mprotect(p, NR * page, PROT_READ), 0);
	assert_refused(w, p, NR, HMM_REASON_KERNEL);
	assert_int_equal(cpu_maps_count(p, NR), NR);
	assert_holds(p, NR, 3, 0);
	munmap(p, NR * page);
}

/* Pages registered while they are away come home and stay. */
static void pinning_brings_home(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 9);
	struct uring ring;
	int fds[2];

	if (uring_open(&ring))
		lacks("io_uring");
	to_device(w, w->dev, p, NR);
	if (uring_register(&ring, p, NR * page))
		lacks("registered buffers (RLIMIT_MEMLOCK)");
	assert_at(w, p, NR, HMM_PLACE_SYSTEM);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "fresh", 5), 5);
	assert_int_equal(uring_do(&ring, IORING_OP_READ_FIXED, fds[0], p + page, 5, 0), 5);
	assert_memory_equal(p + page, "fresh", 5);
	assert_holds(p, 1, 9, 0);
	close(fds[0]);
	close(fds[1]);
	uring_close(&ring);
	munmap(p, NR * page);
}

/* Shared anonymous memory stays; device and CPU see each other's writes in place. */
static void shared_anonymous_stays(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_pages(NR, RW, MAP_SHARED);

	fill(p, NR, 10);
	assert_refused(w, p, NR, HMM_REASON_SHARED);
	assert_device_reaches(w, p, NR, 10);
	munmap(p, NR * page);
}

/* A memfd stays; what the device writes is in the file. */
static void memfd_stays(void **state)
{
	struct world *w = *state;
	int fd = memfd_create("stays", MFD_CLOEXEC);
	static unsigned char buf[PAGE_MAX];
	unsigned char *p;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(NR * page)), 0);
	p = mmap(NULL, NR * page, RW, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	fill(p, NR, 12);
	assert_refused(w, p, NR, HMM_REASON_SHARED);
	assert_device_reaches(w, p, NR, 12);
	assert_int_equal(pread(fd, buf, page, 0), page);
	assert_holds(buf, 1, 13, 0);
	munmap(p, NR * page);
	close(fd);
}

/* Files, mapped shared or private, stay; the private copy is the device's to write. */
static void file_mappings_stay(void **state)
{
	struct world *w = *state;
	char path[] = "/tmp/uhmm-pages-XXXXXX";
	int fd = mkstemp(path);
	static unsigned char buf[NR * PAGE_MAX];
	unsigned char *shared, *private;

	assert_true(fd >= 0);
	unlink(path);
	fill(buf, NR, 14);
	assert_int_equal(pwrite(fd, buf, NR * page, 0), NR * page);
	shared = mmap(NULL, NR * page, RW, MAP_SHARED, fd, 0);
	private = mmap(NULL, NR * page, RW, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(shared, MAP_FAILED);
	assert_ptr_not_equal(private, MAP_FAILED);
	assert_refused(w, private, NR, HMM_REASON_FILE);
	assert_device_reaches(w, private, NR, 14);
	assert_int_equal(pread(fd, buf, page, 0), page);
	assert_holds(buf, 1, 14, 0);
	assert_refused(w, private, NR, HMM_REASON_FILE);
	assert_device_reaches(w, shared, NR, 14);
	munmap(shared, NR * page);
	munmap(private, NR * page);
	close(fd);
}

/* A file that is on a disk, or in memory: its mapping says `file` or `shared`. */
static void shared_file_mapping_says_file(void **state)
{
	struct world *w = *state;
	char path[] = "/tmp/uhmm-pages-XXXXXX";
	int fd = mkstemp(path);
	unsigned char *p;

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(ftruncate(fd, (off_t)(NR * page)), 0);
	p = mmap(NULL, NR * page, RW, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	fill(p, NR, 15);
	assert_refused(w, p, NR, HMM_REASON_FILE);
	munmap(p, NR * page);
	close(fd);
}

/* hugetlb stays; the device reads and writes it in place. */
static void hugetlb_stays(void **state)
{
	struct world *w = *state;
	unsigned char *p;
	FILE *f = fopen("/proc/sys/vm/nr_hugepages", "r+e");
	long before = 0;

	/* One at a time: what is put back is what there was. */
	if (f)
		flock(fileno(f), LOCK_EX);
	if (f && fscanf(f, "%ld", &before) == 1 && before < 2) {
		rewind(f);
		fprintf(f, "2");
		fflush(f);
	}
	p = mmap(NULL, HUGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (p != MAP_FAILED) {
		fill(p, NR, 16);
		assert_refused(w, p, 512, HMM_REASON_HUGETLB);
		assert_device_reaches(w, p, NR, 16);
		munmap(p, HUGE);
	}
	if (f) {
		rewind(f);
		fprintf(f, "%ld", before);
		fclose(f);
	}
	if (p == MAP_FAILED)
		lacks("no hugetlb page to be had");
}

static struct {
	int fd;
	unsigned char *p;
	_Atomic uint32_t served, stop;
} foreign;

static void *foreign_run(void *arg)
{
	static unsigned char fillers[NR * PAGE_MAX];

	(void)arg;
	fill(fillers, NR, 17);
	while (!atomic_load(&foreign.stop)) {
		struct pollfd pfd = { .fd = foreign.fd, .events = POLLIN };
		struct uffdio_copy copy = { .len = page };
		struct uffd_msg msg;

		if (poll(&pfd, 1, 50) != 1 || read(foreign.fd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		copy.dst = msg.arg.pagefault.address & ~(page - 1);
		copy.src = (uintptr_t)fillers + (copy.dst - (uintptr_t)foreign.p);
		if (!ioctl(foreign.fd, UFFDIO_COPY, &copy))
			atomic_fetch_add(&foreign.served, 1);
	}
	return NULL;
}

/* For the faults of system calls as well. */
static bool foreign_open(void)
{
	struct uffdio_api api = { .api = UFFD_API };

	foreign.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (foreign.fd < 0 || ioctl(foreign.fd, UFFDIO_API, &api))
		return false;
	foreign.p = map_pages(NR, RW, 0);
	return !foreign_register(foreign.fd, foreign.p, NR);
}

/*
 * A mapping that the program registered with its own userfaultfd is left alone: its
 * handler serves it, for the device's accesses too.
 */
static void foreign_userfaultfd_is_left_alone(void **state)
{
	struct world *w = *state;
	static unsigned char buf[NR * PAGE_MAX];
	uint64_t pfns[NR] = { 0 };
	struct hmm_range range = { .size = sizeof(range), .pfns = pfns,
				   .default_flags = HMM_PFN_REQ_FAULT };
	pthread_t thread;

	if (!foreign_open())
		lacks("a userfaultfd of the program's own");
	atomic_store(&foreign.stop, 0);
	assert_int_equal(pthread_create(&thread, NULL, foreign_run, NULL), 0);
	assert_holds(foreign.p, 4, 17, 0);
	assert_refused(w, foreign.p, NR, HMM_REASON_FOREIGN);
	assert_true(eventually(foreign.served == 4));
	assert_int_equal(hmm_copy_from_user(w->mm, buf, (uintptr_t)foreign.p, NR * page), NR * page);
	assert_holds(buf, NR, 17, 0);
	assert_true(eventually(foreign.served == NR));
	assert_int_equal(madvise(foreign.p, page, MADV_DONTNEED), 0);
	range.start = (uintptr_t)foreign.p;
	range.end = range.start + NR * page;
	assert_int_equal(hmm_range_fault(w->mm, &range), 0);
	for (int i = 0; i < NR; i++) {
		assert_true(pfns[i] & HMM_PFN_VALID);
		assert_true(pfns[i] & HMM_PFN_GUARDED);
	}
	assert_holds(foreign.p, NR, 17, 0);
	atomic_store(&foreign.stop, 1);
	pthread_join(thread, NULL);
	close(foreign.fd);
	munmap(foreign.p, NR * page);
}

/* A range over everything at once: each page its own reason, none is lost. */
static void mixed_mappings_in_one_range(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 20);
	uint64_t reasons[HMM_REASONS] = { 0 };

	assert_int_equal(mprotect(p + 2 * page, 2 * page, PROT_NONE), 0);
	assert_int_equal(mlock(p + 4 * page, 2 * page), 0);
	assert_int_equal(munmap(p + 6 * page, 2 * page), 0);
	assert_ptr_equal(mmap(p + 8 * page, 2 * page, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED,
			      -1, 0), p + 8 * page);
	to_device(w, w->other, p + 10 * page, 2);
	assert_int_equal(hmm_migrate_to_device(w->mm, w->dev->devmem, (uintptr_t)p,
					       (uintptr_t)p + NR * page, HMM_MIGRATE_SYSTEM,
					       reasons), 6);
	assert_int_equal(reasons[HMM_REASON_PROT], 2);
	assert_int_equal(reasons[HMM_REASON_LOCKED], 2);
	assert_int_equal(reasons[HMM_REASON_GAP], 2);
	assert_int_equal(reasons[HMM_REASON_SHARED], 2);
	assert_int_equal(reasons[HMM_REASON_DEVICE], 2);
	assert_holds(p, 2, 20, 0);
	assert_holds(p + 4 * page, 2, 20, 4);
	assert_holds(p + 10 * page, 6, 20, 10);
	assert_int_equal(mprotect(p + 2 * page, 2 * page, RW), 0);
	assert_holds(p + 2 * page, 2, 20, 2);
	munmap(p, NR * page);
}

/* Guarded copies stop at the first byte that cannot be reached, and say how far. */
static void guarded_copies_stop_where_memory_ends(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(4, 21);
	static unsigned char buf[4 * PAGE_MAX];

	assert_int_equal(munmap(p + 2 * page, page), 0);
	to_device(w, w->dev, p + page, 1);
	assert_int_equal(hmm_copy_from_user(w->mm, buf, (uintptr_t)p + 100, 4 * page - 100),
			 2 * page - 100);
	assert_memory_equal(buf, p + 100, 2 * page - 100);
	assert_int_equal(hmm_copy_to_user(w->mm, (uintptr_t)p + 2 * page - 10, buf, 20), 10);
	assert_int_equal(hmm_copy_from_user(w->mm, buf, (uintptr_t)p + 2 * page, 1), -EFAULT);
	assert_int_equal(hmm_copy_to_user(w->mm, (uintptr_t)p + 2 * page, buf, 1), -EFAULT);
	assert_int_equal(mprotect(p, page, PROT_READ), 0);
	assert_int_equal(hmm_copy_to_user(w->mm, (uintptr_t)p, buf, 1), -EFAULT);
	assert_int_equal(hmm_copy_from_user(w->mm, buf, (uintptr_t)p, 1), 1);
	munmap(p, 4 * page);
}

/* Guarded copies into pages that are away write there, and their neighbours stay. */
static void guarded_copies_reach_device_pages(void **state)
{
	struct world *w = *state;
	unsigned char *p = map_filled(NR, 22);

	to_device(w, w->dev, p, NR);
	assert_device_reaches(w, p, NR, 22);
	munmap(p, NR * page);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		world_test(huge_page_moves_whole),
		world_test(small_pages_after_a_huge_one_stay_small),
		world_test(refused_huge_page_stays_whole),
		world_test(one_page_out_of_a_huge_page),
		world_test(huge_page_comes_back_in_parts),
		world_test(huge_page_without_its_head_moves),
		world_test(ksm_pages_move),
		world_test(mlocked_pages_stay),
		world_test(readonly_pages_move),
		world_test(readonly_pages_lack_write),
		world_test(executable_pages_move),
		world_test(prot_none_pages_stay),
		world_test(readonly_pages_stay_unless_strict),
		world_test(cow_shared_readonly_pages_move),
		world_test(readonly_huge_page_moves_whole),
		world_test(pinned_pages_stay),
		world_test(pinned_readonly_pages_stay),
		world_test(pinned_executable_pages_stay),
		world_test(pinning_brings_home),
		world_test(shared_anonymous_stays),
		world_test(memfd_stays),
		world_test(file_mappings_stay),
		world_test(shared_file_mapping_says_file),
		world_test(hugetlb_stays),
		world_test(foreign_userfaultfd_is_left_alone),
		world_test(mixed_mappings_in_one_range),
		world_test(guarded_copies_stop_where_memory_ends),
		world_test(guarded_copies_reach_device_pages),
	};

	need_mm();
	return cmocka_run_group_tests_name("pages", tests, world_begin, world_end);
}
