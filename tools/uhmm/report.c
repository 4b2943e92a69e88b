/* SPDX-License-Identifier: MIT */
#include "report.h"

#include <inttypes.h>

#include "command.h"

static double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

void report_json(FILE *to, char *const *program, int status, const struct monitor_stats *stats)
{
	fputs("{ \"version\": 1, \"program\": [", to);
	for (int i = 0; program[i]; i++) {
		fputs(i ? ", " : "", to);
		json_string(to, program[i]);
	}
	fprintf(to, "],\n  \"exit_status\": %d, \"elapsed_s\": %.6f,\n", status, stats->elapsed_s);
	fprintf(to, "  \"processes\": %" PRIu64 ", \"plain_processes\": %" PRIu64
		", \"changes\": %" PRIu64 ",\n", stats->processes, stats->plain_processes,
		stats->changes);
	fputs("  \"pages_to_device\": 0, \"pages_to_system\": 0, \"cpu_faults\": 0, \"zero_fills\": 0,\n"
	      "  \"fault_us\": {\"p50\": 0, \"p99\": 0, \"max\": 0},\n", to);
	fprintf(to, "  \"device_bytes_peak\": 0, \"device_bytes_end\": 0, \"dram_bytes_peak\": %" PRIu64
		",\n", stats->resident_peak);
	fputs("  \"refused\": {\"pinned\": 0, \"shared\": 0, \"file\": 0, \"other\": 0},\n"
	      "  \"poisoned_pages\": 0, \"lost_pages\": 0,\n"
	      "  \"devices\": [] }\n", to);
}

void report_table(FILE *to, int status, const struct monitor_stats *stats)
{
	fprintf(to, "exit status      %d\n", status);
	fprintf(to, "elapsed          %.3f s\n", stats->elapsed_s);
	fprintf(to, "processes        %" PRIu64 ", %" PRIu64 " of them plain\n", stats->processes,
		stats->plain_processes);
	fprintf(to, "changes          %" PRIu64 "\n", stats->changes);
	fprintf(to, "memory in RAM    %.1f MiB at most\n", mib(stats->resident_peak));
}

void progress_line(void *ctx, const struct monitor_stats *now)
{
	(void)ctx;
	fprintf(stderr, "\r\033[K%.1f s  %" PRIu64 " processes  %" PRIu64 " changes  %.1f MiB in RAM",
		now->elapsed_s, now->processes, now->changes, mib(now->resident_bytes));
	fflush(stderr);
}

void progress_end(void)
{
	fputs("\r\033[K", stderr);
}
