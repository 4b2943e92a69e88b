/* SPDX-License-Identifier: MIT */
#ifndef UHMM_CORE_OPTS_H
#define UHMM_CORE_OPTS_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#define OPTS_SIZE_MAX	4096

/*
 * An older caller passes fewer bytes and gets the defaults for the rest; a newer
 * one may pass more, as long as what this library does not know is zero.
 */
static inline int opts_check(const void *opts, uint64_t user, size_t known, size_t oldest)
{
	const unsigned char *p = opts;

	if (user < oldest)
		return -EINVAL;		/* size not set, or older than any release */
	if (user > OPTS_SIZE_MAX)
		return -E2BIG;		/* a stray value must not make us read far */
	for (size_t i = known; i < user; i++)
		if (p[i] != 0)
			return -E2BIG;
	return 0;
}

#endif
