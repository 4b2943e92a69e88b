/* SPDX-License-Identifier: MIT */
/*
 * wordindex - a device walks a program's own data where it lies.
 *
 * index.c and text.c build an index of words out of plain malloc; they know nothing
 * of uhmm. Only then does this file open a device and let it answer questions, with
 * the very same pointers: first in place, then with the pages in the device's
 * memory, then while the CPU changes the index and its pages come home.
 */
#include "device.h"
#include "ranges.h"
#include "report.h"
#include "text.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES		1024
#define PASSES		3	/* of the device over the changing index ... */
#define PASS_CHANGES	1500	/* ... and the most that the CPU changes in each */

struct options {
	bool strict, quiet;
	uint64_t device_mem;	/* 0: a quarter more than the index needs */
};

/* A word that changes will be made to, and its first place. */
struct sample {
	char text[WORD_MAX + 1];
	uint32_t len;
	uint64_t place;
};

struct demo {
	struct options options;
	struct text_list texts;
	struct index *index;
	struct ranges ranges;
	struct hmm_mm *mm;
	struct hmm_soft *soft;
	struct report report;
	struct job *job;
	struct answers *cpu;	/* what the CPU says */
	struct sample *samples;
	unsigned int nr_samples;
};

static const char usage[] =
"Usage: wordindex [OPTION...] [FILE|DIRECTORY...]\n"
"Index the words of text files (default: /usr/include) with plain malloc, and let a\n"
"device answer questions about them in place, in its own memory, and while the CPU\n"
"changes the index. Exit status 1 if the device and the CPU ever disagree.\n"
"\n"
"  --strict           announce every change of a mapping before it is made\n"
"  --device-mem SIZE  memory of the device, with K, M, G; default: the index fits\n"
"  --quiet            one line at the end\n"
"  --help             this\n";

static int fail(const char *what, int ret)
{
	fprintf(stderr, "wordindex: %s: %s\n", what, strerror(-ret));
	if (ret == -EPERM || ret == -EOPNOTSUPP)
		fprintf(stderr, "wordindex: `uhmm doctor` says what is missing here and how "
			"to get it\n");
	return ret;
}

static int fail_device(const char *what, int ret, const struct hmm_soft_fault *fault)
{
	static const char *const reasons[] = {
		[HMM_SOFT_FAULT_UNMAPPED] = "not mapped",
		[HMM_SOFT_FAULT_READONLY] = "read-only",
		[HMM_SOFT_FAULT_MISALIGNED] = "misaligned",
		[HMM_SOFT_FAULT_LOST] = "its bytes are lost",
		[HMM_SOFT_FAULT_NOMEM] = "out of memory",
		[HMM_SOFT_FAULT_ATOMIC] = "no atomics on this page here; --strict may help",
	};
	const char *reason = NULL;

	if (ret != -EFAULT)
		return fail(what, ret);
	if (fault->reason < sizeof(reasons) / sizeof(reasons[0]))
		reason = reasons[fault->reason];
	fprintf(stderr, "wordindex: %s: item %" PRIu64 " of the kernel was refused address %#"
		PRIxPTR ": %s\n", what, fault->item, fault->addr, reason ? reason : "?");
	return ret;
}

/* ------------------------------------------------------------------ set-up */

static int parse_size(const char *text, uint64_t *size)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;
	uint64_t value;
	unsigned int shift = 0;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (end == text || errno || *text == '-')
		return -EINVAL;
	if (*end) {
		unit = strchr(units, *end);
		if (!unit || end[1])
			return -EINVAL;
		shift = 10 * (unit - units + 1);
	}
	if (!value || value > UINT64_MAX >> shift)
		return -EINVAL;
	*size = value << shift;
	return 0;
}

/* 0, 1 for --help, -EINVAL. */
static int parse_options(struct options *options, int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "strict", no_argument, NULL, 's' },
		{ "device-mem", required_argument, NULL, 'm' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 }
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "qh", longopts, NULL)) != -1) {
		switch (opt) {
		case 's':
			options->strict = true;
			break;
		case 'm':
			if (parse_size(optarg, &options->device_mem)) {
				fprintf(stderr, "wordindex: not a size: %s\n", optarg);
				return -EINVAL;
			}
			break;
		case 'q':
			options->quiet = true;
			break;
		case 'h':
			return 1;
		default:
			return -EINVAL;
		}
	}
	return 0;
}

static int build(struct demo *demo, int nr_paths, char **paths)
{
	static char *default_path[] = { "/usr/include" };
	int ret = 0;

	if (!nr_paths) {
		nr_paths = 1;
		paths = default_path;
	}
	demo->index = index_create();
	if (!demo->index)
		return fail("index", -ENOMEM);
	for (int i = 0; i < nr_paths && !ret; i++) {
		ret = text_collect(&demo->texts, paths[i]);
		if (ret)
			return fail(paths[i], ret);
	}
	ret = text_index(&demo->texts, demo->index);
	if (ret)
		return fail("index", ret);
	if (!demo->index->root) {
		fprintf(stderr, "wordindex: no words there\n");
		return -ENODATA;
	}
	return 0;
}

/* About one word in @every, so that the changes to come hit the whole of the heap. */
static int take_samples(struct demo *demo, uint64_t nr_words)
{
	uint64_t every = nr_words / SAMPLES + 1, countdown = 1;

	demo->samples = calloc(SAMPLES, sizeof(*demo->samples));
	if (!demo->samples)
		return fail("samples", -ENOMEM);
	for (unsigned int i = 0; i < INDEX_STRIPES; i++) {
		struct stripe *stripe = &demo->index->stripe[i];

		for (uint32_t b = 0; b < stripe->nr_buckets; b++) {
			for (struct word *w = stripe->bucket[b]; w; w = w->next) {
				struct sample *sample = &demo->samples[demo->nr_samples];

				if (--countdown || demo->nr_samples == SAMPLES)
					continue;
				countdown = every;
				memcpy(sample->text, w->text, w->len + 1);
				sample->len = w->len;
				sample->place = w->places->place[0];
				demo->nr_samples++;
			}
		}
	}
	return 0;
}

static int open_device(struct demo *demo)
{
	HMM_OPTS(hmm_mm_opts, mm_opts,
		 .flags = demo->options.strict ? HMM_MM_STRICT : 0);
	HMM_OPTS(hmm_soft_opts, soft_opts, .migrate = HMM_SOFT_MIGRATE_NEVER);
	uint64_t mem = demo->options.device_mem;
	int ret;

	ret = ranges_find(demo->index, hmm_page_size(), &demo->ranges);
	if (ret)
		return fail("/proc/self/maps", ret);
	if (!mem)
		mem = ranges_bytes(&demo->ranges) * 5 / 4 + (4 << 20);
	soft_opts.mem_bytes = (mem + hmm_page_size() - 1) & ~(uint64_t)(hmm_page_size() - 1);
	ret = hmm_mm_create(&mm_opts, &demo->mm);
	if (ret)
		return fail("managing this address space", ret);
	ret = hmm_soft_open(demo->mm, &soft_opts, &demo->soft);
	if (ret)
		return fail("opening the soft device", ret);
	report_init(&demo->report, demo->mm, demo->soft, &demo->ranges, demo->options.quiet);
	return 0;
}

/* ------------------------------------------------------------------ the steps */

static bool same_answers(const struct demo *demo)
{
	return !memcmp(demo->cpu, demo->job->answers, answers_size());
}

/* The first step has no other answer to agree with; its bookkeeping must be right. */
static void step_cpu(struct demo *demo, const char *name)
{
	struct step step;

	report_begin(&demo->report);
	cpu_answer(demo->index, demo->cpu);
	step = report_end(&demo->report, name);
	report_print(&demo->report, &step, index_check(demo->index));
}

static int step_device(struct demo *demo, const char *name)
{
	struct hmm_soft_fault fault;
	struct step step;
	int ret;

	report_begin(&demo->report);
	ret = device_answer(demo->soft, demo->job, &fault);
	if (ret)
		return fail_device(name, ret, &fault);
	step = report_end(&demo->report, name);
	report_print(&demo->report, &step, same_answers(demo));
	return 0;
}

static int step_migrate(struct demo *demo, const char *name)
{
	uint64_t reasons[HMM_REASONS] = { 0 };
	struct step step;
	int64_t ret;

	report_begin(&demo->report);
	for (unsigned int i = 0; i < demo->ranges.nr; i++) {
		ret = hmm_soft_migrate_in(demo->soft, demo->ranges.range[i].start,
					  demo->ranges.range[i].end, reasons);
		if (ret < 0 && ret != -ENOSPC)
			return fail(name, ret);
	}
	step = report_end(&demo->report, name);
	report_print(&demo->report, &step, true);
	for (int i = 1; i < HMM_REASONS && !demo->options.quiet; i++)
		if (reasons[i])
			printf("  %" PRIu64 " pages stayed: %s\n", reasons[i],
			       hmm_reason_name(i));
	return 0;
}

/*
 * One change after another, of four kinds in turn: a new word, a new place of a
 * word, a place taken away, a word taken away.
 */
static int change(struct demo *demo, uint64_t n)
{
	struct sample *sample = &demo->samples[mix64(n) % demo->nr_samples];
	uint64_t place = place_make(demo->texts.nr, n);
	char text[48];
	int len;

	switch (n % 4) {
	case 0:
		len = snprintf(text, sizeof(text), "wordindex_change_%" PRIu64, n);
		return index_add(demo->index, text, len, place);
	case 1:
		return index_add(demo->index, sample->text, sample->len, place);
	case 2:
		return index_remove(demo->index, sample->text, sample->len, sample->place);
	default:
		if (n % 8 == 7)
			return index_remove_word(demo->index, sample->text, sample->len);
		len = snprintf(text, sizeof(text), "wordindex_change_%" PRIu64, n - 3);
		return index_remove_word(demo->index, text, len);
	}
}

struct waiter {
	struct hmm_soft *soft;
	int64_t ticket;
	struct hmm_soft_fault fault;
	int ret;
	atomic_bool done;
};

static void *wait_for_device(void *arg)
{
	struct waiter *waiter = arg;

	waiter->ret = hmm_soft_wait(waiter->soft, waiter->ticket, &waiter->fault);
	atomic_store(&waiter->done, true);
	return NULL;
}

/*
 * The device walks everything once while this thread changes what it walks. That
 * is no data race: both take the index's own locks, the device by atomics of its
 * own on the same words. Adds to *@changes.
 */
static int change_pass(struct demo *demo, uint64_t *changes)
{
	struct waiter waiter = { .soft = demo->soft };
	uint64_t until = *changes + PASS_CHANGES;
	pthread_t thread;
	int ret = 0;

	waiter.ticket = hmm_soft_submit(demo->soft, kernel_check, INDEX_STRIPES + 1, demo->job);
	if (waiter.ticket < 0)
		return fail("submitting a kernel", waiter.ticket);
	if (pthread_create(&thread, NULL, wait_for_device, &waiter)) {
		hmm_soft_wait(demo->soft, waiter.ticket, NULL);
		return fail("starting a thread", -EAGAIN);
	}
	while (ret >= 0 && *changes < until && !atomic_load(&waiter.done))
		ret = change(demo, (*changes)++);
	pthread_join(thread, NULL);
	if (ret < 0)
		return fail("changing the index", ret);
	if (waiter.ret)
		return fail_device("checking on the device", waiter.ret, &waiter.fault);
	return 0;
}

static int step_change(struct demo *demo, const char *name)
{
	struct check *check = demo->job->check;
	uint64_t changes = 0;
	struct step step;
	int ret;

	memset(check, 0, sizeof(*check));
	report_begin(&demo->report);
	for (unsigned int i = 0; i < PASSES; i++) {
		ret = change_pass(demo, &changes);
		if (ret)
			return ret;
	}
	step = report_end(&demo->report, name);
	report_print(&demo->report, &step,
		     !check->nr_wrong && check->nr_stripes == PASSES * INDEX_STRIPES);
	if (!demo->options.quiet)
		printf("  the CPU made %" PRIu64 " changes while the device checked %" PRIu64
		       " parts of the table against\n  their totals and the order of %" PRIu64
		       " words in the tree: %" PRIu64 " wrong\n", changes, check->nr_stripes,
		       check->nr_words, check->nr_wrong);
	return 0;
}

/* The device first: the CPU's own walk would bring everything home before it. */
static int step_after(struct demo *demo, const char *name, const char *cpu_name)
{
	struct hmm_soft_fault fault;
	struct step device, cpu;
	bool same;
	int ret;

	report_begin(&demo->report);
	ret = device_answer(demo->soft, demo->job, &fault);
	if (ret)
		return fail_device(name, ret, &fault);
	device = report_end(&demo->report, name);
	report_map(&demo->report, "The index while the CPU has touched some of it");
	report_begin(&demo->report);
	cpu_answer(demo->index, demo->cpu);
	cpu = report_end(&demo->report, cpu_name);
	same = same_answers(demo) && index_check(demo->index);
	report_head(&demo->report);
	report_print(&demo->report, &device, same);
	report_print(&demo->report, &cpu, same);
	return 0;
}

static int step_close(struct demo *demo, const char *name)
{
	struct step step;
	bool same;
	int ret;

	report_begin(&demo->report);
	demo->report.soft = NULL;
	ret = hmm_soft_close(demo->soft);
	demo->soft = NULL;
	if (ret)
		return fail(name, ret);
	cpu_answer(demo->index, demo->cpu);
	same = same_answers(demo);
	step = report_end(&demo->report, name);
	report_print(&demo->report, &step, same);
	return 0;
}

static int run_steps(struct demo *demo)
{
	int ret;

	report_map(&demo->report, "The index before");
	report_head(&demo->report);
	step_cpu(demo, "1 the CPU answers");
	ret = step_device(demo, "2 the device answers, walking in place");
	if (!ret)
		ret = step_migrate(demo, "3 the pages move to the device");
	if (!ret)
		ret = step_device(demo, "4 the device answers from its own memory");
	if (ret)
		return ret;
	report_map(&demo->report, "The index after step 4");
	report_head(&demo->report);
	ret = step_change(demo, "5 the CPU changes it, the device reads");
	if (!ret)
		ret = step_after(demo, "6 the device answers again",
				 "7 the CPU answers, pages come home");
	if (!ret)
		ret = step_close(demo, "8 the device is gone, the CPU answers");
	return ret;
}

/* ------------------------------------------------------------------ main */

static void print_built(const struct demo *demo)
{
	const struct answers *cpu = demo->cpu;

	if (demo->options.quiet)
		return;
	printf("%zu files, %.1f MiB of text: %" PRIu64 " words at %" PRIu64
	       " places, in %.1f MiB of malloc'ed memory\n", demo->texts.nr,
	       demo->texts.nr_bytes / 1048576.0, cpu->everything.nr_words,
	       cpu->everything.nr_places, ranges_bytes(&demo->ranges) / 1048576.0);
	printf("most frequent:");
	for (unsigned int i = 0; i < TOP_N && cpu->top[i].word; i++)
		printf(" %s %" PRIu64, cpu->top[i].word->text, cpu->top[i].nr_places);
	printf("\n");
	for (unsigned int i = 0; i < query_count; i++) {
		const struct answer *answer = &cpu->query[i];

		printf("%s%s%s: %" PRIu64 " words, %" PRIu64 " places\n", i ? "  " : "asked: ",
		       query_table[i].text, query_table[i].kind == QUERY_PREFIX ? "*" : "",
		       answer->nr_words, answer->nr_places);
	}
	fflush(stdout);
}

static int run(struct demo *demo, int nr_paths, char **paths)
{
	int ret = build(demo, nr_paths, paths);

	if (ret)
		return ret;
	demo->cpu = malloc(answers_size());
	demo->job = job_create(demo->index);
	if (!demo->cpu || !demo->job)
		return fail("answers", -ENOMEM);
	cpu_answer(demo->index, demo->cpu);
	ret = take_samples(demo, demo->cpu->everything.nr_words);
	if (!ret)
		ret = open_device(demo);
	if (ret)
		return ret;
	print_built(demo);
	return run_steps(demo);
}

static int finish(struct demo *demo)
{
	int ret = hmm_soft_close(demo->soft);

	if (!ret)
		ret = hmm_mm_destroy(demo->mm);
	if (ret)
		fail("closing", ret);
	job_destroy(demo->job);
	free(demo->cpu);
	free(demo->samples);
	index_destroy(demo->index);
	text_free(&demo->texts);
	return ret;
}

int main(int argc, char **argv)
{
	static struct demo demo;
	int ret = parse_options(&demo.options, argc, argv), closed;

	if (ret) {
		fputs(usage, ret > 0 ? stdout : stderr);
		return ret > 0 ? 0 : 2;
	}
	ret = run(&demo, argc - optind, argv + optind);
	closed = finish(&demo);
	if (ret || closed)
		return 1;
	if (!demo.report.all_same) {
		printf("The answers of the CPU and the device DIFFER.\n");
		return 1;
	}
	printf("The CPU and the device gave the same answers in every step.\n");
	return 0;
}
