/* SPDX-License-Identifier: MIT */
/*
 * Memory on NBD servers, as the program's side of the driver sees it.
 *
 *	channel		the link, a process that holds the connections	(any thread)
 *	lanes		connections that we read from ourselves		(any thread)
 *	reader		single pages over lanes, and a thread for what nobody waits for
 *	pages		which page is whose, and its checksum		(pages.lock, a leaf)
 *	copy		what the core asks to be moved
 *	faults		CPU faults that wait for the network
 *	keeper		a thread: trims what was freed, and watches the link
 *
 * The device has no page table and no kernels: it is memory alone. All of it lies in
 * safe memory or in the channel's, and no library is called on the fault path but libc's
 * locks, so the devmem is FAULT_SAFE.
 */
#ifndef NBD_DEVICE_H
#define NBD_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <uhmm/driver.h>

#include "channel.h"
#include "faults.h"
#include "keeper.h"
#include "lane.h"
#include "pages.h"
#include "reader.h"

#define NBD_MAGIC	0x7672642d64626eULL

struct nbd_device {
	uint64_t magic;			/* 0 in a forked child, which reads zeros here */
	struct hmm_mm *mm;
	struct hmm_devmem *devmem;
	struct nbd_channel channel;
	struct nbd_lanes lanes;
	struct nbd_reader reader;
	struct nbd_pages pages;
	struct nbd_faults faults;
	struct nbd_keeper keeper;
};

/* copy.c: the devmem operations, and what faults share with them. */
int nbd_copy_to_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
		       const struct hmm_copy_run *runs, size_t nr_runs);
int nbd_copy_from_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			 const struct hmm_copy_run *runs, size_t nr_runs);
/* Are these the bytes of the page? */
bool nbd_page_intact(const struct nbd_device *dev, uint64_t index, const void *bytes);

#endif
