// SPDX-License-Identifier: MIT
/*
 * Mapping, populating and guarded copying of this process's own memory.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "sys/internal.h"
#include "sys/sys.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP	UHMM_MREMAP_DONTUNMAP
#endif

/* ---------------------------------------------------------------- the cookie */

static _Atomic uint64_t cookie;

static bool cookie_half_ok(uint32_t half)
{
	return half != 0 && half != UINT32_MAX;
}

/*
 * A kernel too young to have randomness must not make the constructor wait: what
 * it gave to this process at exec, stirred with the time, is what is left.
 */
static uint64_t cookie_draw(unsigned int round)
{
	const uint64_t *at_random;
	uint64_t value;

	if (syscall(SYS_getrandom, &value, sizeof(value), GRND_NONBLOCK) == sizeof(value))
		return value;
	at_random = (const uint64_t *)getauxval(AT_RANDOM);
	value = sys_now_ns() + round;
	if (at_random)
		value ^= at_random[0] ^ (at_random[1] << 1);
	return value * 0x9e3779b97f4a7c15ULL;
}

uint64_t sys_cookie(void)
{
	uint64_t value = atomic_load_explicit(&cookie, memory_order_relaxed);
	uint64_t none = 0;

	for (unsigned int round = 0; !value; round++) {
		value = cookie_draw(round);
		if (!cookie_half_ok((uint32_t)value) || !cookie_half_ok((uint32_t)(value >> 32)))
			value = 0;
	}
	/* Relaxed: the value is all there is to publish, and the first one stays. */
	if (!atomic_compare_exchange_strong_explicit(&cookie, &none, value, memory_order_relaxed,
						     memory_order_relaxed))
		value = none;
	return value;
}

/* Before main, so that every child of a fork agrees with its parent. */
__attribute__((constructor)) static void cookie_init(void)
{
	sys_cookie();
}

/* ---------------------------------------------------------------- mapping */

static int map(void *addr, size_t len, int prot, int flags, void **out)
{
	long ret;

	ret = sys_cookie_call(SYS_mmap, (uintptr_t)addr, len, (uint64_t)prot,
			      (uint64_t)(flags | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE),
			      sys_mmap_fd(sys_cookie(), -1), 0);
	if (ret < 0 && ret > -4096)
		return (int)ret;
	*out = (void *)ret;
	return 0;
}

int sys_map_anon(size_t len, void **out)
{
	return map(NULL, len, PROT_READ | PROT_WRITE, 0, out);
}

int sys_map_fixed(void *addr, size_t len, int prot)
{
	void *got;

	return map(addr, len, prot, MAP_FIXED, &got);
}

int sys_map_file_fixed(void *addr, size_t len, int fd, uint64_t offset)
{
	long ret = sys_cookie_call(SYS_mmap, (uintptr_t)addr, len, PROT_READ,
				   MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
				   sys_mmap_fd(sys_cookie(), fd), offset);

	return ret < 0 && ret > -4096 ? (int)ret : 0;
}

int sys_reserve(size_t len, size_t align, void **out)
{
	size_t page = sys_page_size();
	size_t slack = align > page ? align - page : 0;
	uintptr_t start, end, want;
	void *got;
	int ret;

	if (!len || len % page || (align & (align - 1)) || len + slack < len)
		return -EINVAL;
	ret = map(NULL, len + slack, PROT_NONE, 0, &got);
	if (ret)
		return ret;
	start = (uintptr_t)got;
	end = start + len + slack;
	want = align > page ? (start + align - 1) & ~(uintptr_t)(align - 1) : start;
	/* A trim that fails leaks address space only: splitting needs a free VMA. */
	if (want > start)
		sys_munmap((void *)start, want - start);
	if (end > want + len)
		sys_munmap((void *)(want + len), end - want - len);
	*out = (void *)want;
	return 0;
}

int sys_munmap(void *addr, size_t len)
{
	return (int)sys_cookie_call(SYS_munmap, (uintptr_t)addr, len, 0, 0, 0, sys_cookie());
}

int sys_mprotect(void *addr, size_t len, int prot)
{
	return (int)sys_cookie_call(SYS_mprotect, (uintptr_t)addr, len, (uint64_t)prot, 0, 0,
				    sys_cookie());
}

void sys_munlock(void *addr, size_t len)
{
	syscall(SYS_munlock, addr, len);
}

int sys_madvise(void *addr, size_t len, int advice)
{
	return (int)sys_cookie_call(SYS_madvise, (uintptr_t)addr, len, (uint64_t)advice, 0, 0,
				    sys_cookie());
}

int sys_mremap_dontunmap(uintptr_t src, size_t len, uintptr_t dst)
{
	uint64_t flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
	long ret = sys_cookie_call(SYS_mremap, src, len, len, flags, dst, sys_cookie());

	return ret < 0 && ret > -4096 ? (int)ret : 0;
}

/* ---------------------------------------------------------------- populating */

/*
 * The futex calls are the kernel's guarded loads and read-modify-writes of one word,
 * and with no thread to wake and none to requeue they are nothing else.
 */
static int touch_read(uintptr_t addr)
{
	long ret = sys_ret(syscall(SYS_futex, addr, FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 0L, 0L,
				   addr, 0L));

	/* -EAGAIN: the word was read and is not 0. */
	return ret == -EAGAIN ? 0 : (int)ret;
}

/*
 * A thread that sleeps on this very word while it holds the compared value is woken,
 * which futex(2) allows to happen at any time; the first word is nobody's.
 */
static int word_or_zero(uintptr_t addr)
{
	static uint32_t nobody;
	long op = FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_EQ, 0x800);

	return (int)sys_ret(syscall(SYS_futex, &nobody, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0L, 0L,
				    addr, op));
}

uintptr_t sys_unreachable_page(void)
{
	static _Atomic uintptr_t kept;
	uintptr_t page = atomic_load_explicit(&kept, memory_order_relaxed);
	void *mem;

	if (page || sys_reserve(sys_page_size(), 0, &mem))
		return page;
	if (atomic_compare_exchange_strong_explicit(&kept, &page, (uintptr_t)mem,
						    memory_order_relaxed, memory_order_relaxed))
		return (uintptr_t)mem;
	sys_munmap(mem, sys_page_size());
	return page;
}

/*
 * process_vm_writev() pins its target for writing, and so faults it in, before it
 * looks at its source; from a source that cannot be read it then copies nothing.
 * A write of the old byte instead would lose what another thread stores meanwhile.
 * The source is a mapping of ours: an address that merely happens to be unmapped
 * could be mapped by the program, and a page of .bss is read by collectors.
 */
static void fault_in_writable(uintptr_t addr)
{
	uintptr_t source = sys_unreachable_page();
	struct iovec local = { .iov_base = (void *)source, .iov_len = 1 };
	struct iovec remote = { .iov_base = (void *)addr, .iov_len = 1 };

	if (source)
		syscall(SYS_process_vm_writev, (long)getpid(), &local, 1L, &remote, 1L, 0L);
}

/*
 * The futex's own fault handling never waits for a userfaultfd: -EFAULT where the
 * page is missing or write-protected in one. The read brings a missing page, the
 * pin goes through write protection; both wait as a program's access would.
 * The rounds bound a page that is protected again as often as it is opened.
 */
static int touch_write(uintptr_t addr)
{
	int ret = -EFAULT;

	for (int round = 0; round < 8; round++) {
		if (touch_read(addr))
			return -EFAULT;
		ret = word_or_zero(addr);
		if (ret != -EFAULT)
			break;
		fault_in_writable(addr);
	}
	return ret < 0 ? -EFAULT : 0;
}

static int touch(uintptr_t start, size_t len, bool write)
{
	size_t page = sys_page_size();
	int ret;

	for (uintptr_t addr = start; addr < start + len; addr += page) {
		ret = write ? touch_write(addr) : touch_read(addr);
		if (ret)
			return ret == -ENOMEM ? -ENOMEM : -EFAULT;
	}
	return 0;
}

/* MADV_POPULATE_* says -ENOMEM both for a gap and out of memory; mincore only for a gap. */
static bool has_gap(uintptr_t start, size_t len)
{
	size_t page = sys_page_size();
	unsigned char vec[1024];
	size_t chunk;

	for (; len; start += chunk, len -= chunk) {
		chunk = len < sizeof(vec) * page ? len : sizeof(vec) * page;
		if (sys_ret(syscall(SYS_mincore, start, chunk, vec)) == -ENOMEM)
			return true;
	}
	return false;
}

int sys_populate(uintptr_t start, size_t len, bool write)
{
	int ret;

	if (start % sys_page_size() || len % sys_page_size() || start + len < start)
		return -EINVAL;
	if (!sys_cap(CAP_POPULATE))
		return touch(start, len, write);
	ret = sys_madvise((void *)start, len,
			  write ? UHMM_MADV_POPULATE_WRITE : UHMM_MADV_POPULATE_READ);
	if (!ret)
		return 0;
	if (ret == -ENOMEM && !has_gap(start, len))
		return -ENOMEM;
	return -EFAULT;
}

/* ---------------------------------------------------------------- guarded copies */

/* One piece through the pipe, whose ends take user addresses as guarded as any call. */
static long pipe_piece(const int *fds, uintptr_t dst, uintptr_t src, size_t len)
{
	long ret = sys_ret(write(fds[1], (const void *)src, len));

	return ret > 0 ? sys_ret(read(fds[0], (void *)dst, (size_t)ret)) : ret;
}

/*
 * Without process_vm_*: page by page of the side that is @guarded, so that all is
 * copied that can be reached.
 */
static ssize_t copy_by_pipe(uintptr_t dst, uintptr_t src, size_t len, uintptr_t guarded)
{
	size_t page = sys_page_size(), done = 0;
	int fds[2];
	long ret;

	ret = sys_ret(pipe2(fds, O_CLOEXEC | O_NONBLOCK));
	if (ret < 0)
		return ret;
	while (done < len) {
		size_t piece = page - ((guarded + done) & (page - 1));

		piece = piece < len - done ? piece : len - done;
		ret = pipe_piece(fds, dst + done, src + done, piece);
		if (ret <= 0)
			break;
		done += (size_t)ret;
	}
	close(fds[0]);
	close(fds[1]);
	return done ? (ssize_t)done : ret;
}

/* Neither call is for another process here, so the pid is ours. */
static ssize_t copy_by_vm(long nr, void *own, uintptr_t addr, size_t len)
{
	struct iovec local = { .iov_base = own, .iov_len = len };
	struct iovec remote = { .iov_base = (void *)addr, .iov_len = len };

	return sys_ret(syscall(nr, (long)getpid(), &local, 1L, &remote, 1L, 0L));
}

ssize_t sys_copy_from(void *dst, uintptr_t addr, size_t len)
{
	if (!sys_cap(CAP_PROCESS_VM))
		return len ? copy_by_pipe((uintptr_t)dst, addr, len, addr) : 0;
	return copy_by_vm(SYS_process_vm_readv, dst, addr, len);
}

ssize_t sys_copy_to(uintptr_t addr, const void *src, size_t len)
{
	if (!sys_cap(CAP_PROCESS_VM))
		return len ? copy_by_pipe(addr, (uintptr_t)src, len, addr) : 0;
	return copy_by_vm(SYS_process_vm_writev, (void *)src, addr, len);
}

/* ---------------------------------------------------------------- protection keys */

#ifndef HWCAP2_POE
#define HWCAP2_POE	(1UL << 63)
#endif

static bool look_for_keys(void)
{
#ifdef __x86_64__
	unsigned int a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && c & bit_OSPKE;
#else
	return sizeof(long) == 8 && getauxval(AT_HWCAP2) & HWCAP2_POE;
#endif
}

/* Has the CPU protection keys, and does the kernel let them be used? Hypervisors trap cpuid. */
static bool has_keys(void)
{
	static _Atomic int known;	/* 0: not looked yet; else 1 more than the answer */
	int has = atomic_load_explicit(&known, memory_order_relaxed);

	if (!has) {
		has = 1 + look_for_keys();
		atomic_store_explicit(&known, has, memory_order_relaxed);
	}
	return has > 1;
}

#ifdef __x86_64__

static uint32_t rights_get(void)
{
	uint32_t rights, high;

	__asm__ volatile(".byte 0x0f, 0x01, 0xee" : "=a"(rights), "=d"(high) : "c"(0));
	return rights;
}

static void rights_set(uint32_t rights)
{
	__asm__ volatile(".byte 0x0f, 0x01, 0xef" : : "a"(rights), "c"(0), "d"(0) : "memory");
}

uint32_t sys_keys_open(void)
{
	uint32_t rights = 0;

	if (has_keys()) {
		rights = rights_get();
		rights_set(0);
	}
	return rights;
}

void sys_keys_restore(uint32_t rights)
{
	if (has_keys())
		rights_set(rights);
}

#else

uint32_t sys_keys_open(void)
{
	return 0;
}

void sys_keys_restore(uint32_t rights)
{
	(void)rights;
}

#endif

/*
 * Asks for one, with the rights of a key that nobody has: the kernel gives the lowest
 * that is free, and the first is 0.
 */
bool sys_keys_used(void)
{
	long key;

	if (!has_keys())
		return false;
	key = sys_ret(syscall(SYS_pkey_alloc, 0, UHMM_PKEY_DISABLE_ACCESS));
	if (key > 0)
		(void)syscall(SYS_pkey_free, key);
	return key != 1;
}

/* ---------------------------------------------------------------- pages in a pipe */

int sys_pipe(int fds[2], size_t want, size_t *room)
{
	int ret = (int)sys_ret(pipe2(fds, O_CLOEXEC | O_NONBLOCK));
	long size;

	if (ret)
		return ret;
	/* A user may have only so much in pipes: then it is a smaller one. */
	(void)fcntl(fds[1], F_SETPIPE_SZ, (int)want);
	size = sys_ret(fcntl(fds[1], F_GETPIPE_SZ));
	*room = size > 0 ? (size_t)size : sys_page_size();
	return 0;
}

ssize_t sys_vmsplice(int fd, uintptr_t addr, size_t len)
{
	struct iovec iov = { (void *)addr, len };
	ssize_t done = 0;
	long ret;

	while (iov.iov_len) {
		ret = sys_ret(vmsplice(fd, &iov, 1, SPLICE_F_NONBLOCK));
		if (ret <= 0)
			return done ? done : ret;
		done += ret;
		iov.iov_base = (char *)iov.iov_base + ret;
		iov.iov_len -= (size_t)ret;
	}
	return done;
}

ssize_t sys_read_full(int fd, void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		long ret = sys_ret(read(fd, (char *)buf + done, len - done));

		if (ret == -EINTR)
			continue;
		if (ret <= 0)
			return done ? (ssize_t)done : ret;
		done += (size_t)ret;
	}
	return (ssize_t)done;
}

int sys_write_full(int fd, const void *buf, size_t len)
{
	const char *at = buf;

	while (len) {
		long ret = sys_ret(write(fd, at, len));

		if (ret < 0 && ret != -EINTR)
			return (int)ret;
		if (ret > 0) {
			at += ret;
			len -= (size_t)ret;
		}
	}
	return 0;
}

/* ---------------------------------------------------------------- sizes */

size_t sys_page_size(void)
{
	static _Atomic size_t page_size;
	size_t size = atomic_load_explicit(&page_size, memory_order_relaxed);

	if (!size) {
		size = getauxval(AT_PAGESZ);
		atomic_store_explicit(&page_size, size, memory_order_relaxed);
	}
	return size;
}

uintptr_t sys_task_size(void)
{
#ifdef __x86_64__
	return ((uintptr_t)1 << 47) - sys_page_size();
#else
	/*
	 * The width is a choice of the kernel's build and is told nowhere; but the
	 * program's name lies at the top of the first stack, less than a few GiB
	 * below the end.
	 */
	uintptr_t top = getauxval(AT_EXECFN);

	return (uintptr_t)1 << (64 - __builtin_clzl(top));
#endif
}
