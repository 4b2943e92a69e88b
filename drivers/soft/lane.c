/* SPDX-License-Identifier: MIT */
/*
 * The access functions: what a kernel reaches the program's memory by.
 *
 * A hit in the TLB is the body of the function; all else is out of line: look the page
 * up and fill the TLB, or copy under guard, or raise a fault, and go round.
 */
#include "lane.h"

#include <string.h>

#include "device.h"

#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)
#define mostly(x, value)	__builtin_expect(x, value)
#define noinline	__attribute__((noinline))
#define always_inline	inline __attribute__((always_inline))

typedef void (*piece_fn)(void *piece, size_t len, void *ctx);

enum lookup {
	LOOKUP_MISS,
	LOOKUP_DIRECT,		/* it is in the TLB */
	LOOKUP_GUARDED,		/* system memory that may change unannounced */
};

enum atomic_op {
	OP_ADD,
	OP_EXCHANGE,
	OP_CAS,
};

static always_inline void access_begin(struct hmm_lane *lane)
{
	atomic_store_explicit(&lane->active, 1, memory_order_relaxed);
	if (unlikely(lane->fenced))
		__sync_synchronize();
	else
		atomic_signal_fence(memory_order_seq_cst);
}

static always_inline void access_end(struct hmm_lane *lane)
{
	atomic_store_explicit(&lane->active, 0, memory_order_release);
}

/* A hit: *@at is where the bytes are, and the access has begun; else it has not. */
static always_inline bool access_try(struct hmm_lane *lane, uintptr_t va, unsigned int size,
				     bool write, char **at)
{
	struct soft_tlb_entry *entry = &lane->tlb[(va >> SOFT_TLB_SHIFT) % SOFT_TLB_ENTRIES];
	uintptr_t tag;

	access_begin(lane);
	tag = atomic_load_explicit(write ? &entry->write : &entry->read, memory_order_relaxed);
	/* A misaligned address keeps low bits here, and no tag has any. */
	if (likely(tag == (va & (~(SOFT_TLB_PIECE - 1) | (size - 1))))) {
		*at = (char *)va + entry->delta;
		return true;
	}
	access_end(lane);
	return false;
}

static always_inline uint64_t load_at(const char *at, unsigned int size)
{
	switch (size) {
	case 8:
		return __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED);
	case 4:
		return __atomic_load_n((const uint32_t *)(const void *)at, __ATOMIC_RELAXED);
	case 2:
		return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_RELAXED);
	default:
		return __atomic_load_n((const uint8_t *)at, __ATOMIC_RELAXED);
	}
}

static always_inline void store_at(char *at, uint64_t value, unsigned int size)
{
	switch (size) {
	case 8:
		__atomic_store_n((uint64_t *)(void *)at, value, __ATOMIC_RELAXED);
		break;
	case 4:
		__atomic_store_n((uint32_t *)(void *)at, (uint32_t)value, __ATOMIC_RELAXED);
		break;
	case 2:
		__atomic_store_n((uint16_t *)(void *)at, (uint16_t)value, __ATOMIC_RELAXED);
		break;
	default:
		__atomic_store_n((uint8_t *)at, (uint8_t)value, __ATOMIC_RELAXED);
	}
}

#define ATOMIC_AT(type) do {								\
	type *p = (type *)(void *)at;							\
	type old = (type)expected;							\
											\
	if (op == OP_ADD)								\
		return __atomic_fetch_add(p, (type)value, __ATOMIC_SEQ_CST);		\
	if (op == OP_EXCHANGE)								\
		return __atomic_exchange_n(p, (type)value, __ATOMIC_SEQ_CST);		\
	__atomic_compare_exchange_n(p, &old, (type)value, false, __ATOMIC_SEQ_CST,	\
				    __ATOMIC_SEQ_CST);					\
	return old;									\
} while (0)

static always_inline uint64_t atomic_at(char *at, unsigned int size, enum atomic_op op,
					uint64_t value, uint64_t expected)
{
	switch (size) {
	case 8:
		ATOMIC_AT(uint64_t);
	case 4:
		ATOMIC_AT(uint32_t);
	case 2:
		ATOMIC_AT(uint16_t);
	default:
		ATOMIC_AT(uint8_t);
	}
}

static enum hmm_soft_access want_access(enum soft_want want)
{
	switch (want) {
	case SOFT_WANT_READ:
		return HMM_SOFT_READ;
	case SOFT_WANT_WRITE:
		return HMM_SOFT_WRITE;
	default:
		return HMM_SOFT_RW;
	}
}

/* Table lock held. */
static enum lookup look_up(struct hmm_lane *lane, uintptr_t va, enum soft_want want)
{
	struct hmm_soft *soft = lane->soft;
	uint64_t *slot = soft_table_slot(&soft->table, va);
	uint64_t need = HMM_SOFT_PTE_VALID | (want != SOFT_WANT_READ ? HMM_SOFT_PTE_WRITE : 0);
	char *at;

	if (!slot || (*slot & need) != need)
		return LOOKUP_MISS;
	if (*slot & SOFT_PTE_GUARDED && want == SOFT_WANT_ATOMIC)
		return LOOKUP_MISS;
	*slot |= HMM_SOFT_PTE_ACCESSED | (want != SOFT_WANT_READ ? HMM_SOFT_PTE_DIRTY : 0);
	if (*slot & SOFT_PTE_GUARDED)
		return LOOKUP_GUARDED;

	at = (char *)(uintptr_t)(*slot & ~SOFT_PTE_FLAGS);
	if (*slot & HMM_SOFT_PTE_LOCAL)
		soft_memory_touch(&soft->memory, at);
	at += va & (soft->page_size - 1) & ~(SOFT_TLB_PIECE - 1);
	soft_tlb_fill(lane, va, at, want != SOFT_WANT_READ);
	return LOOKUP_DIRECT;
}

/*
 * Look up [va, va + len): how the first piece is reached, and in @bytes how far that
 * holds. The table lock makes a refusal elsewhere visible: its flush comes after.
 */
static enum lookup look_up_span(struct hmm_lane *lane, uintptr_t va, size_t len,
				enum soft_want want, size_t *bytes)
{
	enum lookup found = LOOKUP_MISS;
	uintptr_t at = va;

	soft_table_lock(&lane->soft->table);
	if (!atomic_load_explicit(&lane->submission->stop, memory_order_relaxed))
		found = look_up(lane, va, want);
	if (found != LOOKUP_MISS) {
		do
			at = (at | (SOFT_TLB_PIECE - 1)) + 1;
		while (at - va < len && look_up(lane, at, want) == found);
	}
	soft_table_unlock(&lane->soft->table);

	soft_lane_check(lane);
	*bytes = at - va < len ? at - va : len;
	return found;
}

static void fault(struct hmm_lane *lane, uintptr_t va, enum soft_want want, bool force)
{
	enum hmm_soft_fault_reason reason = soft_fault_raise(lane, va, want, force);

	if (reason != HMM_SOFT_FAULT_NONE)
		soft_lane_refuse(lane, va, want_access(want), reason);
}

/* Make [va, va + @bytes) reachable, @bytes > 0; comes back with a hit or guarded. */
static enum lookup resolve(struct hmm_lane *lane, uintptr_t va, size_t len, enum soft_want want,
			   size_t *bytes)
{
	enum lookup found;

	if (va >= lane->soft->user_end || len > lane->soft->user_end - va)
		soft_lane_refuse(lane, va, want_access(want), HMM_SOFT_FAULT_UNMAPPED);
	soft_lane_count(&lane->tlb_misses, 1);
	for (bool again = false;; again = true) {
		found = look_up_span(lane, va, len, want, bytes);
		if (found != LOOKUP_MISS)
			return found;
		if (again)
			soft_lane_count(&lane->replays, 1);
		fault(lane, va, want, false);
	}
}

static void check_aligned(struct hmm_lane *lane, uintptr_t va, unsigned int size,
			  enum soft_want want)
{
	bool power = size == 1 || size == 2 || size == 4 || size == 8;

	if (!power || va & (size - 1))
		soft_lane_refuse(lane, va, want_access(want), HMM_SOFT_FAULT_MISALIGNED);
}

/* A guarded copy of up to @len bytes; comes back with some done. */
static size_t guarded_read(struct hmm_lane *lane, void *buf, uintptr_t va, size_t len)
{
	int64_t got;

	soft_lane_count(&lane->guarded, 1);
	while ((got = hmm_copy_from_user(lane->soft->mm, buf, va, len)) <= 0)
		fault(lane, va, SOFT_WANT_READ, true);
	return (size_t)got;
}

static size_t guarded_write(struct hmm_lane *lane, uintptr_t va, const void *buf, size_t len)
{
	int64_t got;

	soft_lane_count(&lane->guarded, 1);
	while ((got = hmm_copy_to_user(lane->soft->mm, va, buf, len)) <= 0)
		fault(lane, va, SOFT_WANT_WRITE, true);
	return (size_t)got;
}

static noinline uint64_t load_slow(struct hmm_lane *lane, uintptr_t va, unsigned int size)
{
	uint64_t value, word;
	size_t bytes;
	char *at;

	check_aligned(lane, va, size, SOFT_WANT_READ);
	for (;;) {
		if (resolve(lane, va, size, SOFT_WANT_READ, &bytes) == LOOKUP_GUARDED) {
			if (guarded_read(lane, &word, va, size) == size)
				return load_at((char *)&word, size);
			continue;
		}
		if (access_try(lane, va, size, false, &at)) {
			value = load_at(at, size);
			access_end(lane);
			return value;
		}
		soft_lane_count(&lane->replays, 1);
	}
}

static noinline void store_slow(struct hmm_lane *lane, uintptr_t va, uint64_t value,
				unsigned int size)
{
	uint64_t word;
	size_t bytes;
	char *at;

	check_aligned(lane, va, size, SOFT_WANT_WRITE);
	store_at((char *)&word, value, size);
	for (;;) {
		if (resolve(lane, va, size, SOFT_WANT_WRITE, &bytes) == LOOKUP_GUARDED) {
			if (guarded_write(lane, va, &word, size) == size)
				return;
			continue;
		}
		if (access_try(lane, va, size, true, &at)) {
			store_at(at, value, size);
			access_end(lane);
			return;
		}
		soft_lane_count(&lane->replays, 1);
	}
}

static noinline uint64_t atomic_slow(struct hmm_lane *lane, uintptr_t va, unsigned int size,
				     enum atomic_op op, uint64_t value, uint64_t expected)
{
	size_t bytes;
	uint64_t old;
	char *at;

	check_aligned(lane, va, size, SOFT_WANT_ATOMIC);
	for (;;) {
		resolve(lane, va, size, SOFT_WANT_ATOMIC, &bytes);
		if (access_try(lane, va, size, true, &at)) {
			old = atomic_at(at, size, op, value, expected);
			access_end(lane);
			return old;
		}
		soft_lane_count(&lane->replays, 1);
	}
}

#define ATOMIC_CASE(bytes)								\
	case bytes:									\
		if (likely(access_try(lane, va, bytes, true, &at))) {			\
			old = atomic_at(at, bytes, op, value, expected);		\
			access_end(lane);						\
			return old;							\
		}									\
		break

static always_inline uint64_t atomic_access(struct hmm_lane *lane, void *addr, unsigned int size,
					    enum atomic_op op, uint64_t value, uint64_t expected)
{
	uintptr_t va = (uintptr_t)addr;
	uint64_t old;
	char *at;

	switch (mostly(size, 8)) {
	ATOMIC_CASE(8);
	ATOMIC_CASE(4);
	ATOMIC_CASE(2);
	ATOMIC_CASE(1);
	default:
		break;
	}
	return atomic_slow(lane, va, size, op, value, expected);
}

/*
 * Call @fn on the longest piece from @va on that the TLB holds and that is in one
 * place. Returns its length, 0 when @va misses.
 */
static size_t span_direct(struct hmm_lane *lane, uintptr_t va, size_t len, bool write,
			  piece_fn fn, void *ctx)
{
	struct hmm_soft *soft = lane->soft;
	struct soft_tlb_entry *entry;
	uintptr_t delta = 0, at = va;

	access_begin(lane);
	while (at - va < len) {
		entry = &lane->tlb[(at >> SOFT_TLB_SHIFT) % SOFT_TLB_ENTRIES];
		if (atomic_load_explicit(write ? &entry->write : &entry->read,
					 memory_order_relaxed) != (at & ~(SOFT_TLB_PIECE - 1)))
			break;
		if (at != va && entry->delta != delta)
			break;
		delta = entry->delta;
		at = (at | (SOFT_TLB_PIECE - 1)) + 1;
	}
	if (at - va < len)
		len = at - va;
	if (len)
		fn((char *)va + delta, len, ctx);
	access_end(lane);

	if (len && soft->mem_mbps && soft_memory_has(&soft->memory, (char *)va + delta))
		soft_pace(&soft->mem_free_ns, soft->mem_mbps, len, 0);
	return len;
}

/*
 * What a span's function has changed in the bounce buffer goes back byte by byte and
 * no more: the CPU may meanwhile have written the bytes beside them.
 */
static void write_back(struct hmm_lane *lane, uintptr_t va, const char *old, const char *new,
		       size_t len)
{
	size_t i = 0, end;

	while (i < len) {
		if (old[i] == new[i]) {
			i++;
			continue;
		}
		for (end = i + 1; end < len && old[end] != new[end]; end++)
			;
		while (i < end)
			i += guarded_write(lane, va + i, new + i, end - i);
	}
}

static size_t span_guarded(struct hmm_lane *lane, uintptr_t va, size_t len, bool write,
			   piece_fn fn, void *ctx)
{
	char *buf = lane->bounce, *old = lane->bounce + SOFT_SPAN_BYTES;

	len = guarded_read(lane, buf, va, len);
	if (write)
		memcpy(old, buf, len);
	fn(buf, len, ctx);
	if (write)
		write_back(lane, va, old, buf, len);
	return len;
}

static size_t span_limit(uintptr_t va, size_t len)
{
	size_t max = SOFT_SPAN_BYTES - (va & (SOFT_SPAN_BYTES - 1));

	return len < max ? len : max;
}

static void copy_out(void *piece, size_t len, void *ctx)
{
	char **buf = ctx;

	memcpy(*buf, piece, len);
	*buf += len;
}

static void copy_in(void *piece, size_t len, void *ctx)
{
	const char **buf = ctx;

	memcpy(piece, *buf, len);
	*buf += len;
}

uint64_t hmm_lane_load(struct hmm_lane *lane, const void *addr, unsigned int size)
{
	uintptr_t va = (uintptr_t)addr;
	uint64_t value;
	char *at;

	switch (mostly(size, 8)) {
#define LOAD_CASE(bytes)						\
	case bytes:							\
		if (likely(access_try(lane, va, bytes, false, &at))) {	\
			value = load_at(at, bytes);			\
			access_end(lane);				\
			return value;					\
		}							\
		break
	LOAD_CASE(8);
	LOAD_CASE(4);
	LOAD_CASE(2);
	LOAD_CASE(1);
	default:
		break;
	}
	return load_slow(lane, va, size);
}

void hmm_lane_store(struct hmm_lane *lane, void *addr, uint64_t value, unsigned int size)
{
	uintptr_t va = (uintptr_t)addr;
	char *at;

	switch (mostly(size, 8)) {
#define STORE_CASE(bytes)						\
	case bytes:							\
		if (likely(access_try(lane, va, bytes, true, &at))) {	\
			store_at(at, value, bytes);			\
			access_end(lane);				\
			return;						\
		}							\
		break
	STORE_CASE(8);
	STORE_CASE(4);
	STORE_CASE(2);
	STORE_CASE(1);
	default:
		break;
	}
	store_slow(lane, va, value, size);
}

uint64_t hmm_lane_add(struct hmm_lane *lane, void *addr, uint64_t value, unsigned int size)
{
	return atomic_access(lane, addr, size, OP_ADD, value, 0);
}

uint64_t hmm_lane_exchange(struct hmm_lane *lane, void *addr, uint64_t value, unsigned int size)
{
	return atomic_access(lane, addr, size, OP_EXCHANGE, value, 0);
}

uint64_t hmm_lane_cas(struct hmm_lane *lane, void *addr, uint64_t expected, uint64_t desired,
		      unsigned int size)
{
	return atomic_access(lane, addr, size, OP_CAS, desired, expected);
}

void hmm_lane_read(struct hmm_lane *lane, void *buf, const void *addr, size_t len)
{
	uintptr_t va = (uintptr_t)addr;
	char *to = buf;
	size_t bytes, n;

	while (len) {
		n = span_direct(lane, va, span_limit(va, len), false, copy_out, &to);
		if (!n && resolve(lane, va, span_limit(va, len), SOFT_WANT_READ, &bytes) ==
			  LOOKUP_GUARDED) {
			n = guarded_read(lane, to, va, bytes);
			to += n;
		}
		va += n;
		len -= n;
	}
}

void hmm_lane_write(struct hmm_lane *lane, void *addr, const void *buf, size_t len)
{
	uintptr_t va = (uintptr_t)addr;
	const char *from = buf;
	size_t bytes, n;

	while (len) {
		n = span_direct(lane, va, span_limit(va, len), true, copy_in, &from);
		if (!n && resolve(lane, va, span_limit(va, len), SOFT_WANT_WRITE, &bytes) ==
			  LOOKUP_GUARDED) {
			n = guarded_write(lane, va, from, bytes);
			from += n;
		}
		va += n;
		len -= n;
	}
}

void hmm_lane_span(struct hmm_lane *lane, void *addr, size_t len, enum hmm_soft_access access,
		   void (*fn)(void *piece, size_t len, void *ctx), void *ctx)
{
	bool write = access & HMM_SOFT_WRITE;
	enum soft_want want = write ? SOFT_WANT_WRITE : SOFT_WANT_READ;
	uintptr_t va = (uintptr_t)addr;
	size_t bytes, n;

	while (len) {
		n = span_direct(lane, va, span_limit(va, len), write, fn, ctx);
		if (!n && resolve(lane, va, span_limit(va, len), want, &bytes) == LOOKUP_GUARDED)
			n = span_guarded(lane, va, bytes, write, fn, ctx);
		va += n;
		len -= n;
	}
}

unsigned int hmm_lane_id(const struct hmm_lane *lane)
{
	return lane->id;
}
