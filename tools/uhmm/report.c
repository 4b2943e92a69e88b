/* SPDX-License-Identifier: MIT */
#include "report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

static double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

static double us(const struct hmm_times *times, uint32_t permille)
{
	return (double)hmm_times_ns(times, permille) / 1e3;
}

/* The reasons that have no place of their own, but "already on a device". */
static uint64_t other_refused(const struct hmm_stats *pages)
{
	uint64_t sum = 0;

	for (int reason = 0; reason < HMM_REASONS; reason++)
		if (reason != HMM_REASON_PINNED && reason != HMM_REASON_SHARED &&
		    reason != HMM_REASON_FILE && reason != HMM_REASON_DEVICE)
			sum += pages->refused[reason];
	return sum;
}

static void json_pages(FILE *to, const struct monitor_stats *stats)
{
	const struct hmm_stats *pages = &stats->pages;

	fprintf(to, "  \"pages_to_device\": %" PRIu64 ", \"pages_to_system\": %" PRIu64
		", \"cpu_faults\": %" PRIu64 ", \"zero_fills\": %" PRIu64 ",\n",
		pages->pages_to_device, pages->pages_to_system, pages->cpu_faults,
		pages->zero_fills);
	fprintf(to, "  \"fault_us\": {\"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f},\n",
		us(&stats->faults, 500), us(&stats->faults, 990), us(&stats->faults, 1000));
	fprintf(to, "  \"device_bytes_peak\": %" PRIu64 ", \"device_bytes_end\": %" PRIu64
		", \"dram_bytes_peak\": %" PRIu64 ",\n", stats->device_peak, stats->device_bytes,
		stats->resident_peak);
	fprintf(to, "  \"refused\": {\"pinned\": %" PRIu64 ", \"shared\": %" PRIu64
		", \"file\": %" PRIu64 ", \"other\": %" PRIu64 "},\n",
		pages->refused[HMM_REASON_PINNED], pages->refused[HMM_REASON_SHARED],
		pages->refused[HMM_REASON_FILE], other_refused(pages));
	fprintf(to, "  \"poisoned_pages\": %" PRIu64 ", \"lost_pages\": %" PRIu64 ",\n",
		pages->poisoned_pages, pages->lost_pages);
}

static void json_devices(FILE *to, const struct monitor_stats *stats)
{
	fputs("  \"devices\": [", to);
	if (stats->device) {
		fputs(" {\"name\": ", to);
		json_string(to, stats->device);
		fprintf(to, ", \"pages_in\": %" PRIu64 ", \"pages_out\": %" PRIu64
			", \"bytes_peak\": %" PRIu64 "} ", stats->pages.pages_to_device,
			stats->pages.pages_to_system, stats->device_peak);
	}
	fputs("] }\n", to);
}

void report_json(FILE *to, char *const *program, int status, const char *trace,
		 const struct monitor_stats *stats)
{
	fputs("{ \"version\": 1, \"program\": [", to);
	for (int i = 0; program[i]; i++) {
		fputs(i ? ", " : "", to);
		json_string(to, program[i]);
	}
	fputs("],\n  \"trace\": ", to);	/* on a line of its own: uhmm map looks for it */
	json_string(to, trace);
	fprintf(to, ",\n  \"exit_status\": %d, \"elapsed_s\": %.6f,\n", status, stats->elapsed_s);
	fprintf(to, "  \"processes\": %" PRIu64 ", \"plain_processes\": %" PRIu64
		", \"changes\": %" PRIu64 ",\n", stats->processes, stats->plain_processes,
		stats->changes);
	json_pages(to, stats);
	json_devices(to, stats);
}

/* What json_string() wrote, as it was: each \u stands for a byte. */
static void unquote(const char *text, char out[PATH_MAX])
{
	size_t nr = 0;

	for (; *text && *text != '"' && nr < PATH_MAX - 1; text++) {
		unsigned int c = (unsigned char)*text;

		if (c == '\\') {
			c = (unsigned char)*++text;
			if (c == 'n')
				c = '\n';
			else if (c == 't')
				c = '\t';
			else if (c == 'u' && sscanf(text + 1, "%4x", &c) == 1)
				text += strnlen(text + 1, 4);
			else if (!c)
				break;
		}
		out[nr++] = (char)c;
	}
	out[nr] = '\0';
}

bool report_trace(FILE *file, char trace[PATH_MAX])
{
	static const char first[] = "{ \"version\": 1, \"program\": [", key[] = "  \"trace\": ";
	bool report;
	char *line = NULL;
	size_t room = 0;

	trace[0] = '\0';
	report = getline(&line, &room, file) > 0 && strncmp(line, first, sizeof(first) - 1) == 0;
	while (report && getline(&line, &room, file) > 0) {
		if (strncmp(line, key, sizeof(key) - 1) == 0 && line[sizeof(key) - 1] == '"') {
			unquote(line + sizeof(key), trace);
			break;
		}
	}
	free(line);
	rewind(file);
	return report;
}

void report_table(FILE *to, int status, const struct monitor_stats *stats)
{
	const struct hmm_stats *pages = &stats->pages;

	fprintf(to, "exit status      %d\n", status);
	fprintf(to, "elapsed          %.3f s\n", stats->elapsed_s);
	fprintf(to, "processes        %" PRIu64 ", %" PRIu64 " of them plain\n", stats->processes,
		stats->plain_processes);
	fprintf(to, "changes          %" PRIu64 "\n", stats->changes);
	fprintf(to, "memory in RAM    %.1f MiB at most\n", mib(stats->resident_peak));
	if (!stats->device)
		return;
	fprintf(to, "memory on %-6s %.1f MiB at most\n", stats->device, mib(stats->device_peak));
	fprintf(to, "pages            %" PRIu64 " to the device, %" PRIu64 " back\n",
		pages->pages_to_device, pages->pages_to_system);
	fprintf(to, "faults           %" PRIu64 " on pages that were away, %" PRIu64 " zero fills\n",
		pages->cpu_faults, pages->zero_fills);
	if (stats->faults.nr)
		fprintf(to, "fault times      %.0f us half of them, %.0f us 99 %%, %.0f us at most\n",
			us(&stats->faults, 500), us(&stats->faults, 990), us(&stats->faults, 1000));
	if (pages->lost_pages || pages->poisoned_pages)
		fprintf(to, "lost             %" PRIu64 " pages, the program was told of %" PRIu64 "\n",
			pages->lost_pages, pages->poisoned_pages);
}

void progress_line(void *ctx, const struct monitor_stats *now)
{
	(void)ctx;
	fprintf(stderr, "\r\033[K%.1f s  %" PRIu64 " processes  %" PRIu64
		" changes  %.1f MiB in RAM  %.1f MiB away", now->elapsed_s, now->processes,
		now->changes, mib(now->resident_bytes), mib(now->device_bytes));
	fflush(stderr);
}

void progress_end(void)
{
	fputs("\r\033[K", stderr);
}
