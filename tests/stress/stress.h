/* SPDX-License-Identifier: MIT */
/*
 * What the stress programs share: options, random numbers, ending with a verdict,
 * places to put memory, and looking at the page table behind the library's back.
 *
 * Nothing a verdict depends on may be memory that migrates: the programs keep what
 * they know in static data, which no test ever migrates and children inherit.
 */
#ifndef UHMM_TESTS_STRESS_H
#define UHMM_TESTS_STRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uhmm/uhmm.h>

#define STRESS_MAX_THREADS	32

struct stress_opts {
	const char *name;	/* of the program */
	uint64_t seed;
	uint64_t steps;		/* of each thread, in what the program counts as one */
	unsigned int seconds;	/* whichever ends first; 0: steps alone, and reproducible */
	unsigned int threads;
	bool strict;
	bool alone;		/* no mm: a program that somebody else manages; strict */
};

/*
 * Read --seed N --steps N --seconds N --threads N --strict --alone over the defaults in
 * @opts (UHMM_TEST_LONG=1 multiplies steps and seconds by 15), print the seed and
 * how to repeat the run, and start the clock.
 */
void stress_begin(struct stress_opts *opts, int argc, char **argv);

/* The time of the run is up. */
bool stress_expired(const struct stress_opts *opts);

/* One line that says how to repeat, and exit status 1 or 77. Safe in a forked child. */
_Noreturn void stress_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void stress_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A line of explanation before either. */
void stress_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define stress_check(cond) \
	((cond) ? (void)0 : stress_fail("%s:%d: %s", __FILE__, __LINE__, #cond))

/* An mm with the run's flags; skips where this kernel or user cannot have one. */
struct hmm_mm *stress_mm_create(const struct stress_opts *opts);

/* Nothing lost, nothing poisoned, nothing left on a device; print what happened. */
void stress_mm_destroy(struct hmm_mm *mm);

struct stress_rng {
	uint64_t state;
};

struct stress_rng stress_rng(const struct stress_opts *opts, uint64_t stream);
uint64_t stress_rand(struct stress_rng *rng);
uint64_t stress_below(struct stress_rng *rng, uint64_t n);	/* 0 .. n - 1 */
bool stress_one_in(struct stress_rng *rng, uint64_t n);

/*
 * @bytes of address space (2 MiB aligned, nothing mapped) far below where the
 * kernel puts anything of its own accord, so that gaps in it stay gaps.
 */
uintptr_t stress_area(size_t bytes);

/* Run @fn on @nr threads, each with its piece of @args, and wait for all of them. */
void stress_run_threads(unsigned int nr, void *(*fn)(void *), void *args, size_t arg_size);

/*
 * A fault handler may still be bringing neighbours home when the thread that faulted
 * goes on, so what only is wrong if it lasts is looked at this often, yielding.
 */
#define STRESS_LASTS	20000

/*
 * No page of [start, end) that the library says is away may be present in the page
 * table, nor one be in flight. Only while nothing else runs.
 */
void stress_check_places(struct hmm_mm *mm, uintptr_t start, uintptr_t end);

/* Wait for a child; fails the test unless it exited with 0. */
void stress_reap(int pid, const char *what);

#endif
