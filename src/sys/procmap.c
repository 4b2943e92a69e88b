// SPDX-License-Identifier: MIT
/*
 * What the kernel says of mappings and of the pages in them.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "sys/internal.h"
#include "sys/sys.h"

/* ---------------------------------------------------------------- text */

/*
 * Lines of a file of /proc through a buffer on the stack. Only their beginning counts
 * here: what does not fit into the caller's line (a path) is skipped.
 */
struct reader {
	int fd;
	off_t pos;
	size_t at, len;
	char buf[2048];
};

/* 1: there is something in the buffer, 0: end of file, negative: an errno */
static int reader_fill(struct reader *r)
{
	long got;

	if (r->at < r->len)
		return 1;
	do {
		got = sys_ret(pread(r->fd, r->buf, sizeof(r->buf), r->pos));
	} while (got == -EINTR);
	if (got <= 0)
		return (int)got;
	r->pos += got;
	r->at = 0;
	r->len = (size_t)got;
	return 1;
}

/* 1: a line, without its newline; 0: end of file */
static int reader_line(struct reader *r, char *line, size_t size)
{
	const char *from, *newline = NULL;
	size_t n = 0, len, fits;
	int ret;

	while (!newline && (ret = reader_fill(r)) > 0) {
		from = r->buf + r->at;
		newline = memchr(from, '\n', r->len - r->at);
		len = newline ? (size_t)(newline - from) : r->len - r->at;
		fits = len < size - 1 - n ? len : size - 1 - n;
		memcpy(line + n, from, fits);
		n += fits;
		r->at += len + (newline != NULL);
	}
	line[n] = '\0';
	return newline ? 1 : ret < 0 ? ret : n > 0;
}

/*
 * seq_file cuts its text at whole lines only for a reader that goes on where it
 * stopped: with two threads on one descriptor and mappings that change, a line
 * could be torn, and an address with it. So each walk has an open file of its own.
 * Where that cannot be had (no /proc, no descriptor left) the given one has to do.
 */
static int reopen(int fd)
{
	char path[] = "/proc/self/fd/0000000000";
	char *end = path + sizeof(path) - 1;
	char *first = path + sizeof("/proc/self/fd/") - 1;
	unsigned int n = (unsigned int)fd;

	while (end > first) {
		*--end = (char)('0' + n % 10);
		n /= 10;
		if (!n)
			break;
	}
	memmove(first, end, strlen(end) + 1);
	return (int)sys_ret(open(path, O_RDONLY | O_CLOEXEC));
}

static uint64_t parse_hex(const char **p)
{
	uint64_t value = 0;

	for (;; (*p)++) {
		if (**p >= '0' && **p <= '9')
			value = value << 4 | (uint64_t)(**p - '0');
		else if (**p >= 'a' && **p <= 'f')
			value = value << 4 | (uint64_t)(**p - 'a' + 10);
		else
			return value;
	}
}

static uint64_t parse_dec(const char **p)
{
	uint64_t value = 0;

	for (; **p >= '0' && **p <= '9'; (*p)++)
		value = value * 10 + (uint64_t)(**p - '0');
	return value;
}

static bool starts_with(const char *text, const char *head)
{
	return strncmp(text, head, strlen(head)) == 0;
}

/* The inode's number alone does not tell: some FUSE give 0 to every file. */
static bool has_file(const struct sys_vma *vma)
{
	return vma->inode || vma->dev_major || vma->dev_minor;
}

/*
 * The kernel's own mappings have names in brackets and no file. So have the heap,
 * the stack, and what a program named by prctl (anon:...), which are ordinary memory.
 * Shared memory has an inode, and the name of no file that could be opened.
 */
static uint32_t name_flags(const char *name, const struct sys_vma *vma)
{
	static const char *const of_no_file[] = { "/dev/zero", "/SYSV" };

	if (has_file(vma)) {
		if (starts_with(name, "/memfd:"))
			return SYS_VMA_FILE | SYS_VMA_SHMEM | SYS_VMA_SHRINKS;
		if (starts_with(name, "/anon_hugepage"))
			return SYS_VMA_FILE | SYS_VMA_SHMEM | SYS_VMA_HUGETLB;
		for (size_t i = 0; i < ARRAY_SIZE(of_no_file); i++)
			if (starts_with(name, of_no_file[i]))
				return SYS_VMA_FILE | SYS_VMA_SHMEM;
		return SYS_VMA_FILE | SYS_VMA_SHRINKS;
	}
	if (strcmp(name, "[stack]") == 0)
		return SYS_VMA_STACK;
	if (name[0] != '[' || strcmp(name, "[heap]") == 0 || starts_with(name, "[anon"))
		return 0;
	return SYS_VMA_SPECIAL;
}

/* "7f00-7f01 rw-p 00000000 00:00 0    [name]", if the mapping ends above @addr */
static bool parse_vma(const char *line, uintptr_t addr, struct sys_vma *vma)
{
	const char *p = line;

	vma->start = parse_hex(&p);
	if (p == line || *p++ != '-')
		return false;
	vma->end = parse_hex(&p);
	if (vma->end <= addr || strnlen(p, 6) < 6)
		return false;
	vma->flags = (p[1] == 'r' ? SYS_VMA_READ : 0) | (p[2] == 'w' ? SYS_VMA_WRITE : 0) |
		     (p[3] == 'x' ? SYS_VMA_EXEC : 0) | (p[4] == 's' ? SYS_VMA_SHARED : 0);
	p += 6;
	vma->offset = parse_hex(&p);
	p += *p == ' ';
	vma->dev_major = (uint32_t)parse_hex(&p);
	p += *p == ':';
	vma->dev_minor = (uint32_t)parse_hex(&p);
	p += *p == ' ';
	vma->inode = parse_dec(&p);
	while (*p == ' ')
		p++;
	vma->flags |= name_flags(p, vma);
	return true;
}

/* The line of @r that holds @addr, or the next above it. */
static int text_find(struct reader *r, uintptr_t addr, struct sys_vma *vma)
{
	struct sys_vma found;
	char line[192];
	int ret;

	while ((ret = reader_line(r, line, sizeof(line))) > 0) {
		if (!parse_vma(line, addr, &found))
			continue;
		/* The vsyscall page is above user space and in no list of mappings. */
		if (found.start >= sys_task_size())
			return -ENOENT;
		*vma = found;
		return 0;
	}
	return ret ? ret : -ENOENT;
}

/* Returns what is to be closed in the end. */
static int reader_begin(struct reader *r, int maps_fd)
{
	int own = reopen(maps_fd);

	r->fd = own >= 0 ? own : maps_fd;
	r->pos = 0;
	r->at = r->len = 0;
	return own;
}

static int vma_find_text(int maps_fd, uintptr_t addr, struct sys_vma *vma)
{
	struct reader r;
	int own = reader_begin(&r, maps_fd);
	int ret = text_find(&r, addr, vma);

	sys_close(own);
	return ret;
}

static void vma_each_text(int maps_fd, uintptr_t from,
			  bool (*each)(void *arg, const struct sys_vma *vma), void *arg)
{
	struct sys_vma vma;
	struct reader r;
	int own = reader_begin(&r, maps_fd);

	/* On a file that others read too a walk could lose its place: each look from the front. */
	while (!(own < 0 ? vma_find_text(maps_fd, from, &vma) : text_find(&r, from, &vma)) &&
	       each(arg, &vma))
		from = vma.end;
	sys_close(own);
}

/* ---------------------------------------------------------------- PROCMAP_QUERY */

/* Of the same values, but that is the kernel's choice and ours. */
static uint32_t query_flags(uint64_t vma_flags)
{
	return (vma_flags & UHMM_PROCMAP_VMA_READABLE ? SYS_VMA_READ : 0) |
	       (vma_flags & UHMM_PROCMAP_VMA_WRITABLE ? SYS_VMA_WRITE : 0) |
	       (vma_flags & UHMM_PROCMAP_VMA_EXECUTABLE ? SYS_VMA_EXEC : 0) |
	       (vma_flags & UHMM_PROCMAP_VMA_SHARED ? SYS_VMA_SHARED : 0);
}

static int vma_find_query(int maps_fd, uintptr_t addr, struct sys_vma *vma)
{
	struct uhmm_procmap_query query = {
		.size = sizeof(query),
		.query_flags = UHMM_PROCMAP_COVERING_OR_NEXT,
		.query_addr = addr,
	};
	char name[128];
	int ret;

	name[0] = '\0';
	query.vma_name_addr = (uintptr_t)name;
	query.vma_name_size = sizeof(name);
	ret = (int)sys_ret(ioctl(maps_fd, UHMM_PROCMAP_QUERY, &query));
	if (ret == -ENAMETOOLONG) {
		/* None of the kernel's own names is that long: a path, or a name by prctl. */
		query.vma_name_addr = 0;
		query.vma_name_size = 0;
		ret = (int)sys_ret(ioctl(maps_fd, UHMM_PROCMAP_QUERY, &query));
	}
	if (ret)
		return ret;
	vma->start = query.vma_start;
	vma->end = query.vma_end;
	vma->offset = query.vma_offset;
	vma->inode = query.inode;
	vma->dev_major = query.dev_major;
	vma->dev_minor = query.dev_minor;
	vma->flags = query_flags(query.vma_flags);
	vma->flags |= name_flags(query.vma_name_size ? name : "", vma);
	if (query.vma_page_size > sys_page_size())	/* of a file on hugetlbfs, by any name */
		vma->flags |= SYS_VMA_HUGETLB;
	return 0;
}

/* ---------------------------------------------------------------- the file */

static char *put_hex(char *at, uintptr_t value)
{
	unsigned int shift = 64;

	do {
		shift -= 4;
	} while (shift && !(value >> shift));
	for (;; shift -= 4) {
		*at++ = "0123456789abcdef"[value >> shift & 15];
		if (!shift)
			return at;
	}
}

static bool is_file_of(int fd, const struct sys_vma *vma)
{
	struct stat st;

	return fd >= 0 && vma->inode && !fstat(fd, &st) && st.st_ino == vma->inode &&
	       major(st.st_dev) == vma->dev_major && minor(st.st_dev) == vma->dev_minor;
}

static int checked(int fd, const struct sys_vma *vma)
{
	if (is_file_of(fd, vma))
		return fd;
	sys_close(fd);
	return -ENOENT;
}

/* The rest of the mapping's line in maps, from its name on. */
static int open_by_name(int maps_fd, const struct sys_vma *vma)
{
	char line[4096 + 128];
	const char *name = NULL;
	struct reader r = { .fd = reopen(maps_fd) };
	const char *p;

	if (r.fd < 0)
		return r.fd;
	while (!name && reader_line(&r, line, sizeof(line)) > 0) {
		p = line;
		if (parse_hex(&p) == vma->start)
			name = strchr(line, '/');
	}
	sys_close(r.fd);
	/* O_NONBLOCK: a name may lead to a pipe by now. */
	return name ? checked((int)sys_ret(open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK)), vma) :
		      -ENOENT;
}

/* For files that have no name any more. */
static int open_by_descriptor(const struct sys_vma *vma)
{
	long most = sysconf(_SC_OPEN_MAX);

	most = most > 0 && most < 65536 ? most : 65536;
	for (int fd = 0; fd < most; fd++)
		if (is_file_of(fd, vma))
			return checked(reopen(fd), vma);
	return -ENOENT;
}

int sys_vma_open(int maps_fd, const struct sys_vma *vma)
{
	char path[64] = "/proc/self/map_files/";
	char *at = put_hex(path + strlen(path), vma->start);
	int fd;

	*at++ = '-';
	*put_hex(at, vma->end) = '\0';
	fd = checked((int)sys_ret(open(path, O_RDONLY | O_CLOEXEC)), vma);
	if (fd < 0)
		fd = open_by_name(maps_fd, vma);
	return fd < 0 ? open_by_descriptor(vma) : fd;
}

/* ---------------------------------------------------------------- page states */

#define REGIONS	256	/* 6 KiB of stack */

#define PM_PRESENT	BIT(63)
#define PM_SWAP		BIT(62)
#define PM_FILE		BIT(61)
#define PM_PFN		(BIT(55) - 1)	/* 0 without privilege */

static uint8_t scan_state(uint64_t categories)
{
	return (uint8_t)((categories & UHMM_PAGE_IS_PRESENT ? SYS_PAGE_PRESENT : 0) |
			 (categories & UHMM_PAGE_IS_PFNZERO ? SYS_PAGE_ZERO : 0) |
			 (categories & UHMM_PAGE_IS_HUGE ? SYS_PAGE_HUGE : 0) |
			 (categories & UHMM_PAGE_IS_FILE ? SYS_PAGE_FILE : 0) |
			 (categories & UHMM_PAGE_IS_SWAPPED ? SYS_PAGE_SWAPPED : 0));
}

/* Where every other page is a hole a call of memset per page is a fifth of the scan. */
static void fill(uint8_t *states, size_t first, size_t end, uint8_t state)
{
	if (end - first == 1)
		states[first] = state;
	else if (end > first)
		memset(states + first, state, end - first);
}

/*
 * Regions come in order of address and what lies between them is a hole, so every
 * byte of @states is written once: @at is the first not yet written.
 */
static int states_scan(int fd, uintptr_t start, size_t nr_pages, uint8_t *states, uint64_t more)
{
	struct uhmm_page_region regions[REGIONS];
	struct uhmm_pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = start + nr_pages * sys_page_size(),
		.vec = (uintptr_t)regions,
		.vec_len = REGIONS,
		.category_anyof_mask = UHMM_PAGE_IS_PRESENT | UHMM_PAGE_IS_SWAPPED,
		.return_mask = UHMM_PAGE_IS_PRESENT | UHMM_PAGE_IS_SWAPPED | UHMM_PAGE_IS_PFNZERO |
			       UHMM_PAGE_IS_HUGE | more,
	};
	unsigned int shift = (unsigned int)__builtin_ctzl(sys_page_size());
	size_t at = 0, first, end;
	long nr;

	while (arg.start < arg.end) {
		nr = sys_ret(ioctl(fd, UHMM_PAGEMAP_SCAN, &arg));
		if (nr < 0)
			return (int)nr;
		for (long i = 0; i < nr; i++) {
			first = (regions[i].start - start) >> shift;
			end = (regions[i].end - start) >> shift;
			fill(states, at, first, 0);
			fill(states, first, end, scan_state(regions[i].categories));
			at = end;
		}
		arg.start = arg.walk_end;
	}
	fill(states, at, nr_pages, 0);
	return 0;
}

/*
 * The zero page is told by its number, which a page that was only read has; where that
 * is not shown it looks like any other. Learnt when pagemap is opened, for it maps memory.
 */
static _Atomic uint64_t zero_pfn;

static void learn_zero_pfn(int fd)
{
	size_t page = sys_page_size();
	uint64_t entry = 0;
	void *p;

	if (atomic_load_explicit(&zero_pfn, memory_order_relaxed) || sys_map_anon(page, &p))
		return;
	(void)*(volatile char *)p;
	if (pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)p / page * sizeof(entry))) ==
	    (ssize_t)sizeof(entry))
		atomic_store_explicit(&zero_pfn, entry & PM_PFN, memory_order_relaxed);
	sys_munmap(p, page);
}

static uint8_t entry_state(uint64_t entry, uint64_t zero)
{
	return (uint8_t)((entry & PM_PRESENT ? SYS_PAGE_PRESENT : 0) |
			 (entry & PM_PRESENT && zero && (entry & PM_PFN) == zero ?
			  SYS_PAGE_ZERO : 0) |
			 (entry & PM_SWAP ? SYS_PAGE_SWAPPED : 0) |
			 (entry & PM_FILE ? SYS_PAGE_FILE : 0));
}

static int states_read(int fd, uintptr_t start, size_t nr_pages, uint8_t *states)
{
	uint64_t zero = atomic_load_explicit(&zero_pfn, memory_order_relaxed);
	uint64_t entries[512];
	size_t page = start / sys_page_size();
	size_t nr;
	long got;

	for (; nr_pages; nr_pages -= nr, states += nr, page += nr) {
		nr = nr_pages < ARRAY_SIZE(entries) ? nr_pages : ARRAY_SIZE(entries);
		got = sys_ret(pread(fd, entries, nr * sizeof(entries[0]),
				    (off_t)(page * sizeof(entries[0]))));
		if (got == -EINTR) {
			nr = 0;
			continue;
		}
		if (got < (long)sizeof(entries[0]))
			return got < 0 ? (int)got : -EFAULT;
		nr = (size_t)got / sizeof(entries[0]);
		for (size_t i = 0; i < nr; i++)
			states[i] = entry_state(entries[i], zero);
	}
	return 0;
}

/* ---------------------------------------------------------------- entry points */

int sys_maps_open(void)
{
	return (int)sys_ret(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
}

int sys_pagemap_open(void)
{
	int fd = (int)sys_ret(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));

	if (fd >= 0)	/* the probe of what makes it needless opens pagemap, too */
		learn_zero_pfn(fd);
	return fd;
}

int sys_vma_find(int maps_fd, uintptr_t addr, struct sys_vma *vma)
{
	if (sys_cap(CAP_PROCMAP_QUERY))
		return vma_find_query(maps_fd, addr, vma);
	return vma_find_text(maps_fd, addr, vma);
}

void sys_vma_each(int maps_fd, uintptr_t from,
		  bool (*each)(void *arg, const struct sys_vma *vma), void *arg)
{
	struct sys_vma vma;

	if (!sys_cap(CAP_PROCMAP_QUERY)) {
		vma_each_text(maps_fd, from, each, arg);
		return;
	}
	while (!vma_find_query(maps_fd, from, &vma) && each(arg, &vma))
		from = vma.end;
}

static int page_states(int fd, uintptr_t start, size_t nr_pages, uint8_t *states, uint64_t more)
{
	if (sys_cap(CAP_PAGEMAP_SCAN))
		return states_scan(fd, start, nr_pages, states, more);
	return states_read(fd, start, nr_pages, states);
}

int sys_page_states(int pagemap_fd, uintptr_t start, size_t nr_pages, uint8_t *states)
{
	return page_states(pagemap_fd, start, nr_pages, states, 0);
}

int sys_page_states_of_files(int pagemap_fd, uintptr_t start, size_t nr_pages, uint8_t *states)
{
	return page_states(pagemap_fd, start, nr_pages, states, UHMM_PAGE_IS_FILE);
}
