/* SPDX-License-Identifier: MIT */
/*
 * What following the program's pointers costs on an OpenCL device, against the same
 * kernel on a plain buffer; and what migration costs against memcpy.
 *
 * usage: bench-opencl [--json] [--device NAME] [--mem MIB] [--runs N] [--staged]
 *
 * The plain side is a context of its own in this process; measurement and floor
 * alternate. The ratio is floor by measured time: 1 is at the floor.
 */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <uhmm/opencl.h>

#define ARENA		(96UL << 20)
#define HALF		(32UL << 20)
#define RESULTS		(1UL << 20)	/* at the arena's end */
#define RUNS_MAX	64
#define ARGS		4

extern const char source_kernels_cl[];

/* Arguments behind the common ones; pointers into the arena but for `mask`. */
struct work {
	const char *name;
	double budget;			/* largest time, in floors */
	uint32_t items, nr_args;
	uint64_t arg[ARGS];
	bool arg_is_uint[ARGS];
};

static struct {
	char *arena;
	size_t used;
	struct hmm_mm *mm;
	struct hmm_opencl *ocl;
	struct hmm_opencl_program *program;
	cl_context context;
	cl_command_queue queue;
	cl_program plain;
	cl_mem base;
	unsigned int runs;
	bool json;
} bench;

static void check(int ret, const char *what)
{
	if (!ret)
		return;
	fprintf(stderr, "bench-opencl: %s: %d\n", what, ret);
	exit(1);
}

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, unsigned int nr)
{
	qsort(values, nr, sizeof(*values), by_value);
	return values[nr / 2];
}

static void report(const char *name, const char *unit, double value, const char *floor,
		   double floor_value, double ratio, double budget)
{
	if (bench.json)
		printf("{\"name\": \"%s\", \"unit\": \"%s\", \"value\": %.3f, \"floor\": \"%s\", "
		       "\"floor_value\": %.3f, \"ratio\": %.3f, \"budget\": %.3f, \"ok\": %s}\n",
		       name, unit, value, floor, floor_value, ratio, budget,
		       ratio >= budget ? "true" : "false");
	else
		printf("%-24s %10.3f %-5s  %-12s %10.3f  ratio %.2f  budget %.2f  %s\n", name, value,
		       unit, floor, floor_value, ratio, budget, ratio >= budget ? "ok" : "MISSED");
	fflush(stdout);
}

/* ------------------------------------------------------------------ data */

static uint64_t seed = 88172645463325252ULL;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static void *take(size_t bytes)
{
	void *p = bench.arena + bench.used;

	bench.used += (bytes + 15) & ~15UL;
	if (bench.used > ARENA - RESULTS)
		check(1, "the arena is too small");
	return p;
}

static uint64_t at(const void *p)
{
	return (uintptr_t)p;
}

static uint64_t results(void)
{
	return at(bench.arena + ARENA - RESULTS);
}

/* Chains through 32 MiB of nodes in random order. */
static struct work make_chase(void)
{
	enum { CHAINS = 64 };
	struct node { uint64_t next, value; } *nodes;
	size_t nr = HALF / 16;
	uint64_t *heads;
	uint32_t *order = malloc(nr * sizeof(*order));

	bench.used = 0;
	heads = take(CHAINS * 8);
	nodes = take(HALF);
	for (size_t i = 0; i < nr; i++)
		order[i] = (uint32_t)i;
	for (size_t i = nr - 1; i; i--) {
		size_t j = rnd() % (i + 1);
		uint32_t t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	memset(heads, 0, CHAINS * 8);
	for (size_t i = 0; i < nr / 4; i++) {
		nodes[order[i]] = (struct node){ heads[i % CHAINS], i };
		heads[i % CHAINS] = at(&nodes[order[i]]);
	}
	free(order);
	return (struct work){ "chase", 1.3, CHAINS, 2, { at(heads), results() }, { false } };
}

static struct work make_stream(void)
{
	uint32_t *from;

	bench.used = 0;
	from = take(2 * HALF);
	for (size_t i = 0; i < 2 * HALF / 4; i++)
		from[i] = (uint32_t)rnd();
	return (struct work){ "stream", 1.2, 2 * HALF / 65536, 2, { at(from), results() },
			      { false } };
}

static struct work make_gather(void)
{
	enum { ITEMS = 8192 };
	uint32_t *index, *data;

	bench.used = 0;
	index = take(ITEMS * 256 * 4);
	data = take(HALF);
	for (size_t i = 0; i < ITEMS * 256; i++)
		index[i] = (uint32_t)(rnd() % (HALF / 4));
	for (size_t i = 0; i < HALF / 4; i++)
		data[i] = (uint32_t)i;
	return (struct work){ "gather", 2.5, ITEMS, 3, { at(index), at(data), results() },
			      { false } };
}

static struct work make_gather_window(void)
{
	struct work work = make_gather();

	work.name = "gather_window";
	work.budget = 1.3;
	return work;
}

static struct work make_lookup(void)
{
	enum { WORDS = 1 << 18, MASK = (1 << 18) - 1, QUERIES = 1 << 16 };
	struct word { uint64_t next; uint32_t len, count; char text[]; } *word, **all;
	uint64_t *table, *queries;

	bench.used = 0;
	table = take((MASK + 1) * 8);
	queries = take(QUERIES * 8);
	memset(table, 0, (MASK + 1) * 8);
	all = malloc(WORDS * sizeof(*all));
	for (uint32_t i = 0; i < WORDS; i++) {
		uint32_t len = 4 + (uint32_t)(rnd() % 12), hash = 2166136261U;

		word = all[i] = take(sizeof(*word) + len);
		word->len = len;
		word->count = i;
		for (uint32_t c = 0; c < len; c++) {
			word->text[c] = (char)('a' + rnd() % 26);
			hash = (hash ^ (uint8_t)word->text[c]) * 16777619U;
		}
		word->next = table[hash & MASK];
		table[hash & MASK] = at(word);
	}
	for (uint32_t i = 0; i < QUERIES; i++)
		queries[i] = at(all[rnd() % WORDS]);
	free(all);
	return (struct work){ "lookup", 2.2, QUERIES, 4, { at(table), MASK, at(queries), results() },
			      { false, true } };
}

/* ------------------------------------------------------------------ both sides */

static void plain_open(const char *source)
{
	cl_platform_id platform;
	cl_device_id device;
	cl_int err;

	check(clGetPlatformIDs(1, &platform, NULL), "platform");
	check(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL), "device");
	bench.context = clCreateContext(NULL, 1, &device, NULL, NULL, &err);
	check(err, "context");
	bench.queue = clCreateCommandQueue(bench.context, device, 0, &err);
	check(err, "queue");
	bench.plain = clCreateProgramWithSource(bench.context, 1, &source, NULL, &err);
	check(err, "program");
	check(clBuildProgram(bench.plain, 1, &device, "-DPLAIN", NULL, NULL), "plain build");
	bench.base = clCreateBuffer(bench.context, CL_MEM_READ_WRITE, ARENA, NULL, &err);
	check(err, "buffer");
}

static void plain_run(cl_kernel kernel, uint32_t items)
{
	size_t local = 64, global = (items + 63) / 64 * 64;

	check(clEnqueueNDRangeKernel(bench.queue, kernel, 1, NULL, &global, &local, 0, NULL, NULL),
	      "plain launch");
	check(clFinish(bench.queue), "plain finish");
}

static cl_kernel plain_kernel(const struct work *work)
{
	cl_ulong origin = at(bench.arena);
	cl_kernel kernel;
	cl_int err;

	check(clEnqueueWriteBuffer(bench.queue, bench.base, CL_TRUE, 0, ARENA, bench.arena, 0, NULL,
				   NULL), "plain write");
	kernel = clCreateKernel(bench.plain, work->name, &err);
	check(err, "plain kernel");
	check(clSetKernelArg(kernel, 0, sizeof(bench.base), &bench.base), "plain argument");
	check(clSetKernelArg(kernel, 1, sizeof(origin), &origin), "plain argument");
	for (uint32_t i = 0; i < work->nr_args; i++)
		check(clSetKernelArg(kernel, 2 + i, work->arg_is_uint[i] ? 4 : 8, &work->arg[i]),
		      "plain argument");
	return kernel;
}

static struct hmm_opencl_kernel *device_kernel(const struct work *work)
{
	struct hmm_opencl_kernel *kernel;

	check(hmm_opencl_kernel(bench.program, work->name, &kernel), "kernel");
	for (uint32_t i = 0; i < work->nr_args; i++)
		check(hmm_opencl_arg(kernel, i, &work->arg[i], work->arg_is_uint[i] ? 4 : 8),
		      "argument");
	return kernel;
}

static uint64_t rounds(void)
{
	HMM_OPTS(hmm_opencl_stats, stats);

	check(hmm_opencl_stats(bench.ocl, &stats), "stats");
	return stats.rounds;
}

static void device_run(struct hmm_opencl_kernel *kernel, uint32_t items)
{
	struct hmm_opencl_fault fault;

	check(hmm_opencl_run(kernel, items, &fault), "run");
}

/* The answers are the CPU's memory's: both sides must have made the same. */
static void same_results(const struct work *work)
{
	uint64_t *plain = malloc(work->items * 8);

	check(clEnqueueReadBuffer(bench.queue, bench.base, CL_TRUE, ARENA - RESULTS,
				  work->items * 8, plain, 0, NULL, NULL), "plain read");
	check(memcmp(plain, bench.arena + ARENA - RESULTS, work->items * 8), "answers differ");
	free(plain);
}

static void measure(const struct work *work)
{
	cl_kernel plain = plain_kernel(work);
	struct hmm_opencl_kernel *kernel = device_kernel(work);
	double device_us[RUNS_MAX], plain_us[RUNS_MAX], t, d, p;
	uint64_t before = rounds(), blocks = ARENA >> 21;
	char name[64];

	device_run(kernel, work->items);
	snprintf(name, sizeof(name), "%s_rounds", work->name);
	report(name, "", (double)(rounds() - before), "blocks + 1", (double)blocks + 1,
	       ((double)blocks + 1) / (double)(rounds() - before + !(rounds() - before)), 1);
	plain_run(plain, work->items);
	device_run(kernel, work->items);
	for (unsigned int i = 0; i < bench.runs; i++) {
		t = now_us();
		plain_run(plain, work->items);
		plain_us[i] = now_us() - t;
		t = now_us();
		device_run(kernel, work->items);
		device_us[i] = now_us() - t;
	}
	d = median(device_us, bench.runs);
	p = median(plain_us, bench.runs);
	report(work->name, "us", d, "plain buffer", p, p / d, 1 / work->budget);
	check(hmm_evict(bench.mm, (uintptr_t)bench.arena, (uintptr_t)bench.arena + ARENA) < 0,
	      "evict");
	same_results(work);
	hmm_opencl_kernel_free(kernel);
	clReleaseKernel(plain);
}

static void migration(void)
{
	double in[RUNS_MAX], out[RUNS_MAX], copy[RUNS_MAX], t, gb = HALF / 1e3;
	char *to = mmap(NULL, HALF, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uintptr_t start = (uintptr_t)bench.arena;

	memset(to, 1, HALF);
	for (unsigned int i = 0; i < bench.runs; i++) {
		t = now_us();
		for (size_t j = 0; j < HALF; j += 2 << 20)
			memcpy(to + j, bench.arena + j, 2 << 20);
		copy[i] = now_us() - t;
		t = now_us();
		check(hmm_opencl_migrate_in(bench.ocl, start, start + HALF, NULL) !=
		      (int64_t)(HALF / hmm_page_size()), "migrate");
		in[i] = now_us() - t;
		t = now_us();
		check(hmm_evict(bench.mm, start, start + HALF) < 0, "evict");
		out[i] = now_us() - t;
	}
	munmap(to, HALF);
	median(copy, bench.runs);
	t = copy[bench.runs / 2];
	median(in, bench.runs);
	median(out, bench.runs);
	report("opencl_migrate_in", "GB/s", gb / in[bench.runs / 2], "memcpy", gb / t,
	       t / in[bench.runs / 2], 0.5);
	report("opencl_migrate_out", "GB/s", gb / out[bench.runs / 2], "memcpy", gb / t,
	       t / out[bench.runs / 2], 0.5);
}

static void open_device(const char *device, uint64_t mem, bool staged)
{
	static char why[256], log[8192];
	HMM_OPTS(hmm_opencl_opts, opts, .device = device, .mem_bytes = mem,
		 .flags = staged ? HMM_OPENCL_STAGED : 0, .why = why, .why_bytes = sizeof(why));
	int ret;

	check(hmm_mm_create(NULL, &bench.mm), "mm; see `uhmm doctor`");
	ret = hmm_opencl_open(bench.mm, &opts, &bench.ocl);
	if (ret) {
		fprintf(stderr, "bench-opencl: %s\n", why);
		exit(77);
	}
	ret = hmm_opencl_build(bench.ocl, source_kernels_cl, NULL, 0, log, sizeof(log),
			       &bench.program);
	if (ret)
		fprintf(stderr, "%s\n", log);
	check(ret, "build");
}

int main(int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "json", no_argument, NULL, 'j' }, { "device", required_argument, NULL, 'd' },
		{ "mem", required_argument, NULL, 'm' }, { "runs", required_argument, NULL, 'r' },
		{ "staged", no_argument, NULL, 's' }, { NULL, 0, NULL, 0 }
	};
	struct work (*const make[])(void) = {
		make_chase, make_stream, make_gather, make_gather_window, make_lookup,
	};
	const char *device = NULL;
	uint64_t mem = 256UL << 20;
	bool staged = false;
	int opt;

	bench.runs = 9;
	while ((opt = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
		if (opt == 'j')
			bench.json = true;
		else if (opt == 's')
			staged = true;
		else if (opt == 'd')
			device = optarg;
		else if (opt == 'm')
			mem = strtoull(optarg, NULL, 10) << 20;
		else if (opt == 'r' && atoi(optarg) > 0 && atoi(optarg) <= RUNS_MAX)
			bench.runs = (unsigned int)atoi(optarg);
		else
			return 2;
	}
	bench.arena = mmap(NULL, ARENA + (2 << 20), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (bench.arena == MAP_FAILED)
		return 1;
	bench.arena = (char *)(((uintptr_t)bench.arena + (2 << 20) - 1) & ~((2UL << 20) - 1));
	memset(bench.arena, 0, ARENA);
	open_device(device, mem, staged);
	plain_open(source_kernels_cl);
	migration();
	for (size_t i = 0; i < sizeof(make) / sizeof(make[0]); i++) {
		struct work work = make[i]();

		measure(&work);
	}
	check(hmm_opencl_close(bench.ocl), "close");
	return hmm_mm_destroy(bench.mm) ? 1 : 0;
}
