/* SPDX-License-Identifier: MIT */
/* Each request of the protocol: what it does, what it refuses, and with which error. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "program.h"

#define NR	16

static unsigned char buffer[4 * 512 * PAGE_MOST];

/* Refused before the request is looked at, in this order; RELEASE too, and unknown ones. */
static void entry_checks(void **state)
{
	static const unsigned long all[] = {
		DMIRROR_READ, DMIRROR_WRITE, DMIRROR_MIGRATE_TO_DEV, DMIRROR_MIGRATE_TO_SYS,
		DMIRROR_SNAPSHOT, DMIRROR_EXCLUSIVE, DMIRROR_CHECK_EXCLUSIVE, DMIRROR_RELEASE,
		DMIRROR_FLAGS, DMIRROR_READ_UNLOCKED, _IOWR('H', 0x3f, struct dmirror_cmd),
		_IO('T', 1),
	};
	int fd = device(0);
	unsigned char *p = map(NR, RW);

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		assert_int_equal(ioctl(fd, all[i], (void *)8), -1);
		assert_int_equal(errno, EFAULT);
		assert_int_equal(request(fd, all[i], p + 8, 1, buffer), -EINVAL);
		assert_int_equal(request(fd, all[i], p, 0, buffer), -EINVAL);
		assert_int_equal(request(fd, all[i], p, SIZE_MAX / page, buffer), -EINVAL);
		/* Only success is copied back. */
		assert_int_equal(cmd.cpages, 99);
		assert_int_equal(cmd.faults, 99);
	}
	assert_int_equal(request(fd, all[10], p, 1, buffer), -EINVAL);
	munmap(p, NR * page);
	close(fd);
}

/* READ faults in what is missing in one round, and not again what it has. */
static void read_faults_once(void **state)
{
	(void)state;
	for_each_kind(unit) {
		int fd = device(unit);
		unsigned char *p = map(NR, RW);

		fill(p, NR / 2, 1);
		assert_int_equal(request(fd, DMIRROR_READ, p, NR, buffer), 0);
		assert_int_equal(cmd.cpages, NR);
		assert_int_equal(cmd.faults, 1);
		assert_holds(buffer, NR / 2, 1);
		assert_true(all_zero(buffer + NR / 2 * page, NR / 2));
		assert_int_equal(request(fd, DMIRROR_READ, p, NR, buffer), 0);
		assert_int_equal(cmd.faults, masked("seccomp-notify"));
		assert_int_equal(request(fd, DMIRROR_READ_UNLOCKED, p, NR, buffer), 0);
		assert_holds(buffer, NR / 2, 1);
		munmap(p, NR * page);
		close(fd);
	}
}

/* READ of a gap, or without permission, is EFAULT and leaves the buffer alone. */
static void read_refused(void **state)
{
	int fd = device(0);
	unsigned char *p = map(NR, RW);

	(void)state;
	fill(p, NR, 1);
	fill(buffer, NR, 2);
	assert_int_equal(mprotect(p + 8 * page, page, PROT_NONE), 0);
	assert_int_equal(request(fd, DMIRROR_READ, p, NR, buffer), -EFAULT);
	assert_int_equal(munmap(p + 8 * page, page), 0);
	assert_int_equal(request(fd, DMIRROR_READ, p, NR, buffer), -EFAULT);
	assert_int_equal(request(fd, DMIRROR_READ, (void *)(1UL << 62), 1, buffer), -EFAULT);
	assert_holds(buffer, NR, 2);
	/* So is a bad buffer. */
	assert_int_equal(request(fd, DMIRROR_READ, p, 8, (void *)8), -EFAULT);
	munmap(p, NR * page);
	close(fd);
}

/* WRITE reaches memory, a child's or a file's too; not a read-only mapping: EPERM. */
static void write_obeys_the_mapping(void **state)
{
	(void)state;
	for_each_kind(unit) {
		int fd = device(unit);
		unsigned char *p = map(NR, PROT_READ), *s;

		fill(buffer, NR, 3);
		assert_int_equal(request(fd, DMIRROR_WRITE, p, NR, buffer), -EPERM);
		assert_true(all_zero(p, NR));
		assert_int_equal(mprotect(p, NR * page, RW), 0);
		assert_int_equal(request(fd, DMIRROR_WRITE, p, NR, buffer), 0);
		assert_int_equal(cmd.cpages, NR);
		assert_int_equal(cmd.faults, 1);
		assert_holds(p, NR, 3);
		assert_int_equal(request(fd, DMIRROR_WRITE, p, NR, (void *)8), -EFAULT);
		munmap(p, NR * page);
		assert_int_equal(request(fd, DMIRROR_WRITE, p, NR, buffer), -EFAULT);
		s = mmap(NULL, NR * page, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		assert_int_equal(request(fd, DMIRROR_WRITE, s, NR, buffer), 0);
		assert_holds(s, NR, 3);
		munmap(s, NR * page);
		close(fd);
	}
}

/* MIGRATE_TO_DEV moves and returns the data; the device goes on with it, and so the CPU. */
static void migrate_there_and_back(void **state)
{
	(void)state;
	for_each_kind(unit) {
		int fd = device(unit);
		unsigned char *p = map(NR, RW);

		fill(p, NR - 2, 4);	/* and two holes */
		assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, p, NR, buffer), 0);
		assert_int_equal(cmd.cpages, NR);
		assert_holds(buffer, NR - 2, 4);
		assert_true(all_zero(buffer + (NR - 2) * page, 2));
		fill(buffer, NR, 5);
		assert_int_equal(request(fd, DMIRROR_WRITE, p, NR - 2, buffer), 0);
		assert_int_equal(cmd.faults, 0);
		/* Where there was nothing to be written, the first write is a fault. */
		assert_int_equal(request(fd, DMIRROR_WRITE, p, NR, buffer), 0);
		assert_int_equal(cmd.faults, 1);
		assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_SYS, p, NR, buffer), 0);
		assert_int_equal(cmd.cpages, NR);
		assert_int_equal(snapshot(fd, p, 1)[0], DMIRROR_PROT_WRITE);
		assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_SYS, p, NR, buffer), 0);
		assert_int_equal(cmd.cpages, 0);
		assert_holds(p, NR, 5);
		munmap(p, NR * page);
		close(fd);
	}
}

/* A gap or an unreadable page is EINVAL, after what comes before it has moved. */
static void migrate_stops_at_a_gap(void **state)
{
	int fd = device(0);
	unsigned char *p = map(NR, RW);

	(void)state;
	fill(p, NR, 6);
	assert_int_equal(mprotect(p + 8 * page, page, PROT_NONE), 0);
	assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, p, NR, buffer), -EINVAL);
	assert_int_equal(snapshot(fd, p, NR)[7],
			 DMIRROR_PROT_DEV_PRIVATE_LOCAL | DMIRROR_PROT_WRITE);
	assert_int_equal(snapshot(fd, p, NR)[9], DMIRROR_PROT_WRITE);
	assert_int_equal(munmap(p + 8 * page, page), 0);
	assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, p, NR, buffer), -EINVAL);
	assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_SYS, p, NR, buffer), -EINVAL);
	assert_int_equal(snapshot(fd, p, NR)[7], DMIRROR_PROT_WRITE);
	assert_holds(p, 8, 6);
	munmap(p, NR * page);
	close(fd);
}

/* What cannot go, or is on another device, is ENOENT: shared memory, a page of a file. */
static void migrate_leaves_others(void **state)
{
	int fd = device(0), other = device(1);
	char path[] = "/tmp/uhmm-dmirror-XXXXXX";
	unsigned char *p = map(NR, RW), *s, *f;
	int file = mkstemp(path);

	(void)state;
	unlink(path);
	assert_int_equal(ftruncate(file, NR * (off_t)page), 0);
	s = mmap(NULL, NR * page, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	f = mmap(NULL, NR * page, RW, MAP_PRIVATE, file, 0);
	assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, s, NR, buffer), -ENOENT);
	assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, f, NR, buffer), -ENOENT);
	/* Private copies of it do go. */
	fill(f, NR, 8);
	assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, f, NR, buffer), 0);
	assert_holds(buffer, NR, 8);
	assert_int_equal(madvise(f, NR * page, MADV_DONTNEED), 0);
	assert_true(all_zero(f, NR));

	fill(p, NR, 7);
	assert_int_equal(request(other, DMIRROR_MIGRATE_TO_DEV, p, 1, buffer), 0);
	assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, p, NR, buffer), -ENOENT);
	assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_SYS, p, NR, buffer), 0);
	assert_int_equal(cmd.cpages, NR - 1);
	assert_int_equal(snapshot(other, p, 1)[0],
			 DMIRROR_PROT_DEV_PRIVATE_LOCAL | DMIRROR_PROT_WRITE);
	assert_holds(p, NR, 7);
	munmap(p, NR * page);
	munmap(s, NR * page);
	munmap(f, NR * page);
	close(file);
	close(fd);
	close(other);
}

/* A page of hugetlb is no mapping to migrate from: EINVAL. The device reaches it. */
static void hugetlb_is_refused(void **state)
{
	int fd = device(0);
	unsigned char *p = mmap(NULL, HUGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	(void)state;
	if (p != MAP_FAILED) {
		fill(p, HUGE / page, 1);
		assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, p, NR, buffer), -EINVAL);
		assert_int_equal(request(fd, DMIRROR_READ, p, NR, buffer), 0);
		assert_holds(buffer, NR, 1);
		/* What is large is told by PAGEMAP_SCAN alone. */
		assert_int_equal(snapshot(fd, p, 1)[0], DMIRROR_PROT_WRITE |
				 (masked("pagemap-scan") ? 0 : DMIRROR_PROT_PMD));
		munmap(p, HUGE);
	}
	close(fd);
	if (p == MAP_FAILED) {
		print_message("          not here: no huge page is reserved\n");
		skip();
	}
}

/* SNAPSHOT: each kind of page has its byte, and nothing is faulted in. */
static void snapshot_bytes(void **state)
{
	int one = device(0), two = device(1), near = device(2), far = device(3);
	unsigned char *p = map(NR, RW);
	volatile unsigned char *v = p;
	const uint8_t *m;

	(void)state;
	fill(p + 3 * page, 6, 1);
	assert_int_equal(v[2 * page], 0);				/* 2: the zero page */
	assert_int_equal(mprotect(p, page, PROT_NONE), 0);		/* 0 */
	assert_int_equal(mprotect(p + 3 * page, page, PROT_READ), 0);	/* 3 */
	assert_int_equal(request(one, DMIRROR_MIGRATE_TO_DEV, p + 5 * page, 1, buffer), 0);
	assert_int_equal(request(two, DMIRROR_MIGRATE_TO_DEV, p + 6 * page, 1, buffer), 0);
	assert_int_equal(request(near, DMIRROR_MIGRATE_TO_DEV, p + 7 * page, 1, buffer), 0);
	assert_int_equal(request(far, DMIRROR_MIGRATE_TO_DEV, p + 8 * page, 1, buffer), 0);
	assert_int_equal(munmap(p + 15 * page, page), 0);		/* 15: a gap */
	for (int i = 0; i < 2; i++) {
		m = snapshot(i ? near : one, p, NR);
		assert_int_equal(m[0], DMIRROR_PROT_ERROR);
		assert_int_equal(m[1], DMIRROR_PROT_NONE);
		assert_int_equal(m[2], DMIRROR_PROT_ZERO | DMIRROR_PROT_READ);
		assert_int_equal(m[3], DMIRROR_PROT_READ);
		assert_int_equal(m[4], DMIRROR_PROT_WRITE);
		assert_int_equal(m[5], i ? DMIRROR_PROT_NONE : DMIRROR_PROT_DEV_PRIVATE_LOCAL |
				 DMIRROR_PROT_WRITE);
		assert_int_equal(m[6], DMIRROR_PROT_NONE);
		assert_int_equal(m[7], DMIRROR_PROT_WRITE |
				 (i ? DMIRROR_PROT_DEV_COHERENT_LOCAL :
				      DMIRROR_PROT_DEV_COHERENT_REMOTE));
		assert_int_equal(m[8], DMIRROR_PROT_WRITE | DMIRROR_PROT_DEV_COHERENT_REMOTE);
		assert_int_equal(m[14], DMIRROR_PROT_NONE);
		assert_int_equal(m[15], DMIRROR_PROT_ERROR);
		assert_int_equal(cmd.faults, 0);
	}
	m = snapshot(one, (void *)(1UL << 60), 2);
	assert_int_equal(m[1], DMIRROR_PROT_ERROR);
	assert_int_equal(request(one, DMIRROR_SNAPSHOT, p, NR, (void *)8), -EFAULT);
	munmap(p, NR * page);
	close(one);
	close(two);
	close(near);
	close(far);
}

/* EXCLUSIVE: the device's alone until the CPU touches it, as CHECK_EXCLUSIVE says. */
static void exclusive_until_touched(void **state)
{
	(void)state;
	for_each_kind(unit) {
		int fd = device(unit);
		unsigned char *p = map(NR, RW);

		fill(p, NR, 9);
		assert_int_equal(request(fd, DMIRROR_CHECK_EXCLUSIVE, p, NR, buffer), 0);
		assert_int_equal(request(fd, DMIRROR_EXCLUSIVE, p, NR, buffer), 0);
		assert_int_equal(cmd.cpages, NR);
		assert_holds(buffer, NR, 9);
		assert_int_equal(request(fd, DMIRROR_CHECK_EXCLUSIVE, p, NR, buffer), -EPERM);
		assert_int_equal(snapshot(fd, p, 1)[0], DMIRROR_PROT_NONE);
		assert_int_equal(request(fd, DMIRROR_READ, p, NR, buffer), 0);
		assert_int_equal(cmd.faults, 0);
		p[0]++;
		assert_int_equal(request(fd, DMIRROR_CHECK_EXCLUSIVE, p, 1, buffer), 0);
		assert_int_equal(request(fd, DMIRROR_CHECK_EXCLUSIVE, p, NR, buffer), -EPERM);
		p[0]--;
		/* A device write is no atomic: it ends it, too. */
		fill(buffer, NR, 10);
		assert_int_equal(request(fd, DMIRROR_WRITE, p, NR, buffer), 0);
		assert_int_equal(cmd.faults, 1);
		assert_int_equal(request(fd, DMIRROR_CHECK_EXCLUSIVE, p, NR, buffer), 0);
		assert_holds(p, NR, 10);
		munmap(p, NR * page);
		close(fd);
	}
}

/* The error is that of the first page that cannot be had. */
static void exclusive_refused(void **state)
{
	int fd = device(0);
	unsigned char *p = map(NR, RW), *s;

	(void)state;
	fill(p, NR, 9);
	assert_int_equal(mprotect(p + 8 * page, page, PROT_READ), 0);
	assert_int_equal(request(fd, DMIRROR_EXCLUSIVE, p, NR, buffer), -EFAULT);
	assert_int_equal(munmap(p + 8 * page, page), 0);
	assert_int_equal(request(fd, DMIRROR_EXCLUSIVE, p, NR, buffer), -EFAULT);
	s = mmap(NULL, NR * page, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(request(fd, DMIRROR_EXCLUSIVE, s, NR, buffer), -EOPNOTSUPP);
	assert_holds(p, 8, 9);
	munmap(s, NR * page);
	munmap(p, NR * page);
	close(fd);
}

/* RELEASE, and closing the file, bring home all that the device has. */
static void release_brings_home(void **state)
{
	(void)state;
	for_each_kind(unit) {
		int fd = device(unit), second = device(unit);
		unsigned char *p = map(NR, RW);

		fill(p, NR, 11);
		for (int i = 0; i < 2; i++) {
			assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, p, NR, buffer), 0);
			if (i)
				close(second);	/* as the kernel's: other openers' pages too */
			else
				assert_int_equal(request(second, DMIRROR_RELEASE, p, 1, buffer), 0);
			assert_int_equal(snapshot(fd, p, 1)[0], DMIRROR_PROT_WRITE);
			assert_holds(p, NR, 11);
		}
		munmap(p, NR * page);
		close(fd);
	}
}

/* FLAGS: the next large allocation fails, once: the page comes in small ones. */
static void flags_fail_one_allocation(void **state)
{
	int fd = device(0);
	unsigned char *base, *p = map_huge(&base, 12);

	(void)state;
	if (p) {
		assert_int_equal(request(fd, DMIRROR_FLAGS, p, DMIRROR_FLAG_FAIL_ALLOC, buffer), 0);
		for (int i = 0; i < 2; i++) {
			assert_int_equal(request(fd, DMIRROR_MIGRATE_TO_DEV, p, HUGE / page,
						 buffer), 0);
			assert_holds(buffer, HUGE / page, 12);
			assert_int_equal(*(volatile unsigned char *)p, buffer[0]);
			/* A small page comes home alone, a large one whole. */
			if (!masked("pagemap-scan"))	/* what is large is told by it alone */
				assert_int_equal(snapshot(fd, p + page, 1)[0] & 0xf0,
						 i ? 0 : DMIRROR_PROT_DEV_PRIVATE_LOCAL);
			assert_holds(p, HUGE / page, 12);
			if (!i) {
				assert_int_equal(munmap(base, 2 * HUGE), 0);
				p = map_huge(&base, 12);
				assert_non_null(p);
			}
		}
	}
	munmap(base, 2 * HUGE);
	close(fd);
	if (!p)
		skip();
}

/* The file itself can be mapped: fresh pages, to read in a private mapping. */
static void device_is_mapped(void **state)
{
	int fd = device(0);
	unsigned char *p = mmap(NULL, 2 * page, RW, MAP_PRIVATE, fd, 0);
	unsigned char *s = mmap(NULL, 2 * page, RW, MAP_SHARED, fd, 0);

	(void)state;
	assert_ptr_not_equal(p, MAP_FAILED);
	assert_ptr_not_equal(s, MAP_FAILED);
	assert_int_equal(snapshot(fd, p, 2)[1], DMIRROR_PROT_READ);
	assert_int_equal(snapshot(fd, s, 2)[1], DMIRROR_PROT_WRITE);
	s[0] = 1;
	assert_true(all_zero(p, 2));
	munmap(p, 2 * page);
	munmap(s, 2 * page);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(entry_checks),
		cmocka_unit_test(read_faults_once),
		cmocka_unit_test(read_refused),
		cmocka_unit_test(write_obeys_the_mapping),
		cmocka_unit_test(migrate_there_and_back),
		cmocka_unit_test(migrate_stops_at_a_gap),
		cmocka_unit_test(migrate_leaves_others),
		cmocka_unit_test(hugetlb_is_refused),
		cmocka_unit_test(snapshot_bytes),
		cmocka_unit_test(exclusive_until_touched),
		cmocka_unit_test(exclusive_refused),
		cmocka_unit_test(release_brings_home),
		cmocka_unit_test(flags_fail_one_allocation),
		cmocka_unit_test(device_is_mapped),
	};

	need_devices();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
