/* SPDX-License-Identifier: MIT */
/*
 * opencl_wordindex - an OpenCL device walks a program's own data where it lies.
 *
 * The index is that of examples/wordindex: plain malloc, and no word of devices in it.
 * The device answers the same questions by the same pointers, once while it fetches
 * what it touches and once from its own memory; each answer must be the CPU's.
 *
 * usage: opencl_wordindex [--device NAME] [--mem MIB] [FILE|DIRECTORY...]
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <uhmm/opencl.h>

#include "../wordindex/index.h"
#include "../wordindex/queries.h"
#include "../wordindex/text.h"

extern const char source_wordindex_cl[];

struct demo {
	struct index *index;
	struct text_list texts;
	struct query *queries;
	struct answers *cpu, *device;
	struct hmm_mm *mm;
	struct hmm_opencl *ocl;
	struct hmm_opencl_kernel *query, *everything;
};

static int fail(const char *what, int ret, const char *more)
{
	fprintf(stderr, "opencl_wordindex: %s: %s%s%s\n", what, strerror(-ret), *more ? ": " : "",
		more);
	return ret;
}

static double now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static int build_index(struct demo *demo, int nr_paths, char **paths)
{
	static char *default_path[] = { "/usr/include" };
	int ret = 0;

	if (!nr_paths) {
		nr_paths = 1;
		paths = default_path;
	}
	demo->index = index_create();
	demo->cpu = malloc(answers_size());
	demo->device = malloc(answers_size());
	demo->queries = malloc(query_count * sizeof(*demo->queries));
	if (!demo->index || !demo->cpu || !demo->device || !demo->queries)
		return fail("index", -ENOMEM, "");
	memcpy(demo->queries, query_table, query_count * sizeof(*demo->queries));
	for (int i = 0; i < nr_paths && !ret; i++)
		ret = text_collect(&demo->texts, paths[i]);
	if (!ret)
		ret = text_index(&demo->texts, demo->index);
	return ret ? fail("reading the text", ret, "") : 0;
}

/* Where members lie, for a language that has no headers of ours. */
static void describe(char *out, size_t bytes)
{
#define AT(type, prefix, member)	" -D" #prefix "_" #member "=%zu"
#define OFF(type, member)	offsetof(struct type, member)
	snprintf(out, bytes,
		 AT(word, WORD, next) AT(word, WORD, left) AT(word, WORD, right)
		 AT(word, WORD, places) AT(word, WORD, nr_places) AT(word, WORD, hash)
		 AT(word, WORD, text) AT(block, BLOCK, next) AT(block, BLOCK, nr)
		 AT(block, BLOCK, place) AT(index, INDEX, root) AT(stripe, STRIPE, bucket)
		 AT(stripe, STRIPE, nr_buckets) AT(query, QUERY, kind) AT(query, QUERY, len)
		 AT(query, QUERY, text) " -DQUERY_size=%zu -DSTRIPE_size=%zu",
		 OFF(word, next), OFF(word, left), OFF(word, right), OFF(word, places),
		 OFF(word, nr_places), OFF(word, hash), OFF(word, text), OFF(block, next),
		 OFF(block, nr), OFF(block, place), OFF(index, root), OFF(stripe, bucket),
		 OFF(stripe, nr_buckets), OFF(query, kind), OFF(query, len), OFF(query, text),
		 sizeof(struct query), sizeof(struct stripe));
}

static int open_device(struct demo *demo, const char *name, uint64_t mem)
{
	static char why[256], log[8192], options[1024];
	HMM_OPTS(hmm_opencl_opts, opts, .device = name, .mem_bytes = mem, .why = why,
		 .why_bytes = sizeof(why));
	struct hmm_opencl_program *program;
	int ret = hmm_mm_create(NULL, &demo->mm);

	if (ret)
		return fail("managing this address space", ret, "`uhmm doctor` says more");
	ret = hmm_opencl_open(demo->mm, &opts, &demo->ocl);
	if (ret)
		return fail("opening a device", ret, why);
	describe(options, sizeof(options));
	ret = hmm_opencl_build(demo->ocl, source_wordindex_cl, options, 0, log, sizeof(log),
			       &program);
	if (!ret)
		ret = hmm_opencl_kernel(program, "query", &demo->query);
	if (!ret)
		ret = hmm_opencl_kernel(program, "everything", &demo->everything);
	return ret ? fail("building the kernels", ret, log) : 0;
}

/* Pointers are handed over as they are. */
static int set_arguments(struct demo *demo)
{
	int ret = hmm_opencl_arg_pointer(demo->query, 0, demo->index);

	if (!ret)
		ret = hmm_opencl_arg_pointer(demo->query, 1, demo->queries);
	if (!ret)
		ret = hmm_opencl_arg_pointer(demo->query, 2, demo->device->query);
	if (!ret)
		ret = hmm_opencl_arg_pointer(demo->everything, 0, demo->index);
	if (!ret)
		ret = hmm_opencl_arg_pointer(demo->everything, 1, &demo->device->everything);
	return ret ? fail("setting arguments", ret, "") : 0;
}

static bool same(const struct demo *demo)
{
	return !memcmp(&demo->cpu->everything, &demo->device->everything,
		       sizeof(demo->cpu->everything)) &&
	       !memcmp(demo->cpu->query, demo->device->query,
		       query_count * sizeof(demo->cpu->query[0]));
}

static int answer(struct demo *demo, const char *what)
{
	HMM_OPTS(hmm_opencl_stats, before);
	HMM_OPTS(hmm_opencl_stats, after);
	struct hmm_opencl_fault fault = { 0 };
	double begun = now_ms();
	int ret;

	memset(demo->device, 0, answers_size());
	ret = hmm_opencl_stats(demo->ocl, &before);
	if (!ret)
		ret = hmm_opencl_run(demo->query, query_count, &fault);
	if (!ret)
		ret = hmm_opencl_run(demo->everything, INDEX_STRIPES, &fault);
	if (!ret)
		ret = hmm_opencl_stats(demo->ocl, &after);
	if (ret) {
		fprintf(stderr, "opencl_wordindex: item %" PRIu64 ", address %#" PRIxPTR
			", reason %d\n", fault.item, fault.addr, (int)fault.reason);
		return fail(what, ret, "");
	}
	printf("%-40s %8.1f ms  %6" PRIu64 " pages came, %3" PRIu64 " rounds  %s\n", what,
	       now_ms() - begun, after.migrated_in - before.migrated_in,
	       after.rounds - before.rounds, same(demo) ? "as the CPU" : "WRONG");
	return same(demo) ? 0 : -EILSEQ;
}

static int run(struct demo *demo)
{
	double begun = now_ms();
	int ret;

	cpu_answer(demo->index, demo->cpu);
	printf("%" PRIu64 " words at %" PRIu64 " places in %zu files\n%-40s %8.1f ms\n",
	       demo->cpu->everything.nr_words, demo->cpu->everything.nr_places, demo->texts.nr,
	       "the CPU answers", now_ms() - begun);
	ret = set_arguments(demo);
	if (!ret)
		ret = answer(demo, "the device answers, fetching what it touches");
	if (!ret)
		ret = answer(demo, "the device answers again");
	if (ret)
		return ret;
	ret = hmm_opencl_close(demo->ocl);
	demo->ocl = NULL;
	if (ret)
		return fail("closing the device", ret, "");
	/* Everything is at home again, and as it was. */
	cpu_answer(demo->index, demo->device);
	return same(demo) && index_check(demo->index) ? 0 : -EILSEQ;
}

int main(int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "device", required_argument, NULL, 'd' }, { "mem", required_argument, NULL, 'm' },
		{ NULL, 0, NULL, 0 }
	};
	static struct demo demo;
	const char *name = NULL;
	uint64_t mem = 256UL << 20;
	int opt, ret;

	while ((opt = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
		if (opt == 'd')
			name = optarg;
		else if (opt == 'm')
			mem = strtoull(optarg, NULL, 10) << 20;
		else
			return 2;
	}
	ret = build_index(&demo, argc - optind, argv + optind);
	if (!ret)
		ret = open_device(&demo, name, mem);
	if (!ret)
		ret = run(&demo);
	if (hmm_opencl_close(demo.ocl) || hmm_mm_destroy(demo.mm))
		ret = -EIO;
	if (demo.index)
		index_destroy(demo.index);
	text_free(&demo.texts);
	free(demo.queries);
	free(demo.cpu);
	free(demo.device);
	return ret ? 1 : 0;
}
