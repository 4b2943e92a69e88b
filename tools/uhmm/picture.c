/* SPDX-License-Identifier: MIT */
#include "picture.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rates.h"

#define WORD	16

struct pen {
	void (*put)(void *ctx, enum picture_style style, const char *line);
	void *ctx;
};

struct row {
	const struct window_process *process;
	struct rates rates;
	double key;
};

const char *picture_order_name(enum picture_order order)
{
	static const char *const names[] = {
		[ORDER_AWAY] = "away", [ORDER_RAM] = "RAM", [ORDER_FAULTS] = "faults",
		[ORDER_TRAFFIC] = "traffic", [ORDER_PID] = "pid",
	};

	return names[order];
}

/* ---------------------------------------------------------------- words */

/* Names are the program's to choose: nothing of them may mean something to a terminal. */
static void clean(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || (unsigned char)*text > 0x7e)
			*text = '?';
}

static void __attribute__((format(printf, 3, 4)))
draw(const struct pen *pen, enum picture_style style, const char *fmt, ...)
{
	char line[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	clean(line);
	pen->put(pen->ctx, style, line);
}

/* Five characters at most: "0", "812K", "1.2M", "12.3G". */
static const char *scaled(char word[WORD], double value, double step, const char *units)
{
	size_t unit = 0;

	while (value >= step * 0.9995 && units[unit + 1]) {
		value /= step;
		unit++;
	}
	if (unit)
		snprintf(word, WORD, value < 100 ? "%.1f%c" : "%.0f%c", value, units[unit]);
	else
		snprintf(word, WORD, "%.0f", value);
	return word;
}

static const char *bytes(char word[WORD], uint64_t value)
{
	return scaled(word, (double)value, 1024, " KMGTP");
}

static const char *count(char word[WORD], double value)
{
	return scaled(word, value, 1000, " kMGT");
}

static const char *us(char word[WORD], const struct hmm_times *times, uint32_t permille)
{
	if (!times->nr)
		return "-";
	return count(word, (double)hmm_times_ns(times, permille) / 1e3);
}

/* ---------------------------------------------------------------- a monitor's part */

static void draw_tree(const struct pen *pen, const struct monitor_seen *seen)
{
	const struct window_view *v = seen->now;
	const char *slash = strrchr(v->program, '/');
	char limit[WORD], w[6][WORD];
	struct rates rates;

	rates_of_tree(seen, &rates);
	draw(pen, PICTURE_HEAD, "%.30s [%d]  policy %.12s%s%s  up %.1f s", slash ? slash + 1 : v->program, v->pid,
	     v->policy, v->dram_bytes ? ", RAM limit " : "",
	     v->dram_bytes ? bytes(limit, v->dram_bytes) : "",
	     (double)(v->now_ns - v->start_ns) / 1e9);
	draw(pen, PICTURE_PLAIN, "processes %" PRIu32 " now, %" PRIu64 " seen, %" PRIu64
	     " plain; RAM %s; changes %" PRIu64, v->nr_alive, v->nr_seen, v->nr_plain,
	     bytes(w[0], v->resident_bytes), v->changes);
	draw(pen, PICTURE_PLAIN, "faults %s/s (%s us half, %s us 99%%), first touches %s/s",
	     count(w[0], rates.faults), us(w[1], &rates.times, 500), us(w[2], &rates.times, 990),
	     count(w[3], rates.zero_fills));
	for (uint32_t i = 0; i < v->nr_devices; i++)
		draw(pen, PICTURE_PLAIN, "device %.20s: %s of %s (peak %s); pages %s/s in, %s/s out",
		     v->device[i].name, bytes(w[0], v->device[i].used_bytes),
		     bytes(w[1], v->device[i].bytes), bytes(w[2], v->device[i].peak_bytes),
		     count(w[3], rates.away), count(w[4], rates.home));
	if (seen->asked)
		draw(pen, PICTURE_ALARM, "does not answer: this is how it was");
	if (v->lost_pages)
		draw(pen, PICTURE_ALARM, "LOST: %" PRIu64 " pages; the program was told of %" PRIu64,
		     v->lost_pages, v->poisoned_pages);
}

static void draw_row(const struct pen *pen, const struct row *row)
{
	const struct window_process *p = row->process;
	char w[7][WORD];

	if (!p->managed) {
		draw(pen, PICTURE_PLAIN, "%7d %-15.15s %8s %8s", p->pid, p->name,
		     bytes(w[0], p->resident_bytes), "plain");
		return;
	}
	draw(pen, PICTURE_PLAIN, "%7d %-15.15s %8s %8s %7s %7s %7s %6s %6s", p->pid, p->name,
	     bytes(w[0], p->resident_bytes), bytes(w[1], p->device_bytes),
	     count(w[2], row->rates.faults), count(w[3], row->rates.away),
	     count(w[4], row->rates.home), us(w[5], &row->rates.times, 500),
	     us(w[6], &row->rates.times, 990));
}

static double key_of(const struct row *row, enum picture_order order)
{
	switch (order) {
	case ORDER_RAM:
		return (double)row->process->resident_bytes;
	case ORDER_FAULTS:
		return row->rates.faults;
	case ORDER_TRAFFIC:
		return row->rates.away + row->rates.home;
	case ORDER_PID:
		return -row->process->pid;
	default:
		return (double)row->process->device_bytes;
	}
}

static int by_key(const void *a, const void *b)
{
	const struct row *one = a, *two = b;

	if (one->key != two->key)
		return one->key < two->key ? 1 : -1;
	return one->process->pid - two->process->pid;
}

static void draw_processes(const struct pen *pen, const struct monitor_seen *seen,
			   enum picture_order order)
{
	static struct row rows[WINDOW_PROCESSES];
	const struct window_view *v = seen->now;

	for (uint32_t i = 0; i < v->nr_processes; i++) {
		rows[i].process = &v->process[i];
		rates_of_process(seen, &v->process[i], &rows[i].rates);
		rows[i].key = key_of(&rows[i], order);
	}
	qsort(rows, v->nr_processes, sizeof(rows[0]), by_key);
	draw(pen, PICTURE_TABLE, "%7s %-15s %8s %8s %7s %7s %7s %6s %6s", "PID", "PROCESS", "RAM",
	     "AWAY", "FAULT/S", "AWAY/S", "HOME/S", "P50 us", "P99 us");
	for (uint32_t i = 0; i < v->nr_processes; i++)
		draw_row(pen, &rows[i]);
	if (v->nr_alive > v->nr_processes)
		draw(pen, PICTURE_PLAIN, "        and %" PRIu32 " more", v->nr_alive - v->nr_processes);
}

void picture_draw(const struct monitors *monitors, enum picture_order order,
		  void (*put)(void *ctx, enum picture_style style, const char *line), void *ctx)
{
	const struct pen pen = { put, ctx };

	for (size_t i = 0; i < monitors->nr; i++) {
		if (i)
			draw(&pen, PICTURE_PLAIN, "%s", "");
		draw_tree(&pen, &monitors->seen[i]);
		draw_processes(&pen, &monitors->seen[i], order);
	}
	if (monitors->foreign)
		draw(&pen, PICTURE_ALARM, "a monitor of another version of uhmm is not shown");
}
