/* SPDX-License-Identifier: MIT */
/*
 * The beginning and the end of an mm that is another process's.
 *
 * One that is opened has its agent from the start. One that a fork makes (inherit.c) is
 * served from the moment the kernel has copied the address space, and is attached when
 * the child's agent has come; until then nothing can be taken from it:
 *
 *	fork_gate		> 0 until it is attached, and again from its end on
 */
#include "core/remote.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "core/devmem.h"
#include "core/opts.h"
#include "core/trace.h"

#define OPTS_OLDEST	sizeof(struct hmm_remote_opts)
#define SHM_MIN		4096u
#define STAGING_MAX	((uint64_t)1 << 30)

uint64_t hmm_remote_features(void)
{
	return (sys_cap(CAP_THREAD_ID) ? UFFD_FEATURE_THREAD_ID : 0) |
	       (sys_cap(CAP_FORK_EVENT) ? UFFD_FEATURE_EVENT_FORK : 0);
}

/* ---------------------------------------------------------------- an mm */

struct hmm_mm *remote_make(struct family *family, int uffd, uint64_t features, hmm_log_fn log,
			   void *log_ctx)
{
	struct hmm_mm *mm = arena_alloc(sizeof(*mm));

	if (!mm)
		return NULL;
	mm->remote = arena_alloc(sizeof(*mm->remote));
	if (!mm->remote) {
		arena_free(mm, sizeof(*mm));
		return NULL;
	}
	mm->remote->pidfd = mm->remote->mem_fd = -1;
	mm->remote->features = features;
	mm->ops = &remote_ops;
	mm->process = family->process;
	mm->family = family;
	mm->flags = HMM_MM_STRICT;	/* every change is announced */
	mm->log = log;
	mm->log_ctx = log_ctx;
	mm->page = sys_page_size();
	mm->uffd = uffd;
	mm->maps_fd = mm->pagemap_fd = mm->tasks_fd = -1;
	mm->can_move = sys_cap(CAP_MOVE);
	mm->can_remap = sys_cap(CAP_DONTUNMAP);
	mm->can_poison = sys_cap(CAP_POISON);
	mm->fork_gate = 1;
	lock_init(&mm->lock, RANK_MM);
	roster_watched_init(&mm->watched, LOOK_EVERY_REMOTE);
	mm->alive = MM_ALIVE;
	return mm;
}

static void files_close(struct hmm_mm *mm)
{
	sys_close(mm->remote->mem_fd);
	sys_close(mm->pagemap_fd);
	sys_close(mm->maps_fd);
	mm->remote->mem_fd = mm->pagemap_fd = mm->maps_fd = -1;
}

void remote_free(struct hmm_mm *mm)
{
	files_close(mm);
	sys_close(mm->remote->pidfd);
	sys_close(mm->uffd);
	arena_free(mm->remote, sizeof(*mm->remote));
	arena_free(mm, sizeof(*mm));
}

int remote_open_files(struct hmm_mm *mm, int tid)
{
	int maps, pagemap, mem, ret;

	maps = sys_proc_open(tid, "maps", false);
	pagemap = sys_proc_open(tid, "pagemap", false);
	mem = sys_proc_open(tid, "mem", false);
	ret = maps < 0 ? maps : pagemap < 0 ? pagemap : mem < 0 ? mem : 0;
	if (ret) {
		sys_close(mem);
		sys_close(pagemap);
		sys_close(maps);
		return ret == -EACCES ? -EPERM : ret == -ENOENT ? -ESRCH : ret;
	}
	files_close(mm);
	mm->maps_fd = maps;
	mm->pagemap_fd = pagemap;
	mm->remote->mem_fd = mem;
	return 0;
}

/* ---------------------------------------------------------------- attaching */

static bool opts_ok(const struct hmm_remote_opts *o)
{
	const size_t page = sys_page_size(), chunk = arena_chunk_bytes();

	return !o->flags && o->pid > 0 && o->agent_pid >= 0 && o->agent_uffd >= 0 && o->call &&
	       o->shm && !((uintptr_t)o->shm & 7) && !(o->shm_addr & 7) &&
	       o->shm_bytes >= SHM_MIN && o->nr_handlers <= 64 && !(o->limbo & (chunk - 1)) &&
	       !(o->limbo_bytes & (page - 1)) && o->limbo_bytes >= 3 * chunk &&
	       mm_range_ok(o->limbo, o->limbo + o->limbo_bytes) &&
	       (o->own_start == o->own_end || mm_range_ok(o->own_start, o->own_end)) &&
	       o->staging_bytes <= STAGING_MAX;
}

static int check_opts(const struct hmm_remote_opts *o)
{
	int ret;

	if (!o)
		return -EINVAL;
	ret = opts_check(o, o->size, sizeof(*o), OPTS_OLDEST);
	if (ret)
		return ret;
	if (!sys_cap(CAP_PROCESS_VM))
		return -EOPNOTSUPP;
	return opts_ok(o) ? 0 : -EINVAL;
}

/* A page that every child inherits, empty and registered: no fork goes unheard. */
static int sentinel_open(struct hmm_mm *mm)
{
	struct remote *r = mm->remote;
	struct hmm_agent_call calls[] = {
		{ SYS_mprotect, { r->limbo, mm->page, PROT_READ }, 0 },
		{ SYS_madvise, { r->limbo, mm->page, MADV_DOFORK }, 0 },
		{ SYS_madvise, { r->limbo, mm->page, MADV_WIPEONFORK }, 0 },
	};
	int ret = agent_calls(mm, calls, ARRAY_SIZE(calls));

	if (!ret)
		ret = sys_uffd_register(mm->uffd, r->limbo, mm->page, SYS_UFFD_MISSING);
	if (!ret)
		r->sentinel = r->limbo;
	return ret;
}

static int limbo_open(struct hmm_mm *mm)
{
	struct remote *r = mm->remote;
	const uintptr_t start = r->limbo + arena_chunk_bytes();
	const size_t len = (r->nr_limbo - 1) * arena_chunk_bytes();
	struct hmm_agent_call calls[] = {
		{ SYS_mprotect, { start, len, PROT_READ | PROT_WRITE }, 0 },
		{ SYS_madvise, { start, len, MADV_NOHUGEPAGE }, 0 },
	};
	int ret = agent_calls(mm, calls, ARRAY_SIZE(calls));

	if (!ret)
		ret = sys_uffd_register(mm->uffd, start, len, SYS_UFFD_MISSING);
	if (!ret && !r->sentinel)
		ret = sentinel_open(mm);
	return ret;
}

static void fill_in(struct hmm_mm *mm, const struct hmm_remote_opts *o)
{
	struct remote *r = mm->remote;

	r->pid = o->pid;
	r->agent_uffd = o->agent_uffd;
	r->vm_pid = o->agent_pid ? o->agent_pid : o->pid;
	r->shm = o->shm;
	r->shm_addr = o->shm_addr;
	r->shm_bytes = o->shm_bytes;
	r->limbo = o->limbo;
	r->nr_limbo = (uint32_t)(o->limbo_bytes / arena_chunk_bytes());
	r->nr_limbo = r->nr_limbo < LIMBO_CHUNKS ? r->nr_limbo : LIMBO_CHUNKS;
	r->limbo_end = o->limbo + o->limbo_bytes;
	r->own_start = o->own_start;
	r->own_end = o->own_end;
	r->call = o->call;
	r->ctx = o->ctx;
}

/* Lock held: nothing finds it half attached. */
static int attach(struct hmm_mm *mm, const struct hmm_remote_opts *o)
{
	struct remote *r = mm->remote;
	int ret;

	if (remote_gone(r) || (o->pidfd >= 0 && sys_pidfd_dead(o->pidfd)))
		return -ESRCH;
	ret = remote_open_files(mm, o->agent_pid ? o->agent_pid : o->pid);
	if (ret)
		return ret;
	fill_in(mm, o);
	r->attached = true;
	ret = limbo_open(mm);
	if (ret) {
		r->attached = false;
		return ret == -ENOMEM && o->pidfd >= 0 && sys_pidfd_dead(o->pidfd) ? -ESRCH : ret;
	}
	r->pidfd = o->pidfd;
	mm->fork_gate--;
	return 0;
}

int hmm_remote_attach(struct hmm_mm *mm, const struct hmm_remote_opts *opts)
{
	int ret = mm_enter(mm);

	if (!ret)
		ret = mm->remote ? check_opts(opts) : -EINVAL;
	if (ret)
		return ret;
	lock_acquire(&mm->lock);
	ret = mm->remote->attached ? -EBUSY : attach(mm, opts);
	lock_release(&mm->lock);
	return ret;
}

static int family_of(const struct hmm_remote_opts *o, struct family **out)
{
	struct process *process;
	struct family *f;
	int ret;

	if (o->sibling) {
		ret = mm_enter(o->sibling);
		*out = o->sibling->family;
		return !ret && !o->sibling->remote ? -EINVAL : ret;
	}
	process = process_get();
	if (!process)
		return -ENOMEM;
	ret = family_make(process, NULL, o->staging_bytes, o->nr_handlers, &f);
	if (ret)
		return ret;
	ret = handlers_start(f);
	if (ret)
		family_free(f);
	*out = f;
	return ret;
}

static void family_leave(struct family *f, bool last)
{
	if (!last)
		return;
	handlers_stop(f);
	family_free(f);
}

/* Everything but the descriptors, which stay the caller's where it fails. */
static int open_in(struct family *f, const struct hmm_remote_opts *o, struct hmm_mm **out)
{
	struct hmm_mm *mm = remote_make(f, o->uffd, o->features, o->log, o->log_ctx);
	int ret;

	if (!mm)
		return -ENOMEM;
	lock_acquire(&mm->lock);
	ret = attach(mm, o);
	lock_release(&mm->lock);
	if (!ret)
		ret = mm_tables_init(mm);
	if (ret) {
		mm->uffd = mm->remote->pidfd = -1;
		remote_free(mm);
		return ret;
	}
	*out = mm;
	return 0;
}

int hmm_mm_open_remote(const struct hmm_remote_opts *opts, struct hmm_mm **out)
{
	struct family *f;
	int ret = out ? check_opts(opts) : -EINVAL;

	if (ret)
		return ret;
	if (opts->uffd < 0)
		return -EINVAL;
	if (thread_state.in_callback)
		return -EDEADLK;
	ret = family_of(opts, &f);
	if (ret)
		return ret;
	ret = open_in(f, opts, out);
	if (ret)
		family_leave(f, !opts->sibling);
	return ret;
}

/* ---------------------------------------------------------------- the allowance */

static int enter_remote(const struct hmm_mm *mm)
{
	int ret = mm_enter(mm);

	return ret ? ret : mm->remote ? 0 : -EINVAL;
}

int hmm_remote_count(struct hmm_mm *mm, uint64_t *brought, uint64_t *mapped)
{
	const struct allowance *a;
	int ret = brought && mapped ? enter_remote(mm) : -EINVAL;

	if (ret)
		return ret;
	a = &mm->family->allowance;
	*brought = atomic_load_explicit(&a->brought, memory_order_relaxed);
	*mapped = atomic_load_explicit(&a->mapped, memory_order_relaxed);
	return 0;
}

int hmm_remote_allow(struct hmm_mm *mm, uint64_t brought, uint64_t mapped)
{
	int ret = enter_remote(mm);

	if (!ret)
		family_allow(mm->family, brought, mapped);
	return ret;
}

int hmm_remote_watch(struct hmm_mm *mm, uintptr_t addr)
{
	int ret = enter_remote(mm);

	if (ret)
		return ret;
	lock_acquire(&mm->lock);
	if (mm->remote->attached && !remote_gone(mm->remote))
		mm_vma_join(mm, addr, addr + 1);
	lock_release(&mm->lock);
	return 0;
}

/* ---------------------------------------------------------------- the end */

int hmm_remote_inherit(struct hmm_mm *mm, int32_t pid, int32_t pidfd)
{
	int ret = pid > 0 && pidfd >= 0 ? enter_remote(mm) : -EINVAL;
	struct remote *r;

	if (ret)
		return ret;
	r = mm->remote;
	if (sys_pidfd_dead(pidfd))
		return -ESRCH;
	lock_acquire(&mm->lock);
	atomic_store_explicit(&r->pid, pid, memory_order_relaxed);
	sys_close(r->pidfd);
	r->pidfd = pidfd;
	mm_vma_begin(mm);
	mm->tcbs.mark = 0;
	mm_vma_forget(mm);
	lock_release(&mm->lock);
	return 0;
}

void hmm_remote_gone(struct hmm_mm *mm)
{
	const struct timespec tick = { .tv_nsec = 1000 * 1000 };
	struct remote *r;
	uint32_t calling;

	if (mm_enter(mm) || !mm->remote)
		return;
	r = mm->remote;
	lock_acquire(&mm->lock);
	if (!atomic_exchange(&r->gone, true))
		mm->fork_gate++;
	mm_invalidate(mm, HMM_EVENT_UNMAP, 0, sys_task_size(), NULL);
	mm_drop(mm, 0, sys_task_size());
	trace_away(mm);
	gates_free(mm);
	lock_release(&mm->lock);
	while ((calling = atomic_load(&r->calling)))
		sys_futex_wait(&r->calling, calling, &tick);
}

/* Everything home; there is time to wait for what is in flight. */
static void bring_home(struct hmm_mm *mm)
{
	bool away = true;

	lock_acquire(&mm->lock);
	mm->fork_gate++;
	lock_release(&mm->lock);
	while (away && !remote_gone(mm->remote)) {
		mm_evict(mm, 0, sys_task_size(), NULL, true);
		lock_acquire(&mm->lock);
		away = mm->dir.count[PAGE_DEVICE] || mm->dir.count[PAGE_ISOLATED];
		if (away)
			isolation_wait(mm);
		lock_release(&mm->lock);
	}
	lock_acquire(&mm->lock);
	mm_release_all(mm, true);
	mm_drop(mm, 0, sys_task_size());	/* lost pages; all, if it went away meanwhile */
	trace_away(mm);
	gates_free(mm);
	lock_release(&mm->lock);
}

int remote_destroy(struct hmm_mm *mm)
{
	struct family *f = mm->family;
	uint64_t lost = mm->stats.lost_pages;
	bool last;

	if (!remote_gone(mm->remote))
		bring_home(mm);
	lost = mm->stats.lost_pages - lost;
	mm->alive = 0;
	last = mm_tables_fini(mm);
	remote_free(mm);
	family_leave(f, last);
	return lost ? -EIO : 0;
}

/* ---------------------------------------------------------------- who is it */

int hmm_remote_uffd(const struct hmm_mm *mm)
{
	return mm && mm->alive == MM_ALIVE && mm->remote ? mm->uffd : -EINVAL;
}

/* A page of its own, with what nobody can guess, where its parent has nothing. */
static int mark(struct hmm_mm *mm)
{
	struct remote *r = mm->remote;
	void *page = arena_alloc(mm->page);
	size_t done;
	int ret = page ? sys_random(r->nonce, sizeof(r->nonce)) : -ENOMEM;

	if (!ret) {
		memcpy(page, r->nonce, sizeof(r->nonce));
		ret = sys_uffd_copy(mm->uffd, r->sentinel, page, mm->page, 0, &done);
	}
	r->marked = !ret;
	arena_free(page, mm->page);
	return ret;
}

/* Done already, or done. Lock held, dropped meanwhile. */
static int marked(struct hmm_mm *mm)
{
	struct remote *r = mm->remote;
	int ret = r->sentinel ? 0 : -EINVAL;

	while (!ret && !r->marked) {
		ret = mark(mm);
		if (ret == -EAGAIN) {
			mm_drain(mm);
			ret = 0;
		}
	}
	return ret;
}

static int compare(const struct remote *r, int32_t pid)
{
	uint64_t seen[2] = { 0 };
	int fd = sys_proc_open(pid, "mem", false);
	ssize_t got;

	if (fd < 0)
		return fd == -EACCES ? -EPERM : -ESRCH;
	got = sys_mem_read(fd, seen, r->sentinel, sizeof(seen));
	sys_close(fd);
	return got == sizeof(seen) && !memcmp(seen, r->nonce, sizeof(seen));
}

int hmm_remote_matches(struct hmm_mm *mm, int32_t pid)
{
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!mm->remote || pid <= 0)
		return -EINVAL;
	lock_acquire(&mm->lock);
	ret = marked(mm);
	lock_release(&mm->lock);
	return ret ? ret : compare(mm->remote, pid);
}

/*
 * A page where there is one already, or where we serve no faults, is refused: if there is
 * a memory to refuse it.
 */
int hmm_remote_in_use(struct hmm_mm *mm)
{
	int ret = mm_enter(mm);
	uintptr_t page;
	size_t done;

	if (ret)
		return ret;
	if (!mm->remote)
		return -EINVAL;
	lock_acquire(&mm->lock);
	page = mm->remote->own_end ? mm->remote->own_start : mm->remote->sentinel;
	if (!mm->remote->own_end)
		ret = marked(mm);
	if (!ret)
		ret = sys_uffd_zeropage(mm->uffd, page, mm->page, 0, &done);
	lock_release(&mm->lock);
	return ret == -ESRCH ? 0 : ret == -EINVAL || ret == -ENOMEM ? ret : 1;
}
