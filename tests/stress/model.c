// SPDX-License-Identifier: MIT
/*
 * Whatever a program does to its memory, and whoever moves the pages meanwhile,
 * every byte it reads is the byte it would have read without us.
 *
 * Random operations on a piece of address space beside a shadow of what must be
 * there: bytes, permissions, gaps. First one thread, where everything is known and
 * the placement is checked too; then several, each with its own piece, and one more
 * that moves the pages of all of them.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <uhmm/driver.h>

#include "stress.h"
#include "testdev.h"

#define MODEL_BYTES	(6UL << 20)
#define MIN_PAGE	4096
#define MODEL_PAGES	(MODEL_BYTES / MIN_PAGE)
#define MAX_PAGE	65536
#define HAND_PAGES	64
#define EXCLUSIVE_PAGES	16
#define TRACE		24

struct model_page {
	bool mapped;
	int prot;
	uint32_t vma;	/* pages in a row with the same are one mapping, whatever merged */
};

struct trace {
	const char *what;
	size_t page, nr;
	long extra;
};

/* A piece of the area, and all that is known of it. */
struct world {
	const struct stress_opts *opts;
	struct stress_rng rng;
	uintptr_t start;
	size_t nr;
	struct model_page *pages;
	unsigned char *shadow;
	bool alone;		/* no other thread moves pages or changes mappings */
	uint32_t next_vma;
	unsigned char buf[MAX_PAGE];
	uint64_t pfns[MODEL_PAGES];
	uint8_t places[MODEL_PAGES];
	struct trace trace[TRACE];
	uint64_t nr_ops;
};

static struct hmm_mm *mm;
static struct testdev *devs[2];
static size_t page_size;
static int pipes[STRESS_MAX_THREADS][2];

/* Static: never migrated, and a child has it. */
static struct model_page all_pages[MODEL_PAGES];
static unsigned char all_shadow[MODEL_BYTES];
static struct world worlds[STRESS_MAX_THREADS];
static atomic_bool stop;

/* ---------------------------------------------------------------- the model */

static uintptr_t address(const struct world *w, size_t page)
{
	return w->start + page * page_size;
}

static unsigned char *at(const struct world *w, size_t page)
{
	return (unsigned char *)address(w, page);
}

static unsigned char *shadow(const struct world *w, size_t page)
{
	return w->shadow + page * page_size;
}

static struct testdev *some_device(struct world *w)
{
	return devs[stress_below(&w->rng, 2)];
}

static void trace(struct world *w, const char *what, size_t page, size_t nr, long extra)
{
	w->trace[w->nr_ops++ % TRACE] = (struct trace){ what, page, nr, extra };
}

/* In a child too, where other threads may have left stdio's locks taken. */
_Noreturn static void wrong(struct world *w, const char *what, size_t page)
{
	uint8_t place = HMM_PLACE_GAP;
	uint64_t i;

	for (i = w->nr_ops > TRACE ? w->nr_ops - TRACE : 0; i < w->nr_ops; i++) {
		const struct trace *t = &w->trace[i % TRACE];

		stress_note("op %llu: %s page %zu nr %zu (%ld)", (unsigned long long)i, t->what,
			    t->page, t->nr, t->extra);
	}
	if (hmm_residency(mm, address(w, page), address(w, page + 1), &place))
		place = 255;
	stress_fail("%s: page %zu (%#lx) prot %d place %u, op %llu of piece %td", what, page,
		    (unsigned long)address(w, page), w->pages[page].mapped ?
		    w->pages[page].prot : -1, place, (unsigned long long)w->nr_ops, w - worlds);
}

static void must(struct world *w, bool ok, const char *what, size_t page)
{
	if (!ok)
		wrong(w, what, page);
}

static void same(struct world *w, const void *bytes, size_t page, const char *how)
{
	if (memcmp(bytes, shadow(w, page), page_size))
		wrong(w, how, page);
}

static bool readable(const struct world *w, size_t page)
{
	return w->pages[page].mapped && w->pages[page].prot & PROT_READ;
}

static bool writable(const struct world *w, size_t page)
{
	return w->pages[page].mapped && w->pages[page].prot & PROT_WRITE;
}

static void pick(struct world *w, size_t *page, size_t *nr)
{
	static const size_t sizes[] = { 1, 1, 1, 1, 4, 8, 8, 64, 64, MODEL_PAGES };
	size_t most = sizes[stress_below(&w->rng, sizeof(sizes) / sizeof(*sizes))];

	*page = stress_below(&w->rng, w->nr);
	*nr = 1 + stress_below(&w->rng, most);
	if (*nr > w->nr - *page)
		*nr = w->nr - *page;
}

/* A page that can be read (or written); false after some bad luck. */
static bool pick_page(struct world *w, bool write, size_t *page)
{
	int i;

	for (i = 0; i < 32; i++) {
		*page = stress_below(&w->rng, w->nr);
		if (write ? writable(w, *page) : readable(w, *page))
			return true;
	}
	return false;
}

/* Shorten a range to the pages from its first on for which this holds. */
static size_t while_mapped(const struct world *w, size_t page, size_t nr, int prot)
{
	size_t i;

	for (i = 0; i < nr; i++)
		if (!w->pages[page + i].mapped || (w->pages[page + i].prot & prot) != prot)
			break;
	return i;
}

/*
 * Unless strict a change returns when its event has been read, and a device may use what
 * it had there until the reader has acted on it, which it does before it lets go of the
 * mm lock: who has called into the library since has the change behind it.
 */
static void settle(struct world *w, size_t page)
{
	uint8_t place;

	if (!w->opts->strict)
		must(w, hmm_residency(mm, address(w, page), address(w, page + 1), &place) == 0,
		     "residency", page);
}

static void model_map(struct world *w, size_t page, size_t nr, int prot)
{
	uint32_t vma = ++w->next_vma;
	size_t i;

	for (i = page; i < page + nr; i++)
		w->pages[i] = (struct model_page){ .mapped = true, .prot = prot, .vma = vma };
	memset(shadow(w, page), 0, nr * page_size);
	settle(w, page);
}

static void model_unmap(struct world *w, size_t page, size_t nr)
{
	memset(&w->pages[page], 0, nr * sizeof(*w->pages));
	memset(shadow(w, page), 0, nr * page_size);
	settle(w, page);
}

/* What the kernel has split it may not put together again, even within the range. */
static void model_split(struct world *w, size_t page, size_t nr)
{
	uint32_t was = 0;
	size_t i;

	for (i = page; i < page + nr; i++) {
		if (w->pages[i].vma != was) {
			was = w->pages[i].vma;
			w->next_vma++;
		}
		w->pages[i].vma = w->next_vma;
	}
}

/* ---------------------------------------------------------------- bytes */

static void check_page(struct world *w, size_t page)
{
	int *pipe_fds = pipes[w - worlds];
	ssize_t got;
	int64_t ret;

	if (!readable(w, page)) {
		ret = hmm_copy_from_user(mm, w->buf, address(w, page), page_size);
		must(w, ret == -EFAULT, "guarded read of what cannot be read", page);
		ret = testdev_read(some_device(w), address(w, page), w->buf, page_size);
		must(w, ret == -EFAULT, "device read of what cannot be read", page);
		return;
	}
	switch (stress_below(&w->rng, 6)) {
	case 0:
		ret = hmm_copy_from_user(mm, w->buf, address(w, page), page_size);
		must(w, ret == (int64_t)page_size, "guarded read", page);
		same(w, w->buf, page, "bytes of a guarded read");
		break;
	case 1:
		ret = testdev_read(some_device(w), address(w, page), w->buf, page_size);
		must(w, ret == 0, "device read", page);
		same(w, w->buf, page, "bytes of a device read");
		break;
	case 2:
		got = write(pipe_fds[1], at(w, page), page_size);
		must(w, got == (ssize_t)page_size, "write(2) of a page", page);
		got = read(pipe_fds[0], w->buf, page_size);
		must(w, got == (ssize_t)page_size, "reading back", page);
		same(w, w->buf, page, "bytes of write(2)");
		break;
	default:
		same(w, at(w, page), page, "bytes of a CPU read");
	}
}

static void op_read(struct world *w)
{
	size_t page, nr, i;

	pick(w, &page, &nr);
	trace(w, "read", page, nr, 0);
	for (i = page; i < page + nr; i++)
		check_page(w, i);
}

static void refused_write(struct world *w, size_t page)
{
	int64_t ret;

	ret = hmm_copy_to_user(mm, address(w, page), w->buf, page_size);
	must(w, ret == -EFAULT, "guarded write where none is allowed", page);
	ret = testdev_write(some_device(w), address(w, page), w->buf, page_size);
	must(w, ret == (readable(w, page) ? -EPERM : -EFAULT),
	     "device write where none is allowed", page);
}

static void write_page(struct world *w, size_t page)
{
	size_t offset = stress_below(&w->rng, page_size);
	size_t len = 1 + stress_below(&w->rng, page_size - offset);
	unsigned int how = (unsigned int)stress_below(&w->rng, 6);
	uintptr_t addr = address(w, page) + offset;
	ssize_t got;
	int64_t ret;

	memset(w->buf, (int)stress_rand(&w->rng), len);
	w->buf[len / 2] = (unsigned char)stress_rand(&w->rng);
	if (!writable(w, page)) {
		refused_write(w, page);
		return;
	}
	switch (how) {
	case 0:
		ret = hmm_copy_to_user(mm, addr, w->buf, len);
		must(w, ret == (int64_t)len, "guarded write", page);
		break;
	case 1:
		ret = testdev_write(some_device(w), addr, w->buf, len);
		must(w, ret == 0, "device write", page);
		break;
	case 2:
		got = write(pipes[w - worlds][1], w->buf, len);
		must(w, got == (ssize_t)len, "filling the pipe", page);
		got = read(pipes[w - worlds][0], (void *)addr, len);
		must(w, got == (ssize_t)len, "read(2) into a page", page);
		break;
	default:
		memcpy((void *)addr, w->buf, len);
	}
	memcpy(shadow(w, page) + offset, w->buf, len);
}

static void op_write(struct world *w)
{
	size_t page, nr, i;

	pick(w, &page, &nr);
	trace(w, "write", page, nr, 0);
	for (i = page; i < page + nr; i++)
		write_page(w, i);
}

/* ---------------------------------------------------------------- mappings */

static void op_mmap(struct world *w)
{
	static const int prots[] = { PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
				     PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE };
	int prot = prots[stress_below(&w->rng, 5)];
	size_t page, nr;
	void *p;

	pick(w, &page, &nr);
	trace(w, "mmap", page, nr, prot);
	p = mmap(at(w, page), nr * page_size, prot,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
	must(w, p == at(w, page), "mmap", page);
	model_map(w, page, nr, prot);
	if (nr * page_size > 2UL << 20 && stress_one_in(&w->rng, 2) &&
	    madvise(p, nr * page_size, MADV_HUGEPAGE) && errno != EINVAL)
		wrong(w, "madvise(HUGEPAGE)", page);
}

static void op_munmap(struct world *w)
{
	size_t page, nr;

	pick(w, &page, &nr);
	trace(w, "munmap", page, nr, 0);
	must(w, munmap(at(w, page), nr * page_size) == 0, "munmap", page);
	model_unmap(w, page, nr);
}

static void op_mprotect(struct world *w)
{
	static const int prots[] = { PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ,
				     PROT_NONE };
	int prot = prots[stress_below(&w->rng, 4)];
	size_t page, nr, i;

	pick(w, &page, &nr);
	nr = while_mapped(w, page, nr, PROT_NONE);
	if (!nr)
		return;
	trace(w, "mprotect", page, nr, prot);
	must(w, mprotect(at(w, page), nr * page_size, prot) == 0, "mprotect", page);
	/* Not announced without STRICT: a mirror learns of it at its next fault. */
	for (i = 0; !w->opts->strict && i < 2; i++)
		testdev_forget(devs[i], address(w, page), address(w, page + nr));
	for (i = page; i < page + nr; i++)
		w->pages[i].prot = prot;
	model_split(w, page, nr);
}

static void op_dontneed(struct world *w)
{
	size_t page, nr, i;
	bool gaps = false;
	int ret;

	/* What is excluded where changes are not announced: see HMM_MM_STRICT. */
	if (!w->alone && !w->opts->strict)
		return;
	pick(w, &page, &nr);
	trace(w, "dontneed", page, nr, 0);
	for (i = page; i < page + nr; i++)
		gaps |= !w->pages[i].mapped;
	ret = madvise(at(w, page), nr * page_size, MADV_DONTNEED);
	must(w, gaps ? ret < 0 && errno == ENOMEM : ret == 0, "madvise(DONTNEED)", page);
	settle(w, page);
	memset(shadow(w, page), 0, nr * page_size);
}

/* Until it is written again a freed page is what it was or zeros. */
static void op_free(struct world *w)
{
	size_t page, nr, i;

	if (!w->alone && !w->opts->strict)
		return;
	pick(w, &page, &nr);
	nr = while_mapped(w, page, nr, PROT_READ | PROT_WRITE);
	if (!nr)
		return;
	trace(w, "free", page, nr, 0);
	must(w, madvise(at(w, page), nr * page_size, MADV_FREE) == 0, "madvise(FREE)", page);
	for (i = page; i < page + nr; i++) {
		volatile unsigned char *first = at(w, i);

		*first = (unsigned char)i;
		*shadow(w, i) = (unsigned char)i;
		if (!memcmp(at(w, i), shadow(w, i), page_size))
			continue;
		memset(shadow(w, i) + 1, 0, page_size - 1);
		same(w, at(w, i), i, "a page freed and written: neither old nor zeros");
	}
}

/* The row of pages of one mapping that @page is in, as [first, end). */
static void one_vma(const struct world *w, size_t page, size_t *first, size_t *end)
{
	*first = page;
	*end = page + 1;
	while (*first > 0 && w->pages[*first - 1].mapped &&
	       w->pages[*first - 1].vma == w->pages[page].vma)
		(*first)--;
	while (*end < w->nr && w->pages[*end].mapped && w->pages[*end].vma == w->pages[page].vma)
		(*end)++;
}

static void remap_shrink(struct world *w, size_t page, size_t nr)
{
	size_t keep = 1 + stress_below(&w->rng, nr);
	void *p;

	trace(w, "mremap shrink", page, nr, (long)keep);
	p = mremap(at(w, page), nr * page_size, keep * page_size, 0);
	must(w, p == at(w, page), "mremap to shrink", page);
	model_unmap(w, page + keep, nr - keep);
}

static void remap_grow(struct world *w, size_t page, size_t nr)
{
	size_t room = 0, more, end = page + nr, first = page;
	uint32_t vma = w->pages[page].vma;
	void *p;

	while (end + room < w->nr && !w->pages[end + room].mapped)
		room++;
	if (!room)
		return;
	more = 1 + stress_below(&w->rng, room);
	trace(w, "mremap grow", page, nr, (long)more);
	p = mremap(at(w, page), nr * page_size, (nr + more) * page_size, 0);
	must(w, p == at(w, page), "mremap to grow in place", page);
	model_map(w, end, more, w->pages[page].prot);
	/* Anew for all of it: beyond the gap may be the rest of the same old mapping. */
	while (first > 0 && w->pages[first - 1].mapped && w->pages[first - 1].vma == vma)
		first--;
	for (; first < end; first++)
		w->pages[first].vma = w->next_vma;
}

static void remap_move(struct world *w, size_t page, size_t nr, bool keep)
{
	size_t want = keep ? nr : 1 + stress_below(&w->rng, nr + nr / 2 + 1), to;
	struct model_page model = w->pages[page];
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (keep ? MREMAP_DONTUNMAP : 0);
	size_t moved = want < nr ? want : nr, i;
	void *p;

	if (want > w->nr)
		return;
	to = stress_below(&w->rng, w->nr - want + 1);
	if (to < page + nr && page < to + want)
		return;
	trace(w, keep ? "mremap dontunmap" : "mremap move", page, nr, (long)to);
	trace(w, "  ... to", to, want, 0);
	p = mremap(at(w, page), nr * page_size, want * page_size, flags, at(w, to));
	must(w, p == at(w, to), "mremap to move", page);
	model_map(w, to, want, model.prot);
	memcpy(shadow(w, to), shadow(w, page), moved * page_size);
	if (keep)
		memset(shadow(w, page), 0, nr * page_size);
	else
		model_unmap(w, page, nr);
	for (i = to; stress_one_in(&w->rng, 2) && i < to + want; i++)
		check_page(w, i);
}

static void op_mremap(struct world *w)
{
	size_t page, nr, first, end;

	pick(w, &page, &nr);
	if (!w->pages[page].mapped)
		return;
	one_vma(w, page, &first, &end);
	if (nr > end - page)
		nr = end - page;
	switch (stress_below(&w->rng, 5)) {
	case 0:
		remap_shrink(w, page, nr);
		break;
	case 1:
		page = stress_one_in(&w->rng, 2) ? page : first;
		remap_grow(w, page, end - page);
		break;
	case 2:
		remap_move(w, page, nr, true);
		break;
	default:
		remap_move(w, page, nr, false);
	}
}

static void op_mlock(struct world *w)
{
	size_t page, nr, i;

	pick(w, &page, &nr);
	nr = while_mapped(w, page, nr, PROT_READ);
	if (!nr)
		return;
	trace(w, "mlock", page, nr, 0);
	model_split(w, page, nr);
	if (mlock(at(w, page), nr * page_size)) {
		must(w, errno == ENOMEM || errno == EPERM || errno == EAGAIN, "mlock", page);
	} else {
		if (w->alone)
			testdev_migrate(some_device(w), address(w, page), address(w, page + nr));
		must(w, hmm_residency(mm, address(w, page), address(w, page + nr), w->places) == 0,
		     "residency", page);
		for (i = 0; w->alone && i < nr; i++)
			must(w, w->places[i] != HMM_PLACE_DEVICE, "a locked page is away", page + i);
	}
	must(w, munlock(at(w, page), nr * page_size) == 0, "munlock", page);
	for (i = page; i < page + nr; i++)
		check_page(w, i);
}

/* ---------------------------------------------------------------- pages that move */

static void op_migrate(struct world *w)
{
	size_t page, nr;
	int64_t ret;

	pick(w, &page, &nr);
	trace(w, "migrate", page, nr, 0);
	ret = testdev_migrate(some_device(w), address(w, page), address(w, page + nr));
	must(w, ret <= (int64_t)nr, "more pages migrated than there are", page);
}

static void op_evict(struct world *w)
{
	size_t page, nr;

	pick(w, &page, &nr);
	trace(w, "evict", page, nr, 0);
	must(w, hmm_evict(mm, address(w, page), address(w, page + nr)) >= 0, "hmm_evict", page);
	if (!w->alone)
		return;
	must(w, hmm_residency(mm, address(w, page), address(w, page + nr), w->places) == 0,
	     "residency", page);
	while (nr--)
		must(w, w->places[nr] != HMM_PLACE_DEVICE, "still away after an eviction", page + nr);
}

static void op_evict_index(struct world *w)
{
	struct testdev *dev = some_device(w);
	uint64_t index = stress_below(&w->rng, MODEL_BYTES / page_size / 3 - 31);	/* of either */

	trace(w, "devmem_evict", index, 32, 0);
	must(w, hmm_devmem_evict(testdev_devmem(dev), index, 32) >= 0, "hmm_devmem_evict", 0);
}

/* Give a migration destinations for some of its pages; the rest must stay. */
static void hand_dst(struct world *w, struct testdev *dev, struct hmm_migrate *migrate)
{
	size_t i, nr = (migrate->end - migrate->start) / page_size;
	uint64_t index;

	for (i = 0; i < nr; i++) {
		migrate->dst[i] = 0;
		if (!(migrate->src[i] & HMM_SRC_MIGRATE) || stress_one_in(&w->rng, 4))
			continue;
		if (testdev_alloc(dev, 1, &index) == 1)
			migrate->dst[i] = hmm_dst(testdev_id(dev), index);
	}
}

/* The content of a page that is taken is the page's. */
static void hand_check(struct world *w, const struct hmm_migrate *migrate, size_t page)
{
	size_t i, nr = (migrate->end - migrate->start) / page_size, j;

	for (i = 0; i < nr; i++) {
		uint64_t src = migrate->src[i];

		if (!(src & HMM_SRC_MIGRATE))
			continue;
		must(w, readable(w, page + i), "a page taken that cannot be read", page + i);
		must(w, !(src & HMM_SRC_WRITE) || writable(w, page + i),
		     "a page taken that claims to be writable", page + i);
		if (src & HMM_SRC_HOLE) {
			for (j = 0; j < page_size; j++)
				must(w, !shadow(w, page + i)[j], "bytes in a hole", page + i);
		} else if (!(src & HMM_SRC_DEVICE)) {
			same(w, hmm_src_addr(src), page + i, "bytes in staging");
		}
	}
}

static void op_migrate_by_hand(struct world *w)
{
	struct testdev *dev = some_device(w);
	uint64_t src[HAND_PAGES], dst[HAND_PAGES], given[HAND_PAGES];
	size_t page, nr, i;
	struct hmm_migrate migrate = {
		.size = sizeof(migrate),
		.flags = HMM_MIGRATE_SYSTEM | HMM_MIGRATE_DEVICE,
		.src = src,
		.dst = dst,
		.owner = testdev_owner(dev),
	};

	pick(w, &page, &nr);
	if (nr > HAND_PAGES)
		nr = HAND_PAGES;
	if (stress_one_in(&w->rng, 3))
		migrate.flags = stress_one_in(&w->rng, 2) ? HMM_MIGRATE_SYSTEM : HMM_MIGRATE_DEVICE;
	if (stress_one_in(&w->rng, 4))
		migrate.flags |= HMM_MIGRATE_KEEP_HOLES;
	migrate.start = address(w, page);
	migrate.end = address(w, page + nr);
	trace(w, "migrate by hand", page, nr, (long)migrate.flags);
	must(w, hmm_migrate_setup(mm, &migrate) == 0, "hmm_migrate_setup", page);
	hand_check(w, &migrate, page);
	hand_dst(w, dev, &migrate);
	memcpy(given, dst, nr * sizeof(*dst));
	(void)hmm_migrate_copy(mm, &migrate);
	hmm_migrate_pages(mm, &migrate);
	hmm_migrate_finalize(mm, &migrate);
	for (i = 0; i < nr; i++)
		if (given[i] && !(src[i] & HMM_SRC_MIGRATE))
			testdev_free(dev, hmm_src_index(given[i]), 1);
}

static void op_exclusive(struct world *w)
{
	void *contents[EXCLUSIVE_PAGES] = { NULL };
	uint8_t places[EXCLUSIVE_PAGES];
	size_t page, nr, i, got = 0;
	int64_t ret, taken = 0;

	pick(w, &page, &nr);
	if (nr > EXCLUSIVE_PAGES)
		nr = EXCLUSIVE_PAGES;
	trace(w, "exclusive", page, nr, 0);
	ret = hmm_exclusive_begin(mm, address(w, page), address(w, page + nr), w, contents);
	if (ret < 0 && !writable(w, page)) {
		must(w, ret == (readable(w, page) ? -EPERM : -EFAULT),
		     "exclusive access where none is allowed", page);
		return;
	}
	if (ret == -EBUSY && !w->alone)
		return;
	trace(w, "  ... answered", page, nr, (long)ret);
	must(w, ret >= 1, "hmm_exclusive_begin", page);
	for (i = 0; i < nr; i++) {
		if (!contents[i])
			continue;
		got++;
		must(w, writable(w, page + i), "exclusive access to what cannot be written", page + i);
		if (w->alone)
			same(w, contents[i], page + i, "bytes of an exclusive page");
	}
	must(w, (int64_t)got == ret, "exclusive pages had", page);
	if (stress_one_in(&w->rng, 2))
		return;
	/* One that was taken before and has been made read-only since is not had again, but ends too. */
	must(w, hmm_residency(mm, address(w, page), address(w, page + nr), places) == 0,
	     "residency", page);
	for (i = 0; i < nr; i++)
		taken += places[i] == HMM_PLACE_EXCLUSIVE;
	ret = hmm_exclusive_end(mm, address(w, page), address(w, page + nr));
	must(w, ret >= 0 && (!w->alone || (ret == taken && taken >= (int64_t)got)),
	     "hmm_exclusive_end", page);
}

static void op_exclusive_write(struct world *w)
{
	size_t page, offset, len;
	int ret;

	if (!pick_page(w, true, &page))
		return;
	offset = stress_below(&w->rng, page_size);
	len = 1 + stress_below(&w->rng, page_size - offset);
	trace(w, "exclusive write", page, 1, (long)offset);
	memset(w->buf, (int)stress_rand(&w->rng), len);
	ret = testdev_write_exclusive(some_device(w), address(w, page) + offset, w->buf, len);
	if (ret == -EBUSY && !w->alone)
		return;
	must(w, ret == 0, "exclusive write", page);
	memcpy(shadow(w, page) + offset, w->buf, len);
}

/* ---------------------------------------------------------------- what is reported */

/* By the device's own bytes, unless a handler brings the page home meanwhile. */
static void check_device_page(struct world *w, struct hmm_range *range, size_t page)
{
	const uint64_t was = w->pfns[page];
	struct testdev *dev = devs[(was & HMM_PFN_DEVMEM_MASK) >> HMM_PFN_DEVMEM_SHIFT !=
				   testdev_id(devs[0])];
	bool differs = memcmp(testdev_page(dev, was & HMM_PFN_INDEX_MASK), shadow(w, page), page_size);

	if (!differs)
		return;
	range->start = address(w, page);
	range->end = address(w, page + 1);
	range->pfns = &w->pfns[page];
	must(w, hmm_range_fault(mm, range) == 0, "a snapshot of a page", page);
	must(w, w->pfns[page] != was, "bytes on the device", page);
}

static void op_snapshot(struct world *w)
{
	struct hmm_range range = {
		.size = sizeof(range),
		.start = w->start,
		.end = address(w, w->nr),
		.pfns = w->pfns,
		.owner = testdev_owner(some_device(w)),
	};
	size_t i;

	trace(w, "snapshot", 0, w->nr, 0);
	memset(w->pfns, 0, w->nr * sizeof(*w->pfns));
	must(w, hmm_range_fault(mm, &range) == 0, "a snapshot", 0);
	for (i = 0; i < w->nr; i++) {
		uint64_t pfn = w->pfns[i];

		must(w, !(pfn & HMM_PFN_VALID) || readable(w, i), "VALID and not readable", i);
		must(w, !(pfn & HMM_PFN_WRITE) || (pfn & HMM_PFN_VALID && writable(w, i)),
		     "WRITE and not writable", i);
		must(w, readable(w, i) == !(pfn & HMM_PFN_ERROR), "ERROR, or none, wrongly", i);
		if (!w->alone || !(pfn & HMM_PFN_VALID))
			continue;
		if (pfn & HMM_PFN_ZERO)
			must(w, !shadow(w, i)[0] && !memcmp(shadow(w, i), shadow(w, i) + 1, page_size - 1),
			     "ZERO and bytes", i);
		if (pfn & HMM_PFN_DEVICE)
			check_device_page(w, &range, i);
	}
}

static void op_fault(struct world *w)
{
	bool write = stress_one_in(&w->rng, 2), gap = false, refused = false;
	struct hmm_range range = {
		.size = sizeof(range),
		.pfns = w->pfns,
		.default_flags = HMM_PFN_REQ_FAULT | (write ? HMM_PFN_REQ_WRITE : 0),
		.owner = testdev_owner(some_device(w)),
	};
	size_t page, nr, i;
	int ret;

	pick(w, &page, &nr);
	trace(w, "range fault", page, nr, write);
	range.start = address(w, page);
	range.end = address(w, page + nr);
	memset(w->pfns, 0, nr * sizeof(*w->pfns));
	ret = hmm_range_fault(mm, &range);
	/* Somebody else moved the pages all the time: go round, some other time. */
	if (ret == -EBUSY && !w->alone)
		return;
	for (i = page; i < page + nr; i++) {
		gap |= !readable(w, i);
		refused |= readable(w, i) && write && !writable(w, i);
	}
	if (gap || refused) {
		must(w, (gap && ret == -EFAULT) || (refused && ret == -EPERM),
		     "a fault that must be refused", page);
		return;
	}
	trace(w, "  ... answered", page, nr, ret);
	must(w, ret == 0, "a fault", page);
	for (i = 0; i < nr; i++)
		must(w, w->pfns[i] & HMM_PFN_VALID && (!write || w->pfns[i] & HMM_PFN_WRITE),
		     "a fault that gave nothing", page + i);
}

static bool counts_agree(struct world *w)
{
	struct hmm_stats stats = { .size = sizeof(stats) };
	uint64_t device = 0, exclusive = 0;
	size_t i;

	must(w, hmm_residency(mm, w->start, address(w, w->nr), w->places) == 0, "residency", 0);
	must(w, hmm_mm_stats(mm, &stats) == 0, "stats", 0);
	for (i = 0; i < w->nr; i++) {
		device += w->places[i] == HMM_PLACE_DEVICE;
		exclusive += w->places[i] == HMM_PLACE_EXCLUSIVE;
	}
	return stats.device_pages == device && stats.exclusive_pages == exclusive;
}

static void op_residency(struct world *w)
{
	unsigned int tries = 0;
	size_t i, j;

	trace(w, "residency", 0, w->nr, 0);
	must(w, hmm_residency(mm, w->start, address(w, w->nr), w->places) == 0, "residency", 0);
	for (i = 0; i < w->nr; i++) {
		must(w, (w->places[i] == HMM_PLACE_GAP) == !w->pages[i].mapped, "a gap, or none", i);
		for (j = 0; w->places[i] == HMM_PLACE_HOLE && j < page_size; j += 64)
			must(w, !shadow(w, i)[j], "a hole that had bytes", i);
	}
	if (!w->alone)
		return;
	stress_check_places(mm, w->start, address(w, w->nr));
	while (!counts_agree(w)) {
		must(w, ++tries < STRESS_LASTS, "device or exclusive pages miscounted", 0);
		sched_yield();
	}
}

/* ---------------------------------------------------------------- fork */

static void child_check(struct world *w, size_t page)
{
	if (readable(w, page))
		same(w, at(w, page), page, "bytes in a child");
}

/* The child owns what it sees: nothing of it is the parent's, and the other way. */
_Noreturn static void child(struct world *w, int parent_done)
{
	uint8_t place;
	size_t i;
	char c;

	for (i = stress_below(&w->rng, 3); i < w->nr; i += 1 + stress_below(&w->rng, 4))
		child_check(w, i);
	for (i = 0; i < 32; i++) {
		size_t page = stress_below(&w->rng, w->nr);

		if (!writable(w, page))
			continue;
		memset(at(w, page) + 7, (int)i, 9);
		memset(shadow(w, page) + 7, (int)i, 9);
	}
	if (read(parent_done, &c, 1) != 1)
		_exit(3);
	for (i = 0; i < w->nr; i++)
		child_check(w, i);
	if (hmm_residency(mm, w->start, w->start + page_size, &place) != -ECHILD)
		_exit(4);
	_exit(0);
}

static void op_fork(struct world *w)
{
	int done[2], i;
	pid_t pid;

	/* Excluded where changes are not announced: others change mappings meanwhile. */
	if (!w->alone && !w->opts->strict)
		return;
	trace(w, "fork", 0, w->nr, 0);
	must(w, pipe(done) == 0, "pipe", 0);
	pid = fork();
	if (pid == 0) {
		close(done[1]);
		child(w, done[0]);
	}
	for (i = 0; i < 8; i++) {
		op_write(w);
		op_migrate(w);
	}
	must(w, write(done[1], "", 1) == 1, "telling the child", 0);
	stress_reap(pid, "the child of a fork");
	close(done[0]);
	close(done[1]);
}

/* ---------------------------------------------------------------- runs */

static const struct {
	void (*op)(struct world *w);
	unsigned int weight;
} ops[] = {
	{ op_read, 30 },	{ op_write, 40 },	{ op_migrate, 60 },
	{ op_evict, 8 },	{ op_evict_index, 8 },	{ op_migrate_by_hand, 20 },
	{ op_exclusive, 8 },	{ op_exclusive_write, 8 },	{ op_mmap, 10 },
	{ op_munmap, 5 },	{ op_mprotect, 12 },	{ op_mremap, 20 },
	{ op_dontneed, 8 },	{ op_free, 3 },		{ op_mlock, 2 },
	{ op_snapshot, 5 },	{ op_fault, 8 },	{ op_residency, 5 },
	{ op_fork, 1 },
};

static void step(struct world *w)
{
	unsigned int total = 0, i, at_weight;

	for (i = 0; i < sizeof(ops) / sizeof(*ops); i++)
		total += ops[i].weight;
	at_weight = (unsigned int)stress_below(&w->rng, total);
	for (i = 0; at_weight >= ops[i].weight; i++)
		at_weight -= ops[i].weight;
	ops[i].op(w);
}

static void check_all(struct world *w)
{
	size_t i;

	trace(w, "check everything", 0, w->nr, 0);
	for (i = 0; i < w->nr; i++)
		check_page(w, i);
}

static void world_begin(struct world *w, const struct stress_opts *opts, uintptr_t start,
			size_t first, size_t nr, bool alone)
{
	memset(w, 0, sizeof(*w));
	w->opts = opts;
	w->rng = stress_rng(opts, (uint64_t)(w - worlds) + (alone ? 0 : 100));
	w->start = start + first * page_size;
	w->nr = nr;
	w->pages = all_pages + first;
	w->shadow = all_shadow + first * page_size;
	w->alone = alone;
	must(w, mmap(at(w, 0), nr * page_size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == at(w, 0),
	     "mmap", 0);
	model_map(w, 0, nr, PROT_READ | PROT_WRITE);
}

static void *piece(void *arg)
{
	struct world *w = arg;
	uint64_t i;

	for (i = 0; i < w->opts->steps && !stress_expired(w->opts); i++) {
		step(w);
		if (i % 256 == 255) {
			testdev_check(devs[0]);
			testdev_check(devs[1]);
		}
		if (w->alone && i % 1024 == 1023)
			check_all(w);
	}
	check_all(w);
	return NULL;
}

/* Moves everybody's pages, without a thought for who uses them. */
static void *mover(void *arg)
{
	struct world *w = arg;

	while (!atomic_load(&stop)) {
		uintptr_t start = w->start + stress_below(&w->rng, w->nr) * page_size;
		uintptr_t end = start + (1 + stress_below(&w->rng, 128)) * page_size;

		if (end > address(w, w->nr))
			end = address(w, w->nr);
		if (stress_one_in(&w->rng, 3))
			stress_check(hmm_evict(mm, start, end) >= 0);
		else
			testdev_migrate(some_device(w), start, end);
	}
	return NULL;
}

static void run_alone(const struct stress_opts *opts, uintptr_t start, size_t nr)
{
	struct stress_opts half = *opts;

	half.seconds = (opts->seconds + 1) / 2;
	world_begin(&worlds[0], &half, start, 0, nr, true);
	piece(&worlds[0]);
	printf("model: alone, %llu operations\n", (unsigned long long)worlds[0].nr_ops);
}

static void run_together(const struct stress_opts *opts, uintptr_t start, size_t nr)
{
	unsigned int n = opts->threads, i;
	static struct world shared;
	uint64_t sum = 0;
	pthread_t moves;

	atomic_store(&stop, false);
	for (i = 0; i < n; i++)
		world_begin(&worlds[i], opts, start, nr / n * i, nr / n, false);
	shared.rng = stress_rng(opts, 1000);
	shared.start = start;
	shared.nr = nr;
	stress_check(pthread_create(&moves, NULL, mover, &shared) == 0);
	stress_run_threads(n, piece, worlds, sizeof(*worlds));
	atomic_store(&stop, true);
	stress_check(pthread_join(moves, NULL) == 0);
	for (i = 0; i < n; i++) {
		check_all(&worlds[i]);
		sum += worlds[i].nr_ops;
	}
	printf("model: %u threads and a mover, %llu operations\n", n, (unsigned long long)sum);
}

int main(int argc, char **argv)
{
	struct stress_opts opts = {
		.name = "model", .steps = 200000, .seconds = 12, .threads = 3,
	};
	uintptr_t start;
	size_t nr, i;

	stress_begin(&opts, argc, argv);
	page_size = hmm_page_size();
	nr = MODEL_BYTES / page_size;
	start = stress_area(MODEL_BYTES);
	for (i = 0; i < STRESS_MAX_THREADS; i++)
		stress_check(pipe(pipes[i]) == 0);
	mm = stress_mm_create(&opts);
	/* Small enough to be full now and then, and of one owner or of two. */
	devs[0] = testdev_open(mm, nr / 2, TESTDEV_FAULT_AROUND | TESTDEV_MAKE_ROOM | TESTDEV_PEER,
			       start, start + MODEL_BYTES, opts.seed & 1 ? &devs : NULL);
	devs[1] = testdev_open(mm, nr / 3, TESTDEV_SHORT_RUNS | TESTDEV_EARLY_DONE |
			       TESTDEV_FAIL_COPIES | TESTDEV_YIELDS |
			       (opts.seed & 2 ? TESTDEV_THREADED : 0),
			       start, start + MODEL_BYTES, opts.seed & 1 ? &devs : NULL);
	run_alone(&opts, start, nr);
	run_together(&opts, start, nr);
	testdev_close(devs[1]);
	testdev_close(devs[0]);
	stress_mm_destroy(mm);
	return 0;
}
