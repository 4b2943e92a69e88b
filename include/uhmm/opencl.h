/* SPDX-License-Identifier: MIT */
/*
 * The memory of an OpenCL device as memory, and kernels that follow the program's
 * own pointers on devices without page faults. Link with -luhmm-opencl.
 *
 * The OpenCL runtime does not run in the program. It would live in the very heap that
 * is being migrated: a page of its own that is away, touched while it copies that page,
 * is a deadlock. So the driver starts an engine, a process of its own that alone links
 * OpenCL, and talks to it through shared memory. It is no child that wait(-1) would
 * see, it ends with the program, and a forked child has no part in it.
 *
 * A kernel includes <uhmm/device.clh>, where its side of this is described. It is run
 * once per item, 0 .. nr_items - 1, in slices of the items. An item whose page is not
 * in the device's memory stops; the driver brings the page's whole 2 MiB block there and
 * runs the stopped items again from their beginning, until none is left. Memory that
 * cannot move (shared, of a file, pinned) is read as it was at some moment of the run,
 * and what is stored to it reaches the program when the slice ends. A CPU that touches
 * a page of the device waits for the slice that runs, some 20 ms unless one item takes
 * longer, and so does whoever changes a mapping: an item that never ends stops the
 * program.
 */
#ifndef UHMM_OPENCL_H
#define UHMM_OPENCL_H

#include <uhmm/driver.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

struct hmm_opencl;		/* an OpenCL device opened in an mm */
struct hmm_opencl_program;	/* a source that was built */
struct hmm_opencl_kernel;	/* one of its kernels, with its arguments */

/*
 * Have the device make its copies through staging, also where its memory is the CPU's: else
 * the driver makes those itself, in place.
 */
#define HMM_OPENCL_STAGED	(1ULL << 0)

struct hmm_opencl_opts {
	uint64_t size;		/* sizeof(struct hmm_opencl_opts) */
	uint64_t flags;		/* HMM_OPENCL_STAGED */
	const char *device;	/* part of a device's or platform's name, or the number that
				   hmm_opencl_describe() gives it; NULL: the first GPU, else
				   accelerator, else CPU */
	uint64_t mem_bytes;	/* of the device for pages, rounded up to 2 MiB; 0: all but
				   headroom_bytes of a device with its own memory, a
				   quarter where it shares the CPU's */
	uint64_t headroom_bytes;	/* left to others when mem_bytes is 0; 0: an eighth */
	uint64_t pool_bytes;	/* most bytes of one buffer, from 2 MiB; 0: what the device allows */
	uint32_t fault_around;	/* most pages brought home by one CPU fault, a power of two
				   up to 512; 0: as the access pattern earns */
	uint32_t slice_us;	/* what a slice is to take; 0: 20000; at most 1000000 */
	char *why;		/* NULL, or where a line saying why goes on an error */
	uint64_t why_bytes;
};

/**
 * hmm_opencl_open() - start an engine on a device, and register its memory
 * @opts: NULL for defaults
 *
 * Context: any thread, not from a callback; blocks, as long as the runtime takes.
 *
 * Return: 0, or
 *   -EINVAL      NULL, an option out of its bounds, more than 8 pools
 *   -ENOENT      the engine is not installed beside this library
 *   -ENODEV      no OpenCL platform (ICD), or no device of that name
 *   -ENOMEM      the device or the machine has not so much memory
 *   -EOPNOTSUPP  a device that is not little-endian, has no compiler or is OpenCL 1.1
 *   -EIO         the engine ended, or the runtime failed
 *   -ENOSPC      too many devices; -E2BIG, -ECHILD
 */
int hmm_opencl_open(struct hmm_mm *mm, const struct hmm_opencl_opts *opts,
		    struct hmm_opencl **out) HMM_MUST_CHECK;

/**
 * hmm_opencl_close() - bring everything home, end the engine
 *
 * Its programs and kernels are gone with it. No other call may run on it.
 *
 * Return: 0 (also for NULL); -EIO (the device failed: pages that were there are lost,
 *   each was reported); -EAGAIN (still open); -ECHILD; -EDEADLK.
 */
int hmm_opencl_close(struct hmm_opencl *ocl);

/* A device that hmm_opencl_open() could open. */
struct hmm_opencl_device {
	char name[128];
	char platform[128];
	char type[16];		/* "GPU", "CPU", "accelerator" ... */
	uint64_t mem_bytes;
	uint64_t max_alloc_bytes;
	uint32_t usable;	/* 0: `type` has to say no more; see EOPNOTSUPP */
	uint32_t shared;	/* its memory is the CPU's */
};

/**
 * hmm_opencl_describe() - the @nr-th device of this machine, from 0
 * @why: NULL, or @why_bytes for a line on an error
 *
 * Starts an engine for the time of the call.
 *
 * Return: 0; -ENOENT: there is no such device, or the engine is not installed; -ENODEV:
 *   no platform; -EINVAL; -ENOMEM; -EIO.
 */
int hmm_opencl_describe(uint32_t nr, struct hmm_opencl_device *out, char *why,
			size_t why_bytes) HMM_MUST_CHECK;

/* ------------------------------------------------------------------ kernels */

/*
 * For hmm_opencl_check(): every access counts, an item that returned without HMM_END()
 * is found, and misses can be injected. Several times slower.
 */
#define HMM_OPENCL_CHECKED	(1ULL << 0)

/**
 * hmm_opencl_build() - build a source
 * @options: NULL, or what the compiler is given besides
 * @flags:   HMM_OPENCL_CHECKED
 * @log:     NULL, or @log_bytes for what the compiler says
 *
 * Return: 0; -EINVAL (NULL, unknown flags, a source above 1 MiB, or one that does not
 *   compile: the log says why); -ENOMEM; -EIO; -ECHILD.
 */
int hmm_opencl_build(struct hmm_opencl *ocl, const char *source, const char *options,
		     uint64_t flags, char *log, size_t log_bytes,
		     struct hmm_opencl_program **out) HMM_MUST_CHECK;

/** hmm_opencl_program_free() - free a program and its kernels; NULL is fine. */
void hmm_opencl_program_free(struct hmm_opencl_program *program);

/**
 * hmm_opencl_kernel() - a kernel of a program, no argument set
 *
 * Return: 0; -EINVAL; -ENOENT (no kernel of that name, or not one of device.clh's);
 *   -ENOMEM; -EIO; -ECHILD.
 */
int hmm_opencl_kernel(struct hmm_opencl_program *program, const char *name,
		      struct hmm_opencl_kernel **out) HMM_MUST_CHECK;

/** hmm_opencl_kernel_free() - NULL is fine. */
void hmm_opencl_kernel_free(struct hmm_opencl_kernel *kernel);

/**
 * hmm_opencl_arg() - set argument @index, counted from 0 behind HMM_ARGS
 * @bytes: of the value, 1 to 256; as the kernel's type
 *
 * Return: 0; -EINVAL (no such argument, or another size); -EIO; -ECHILD.
 */
int hmm_opencl_arg(struct hmm_opencl_kernel *kernel, uint32_t index, const void *value,
		   size_t bytes) HMM_MUST_CHECK;

/** hmm_opencl_arg_pointer() - the same with a pointer of the program's, a ulong there. */
static inline int hmm_opencl_arg_pointer(struct hmm_opencl_kernel *kernel, uint32_t index,
					 const void *pointer)
{
	uint64_t value = (uintptr_t)pointer;

	return hmm_opencl_arg(kernel, index, &value, sizeof(value));
}

/* Why a run ended early. */
enum hmm_opencl_reason {
	HMM_OPENCL_NONE,
	HMM_OPENCL_UNMAPPED,	/* gap, or no read permission */
	HMM_OPENCL_READONLY,
	HMM_OPENCL_MISALIGNED,	/* not on its natural alignment */
	HMM_OPENCL_LOST,	/* the page's bytes are lost */
	HMM_OPENCL_NOMEM,	/* one item needs more memory than the device has */
	HMM_OPENCL_ATOMIC,	/* no atomics on memory that cannot move */
	HMM_OPENCL_LOG,		/* more stores in one item than HMM_LOG */
	HMM_OPENCL_ORDER,	/* a load of what the same item's atomic is to change */
	HMM_OPENCL_UNENDED,	/* CHECKED: returned without HMM_END() */
	HMM_OPENCL_DIFFERS,	/* hmm_opencl_check(): restarted items gave other bytes */
	HMM_OPENCL_OUTSIDE,	/* hmm_window_load_*() beyond the window (no address) */
};

struct hmm_opencl_fault {
	uintptr_t addr;
	uint64_t item;
	uint32_t write;		/* 1: it was a store or an atomic */
	enum hmm_opencl_reason reason;
};

/**
 * hmm_opencl_run() - run a kernel over items 0 .. nr_items - 1, and wait
 * @nr_items: at most 2^32 - 2
 * @fault:    NULL, or filled when the return is -EFAULT
 *
 * One run at a time; others wait. Items that ended before a refused access have stored
 * what they stored.
 *
 * Return: 0; -EFAULT (@fault says what); -EINVAL (NULL, no items, an argument is not
 *   set); -ENOMEM; -EIO (the device is lost, or the runtime failed: items may have stored,
 *   and what they stored may be there); -ECHILD.
 */
int hmm_opencl_run(struct hmm_opencl_kernel *kernel, uint64_t nr_items,
		   struct hmm_opencl_fault *fault) HMM_MUST_CHECK;

/**
 * hmm_opencl_check() - does the kernel keep the restart contract?
 * @every: 1 or more: at which access each item is made to miss, varied by item
 *
 * Of a CHECKED program. Runs it once to bring everything there, then from the same bytes
 * once undisturbed and once with a miss injected into every item, and compares what
 * they wrote to memory that can move. The program sees the effects of one run of a kernel
 * that keeps the contract. The CPU waits where it touches the device's pages meanwhile.
 *
 * Return: as hmm_opencl_run(); -EFAULT with DIFFERS: `addr` is the first byte that
 *   differs; -EBUSY: pages went home all the time; -EINVAL also: not CHECKED.
 */
int hmm_opencl_check(struct hmm_opencl_kernel *kernel, uint64_t nr_items, uint32_t every,
		     struct hmm_opencl_fault *fault) HMM_MUST_CHECK;

/* ------------------------------------------------------------------ placement */

/**
 * hmm_opencl_migrate_in() - move what can be moved of [start, end) to the device
 * @reasons: NULL, or HMM_REASONS counters of refused pages, added to
 *
 * Whole 2 MiB blocks of device memory are used up. Evicts older blocks when full.
 *
 * Return: pages now there by this call; -EINVAL, -ENOSPC, -ENOMEM, -EIO, -ECHILD,
 *   -EDEADLK.
 */
int64_t hmm_opencl_migrate_in(struct hmm_opencl *ocl, uintptr_t start, uintptr_t end,
			      uint64_t *reasons) HMM_MUST_CHECK;

/*
 * hmm_opencl_read(), hmm_opencl_write(), hmm_opencl_add() - one access by the device
 *
 * As a kernel of one item would make it, for tests and tools. read and write of an
 * aligned 1, 2, 4 or 8 bytes are one access, longer ones are not. @buf is memory that
 * is never away.
 *
 * Return: 0; -EFAULT (gap, no read permission); -EPERM; -EIO; -EOPNOTSUPP (add: memory
 *   that cannot move, or a device without 64-bit atomics); -EINVAL; -ENOMEM; -ECHILD.
 */
int hmm_opencl_read(struct hmm_opencl *ocl, uintptr_t addr, void *buf, size_t len) HMM_MUST_CHECK;
int hmm_opencl_write(struct hmm_opencl *ocl, uintptr_t addr, const void *buf,
		     size_t len) HMM_MUST_CHECK;
int hmm_opencl_add(struct hmm_opencl *ocl, uintptr_t addr, uint64_t value) HMM_MUST_CHECK;

struct hmm_opencl_stats {
	uint64_t size;
	uint64_t runs, launches;	/* launches: slices, and those of stopped items */
	uint64_t rounds;		/* launches that left stopped items */
	uint64_t restarts;		/* items run again */
	uint64_t faults;		/* blocks and pages asked for */
	uint64_t migrated_in, migrated_out, evicted;	/* pages; evicted: to make room */
	uint64_t borrowed;		/* pages that cannot move, read or written through a copy */
	uint64_t invalidations;		/* that took translations from the device */
	uint64_t transfers, transfer_bytes;
	uint64_t mem_bytes, mem_used;	/* now; used: whole blocks */
	uint64_t cpu_faults;		/* migrate_to_ram calls */
	uint64_t lost;			/* 1: the device is lost */
	int64_t engine_pid;
	uint64_t in_place;		/* 1: its memory is the CPU's, and copies are one memcpy */
};

/** hmm_opencl_stats() - read the counters. -EINVAL, -ECHILD. */
int hmm_opencl_stats(struct hmm_opencl *ocl, struct hmm_opencl_stats *stats) HMM_MUST_CHECK;

/** hmm_opencl_devmem() - its devmem, for hmm_migrate_to_device(); NULL in a forked child. */
struct hmm_devmem *hmm_opencl_devmem(const struct hmm_opencl *ocl);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
