/* SPDX-License-Identifier: MIT */
/*
 * The devmem's copies: in place (pools.h), or to and from the wire's staging, in pieces, so that
 * the engine moves one while the next is filled. They run where CPU faults are served.
 */
#ifndef OPENCL_DMA_H
#define OPENCL_DMA_H

#include <uhmm/driver.h>

#include "wire.h"

struct hmm_opencl;

int ocl_copy_to_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
		       const struct hmm_copy_run *runs, size_t nr_runs);
int ocl_copy_from_device(struct hmm_devmem *devmem, struct hmm_copy *copy,
			 const struct hmm_copy_run *runs, size_t nr_runs);
int ocl_copy_peer(struct hmm_devmem *devmem, struct hmm_devmem *from, struct hmm_copy *copy,
		  const struct hmm_peer_run *runs, size_t nr_runs);


/*
 * A copy whose runs are in @slot's request, and whose bytes are in its staging: by the device
 * or in place.
 */
int ocl_dma_ask(struct hmm_opencl *ocl, unsigned int slot, enum ocl_op op);

#endif
