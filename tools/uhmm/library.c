/* SPDX-License-Identifier: MIT */
/* The libraries that uhmm loads into programs. */
#include <errno.h>	/* the names only */
#include <string.h>

#include "command.h"
#include "sys/process.h"

int find_library(const char *built, const char *installed, char *path, size_t size)
{
	const char *const places[] = { built, installed };
	char self[512];
	int ret, len;

	ret = sys_program_path(self, sizeof(self));
	if (ret)
		return ret;
	*strrchr(self, '/') = '\0';
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		len = snprintf(path, size, "%s/%s", self, places[i]);
		if (len > 0 && (size_t)len < size && sys_file_exists(path))
			return 0;
	}
	return -ENOENT;
}
