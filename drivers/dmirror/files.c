/* SPDX-License-Identifier: MIT */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dmirror.h"

#define FILES	256u
#define PREFIX	"/dev/hmm_dmirror"

struct file {
	_Atomic dev_t dev;
	_Atomic ino_t ino;		/* 0: a free slot; release publishes dev */
	struct dmirror *mirror;		/* NULL: that of the process we were forked from */
	uint32_t users;			/* requests under way */
	bool gone;			/* no descriptor is left */
};

/*
 * dev, ino and nr are read without the lock: the core closes files of its own under
 * the mm lock, and close() is a hook. A forked child resets it; who shares its parent's
 * memory (vfork) or is a raw clone is told by pid.
 */
static struct {
	pthread_mutex_t lock;		/* all that follows, and process.c */
	_Atomic uint32_t nr;		/* slots in use */
	_Atomic pid_t pid;
	bool watching_forks;
	struct file file[FILES];
} files = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* This thread holds the lock. */
static _Thread_local bool inside;

static void files_lock(void)
{
	pthread_mutex_lock(&files.lock);
	inside = true;
}

static void files_unlock(void)
{
	inside = false;
	pthread_mutex_unlock(&files.lock);
}

bool files_inside(void)
{
	return inside;
}

int file_unit(const char *path)
{
	const size_t n = sizeof(PREFIX) - 1;
	unsigned int unit;

	/* NULL is the kernel's to refuse, whatever the prototype of open() promises. */
	if (!path || strncmp(path, PREFIX, n) != 0 || !path[n] || path[n + 1])
		return -1;
	unit = (unsigned int)(path[n] - '0');
	return unit < DMIRROR_UNITS ? (int)unit : -1;
}

/* ---------------------------------------------------------------- fork */

/* After the core's own, which brings the pages home, in the order of fork handlers. */
static void before_fork(void)
{
	files_lock();
}

static void after_fork_parent(void)
{
	files_unlock();
}

/* The descriptors are there, but their mirrors are of our parent's memory. */
static void orphan(void)
{
	for (unsigned int i = 0; i < FILES; i++) {
		files.file[i].mirror = NULL;
		files.file[i].users = 0;
	}
	dmirror_forget();
	atomic_store(&files.pid, getpid());
}

static void after_fork_child(void)
{
	orphan();
	files_unlock();
}

/*
 * Registered once the core has registered its handlers: those that come last run first
 * before a fork, and a close that holds our lock waits for a fork that the core has
 * begun to hear of.
 */
static int watch_forks(void)
{
	int ret;

	if (files.watching_forks)
		return 0;
	ret = pthread_atfork(before_fork, after_fork_parent, after_fork_child);
	files.watching_forks = !ret;
	return -ret;
}

/* ---------------------------------------------------------------- the table */

/* The slot of a file, or NULL. It stays that file's only under the lock. */
static struct file *find(const struct stat *st)
{
	for (unsigned int i = 0; i < FILES; i++) {
		struct file *f = &files.file[i];

		/* acquire: pairs with enter() */
		if (atomic_load_explicit(&f->ino, memory_order_acquire) == st->st_ino &&
		    atomic_load_explicit(&f->dev, memory_order_relaxed) == st->st_dev)
			return f;
	}
	return NULL;
}

static bool mine(void)
{
	return atomic_load(&files.pid) == getpid();
}

bool file_is_device(int fd)
{
	struct stat st;

	return atomic_load_explicit(&files.nr, memory_order_relaxed) && !inside && mine() &&
	       !fstat(fd, &st) && find(&st);
}

/* Lock held. */
static void put_if_gone(struct file *f)
{
	struct dmirror *mirror = f->mirror;

	if (!f->gone || f->users)
		return;
	f->mirror = NULL;
	f->gone = false;
	atomic_store_explicit(&f->ino, 0, memory_order_relaxed);
	atomic_fetch_sub(&files.nr, 1);
	if (mirror)
		dmirror_close(mirror);
}

int file_ioctl(int fd, unsigned long request, uintptr_t arg)
{
	struct stat st;
	struct file *f;
	int ret = -EBADF;

	if (fstat(fd, &st))
		return -EBADF;
	files_lock();
	f = find(&st);
	if (f && f->mirror)
		f->users++;
	else if (f)
		ret = -ECHILD;	/* it acts on the memory of who opened it */
	files_unlock();
	if (!f || ret == -ECHILD)
		return ret;
	ret = dmirror_command(f->mirror, request, arg);
	files_lock();
	f->users--;
	put_if_gone(f);
	files_unlock();
	return ret;
}

/* ---------------------------------------------------------------- closing */

/* As the kernel fills it: d_ino, d_off, d_reclen, d_type, d_name. */
struct dirent64_raw {
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

/* Calls @fn for each open descriptor; no allocation, since close() may not. */
static int for_each_fd(void (*fn)(int fd))
{
	_Alignas(uint64_t) char buf[1024];
	int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long n = -1;

	while (dir >= 0 && (n = syscall(SYS_getdents64, dir, buf, sizeof(buf))) > 0) {
		for (long at = 0; at < n; ) {
			struct dirent64_raw *d = (struct dirent64_raw *)(buf + at);
			int fd = 0;

			at += d->reclen;
			if (d->name[0] < '0' || d->name[0] > '9')
				continue;
			for (const char *c = d->name; *c; c++)
				fd = fd * 10 + (*c - '0');
			fn(fd);
		}
	}
	if (dir >= 0)
		close(dir);
	return n < 0 ? -ENOENT : 0;
}

static void still_open(int fd)
{
	struct stat st;
	struct file *f = fstat(fd, &st) ? NULL : find(&st);

	if (f)
		f->gone = false;
}

void files_reap(void)
{
	int saved = errno;

	if (!atomic_load_explicit(&files.nr, memory_order_relaxed) || inside || !mine())
		return;
	files_lock();
	for (unsigned int i = 0; i < FILES; i++)
		files.file[i].gone = files.file[i].ino != 0;
	/* Where it cannot be told (no /proc) a file stays until the process ends. */
	if (for_each_fd(still_open))
		for (unsigned int i = 0; i < FILES; i++)
			files.file[i].gone = false;
	for (unsigned int i = 0; i < FILES; i++)
		put_if_gone(&files.file[i]);
	files_unlock();
	errno = saved;
}

/* ---------------------------------------------------------------- opening */

/* A file with the access mode and flags asked for. */
static int make_descriptor(int flags)
{
	char path[32] = "/proc/self/fd/";
	int fd = memfd_create("hmm_dmirror", MFD_CLOEXEC), n = fd, again, digits = 1;

	if (fd < 0)
		return -errno;
	for (int i = fd; i >= 10; i /= 10)
		digits++;
	for (int i = digits; i--; n /= 10)
		path[sizeof("/proc/self/fd/") - 1 + (size_t)i] = (char)('0' + n % 10);
	again = open(path, flags & ~(O_CREAT | O_EXCL | O_TRUNC | O_NOFOLLOW));
	if (again < 0)
		again = -errno;
	close(fd);
	return again;
}

/*
 * The process whose state this is; a raw clone's child first forgets its parent's,
 * which the core has wiped for it. Lock held.
 */
static int claim(void)
{
	if (!atomic_load(&files.pid))
		atomic_store(&files.pid, getpid());
	if (mine())
		return 0;
	if (dmirror_mm())
		return -EBUSY;		/* it shares the memory of a parent that waits */
	orphan();
	return 0;
}

/* Lock held. */
static int enter(unsigned int unit, const struct stat *st, unsigned int slot)
{
	struct dmirror *mirror;
	int ret = claim();

	if (!ret)
		ret = dmirror_open(unit, &mirror);
	if (ret)
		return ret;
	ret = watch_forks();
	if (ret) {
		dmirror_close(mirror);
		return ret;
	}
	files.file[slot].mirror = mirror;
	atomic_store_explicit(&files.file[slot].dev, st->st_dev, memory_order_relaxed);
	/* release: pairs with find() */
	atomic_store_explicit(&files.file[slot].ino, st->st_ino, memory_order_release);
	atomic_fetch_add(&files.nr, 1);
	return 0;
}

int file_open(unsigned int unit, int flags)
{
	unsigned int slot = 0;
	struct stat st;
	int fd, ret = -ENFILE;

	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return -EEXIST;
	if (flags & O_DIRECTORY)
		return -ENOTDIR;
	files_reap();
	fd = make_descriptor(flags);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st)) {
		ret = -errno;
		close(fd);
		return ret;
	}
	files_lock();
	while (slot < FILES && files.file[slot].ino)
		slot++;
	if (slot < FILES)
		ret = enter(unit, &st, slot);
	files_unlock();
	if (ret) {
		close(fd);
		return ret;
	}
	return fd;
}

struct hmm_mm *files_mm_get(void)
{
	struct hmm_mm *mm;

	if (inside || !mine())
		return NULL;
	files_lock();
	mm = dmirror_mm();
	if (!mm)
		files_unlock();
	return mm;
}

void files_mm_put(void)
{
	files_unlock();
}

/* ---------------------------------------------------------------- mapping */

/*
 * As the kernel's driver: fresh zeroed pages, present from the start, whatever the
 * offset. Each mapping is a file of its own.
 */
intptr_t file_mmap(void *addr, size_t len, int prot, int flags)
{
	size_t page = hmm_page_size();
	int fd = memfd_create("hmm_dmirror", MFD_CLOEXEC), error = 0;
	void *p = MAP_FAILED;

	if (fd < 0)
		return -errno;
	if (!ftruncate(fd, (off_t)((len + page - 1) & ~(page - 1))))
		p = mmap(addr, len, prot, flags, fd, 0);
	error = errno;
	close(fd);
	if (p == MAP_FAILED)
		return -error;
	for (size_t i = 0; prot & PROT_READ && i < len; i += page)
		(void)*(volatile char *)((char *)p + i);
	return (intptr_t)p;
}
