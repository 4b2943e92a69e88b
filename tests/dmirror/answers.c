/* SPDX-License-Identifier: MIT */
/*
 * Random requests to the devices, among random changes of the memory that they are of,
 * each printed with its answer: error, counts, and what the bytes come to. Run once on
 * the devices of Linux's own HMM (lib/test_hmm.c) and once under `uhmm dmirror`, the two
 * texts are to be the same; scripts/differential compares them.
 *
 * What is done next depends on the seed, and on answers that are compared themselves, so
 * that the first difference is a true one.
 *
 *	answers SEED STEPS	prints STEPS lines and more (a child has lines of its own)
 *
 * What Linux and we do differently by intent (docs/dmirror.md) is kept out of it:
 *
 * - Whether the CPU's entry of a page may be written right now. After fork(), and where a
 *   permission was taken and given back, Linux leaves that to the CPU's next write, and a
 *   process cannot see it. So the CPU makes that write before a device looks: settle().
 * - An exclusive page stays one with Linux, which then neither migrates it nor gives it
 *   back when the file is closed, until the CPU touches it. So it does: end_exclusive().
 * - A fault may map the zero page at neighbours of the page that was touched. Both look
 *   alike here: no memory of its own.
 * - A call counts as made where it does nothing: an mprotect() that changes nothing or ends
 *   at a gap, an mremap() of nothing. They are not made.
 * - We ask for exclusive pages in batches, and what stands behind a shared page, which
 *   cannot be had, is asked for and given back. So such a request is of one page.
 * - mremap() to a fixed place brings pages home first: so does the CPU here.
 * - Where a page needs a fault, Linux faults all behind it too, which brings home what the
 *   device itself has of them. So the CPU does, before such a request: bring_home().
 * - At a fork the devices hear of shared memory too, and of what was never written, which
 *   in Linux they do not. So the CPU lets go of it, and it is faulted anew in both.
 * - A private mapping of a file of which a page was written becomes anonymous memory, as a
 *   whole, when it first migrates. So it is written whole and migrates at once, or never.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.h"

#define PAGES	256u	/* of the place where all of it happens */
#define MOST	24u	/* of one step: within one piece of both drivers */
/* Linux's numbers, which not every libc has. */
#define POPULATE_READ	22
#define POPULATE_WRITE	23

#define UNITS	2u	/* coherent devices the kernel's driver has only on special machines */

enum what { GAP, ANON, SHARED, FILE_COPY };

static struct {
	enum what what;
	int prot;
	bool unsettled;
	bool exclusive;		/* perhaps */
	bool unwritten;		/* never writable since it was mapped */
} model[PAGES];

struct span {
	size_t at, nr;
};

static int devices[UNITS];
static int file;
static unsigned char *place;	/* a border of 2 MiB is in its middle */
static unsigned int step;
static uint64_t random_state;
static unsigned char buffer[MOST * PAGE_MOST];

static uint64_t next_random(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static size_t below(size_t n)
{
	return next_random() % n;
}

/* Often where the last one was: only then do steps meet. */
static struct span some_span(void)
{
	static struct span last = { 0, MOST };
	struct span s = { .nr = 1 + below(below(3) ? 8 : MOST) };

	if (below(3))
		s.at = last.at + below(last.nr + 4);
	else
		s.at = below(PAGES);
	if (s.at + s.nr > PAGES)
		s.at = PAGES - s.nr;
	return last = s;
}

static unsigned char *at(size_t i)
{
	return place + i * page;
}

static uint64_t sum(const void *p, size_t bytes)
{
	const volatile uint64_t *words = p;
	uint64_t h = 0xcbf29ce484222325u;

	for (size_t i = 0; i < bytes / sizeof(*words); i++)
		h = (h ^ words[i]) * 0x100000001b3u;
	return h;
}

static void begin(const char *name, struct span s)
{
	printf("%u %s %zu+%zu", step, name, s.at, s.nr);
}

static bool can(size_t i, int prot)
{
	return model[i].what != GAP && (model[i].prot & prot) == prot;
}

/* Each writable page of doubtful standing is written by the CPU, as it is. */
static void settle(struct span s)
{
	for (size_t i = s.at; i < s.at + s.nr; i++) {
		volatile unsigned char *p = at(i);

		if (!model[i].unsettled || !can(i, RW))
			continue;
		*p = *p;
		model[i].unsettled = false;
	}
}

/* May any page of it still be exclusive? The CPU touches what it may. */
static bool end_exclusive(struct span s)
{
	bool any = false;

	for (size_t i = s.at; i < s.at + s.nr; i++) {
		if (!model[i].exclusive)
			continue;
		if (can(i, PROT_READ)) {
			(void)*(volatile unsigned char *)at(i);
			model[i].exclusive = false;
		}
		any |= model[i].exclusive;
	}
	return any;
}

/* ---------------------------------------------------------------- the CPU's steps */

static void cpu_read(struct span s)
{
	begin("cpu-read", s);
	for (size_t i = s.at; i < s.at + s.nr; i++)
		if (can(i, PROT_READ))
			printf(" %zu=%016lx", i, sum(at(i), page));
	printf("\n");
}

static void cpu_write(struct span s)
{
	uint64_t word = next_random();

	begin("cpu-write", s);
	printf(" %016lx\n", word);
	for (size_t i = s.at; i < s.at + s.nr; i++) {
		if (!can(i, RW))
			continue;
		*(volatile uint64_t *)(at(i) + word % (page / 8) * 8) = word + i;
		model[i].unsettled = false;
	}
}

/* The kernel reads or writes it for us, up to what it may not. */
static void system_call(struct span s)
{
	bool write = below(2);
	ssize_t n = write ? pwrite(file, at(s.at), s.nr * page, (off_t)(PAGES * page)) :
			    pread(file, at(s.at), s.nr * page, 0);

	begin(write ? "write()" : "read()", s);
	printf(" %zd %s\n", n, n < 0 ? strerror(errno) : "");
}

static void set(struct span s, enum what what, int prot)
{
	for (size_t i = s.at; i < s.at + s.nr; i++) {
		model[i].what = what;
		model[i].prot = prot;
		model[i].unsettled = model[i].exclusive = false;
		model[i].unwritten = !(prot & PROT_WRITE);
	}
}

static int some_prot(void)
{
	static const int prots[] = { RW, RW, RW, RW, PROT_READ, PROT_NONE };

	return prots[below(6)];
}

static void map_span(struct span s)
{
	static const enum what kinds[] = { ANON, ANON, ANON, ANON, ANON, SHARED, FILE_COPY };
	enum what what = kinds[below(7)];
	int prot = some_prot(), flags = what == SHARED ? MAP_SHARED : MAP_PRIVATE;
	void *p = mmap(at(s.at), s.nr * page, prot,
		       flags | MAP_FIXED | (what == FILE_COPY ? 0 : MAP_ANONYMOUS),
		       what == FILE_COPY ? file : -1,
		       what == FILE_COPY ? (off_t)(s.at * page) : 0);

	begin("mmap", s);
	printf(" what=%d prot=%d %s\n", (int)what, prot, p == MAP_FAILED ? strerror(errno) : "");
	if (p == MAP_FAILED)
		return;
	set(s, what, prot);
	if (what != FILE_COPY || prot != RW)
		return;
	for (size_t i = s.at; i < s.at + s.nr; i++)
		*at(i) = 1;
	printf("  copies: %d\n", request(devices[0], DMIRROR_MIGRATE_TO_DEV, p, s.nr, buffer));
}

static bool any_is(struct span s, enum what what)
{
	for (size_t i = s.at; i < s.at + s.nr; i++)
		if (model[i].what == what)
			return true;
	return false;
}

static void unmap_span(struct span s)
{
	int ret = munmap(at(s.at), s.nr * page);

	begin("munmap", s);
	printf(" %d\n", ret);
	set(s, GAP, 0);
}

static void protect(struct span s)
{
	int prot = some_prot(), ret;

	for (size_t i = s.at; i < s.at + s.nr; i++) {
		if (model[i].what == GAP)
			s.nr = i > s.at ? i - s.at : 1;
		else if (model[i].prot == prot || model[i].what == FILE_COPY)
			return;
	}
	ret = mprotect(at(s.at), s.nr * page, prot);
	begin("mprotect", s);
	printf(" %d %d %s\n", prot, ret, ret ? strerror(errno) : "");
	for (size_t i = s.at; i < s.at + s.nr && model[i].what != GAP; i++) {
		model[i].unsettled |= !(prot & PROT_WRITE) || !(model[i].prot & PROT_WRITE);
		model[i].unwritten &= !(prot & PROT_WRITE);
		model[i].prot = prot;
	}
}

/* Of a run that is of one kind, to a place that may have something or not. */
static void remap(struct span s)
{
	struct span to = { .at = below(PAGES - MOST), .nr = s.nr };
	bool keep = !below(4);
	void *p;

	if (to.at < s.at + s.nr && s.at < to.at + to.nr)
		return;
	for (size_t i = s.at; i < s.at + s.nr; i++)
		if (model[i].what != model[s.at].what || model[i].prot != model[s.at].prot)
			return;
	if (model[s.at].what == GAP || (keep && model[s.at].what != ANON))
		return;
	for (size_t i = s.at; i < s.at + s.nr && can(i, PROT_READ); i++)
		(void)*(volatile unsigned char *)at(i);
	p = mremap(at(s.at), s.nr * page, s.nr * page,
		   MREMAP_MAYMOVE | MREMAP_FIXED | (keep ? MREMAP_DONTUNMAP : 0), at(to.at));
	begin(keep ? "mremap-keep" : "mremap", s);
	printf(" to %zu %s\n", to.at, p == MAP_FAILED ? strerror(errno) : "");
	if (p == MAP_FAILED)
		return;
	for (size_t i = 0; i < s.nr; i++) {
		model[to.at + i] = model[s.at + i];
		model[s.at + i].unsettled = model[s.at + i].exclusive = false;
		if (!keep)
			model[s.at + i].what = GAP;
	}
}

static void advise(struct span s)
{
	static const struct {
		const char *name;
		int advice;
	} advices[] = {
		{ "dontneed", MADV_DONTNEED }, { "dontneed", MADV_DONTNEED },
		{ "populate-read", POPULATE_READ }, { "populate-write", POPULATE_WRITE },
		{ "willneed", MADV_WILLNEED }, { "dontfork", MADV_DONTFORK },
		{ "dofork", MADV_DOFORK },
	};
	size_t i = below(sizeof(advices) / sizeof(advices[0]));
	int ret;

	if (any_is(s, FILE_COPY))
		return;
	if (advices[i].advice == MADV_DONTFORK)	/* its child would have gaps: always undone */
		ret = madvise(at(s.at), s.nr * page, MADV_DONTFORK) |
		      madvise(at(s.at), s.nr * page, MADV_DOFORK);
	else
		ret = madvise(at(s.at), s.nr * page, advices[i].advice);
	begin(advices[i].name, s);
	printf(" %d %s\n", ret, ret ? strerror(errno) : "");
}

/* The child has what the parent had, and what it writes stays with it. */
static void fork_child(struct span s)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		cpu_read(s);
		cpu_write(s);
		cpu_read((struct span){ 0, PAGES });
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	next_random();	/* as the child took one */
	begin("fork", s);
	printf(" %x\n", (unsigned int)status);
	for (size_t i = 0; i < PAGES; i++) {
		model[i].unsettled = model[i].what != GAP;
		if (model[i].what == SHARED || model[i].unwritten)
			madvise(at(i), page, MADV_DONTNEED);
	}
	settle((struct span){ 0, PAGES });
}

/* ---------------------------------------------------------------- the devices' */

/* A request of the device's for @s would fault: what it has behind the first such page. */
static void bring_home(unsigned int unit, struct span s, bool write)
{
	uint8_t bytes[MOST];
	bool needed = false;

	if (request(devices[unit], DMIRROR_SNAPSHOT, at(s.at), s.nr, bytes))
		return;
	for (size_t i = 0; i < s.nr; i++) {
		bool local = bytes[i] >> 4 == DMIRROR_PROT_DEV_PRIVATE_LOCAL >> 4;
		bool good = write ? bytes[i] & DMIRROR_PROT_WRITE :
			    bytes[i] == DMIRROR_PROT_READ || bytes[i] == DMIRROR_PROT_WRITE || local;

		needed |= !good;
		if (local && needed)
			(void)*(volatile unsigned char *)at(s.at + i);
	}
}

static void ask(const char *name, unsigned long nr, struct span s)
{
	unsigned int unit = below(4) == 3;
	size_t bytes;
	int ret;

	if (nr == DMIRROR_EXCLUSIVE && any_is(s, SHARED))
		s.nr = 1;
	bytes = s.nr * page;
	settle(s);
	if (nr == DMIRROR_MIGRATE_TO_DEV || nr == DMIRROR_MIGRATE_TO_SYS)
		end_exclusive(s);
	if (nr == DMIRROR_READ || nr == DMIRROR_READ_UNLOCKED || nr == DMIRROR_WRITE)
		bring_home(unit, s, nr == DMIRROR_WRITE);
	for (size_t i = s.at; i < s.at + s.nr; i++)
		model[i].exclusive |= nr == DMIRROR_EXCLUSIVE;
	fill(buffer, s.nr, step);
	ret = request(devices[unit], nr, at(s.at), s.nr, buffer);
	begin(name, s);
	printf(" device=%u %d", unit, ret);
	if (!ret)
		printf(" cpages=%lu faults=%lu", cmd.cpages, cmd.faults);
	if (nr == DMIRROR_SNAPSHOT && !ret)
		for (size_t i = 0; i < s.nr; i++)
			printf(" %02x", buffer[i] == (DMIRROR_PROT_ZERO | DMIRROR_PROT_READ) ?
			       DMIRROR_PROT_NONE : buffer[i]);
	else
		printf(" %016lx", sum(buffer, bytes));
	printf("\n");
}

#define ASK(fn, nr)				\
static void fn(struct span s)			\
{						\
	ask(#fn, nr, s);			\
}

ASK(device_read, DMIRROR_READ)
ASK(device_read_unlocked, DMIRROR_READ_UNLOCKED)
ASK(device_write, DMIRROR_WRITE)
ASK(to_device, DMIRROR_MIGRATE_TO_DEV)
ASK(to_system, DMIRROR_MIGRATE_TO_SYS)
ASK(snapshot_of, DMIRROR_SNAPSHOT)
ASK(exclusive, DMIRROR_EXCLUSIVE)
ASK(check_exclusive, DMIRROR_CHECK_EXCLUSIVE)
ASK(release, DMIRROR_RELEASE)
ASK(unknown, _IOWR('H', 0x3f, struct dmirror_cmd))

/* What is refused before it is looked at. */
static void wrong(struct span s)
{
	unsigned long nr = _IOWR('H', below(10), struct dmirror_cmd);
	const void *addr = at(s.at);
	void *to = buffer;
	size_t npages = s.nr;
	int ret;

	switch (below(5)) {
	case 0:
		addr = at(s.at) + 8;
		break;
	case 1:
		npages = 0;
		break;
	case 2:
		npages = SIZE_MAX / page - s.at;
		break;
	case 3:		/* beyond user space */
		addr = (void *)(UINTPTR_MAX & ~(page * PAGES - 1));
		npages = 1;
		break;
	default:
		if (nr == DMIRROR_WRITE || nr == DMIRROR_CHECK_EXCLUSIVE ||
		    nr == DMIRROR_MIGRATE_TO_SYS || nr == DMIRROR_RELEASE)
			to = NULL;
	}
	if (nr == DMIRROR_FLAGS || nr == DMIRROR_EXCLUSIVE)
		nr = DMIRROR_READ;
	settle(s);
	end_exclusive(s);
	bring_home(0, s, true);
	ret = request(devices[0], nr, addr, npages, to);
	begin("wrong", s);
	printf(" %lx %p+%zx to %d: %d\n", nr & 0xff, addr, npages, to != NULL, ret);
}

/* All that the device has comes home. */
static void open_again(struct span s)
{
	unsigned int unit = (unsigned int)below(UNITS);

	if (end_exclusive((struct span){ 0, PAGES }))
		return;
	begin("open-again", s);
	printf(" device=%u\n", unit);
	close(devices[unit]);
	devices[unit] = device(unit);
}

/*
 * What the first device sees of each page, in one letter: gap or not readable, nothing
 * of its own, read, write, the device's to read, to write. Nothing is faulted for it.
 */
static void look(void)
{
	static const char letters[] = "-..rwdD?";
	static const uint8_t seen[] = { 0xff, 0x00, 0x11, 0x01, 0x02, 0x21, 0x22 };
	uint8_t bytes[PAGES];
	size_t n;

	if (request(devices[0], DMIRROR_SNAPSHOT, place, PAGES, bytes)) {
		printf("no snapshot\n");
		return;
	}
	for (size_t i = 0; i < PAGES; i++) {
		if (model[i].unsettled && (bytes[i] & 0xf) == DMIRROR_PROT_WRITE)
			bytes[i] ^= DMIRROR_PROT_WRITE ^ DMIRROR_PROT_READ;
		for (n = 0; n < sizeof(seen) && bytes[i] != seen[n]; n++)
			;
		putchar(letters[n]);
	}
	putchar('\n');
}

static const struct {
	void (*run)(struct span s);
	unsigned int weight;
} steps[] = {
	{ cpu_read, 12 }, { cpu_write, 14 }, { system_call, 4 },
	{ map_span, 9 }, { unmap_span, 3 }, { protect, 5 }, { remap, 5 }, { advise, 5 },
	{ fork_child, 1 },
	{ device_read, 12 }, { device_read_unlocked, 3 }, { device_write, 12 },
	{ to_device, 22 }, { to_system, 7 }, { snapshot_of, 14 },
	{ exclusive, 8 }, { check_exclusive, 4 }, { release, 1 },
	{ wrong, 2 }, { unknown, 1 }, { open_again, 1 },
};

static void one_step(void)
{
	unsigned int total = 0, i = 0;
	size_t which;

	for (size_t n = 0; n < sizeof(steps) / sizeof(steps[0]); n++)
		total += steps[n].weight;
	which = below(total);
	while (which >= steps[i].weight)
		which -= steps[i++].weight;
	steps[i].run(some_span());
	look();
}

/* Since 6.17 an mremap may be of several mappings; before, some of ours would fail. */
static bool moves_several(void)
{
	unsigned char *from = map(2, RW), *to = map(2, PROT_NONE);
	void *p;

	mprotect(from + page, page, PROT_READ);
	p = mremap(from, 2 * page, 2 * page, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	munmap(from, 2 * page);
	munmap(to, 2 * page);
	return p == to;
}

static void begin_all(void)
{
	char path[] = "/tmp/answers-XXXXXX";

	place = (unsigned char *)((uintptr_t)1 << 40) - PAGES / 2 * page;
	file = mkstemp(path);
	unlink(path);
	fill(buffer, MOST, 1);
	for (size_t i = 0; i < PAGES; i += MOST)
		if (pwrite(file, buffer, MOST * page, (off_t)(i * page)) < 0)
			exit(1);
	for (unsigned int unit = 0; unit < UNITS; unit++)
		devices[unit] = device(unit);
	printf("place %p\n", mmap(place, PAGES / 2 * page, RW, MAP_PRIVATE | MAP_ANONYMOUS |
				  MAP_FIXED_NOREPLACE, -1, 0));
	set((struct span){ 0, PAGES / 2 }, ANON, RW);
}

int main(int argc, char **argv)
{
	unsigned int nr;

	if (argc != 3) {
		fprintf(stderr, "usage: answers SEED STEPS\n");
		return 2;
	}
	need_devices();
	if (!moves_several()) {
		printf("SKIP: mremap moves one mapping at a time here (before Linux 6.17)\n");
		return EXIT_SKIP;
	}
	random_state = strtoull(argv[1], NULL, 0);
	nr = (unsigned int)strtoul(argv[2], NULL, 0);
	begin_all();
	for (step = 1; step <= nr; step++)
		one_step();
	cpu_read((struct span){ 0, PAGES });
	printf("end\n");
	return 0;
}
