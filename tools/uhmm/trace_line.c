/* SPDX-License-Identifier: MIT */
#include "trace_line.h"

#include <stdlib.h>
#include <string.h>

bool trace_line_first(const char *line)
{
	return strncmp(line, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[", 39) == 0;
}

/* What follows @key, or NULL. Names have no quotes in them, so no key is part of one. */
static const char *field(const char *line, const char *key)
{
	const char *at = strstr(line, key);

	return at ? at + strlen(key) : NULL;
}

static uint64_t number(const char *line, const char *key, int base)
{
	const char *at = field(line, key);

	return at ? strtoull(at, NULL, base) : 0;
}

/* Microseconds with three digits behind the point. */
static uint64_t us_in_ns(const char *line, const char *key)
{
	const char *at = field(line, key);
	uint64_t ns;
	char *end;

	if (!at)
		return 0;
	ns = strtoull(at, &end, 10) * 1000;
	return *end == '.' ? ns + strtoull(end + 1, NULL, 10) % 1000 : ns;
}

static void name(const char *line, struct trace_line *out)
{
	const char *at = field(line, "\"args\":{\"name\":\"");
	const size_t len = at ? strcspn(at, "\"") : 0;

	if (!at || !field(line, "\"name\":\"process_name\""))
		return;
	out->kind = LINE_NAME;
	memcpy(out->name, at, len < sizeof(out->name) ? len : sizeof(out->name) - 1);
}

void trace_line_read(const char *line, struct trace_line *out)
{
	const char *what = field(line, "\"name\":\"");

	memset(out, 0, sizeof(*out));
	if (strncmp(line, "],\"otherData\"", 13) == 0) {
		out->kind = LINE_END;
		out->dropped = number(line, "\"dropped\":", 10);
		return;
	}
	if (!what)
		return;
	out->space = number(line, "\"pid\":", 10);
	out->ns = us_in_ns(line, "\"ts\":") + us_in_ns(line, "\"dur\":");
	if (strncmp(line, "{\"ph\":\"M\"", 9) == 0) {
		name(line, out);
		return;
	}
	out->start = number(line, "\"start\":\"", 16);
	out->end = number(line, "\"end\":\"", 16);
	out->pages = number(line, "\"pages\":", 10);
	out->of = number(line, "\"of\":", 10);
	if (field(line, "\"cat\":\"place\"") && out->end > out->start &&
	    out->pages <= out->of && out->of)
		out->kind = LINE_AWAY;
	else if (field(line, "\"cat\":\"fault\"") && strncmp(what, "fault", 5) == 0)
		out->kind = LINE_FAULT;
}
