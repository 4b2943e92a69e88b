/* SPDX-License-Identifier: MIT */
/*
 * Kernel interfaces newer than the headers of Linux 6.1: numbers and layouts from
 * the documentation of userfaultfd(2), proc_pid_pagemap(5), proc_pid_maps(5) and
 * seccomp_unotify(2). Named as the kernel names them, with our prefix, so that a
 * newer system header cannot clash.
 */
#ifndef UHMM_SYS_UAPI_H
#define UHMM_SYS_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>

/* userfaultfd: features */
#define UHMM_UFFD_FEATURE_POISON	(1ULL << 14)	/* 6.6 */
#define UHMM_UFFD_FEATURE_MOVE		(1ULL << 16)	/* 6.8 */
#define UHMM_UFFD_FEATURE_RWP		(1ULL << 17)	/* 7.3 */

#define UHMM_UFFDIO_REGISTER_MODE_RWP	(1ULL << 3)	/* 7.3 */

/* 7.3 */
struct uhmm_uffdio_rwprotect {
	struct uffdio_range range;
#define UHMM_UFFDIO_RWPROTECT_MODE_RWP	(1ULL << 0)
	__u64 mode;
};
#define UHMM_UFFDIO_RWPROTECT	_IOWR(UFFDIO, 0x09, struct uhmm_uffdio_rwprotect)

/* 6.8 */
struct uhmm_uffdio_move {
	__u64 dst, src, len;
#define UHMM_UFFDIO_MOVE_MODE_DONTWAKE		(1ULL << 0)
#define UHMM_UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES	(1ULL << 1)
	__u64 mode;
	__s64 move;		/* out: bytes moved, or a negative errno */
};
#define UHMM_UFFDIO_MOVE	_IOWR(UFFDIO, 0x05, struct uhmm_uffdio_move)

/* 6.6 */
struct uhmm_uffdio_poison {
	struct uffdio_range range;
	__u64 mode;
	__s64 updated;		/* out */
};
#define UHMM_UFFDIO_POISON	_IOWR(UFFDIO, 0x08, struct uhmm_uffdio_poison)

/* 6.7 */
struct uhmm_page_region {
	__u64 start, end, categories;
};
struct uhmm_pm_scan_arg {
	__u64 size, flags, start, end, walk_end;
	__u64 vec, vec_len, max_pages;
	__u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define UHMM_PAGEMAP_SCAN	_IOWR('f', 16, struct uhmm_pm_scan_arg)
#define UHMM_PAGE_IS_FILE	(1ULL << 2)
#define UHMM_PAGE_IS_PRESENT	(1ULL << 3)
#define UHMM_PAGE_IS_SWAPPED	(1ULL << 4)
#define UHMM_PAGE_IS_PFNZERO	(1ULL << 5)
#define UHMM_PAGE_IS_HUGE	(1ULL << 6)

/* 6.11 */
struct uhmm_procmap_query {
	__u64 size, query_flags, query_addr;
	__u64 vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
	__u32 dev_major, dev_minor;
	__u32 vma_name_size, build_id_size;
	__u64 vma_name_addr, build_id_addr;
};
#define UHMM_PROCMAP_QUERY	_IOWR('f', 17, struct uhmm_procmap_query)
#define UHMM_PROCMAP_VMA_READABLE	0x01
#define UHMM_PROCMAP_VMA_WRITABLE	0x02
#define UHMM_PROCMAP_VMA_EXECUTABLE	0x04
#define UHMM_PROCMAP_VMA_SHARED		0x08
#define UHMM_PROCMAP_COVERING_OR_NEXT	0x10

/* madvise */
#define UHMM_MADV_POPULATE_READ		22	/* 5.14 */
#define UHMM_MADV_POPULATE_WRITE	23
#define UHMM_MADV_DONTNEED_LOCKED	24	/* 5.18 */
#define UHMM_MADV_GUARD_INSTALL		102	/* 6.13 */

/* pkey_alloc, 4.9 */
#define UHMM_PKEY_DISABLE_ACCESS	1

/* mremap, 5.7 */
#define UHMM_MREMAP_DONTUNMAP		4

/* memfd_create, 6.3; close_range, 5.11 */
#define UHMM_MFD_EXEC			0x10U
#define UHMM_CLOSE_RANGE_CLOEXEC	(1U << 2)

/* seccomp */
#define UHMM_SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV	(1UL << 5)	/* 5.19 */
#define UHMM_SECCOMP_IOCTL_NOTIF_SET_FLAGS	_IOW('!', 4, __u64)	/* 6.6 */
#define UHMM_SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP	(1ULL << 0)

#endif
