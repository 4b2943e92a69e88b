/* SPDX-License-Identifier: MIT */
/*
 * A trace that uhmm run wrote, line by line: an event is a line. Not a parser of JSON; what
 * another program wrote, or wrote anew, is not read.
 */
#ifndef UHMM_TRACE_LINE_H
#define UHMM_TRACE_LINE_H

#include <stdbool.h>
#include <stdint.h>

enum trace_line_kind {
	LINE_OTHER,		/* nothing that a map needs */
	LINE_NAME,		/* of an address space */
	LINE_FAULT,		/* on a page that was away, at start */
	LINE_AWAY,		/* so many pages of start to end are away now */
	LINE_END,		/* the file's last */
};

struct trace_line {
	enum trace_line_kind kind;
	uint64_t space;
	uint64_t ns;			/* since the start; when it ended. Every event has it */
	uint64_t start, end, pages, of;
	uint64_t dropped;		/* END */
	char name[48];			/* NAME */
};

/* Does a trace begin with this line? */
bool trace_line_first(const char *line);

void trace_line_read(const char *line, struct trace_line *out);

#endif
