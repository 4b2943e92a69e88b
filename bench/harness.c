/* SPDX-License-Identifier: MIT */
/* Rounds, quantiles, ratios and how they are printed. Knows nothing of what is measured. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"

#define ROOM	(1u << 17)

int bench_samples_init(struct bench_samples *samples, size_t room)
{
	samples->nr = 0;
	samples->room = room;
	samples->values = malloc(room * sizeof(*samples->values));
	if (!samples->values)
		return -ENOMEM;

	/* Populated now: the first touch of a page must not be part of a measurement. */
	memset(samples->values, 0xff, room * sizeof(*samples->values));
	return 0;
}

void bench_samples_free(struct bench_samples *samples)
{
	free(samples->values);
	memset(samples, 0, sizeof(*samples));
}

void bench_samples_add(struct bench_samples *samples, double value)
{
	if (samples->nr < samples->room)
		samples->values[samples->nr++] = value;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_quantile(struct bench_samples *samples, double q)
{
	size_t rank;

	if (!samples->nr)
		return 0;
	qsort(samples->values, samples->nr, sizeof(*samples->values), compare);
	rank = (size_t)(q * (double)samples->nr + 0.999999);
	if (rank > samples->nr)
		rank = samples->nr;
	return samples->values[rank ? rank - 1 : 0];
}

static double seconds_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static int one_round(struct bench_turn *turns, unsigned int nr_turns)
{
	for (unsigned int i = 0; i < nr_turns; i++) {
		int ret = turns[i].take(turns[i].ctx, &turns[i].samples);

		if (ret < 0)
			return ret;
	}
	return 0;
}

static bool any_full(const struct bench_turn *turns, unsigned int nr_turns)
{
	for (unsigned int i = 0; i < nr_turns; i++)
		if (turns[i].samples.nr == turns[i].samples.room)
			return true;
	return false;
}

int bench_rounds(struct bench_turn *turns, unsigned int nr_turns,
		 const struct bench_limits *limits)
{
	double end;
	int ret = 0;

	for (unsigned int i = 0; i < nr_turns; i++)
		memset(&turns[i].samples, 0, sizeof(turns[i].samples));
	for (unsigned int i = 0; i < nr_turns && !ret; i++)
		ret = bench_samples_init(&turns[i].samples, ROOM);

	for (unsigned int n = 0; n < limits->warmup && !ret; n++)
		ret = one_round(turns, nr_turns);
	for (unsigned int i = 0; i < nr_turns; i++)
		turns[i].samples.nr = 0;

	end = seconds_now() + limits->seconds;
	for (unsigned int n = 0; !ret; n++) {
		if (n >= limits->min_rounds && seconds_now() >= end)
			break;
		if ((limits->max_rounds && n == limits->max_rounds) || any_full(turns, nr_turns))
			break;
		ret = one_round(turns, nr_turns);
	}
	return ret;
}

void bench_turns_free(struct bench_turn *turns, unsigned int nr_turns)
{
	for (unsigned int i = 0; i < nr_turns; i++)
		bench_samples_free(&turns[i].samples);
}

double bench_ratio(const struct bench_line *line, double value, double floor_value)
{
	double above = line->better == BENCH_MORE ? value : floor_value;
	double below = line->better == BENCH_MORE ? floor_value : value;

	return below > 0 ? above / below : 0;
}

double bench_budget_ratio(const struct bench_line *line, double floor_value)
{
	switch (line->budget) {
	case BENCH_RATIO:
		return line->limit;
	case BENCH_AT_MOST:
		return floor_value / line->limit;
	case BENCH_ABOVE_FLOOR:
		return floor_value / (floor_value + line->limit);
	case BENCH_OPEN:
		break;
	}
	return 0;
}

bool bench_ok(const struct bench_line *line, double value, double floor_value)
{
	return bench_ratio(line, value, floor_value) >= bench_budget_ratio(line, floor_value);
}

/* Three or four digits that mean something, whatever the unit. */
static const char *figure(char *buf, size_t size, double value)
{
	int digits = fabs(value) >= 100 ? 0 : fabs(value) >= 10 ? 1 : fabs(value) >= 1 ? 2 : 3;

	snprintf(buf, size, "%.*f", digits, value);
	return buf;
}

void bench_print_header(FILE *out, const struct bench_machine *m)
{
	fprintf(out, "kernel   %s\n", m->kernel);
	fprintf(out, "cpu      %s, %u CPUs\n", m->cpu, m->cpus);
	fprintf(out, "memory   %zu-byte pages, THP %s\n", m->page_size, m->thp);
	fprintf(out, "caps     masked: %s; not here: %s\n", m->masked[0] ? m->masked : "none",
		m->missing[0] ? m->missing : "none");
	fprintf(out, "driver   %s\n", m->driver);
	fprintf(out, "commit   %s%s\n\n", m->commit,
		m->checks ? " (built with checks: do not compare these figures)" : "");
	fprintf(out, "%-24s %9s %-5s  %-28s %9s  %6s  %6s\n", "name", "value", "unit", "floor",
		"value", "ratio", "budget");
	fflush(out);
}

void bench_print_row(FILE *out, const struct bench_line *line, double value, double floor_value)
{
	char v[32], f[32];

	fprintf(out, "%-24s %9s %-5s  %-28s %9s  %6.2f", line->name, figure(v, sizeof(v), value),
		line->unit, line->floor, figure(f, sizeof(f), floor_value),
		bench_ratio(line, value, floor_value));
	if (line->budget != BENCH_OPEN)
		fprintf(out, "  %6.2f  %s", bench_budget_ratio(line, floor_value),
			bench_ok(line, value, floor_value) ? "ok" : "MISS");
	fputc('\n', out);
	fflush(out);
}

static void json_string(FILE *out, const char *key, const char *text)
{
	fprintf(out, "\"%s\": \"", key);
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < 0x20)
			fprintf(out, "\\u%04x", c);
		else
			fputc(c, out);
	}
	fputc('"', out);
}

void bench_print_json(FILE *out, const struct bench_machine *m, const struct bench_line *line,
		      double value, double floor_value)
{
	fputc('{', out);
	json_string(out, "name", line->name);
	fputs(", ", out);
	json_string(out, "unit", line->unit);
	fprintf(out, ", \"value\": %.6g, ", value);
	json_string(out, "floor", line->floor);
	fprintf(out, ", \"floor_value\": %.6g, \"ratio\": %.4g, \"budget\": %.4g, \"ok\": %s, ",
		floor_value, bench_ratio(line, value, floor_value), bench_budget_ratio(line, floor_value),
		bench_ok(line, value, floor_value) ? "true" : "false");
	json_string(out, "commit", m->commit);
	fputs(", ", out);
	json_string(out, "date", m->date);
	fputs(", ", out);
	json_string(out, "kernel", m->kernel);
	fputs(", ", out);
	json_string(out, "cpu", m->cpu);
	fprintf(out, ", \"cpus\": %u, \"page_size\": %zu, ", m->cpus, m->page_size);
	json_string(out, "thp", m->thp);
	fputs(", ", out);
	json_string(out, "caps_masked", m->masked);
	fputs(", ", out);
	json_string(out, "caps_missing", m->missing);
	fputs(", ", out);
	json_string(out, "driver", m->driver);
	fprintf(out, ", \"checks\": %s}\n", m->checks ? "true" : "false");
	fflush(out);
}
