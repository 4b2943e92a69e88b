/* SPDX-License-Identifier: MIT */
/*
 * A driver as a plug-in: a shared object that a program opens by its name and one
 * option string, as in `uhmm devices` or `hmm-driver-test ./mine.so:mem=64M`.
 *
 * The plug-in's half is one constant:
 *
 *	const struct hmm_plugin hmm_plugin = {
 *		.size = sizeof(hmm_plugin), .abi = HMM_PLUGIN_ABI,
 *		.name = "mine", .what = "my device", .open = mine_open, .close = mine_close,
 *	};
 *
 * The host's half are the functions at the end. The host parses the options, by the
 * plug-in's own table: so every device is asked for in one grammar, and refuses what
 * it does not know in the same words.
 *
 * Not stable before three very different drivers fit it, as driver.h.
 */
#ifndef UHMM_PLUGIN_H
#define UHMM_PLUGIN_H

#include <uhmm/driver.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define HMM_PLUGIN_ABI		2
#define HMM_PLUGIN_OPTIONS	32	/* most entries of an option table */

/* ------------------------------------------------------------------ the plug-in */

enum hmm_plugin_kind {
	HMM_PLUGIN_NUMBER,	/* decimal, or 0x and hexadecimal */
	HMM_PLUGIN_SIZE,	/* bytes: a number and K, M, G or T (powers of 1024) */
	HMM_PLUGIN_TEXT,	/* anything without a comma */
	HMM_PLUGIN_WORD,	/* one of a list; number is its place in that list */
};

struct hmm_plugin_option {
	const char *name;	/* lower case letters, digits and _ */
	enum hmm_plugin_kind kind;
	uint64_t preset;	/* the number where it is not given */
	uint64_t min, max;	/* of NUMBER and SIZE, both allowed; max 0: no bound */
	const char *words;	/* of WORD: "first|never" */
	const char *what;	/* one line for people */
};

/* One per entry of the table, in its order. */
struct hmm_plugin_value {
	uint64_t number;	/* NUMBER, SIZE, WORD */
	const char *text;	/* TEXT; NULL where not given. Valid while open() runs */
	bool given;
};

#define HMM_DEVICE_SAID		160

/*
 * A device that is open. The struct is the host's; it lies where host and plug-in
 * may use it until close() has succeeded, and may not move.
 */
struct hmm_device {
	const struct hmm_plugin *plugin;	/* the host's to set */
	struct hmm_mm *mm;			/* the host's to set */
	struct hmm_devmem *devmem;		/* open() sets it; NULL: no memory, a mirror alone */
	void *ctx;				/* the plug-in's own */
	char said[HMM_DEVICE_SAID];		/* open() failed: one line saying why, or empty */
};

/* A device that could be opened, for lists of devices. */
struct hmm_plugin_device {
	char options[64];	/* that open this one, "" for the default */
	char what[HMM_DEVICE_SAID];	/* for people: product, place */
	uint64_t mem_bytes;	/* 0: the options say */
};

/*
 * Operations return 0 or a negative errno. open, close and describe may block and
 * use any library; they are never called from a callback, nor two of them at once.
 */
struct hmm_plugin {
	uint64_t size;		/* sizeof(struct hmm_plugin) */
	uint32_t abi;		/* HMM_PLUGIN_ABI */
	uint32_t nr_options;
	const struct hmm_plugin_option *options;
	const char *name;	/* letters, digits and -, at most 31; as the file without .so */
	const char *what;	/* one line for people */

	/*
	 * Make a device in @device->mm, with one value per option. It may be opened more
	 * than once, also in one mm. On an error nothing is left behind.
	 */
	int (*open)(struct hmm_device *device, const struct hmm_plugin_value *values);

	/*
	 * Bring everything home and undo open(). The CPU may touch its pages meanwhile;
	 * no other operation of the device runs, or will. As hmm_devmem_remove(): after
	 * -EAGAIN the device is still open, after anything else it is gone.
	 */
	int (*close)(struct hmm_device *device);

	/*
	 * Optional. The @nr-th device that open() could find here, from 0. -ENOENT: no
	 * such; for @nr 0 what[] then says why there is none.
	 */
	int (*describe)(uint32_t nr, struct hmm_plugin_device *out);

	/*
	 * All that follow are optional, and may be called by several threads at once.
	 *
	 * The driver's own way to bring [start, end) into its memory. Without it hosts
	 * use hmm_migrate_to_device(), which needs page_alloc. Returns pages that are
	 * there now by this call; -ENOSPC: none, the memory is full.
	 */
	int64_t (*migrate)(struct hmm_device *device, uintptr_t start, uintptr_t end);

	/*
	 * The device reads or writes the program's memory, by its own page table, as a
	 * kernel on it would: for devices with a mirror. @buf is the host's and never
	 * away. Whether an access is atomic is the device's own affair. 0, or -EFAULT (gap,
	 * or no read permission), -EPERM (write where the mapping
	 * forbids it), -EIO (the page's bytes are lost).
	 */
	int (*read)(struct hmm_device *device, uintptr_t addr, void *buf, size_t len);
	int (*write)(struct hmm_device *device, uintptr_t addr, const void *buf, size_t len);

	/*
	 * The device adds to the aligned 8 bytes at @addr, atomically against the CPU and
	 * all devices. As write; -EOPNOTSUPP or -EBUSY: not to memory of this kind.
	 */
	int (*add)(struct hmm_device *device, uintptr_t addr, uint64_t value);
};

/* What a plug-in exports, and all that it needs to. */
extern const struct hmm_plugin hmm_plugin;

/* ------------------------------------------------------------------ the host */

/**
 * hmm_plugin_load() - find a driver by its name
 * @name: "soft", which is built in; a name: NAME.so in the folders of
 *        $UHMM_PLUGIN_PATH (separated by :), then in that of the library; or a path,
 *        which is what has a / in it
 * @out:  the plug-in; static storage, never unloaded
 * @why:  NULL, or @why_bytes for one line on a failure
 *
 * $UHMM_PLUGIN_PATH does not count in a setuid program.
 *
 * Context: any thread, not from a callback; blocks. Loads code: a plug-in is trusted
 * as the program itself.
 *
 * Return: 0, or
 *   -EINVAL   NULL, or not a name
 *   -ENOENT   no such plug-in
 *   -ENOEXEC  not a plug-in, or one that cannot be loaded here
 *   -E2BIG    made for a newer libuhmm
 */
int hmm_plugin_load(const char *name, const struct hmm_plugin **out, char *why,
		    size_t why_bytes) HMM_MUST_CHECK;

/**
 * hmm_plugin_each() - the names that hmm_plugin_load() would find
 * @fn: called once per name, "soft" first; anything but 0 ends it and is returned
 *
 * Context: as hmm_plugin_load().
 *
 * Return: 0; what @fn returned; -EINVAL; -ENOMEM.
 */
int hmm_plugin_each(int (*fn)(const char *name, void *ctx), void *ctx);

/**
 * hmm_device_open() - open a plug-in's device in an mm
 * @options: NULL, or "key=value,key=value..."
 * @device:  zeroed by this call; the caller's, see struct hmm_device
 *
 * Context: any thread, not from a callback; blocks.
 *
 * Return: 0, or what the plug-in's open() says, or -EINVAL: NULL, or options that
 *   cannot be; device->said then says which.
 */
int hmm_device_open(struct hmm_mm *mm, const struct hmm_plugin *plugin, const char *options,
		    struct hmm_device *device) HMM_MUST_CHECK;

/**
 * hmm_device_check() - could these options open a device?
 * @options: as hmm_device_open()'s
 * @why:     NULL, or @why_bytes for one line on a failure
 *
 * By the plug-in's table alone, for hosts that have something to do before there is an
 * mm. What only the plug-in can tell is not known: whether the device is there, whether
 * a text means something to it, whether two options go together.
 *
 * Context: any thread, not from a callback.
 *
 * Return: 0, or -EINVAL: a NULL plug-in, or options that cannot be.
 */
int hmm_device_check(const struct hmm_plugin *plugin, const char *options, char *why,
		     size_t why_bytes) HMM_MUST_CHECK;

/**
 * hmm_device_close() - close it; a device that is not open is fine
 *
 * Return: 0; -EIO: pages were lost, each was reported, the device is gone; -EAGAIN:
 *   still open; -EINVAL on NULL; -ECHILD; -EDEADLK.
 */
int hmm_device_close(struct hmm_device *device);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
