/* SPDX-License-Identifier: MIT */
/*
 * As much of io_uring as the tests need, by raw system calls: one request at a time,
 * and registered buffers, which pin their pages.
 */
#ifndef UHMM_TEST_URING_H
#define UHMM_TEST_URING_H

#include <errno.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct uring {
	int fd;
	struct io_uring_params params;
	unsigned char *sq, *cq;
	struct io_uring_sqe *sqes;
	size_t sq_bytes, cq_bytes;
};

static inline int uring_open(struct uring *ring)
{
	struct io_uring_params *p = &ring->params;

	memset(ring, 0, sizeof(*ring));
	ring->fd = (int)syscall(SYS_io_uring_setup, 8, p);
	if (ring->fd < 0)
		return -errno;
	ring->sq_bytes = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
	ring->cq_bytes = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
	ring->sq = mmap(NULL, ring->sq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd,
			IORING_OFF_SQ_RING);
	ring->cq = mmap(NULL, ring->cq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd,
			IORING_OFF_CQ_RING);
	ring->sqes = mmap(NULL, p->sq_entries * sizeof(struct io_uring_sqe),
			  PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, IORING_OFF_SQES);
	return ring->sq == MAP_FAILED || ring->cq == MAP_FAILED || ring->sqes == MAP_FAILED ?
	       -ENOMEM : 0;
}

static inline void uring_close(struct uring *ring)
{
	munmap(ring->sq, ring->sq_bytes);
	munmap(ring->cq, ring->cq_bytes);
	munmap(ring->sqes, ring->params.sq_entries * sizeof(struct io_uring_sqe));
	close(ring->fd);
}

/* Submits one request and waits for it: its result. */
static inline int uring_do(struct uring *ring, uint8_t opcode, int fd, void *addr, uint32_t len,
			   uint64_t offset)
{
	_Atomic uint32_t *tail = (void *)(ring->sq + ring->params.sq_off.tail);
	_Atomic uint32_t *head = (void *)(ring->cq + ring->params.cq_off.head);
	uint32_t mask = *(uint32_t *)(void *)(ring->sq + ring->params.sq_off.ring_mask);
	uint32_t cq_mask = *(uint32_t *)(void *)(ring->cq + ring->params.cq_off.ring_mask);
	uint32_t *array = (void *)(ring->sq + ring->params.sq_off.array);
	struct io_uring_cqe *cqes = (void *)(ring->cq + ring->params.cq_off.cqes);
	uint32_t at = atomic_load(tail), seen = atomic_load(head);
	struct io_uring_sqe *sqe = &ring->sqes[at & mask];
	int ret;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = opcode;
	sqe->fd = fd;
	sqe->addr = (uintptr_t)addr;
	sqe->len = len;
	sqe->off = offset;
	array[at & mask] = at & mask;
	atomic_store(tail, at + 1);
	if (syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -errno;
	ret = cqes[seen & cq_mask].res;
	atomic_store(head, seen + 1);
	return ret;
}

static inline int uring_register(struct uring *ring, void *addr, size_t bytes)
{
	struct iovec iov = { .iov_base = addr, .iov_len = bytes };

	return syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &iov, 1) < 0 ?
	       -errno : 0;
}

static inline int uring_unregister(struct uring *ring)
{
	return syscall(SYS_io_uring_register, ring->fd, IORING_UNREGISTER_BUFFERS, NULL, 0) < 0 ?
	       -errno : 0;
}

#endif
