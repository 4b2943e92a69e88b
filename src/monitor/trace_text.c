// SPDX-License-Identifier: MIT
#include "monitor/trace_text.h"

#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>

#include "sys/sys.h"

#define RECORD_MAX	1024u		/* bytes that one record can need, its thread's name too */

/* ---------------------------------------------------------------- words and numbers */

/* So that the length of what is written in the source is known where it is copied. */
#define INLINED	static inline __attribute__((always_inline))

INLINED void put(struct trace_text *t, const char *word)
{
	const size_t len = strlen(word);

	memcpy(t->bytes + t->len, word, len);
	t->len += len;
}

/* All of two digits, 00 to 99. */
static const char pairs[] =
	"00010203040506070809101112131415161718192021222324252627282930313233343536373839"
	"40414243444546474849505152535455565758596061626364656667686970717273747576777879"
	"8081828384858687888990919293949596979899";

/* From the last one on, in their place: a number of bytes is slow to copy right after them. */
static void put_digits(struct trace_text *t, uint64_t n)
{
	unsigned int nr = 1;
	char *at;

	for (uint64_t left = n; left >= 10; left /= 10)
		nr++;
	t->len += nr;
	at = t->bytes + t->len;
	for (; n >= 100; n /= 100)
		memcpy(at -= 2, pairs + n % 100 * 2, 2);
	if (n >= 10)
		memcpy(at - 2, pairs + n * 2, 2);
	else
		at[-1] = (char)('0' + n);
}

static void put_hex(struct trace_text *t, uint64_t n)
{
	unsigned int nr = n ? (67 - (unsigned int)__builtin_clzll(n)) / 4 : 1;

	t->len += nr;
	for (char *at = t->bytes + t->len; nr; nr--, n >>= 4)
		*--at = "0123456789abcdef"[n & 15];
}

static void put_number(struct trace_text *t, int64_t n)
{
	if (n < 0)
		put(t, "-");
	put_digits(t, n < 0 ? -(uint64_t)n : (uint64_t)n);
}

/* "key": n, with a comma before it. */
INLINED void put_field(struct trace_text *t, const char *key, int64_t n)
{
	put(t, ",\"");
	put(t, key);
	put(t, "\":");
	put_number(t, n);
}

INLINED void put_address(struct trace_text *t, const char *key, uint64_t addr)
{
	put(t, "\"");
	put(t, key);
	put(t, "\":\"0x");
	put_hex(t, addr);
	put(t, "\"");
}

/* Microseconds, which is what viewers count in. */
INLINED void put_us(struct trace_text *t, const char *key, uint64_t ns)
{
	put(t, ",\"");
	put(t, key);
	put(t, "\":");
	put_digits(t, ns / 1000);
	t->bytes[t->len++] = '.';
	t->bytes[t->len++] = (char)('0' + ns % 1000 / 100);
	memcpy(t->bytes + t->len, pairs + ns % 100 * 2, 2);
	t->len += 2;
}

/* A name is the program's to choose. */
static void put_name(struct trace_text *t, const char *name)
{
	for (; *name; name++)
		t->bytes[t->len++] = (unsigned char)*name < 0x20 || (unsigned char)*name > 0x7e ||
				     *name == '"' || *name == '\\' ? '?' : *name;
}

/* ---------------------------------------------------------------- records */

static uint64_t since(const struct trace_text *t, uint64_t ns)
{
	return ns > t->start_ns ? ns - t->start_ns : 0;
}

static void record_name(struct trace_text *t, const struct trace_record *r)
{
	put(t, ",\n{\"ph\":\"M\",\"name\":\"process_name\"");
	put_field(t, "pid", r->mm);
	put(t, ",\"args\":{\"name\":\"");
	put_name(t, r->name);
	put(t, " [");
	put_number(t, r->thread);
	put(t, "]\"}}");
}

static void record_memory(struct trace_text *t, const struct trace_record *r)
{
	put(t, ",\n{\"ph\":\"C\",\"name\":\"memory\",\"pid\":0");
	put_us(t, "ts", since(t, r->ns));
	put(t, ",\"args\":{\"RAM KiB\":");
	put_number(t, (int64_t)(r->resident_bytes >> 10));
	put_field(t, "away KiB", (int64_t)(r->device_bytes >> 10));
	put(t, "}}");
}

/* What is known of the event's thread; *new: nothing yet. */
static struct trace_thread *thread_of(struct trace_text *t, const struct trace_record *e, bool *new)
{
	const uint64_t key = (uint64_t)e->mm << 32 | e->thread;
	struct trace_thread *thread = &t->threads[(e->mm * 31 + e->thread) % TRACE_TEXT_THREADS];

	*new = thread->key != key;
	if (*new)
		*thread = (struct trace_thread){ .key = key };
	return thread;
}

/* The monitor's threads are named where they work; to be named twice does no harm. */
static void name_thread(struct trace_text *t, const struct trace_record *e)
{
	put(t, ",\n{\"ph\":\"M\",\"name\":\"thread_name\"");
	put_field(t, "pid", e->mm);
	put_field(t, "tid", e->thread);
	put(t, ",\"args\":{\"name\":\"uhmm\"}}");
}

static bool by_monitor(const struct trace_record *e)
{
	return e->kind == HMM_TRACE_MIGRATE || e->kind == HMM_TRACE_HOME ||
	       e->kind == HMM_TRACE_INVALIDATE || e->kind == HMM_TRACE_AWAY;
}

/*
 * A thread of the program goes on before the handler that let it has looked at the clock,
 * and may be in its next fault by then. Viewers want one span to end before the next.
 */
static uint64_t begin_of(struct trace_text *t, const struct trace_record *e)
{
	uint64_t begin_ns = e->begin_ns;
	struct trace_thread *thread;
	bool new;

	thread = thread_of(t, e, &new);
	if (by_monitor(e)) {
		if (new)
			name_thread(t, e);
		return begin_ns;
	}
	if (begin_ns < thread->end_ns)
		begin_ns = thread->end_ns;
	if (e->end_ns > thread->end_ns)
		thread->end_ns = e->end_ns;
	return begin_ns;
}

static const char *call_name(uint32_t nr)
{
	switch (nr) {
	case SYS_munmap: return "munmap";
	case SYS_mmap: return "mmap";
	case SYS_mremap: return "mremap";
	case SYS_mprotect: return "mprotect";
	case SYS_pkey_mprotect: return "pkey_mprotect";
	case SYS_madvise: return "madvise";
	case SYS_process_madvise: return "process_madvise";
	case SYS_brk: return "brk";
	case SYS_shmat: return "shmat";
	case SYS_shmdt: return "shmdt";
	case SYS_mlock: return "mlock";
	case SYS_mlock2: return "mlock2";
	case SYS_mlockall: return "mlockall";
	case SYS_remap_file_pages: return "remap_file_pages";
	default: return "change";
	}
}

static const char *name_of(const struct trace_record *e)
{
	static const char *const faults[] = {
		[HMM_FAULT_HOLE] = "first touch", [HMM_FAULT_DEVICE] = "fault",
		[HMM_FAULT_EXCLUSIVE] = "fault, exclusive", [HMM_FAULT_FLIGHT] = "fault, in flight",
		[HMM_FAULT_LOST] = "fault, lost",
	};
	static const char *const told[] = {
		[HMM_EVENT_UNMAP] = "invalidate UNMAP", [HMM_EVENT_CLEAR] = "invalidate CLEAR",
		[HMM_EVENT_PROTECT] = "invalidate PROTECT", [HMM_EVENT_MIGRATE] = "invalidate MIGRATE",
		[HMM_EVENT_EXCLUSIVE] = "invalidate EXCLUSIVE", [HMM_EVENT_FORK] = "invalidate FORK",
		[HMM_EVENT_RELEASE] = "invalidate RELEASE",
	};

	switch (e->kind) {
	case HMM_TRACE_FAULT:
		return e->what < ARRAY_SIZE(faults) ? faults[e->what] : "fault";
	case HMM_TRACE_MIGRATE:
		return "to device";
	case HMM_TRACE_HOME:
		return "home";
	case HMM_TRACE_INVALIDATE:
		return e->what < ARRAY_SIZE(told) ? told[e->what] : "invalidate";
	case HMM_TRACE_CHANGE:
		return call_name(e->what);
	case HMM_TRACE_FORK:
		return "fork";
	case HMM_TRACE_AWAY:
		return "away";
	default:
		return "page lost";
	}
}

static const char *category_of(const struct trace_record *e)
{
	static const char *const categories[HMM_TRACE_TYPES] = {
		[HMM_TRACE_FAULT] = "fault", [HMM_TRACE_MIGRATE] = "migration",
		[HMM_TRACE_HOME] = "migration", [HMM_TRACE_INVALIDATE] = "invalidation",
		[HMM_TRACE_CHANGE] = "change", [HMM_TRACE_FORK] = "change",
		[HMM_TRACE_LOST] = "error", [HMM_TRACE_AWAY] = "place",
	};

	return e->kind < HMM_TRACE_TYPES ? categories[e->kind] : "error";
}

static void put_args(struct trace_text *t, const struct trace_record *e)
{
	put_address(t, "start", e->start);
	switch (e->kind) {
	case HMM_TRACE_FAULT:
		put_field(t, "write", e->result);
		if (e->what == HMM_FAULT_HOLE)
			put_field(t, "pages", e->pages);
		return;
	case HMM_TRACE_FORK:
		put_field(t, "child", e->result);
		return;
	case HMM_TRACE_CHANGE:
		put(t, ",");
		put_address(t, "end", e->end);
		if (e->result == INT64_MIN) {
			put(t, ",\"by\":\"kernel\"");
		} else {
			put(t, ",");
			put_address(t, "result", (uint64_t)e->result);
		}
		return;
	}
	put(t, ",");
	put_address(t, "end", e->end);
	put_field(t, e->kind == HMM_TRACE_INVALIDATE ? "told" : "pages", e->pages);
	if (e->device)
		put_field(t, "device", e->device);
	if (e->kind == HMM_TRACE_AWAY)
		put_field(t, "of", e->result);
	if (e->kind == HMM_TRACE_MIGRATE && e->result) {
		put_field(t, "stayed", e->result);
		put(t, ",\"reason\":\"");
		put(t, hmm_reason_name((enum hmm_reason)e->what));
		put(t, "\"");
	}
}

static void record_event(struct trace_text *t, const struct trace_record *e)
{
	const uint64_t begin_ns = begin_of(t, e);
	const bool moment = begin_ns >= e->end_ns;

	put(t, moment ? ",\n{\"ph\":\"i\",\"s\":\"t\",\"name\":\"" : ",\n{\"ph\":\"X\",\"name\":\"");
	put(t, name_of(e));
	put(t, "\",\"cat\":\"");
	put(t, category_of(e));
	put(t, "\"");
	put_field(t, "pid", e->mm);
	put_field(t, "tid", e->thread);
	put_us(t, "ts", since(t, begin_ns));
	if (!moment)
		put_us(t, "dur", e->end_ns - begin_ns);
	put(t, ",\"args\":{");
	put_args(t, e);
	put(t, "}}");
}

/* ---------------------------------------------------------------- the file */

void trace_text_flush(struct trace_text *t)
{
	if (!t->error)
		t->error = sys_write_full(t->fd, t->bytes, t->len);
	t->len = 0;
}

void trace_text_record(struct trace_text *t, const struct trace_record *record)
{
	if (t->len + RECORD_MAX > sizeof(t->bytes))
		trace_text_flush(t);
	if (record->kind == TRACE_NAME)
		record_name(t, record);
	else if (record->kind == TRACE_MEMORY)
		record_memory(t, record);
	else
		record_event(t, record);
}

void trace_text_begin(struct trace_text *t, int fd, uint64_t start_ns)
{
	t->fd = fd;
	t->start_ns = start_ns;
	put(t, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n"
	       "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":0,\"args\":{\"name\":\"uhmm run\"}}");
}

int trace_text_end(struct trace_text *t, uint64_t dropped)
{
	put(t, "\n],\"otherData\":{\"uhmm\":\"");
	put(t, hmm_version());
	put(t, "\"");
	put_field(t, "dropped", (int64_t)dropped);
	put(t, "}}\n");
	trace_text_flush(t);
	return t->error;
}
