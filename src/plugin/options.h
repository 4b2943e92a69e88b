/* SPDX-License-Identifier: MIT */
/*
 * "key=value,key=value" by a plug-in's table.
 */
#ifndef UHMM_PLUGIN_OPTIONS_H
#define UHMM_PLUGIN_OPTIONS_H

#include <uhmm/plugin.h>

#define OPTIONS_BYTES	1024	/* of one option string */

/*
 * @text is cut up and the values point into it. 0, or -EINVAL with a line in @why.
 */
int options_parse(const struct hmm_plugin *plugin, char *text, struct hmm_plugin_value *values,
		  char *why, size_t why_bytes);

#endif
