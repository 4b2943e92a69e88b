/* SPDX-License-Identifier: MIT */
/* userfaultfd as it is without this library: what floors are made of. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"
#include "sys/uapi.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW	_IO(0xAA, 0x00)
#endif

int bench_uffd_open(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

		if (dev >= 0) {
			fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
			close(dev);
		}
	}
	if (fd < 0)
		return -EPERM;
	if (ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		return -EOPNOTSUPP;
	}
	return fd;
}

int bench_uffd_register(int uffd, const struct bench_area *area)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)area->base, .len = area->len },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

/* EAGAIN: something else of the process was in the way for a moment; a part may be done. */
int bench_uffd_copy(int uffd, void *to, const void *from, size_t len)
{
	struct uffdio_copy copy = { .dst = (uintptr_t)to, .src = (uintptr_t)from, .len = len };

	while (ioctl(uffd, UFFDIO_COPY, &copy)) {
		uint64_t done = copy.copy > 0 ? (uint64_t)copy.copy : 0;

		if (errno != EAGAIN)
			return -errno;
		copy.dst += done;
		copy.src += done;
		copy.len -= done;
		copy.copy = 0;		/* not every EAGAIN says */
	}
	return 0;
}

int bench_uffd_move(int uffd, void *to, const void *from, size_t len)
{
	struct uhmm_uffdio_move move = {
		.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = len,
	};

	while (ioctl(uffd, UHMM_UFFDIO_MOVE, &move)) {
		uint64_t done = move.move > 0 ? (uint64_t)move.move : 0;

		if (errno != EAGAIN)
			return -errno;
		move.dst += done;
		move.src += done;
		move.len -= done;
		move.move = 0;
	}
	return 0;
}
