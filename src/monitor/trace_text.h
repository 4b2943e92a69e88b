/* SPDX-License-Identifier: MIT */
/*
 * Records of a trace as text: Chrome's trace event format. Written by one thread. Numbers
 * are put together by hand: with printf a busy program's trace would cost a CPU.
 */
#ifndef UHMM_MONITOR_TRACE_TEXT_H
#define UHMM_MONITOR_TRACE_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include <uhmm/trace.h>

#define TRACE_TEXT_BYTES	(128u << 10)
#define TRACE_TEXT_THREADS	1024u

/* Beside the core's types of events. */
enum trace_kind {
	TRACE_NAME = HMM_TRACE_TYPES,
	TRACE_MEMORY,
};

/* What is kept of an event: with its turn in the ring, a cache line. */
struct trace_record {
	uint8_t kind;			/* enum hmm_trace_type, or trace_kind */
	uint8_t device;
	uint16_t what;
	uint32_t mm, thread;
	uint32_t pages;
	union {
		struct {
			uint64_t begin_ns, end_ns, start, end;
			int64_t result;
		};
		char name[16];			/* NAME: of process thread */
		struct {			/* MEMORY */
			uint64_t ns, resident_bytes, device_bytes;
		};
	};
};

struct trace_text {
	int fd;
	int error;			/* of the first write that failed: nothing is written after it */
	uint64_t start_ns;
	struct trace_thread {		/* of late */
		uint64_t key;		/* address space and thread; 0: none */
		uint64_t end_ns;	/* of its last span */
	} threads[TRACE_TEXT_THREADS];
	size_t len;
	char bytes[TRACE_TEXT_BYTES];
};

void trace_text_begin(struct trace_text *text, int fd, uint64_t start_ns);
void trace_text_record(struct trace_text *text, const struct trace_record *record);
void trace_text_flush(struct trace_text *text);

/* 0, or why not all of it is in the file. */
int trace_text_end(struct trace_text *text, uint64_t dropped);

#endif
