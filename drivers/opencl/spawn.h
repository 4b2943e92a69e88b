/* SPDX-License-Identifier: MIT */
/* Starting the engine. The only place of the driver that makes system calls for it. */
#ifndef OPENCL_SPAWN_H
#define OPENCL_SPAWN_H

#include <stddef.h>

#include "wire.h"

struct ocl_process {
	struct ocl_wire *wire;
	int socket;		/* closed: the engine ends */
	int pools;		/* the engine's OCL_FD_POOLS; -1: it is not needed any more */
	int pidfd;
	int pid;
};

/*
 * 0; -ENOENT: no engine beside the library; -ENOMEM; -EIO: it did not start. A line in
 * @why (@why_bytes) on an error.
 */
int ocl_spawn(struct ocl_process *process, char *why, size_t why_bytes);

void ocl_spawn_forget_pools(struct ocl_process *process);

/* The engine has been told to exit, or is to be ended. */
void ocl_spawn_end(struct ocl_process *process);

/* Has it ended? */
int ocl_spawn_gone(const struct ocl_process *process);

#endif
