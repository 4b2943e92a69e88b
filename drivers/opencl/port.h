/* SPDX-License-Identifier: MIT */
/* Single accesses by the device: kernels of one item, and a mailbox in its memory. */
#ifndef OPENCL_PORT_H
#define OPENCL_PORT_H

#include <pthread.h>

struct hmm_opencl_program;
struct hmm_opencl_kernel;

enum ocl_port_kernel { OCL_PORT_READ, OCL_PORT_WRITE, OCL_PORT_ADD, OCL_PORT_KERNELS };

/* Built when first used; gone with the device's programs. */
struct ocl_port {
	pthread_mutex_t lock;		/* held over an access: the mailbox is one */
	struct hmm_opencl_program *program;
	struct hmm_opencl_kernel *kernel[OCL_PORT_KERNELS];
};

void ocl_port_init(struct ocl_port *port);
void ocl_port_destroy(struct ocl_port *port);

#endif
