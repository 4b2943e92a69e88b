/* SPDX-License-Identifier: MIT */
/*
 * hmm-driver-test: the contract of a driver, kept by trying to break it.
 *
 *	main		options, the list of trials, the report
 *	verdict		what a driver promises, in words; what a trial found
 *	trial		one trial in a process of its own: an mm, the device, memory
 *	watch		stands between core and driver and sees every call
 *	allocations	malloc and mmap of this program, to see who uses them where
 *	bytes, changes, errors, mirror, life, storm	the trials
 *
 * Each trial is a child process: a crash or a hang of the driver is a finding like any
 * other. The first finding ends the child.
 */
#ifndef HMM_DRIVER_TEST_KIT_H
#define HMM_DRIVER_TEST_KIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uhmm/plugin.h>

#define ARRAY_LEN(a)	(sizeof(a) / sizeof((a)[0]))

/* ---------------------------------------------------------------- verdict */

/* What a driver promises. docs/driver-guide.md has the same list. */
enum promise {
	D_BYTES = 1,
	D_ZEROS,
	D_ALLOC,
	D_FREE,
	D_ARRIVES,
	D_ONCE,
	D_BUFFERS,
	D_SAFE,
	D_ERRORS,
	D_SEES,
	D_STOPS,
	D_RIGHTS,
	D_ATOMIC,
	D_CLOSES,
	D_ENDS,
	D_STANDS,
	PROMISES
};

const char *promise_text(enum promise promise);

/* Shared by the trial's process and its parent. */
struct verdict {
	_Atomic uint32_t broken;	/* enum promise; 0: none */
	char detail[256];		/* written once, by who set broken */
	char doing[128];		/* what the trial was at, for crashes and hangs */
	_Atomic uint64_t copies_in_air;
	char note[128];			/* what a trial that kept everything wants to tell */
};

extern struct verdict *verdict;

/* The finding: recorded, and the end of this process. Any thread, any callback. */
void broke(enum promise promise, const char *fmt, ...)
	__attribute__((format(printf, 2, 3), noreturn));
void doing(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The driver offers no such thing: the trial does not count. */
void not_offered(const char *what) __attribute__((noreturn));
/* The kit or the machine, not the driver. */
void cannot(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#define EXIT_BROKEN	1
#define EXIT_CANNOT	3
#define EXIT_SKIP	77

/* ---------------------------------------------------------------- trial */

struct kit {
	const struct hmm_plugin *plugin;
	const char *options;
	unsigned int seed;
	struct hmm_mm *mm;
	struct hmm_device device;
	struct watched *watched;	/* the device's memory */
	size_t page;
	uint64_t pages;			/* of device memory that trials count on */
	bool strict;
	bool by_driver;			/* migrate by the driver's own operation */
	bool lossy;			/* this trial loses pages on purpose */
};

#define IN_PLAIN	(1u << 0)	/* in an mm of events alone */
#define IN_STRICT	(1u << 1)	/* in a STRICT one, where there is one */
#define BY_DRIVER	(1u << 2)	/* in a plain one, migrated by the driver's own operation */

struct trial {
	const char *name;
	const char *what;
	void (*run)(struct kit *kit);
	unsigned int modes;
	bool memory, view;		/* needs device memory; needs read and write */
};

extern const struct trial trials[];
extern const size_t nr_trials;

/* The mm and the device, for one look. Exits where there is none. */
void trial_open(struct kit *kit);
/* Runs @trial as the child it is called in; does not return. */
void trial_main(struct kit *kit, const struct trial *trial) __attribute__((noreturn));

void device_open(struct kit *kit, struct hmm_device *device);
void device_close(struct hmm_device *device);

/* Pages at a place of their own, with a gap before and behind. */
unsigned char *map_pages(struct kit *kit, size_t nr);
void unmap_pages(struct kit *kit, void *p, size_t nr);

/* A pattern that no two pages and no two seeds share. */
void fill(struct kit *kit, void *p, size_t nr, uint32_t seed);
/* Breaks @promise where page @first + i of the pattern is not at p + i pages. */
void must_hold(struct kit *kit, enum promise promise, const void *p, size_t nr, uint32_t seed,
	       size_t first, const char *when);
void must_be_zero(struct kit *kit, enum promise promise, const void *p, size_t nr,
		  const char *when);

/* All of it, or the promise is broken. */
void to_device(struct kit *kit, void *p, size_t nr);
/* What goes, goes: the number of pages, or the error. */
int64_t try_device(struct kit *kit, struct hmm_device *device, void *p, size_t nr);
void to_ram(struct kit *kit, void *p, size_t nr);
size_t count_at(struct kit *kit, const void *p, size_t nr, enum hmm_place place);

/* Accesses of the device; the error, or broken where it is none of those promised. */
int dev_read(struct kit *kit, const void *addr, void *buf, size_t len);
int dev_write(struct kit *kit, void *addr, const void *buf, size_t len);

/* ---------------------------------------------------------------- watch */

struct watched;

/* What is known of a devmem; NULL: it did not pass by here, so nothing is seen. */
struct watched *watch_of(const struct hmm_devmem *devmem);
uint64_t watch_pages(const struct watched *w);
bool watch_has_alloc(const struct watched *w);
/* Devmems and notifiers that the driver has registered now. */
unsigned int watch_devmems(void);
unsigned int watch_notifiers(void);
/* Breaks D_BUFFERS where a buffer that is nobody's was written to. */
void watch_buffers(void);

enum watch_count { TO_DEVICE, FROM_DEVICE, PEER, ZEROED, TO_RAM, ALLOCATED, FREED, WATCH_COUNTS };
uint64_t watch_count(enum watch_count count);

/* The nth call from now fails with @error as if the device had refused; 0: none. */
enum watch_fault { FAIL_TO, FAIL_FROM, FAIL_ALLOC, WATCH_FAULTS };
void watch_inject(enum watch_fault fault, uint64_t nth, int error);
/* From now on this device page cannot be read; UINT64_MAX: all can. */
void watch_lose(uint64_t index);
/* The device page of @addr, or UINT64_MAX. */
uint64_t watch_index_of(struct kit *kit, const void *addr);

/* In a callback that may not allocate: its name, else NULL. */
const char *watch_forbids(void);

/* ---------------------------------------------------------------- trials */

void bytes_go_and_come(struct kit *kit);
void holes_read_as_zeros(struct kit *kit);
void touches_in_any_order(struct kit *kit);
void system_calls_reach_pages(struct kit *kit);
void memory_is_filled_and_freed(struct kit *kit);
void peers_copy(struct kit *kit);

void mappings_change(struct kit *kit);
void children_have_their_own(struct kit *kit);

void copies_fail(struct kit *kit);
void room_runs_out(struct kit *kit);
void pages_are_lost(struct kit *kit);

void both_sides_see(struct kit *kit);
void rights_are_kept(struct kit *kit);
void no_stale_translation(struct kit *kit);
void changes_race_accesses(struct kit *kit);
void atomics_add_up(struct kit *kit);

void open_and_close(struct kit *kit);
void two_at_a_time(struct kit *kit);
void closed_while_in_use(struct kit *kit);

void everything_at_once(struct kit *kit);

#endif
