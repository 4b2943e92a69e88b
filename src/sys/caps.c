// SPDX-License-Identifier: MIT
/*
 * What this kernel lets this user do, found by doing it on scratch memory.
 *
 * A probe leaves no mapping, descriptor, thread or child behind and changes nothing
 * of the process. In particular none forks: a fork takes from every page of the
 * program the exclusiveness that UFFDIO_MOVE needs, and the child's exit does not
 * give it back. No probe may ask sys_cap(): the table is being made.
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "sys/internal.h"
#include "sys/sys.h"

/* ---------------------------------------------------------------- scratch */

/* Two pages of anonymous memory, each a mapping's worth, and a userfaultfd. */
struct scratch {
	char *page[2];
	size_t size;		/* of one */
	uint64_t have;		/* features of the userfaultfd */
	int fd;
};

static void scratch_drop(struct scratch *s)
{
	sys_close(s->fd);
	sys_munmap(s->page[0], 2 * s->size);
}

/* Without a userfaultfd: @fd is -1. */
static int scratch_make(struct scratch *s)
{
	void *mem;
	int ret;

	s->fd = -1;
	s->have = 0;
	s->size = sys_page_size();
	ret = sys_map_anon(2 * s->size, &mem);
	if (ret)
		return ret;
	s->page[0] = mem;
	s->page[1] = (char *)mem + s->size;
	return 0;
}

/* The first page is registered. A refusal is an answer and leaves nothing to drop. */
static int scratch_register(struct scratch *s, uint64_t features, uint64_t mode)
{
	int ret;

	ret = scratch_make(s);
	if (ret)
		return ret;
	s->fd = sys_uffd_open_any(features, true, &s->have);
	ret = s->fd < 0 ? s->fd : sys_uffd_register(s->fd, (uintptr_t)s->page[0], s->size, mode);
	if (ret)
		scratch_drop(s);
	return ret;
}

/*
 * Have the kernel store to @addr. On a userfaultfd with the SIGBUS feature a fault
 * that would be delivered ends it with -EFAULT, so no second thread is needed.
 */
static int kernel_store(void *addr)
{
	return (int)sys_ret(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, addr));
}

/* Have it load the name of a file from there, which no file has. */
static int kernel_load(const void *addr)
{
	return (int)sys_ret(syscall(SYS_openat, -1L, addr, (long)O_PATH));
}

/* ---------------------------------------------------------------- userfaultfd */

static int probe_uffd(void)
{
	struct scratch s;
	size_t done;
	int yes;

	if (scratch_register(&s, UFFD_FEATURE_SIGBUS, SYS_UFFD_MISSING))
		return 0;
	s.page[1][0] = 7;
	yes = kernel_store(s.page[0]) == -EFAULT &&
	      sys_uffd_copy(s.fd, (uintptr_t)s.page[0], s.page[1], s.size, 0, &done) == 0 &&
	      s.page[0][0] == 7;
	scratch_drop(&s);
	return yes;
}

static int probe_owners(void)
{
	struct uffdio_range range;
	struct scratch s;
	int other, yes;

	if (scratch_register(&s, 0, SYS_UFFD_MISSING))
		return 0;
	range.start = (uintptr_t)s.page[0];
	range.len = s.size;
	other = sys_uffd_open_any(0, true, NULL);
	yes = other >= 0 && ioctl(other, UFFDIO_UNREGISTER, &range) != 0;
	sys_close(other);
	scratch_drop(&s);
	return yes;
}

static int handshake(uint64_t features, bool user_only)
{
	int fd = sys_uffd_open_any(features, user_only, NULL);

	sys_close(fd);
	return fd >= 0;
}

static int probe_uffd_kernel(void)
{
	return handshake(0, false);
}

static int probe_events(void)
{
	return handshake(UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP |
			 UFFD_FEATURE_EVENT_REMOVE, true);
}

static struct pending {
	struct scratch s;
	char *stack;
	uint64_t cookie;
	bool begun;		/* there may be a caller, and it may live on */
	_Atomic bool returned;	/* the call, whatever it said */
	bool yes;
} pending;

/* Beside its parent, as trial_caller(), and without its own copy for the same reason. */
__attribute__((no_sanitize("address"), no_sanitize("thread"), no_sanitize("undefined")))
static int remap_onto(void *arg)
{
	struct pending *p = arg;
	const struct scratch *s = &p->s;

	syscall(SYS_close, (long)s->fd);
	syscall(SYS_mremap, s->page[0], s->size, s->size,
		(long)MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, s->page[1], p->cookie);
	atomic_store_explicit(&p->returned, true, memory_order_relaxed);
	return 0;
}

static bool pending_event(struct pending *p)
{
	bool got = false, ignored;

	for (int ms = 0; ms < 2000 && !got; ms += 10) {
		if (atomic_load_explicit(&p->returned, memory_order_relaxed) ||
		    sys_poll2(p->s.fd, -1, 10, &got, &ignored) < 0)
			return false;
	}
	return got;
}

/*
 * A mapping that is moved onto another raises an event for what was there and one for
 * what came. The place it left stays mapped: left free, another thread of the program's
 * might take it, and lose it when the scratch is dropped. In a child: signals are blocked.
 */
static int pending_run(void *arg)
{
	struct pending *p = arg;
	struct uffd_msg msg;
	int pid;

	p->begun = true;
	pid = sys_start_child(remap_onto, p, p->stack);
	if (pid < 0)
		return 0;
	for (int event = 0; event < 2; event++) {
		bool there = pending_event(p);

		if (there && event == 1)
			p->yes = sys_uffd_changing(p->s.fd);
		if (there && sys_uffd_read(p->s.fd, &msg, 1) == 1)
			continue;
		p->yes = false;
		kill(pid, SIGKILL);
		break;
	}
	syscall(SYS_wait4, (long)pid, NULL, (long)__WALL, NULL);
	return 0;
}

/*
 * Not unmapped as it is: that would raise an event, which waits to be read for as long as
 * anybody has the userfaultfd, also a child that another thread has forked meanwhile.
 */
static void pending_drop(struct pending *p)
{
	struct uffdio_range range = { (uintptr_t)p->s.page[0], 2 * p->s.size };

	(void)ioctl(p->s.fd, UFFDIO_UNREGISTER, &range);
	scratch_drop(&p->s);
}

static int probe_pending(void)
{
	const size_t size = 65536;
	struct pending *p = &pending;
	void *stack;
	int ret;

	if (scratch_register(&p->s, UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP,
			     SYS_UFFD_MISSING))
		return 0;
	ret = sys_uffd_register(p->s.fd, (uintptr_t)p->s.page[1], p->s.size, SYS_UFFD_MISSING);
	if (!ret)
		ret = sys_map_anon(size, &stack);
	if (ret) {
		pending_drop(p);
		return ret;
	}
	p->cookie = sys_cookie();
	p->stack = (char *)stack + size;
	ret = sys_call_in_child(pending_run, p);
	if (ret < 0 && p->begun) {
		/* Killed: a caller that it has left behind needs all of this. */
		sys_close(p->s.fd);
		return ret;
	}
	sys_munmap(stack, size);
	pending_drop(p);
	return ret < 0 ? ret : p->yes;
}

static int probe_fork_event(void)
{
	return handshake(UFFD_FEATURE_EVENT_FORK, true);
}

static int probe_thread_id(void)
{
	return handshake(UFFD_FEATURE_THREAD_ID, true);
}

/* 5.10 on arm64 offers, registers and protects, and lets every write through. */
static int probe_wp(void)
{
	struct scratch s;
	int yes;

	if (scratch_register(&s, UFFD_FEATURE_SIGBUS, SYS_UFFD_WP))
		return 0;
	s.page[0][0] = 7;
	yes = sys_uffd_writeprotect(s.fd, (uintptr_t)s.page[0], s.size, true) == 0 &&
	      kernel_store(s.page[0]) == -EFAULT &&
	      sys_uffd_writeprotect(s.fd, (uintptr_t)s.page[0], s.size, false) == 0 &&
	      kernel_store(s.page[0]) == 0;
	scratch_drop(&s);
	return yes;
}

static int probe_move(void)
{
	struct scratch s;
	size_t done;
	int yes;

	if (scratch_register(&s, 0, SYS_UFFD_MISSING))
		return 0;
	s.page[1][0] = 7;
	yes = sys_uffd_move(s.fd, (uintptr_t)s.page[0], (uintptr_t)s.page[1], s.size, 0,
			    &done) == 0 &&
	      done == s.size && s.page[0][0] == 7 && s.page[1][0] == 0;
	scratch_drop(&s);
	return yes;
}

/* A kernel without it resolves the store by the SIGBUS feature, so the ioctl decides. */
static int probe_poison(void)
{
	struct scratch s;
	int yes;

	if (scratch_register(&s, UFFD_FEATURE_SIGBUS, SYS_UFFD_MISSING))
		return 0;
	yes = sys_uffd_poison(s.fd, (uintptr_t)s.page[0], s.size) == 0 &&
	      kernel_store(s.page[0]) == -EFAULT;
	scratch_drop(&s);
	return yes;
}

static int probe_rwp(void)
{
	struct scratch s;
	int yes;

	if (scratch_register(&s, UFFD_FEATURE_SIGBUS | UHMM_UFFD_FEATURE_RWP, SYS_UFFD_RWP))
		return 0;
	s.page[0][0] = 7;
	yes = sys_uffd_rwprotect(s.fd, (uintptr_t)s.page[0], s.size, true) == 0 &&
	      kernel_load(s.page[0]) == -EFAULT && kernel_store(s.page[0]) == -EFAULT &&
	      sys_uffd_rwprotect(s.fd, (uintptr_t)s.page[0], s.size, false) == 0 &&
	      s.page[0][0] == 7;
	scratch_drop(&s);
	return yes;
}

/* ---------------------------------------------------------------- memory */

static int probe_dontunmap(void)
{
	struct scratch s;
	int yes;

	if (scratch_make(&s))
		return -ENOMEM;
	s.page[0][0] = 7;
	yes = sys_mremap_dontunmap((uintptr_t)s.page[0], s.size, (uintptr_t)s.page[1]) == 0 &&
	      s.page[1][0] == 7 && s.page[0][0] == 0;
	scratch_drop(&s);
	return yes;
}

static int probe_populate(void)
{
	struct scratch s;
	unsigned char there[2];
	int yes;

	if (scratch_make(&s))
		return -ENOMEM;
	yes = sys_madvise(s.page[0], s.size, UHMM_MADV_POPULATE_WRITE) == 0 &&
	      sys_madvise(s.page[1], s.size, UHMM_MADV_POPULATE_READ) == 0 &&
	      mincore(s.page[0], 2 * s.size, there) == 0 && (there[0] & there[1] & 1);
	scratch_drop(&s);
	return yes;
}

static int probe_process_vm(void)
{
	char from = 7, to = 0;
	struct iovec local = { &to, 1 }, remote = { &from, 1 };
	long pid = getpid();

	if (syscall(SYS_process_vm_readv, pid, &local, 1L, &remote, 1L, 0L) != 1 || to != 7)
		return 0;
	from = 0;
	return syscall(SYS_process_vm_writev, pid, &local, 1L, &remote, 1L, 0L) == 1 &&
	       *(volatile char *)&from == 7;
}

static int probe_pagemap_scan(void)
{
	struct uhmm_page_region region = { 0 };
	struct uhmm_pm_scan_arg arg = {
		.size = sizeof(arg),
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_anyof_mask = UHMM_PAGE_IS_PRESENT | UHMM_PAGE_IS_SWAPPED,
		.return_mask = UHMM_PAGE_IS_PRESENT | UHMM_PAGE_IS_HUGE | UHMM_PAGE_IS_PFNZERO,
	};
	struct scratch s;
	int fd, yes;

	if (scratch_make(&s))
		return -ENOMEM;
	s.page[0][0] = 7;
	arg.start = (uintptr_t)s.page[0];
	arg.end = arg.start + 2 * s.size;
	fd = sys_pagemap_open();
	yes = fd >= 0 && ioctl(fd, UHMM_PAGEMAP_SCAN, &arg) == 1 && region.start == arg.start &&
	      (region.categories & UHMM_PAGE_IS_PRESENT) && arg.walk_end == arg.end;
	sys_close(fd);
	scratch_drop(&s);
	return yes;
}

static int probe_procmap_query(void)
{
	struct uhmm_procmap_query query = {
		.size = sizeof(query),
		.query_flags = UHMM_PROCMAP_COVERING_OR_NEXT,
	};
	struct scratch s;
	int fd, yes;

	if (scratch_make(&s))
		return -ENOMEM;
	query.query_addr = (uintptr_t)s.page[1];
	fd = sys_maps_open();
	yes = fd >= 0 && ioctl(fd, UHMM_PROCMAP_QUERY, &query) == 0 &&
	      query.vma_start <= (uintptr_t)s.page[0] &&
	      query.vma_end >= (uintptr_t)s.page[1] + s.size;
	sys_close(fd);
	scratch_drop(&s);
	return yes;
}

/* Registering is for ever and harmless: it makes the barrier known to the scheduler. */
static int probe_membarrier(void)
{
	return sys_membarrier_register() == 0 && sys_membarrier() == 0;
}

/* ---------------------------------------------------------------- seccomp */

/* What the child that plays the filter through found out, and its own child's stack. */
struct trial {
	char *stack;
	int listener;
	pid_t caller;		/* what getppid() said to the process that was notified */
	bool notify, killable, sync_wake;
};

static struct trial trial;	/* under the once */

static int trial_filter(struct trial *t)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_SIZE(code), code };
	unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
	int fd;

	fd = (int)sys_ret(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
				  flags | UHMM_SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &prog));
	t->killable = fd >= 0;
	if (fd == -EINVAL)
		fd = (int)sys_ret(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog));
	return fd;
}

/*
 * It runs beside its parent on the same thread-local storage, so nothing here may use
 * that: neither errno, which a successful call leaves alone, nor a sanitizer.
 */
__attribute__((no_sanitize("address"), no_sanitize("thread"), no_sanitize("undefined")))
static int trial_caller(void *arg)
{
	struct trial *t = arg;

	/* Its own copy: should who is to answer be killed, nobody else has one. */
	syscall(SYS_close, (long)t->listener);
	t->caller = (pid_t)syscall(SYS_getppid);
	return 0;
}

/* The buffers are larger than any kernel's structs have been; see seccomp_unotify(2). */
static bool trial_continue(int listener)
{
	union {
		struct seccomp_notif notif;
		char room[512];
	} in;
	union {
		struct seccomp_notif_resp resp;
		char room[512];
	} out;
	bool got, ignored;

	memset(&in, 0, sizeof(in));
	memset(&out, 0, sizeof(out));
	if (sys_poll2(listener, -1, 2000, &got, &ignored) <= 0 || !got)
		return false;
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &in) != 0)
		return false;
	out.resp.id = in.notif.id;
	out.resp.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &out) == 0;
}

/* In a child: the filter and no_new_privs die with it. */
static int trial_run(void *arg)
{
	struct trial *t = arg;
	uint64_t sync_wake = UHMM_SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP;
	int listener, pid;
	bool continued;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L))
		return 0;
	listener = trial_filter(t);
	if (listener < 0)
		return 0;
	t->listener = listener;
	t->sync_wake = ioctl(listener, UHMM_SECCOMP_IOCTL_NOTIF_SET_FLAGS, sync_wake) == 0;
	pid = sys_start_child(trial_caller, t, t->stack);
	if (pid < 0)
		return 0;
	continued = trial_continue(listener);
	if (!continued)
		kill(pid, SIGKILL);
	syscall(SYS_wait4, (long)pid, NULL, (long)__WALL, NULL);
	t->notify = continued && t->caller == getpid();
	return 0;
}

static int probe_seccomp_notify(void)
{
	const size_t size = 65536;
	void *stack;
	int ret;

	ret = sys_map_anon(size, &stack);
	if (ret)
		return ret;
	trial.stack = (char *)stack + size;
	ret = sys_call_in_child(trial_run, &trial);
	sys_munmap(stack, size);
	return ret < 0 ? ret : trial.notify;
}

/* After the one above, by the order of the table. */
static int probe_seccomp_killable(void)
{
	return trial.notify && trial.killable;
}

static int probe_seccomp_sync_wake(void)
{
	return trial.notify && trial.sync_wake;
}

/* ---------------------------------------------------------------- the table */

static const struct sys_cap_desc table[CAP_NR] = {
	[CAP_UFFD] = {
		"uffd", "4.3", "everything: no page can be away",
		"run a kernel with CONFIG_USERFAULTFD and a sandbox that allows userfaultfd",
		probe_uffd },
	[CAP_UFFD_KERNEL] = {
		"uffd-kernel", "4.3", "system calls on a page that is away fail with EFAULT",
		"sudo setfacl -m u:$USER:rw /dev/userfaultfd", probe_uffd_kernel },
	[CAP_UFFD_WP] = {
		"uffd-wp", "5.7", "nothing in this version",
		NULL, probe_wp },
	[CAP_UFFD_OWNERS] = {
		"uffd-owners", "6.17", "one more call to let go of a mapping",
		NULL, probe_owners },
	[CAP_UFFD_EVENTS] = {
		"uffd-events", "4.11", "changes of mappings are seen in strict mode only",
		NULL, probe_events },
	[CAP_UFFD_PENDING] = {
		"uffd-pending", "5.15", "a mapping that had pages away is never let go (not strict)",
		NULL, probe_pending },
	[CAP_FORK_EVENT] = {
		"fork-event", "4.11", "pages that are away, for the child of a raw clone (not strict)",
		"sudo setcap cap_sys_ptrace+ep PROGRAM", probe_fork_event },
	[CAP_THREAD_ID] = {
		"thread-id", "4.14", "faults do not name their thread", NULL, probe_thread_id },
	[CAP_DONTUNMAP] = {
		"dontunmap", "5.7", "migration without MOVE, and of read-only pages",
		NULL, probe_dontunmap },
	[CAP_POPULATE] = {
		"populate", "5.14", "faulting in by range: a touch per page instead",
		NULL, probe_populate },
	[CAP_MOVE] = {
		"uffdio-move", "6.8", "migration without copying, and safety for pinned pages",
		NULL, probe_move },
	[CAP_POISON] = {
		"uffdio-poison", "6.6", "EFAULT from a system call on a lost page: it waits",
		NULL, probe_poison },
	[CAP_PAGEMAP_SCAN] = {
		"pagemap-scan", "6.7", "fast snapshots, and (without CAP_SYS_ADMIN) telling zero pages from others",
		NULL, probe_pagemap_scan },
	[CAP_PROCMAP_QUERY] = {
		"procmap-query", "6.11", "fast look-up of a mapping: /proc/self/maps is parsed",
		NULL, probe_procmap_query },
	[CAP_SECCOMP_NOTIFY] = {
		"seccomp-notify", "5.5", "strict mode",
		"run outside of anything that has a seccomp listener already",
		probe_seccomp_notify },
	[CAP_SECCOMP_KILLABLE] = {
		"seccomp-killable", "5.19", "strict mode: a signal can make a call be announced twice",
		NULL, probe_seccomp_killable },
	[CAP_SECCOMP_SYNC_WAKE] = {
		"seccomp-sync-wake", "6.6", "strict mode: announcing a call takes about ten times as long",
		NULL, probe_seccomp_sync_wake },
	[CAP_PROCESS_VM] = {
		"process-vm", "3.2", "fast guarded copies: they go through a pipe",
		"run a kernel with CONFIG_CROSS_MEMORY_ATTACH", probe_process_vm },
	[CAP_MEMBARRIER] = {
		"membarrier", "4.14", "cheap barriers on rare paths", NULL, probe_membarrier },
	[CAP_RWP] = {
		"uffd-rwp", "7.3", "nothing in this version",
		NULL, probe_rwp },
};

/* What a masked or missing capability takes with it. */
static const struct {
	enum sys_cap cap, needs;
} needs[] = {
	{ CAP_UFFD_KERNEL, CAP_UFFD },
	{ CAP_UFFD_WP, CAP_UFFD },
	{ CAP_UFFD_OWNERS, CAP_UFFD },
	{ CAP_UFFD_EVENTS, CAP_UFFD },
	{ CAP_UFFD_PENDING, CAP_UFFD_EVENTS },
	{ CAP_FORK_EVENT, CAP_UFFD },
	{ CAP_THREAD_ID, CAP_UFFD },
	{ CAP_MOVE, CAP_UFFD },
	{ CAP_POISON, CAP_UFFD },
	{ CAP_RWP, CAP_UFFD },
	{ CAP_SECCOMP_KILLABLE, CAP_SECCOMP_NOTIFY },
	{ CAP_SECCOMP_SYNC_WAKE, CAP_SECCOMP_NOTIFY },
};

/* ---------------------------------------------------------------- the answers */

#define PROBED	BIT(63)

_Static_assert(CAP_NR < 63, "capabilities and PROBED fit one word");

static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic uint64_t usable;		/* with PROBED, once known */
static uint64_t present;		/* these two: written under the once */
static char unknown[64];

static uint64_t with_needs(uint64_t caps)
{
	for (size_t i = 0; i < ARRAY_SIZE(needs); i++)
		if (!(caps & BIT(needs[i].needs)))
			caps &= ~BIT(needs[i].cap);
	return caps;
}

static bool is_separator(char c)
{
	return c == ',' || c == ' ' || c == '\t' || c == '\n';
}

/* The bit of "-name", or 0. */
static uint64_t mask_bit(const char *word, size_t len)
{
	if (word[0] != '-')
		return 0;
	for (unsigned int cap = 0; cap < CAP_NR; cap++)
		if (strlen(table[cap].name) == len - 1 &&
		    memcmp(table[cap].name, word + 1, len - 1) == 0)
			return BIT(cap);
	return 0;
}

static uint64_t parse_mask(const char *text)
{
	uint64_t mask = 0, bit;
	size_t len;

	while (*text) {
		if (is_separator(*text)) {
			text++;
			continue;
		}
		for (len = 0; text[len] && !is_separator(text[len]); len++)
			;
		bit = mask_bit(text, len);
		mask |= bit;
		if (!bit && !unknown[0])
			memcpy(unknown, text, len < sizeof(unknown) ? len : sizeof(unknown) - 1);
		text += len;
	}
	return mask;
}

static void probe_all(void)
{
	const char *text = getenv("UHMM_CAPS");
	uint64_t mask = text ? parse_mask(text) : 0;

	for (unsigned int cap = 0; cap < CAP_NR; cap++)
		if (table[cap].probe() > 0)
			present |= BIT(cap);
	present = with_needs(present);
	/* Release: pairs with the acquire of caps(), for the two above. */
	atomic_store_explicit(&usable, with_needs(present & ~mask) | PROBED, memory_order_release);
}

static uint64_t caps(void)
{
	uint64_t now = atomic_load_explicit(&usable, memory_order_acquire);

	if (__builtin_expect(now & PROBED, 1))
		return now;
	pthread_once(&once, probe_all);
	return atomic_load_explicit(&usable, memory_order_acquire);
}

const struct sys_cap_desc *sys_cap_desc(enum sys_cap cap)
{
	return (unsigned int)cap < CAP_NR ? &table[cap] : NULL;
}

bool sys_cap(enum sys_cap cap)
{
	return (unsigned int)cap < CAP_NR && (caps() & BIT(cap));
}

bool sys_cap_unmasked(enum sys_cap cap)
{
	caps();
	return (unsigned int)cap < CAP_NR && (present & BIT(cap));
}

const char *sys_caps_unknown(void)
{
	caps();
	return unknown[0] ? unknown : NULL;
}
