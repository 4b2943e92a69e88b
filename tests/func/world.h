/* SPDX-License-Identifier: MIT */
/*
 * The world of the functional tests: one mm, two test devices, memory with a
 * pattern, and counters before and after.
 *
 * testdev is the plainest driver there can be: device memory is a block of safe
 * memory, a copy is memcpy, pages are handed out from a bitmap. So the tests of the
 * core stand on the public headers alone, and a fault of a real driver cannot hide
 * one of the core. Everything its callbacks touch is static or from
 * hmm_safe_alloc().
 *
 * A test leaves the world as it found it: world_test_end() removes the devices and
 * checks that each device page was freed exactly once, that none is lost, and that
 * the mm counts no device and no exclusive page.
 *
 * UHMM_TEST_STRICT=1 in the environment makes the mm STRICT: programs whose claims
 * hold in both modes are run once in each. UHMM_TEST_USER_FAULTS=1 makes it one of
 * USER_FAULTS_ONLY: for claims that no system call of the program's is part of.
 */
#ifndef UHMM_TEST_WORLD_H
#define UHMM_TEST_WORLD_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#include <uhmm/driver.h>
#include <uhmm/uhmm.h>

#define EXIT_SKIP		77
#define DEV_PAGES		4096
#define PAGE_MAX		65536	/* bytes of the largest page there is */
#define WORDS			(page / sizeof(uint64_t))	/* in a page */
#define ARRAY_LEN(a)		(sizeof(a) / sizeof((a)[0]))

/* Silences warn_unused_result where a test means to ignore the result. */
#define IGNORE(x)		do { if ((x)) { } } while (0)

struct testdev;

/* Called before each copy, from the copying thread; an error fails the copy. */
typedef int (*testdev_hook)(struct testdev *dev, bool to_device, uint64_t index,
			    uint64_t nr_pages);

/* In safe memory: callbacks use it. Plain fields are set while no copy runs. */
struct testdev {
	struct hmm_mm *mm;
	struct hmm_devmem *devmem;
	uint32_t id;
	uint64_t nr_pages;
	unsigned char *mem;
	size_t bytes;

	/* Spin lock: nothing that takes it faults or allocates. */
	atomic_flag lock;
	uint64_t nr_used;
	bool used[DEV_PAGES];
	uint64_t bad_frees;		/* of pages that were free */

	uint64_t limit;			/* most pages used at once; 0: all */
	bool async;			/* copies end on a thread of their own */
	bool peer;			/* copy_peer works */
	_Atomic uint64_t fail_to;	/* the nth copy to the device fails; 0: none */
	_Atomic uint64_t fail_from;
	_Atomic bool broken;		/* every copy from the device fails */
	testdev_hook hook;

	_Atomic uint64_t allocs, frees;		/* pages */
	_Atomic uint64_t pages_to, pages_from;	/* copied */
	_Atomic uint64_t zeroed;		/* pages filled with zeros */
	_Atomic uint64_t pages_peer;
	_Atomic uint64_t copies_to, copies_from;	/* calls */
	_Atomic uint64_t faults;		/* migrate_to_ram */
	_Atomic uint64_t around;		/* pages that migrate_to_ram evicts; 0: none */
	_Atomic bool defer;			/* migrate_to_ram leaves its fault in deferred */
	_Atomic uint32_t nr_deferred;
	struct hmm_fault deferred[4];

	struct hmm_safe_thread *thread;	/* of one whose copies are async */
	_Atomic uint32_t stop;
	_Atomic(struct hmm_copy *) pending[64];
	_Atomic uint32_t pending_head, pending_tail;
};

struct world {
	struct hmm_mm *mm;
	struct testdev *dev;	/* the first, always there */
	struct testdev *other;	/* the second */
	struct hmm_stats start;	/* counters when the test began */
	bool may_lose;		/* this test loses pages on purpose */
};

extern const char world_owner_a[], world_owner_b[];
extern size_t page;

/* Group fixtures: the mm. Test fixtures: the devices and the checks. */
int world_begin(void **state);
int world_end(void **state);
int world_test_begin(void **state);
int world_test_end(void **state);

#define world_test(f)	cmocka_unit_test_setup_teardown(f, world_test_begin, world_test_end)

bool strict(void);
uint64_t world_flags(void);	/* HMM_MM_* of the mm that the environment asks for */
/* UHMM_CAPS masks this capability. */
bool masked(const char *cap);
/* Ends the program with 77 and the reason; before any group runs. */
void skip_program(const char *why) __attribute__((noreturn));
/* 77 unless this user can have an mm of the wanted kind. */
void need_mm(void);

struct testdev *testdev_new(struct hmm_mm *mm, uint64_t nr_pages, const void *owner,
			    uint64_t flags);
/* Removes it; 0 or what hmm_devmem_remove() said. Checks that all pages were freed. */
int testdev_remove(struct testdev *dev);
/* From now on each copy ends on a thread of the device's own. */
void testdev_async(struct testdev *dev);
/* Reserve @nr consecutive pages, as a driver that migrates by hand does. */
uint64_t testdev_reserve(struct testdev *dev, uint64_t nr);
void testdev_release(struct testdev *dev, uint64_t index, uint64_t nr);
uint64_t testdev_used(struct testdev *dev);
/* A thread goes on when its page is there; what held it is freed a little later. */
#define assert_used(dev, nr)	assert_true(eventually(testdev_used(dev) == (nr)))
static inline unsigned char *testdev_page(struct testdev *dev, uint64_t index)
{
	return dev->mem + index * page;
}

/* Counters now; and how far one has moved since the test began. */
struct hmm_stats stats_now(struct world *w);
#define moved(w, field)	(stats_now(w).field - (w)->start.field)
#define stats_mark(w)	((w)->start = stats_now(w))

/* Memory with a pattern that no two pages share. */
uint64_t pattern(uint32_t seed, uint64_t page_nr, uint64_t word);
void *map_pages(size_t nr, int prot, int flags);
void *map_filled(size_t nr, uint32_t seed);
void fill(void *addr, size_t nr, uint32_t seed);
/* Page @first + i of the pattern is at @addr + i pages. */
bool holds(const void *addr, size_t nr, uint32_t seed, uint64_t first);
bool all_zero(const void *addr, size_t bytes);

#define assert_holds(addr, nr, seed, first) \
	assert_true(holds(addr, nr, seed, first))

/* Moves all of it, and says so by failing where not. */
void to_device(struct world *w, struct testdev *dev, void *addr, size_t nr);
/* As map_filled(), all of it on the first device. */
void *map_away(struct world *w, size_t nr, uint32_t seed);
int64_t try_device(struct world *w, struct testdev *dev, void *addr, size_t nr,
		   uint64_t *reasons);
bool all_at(struct world *w, const void *addr, size_t nr, enum hmm_place place);
size_t count_at(struct world *w, const void *addr, size_t nr, enum hmm_place place);
#define assert_at(w, addr, nr, place)	assert_int_equal(count_at(w, addr, nr, place), nr)
int64_t evict(struct world *w, void *addr, size_t nr);
/* Nothing moves, and every page says @reason. */
void assert_refused(struct world *w, void *addr, size_t nr, enum hmm_reason reason);
/* /proc/self/pagemap: does the CPU's own table map the page? */
bool cpu_maps(const void *addr);
size_t cpu_maps_count(const void *addr, size_t nr);
/* A field of /proc/self/smaps for the mapping of addr, in kB. */
long smaps_kb(const void *addr, const char *field);

/* True at last, or false after a time that only a hang exceeds. */
#define eventually(cond) ({						\
	bool ok_ = false;						\
	for (uint64_t until_ = deadline(); !(ok_ = (cond)) && !past(until_);)	\
		;							\
	ok_;								\
})
uint64_t deadline(void);
bool past(uint64_t until);	/* leaves the CPU to what is waited for */

/* A userfaultfd of the program's own, not the library's; negative: -errno. */
int foreign_userfaultfd(void);
/* It is to see the first touches of @nr pages. 0 or -errno. */
int foreign_register(int fd, void *addr, size_t nr);

/* A capability of the machine that this one test lacks: said, and passed over. */
#define lacks(why)	do { print_message("          not here: %s\n", why); return; } while (0)

/* How often a race that takes long is run: of @nr times a share, on a machine that is slow. */
uint32_t rounds(uint32_t nr);

/* Runs @fn in a forked child: its exit status, or 128 + signal. */
int in_child(int (*fn)(void *arg), void *arg);
int wait_child(pid_t pid);
/* First thing in a forked child: its crash must not become a second run of the tests. */
void child_signals(void);
/* What a touch does: 0, or the signal it raises. */
int touch_read(const void *addr);
int touch_write(void *addr);

/* Every event that a notifier heard. In safe memory. */
struct heard {
	struct hmm_notifier *notifier;
	_Atomic uint32_t nr;
	struct {
		struct hmm_event event;
		uint64_t seq;
	} events[256];
};
struct heard *listen_to(struct world *w, const void *start, const void *end);
void listen_end(struct heard *h);
uint32_t heard_type(struct heard *h, enum hmm_event_type type);
/* An event of the type with the owner that overlaps [start, end). */
bool heard_event(struct heard *h, enum hmm_event_type type, const void *owner,
		 const void *start, const void *end);

#endif
