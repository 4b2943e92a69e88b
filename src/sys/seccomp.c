// SPDX-License-Identifier: MIT
/*
 * The filter on the calls that change a mapping, its listener, and what a listener
 * needs to know of a caller.
 */
#include "sys/seccomp.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/kcmp.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/shm.h>

#include "sys/internal.h"
#include "sys/keeper.h"
#include "sys/sys.h"

/* ---------------------------------------------------------------- the filter */

#if defined(__x86_64__)
#define NATIVE_ARCH	AUDIT_ARCH_X86_64
/* x32 has the same numbers for these calls, with a bit: see asm/unistd.h. */
#define NR_MASK		(~0x40000000U)
#elif defined(__aarch64__)
#define NATIVE_ARCH	AUDIT_ARCH_AARCH64
#define NR_MASK		(~0U)
#else
#error "no filter for this architecture"
#endif

#ifndef SECCOMP_FILTER_FLAG_TSYNC_ESRCH
#define SECCOMP_FILTER_FLAG_TSYNC_ESRCH	(1UL << 4)
#endif

/* Jump targets of the program, resolved once all of it is laid out. */
enum label {
	NEXT, ALLOW, NOTIFY, COOKIE, MMAP, MMAP_COOKIE, MADVISE, SHMAT, CLONE, IOCTL, LABELS
};

#define CODE_MAX	128

/* What a filter is about, besides changes of what is there. */
#define TREE		1u	/* all that its processes start, exec and their own userfaultfds */
#define NEW_MEMORY	2u	/* mmap of memory where nothing was, so large: */

#define NEW_MEMORY_BYTES	(128u << 10)	/* what malloc gives a mapping of its own */

struct program {
	struct sock_filter code[CODE_MAX];
	unsigned short len;
	unsigned short at[LABELS];
};

static void emit(struct program *p, unsigned int code, uint32_t k, enum label yes, enum label no)
{
	p->code[p->len++] = (struct sock_filter){ (unsigned short)code, (uint8_t)yes, (uint8_t)no, k };
}

static void place(struct program *p, enum label label)
{
	p->at[label] = p->len;
}

static void load(struct program *p, size_t offset)
{
	emit(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, NEXT, NEXT);
}

/* Both architectures are little-endian. */
static size_t low_half(int arg)
{
	return offsetof(struct seccomp_data, args) + (size_t)arg * 8;
}

static size_t high_half(int arg)
{
	return low_half(arg) + 4;
}

static void if_equal(struct program *p, uint32_t k, enum label yes, enum label no)
{
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, k, yes, no);
}

static void if_any_bit(struct program *p, uint32_t k, enum label yes, enum label no)
{
	emit(p, BPF_JMP | BPF_JSET | BPF_K, k, yes, no);
}

static void emit_calls(struct program *p, unsigned int what)
{
	static const unsigned int always[] = {
		SYS_munmap, SYS_mremap, SYS_mprotect, SYS_pkey_mprotect, SYS_brk,
		SYS_process_madvise, SYS_shmdt, SYS_remap_file_pages,
		SYS_mlock, SYS_mlock2, SYS_mlockall, SYS_clone3,
#ifdef SYS_fork
		SYS_fork,
#endif
	};

	load(p, offsetof(struct seccomp_data, arch));
	if_equal(p, NATIVE_ARCH, NEXT, ALLOW);
	load(p, offsetof(struct seccomp_data, nr));
	emit(p, BPF_ALU | BPF_AND | BPF_K, NR_MASK, NEXT, NEXT);
	for (size_t i = 0; i < ARRAY_SIZE(always); i++)
		if_equal(p, always[i], COOKIE, NEXT);
	if (what & TREE) {
		if_equal(p, SYS_execve, NOTIFY, NEXT);
		if_equal(p, SYS_execveat, NOTIFY, NEXT);
		if_equal(p, SYS_ioctl, IOCTL, NEXT);
	}
	if_equal(p, SYS_mmap, MMAP, NEXT);
	if_equal(p, SYS_madvise, MADVISE, NEXT);
	if_equal(p, SYS_shmat, SHMAT, NEXT);
	if_equal(p, SYS_clone, CLONE, ALLOW);
}

/* Private anonymous, writable and large. */
static void emit_new_mmap(struct program *p)
{
	load(p, low_half(3));
	emit(p, BPF_ALU | BPF_AND | BPF_K, MAP_TYPE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_GROWSDOWN,
	     NEXT, NEXT);
	if_equal(p, MAP_PRIVATE | MAP_ANONYMOUS, NEXT, ALLOW);
	load(p, low_half(2));
	if_any_bit(p, PROT_WRITE, NEXT, ALLOW);
	load(p, high_half(1));
	if_equal(p, 0, NEXT, MMAP_COOKIE);
	load(p, low_half(1));
	emit(p, BPF_JMP | BPF_JGE | BPF_K, NEW_MEMORY_BYTES, NEXT, ALLOW);
}

/* MAP_FIXED_NOREPLACE wins over MAP_FIXED where both are given. */
static void emit_mmap(struct program *p, uint64_t cookie, unsigned int what)
{
	place(p, MMAP);
	load(p, low_half(3));
	emit(p, BPF_ALU | BPF_AND | BPF_K, MAP_FIXED | MAP_FIXED_NOREPLACE, NEXT, NEXT);
	if_equal(p, MAP_FIXED, MMAP_COOKIE, what & NEW_MEMORY ? NEXT : ALLOW);
	if (what & NEW_MEMORY)
		emit_new_mmap(p);
	place(p, MMAP_COOKIE);
	load(p, high_half(4));
	if_equal(p, SYS_COOKIE_MMAP(cookie), ALLOW, NOTIFY);
}

static void emit_madvise(struct program *p)
{
	static const unsigned int zaps[] = {
		MADV_DONTNEED, MADV_FREE, MADV_REMOVE, UHMM_MADV_DONTNEED_LOCKED,
		UHMM_MADV_GUARD_INSTALL,
	};

	place(p, MADVISE);
	load(p, low_half(2));
	for (size_t i = 0; i < ARRAY_SIZE(zaps); i++)
		if_equal(p, zaps[i], COOKIE, i + 1 < ARRAY_SIZE(zaps) ? NEXT : ALLOW);
}

static void emit_rest(struct program *p, uint64_t cookie)
{
	place(p, SHMAT);
	load(p, low_half(2));
	if_any_bit(p, SHM_REMAP, COOKIE, ALLOW);
	place(p, CLONE);
	load(p, low_half(0));
	if_any_bit(p, CLONE_VM, ALLOW, COOKIE);
	place(p, IOCTL);
	load(p, low_half(1));
	if_equal(p, UFFDIO_REGISTER, NEXT, ALLOW);
	place(p, COOKIE);
	load(p, low_half(5));
	if_equal(p, (uint32_t)cookie, NEXT, NOTIFY);
	load(p, high_half(5));
	if_equal(p, (uint32_t)(cookie >> 32), ALLOW, NOTIFY);
	place(p, NOTIFY);
	emit(p, BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF, NEXT, NEXT);
	place(p, ALLOW);
	emit(p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, NEXT, NEXT);
}

static uint8_t distance(const struct program *p, unsigned int from, uint8_t label)
{
	return label == NEXT ? 0 : (uint8_t)(p->at[label] - from - 1);
}

static void program_build(struct program *p, uint64_t cookie, unsigned int what)
{
	p->len = 0;
	emit_calls(p, what);
	emit_mmap(p, cookie, what);
	emit_madvise(p);
	emit_rest(p, cookie);
	for (unsigned int i = 0; i < p->len; i++) {
		p->code[i].jt = distance(p, i, p->code[i].jt);
		p->code[i].jf = distance(p, i, p->code[i].jf);
	}
}

/* ---------------------------------------------------------------- installing */

static int install_once(unsigned int what, unsigned long flags)
{
	struct program program;
	struct sock_fprog prog;

	program_build(&program, sys_cookie(), what);
	prog.len = program.len;
	prog.filter = program.code;
	return (int)sys_ret(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
				    flags | SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog));
}

static int install(unsigned int what, unsigned long flags)
{
	int fd = install_once(what, flags);

	/* EACCES: neither CAP_SYS_ADMIN nor no_new_privs. */
	if (fd == -EACCES) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L))
			return -EPERM;
		fd = install_once(what, flags);
	}
	return fd;
}

static int install_error(int err)
{
	switch (err) {
	case -ESRCH:
		return -EBUSY;
	case -EACCES:
		return -EPERM;
	case -EINVAL:
	case -ENOSYS:
		return -EOPNOTSUPP;
	default:
		return err;
	}
}

/*
 * TSYNC puts the filter on the other threads, and no_new_privs with it. A thread
 * with a filter that this one has not cannot be joined to it: ESRCH.
 */
static int install_on_all(void)
{
	unsigned long flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
	int fd;

	if (sys_cap(CAP_SECCOMP_KILLABLE))
		flags |= UHMM_SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
	fd = install(0, flags);
	return fd < 0 ? install_error(fd) : fd;
}

int sys_seccomp_listen_tree(bool new_memory)
{
	const unsigned int what = TREE | (new_memory ? NEW_MEMORY : 0);
	int fd = install(what, UHMM_SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);

	if (fd == -EINVAL)	/* before 5.19 */
		fd = install(what, 0);
	return fd < 0 ? install_error(fd) : fd;
}

void sys_seccomp_sync_wake(int listener)
{
	uint64_t sync_wake = UHMM_SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP;

	/* Refused: slower wake-ups, nothing else. */
	ioctl(listener, UHMM_SECCOMP_IOCTL_NOTIF_SET_FLAGS, sync_wake);
}

/*
 * One listener per process, as the kernel has it: the keeper's end between listen
 * and keeper, and the id last received, where the keeper can read it (NULL: there is
 * no keeper).
 */
static _Atomic int keeper_sock = -1;
static _Atomic(_Atomic uint64_t *) last_id;

int sys_seccomp_listen(void)
{
	int fd, sock;

	if (!sys_cap(CAP_SECCOMP_NOTIFY))
		return -EOPNOTSUPP;
	sock = keeper_start();
	if (sock < 0)
		return sock;
	fd = install_on_all();
	if (fd < 0) {
		close(sock);
		return fd;
	}
	sys_close(atomic_exchange(&keeper_sock, sock));
	if (sys_cap(CAP_SECCOMP_SYNC_WAKE))
		sys_seccomp_sync_wake(fd);
	return fd;
}

/* One page that this process writes and the keeper reads by descriptor. */
static int share_last_id(_Atomic uint64_t **out)
{
	size_t page = sys_page_size();
	long mem;
	int fd;

	fd = (int)sys_ret(syscall(SYS_memfd_create, "uhmm-last-id", (long)MFD_CLOEXEC));
	if (fd < 0)
		return fd;
	mem = sys_ret(ftruncate(fd, (off_t)page));
	if (!mem)
		mem = sys_cookie_call(SYS_mmap, 0, page, PROT_READ | PROT_WRITE, MAP_SHARED,
				      sys_mmap_fd(sys_cookie(), fd), 0);
	if (mem < 0 && mem > -4096) {
		close(fd);
		return (int)mem;
	}
	*out = (_Atomic uint64_t *)mem;
	return fd;
}

int sys_seccomp_keeper(int listener)
{
	_Atomic uint64_t *shared = NULL;
	int fds[KEEPER_FDS];
	int sock = atomic_exchange(&keeper_sock, -1);
	int ret;

	if (sock < 0)
		return -EINVAL;
	fds[KEEPER_LISTENER] = listener;
	fds[KEEPER_PIDFD] = (int)sys_ret(syscall(SYS_pidfd_open, (long)getpid(), 0L));
	fds[KEEPER_LAST] = share_last_id(&shared);
	ret = fds[KEEPER_PIDFD] < 0 ? fds[KEEPER_PIDFD] : fds[KEEPER_LAST] < 0 ? fds[KEEPER_LAST] : 0;
	if (!ret)
		ret = keeper_hand_over(sock, fds);
	else
		close(sock);
	sys_close(fds[KEEPER_PIDFD]);
	sys_close(fds[KEEPER_LAST]);
	if (!ret)
		atomic_store(&last_id, shared);
	else if (shared)
		sys_munmap((void *)shared, sys_page_size());
	return ret;
}

/* ---------------------------------------------------------------- calls */

/* Larger than any kernel's struct has been: the kernel reads and writes its own size. */
union notif_room {
	struct seccomp_notif notif;
	char room[512];
};

union resp_room {
	struct seccomp_notif_resp resp;
	char room[128];
};

static bool listener_dead(int listener)
{
	struct pollfd wait = { .fd = listener };

	return poll(&wait, 1, 0) == 1 && (wait.revents & POLLHUP);
}

int sys_seccomp_recv(int listener, struct sys_notif *notif)
{
	_Atomic uint64_t *last = atomic_load_explicit(&last_id, memory_order_acquire);
	union notif_room in;
	int ret;

	memset(&in, 0, sizeof(in));
	ret = (int)sys_ret(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &in));
	if (ret == -ENOENT && listener_dead(listener))
		return -ECANCELED;
	if (ret)
		return ret;
	if (last)
		atomic_store_explicit(last, in.notif.id, memory_order_relaxed);
	notif->id = in.notif.id;
	notif->tid = in.notif.pid;
	notif->nr = in.notif.data.nr;
	for (size_t i = 0; i < ARRAY_SIZE(notif->args); i++)
		notif->args[i] = in.notif.data.args[i];
	return 0;
}

static int respond(int listener, uint64_t id, int64_t value, int32_t error, uint32_t flags)
{
	union resp_room out;

	memset(&out, 0, sizeof(out));
	out.resp.id = id;
	out.resp.val = value;
	out.resp.error = error;
	out.resp.flags = flags;
	return (int)sys_ret(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &out));
}

int sys_seccomp_continue(int listener, uint64_t id)
{
	return respond(listener, id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
}

int sys_seccomp_answer(int listener, uint64_t id, int64_t value)
{
	if (value < 0 && value >= -4095)
		return respond(listener, id, 0, (int32_t)value, 0);
	return respond(listener, id, value, 0, 0);
}

bool sys_seccomp_waits(int listener, uint64_t id)
{
	return sys_ret(ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id)) == 0;
}

void sys_seccomp_pass(int nr, uint64_t args[6])
{
	if ((nr & NR_MASK) == SYS_mmap)
		args[4] = sys_mmap_fd(sys_cookie(), (int)args[4]);
	else
		args[5] = sys_cookie();
}

int64_t sys_seccomp_perform(const struct sys_notif *notif)
{
	uint64_t a[6];

	switch (notif->nr & NR_MASK) {
#ifdef SYS_fork
	case SYS_fork:
#endif
	case SYS_clone:
	case SYS_clone3:
		return -EOPNOTSUPP;	/* the child would be a copy of this thread */
	default:
		memcpy(a, notif->args, sizeof(a));
		sys_seccomp_pass(notif->nr, a);
	}
	return sys_cookie_call(notif->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* ---------------------------------------------------------------- callers */

/*
 * Without kcmp(2): what we write is seen over there only in the same memory. A fork
 * may have copied any value, but not one that is drawn now.
 */
static bool sees_our_memory(uint32_t tid)
{
	static _Thread_local volatile uint64_t nonce;
	uint64_t seen = 0, drawn;
	struct iovec local = { &seen, sizeof(seen) };
	struct iovec remote = { (void *)&nonce, sizeof(nonce) };

	if (getrandom(&drawn, sizeof(drawn), GRND_NONBLOCK) != sizeof(drawn))
		drawn = sys_now_ns();
	nonce = drawn;
	return syscall(SYS_process_vm_readv, (long)tid, &local, 1L, &remote, 1L, 0L) ==
		       sizeof(seen) && seen == drawn;
}

/*
 * Where both calls are forbidden the caller has other credentials than we, which it
 * got by exec, and exec gave it other memory.
 */
bool sys_shares_mm(uint32_t tid)
{
	long ret;

	if (sys_thread_is_ours(tid))
		return true;
	ret = syscall(SYS_kcmp, (long)getpid(), (long)tid, (long)KCMP_VM, 0L, 0L);
	return ret >= 0 ? ret == 0 : sees_our_memory(tid);
}

static char *print_uint(char *end, uint32_t value)
{
	do {
		*--end = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	return end;
}

/*
 * "running" is a thread on a CPU, which can be in user space or deep in the call: it
 * counts as inside, for the answer is used to wait until the call has ended.
 */
bool sys_in_syscall(uint32_t tid, int nr)
{
	static const char head[] = "/proc/", tail[] = "/syscall";
	char path[40], number[16], text[64];
	char *end = number + sizeof(number);
	char *digits = print_uint(end, tid);
	size_t len = (size_t)(end - digits);
	long got, value = 0;
	int fd;

	memcpy(path, head, sizeof(head) - 1);
	memcpy(path + sizeof(head) - 1, digits, len);
	memcpy(path + sizeof(head) - 1 + len, tail, sizeof(tail));
	fd = (int)sys_ret(open(path, O_RDONLY | O_CLOEXEC));
	if (fd < 0)	/* gone; or no /proc, no descriptor: then it may be inside */
		return sys_ret(syscall(SYS_tkill, (long)tid, 0L)) != -ESRCH;
	got = sys_ret(read(fd, text, sizeof(text)));
	close(fd);
	if (got <= 0)
		return got != -ESRCH && got != 0;
	if (text[0] == 'r')
		return true;
	for (long i = 0; i < got && text[i] >= '0' && text[i] <= '9'; i++)
		value = value * 10 + (text[i] - '0');
	return text[0] != '-' && value == nr;
}
