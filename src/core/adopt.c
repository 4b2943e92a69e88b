/* SPDX-License-Identifier: MIT */
/*
 * The exchange must not lose a store of another thread, and no call of the kernel's
 * exchanges two mappings. So, piece by piece, under the mm lock:
 *
 *	adopter					another thread
 *	-------					--------------
 *	populate: what can be written is
 *	  a private copy from now on
 *	vmsplice(private copies): a pipe holds
 *	  the very pages, not their bytes	store: to the page that the pipe holds
 *	mremap(empty memory, trapped by a
 *	  userfaultfd of our own) onto them	store: waits
 *	read(pipe): the bytes as they are now
 *	UFFDIO_COPY				store: to the new page
 *	the mm's userfaultfd takes over
 *
 * Before mremap has returned a store is seen by the read, after it the thread waits: the
 * old pages can be reached by nobody. A store that made a copy in between, of the file's
 * page or of one that a fork left shared, would not be seen: hence the populate, without
 * the lock, and a look under it. Memory keeps its trap over mremap only with
 * EVENT_REMAP, which a strict mm's userfaultfd does not have, and somebody has to read
 * that event while we are in the call: hence the userfaultfd of our own, and a thread.
 * What the pipe holds need not hold still: a page that DMA goes to (io_uring, O_DIRECT)
 * would get it at its old place.
 *
 * Every page is filled before the mm's userfaultfd takes over, since between the two
 * nobody traps a hole.
 */
#include "core/adoption.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/devmem.h"
#include "core/thread.h"

#define BUFFER_BYTES	((size_t)64 << 10)
#define STATE_STEP	512u		/* pages of a piece, at most */
#define LOOKS_MAX	64		/* at one that copies go away from */

/* ---------------------------------------------------------------- the exchange */

/* One call of hmm_adopt() at work on one mapping. */
struct adopter {
	struct hmm_mm *mm;
	struct sys_vma vma;		/* as it was found */
	int uffd;			/* our own, with EVENT_REMAP */
	int stop_fd;
	struct thread *reader;		/* of its events */
	int pipe[2];
	size_t piece;			/* bytes that the pipe can hold pages of */
	uint32_t window;
	uintptr_t spare;		/* a chunk, for the memory that takes the place */
	char *buffer;			/* BUFFER_BYTES */
	int64_t pages;			/* private copies carried over */
};

/* What is exchanged at once. */
struct piece {
	uintptr_t start, end;
	uintptr_t file;			/* where the window shows start */
	size_t nr;			/* pages */
	uint8_t before[STATE_STEP];	/* their states as the program had them */
	uint8_t states[STATE_STEP];	/* as they are taken */
	bool beyond[STATE_STEP];	/* the file has no such page, so nobody can store there */
};

/* Faults that it reads wait on, as they must; the event's sender goes on. */
static void *reader_main(void *arg)
{
	struct adopter *ad = arg;
	bool stop = false;

	while (!stop) {
		struct uffd_msg msgs[16];
		bool ready;

		if (sys_poll2(ad->uffd, ad->stop_fd, -1, &ready, &stop) < 0)
			continue;
		while (ready && sys_uffd_read(ad->uffd, msgs, ARRAY_SIZE(msgs)) > 0)
			;
	}
	return NULL;
}

static bool is_copy(uint8_t state)
{
	return (state & (SYS_PAGE_PRESENT | SYS_PAGE_SWAPPED)) && !(state & SYS_PAGE_FILE);
}

/*
 * Where stores go to a page, it is to be a private copy, of this process alone. That it
 * stays one is for the caller to look at. No lock held.
 */
static int make_copies(struct adopter *ad, struct piece *p)
{
	const size_t page = ad->mm->page;
	int ret;

	if (!(ad->vma.flags & SYS_VMA_WRITE))
		return 0;
	ret = sys_populate(p->start, p->end - p->start, true);
	for (size_t i = 0; i < p->nr; i++) {
		const size_t at = i * page;

		/* Whatever kept it from being written: the window says whether it is there. */
		p->beyond[i] = ret && ret != -ENOMEM && sys_populate(p->start + at, page, true) &&
			       sys_populate(p->file + at, page, false) == -EFAULT;
	}
	return ret == -ENOMEM ? ret : 0;
}

/* Can a store still make a copy that we would not see? */
static bool copies_lack(const struct adopter *ad, const struct piece *p)
{
	for (size_t i = 0; (ad->vma.flags & SYS_VMA_WRITE) && i < p->nr; i++)
		if (!is_copy(p->states[i]) && !p->beyond[i])
			return true;
	return false;
}

/* Have the pipe hold the private copies. */
static int hold_copies(struct adopter *ad, const struct piece *p)
{
	size_t page = ad->mm->page, n;

	for (size_t i = 0; i < p->nr; i += n) {
		n = 1;
		if (!is_copy(p->states[i]))
			continue;
		while (i + n < p->nr && is_copy(p->states[i + n]))
			n++;
		if (sys_vmsplice(ad->pipe[1], p->start + i * page, n * page) != (ssize_t)(n * page))
			return -EFAULT;
	}
	return 0;
}

/* Fill [addr, addr + len) from @src. Bytes that only we have by now cannot be given up. */
static void fill_new(struct adopter *ad, uintptr_t addr, const char *src, size_t len)
{
	while (len) {
		size_t done = 0;
		int ret = sys_uffd_copy(ad->uffd, addr, src, len, 0, &done);

		if (ret == -ENOMEM)
			sys_rest(1000);
		else if (ret && ret != -EAGAIN && !done)
			return;		/* unmapped, or beyond the end of the file */
		addr += done;
		src += done;
		len -= done;
	}
}

static void fill_from_pipe(struct adopter *ad, uintptr_t addr, size_t len)
{
	while (len) {
		ssize_t got = sys_read_full(ad->pipe[0], ad->buffer,
					    len < BUFFER_BYTES ? len : BUFFER_BYTES);

		if (got <= 0)
			return;
		fill_new(ad, addr, ad->buffer, (size_t)got);
		addr += (size_t)got;
		len -= (size_t)got;
	}
}

/* All pages: copies from the pipe, the file's from the window. */
static void fill_piece(struct adopter *ad, const struct piece *p)
{
	size_t page = ad->mm->page, n;

	for (size_t i = 0; i < p->nr; i += n) {
		bool copy = is_copy(p->states[i]);

		for (n = 1; copy && i + n < p->nr && is_copy(p->states[i + n]); n++)
			;
		if (copy)
			fill_from_pipe(ad, p->start + i * page, n * page);
		else
			fill_new(ad, p->start + i * page, (const char *)p->file + i * page, page);
	}
	/* Those that are copies for our sake were the file's. */
	for (size_t i = 0; i < p->nr; i++)
		ad->pages += is_copy(p->before[i]) && is_copy(p->states[i]);
}

/* Nobody reads what an attempt that failed has left in the pipe. */
static void empty_pipe(struct adopter *ad)
{
	while (sys_read_full(ad->pipe[0], ad->buffer, BUFFER_BYTES) > 0)
		;
}

static int spare_open(struct adopter *ad, size_t len)
{
	uint32_t f = ad->vma.flags;
	int prot = (f & SYS_VMA_READ ? PROT_READ : 0) | (f & SYS_VMA_WRITE ? PROT_WRITE : 0) |
		   (f & SYS_VMA_EXEC ? PROT_EXEC : 0);
	int ret = sys_map_fixed((void *)ad->spare, len, prot);

	return ret ? ret : sys_uffd_register(ad->uffd, ad->spare, len, SYS_UFFD_MISSING);
}

static void spare_close(struct adopter *ad, size_t len)
{
	(void)sys_uffd_unregister(ad->uffd, ad->spare, len);
	if (!sys_map_fixed((void *)ad->spare, len, PROT_NONE))
		(void)sys_madvise((void *)ad->spare, len, MADV_DONTFORK);
}

/* Is [start, end) still what was found? Lock held. */
static bool unchanged(struct adopter *ad, uintptr_t start, uintptr_t end)
{
	struct sys_vma now;

	return !mm_vma(ad->mm, start, &now) && now.start <= start && now.end >= end &&
	       now.flags == ad->vma.flags && now.inode == ad->vma.inode &&
	       now.dev_major == ad->vma.dev_major && now.dev_minor == ad->vma.dev_minor &&
	       now.offset + (start - now.start) == ad->vma.offset + (start - ad->vma.start);
}

/* Lock held. */
static int look(struct adopter *ad, const struct piece *p, uint8_t *states)
{
	if (!unchanged(ad, p->start, p->end) || ad->mm->fork_gate)
		return -EBUSY;
	return sys_page_states_of_files(ad->mm->pagemap_fd, p->start, p->nr, states);
}

/* Lock held. 0, or why not: then it is as it was; -EAGAIN: copies are to be made again. */
static int take_piece(struct adopter *ad, struct piece *p)
{
	struct adoptions *all = ad->mm->adoptions;
	const size_t len = p->end - p->start;
	const struct adoption new = { p->start, p->end, p->file, ad->window };
	int ret = look(ad, p, p->states);

	if (!ret && copies_lack(ad, p))
		ret = -EAGAIN;
	if (ret)
		return ret;
	ret = spare_open(ad, len);
	if (!ret)
		ret = hold_copies(ad, p);
	if (!ret && !adoption_add(all, &new))
		ret = -ENOMEM;
	if (ret)
		goto out;
	mm_invalidate(ad->mm, HMM_EVENT_MIGRATE, p->start, p->end, NULL);
	ret = sys_mremap_dontunmap(ad->spare, len, p->start);
	if (ret) {
		adopt_forget(ad->mm, p->start, p->end);
		goto out;
	}
	fill_piece(ad, p);
	(void)sys_uffd_unregister(ad->uffd, p->start, len);
	(void)sys_uffd_register(ad->mm->uffd, p->start, len, SYS_UFFD_MISSING);
out:
	if (ret)
		empty_pipe(ad);
	spare_close(ad, len);
	return ret;
}

/* No lock held. */
static int adopt_piece(struct adopter *ad, uintptr_t start, uintptr_t end)
{
	struct hmm_mm *mm = ad->mm;
	struct piece p = { .start = start, .end = end, .nr = (end - start) / mm->page };
	int ret;

	lock_acquire(&mm->lock);
	p.file = mm->adoptions->window[ad->window].addr + (start - ad->vma.start);
	ret = look(ad, &p, p.before);
	lock_release(&mm->lock);
	if (ret)
		return ret;
	for (int i = 0; i < LOOKS_MAX; i++) {
		ret = make_copies(ad, &p);
		if (ret)
			return ret;
		lock_acquire(&mm->lock);
		ret = take_piece(ad, &p);
		lock_release(&mm->lock);
		if (ret != -EAGAIN)
			return ret;
	}
	return -EBUSY;
}

/* From the first piece on; what was done when one fails stays done. */
static int adopt_pieces(struct adopter *ad)
{
	int ret = 0;

	for (uintptr_t a = ad->vma.start, stop; a < ad->vma.end && !ret; a = stop) {
		stop = ad->vma.end - a < ad->piece ? ad->vma.end : a + ad->piece;
		ret = adopt_piece(ad, a, stop);
	}
	return ret;
}

/* ---------------------------------------------------------------- its means */

static int spares_get(struct adopter *ad)
{
	void *p;
	int ret = arena_chunks_get(1, &p);

	if (ret)
		return ret;
	ad->spare = (uintptr_t)p;
	ad->buffer = arena_alloc(BUFFER_BYTES);
	if (ad->buffer)
		return 0;
	arena_chunks_put(p, 1);
	return -ENOMEM;
}

static void spares_put(struct adopter *ad)
{
	arena_free(ad->buffer, BUFFER_BYTES);
	arena_chunks_put((void *)ad->spare, 1);
}

static int reader_start(struct adopter *ad)
{
	int ret;

	ad->uffd = sys_uffd_open(UFFD_FEATURE_EVENT_REMAP, ad->mm->flags & HMM_MM_USER_FAULTS_ONLY,
				 NULL);
	if (ad->uffd < 0)
		return ad->uffd;
	ad->stop_fd = sys_eventfd();
	ret = ad->stop_fd < 0 ? ad->stop_fd : thread_start(reader_main, ad, &ad->reader);
	if (ret) {
		sys_close(ad->stop_fd);
		sys_close(ad->uffd);
	}
	return ret;
}

static void reader_stop(struct adopter *ad)
{
	sys_eventfd_signal(ad->stop_fd);
	thread_join(ad->reader);
	sys_close(ad->stop_fd);
	sys_close(ad->uffd);
}

/* @fd's bytes [offset, offset + len), at @out. No lock held. */
static int window_map(struct window *w, int fd, uint64_t offset, size_t len)
{
	void *p;
	int ret;

	w->refs = 0;
	w->chunks = (uint32_t)((len + arena_chunk_bytes() - 1) / arena_chunk_bytes());
	ret = arena_chunks_get(w->chunks, &p);
	if (ret)
		return ret;
	w->addr = (uintptr_t)p;
	ret = sys_map_file_fixed(p, len, fd, offset);
	if (ret) {
		window_unmap(w);
		return ret;
	}
	(void)sys_madvise(p, len, MADV_DONTFORK);
	/* Read the file now rather than under the lock; what is beyond its end stays a hole. */
	(void)sys_populate(w->addr, len, false);
	return 0;
}

/* The list, and in it the window, which is in use from now on. */
static int window_enter(struct adopter *ad, const struct window *window)
{
	struct hmm_mm *mm = ad->mm;
	uint32_t i = 0;

	lock_acquire(&mm->lock);
	if (!mm->adoptions)
		mm->adoptions = arena_alloc(sizeof(*mm->adoptions));
	while (mm->adoptions && i < WINDOWS && mm->adoptions->window[i].chunks)
		i++;
	if (mm->adoptions && i < WINDOWS) {
		mm->adoptions->window[i] = *window;
		mm->adoptions->window[i].refs = 1;
	}
	lock_release(&mm->lock);
	ad->window = i;
	return mm->adoptions && i < WINDOWS ? 0 : -ENOMEM;
}

static void window_leave(struct adopter *ad)
{
	lock_acquire(&ad->mm->lock);
	window_put(ad->mm->adoptions, ad->window);
	lock_release(&ad->mm->lock);
}

static int window_open(struct adopter *ad)
{
	struct window window;
	int fd = sys_vma_open(ad->mm->maps_fd, &ad->vma), ret;

	if (fd < 0)
		return fd;
	ret = window_map(&window, fd, ad->vma.offset, ad->vma.end - ad->vma.start);
	sys_close(fd);
	if (ret)
		return ret;
	ret = window_enter(ad, &window);
	if (ret)
		window_unmap(&window);
	return ret;
}

/* No lock held. */
static int adopt_mapping(struct adopter *ad)
{
	size_t most = STATE_STEP * ad->mm->page;
	int ret = window_open(ad);

	if (ret)
		return ret;
	ret = spares_get(ad);
	if (ret)
		goto out_window;
	ret = sys_pipe(ad->pipe, most, &ad->piece);
	if (ret)
		goto out_spares;
	ad->piece = (ad->piece < most ? ad->piece : most) & ~(ad->mm->page - 1);
	ret = reader_start(ad);
	if (ret)
		goto out_pipe;
	ret = adopt_pieces(ad);
	reader_stop(ad);
out_pipe:
	sys_close(ad->pipe[0]);
	sys_close(ad->pipe[1]);
out_spares:
	spares_put(ad);
out_window:
	window_leave(ad);
	return ret;
}

/* ---------------------------------------------------------------- which */

/* Has [start, end) a private copy? Lock held. */
static bool has_copies(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	uint8_t states[STATE_STEP];

	while (start < end) {
		size_t nr = (end - start) / mm->page;

		nr = nr < STATE_STEP ? nr : STATE_STEP;
		if (sys_page_states_of_files(mm->pagemap_fd, start, nr, states))
			return false;
		for (size_t i = 0; i < nr; i++)
			if (is_copy(states[i]))
				return true;
		start += nr * mm->page;
	}
	return false;
}

/*
 * The next mapping of [*start, end) that can be adopted and has a private copy there;
 * *start moves past what was looked at.
 */
static bool find_mapping(struct hmm_mm *mm, uintptr_t *start, uintptr_t end, struct sys_vma *vma)
{
	const uint32_t never = SYS_VMA_SHARED | SYS_VMA_HUGETLB | SYS_VMA_SPECIAL | SYS_VMA_STACK;
	bool found = false;

	lock_acquire(&mm->lock);
	mm_vma_begin(mm);
	while (!found && *start < end && !mm_vma(mm, *start, vma) && vma->start < end) {
		uintptr_t from = *start > vma->start ? *start : vma->start;

		*start = vma->end;
		found = (vma->flags & SYS_VMA_FILE) && (vma->flags & SYS_VMA_READ) &&
			!(vma->flags & never) && !mm->ops->owns(mm, vma->start, vma->end) &&
			has_copies(mm, from, vma->end < end ? vma->end : end) &&
			!mm->ops->locked(mm, vma->start, vma->end - vma->start);
	}
	lock_release(&mm->lock);
	return found;
}

int64_t hmm_adopt(struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	int64_t pages = 0;
	int ret = mm_enter(mm), first = 0;
	struct sys_vma vma;

	if (ret)
		return ret;
	if (!mm_range_ok(start, end))
		return -EINVAL;
	if (mm->ops != &local_ops || !mm->can_remap || !sys_cap(CAP_UFFD_EVENTS))
		return -EOPNOTSUPP;
	while (find_mapping(mm, &start, end, &vma)) {
		struct adopter ad = { .mm = mm, .vma = vma };

		/* Libraries' data is used where a fault could not be served. */
		if (sys_in_object(vma.start, vma.end))
			continue;
		ret = adopt_mapping(&ad);
		first = first ? first : ret;
		pages += ad.pages;
	}
	lock_acquire(&mm->lock);
	mm->stats.adopted_pages += (uint64_t)pages;
	lock_release(&mm->lock);
	return pages ? pages : first;
}
