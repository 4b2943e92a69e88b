/* SPDX-License-Identifier: MIT */
/*
 * Trials: whether the library works here is found out by using it.
 */
#include <string.h>

#include "command.h"

/* Only the first line: what follows from the first failure explains less. */
static void keep_line(void *ctx, enum hmm_log_level level, const char *line)
{
	struct trial *trial = ctx;

	if (level > HMM_LOG_WARN || trial->said[0])
		return;
	for (size_t i = 0; i < sizeof(trial->said) - 1 && line[i]; i++)
		trial->said[i] = line[i];
}

static int make_mm(struct trial *trial, uint64_t flags, struct hmm_mm **mm)
{
	HMM_OPTS(hmm_mm_opts, opts, .flags = flags, .log = keep_line, .log_ctx = trial);

	memset(trial, 0, sizeof(*trial));
	return hmm_mm_create(&opts, mm);
}

void trial_mm(struct trial *trial, uint64_t flags)
{
	struct hmm_mm *mm;

	trial->err = make_mm(trial, flags, &mm);
	if (!trial->err)
		trial->err = hmm_mm_destroy(mm);
}

void trial_device(struct trial *trial, const struct hmm_plugin *plugin, const char *options)
{
	struct hmm_device device;
	struct hmm_mm *mm;
	int err;

	trial->err = make_mm(trial, 0, &mm);
	if (trial->err)
		return;

	trial->err = hmm_device_open(mm, plugin, options, &device);
	if (trial->err)
		keep_line(trial, HMM_LOG_ERROR, device.said);
	else
		trial->err = hmm_device_close(&device);
	err = hmm_mm_destroy(mm);
	if (!trial->err)
		trial->err = err;
}
