/* SPDX-License-Identifier: MIT */
/*
 * The window: where the user's other processes (`uhmm top`) look in. A Unix socket
 * beside the door's; who connects must be of the user, and need not be of the tree.
 *
 *	viewer				monitor, main thread
 *	------				--------------------
 *	connects
 *	struct window_ask		looks at everything as it is now
 *	.				struct window_view, cut after its last process, or
 *	.				struct window_map, after its last mapping
 *	struct window_ask ...
 *
 * Nothing is counted for it and nothing kept: without a viewer it costs nothing. A viewer
 * that asks and does not read is sent away.
 */
#ifndef UHMM_MONITOR_WINDOW_H
#define UHMM_MONITOR_WINDOW_H

#include <stdint.h>
#include <sys/types.h>

#include <uhmm/uhmm.h>

#include "monitor/watch.h"

#define WINDOW_NAME		"top"		/* of the socket, in the monitor's directory */
#define WINDOW_VERSION		2u
#define WINDOW_PROCESSES	64u
#define WINDOW_DEVICES		1u
#define WINDOW_MAPPINGS		256u
#define WINDOW_CELLS		64u

struct window_ask {
	uint32_t version;
	int32_t pid;			/* 0: the view; else the map of this process */
};

/* Counters are totals since the process, or the tree, was there; in pages. */
struct window_process {
	int32_t pid;
	uint32_t managed;		/* 0: it runs plain, or nothing is managed */
	uint64_t id;			/* of its address space: another after an exec */
	char name[16];
	uint64_t resident_bytes, device_bytes;
	uint64_t pages_to_device, pages_to_system, cpu_faults, zero_fills;
	uint32_t faults[HMM_TIMES_BUCKETS];	/* as struct hmm_times has them */
};

struct window_device {
	char name[32];
	uint64_t bytes;			/* that it has */
	uint64_t used_bytes, peak_bytes;
	uint64_t pages_in, pages_out;
};

struct window_view {
	uint32_t version;
	int32_t pid;			/* the monitor's */
	uint64_t now_ns, start_ns;	/* CLOCK_MONOTONIC */
	char program[128], policy[32];
	uint64_t dram_bytes;		/* the limit, or 0 */
	uint64_t nr_seen, nr_plain;	/* processes that ever were */
	uint64_t changes;
	uint64_t resident_bytes;
	uint64_t pages_to_device, pages_to_system, cpu_faults, zero_fills;
	uint64_t poisoned_pages, lost_pages;
	struct hmm_times faults;
	uint32_t nr_alive;		/* processes now, the largest of which follow */
	uint32_t nr_devices, nr_processes, reserved;
	struct window_device device[WINDOW_DEVICES];
	struct window_process process[WINDOW_PROCESSES];
};

/* A mapping that pages may be taken from, in equal parts. */
struct window_mapping {
	uint64_t start, end;
	uint64_t looked_at;		/* pages, from start on: of a huge one not all */
	uint64_t pages[HMM_PLACE_FLIGHT + 1];	/* of these, by enum hmm_place */
	uint32_t nr_cells;		/* a page or more each, all of one size but the last */
	uint32_t reserved;
	struct {
		uint8_t ram, away;	/* 255ths of its pages */
	} cell[WINDOW_CELLS];
};

struct window_map {
	uint32_t version;
	int32_t pid;			/* the monitor's */
	int32_t process;		/* 0: there is none of that number, or it is not managed */
	uint32_t nr_mappings;		/* the largest, by address */
	uint32_t nr_left_out;
	char name[16];
	uint32_t reserved;
	struct window_mapping mapping[WINDOW_MAPPINGS];
};

struct viewer;

struct window {
	struct watch watch;
	int epoll;
	void (*look)(struct window *window, struct window_view *view);
	void (*map)(struct window *window, pid_t pid, struct window_map *map);
	struct viewer *viewers;
	char path[108];
};

/* Bytes of a view up to its last process, of a map up to its last mapping. */
size_t window_bytes(const struct window_view *view);
size_t window_map_bytes(const struct window_map *map);

void window_name(struct window *window, const char *dir);	/* of its socket */
int window_open(struct window *window);

/* From now on @look and @map fill in what viewers are sent, in the main thread. */
int window_serve(struct window *window, int epoll,
		 void (*look)(struct window *window, struct window_view *view),
		 void (*map)(struct window *window, pid_t pid, struct window_map *map));

/* The socket goes; viewers are sent away. */
void window_close(struct window *window);

#endif
