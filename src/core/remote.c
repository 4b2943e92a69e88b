/* SPDX-License-Identifier: MIT */
/*
 * The operations of an mm that is another process's.
 */
#include "core/remote.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "core/devmem.h"
#include "sys/seccomp.h"

#define MOVES_MAX	64u		/* UFFDIO_MOVE in one batch */
#define AGAIN_MAX	64u

_Static_assert(MOVES_MAX * sizeof(struct uhmm_uffdio_move) <= 4096, "of the shared memory");

/* ---------------------------------------------------------------- the agent */

int agent_calls(struct hmm_mm *mm, struct hmm_agent_call *calls, size_t nr)
{
	struct remote *r = mm->remote;
	int ret = -ESRCH;

	/* seq_cst, as in hmm_remote_gone(): either it sees us calling or we see it gone */
	atomic_fetch_add(&r->calling, 1);
	if (r->attached && !atomic_load(&r->gone))
		ret = r->call(r->ctx, calls, nr) ? -ESRCH : 0;
	atomic_fetch_sub(&r->calling, 1);
	return ret;
}

int64_t agent_call(struct hmm_mm *mm, const struct hmm_agent_call *call)
{
	struct hmm_agent_call one = *call;
	int ret = agent_calls(mm, &one, 1);

	return ret ? ret : one.ret;
}

static int64_t agent_madvise(struct hmm_mm *mm, uintptr_t addr, size_t len, int advice)
{
	const struct hmm_agent_call call = { SYS_madvise, { addr, len, (uint64_t)advice }, 0 };

	return agent_call(mm, &call);
}

/* ---------------------------------------------------------------- limbo */

/* A block of it; 0: all are in use. Lock held. */
static uintptr_t limbo_claim(struct hmm_mm *mm)
{
	struct remote *r = mm->remote;

	for (uint32_t i = 1; i < r->nr_limbo; i++) {
		if (r->limbo_used & BIT(i))
			continue;
		r->limbo_used |= BIT(i);
		return r->limbo + i * arena_chunk_bytes();
	}
	return 0;
}

static void limbo_unclaim(struct hmm_mm *mm, uintptr_t limbo)
{
	struct remote *r = mm->remote;

	r->limbo_used &= ~BIT((limbo - r->limbo) / arena_chunk_bytes());
}

static uintptr_t limbo_get(struct hmm_mm *mm)
{
	uintptr_t limbo;

	lock_acquire(&mm->lock);
	limbo = limbo_claim(mm);
	lock_release(&mm->lock);
	return limbo;
}

static void limbo_put(struct hmm_mm *mm, uintptr_t limbo)
{
	lock_acquire(&mm->lock);
	limbo_unclaim(mm, limbo);
	lock_release(&mm->lock);
}

/* In the place of a mapping that mremap has put there. */
static int limbo_renew(struct hmm_mm *mm, uintptr_t limbo)
{
	const size_t len = arena_chunk_bytes();
	struct hmm_agent_call calls[] = {
		{ SYS_mmap, { limbo, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
			      MAP_NORESERVE | MAP_FIXED, (uint64_t)-1, 0 }, 0 },
		{ SYS_madvise, { limbo, len, MADV_DONTFORK }, 0 },
		{ SYS_madvise, { limbo, len, MADV_NOHUGEPAGE }, 0 },
	};

	if (agent_calls(mm, calls, ARRAY_SIZE(calls)))
		return -ESRCH;
	return sys_uffd_register(mm->uffd, limbo, len, SYS_UFFD_MISSING);
}

/* mlockall() does not spare limbo. */
static int64_t discard(struct hmm_mm *mm, uintptr_t addr, size_t len)
{
	int64_t ret = agent_madvise(mm, addr, len, MADV_DONTNEED);

	return ret == -EINVAL ? agent_madvise(mm, addr, len, UHMM_MADV_DONTNEED_LOCKED) : ret;
}

/* Nothing is in the chunk's limbo any more. Where that fails it is not used again. */
static void limbo_clear(struct hmm_mm *mm, struct chunk *c)
{
	int64_t ret = 0;

	if (c->landed == LANDED_MAPPING)
		ret = limbo_renew(mm, c->landing);
	else if (c->landed == LANDED_PAGES)
		ret = discard(mm, c->landing, arena_chunk_bytes());
	if (!ret)
		c->landed = LANDED_NOTHING;
}

static struct chunk *remote_chunk_get(struct hmm_mm *mm, uint32_t first, uint32_t nr, bool whole)
{
	uintptr_t limbo = limbo_get(mm);
	struct chunk *c;

	(void)whole;
	if (!limbo)
		return NULL;
	c = staging_get_writable(&mm->family->staging, first, nr, false);
	if (!c) {
		limbo_put(mm, limbo);
		return NULL;
	}
	c->landing = limbo;
	c->landed = LANDED_NOTHING;
	return c;
}

/* The chunk's part of limbo is free for others, or lost where it cannot be cleared. */
static void limbo_release(struct hmm_mm *mm, struct chunk *c)
{
	limbo_clear(mm, c);
	if (c->landing && c->landed == LANDED_NOTHING)
		limbo_put(mm, c->landing);
	c->landing = 0;
	c->landed = LANDED_NOTHING;
}

static void remote_chunk_put(struct hmm_mm *mm, struct chunk *c)
{
	limbo_release(mm, c);
	staging_put(&mm->family->staging, c);
}

/* ---------------------------------------------------------------- taking */

/*
 * Pages on their way to where they land: slot i's is at from + i pages, and goes to the
 * chunk's landing. from is the program's block, or limbo (take_readonly).
 */
struct passage {
	struct hmm_mm *mm;
	struct isolation *iso;
	struct taking *t;
	uintptr_t from;
	int protect;			/* for the move, of the landing; 0: as it is */
};

/* A piece to be moved: slots [first, first + nr). */
struct piece {
	uint32_t first, nr;
	int error;		/* what is said to have ended it */
};

static bool there(uint8_t state)
{
	return state & (SYS_PAGE_PRESENT | SYS_PAGE_SWAPPED);
}

static struct hmm_agent_call protect_landing(const struct passage *p, const struct piece *piece,
					     int prot)
{
	const size_t page = p->mm->page;

	return (struct hmm_agent_call){
		SYS_mprotect,
		{ p->iso->chunk->landing + piece->first * page, piece->nr * page, (uint64_t)prot },
		0,
	};
}

/*
 * Have the agent move the pieces. The arguments and results are in memory that it shares.
 * An agent that was killed has moved some of them or none: the kernel knows.
 */
static int move_pieces(const struct passage *p, struct piece *pieces, uint32_t nr)
{
	struct remote *r = p->mm->remote;
	volatile struct uhmm_uffdio_move *args = r->shm;
	struct hmm_agent_call calls[3 * MOVES_MAX];
	struct hmm_agent_call *moves[MOVES_MAX];
	uint32_t n = 0;

	for (uint32_t i = 0; i < nr; i++) {
		const uintptr_t at = pieces[i].first * p->mm->page;

		args[i].dst = p->iso->chunk->landing + at;
		args[i].src = p->from + at;
		args[i].len = pieces[i].nr * p->mm->page;
		args[i].mode = UHMM_UFFDIO_MOVE_MODE_DONTWAKE |
			       UHMM_UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES;
		args[i].move = 0;
		/* MOVE wants the same protection on both sides. */
		if (p->protect)
			calls[n++] = protect_landing(p, &pieces[i], p->protect);
		moves[i] = &calls[n];
		calls[n++] = (struct hmm_agent_call){
			SYS_ioctl,
			{ (uint64_t)r->agent_uffd, UHMM_UFFDIO_MOVE,
			  r->shm_addr + i * sizeof(*args) },
			0,
		};
		if (p->protect)
			calls[n++] = protect_landing(p, &pieces[i], PROT_READ | PROT_WRITE);
	}
	if (p->iso->chunk->landed == LANDED_NOTHING)
		p->iso->chunk->landed = LANDED_PAGES;
	if (agent_calls(p->mm, calls, n))
		return -ESRCH;
	/* -EAGAIN hides a short move's reason, which the next try tells. */
	for (uint32_t i = 0; i < nr; i++)
		pieces[i].error = moves[i]->ret < 0 && moves[i]->ret > -4096 ?
				  (int)moves[i]->ret : 0;
	return 0;
}

/*
 * What the kernel shows of slots [first, end): one is taken if its page is in limbo, or
 * a hole if it is nowhere. Nobody can fill a page that is registered and ISOLATED, nor
 * one of limbo, so what its old place shows is what the move has left there.
 */
static int look_landed(const struct passage *p, uint32_t first, uint32_t end)
{
	const size_t at = first * p->mm->page;
	struct taking *t = p->t;
	uint8_t left[BLOCK_PAGES];
	int ret;

	ret = sys_page_states(p->mm->pagemap_fd, p->from + at, end - first, left);
	if (!ret)
		ret = sys_page_states(p->mm->pagemap_fd, p->iso->chunk->landing + at, end - first,
				      t->landed + first);
	for (uint32_t i = first; i < end; i++) {
		if (ret || there(left[i - first])) {
			t->landed[i] = 0;
			t->tried[i] = t->tried[i] == TRIED_PASSED ? TRIED_NOT : t->tried[i];
			continue;
		}
		t->tried[i] = TRIED_PASSED;
		if (there(t->landed[i]))
			p->iso->landed[i / 64] |= BIT(i % 64);
	}
	return ret ? -ESRCH : 0;
}

/* ... and look at slots [first, end), whatever the agent has said. */
static int move_and_look(const struct passage *p, struct piece *pieces, uint32_t nr,
			 uint32_t first, uint32_t end)
{
	int ret = move_pieces(p, pieces, nr);

	return look_landed(p, first, end) || ret ? -ESRCH : 0;
}

/* Pages that are still where they were and not yet known to be busy, one by one. */
static uint32_t single_pieces(const struct taking *t, const bool *asked, uint32_t first,
			      uint32_t end, struct piece *pieces)
{
	uint32_t nr = 0;

	for (uint32_t i = first; i < end && nr < MOVES_MAX; i++)
		if (t->tried[i] == TRIED_NOT && !asked[i])
			pieces[nr++] = (struct piece){ i, 1, 0 };
	return nr;
}

/* A page of the run was busy: find out which are, and take the others. */
static int move_singly(const struct passage *p, uint32_t first, uint32_t end)
{
	struct piece pieces[MOVES_MAX];
	bool asked[BLOCK_PAGES] = { false };
	uint32_t nr;

	while ((nr = single_pieces(p->t, asked, first, end, pieces))) {
		int ret = move_and_look(p, pieces, nr, first, end);

		if (ret)
			return ret;
		for (uint32_t i = 0; i < nr; i++) {
			uint8_t *tried = &p->t->tried[pieces[i].first];

			asked[pieces[i].first] = true;
			if (*tried == TRIED_NOT && pieces[i].error == -EBUSY)
				*tried = TRIED_BUSY;
		}
	}
	return 0;
}

/* The first slot of [first, end) that is not done with, or @end. */
static uint32_t first_left(const struct taking *t, uint32_t first, uint32_t end)
{
	while (first < end && t->tried[first] == TRIED_PASSED)
		first++;
	return first;
}

/*
 * Something is in limbo already: the program's doing, by mlockall() perhaps. It goes,
 * unless bytes of ours are among it.
 */
static bool clear_way(const struct passage *p, uint32_t first, uint32_t end)
{
	const struct isolation *iso = p->iso;

	for (uint32_t i = first; i < end; i++)
		if (iso->landed[i / 64] & BIT(i % 64))
			return false;
	return !discard(p->mm, iso->chunk->landing + first * p->mm->page,
			(end - first) * p->mm->page);
}

static int move_all(const struct passage *p, uint32_t first, uint32_t end)
{
	bool cleared = false;

	for (uint32_t round = 0; round < AGAIN_MAX; round++) {
		uint32_t left = first_left(p->t, first, end);
		struct piece piece = { left, end - left, 0 };
		int ret;

		if (left == end)
			return 0;
		ret = move_and_look(p, &piece, 1, left, end);
		if (ret)
			return ret;
		switch (piece.error) {
		case 0:
			break;
		case -EAGAIN:
			mm_drain(p->mm);
			break;
		case -EEXIST:
			if (cleared || !clear_way(p, left, end))
				return move_singly(p, left, end);
			cleared = true;
			break;
		case -EBUSY:
			return move_singly(p, left, end);
		default:
			return piece.error;
		}
	}
	return first_left(p->t, first, end) == end ? 0 : -EAGAIN;
}

static int remote_move(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
		       uint32_t first, uint32_t nr, struct taking *t)
{
	const struct passage p = {
		mm, iso, t, iso->base,
		vma->flags & SYS_VMA_EXEC ? PROT_READ | PROT_WRITE | PROT_EXEC : 0,
	};

	memset(t->landed + first, 0, nr);
	mm->stats.moved_runs++;
	return move_all(&p, first, first + nr);
}

/*
 * A mapping's pages and all to where @to says slot 0's are to be. One that is emptied in
 * one call would never merge with its neighbours again: the first page goes by itself.
 */
static int remap_out(struct hmm_mm *mm, const struct isolation *iso, const struct sys_vma *vma,
		     uint32_t first, uint32_t nr, uintptr_t to)
{
	const uint64_t flags = MREMAP_MAYMOVE | MREMAP_FIXED | UHMM_MREMAP_DONTUNMAP;
	uintptr_t from = iso->base + first * mm->page;
	size_t len = nr * mm->page, head = 0;
	struct hmm_agent_call calls[3];
	size_t n = 0;

	to += first * mm->page;
	if (nr > 1 && vma->start == from && vma->end == from + len)
		head = mm->page;
	if (head)
		calls[n++] = (struct hmm_agent_call){ SYS_mremap, { from, head, head, flags, to }, 0 };
	calls[n++] = (struct hmm_agent_call){
		SYS_mremap, { from + head, len - head, len - head, flags, to + head }, 0
	};
	calls[n++] = (struct hmm_agent_call){
		SYS_mprotect, { to, len, PROT_READ | PROT_WRITE }, 0
	};
	mm->stats.remapped_runs++;
	return agent_calls(mm, calls, n);
}

/* Blind to pins: only where there is nothing better. */
static void remote_remap(struct hmm_mm *mm, struct isolation *iso, const struct sys_vma *vma,
			 uint32_t first, uint32_t nr, struct taking *t)
{
	const struct passage p = { mm, iso, t, iso->base, 0 };

	iso->chunk->landed = LANDED_MAPPING;
	(void)remap_out(mm, iso, vma, first, nr, iso->chunk->landing);
	(void)look_landed(&p, first, first + nr);
}

/* Slots [i, i + n) cannot go: back from @via, each the same physical page as before. */
static void put_back(struct hmm_mm *mm, const struct isolation *iso, const struct sys_vma *vma,
		     uintptr_t via, uint32_t i, uint32_t n)
{
	const uint64_t flags = MREMAP_MAYMOVE | MREMAP_FIXED | UHMM_MREMAP_DONTUNMAP;
	const uintptr_t to = iso->base + i * mm->page, from = via + i * mm->page;
	const size_t len = n * mm->page;
	uint64_t prot = PROT_READ | (vma->flags & SYS_VMA_EXEC ? PROT_EXEC : 0);
	struct hmm_agent_call calls[] = {
		{ SYS_mprotect, { from, len, prot }, 0 },
		{ SYS_mremap, { from, len, len, flags, to }, 0 },
	};

	(void)agent_calls(mm, calls, ARRAY_SIZE(calls));
	/* What came is trapped by nobody, and a mapping apart until it is. */
	(void)sys_uffd_register(mm->uffd, to, len, SYS_UFFD_MISSING);
}

/* Slots from @i on, below @end, that all have gone on from @via, or all not. */
static uint32_t like_run(const struct taking *t, uint32_t i, uint32_t end)
{
	uint32_t n = 1;

	while (i + n < end && (t->tried[i + n] == TRIED_PASSED) == (t->tried[i] == TRIED_PASSED))
		n++;
	return n;
}

/* Advice for a part of a 2 MiB page splits it. */
static void remote_cut_out(struct hmm_mm *mm, uintptr_t addr, size_t len)
{
	agent_madvise(mm, addr, len, MADV_COLD);
}

/* A write fault unshares what is left in @via, which is no handler's to serve. */
static void unshare_left(struct hmm_mm *mm, const struct taking *t, uintptr_t via, uint32_t first,
			 uint32_t end)
{
	for (uint32_t i = first, n; i < end; i += n) {
		n = like_run(t, i, end);
		if (t->tried[i] == TRIED_PASSED)
			continue;
		agent_madvise(mm, via + i * mm->page, n * mm->page, UHMM_MADV_POPULATE_WRITE);
		remote_cut_out(mm, via + i * mm->page, n * mm->page);
	}
}

/*
 * What the mremap, which may have failed, or put_back() has left in the program was not
 * taken. A page that is neither there nor gone on has its bytes in @via alone, where no
 * mapping was to be had to put it back: they at least are saved.
 */
static void settle_left(struct hmm_mm *mm, const struct isolation *iso, uintptr_t via,
			uint32_t first, uint32_t end, struct taking *t)
{
	uint8_t left[BLOCK_PAGES];
	int ret = sys_page_states(mm->pagemap_fd, iso->base + first * mm->page, end - first, left);

	for (uint32_t i = first; i < end; i++) {
		bool gone_on = t->tried[i] == TRIED_PASSED;

		if (ret || there(left[i - first])) {
			t->tried[i] = gone_on ? TRIED_NOT : t->tried[i];
		} else if (!gone_on &&
			   sys_mem_read(mm->remote->mem_fd, isolation_bytes(iso, i),
					via + i * mm->page, mm->page) == (ssize_t)mm->page) {
			t->tried[i] = TRIED_PASSED;
			t->landed[i] = SYS_PAGE_PRESENT;
		}
	}
}

/*
 * As in limbo.h: by mremap into limbo, where MOVE can ask each page; what is pinned goes
 * back. Of slots that were still in the program when all was done nothing was taken.
 */
static void remote_take_readonly(struct hmm_mm *mm, struct isolation *iso,
				 const struct sys_vma *vma, uint32_t first, uint32_t nr,
				 struct taking *t)
{
	const uint32_t end = first + nr;
	uintptr_t via = limbo_claim(mm);
	struct passage p = { mm, iso, t, via, 0 };

	memset(t->landed + first, 0, nr);
	if (!via)
		return;
	(void)remap_out(mm, iso, vma, first, nr, via);
	(void)move_all(&p, first, end);
	if (first_left(t, first, end) < end) {
		unshare_left(mm, t, via, first, end);
		memset(t->tried + first, TRIED_NOT, nr);
		(void)look_landed(&p, first, end);
		(void)move_all(&p, first, end);
	}
	for (uint32_t i = first, n; i < end; i += n) {
		n = like_run(t, i, end);
		if (t->tried[i] != TRIED_PASSED)
			put_back(mm, iso, vma, via, i, n);
	}
	settle_left(mm, iso, via, first, end, t);
	if (!limbo_renew(mm, via))
		limbo_unclaim(mm, via);
}

/* Advice that does nothing to pages in use is refused only for mlocked ones. */
static bool remote_locked(struct hmm_mm *mm, uintptr_t addr, size_t len)
{
	return agent_madvise(mm, addr, len, MADV_COLD) == -EINVAL;
}

/* ---------------------------------------------------------------- fetching */

static bool landed(const struct isolation *iso, uint32_t i)
{
	return iso->kind[i] != SLOT_NONE && (iso->landed[i / 64] & BIT(i % 64));
}

/* What is in limbo, into the chunk. A page that cannot be read loses its bit. */
static uint32_t read_landed(struct hmm_mm *mm, struct isolation *iso)
{
	uint32_t failed = 0;

	for (uint32_t i = iso->low, n; i < iso->high; i += n) {
		ssize_t got;

		for (n = 1; landed(iso, i) && i + n < iso->high && landed(iso, i + n) &&
			    iso->kind[i + n] == iso->kind[i]; n++)
			;
		if (!landed(iso, i))
			continue;
		/* The slots hold what others have left there. */
		if (iso->kind[i] == SLOT_ZERO) {
			memset(isolation_bytes(iso, i), 0, n * mm->page);
			continue;
		}
		got = sys_mem_read(mm->remote->mem_fd, isolation_bytes(iso, i),
				   iso->chunk->landing + i * mm->page, n * mm->page);
		for (uint32_t j = i; j < i + n; j++) {
			if (got >= (ssize_t)((j - i + 1) * mm->page))
				continue;
			memset(isolation_bytes(iso, j), 0, mm->page);
			iso->landed[j / 64] &= ~BIT(j % 64);
			failed++;
		}
	}
	return failed;
}

/* The slots that read_landed() could not read: their bytes are nowhere. */
static void lose_unread(struct hmm_mm *mm, struct isolation *iso, const uint64_t *before)
{
	struct free_run run = { 0 };

	lock_acquire(&mm->lock);
	for (uint32_t i = iso->low; i < iso->high; i++)
		if (iso->kind[i] != SLOT_NONE && (before[i / 64] & BIT(i % 64)) && !landed(iso, i))
			isolation_lose(mm, iso, i, &run);
	free_run_flush(&run);
	lock_release(&mm->lock);
}

static uint32_t remote_fetch(struct hmm_mm *mm, struct isolation *iso)
{
	uint64_t before[BLOCK_PAGES / 64];
	uint32_t failed;

	memcpy(before, iso->landed, sizeof(before));
	failed = read_landed(mm, iso);
	if (failed)
		lose_unread(mm, iso, before);
	memset(iso->landed, 0, sizeof(iso->landed));
	limbo_release(mm, iso->chunk);
	return failed;
}

/* ---------------------------------------------------------------- the rest */

/* Could every page of the range be had? -EFAULT: a gap, or a mapping that forbids it. */
static int check_rights(struct hmm_mm *mm, uintptr_t start, uintptr_t end, bool write)
{
	struct sys_vma vma;
	int ret = 0;

	lock_acquire(&mm->lock);
	for (uintptr_t a = start; a < end && !ret; a = vma.end)
		if (sys_vma_find(mm->maps_fd, a, &vma) || vma.start > a ||
		    !(vma.flags & (write ? SYS_VMA_WRITE : SYS_VMA_READ)))
			ret = -EFAULT;
	lock_release(&mm->lock);
	return ret;
}

/* Not by the agent: it would wait for handlers, and they for who calls it meanwhile. */
static int remote_populate(struct hmm_mm *mm, uintptr_t start, size_t len, bool write)
{
	int ret = check_rights(mm, start, start + len, write);

	if (ret || !mm->remote->vm_pid)
		return -EFAULT;
	ret = sys_vm_populate(mm->remote->vm_pid, start, len, write);
	return ret == -ENOMEM || !ret ? ret : -EFAULT;
}

static ssize_t remote_copy_from(struct hmm_mm *mm, void *dst, uintptr_t addr, size_t len)
{
	struct remote *r = mm->remote;
	ssize_t ret = r->vm_pid && !remote_gone(r) ? sys_vm_read(r->vm_pid, dst, addr, len) : -1;

	return ret < 0 ? -EFAULT : ret;
}

static ssize_t remote_copy_to(struct hmm_mm *mm, uintptr_t addr, const void *src, size_t len)
{
	struct remote *r = mm->remote;
	ssize_t ret = r->vm_pid && !remote_gone(r) ? sys_vm_write(r->vm_pid, addr, src, len) : -1;

	return ret < 0 ? -EFAULT : ret;
}

/* Does the kernel look at how much the caller may have? */
static bool is_limited(int nr)
{
	return nr == SYS_mmap || nr == SYS_mremap || nr == SYS_brk || nr == SYS_mprotect;
}

static int64_t remote_perform(struct hmm_mm *mm, const struct sys_notif *n)
{
	struct hmm_agent_call call = { (uint64_t)n->nr, { 0 }, 0 };

	if (is_limited(n->nr))
		sys_vm_limits_follow(mm->remote->pid, mm->remote->vm_pid);
	memcpy(call.args, n->args, sizeof(call.args));
	return agent_call(mm, &call);
}

static int remote_for_each_tcb(struct hmm_mm *mm, void (*fn)(uintptr_t addr, bool main, void *ctx),
			       void *ctx)
{
	return sys_vm_for_each_tcb(mm->remote->pid, fn, ctx);
}

/* A loader puts it right above the part of the segment that the file has, which is writable. */
bool remote_is_static(const struct hmm_mm *mm, const struct sys_vma *vma)
{
	struct sys_vma below;

	return vma->start && !sys_vma_find(mm->maps_fd, vma->start - mm->page, &below) &&
	       below.end == vma->start && (below.flags & SYS_VMA_FILE) &&
	       (below.flags & SYS_VMA_WRITE) && !(below.flags & SYS_VMA_SHARED);
}

static bool overlap(uintptr_t start, uintptr_t end, uintptr_t own_start, uintptr_t own_end)
{
	return start < own_end && end > own_start;
}

static bool remote_owns(const struct hmm_mm *mm, uintptr_t start, uintptr_t end)
{
	const struct remote *r = mm->remote;

	return overlap(start, end, r->limbo, r->limbo_end) ||
	       overlap(start, end, r->own_start, r->own_end) ||
	       overlap(start, end, r->sentinel, r->sentinel + mm->page);
}

static int remote_thread_cpu(struct hmm_mm *mm, uint32_t tid)
{
	return sys_vm_thread_cpu(mm->remote->pid, tid);
}

static void remote_kill(struct hmm_mm *mm, uint32_t tid, int sig, uintptr_t addr)
{
	(void)addr;
	if (mm->remote->pid)
		sys_vm_kill_thread(mm->remote->pid, tid, sig);
}

const struct mm_ops remote_ops = {
	.chunk_get = remote_chunk_get,
	.chunk_put = remote_chunk_put,
	.move = remote_move,
	.remap = remote_remap,
	.take_readonly = remote_take_readonly,
	.fetch = remote_fetch,
	.locked = remote_locked,
	.cut_out = remote_cut_out,
	.populate = remote_populate,
	.copy_from = remote_copy_from,
	.copy_to = remote_copy_to,
	.perform = remote_perform,
	.for_each_tcb = remote_for_each_tcb,
	.owns = remote_owns,
	.thread_cpu = remote_thread_cpu,
	.kill = remote_kill,
};
