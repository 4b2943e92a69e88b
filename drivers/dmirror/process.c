/* SPDX-License-Identifier: MIT */
/*
 * The devices of this process: made when the first file is opened, gone when the last
 * is closed. Callers take turns (files.c).
 */
#include <errno.h>
#include <string.h>

#include "dmirror.h"

/*
 * What the kernel's driver frees, its next allocation finds again without clearing it. Our
 * pages are cleared when the kernel gives them, so as many as a large request moves are kept.
 */
#define STAGING_BYTES	(288UL << 20)

static struct dmirror_process *process;

static void say_nothing(void *ctx, enum hmm_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

/*
 * Changes of mappings announced before they are made, as the kernel's driver hears of
 * them. Where that cannot be had (another has the process's calls, or an ancestor of
 * the process) most of it works without, and the second try says why if it does not.
 */
static int make_mm(struct hmm_mm **mm)
{
	HMM_OPTS(hmm_mm_opts, opts, .flags = HMM_MM_STRICT, .log = say_nothing,
		 .staging_bytes = STAGING_BYTES);

	if (!hmm_mm_create(&opts, mm))
		return 0;
	opts.flags = 0;
	opts.log = NULL;
	return hmm_mm_create(&opts, mm);
}

static int process_start(void)
{
	int ret;

	process = hmm_safe_alloc(sizeof(*process));
	if (!process)
		return -ENOMEM;
	process->page_size = hmm_page_size();
	ret = bounce_init(&process->bounce);
	if (ret)
		goto err_free;
	ret = make_mm(&process->mm);
	if (ret)
		goto err_bounce;
	return 0;

err_bounce:
	bounce_destroy(&process->bounce);
err_free:
	hmm_safe_free(process, sizeof(*process));
	process = NULL;
	return ret;
}

/* The last device is gone: the program's memory is its own again. */
static void process_end(void)
{
	int ret;

	for (unsigned int i = 0; i < DMIRROR_UNITS; i++)
		if (process->opens[i])
			return;
	/* EIO: pages were lost on their way home, but the mm is gone. */
	ret = hmm_mm_destroy(process->mm);
	if (ret && ret != -EIO)
		return;
	bounce_destroy(&process->bounce);
	hmm_safe_free(process, sizeof(*process));
	process = NULL;
}

static void device_put(unsigned int unit)
{
	if (--process->opens[unit])
		return;
	device_close(process->device[unit]);
	process->device[unit] = NULL;
}

int dmirror_open(unsigned int unit, struct dmirror **out)
{
	int ret = 0;

	if (!process)
		ret = process_start();
	if (ret)
		return ret;
	if (!process->opens[unit])
		ret = device_open(process, unit, &process->device[unit]);
	if (ret)
		goto err_process;
	process->opens[unit]++;
	ret = mirror_create(process, process->device[unit], out);
	if (ret)
		goto err_device;
	return 0;

err_device:
	device_put(unit);
err_process:
	process_end();
	return ret;
}

/* As the kernel's: all that the device has comes home, other openers' pages too. */
void dmirror_close(struct dmirror *m)
{
	struct dmirror_device *d = m->device;
	unsigned int unit = 0;

	while (process->device[unit] != d)
		unit++;
	mirror_destroy(m);
	device_evict(d);
	device_put(unit);
	process_end();
}

void dmirror_forget(void)
{
	process = NULL;
}

struct hmm_mm *dmirror_mm(void)
{
	return process ? process->mm : NULL;
}
