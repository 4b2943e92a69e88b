/* SPDX-License-Identifier: MIT */
/*
 * Pages that cannot move: shared, of a file, pinned. A kernel sees a copy, in the page
 * of the block's slot that would be theirs, for one run. Of those it may write we keep
 * the bytes they had: what differs after a slice is what the kernel stored, byte by
 * byte, and goes to the program by hmm_copy_to_user(), so that what the CPU stored
 * beside it stays.
 *
 * On the worker. An invalidation takes a copy from the device as any other page; the
 * page of the slot stays borrowed until the run ends. What the slice before it stored still
 * goes to the program, but not to a page that is unmapped: its address may be another's by
 * then.
 */
#ifndef OPENCL_BORROW_H
#define OPENCL_BORROW_H

#include <stdbool.h>
#include <stdint.h>

struct hmm_opencl;

#define OCL_BORROW_WRITTEN	8192	/* most pages of a run that can be written so */

struct ocl_borrow {
	uint64_t *pfns;
	/* under the table lock; entries come, go and change places on the worker alone */
	uint32_t nr_written;
	uintptr_t *written;		/* addresses of pages */
	/* the worker's */
	char **bytes;			/* what each had */
	char *page;			/* one page */
};

int ocl_borrow_init(struct ocl_borrow *borrow, uint64_t page_size);
void ocl_borrow_destroy(struct ocl_borrow *borrow, uint64_t page_size);

/*
 * Make the page of @va, whose block is bound, valid for the device where it is; as a
 * copy, or as the device's own if that is what it has become. 0; -EAGAIN: go round
 * (another device had it, say); -EFAULT, -EPERM, -ENOMEM, -EIO.
 */
int ocl_borrow_page(struct hmm_opencl *ocl, uintptr_t va, bool write);

/* A slice has ended: give the program what it stored. 0, -EIO. */
int ocl_borrow_write_back(struct hmm_opencl *ocl);

/* The page is moving to the device, or its next copy is not to be written. Table lock held. */
void ocl_borrow_forget(struct ocl_borrow *borrow, uintptr_t page);

/*
 * [start, end) is going away: what is stored there from now on is somebody else's. From
 * any thread, table lock held.
 */
void ocl_borrow_unmapped(struct ocl_borrow *borrow, uintptr_t start, uintptr_t end);

/* The slot is wanted for another block. */
void ocl_borrow_drop(struct hmm_opencl *ocl, uint32_t slot);

/* The run has ended. */
void ocl_borrow_return(struct hmm_opencl *ocl);

#endif
