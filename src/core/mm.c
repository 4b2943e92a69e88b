/* SPDX-License-Identifier: MIT */
#include "core/mm.h"

#include <string.h>
#include <unistd.h>

#include "core/adoption.h"
#include "core/devmem.h"
#include "core/limbo.h"
#include "core/opts.h"
#include "core/remote.h"
#include "core/trace.h"

#define STAGING_MAX	((uint64_t)1 << 30)
#define MM_FLAGS	(HMM_MM_STRICT | HMM_MM_USER_FAULTS_ONLY)
#define OPTS_OLDEST	offsetof(struct hmm_mm_opts, staging_bytes)

void mm_invalidate(struct hmm_mm *mm, enum hmm_event_type type, uintptr_t start, uintptr_t end,
		   const void *owner)
{
	const struct hmm_event event = { type, start, end, owner };
	const uint64_t begin = trace_begin(mm);
	uint64_t told;

	lock_assert_held(&mm->lock);
	told = notifier_tree_invalidate(&mm->notifiers, &event);
	mm->stats.invalidations += told;
	if (tracing(mm) && told) {
		struct hmm_trace_event e = {
			.type = HMM_TRACE_INVALIDATE, .what = type, .begin_ns = begin,
			.start = start, .end = end, .pages = (int64_t)told,
		};

		trace_event(mm, &e);
	}
}

/* More than the deepest path under the mm lock uses. */
#define STACK_NEEDED	(24u << 10)

__attribute__((noinline)) void stack_prepare(void)
{
	volatile char room[STACK_NEEDED];

	for (size_t i = 0; i < sizeof(room); i += 4096)
		room[i] = 0;
	room[sizeof(room) - 1] = 0;
}

void mm_lost(struct hmm_mm *mm, uintptr_t addr, bool poisoned)
{
	lock_assert_held(&mm->lock);
	mm->stats.lost_pages++;
	mm->stats.poisoned_pages += poisoned;
	trace_moment(mm, HMM_TRACE_LOST, 0, addr, addr + mm->page, 1);
}

bool mm_poison(struct hmm_mm *mm, uintptr_t addr)
{
	const uint64_t e = directory_get(&mm->dir, addr);

	lock_assert_held(&mm->lock);
	/* The entry stays what it was until the marker is there: no fault finds a hole. */
	while (mm->can_poison && directory_get(&mm->dir, addr) == e) {
		if (sys_uffd_poison(mm->uffd, addr, mm->page) != -EAGAIN)
			break;
		mm_drain(mm);
	}
	if (directory_get(&mm->dir, addr) != e)
		return false;
	mm_lost(mm, addr, true);
	directory_set(&mm->dir, addr, PAGE_LOST);
	sys_uffd_wake(mm->uffd, addr, mm->page);
	return true;
}

/* ---------------------------------------------------------------- life */

static uint64_t uffd_features(uint64_t flags)
{
	uint64_t features = 0;

	if (sys_cap(CAP_THREAD_ID))
		features |= UFFD_FEATURE_THREAD_ID;
	if (flags & HMM_MM_STRICT)
		return features;	/* changes are announced by seccomp, before */
	if (sys_cap(CAP_UFFD_EVENTS))
		features |= UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
			    UFFD_FEATURE_EVENT_UNMAP;
	if (sys_cap(CAP_FORK_EVENT))
		features |= UFFD_FEATURE_EVENT_FORK;
	return features;
}

static int open_uffd(struct hmm_mm *mm)
{
	uint64_t have;
	bool user_only = mm->flags & HMM_MM_USER_FAULTS_ONLY;

	mm->uffd = sys_uffd_open(uffd_features(mm->flags), user_only, &have);
	if (mm->uffd >= 0)
		return 0;
	if (mm->uffd == -EPERM || mm->uffd == -EACCES) {
		core_log(mm, HMM_LOG_WARN,
			 "HMM-042 no userfaultfd that serves faults of system calls for this "
			 "user; `uhmm doctor` says what would help");
		return -EPERM;
	}
	return mm->uffd == -ENOSYS || mm->uffd == -EINVAL ? -EOPNOTSUPP : mm->uffd;
}

static int open_files(struct hmm_mm *mm)
{
	int ret = open_uffd(mm);

	if (ret)
		return ret;
	mm->maps_fd = sys_maps_open();
	if (mm->maps_fd < 0) {
		ret = mm->maps_fd;
		goto err_uffd;
	}
	mm->pagemap_fd = sys_pagemap_open();
	if (mm->pagemap_fd < 0) {
		ret = mm->pagemap_fd;
		goto err_maps;
	}
	mm->tasks_fd = sys_tasks_open();
	if (mm->tasks_fd < 0) {
		ret = mm->tasks_fd;
		goto err_pagemap;
	}
	return 0;

err_pagemap:
	sys_close(mm->pagemap_fd);
err_maps:
	sys_close(mm->maps_fd);
err_uffd:
	sys_close(mm->uffd);
	if (ret == -ENOENT || ret == -EACCES)
		core_log(mm, HMM_LOG_WARN,
			 "HMM-043 /proc/self/maps, pagemap and task cannot be read: is /proc "
			 "mounted?");
	return ret == -ENOENT ? -EOPNOTSUPP : ret;
}

static void close_files(struct hmm_mm *mm)
{
	sys_close(mm->tasks_fd);
	sys_close(mm->pagemap_fd);
	sys_close(mm->maps_fd);
	sys_close(mm->uffd);
}

static int claim_process(struct hmm_mm *mm)
{
	int ret = 0;

	lock_acquire(&mm->process->lock);
	if (mm->process->mm)
		ret = -EBUSY;
	else
		mm->process->mm = mm;
	lock_release(&mm->process->lock);
	return ret;
}

static void leave_process(struct hmm_mm *mm)
{
	lock_acquire(&mm->process->lock);
	mm->process->mm = NULL;
	lock_release(&mm->process->lock);
}

/* From now on a thread that forks uses the mm (mm_use()), or no more. */
static void set_alive(struct hmm_mm *mm, uint64_t alive)
{
	lock_acquire(&mm->process->lock);
	mm->alive = alive;
	lock_release(&mm->process->lock);
}

/* Nobody finds the mm any more: whoever uses it still is the last. */
static void await_users(struct hmm_mm *mm)
{
	uint32_t users;

	for (;;) {
		lock_acquire(&mm->process->lock);
		users = mm->users;
		lock_release(&mm->process->lock);
		if (!users)
			return;
		sys_rest(50);
	}
}

static void fill_in(struct hmm_mm *mm, const struct hmm_mm_opts *opts, struct process *process)
{
	mm->ops = &local_ops;
	mm->process = process;
	mm->flags = opts->flags;
	mm->log = opts->log;
	mm->log_ctx = opts->log_ctx;
	mm->page = sys_page_size();
	mm->can_move = mm->can_move_home = sys_cap(CAP_MOVE);
	mm->can_remap = sys_cap(CAP_DONTUNMAP);
	mm->can_poison = sys_cap(CAP_POISON);
	lock_init(&mm->lock, RANK_MM);
	roster_watched_init(&mm->watched, LOOK_EVERY);
}

int mm_tables_init(struct hmm_mm *mm)
{
	int ret = directory_init(&mm->dir, mm->process, mm);

	if (ret)
		return ret;
	ret = isolations_init(mm);
	if (!ret)
		ret = family_add(mm->family, mm);
	if (ret) {
		isolations_fini(mm);
		directory_fini(&mm->dir);
	}
	return ret;
}

bool mm_tables_fini(struct hmm_mm *mm)
{
	bool last = family_remove(mm->family, mm);

	isolations_fini(mm);
	limbo_close(mm);
	if (mm->exclusive_pages)
		exclusive_close(mm);
	directory_fini(&mm->dir);
	return last;
}

/* Of calls that were made before calls are announced. */
static void look_for_keys(struct hmm_mm *mm)
{
	const bool used = (mm->flags & HMM_MM_STRICT) && sys_keys_used();

	lock_acquire(&mm->lock);
	mm->keyed |= used;
	lock_release(&mm->lock);
}

/* What an mm is made of, in the order it is taken down again. */
static int build(struct hmm_mm *mm, const struct hmm_mm_opts *opts)
{
	int ret = open_files(mm);

	if (ret)
		return ret;
	ret = family_make(mm->process, mm, opts->staging_bytes, opts->nr_handlers,
			  &mm->family);
	if (ret)
		goto err_files;
	ret = mm_tables_init(mm);
	if (ret)
		goto err_family;
	ret = handlers_start(mm->family);
	if (ret)
		goto err_tables;
	set_alive(mm, MM_ALIVE);
	mm_statics_look(mm);
	if (mm->flags & HMM_MM_STRICT)
		ret = strict_start(mm);
	if (ret)
		goto err_handlers;
	look_for_keys(mm);
	return 0;

err_handlers:
	set_alive(mm, 0);
	await_users(mm);
	handlers_stop(mm->family);
err_tables:
	mm_tables_fini(mm);
err_family:
	family_free(mm->family);
err_files:
	close_files(mm);
	return ret;
}

static int check_opts(const struct hmm_mm_opts *opts)
{
	int ret = opts_check(opts, opts->size, sizeof(*opts), OPTS_OLDEST);

	if (ret)
		return ret;
	if ((opts->flags & ~MM_FLAGS) || opts->reserved || opts->nr_handlers > 64 ||
	    (opts->size >= offsetof(struct hmm_mm_opts, log) && opts->staging_bytes > STAGING_MAX))
		return -EINVAL;
	return 0;
}

int hmm_mm_create(const struct hmm_mm_opts *user, struct hmm_mm **out)
{
	struct hmm_mm_opts opts = { .size = sizeof(opts) };
	struct process *process;
	struct hmm_mm *mm;
	int ret = user ? check_opts(user) : 0;

	if (!out || ret)
		return ret ? ret : -EINVAL;
	if (user)
		memcpy(&opts, user, user->size < sizeof(opts) ? user->size : sizeof(opts));
	process = process_get();
	mm = process ? arena_alloc(sizeof(*mm)) : NULL;
	if (!mm)
		return -ENOMEM;
	fill_in(mm, &opts, process);
	sys_tell_tcb();		/* again: the kernel knows nothing of a raw clone's child */
	if (sys_caps_unknown())
		core_log(mm, HMM_LOG_WARN, "HMM-010 UHMM_CAPS: no capability is called \"%s\"",
			 sys_caps_unknown());
	ret = fork_watch();
	if (!ret)
		ret = claim_process(mm);
	if (ret)
		goto err_free;
	ret = build(mm, &opts);
	if (ret)
		goto err_leave;
	*out = mm;
	return 0;

err_leave:
	leave_process(mm);
err_free:
	arena_free(mm, sizeof(*mm));
	return ret;
}

/* Nobody may subscribe, migrate or be told any more. */
static void release_notifiers(struct hmm_mm *mm)
{
	lock_acquire(&mm->lock);
	mm_invalidate(mm, HMM_EVENT_RELEASE, 0, sys_task_size(), NULL);
	while (mm->notifiers.root) {
		struct hmm_notifier *n = mm->notifiers.root;

		notifier_tree_remove(&mm->notifiers, n);
		arena_free(n, sizeof(*n));
	}
	exclusive_restore(mm, 0, sys_task_size(), NULL);
	lock_release(&mm->lock);
}

/*
 * Nothing is registered any more, but a fork or an munmap that began before waits for its
 * event to be read. Without handlers it would as long as anybody has the userfaultfd,
 * which any child may.
 */
static void await_changes(const struct hmm_mm *mm)
{
	while (sys_uffd_changing(mm->uffd))
		sys_rest(50);
}

int hmm_mm_destroy(struct hmm_mm *mm)
{
	uint64_t lost;
	int ret;

	if (!mm)
		return 0;
	ret = mm_enter(mm);
	if (ret)
		return ret;
	lock_acquire(&mm->family->lock);
	ret = mm->family->nr_devmems && mm->family->nr_mms == 1 ? -EBUSY : 0;
	lock_release(&mm->family->lock);
	if (ret)
		return ret;
	lost = mm->stats.lost_pages;
	release_notifiers(mm);
	if (mm->remote)
		return remote_destroy(mm);
	leave_process(mm);
	await_users(mm);
	/* A handler that ends may unmap memory of its own: nobody would read of that. */
	lock_acquire(&mm->lock);
	adopt_fill_all(mm);
	mm_release_all(mm, true);
	adopt_close(mm);
	lock_release(&mm->lock);
	await_changes(mm);
	handlers_stop(mm->family);
	mm->alive = 0;
	lost = mm->stats.lost_pages - lost;
	mm_tables_fini(mm);
	family_free(mm->family);
	close_files(mm);
	arena_free(mm, sizeof(*mm));
	return lost ? -EIO : 0;
}

/* ---------------------------------------------------------------- the small calls */

uint64_t hmm_mm_flags(const struct hmm_mm *mm)
{
	return mm && mm->alive == MM_ALIVE ? mm->flags : 0;
}

size_t hmm_page_size(void)
{
	return sys_page_size();
}

uintptr_t hmm_user_end(void)
{
	return sys_task_size();
}

const char *hmm_version(void)
{
	return HMM_VERSION_STRING;
}

const char *hmm_reason_name(enum hmm_reason reason)
{
	static const char *const names[] = {
		[HMM_REASON_NONE] = "none",	    [HMM_REASON_PINNED] = "pinned",
		[HMM_REASON_SHARED] = "shared",	    [HMM_REASON_FILE] = "file",
		[HMM_REASON_LOCKED] = "locked",	    [HMM_REASON_FOREIGN] = "foreign",
		[HMM_REASON_RESERVED] = "reserved", [HMM_REASON_PROT] = "prot",
		[HMM_REASON_GAP] = "gap",	    [HMM_REASON_BUSY] = "busy",
		[HMM_REASON_NOMEM] = "nomem",	    [HMM_REASON_DEVICE] = "device",
		[HMM_REASON_COPY] = "copy",	    [HMM_REASON_KERNEL] = "kernel",
		[HMM_REASON_HUGETLB] = "hugetlb",
	};
	_Static_assert(ARRAY_SIZE(names) == HMM_REASONS, "name every reason");

	return (unsigned int)reason < HMM_REASONS ? names[reason] : "?";
}

static uint64_t metadata_bytes(struct hmm_mm *mm)
{
	const int pagemap_fd = mm->family->pagemap_fd;
	uint64_t bytes = directory_bytes(&mm->dir, pagemap_fd);

	for (uint32_t id = 1; id < DEVMEMS; id++) {
		struct hmm_devmem *d = devmem_use(mm->family, id);

		if (!d)
			continue;
		bytes += devmem_bytes(d, pagemap_fd);
		devmem_unuse(d);
	}
	return bytes;
}

int hmm_mm_stats(struct hmm_mm *mm, struct hmm_stats *stats)
{
	struct hmm_stats s;
	uint64_t size;
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!stats || stats->size < sizeof(size) || stats->size > OPTS_SIZE_MAX)
		return -EINVAL;
	lock_acquire(&mm->lock);
	s = mm->stats;
	s.device_pages = mm->dir.count[PAGE_DEVICE] + mm->dir.count[PAGE_COHERENT];
	s.exclusive_pages = mm->dir.count[PAGE_EXCLUSIVE];
	s.metadata_bytes = metadata_bytes(mm);
	lock_release(&mm->lock);
	size = stats->size;
	s.size = size;
	memset(stats, 0, size);
	memcpy(stats, &s, size < sizeof(s) ? size : sizeof(s));
	return 0;
}

int hmm_mm_fault_times(struct hmm_mm *mm, struct hmm_times *times)
{
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	if (!times || times->size != sizeof(*times))
		return -EINVAL;
	lock_acquire(&mm->lock);
	*times = mm->fault_times;
	lock_release(&mm->lock);
	times->size = sizeof(*times);
	return 0;
}

static int copy_args(const struct hmm_mm *mm, const void *p, uintptr_t addr, size_t len)
{
	int ret = mm_enter(mm);

	if (ret)
		return ret;
	return p && len <= PTRDIFF_MAX && addr <= UINTPTR_MAX - len ? 0 : -EINVAL;
}

/*
 * How much of the range there is before a lost page: where the kernel has no marker
 * for one, a copy by it would wait for bytes that never come.
 */
static size_t before_lost(struct hmm_mm *mm, uintptr_t addr, size_t len)
{
	uintptr_t a = addr & ~(mm->page - 1), end = addr + len;

	if (mm->can_poison)
		return len;
	if (end > sys_task_size())
		end = sys_task_size();	/* nothing of ours is beyond: it would be looked for for ever */
	lock_acquire(&mm->lock);
	for (a = directory_next(&mm->dir, a, end); a < end;
	     a = directory_next(&mm->dir, a + mm->page, end))
		if (entry_state(directory_get(&mm->dir, a)) == PAGE_LOST)
			break;
	lock_release(&mm->lock);
	return a >= end ? len : a > addr ? a - addr : 0;
}

/* Longer copies the kernel cuts off at 2 GiB. */
#define COPY_PIECE	((size_t)1 << 30)

static size_t piece_of(size_t left)
{
	return left < COPY_PIECE ? left : COPY_PIECE;
}

int64_t hmm_copy_from_user(struct hmm_mm *mm, void *dst, uintptr_t addr, size_t len)
{
	int ret = copy_args(mm, dst, addr, len);
	int64_t got = -EFAULT;
	size_t done = 0;

	if (ret || !len)
		return ret;
	len = before_lost(mm, addr, len);
	while (done < len) {
		got = mm->ops->copy_from(mm, (char *)dst + done, addr + done, piece_of(len - done));
		if (got <= 0)
			break;
		done += (size_t)got;
	}
	return done ? (int64_t)done : got;
}

int64_t hmm_copy_to_user(struct hmm_mm *mm, uintptr_t addr, const void *src, size_t len)
{
	int ret = copy_args(mm, src, addr, len);
	int64_t got = -EFAULT;
	size_t done = 0;

	if (ret || !len)
		return ret;
	len = before_lost(mm, addr, len);
	while (done < len) {
		got = mm->ops->copy_to(mm, addr + done, (const char *)src + done,
				       piece_of(len - done));
		if (got <= 0)
			break;
		done += (size_t)got;
	}
	return done ? (int64_t)done : got;
}
