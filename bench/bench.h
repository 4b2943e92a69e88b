/* SPDX-License-Identifier: MIT */
/*
 * `uhmm bench`: each file beside this one answers one question, and says which at
 * its top.
 *
 * A line is one figure with a name that scripts rely on, a value, and a floor: what
 * the machine itself can do. Times on a shared machine mean little, so floor and
 * measurement take turns within one run, and what is judged is their ratio:
 *
 *	ratio = value / floor    where more is better (GB/s)
 *	ratio = floor / value    where less is better (ns, us, %)
 *
 * so larger is better everywhere, and 1 means "at the floor". A budget is a ratio
 * too; budgets that are promised in other terms (at most 300 ns, at most 2 ns above
 * the floor) are turned into the ratio that they come to in this very run. Budget 0
 * means that nothing is promised.
 *
 * Each bench runs in a process of its own: what one leaves behind (a split mapping,
 * a warm allocator, a seccomp filter that cannot be removed, a crash) is not in the
 * figures of the next.
 */
#ifndef UHMM_BENCH_H
#define UHMM_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <uhmm/soft.h>
#include <uhmm/uhmm.h>

#define KIB	(1024UL)
#define MIB	(1024UL * KIB)
#define GIB	(1024UL * MIB)
#define COUNT(a)	(sizeof(a) / sizeof((a)[0]))

/* ---------------------------------------------------------------- harness.c */

struct bench_samples {
	double *values;
	size_t nr, room;	/* beyond room samples are dropped; rounds end before */
};

int bench_samples_init(struct bench_samples *samples, size_t room);
void bench_samples_free(struct bench_samples *samples);
void bench_samples_add(struct bench_samples *samples, double value);

/* The value that a share @q of the samples does not exceed. Sorts them. 0 if none. */
double bench_quantile(struct bench_samples *samples, double q);

/* One side of a comparison: each call measures once or often, and adds samples. */
struct bench_turn {
	int (*take)(void *ctx, struct bench_samples *samples);
	void *ctx;
	struct bench_samples samples;	/* bench_rounds() makes it; free with bench_turns_free() */
};

struct bench_limits {
	double seconds;		/* stop after this long ... */
	unsigned int warmup;	/* rounds whose samples are thrown away */
	unsigned int min_rounds;	/* ... but not before this many rounds */
	unsigned int max_rounds;	/* 0: no limit but time and room */
};

/*
 * Let every turn take once, in order, again and again. 0, or the first negative
 * errno of a turn; the samples are there to free either way.
 */
int bench_rounds(struct bench_turn *turns, unsigned int nr_turns,
		 const struct bench_limits *limits);
void bench_turns_free(struct bench_turn *turns, unsigned int nr_turns);

enum bench_better {
	BENCH_MORE,
	BENCH_LESS,
};

enum bench_budget {
	BENCH_OPEN,		/* nothing promised */
	BENCH_RATIO,		/* ratio >= limit */
	BENCH_AT_MOST,		/* value <= limit; only where less is better */
	BENCH_ABOVE_FLOOR,	/* value <= floor + limit; only where less is better */
};

struct bench_line {
	const char *name, *unit, *floor;
	enum bench_better better;
	enum bench_budget budget;
	double limit;
};

double bench_ratio(const struct bench_line *line, double value, double floor_value);
double bench_budget_ratio(const struct bench_line *line, double floor_value);
bool bench_ok(const struct bench_line *line, double value, double floor_value);

/* What the figures depend on; machine.c finds out. */
struct bench_machine {
	char kernel[96], cpu[96], thp[48], masked[160], missing[256], commit[48];
	char date[16];		/* ISO 8601, UTC */
	const char *driver;
	unsigned int cpus;
	size_t page_size;
	bool checks;	/* a debug build: figures are not worth comparing */
};

void bench_print_header(FILE *out, const struct bench_machine *machine);
void bench_print_row(FILE *out, const struct bench_line *line, double value, double floor_value);
void bench_print_json(FILE *out, const struct bench_machine *machine,
		      const struct bench_line *line, double value, double floor_value);

/* ---------------------------------------------------------------- machine.c */

void bench_machine_read(struct bench_machine *machine);
size_t bench_free_ram(void);	/* bytes that can be had without hurting anybody */

/* ---------------------------------------------------------------- main.c */

struct bench_run;

/* Fewer and shorter rounds, smaller memory: --quick. */
bool bench_quick(const struct bench_run *run);

/* Was this line asked for? A bench may skip what only other lines need. */
bool bench_wanted(const struct bench_run *run, const char *line);

/* Seconds for one bench_rounds(), @share of the usual. */
double bench_seconds(const struct bench_run *run, double share);

/* Print a line of this bench. An unwanted one is dropped in silence. */
void bench_report(struct bench_run *run, const char *line, double value, double floor_value);

/* Say on stderr why something of this bench cannot be measured here. */
void bench_note(struct bench_run *run, const char *what, int error);

struct bench {
	const char *name;	/* of the file */
	const struct bench_line *lines;
	size_t nr_lines;
	/* 0; -EOPNOTSUPP: not on this machine, said by bench_note(); else it failed */
	int (*run)(struct bench_run *run);
};

extern const struct bench bench_change_notify, bench_cpu_fault, bench_cpu_stream, bench_device,
	bench_dmirror, bench_fault_threads, bench_metadata, bench_migrate, bench_nbd, bench_notifier,
	bench_patterns, bench_run_overhead, bench_run_processes, bench_scale, bench_snapshot,
	bench_textbook, bench_trace;

/* What `uhmm bench --tree` is, see run_processes.c. Exit status, or -EINVAL: no such number. */
int bench_tree(unsigned long nr);

/* The body of `uhmm bench`. 0, also where a budget is missed; 1 a bench failed; 2 usage. */
int bench_main(int argc, char **argv);

/* ---------------------------------------------------------------- world.c */

uint64_t bench_now_ns(void);
double bench_gb_per_s(size_t bytes, uint64_t ns);	/* 10^9 bytes */

/*
 * Private anonymous memory aligned to 2 MiB, a mapping of its own with inaccessible
 * pages on both sides, so that it merges with nothing. Every page is populated and
 * begins with its number. Small pages, unless @huge.
 */
struct bench_area {
	unsigned char *base;
	size_t len;
	void *map;
	size_t map_len;
};

int bench_area_map(struct bench_area *area, size_t len, bool huge);
void bench_area_unmap(struct bench_area *area);
bool bench_area_intact(const struct bench_area *area);	/* each page still says its number */

/* An mm with one soft device, in which nothing moves unless it is told to. */
struct bench_device {
	struct hmm_mm *mm;
	struct hmm_soft *soft;
};

int bench_device_open(struct bench_device *device, size_t mem_bytes, uint32_t fault_around);
int bench_device_close(struct bench_device *device);

/* All pages of the range; -EIO when one stayed. */
int bench_move_in(struct bench_device *device, const void *start, size_t len);
int bench_move_out(struct bench_device *device, const void *start, size_t len);

/* 0 .. nr - 1 in an order that no prefetcher guesses, the same in every run. */
void bench_shuffle(uint32_t *order, uint32_t nr);

/* ---------------------------------------------------------------- uffd.c */

/* Raw system calls: a descriptor, or 0; a negative errno. */
int bench_uffd_open(uint64_t features);
int bench_uffd_register(int uffd, const struct bench_area *area);
int bench_uffd_copy(int uffd, void *to, const void *from, size_t len);
int bench_uffd_move(int uffd, void *to, const void *from, size_t len);

/* ---------------------------------------------------------------- server.c */

/*
 * What a program that pages by userfaultfd does without this library: poll, read,
 * UFFDIO_COPY of a granule from a store as large as the area.
 */
struct bench_server;

enum bench_placement {
	BENCH_ONE_THREAD,	/* the textbook: one handler, wherever the scheduler puts it */
	/*
	 * As the library's: one handler pinned to each of at most 3 CPUs; of more, one on the
	 * CPU of who called bench_server_reset() last, and one anywhere.
	 */
	BENCH_PLACED,
};

int bench_server_start(const struct bench_area *area, const struct bench_area *store,
		       size_t granule, enum bench_placement placement,
		       struct bench_server **out);
void bench_server_stop(struct bench_server *server);

/* Throw the area's pages away, so that each is missing again. */
int bench_server_reset(struct bench_server *server);

/* ---------------------------------------------------------------- segv.c */

/* The same by mprotect() and SIGSEGV, a page at a time. One area at once. */
int bench_segv_start(const struct bench_area *area, const struct bench_area *store);
void bench_segv_stop(void);
int bench_segv_reset(void);

#endif
