/* SPDX-License-Identifier: MIT */
/*
 * src/sys against the kernel: each answer is compared with what was set up or with a
 * second source. Runs once as the machine is and once with everything masked that has
 * a fallback, so that both ways give the same answers.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "sys/process.h"
#include "sys/sys.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA		0x53564d41
#define PR_SET_VMA_ANON_NAME	0
#endif

#define FALLBACKS "-populate,-pagemap-scan,-procmap-query,-process-vm"

static size_t page;

static char *map_pages(size_t nr, int prot)
{
	void *mem = mmap(NULL, nr * page, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(mem != MAP_FAILED);
	return mem;
}

/* ---------------------------------------------------------------- capabilities */

static int count_lines(const char *path)
{
	char buf[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int nr = 0;
	ssize_t got;

	while ((got = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < got; i++)
			nr += buf[i] == '\n';
	close(fd);
	return nr;
}

static int lowest_free_fd(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

static int probes_leave_nothing_child(void)
{
	int maps = count_lines("/proc/self/maps");
	int fd = lowest_free_fd();

	sys_cap(CAP_UFFD);
	if (count_lines("/proc/self/maps") != maps)
		return 1;
	if (lowest_free_fd() != fd)
		return 2;
	if (waitpid(-1, NULL, __WALL) != -1 || errno != ECHILD)
		return 3;
	if (prctl(PR_GET_NO_NEW_PRIVS, 0L, 0L, 0L, 0L))
		return 4;
	return 0;
}

/* Asking leaves no mapping, descriptor, thread or child, and no_new_privs alone. */
static void probes_leave_nothing(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	pid = fork();
	if (pid == 0)
		_exit(probes_leave_nothing_child());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* A masked capability takes with it what rests on it; the machine's answer stays. */
static void masks_take_dependents(void **state)
{
	(void)state;
	assert_null(sys_caps_unknown());
	if (!getenv("UHMM_CAPS"))
		return;
	assert_false(sys_cap(CAP_POPULATE));
	assert_false(sys_cap(CAP_PAGEMAP_SCAN));
	assert_false(sys_cap(CAP_PROCMAP_QUERY));
	assert_false(sys_cap(CAP_PROCESS_VM));
	for (int cap = 0; cap < CAP_NR; cap++)
		assert_non_null(sys_cap_desc(cap)->name);
	assert_null(sys_cap_desc(CAP_NR));
}

/* ---------------------------------------------------------------- mappings */

struct line {
	uintptr_t start, end;
	char perms[5], dev[16], name[512];
	unsigned long long offset, inode;
};

/* The oracle: stdio and sscanf on the text. */
static int read_maps(struct line *lines, int max)
{
	static FILE *f;		/* stays open: it may be in a mapping of its own */
	char text[5000];
	int nr = 0;

	if (!f)
		f = fopen("/proc/self/maps", "re");
	rewind(f);
	while (fgets(text, sizeof(text), f)) {
		struct line *l = &lines[nr];

		l->name[0] = '\0';
		assert_true(sscanf(text, "%lx-%lx %4s %llx %15s %llu %511[^\n]", &l->start, &l->end,
				   l->perms, &l->offset, l->dev, &l->inode, l->name) >= 6);
		if (l->start < sys_task_size())
			nr++;
		assert_true(nr < max);
	}
	return nr;
}

static uint32_t expected_flags(const struct line *l)
{
	uint32_t flags = (l->perms[0] == 'r' ? SYS_VMA_READ : 0) |
			 (l->perms[1] == 'w' ? SYS_VMA_WRITE : 0) |
			 (l->perms[2] == 'x' ? SYS_VMA_EXEC : 0) |
			 (l->perms[3] == 's' ? SYS_VMA_SHARED : 0);

	if (l->inode && !strncmp(l->name, "/dev/zero", 9))
		return flags | SYS_VMA_FILE | SYS_VMA_SHMEM;
	if (l->inode && !strncmp(l->name, "/memfd:", 7))
		return flags | SYS_VMA_FILE | SYS_VMA_SHMEM | SYS_VMA_SHRINKS;
	if (l->inode || strcmp(l->dev, "00:00") != 0)
		return flags | SYS_VMA_FILE | SYS_VMA_SHRINKS;
	if (strcmp(l->name, "[stack]") == 0)
		return flags | SYS_VMA_STACK;
	if (strncmp(l->name, "[v", 2) == 0)
		return flags | SYS_VMA_SPECIAL;
	return flags;
}

/* A file whose path is longer than any buffer of the parser's. */
static void map_long_path(void)
{
	char path[600] = "/tmp/";
	void *mem;
	int fd;

	memset(path + 5, 'x', 200);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)page), 0);
	mem = mmap(NULL, page, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_true(mem != MAP_FAILED);
	close(fd);
	unlink(path);
}

/* Every mapping is found by its first byte, its last, and from the gap below it. */
static void vma_find_agrees_with_text(void **state)
{
	static struct line lines[512];
	int fd = sys_maps_open();
	struct sys_vma vma;
	uintptr_t below = 0;
	int nr;

	(void)state;
	map_long_path();
	assert_true(mmap(NULL, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, map_pages(1, PROT_READ), page, "ours");
	(void)read_maps(lines, 512);
	nr = read_maps(lines, 512);
	for (int i = 0; i < nr; i++) {
		uintptr_t ask[] = { lines[i].start, lines[i].end - 1, below };

		for (size_t j = 0; j < ARRAY_SIZE(ask); j++) {
			assert_int_equal(sys_vma_find(fd, ask[j], &vma), 0);
			assert_int_equal(vma.start, lines[i].start);
			assert_int_equal(vma.end, lines[i].end);
			assert_int_equal(vma.flags, expected_flags(&lines[i]));
			assert_int_equal(vma.inode, lines[i].inode);
			if (lines[i].inode)
				assert_int_equal(vma.offset, lines[i].offset);
		}
		below = lines[i].end;
	}
	assert_int_equal(sys_vma_find(fd, below, &vma), -ENOENT);
	close(fd);
}

/*
 * Some FUSE number all their files 0: such a mapping is of a file all the same, and by its
 * number no file is taken for the one.
 */
static void files_may_have_no_number(void **state)
{
	static const char text[] = "10000-20000 rw-p 00000000 00:2c 0    /mnt/file\n"
				   "20000-30000 rw-p 00000000 00:00 0 \n";
	int fd = memfd_create("maps", MFD_CLOEXEC);
	struct sys_vma vma;

	(void)state;
	if (sys_cap(CAP_PROCMAP_QUERY))
		return;		/* it is not text that is read: see the run with capabilities masked */
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	assert_int_equal(sys_vma_find(fd, 0x10000, &vma), 0);
	assert_int_equal(vma.flags, SYS_VMA_READ | SYS_VMA_WRITE | SYS_VMA_FILE | SYS_VMA_SHRINKS);
	assert_int_equal(sys_vma_open(fd, &vma), -ENOENT);
	assert_int_equal(sys_vma_find(fd, 0x20000, &vma), 0);
	assert_int_equal(vma.flags, SYS_VMA_READ | SYS_VMA_WRITE);
	close(fd);
}

struct walk {
	struct line *lines;
	int at, end;
};

static bool is_next(void *arg, const struct sys_vma *vma)
{
	struct walk *w = arg;

	assert_int_equal(vma->start, w->lines[w->at].start);
	assert_int_equal(vma->end, w->lines[w->at].end);
	assert_int_equal(vma->flags, expected_flags(&w->lines[w->at]));
	return ++w->at < w->end;
}

/* A walk tells each mapping once, from anywhere, and no more than was asked for. */
static void vma_each_tells_each_once(void **state)
{
	static struct line lines[512];
	struct walk w = { .lines = lines };
	int fd = sys_maps_open(), nr;

	(void)state;
	for (int i = 0; i < 100; i++)	/* more text than is read at once */
		assert_false(mprotect(map_pages(2, PROT_READ), page, PROT_NONE));
	(void)read_maps(lines, 512);
	nr = read_maps(lines, 512);
	assert_in_range(nr, 200, 511);
	w.end = 512;
	sys_vma_each(fd, 0, is_next, &w);
	assert_int_equal(w.at, nr);
	for (int from = 0; from < nr; from += 7) {
		w.at = from;
		w.end = from + 3 < nr ? from + 3 : nr;
		sys_vma_each(fd, lines[from].end - 1, is_next, &w);
		assert_int_equal(w.at, w.end);
	}
	w.at = 0;
	sys_vma_each(fd, lines[nr - 1].end, is_next, &w);
	assert_int_equal(w.at, 0);
	close(fd);
}

/* Hole, zero page, private page and file page are told apart, in any order and number. */
static void page_states_tell_pages_apart(void **state)
{
	enum { NR = 2000 };
	static uint8_t states[NR + 2];
	char *mem = map_pages(NR, PROT_READ | PROT_WRITE);
	uint8_t zero = SYS_PAGE_PRESENT | SYS_PAGE_ZERO;
	/* Without PAGEMAP_SCAN only the privileged are told. */
	uint8_t untold = sys_cap(CAP_PAGEMAP_SCAN) ? 0 : SYS_PAGE_ZERO;
	int fd = sys_pagemap_open();

	(void)state;
	madvise(mem, NR * page, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < NR; i++) {
		if (i % 3 == 1)
			mem[i * page] = 1;
		else if (i % 7 == 2)
			assert_int_equal(*(volatile char *)(mem + i * page), 0);
	}
	memset(states, 0xee, sizeof(states));
	assert_int_equal(sys_page_states(fd, (uintptr_t)mem, NR, states + 1), 0);
	assert_int_equal(states[0], 0xee);
	assert_int_equal(states[NR + 1], 0xee);
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(states[i + 1] | (states[i + 1] ? untold : 0),
				 i % 3 == 1 ? SYS_PAGE_PRESENT | untold : i % 7 == 2 ? zero : 0);

	/* The program's own text is a file's; a gap has no pages. */
	assert_int_equal(sys_page_states_of_files(fd, (uintptr_t)&map_pages / page * page, 1, states), 0);
	assert_int_equal(states[0] & ~SYS_PAGE_HUGE, SYS_PAGE_PRESENT | SYS_PAGE_FILE);
	munmap(mem, NR * page);
	assert_int_equal(sys_page_states(fd, (uintptr_t)mem, NR, states), 0);
	for (size_t i = 0; i < NR; i++)
		assert_int_equal(states[i], 0);
	close(fd);
}

/* ---------------------------------------------------------------- memory */

/* A reservation is aligned, exactly as long as asked, and not accessible. */
static void reserve_is_aligned(void **state)
{
	size_t huge = 2 << 20;
	int fd = sys_maps_open();
	struct sys_vma vma;
	void *mem;

	(void)state;
	assert_int_equal(sys_reserve(3 * huge, huge, &mem), 0);
	assert_int_equal((uintptr_t)mem % huge, 0);
	assert_int_equal(sys_vma_find(fd, (uintptr_t)mem, &vma), 0);
	assert_int_equal(vma.flags, 0);
	assert_true(vma.start <= (uintptr_t)mem && vma.end >= (uintptr_t)mem + 3 * huge);
	assert_int_equal(sys_map_fixed((char *)mem + huge, page, PROT_READ | PROT_WRITE), 0);
	((char *)mem)[huge] = 1;
	assert_int_equal(sys_munmap(mem, 3 * huge), 0);
	assert_int_equal(sys_reserve(page + 1, huge, &mem), -EINVAL);
	assert_int_equal(sys_reserve(page, 3 * page, &mem), -EINVAL);
	close(fd);
}

/* The content moves and the source stays mapped, empty. */
static void dontunmap_moves_content(void **state)
{
	char *mem = map_pages(2, PROT_READ | PROT_WRITE);

	(void)state;
	mem[0] = 7;
	assert_int_equal(sys_mremap_dontunmap((uintptr_t)mem, page, (uintptr_t)mem + page), 0);
	assert_int_equal(mem[page], 7);
	assert_int_equal(mem[0], 0);
	munmap(mem, 2 * page);
}

/* Pages come, keep their content, and refusals have the documented values. */
static void populate_brings_pages(void **state)
{
	char *mem = map_pages(8, PROT_READ | PROT_WRITE);
	uintptr_t at = (uintptr_t)mem;
	int fd = sys_pagemap_open();
	uint8_t states[8];

	(void)state;
	memset(mem + page, 0x5a, page);
	assert_int_equal(sys_populate(at, 3 * page, true), 0);
	assert_int_equal(sys_populate(at + 3 * page, page, false), 0);
	assert_int_equal(mem[page], 0x5a);
	assert_int_equal(sys_page_states(fd, at, 5, states), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(states[i] & ~SYS_PAGE_HUGE, SYS_PAGE_PRESENT);
	assert_true(states[3] & SYS_PAGE_PRESENT);
	mprotect(mem, page, PROT_READ);
	assert_int_equal(sys_populate(at, page, true), -EFAULT);
	assert_int_equal(sys_populate(at, page, false), 0);
	mprotect(mem, page, PROT_NONE);
	assert_int_equal(sys_populate(at, page, false), -EFAULT);
	munmap(mem + 6 * page, page);
	assert_int_equal(sys_populate(at + 5 * page, 3 * page, true), -EFAULT);
	assert_int_equal(sys_populate(at + 5 * page, 3 * page, false), -EFAULT);
	assert_int_equal(sys_populate(at + 1, page, false), -EINVAL);
	munmap(mem, 8 * page);
	close(fd);
}

struct server {
	int fd;
	_Atomic int missing, protected;
	atomic_bool quit;
	char *content;
};

static void serve_one(struct server *server, const struct uffd_msg *msg)
{
	uintptr_t at = msg->arg.pagefault.address / page * page;
	size_t done;

	if (msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
		server->protected++;
		sys_uffd_writeprotect(server->fd, at, page, false);
		return;
	}
	server->missing++;
	sys_uffd_copy(server->fd, at, server->content, page, 0, &done);
}

static void *serve(void *arg)
{
	struct server *server = arg;
	struct uffd_msg msg;
	bool got, stop;

	for (;;) {
		sys_poll2(server->fd, -1, 50, &got, &stop);
		if (got && sys_uffd_read(server->fd, &msg, 1) == 1)
			serve_one(server, &msg);
		if (!got && server->quit)
			return NULL;
	}
}

/*
 * A page that is missing or write-protected in a userfaultfd is populated for writing
 * by waiting for its handler, and keeps its content.
 */
static void populate_waits_for_handler(void **state)
{
	char *mem = map_pages(2, PROT_READ | PROT_WRITE);
	struct server server = { .content = map_pages(1, PROT_READ | PROT_WRITE) };
	pthread_t thread;

	(void)state;
	if (!sys_cap(CAP_UFFD_KERNEL) || !sys_cap(CAP_UFFD_WP))
		return;
	server.content[0] = 'c';
	mem[page] = 'w';
	server.fd = sys_uffd_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP, false, NULL);
	assert_true(server.fd >= 0);
	assert_int_equal(sys_uffd_register(server.fd, (uintptr_t)mem, 2 * page,
					   SYS_UFFD_MISSING | SYS_UFFD_WP), 0);
	assert_int_equal(sys_uffd_writeprotect(server.fd, (uintptr_t)mem + page, page, true), 0);
	pthread_create(&thread, NULL, serve, &server);
	assert_int_equal(sys_populate((uintptr_t)mem, 2 * page, true), 0);
	assert_int_equal(mem[0], 'c');
	assert_int_equal(mem[page], 'w');
	assert_int_equal(server.missing, 1);
	assert_int_equal(server.protected, 1);
	server.quit = true;
	pthread_join(thread, NULL);
	close(server.fd);
	munmap(mem, 2 * page);
}

static void *increment(void *arg)
{
	_Atomic uint32_t *word = arg;

	/* Not one atomic step, so that a store from elsewhere in between would show. */
	for (uint32_t i = 1; i <= 300000; i++)
		atomic_store_explicit(word, atomic_load(word) + 1, memory_order_relaxed);
	return NULL;
}

/* Populating for writing loses no store that another thread makes meanwhile. */
static void populate_loses_no_store(void **state)
{
	char *mem = map_pages(1, PROT_READ | PROT_WRITE);
	pthread_t thread;

	(void)state;
	pthread_create(&thread, NULL, increment, mem);
	while (atomic_load((_Atomic uint32_t *)mem) < 299000)
		assert_int_equal(sys_populate((uintptr_t)mem, page, true), 0);
	pthread_join(thread, NULL);
	assert_int_equal(*(uint32_t *)mem, 300000);
	munmap(mem, page);
}

/* Copies stop at a gap: short where something was copied, -EFAULT where nothing was. */
static void copies_are_guarded(void **state)
{
	char *mem = map_pages(3, PROT_READ | PROT_WRITE);
	uintptr_t at = (uintptr_t)mem;
	static char buf[3 * 65536];
	ssize_t got;

	(void)state;
	memset(mem, 3, 2 * page);
	munmap(mem + 2 * page, page);
	got = sys_copy_from(buf, at + page, page);
	assert_int_equal(got, page);
	assert_int_equal(buf[page - 1], 3);
	got = sys_copy_from(buf, at, 3 * page);
	assert_true(got > 0 && got <= (ssize_t)(2 * page));
	assert_int_equal(sys_copy_from(buf, at + 2 * page, page), -EFAULT);
	memset(buf, 9, sizeof(buf));
	assert_int_equal(sys_copy_to(at, buf, 10), 10);
	assert_int_equal(mem[9], 9);
	assert_int_equal(mem[10], 3);
	assert_int_equal(sys_copy_to(at + 2 * page, buf, 10), -EFAULT);
	mprotect(mem, page, PROT_READ);
	assert_int_equal(sys_copy_to(at, buf, 10), -EFAULT);
	munmap(mem, 2 * page);
}

/* Pages move by the userfaultfd; a hole fails unless it is allowed. */
static void move_moves(void **state)
{
	char *mem = map_pages(4, PROT_READ | PROT_WRITE);
	uintptr_t at = (uintptr_t)mem;
	size_t done;
	int fd;

	(void)state;
	if (!sys_cap(CAP_MOVE))
		return;
	fd = sys_uffd_open(0, true, NULL);
	assert_int_equal(sys_uffd_register(fd, at, 2 * page, SYS_UFFD_MISSING), 0);
	mem[2 * page] = 4;
	assert_int_equal(sys_uffd_move(fd, at, at + 2 * page, 2 * page, SYS_UFFD_HOLES, &done), 0);
	assert_int_equal(done, 2 * page);
	assert_int_equal(mem[0], 4);
	assert_true(sys_uffd_move(fd, at + page, at + 2 * page, page, 0, &done) < 0);
	assert_int_equal(done, 0);
	assert_int_equal(sys_uffd_zeropage(fd, at + page, page, 0, &done), 0);
	assert_int_equal(done, page);
	assert_int_equal(mem[page], 0);
	assert_int_equal(sys_uffd_copy(fd, at, mem + 2 * page, page, 0, &done), -EEXIST);
	assert_int_equal(sys_uffd_unregister(fd, at, 2 * page), 0);
	close(fd);
	munmap(mem, 4 * page);
}

/* ---------------------------------------------------------------- threads */

static sem_t started, leave;

static void *idle(void *arg)
{
	*(uint32_t *)arg = sys_gettid();
	sys_tell_tcb();
	sem_post(&started);
	sem_wait(&leave);
	return NULL;
}

struct tcbs {
	uintptr_t addr[16];
	uintptr_t main;
	unsigned int nr;
};

static void note_tcb(uintptr_t addr, bool main, void *ctx)
{
	struct tcbs *tcbs = ctx;

	if (main)
		tcbs->main = addr;
	if (tcbs->nr < 16)
		tcbs->addr[tcbs->nr++] = addr;
}

/* A block begins at the thread's handle, in glibc and in musl. */
static bool around(uintptr_t addr, pthread_t thread)
{
	uintptr_t at = (uintptr_t)thread, low, high;

	sys_tcb_around(addr, &low, &high);
	return at + 4096 > low && at < high;
}

static bool tcb_near(const struct tcbs *tcbs, pthread_t thread)
{
	for (unsigned int i = 0; i < tcbs->nr; i++)
		if (around(tcbs->addr[i], thread))
			return true;
	return false;
}

/* What a thread has, and what is told of it. */
struct thread_own {
	uintptr_t tls, libcs, block, low, high, stack_end;
};

static void *look_around(void *arg)
{
	static __thread int own;
	struct thread_own *t = arg;
	uintptr_t head = 0;
	size_t below, above, size;
	pthread_attr_t attr;
	void *stack;

	sys_tls_around(&own, sizeof(own), &below, &above);
	syscall(SYS_get_robust_list, 0, &head, &size);
	t->low = head - below;
	t->high = head + above;
	t->tls = (uintptr_t)&own;
	t->libcs = (uintptr_t)&errno;
	t->block = (uintptr_t)pthread_self();
	if (pthread_getattr_np(pthread_self(), &attr))
		return NULL;
	pthread_attr_getstack(&attr, &stack, &size);
	t->stack_end = (uintptr_t)stack + size;
	pthread_attr_destroy(&attr);
	return NULL;
}

/* A thread's control block and its TLS are told whole, and not a page of a neighbour's. */
static void what_is_a_threads_is_told_exactly(void **state)
{
	const uintptr_t part = page - 1;
	struct thread_own t = { 0 };
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, look_around, &t), 0);
	pthread_join(thread, NULL);
	assert_in_range(t.tls, t.low, t.high - 1);
	assert_in_range(t.libcs, t.low, t.high - 1);
	assert_in_range(t.block, t.low, t.high - 1);
	assert_true(((t.high + part) & ~part) <= ((t.stack_end + part) & ~part));
}

/* One address in each thread's control block, and the thread is known as ours. */
static void every_tcb_is_told(void **state)
{
	const int fd = sys_tasks_open();
	struct tcbs tcbs = { .nr = 0 };
	pthread_t threads[3];
	uint32_t tids[3], nr;
	uint64_t before, mark;

	(void)state;
	assert_true(fd >= 0);
	sem_init(&started, 0, 0);
	sem_init(&leave, 0, 0);
	sys_tell_tcb();
	/* One that has been joined may have an entry for a moment. */
	do {
		before = sys_threads_mark(fd, &nr);
	} while (nr != 1);
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, idle, &tids[i]);
	for (int i = 0; i < 3; i++)
		sem_wait(&started);
	mark = sys_threads_mark(fd, &nr);
	assert_int_equal(nr, 4);
	assert_true(mark && mark != before);
	assert_true(sys_threads_mark(fd, &nr) == mark);
	assert_int_equal(sys_for_each_tcb(fd, note_tcb, &tcbs), 0);
	assert_true(tcb_near(&tcbs, pthread_self()));
	assert_true(around(tcbs.main, pthread_self()));
	for (int i = 0; i < 3; i++) {
		assert_true(tcb_near(&tcbs, threads[i]));
		assert_true(sys_thread_is_ours(tids[i]));
	}
	for (int i = 0; i < 3; i++)
		sem_post(&leave);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	sys_close(fd);
	assert_true(sys_thread_is_ours(sys_gettid()));
	assert_false(sys_thread_is_ours(1));
}

#define LIVING	150

struct tcb_walk {
	_Atomic bool stop;
	_Atomic uint32_t begun;		/* of those that live */
	_Atomic uint32_t may_end;	/* of the others */
	uintptr_t own[LIVING];		/* what is told of the former */
	uintptr_t told[2 * LIVING + 3];
	size_t nr, whole;
};

static void *living_run(void *arg)
{
	struct tcb_walk *walk = arg;
	uintptr_t head = 0;
	size_t size;

	sys_tell_tcb();
	syscall(SYS_get_robust_list, 0, &head, &size);
	walk->own[walk->begun] = head;
	walk->begun++;
	while (sem_wait(&leave))
		;
	return NULL;
}

/* It is made before one that lives, and ends while both may be being told. */
static void *ending_run(void *arg)
{
	struct tcb_walk *walk = arg;
	const uint32_t nr = walk->begun;

	sem_post(&started);
	while (walk->may_end <= nr)
		;
	return NULL;
}

static void told(uintptr_t addr, bool main, void *ctx)
{
	struct tcb_walk *walk = ctx;

	(void)main;
	walk->told[walk->nr++] = addr;
}

static bool was_told(const struct tcb_walk *walk, uintptr_t addr)
{
	for (size_t i = 0; i < walk->nr; i++)
		if (walk->told[i] == addr)
			return true;
	return false;
}

static void *walk_run(void *arg)
{
	const int fd = sys_tasks_open();
	struct tcb_walk *walk = arg;
	uintptr_t missed = 0;

	while (!walk->stop) {
		const uint32_t nr = walk->begun;

		walk->nr = 0;
		if (sys_for_each_tcb(fd, told, walk))
			continue;
		walk->whole++;
		for (uint32_t i = 0; i < nr; i++)
			missed += !was_told(walk, walk->own[i]);
	}
	sys_close(fd);
	return (void *)missed;
}

/* While threads end, which lets the kernel pass over others, what is said to be all of them is. */
static void no_tcb_is_passed_over(void **state)
{
	static struct tcb_walk walk;
	static pthread_t living[LIVING];
	pthread_t ending, walker;
	void *missed;

	(void)state;
	sem_init(&started, 0, 0);
	sem_init(&leave, 0, 0);
	assert_int_equal(pthread_create(&walker, NULL, walk_run, &walk), 0);
	for (uint32_t i = 0; i < LIVING; i++) {
		assert_int_equal(pthread_create(&ending, NULL, ending_run, &walk), 0);
		sem_wait(&started);
		assert_int_equal(pthread_create(&living[i], NULL, living_run, &walk), 0);
		while (walk.begun == i)
			sched_yield();
		walk.may_end = i + 1;
		pthread_join(ending, NULL);
	}
	walk.stop = true;
	pthread_join(walker, &missed);
	for (uint32_t i = 0; i < LIVING; i++)
		sem_post(&leave);
	for (uint32_t i = 0; i < LIVING; i++)
		pthread_join(living[i], NULL);
	assert_true(walk.whole > 0);
	assert_int_equal((uintptr_t)missed, 0);
}

/* Writes to each page when told to, and says so; ends when nobody tells it any more. */
static pid_t fork_writer(char *mem, size_t nr, int tell[2], int said[2])
{
	char word = 0;
	pid_t pid;

	assert_int_equal(pipe(tell), 0);
	assert_int_equal(pipe(said), 0);
	pid = fork();
	if (pid)
		return pid;
	close(tell[1]);
	while (write(said[1], &word, 1) == 1 && read(tell[0], &word, 1) == 1)
		for (size_t i = 0; i < nr; i++)
			mem[i * page] = word;
	_exit(0);
}

/* What a fork leaves to two counts for each in full, and is a half of each's. */
static void what_is_shared_is_told_in_parts(void **state)
{
	const size_t nr = 8192, bytes = nr * page;
	char *mem = map_pages(nr, PROT_READ | PROT_WRITE), word = 1;
	int tell[2], said[2];
	struct sys_memory memory;
	uint64_t share, faults;
	pid_t pid;

	(void)state;
	madvise(mem, bytes, MADV_NOHUGEPAGE);
	memset(mem, 5, bytes);
	pid = fork_writer(mem, nr, tell, said);
	assert_int_equal(read(said[0], &word, 1), 1);
	assert_int_equal(sys_memory_of(pid, &memory), 0);
	assert_true(memory.resident >= bytes);
	assert_int_equal(sys_memory_share(pid, &share), 0);
	assert_true(share >= bytes / 2 && share <= memory.resident - bytes / 4);

	faults = sys_faults(pid);
	assert_int_equal(write(tell[1], "w", 1), 1);
	assert_int_equal(read(said[0], &word, 1), 1);
	assert_true(sys_faults(pid) - faults >= nr);
	assert_int_equal(sys_memory_share(pid, &share), 0);
	assert_true(share >= bytes);

	close(tell[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(sys_memory_share(pid, &share), -ESRCH);
	assert_int_equal(sys_faults(pid), 0);
	close(tell[0]);
	close(said[0]);
	close(said[1]);
	munmap(mem, bytes);
}

static volatile uintptr_t bus_addr;
static volatile int bus_code;

static void on_bus(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	bus_addr = (uintptr_t)info->si_addr;
	bus_code = info->si_code;
}

/* The signal arrives as a fault's would: with its address. */
static void kill_thread_carries_address(void **state)
{
	struct sigaction act = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };
	struct sigaction old;

	(void)state;
	sigaction(SIGBUS, &act, &old);
	assert_int_equal(sys_kill_thread(sys_gettid(), SIGBUS, 0x1234000), 0);
	assert_int_equal(bus_addr, 0x1234000);
	assert_int_equal(bus_code, BUS_ADRERR);
	sigaction(SIGBUS, &old, NULL);
}

/* Readable descriptors are told, others not, and the time is kept. */
static void poll_and_events(void **state)
{
	int a = sys_eventfd(), b = sys_eventfd();
	bool got_a, got_b;
	uint64_t begin;

	(void)state;
	begin = sys_now_ns();
	assert_int_equal(sys_poll2(a, b, 20, &got_a, &got_b), 0);
	assert_true(sys_now_ns() - begin >= 20000000u);
	assert_false(got_a || got_b);
	assert_int_equal(sys_eventfd_signal(b), 0);
	assert_int_equal(sys_poll2(a, b, -1, &got_a, &got_b), 1);
	assert_true(!got_a && got_b);
	sys_eventfd_clear(b);
	assert_int_equal(sys_poll2(-1, b, 0, &got_a, &got_b), 0);
	sys_close(a);
	sys_close(b);
	sys_close(-1);
}

/* The allowed CPUs are those that a thread can be pinned to. */
static void cpus_can_be_pinned(void **state)
{
	static unsigned int cpus[8192];
	unsigned int nr = sys_cpus(cpus, 8192);
	cpu_set_t old;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(old), &old), 0);
	assert_int_equal(nr, (unsigned int)CPU_COUNT(&old));
	assert_int_equal(sys_pin_to_cpu(0, cpus[nr - 1]), 0);
	assert_int_equal(sched_getcpu(), cpus[nr - 1]);
	assert_int_equal(sched_setaffinity(0, sizeof(old), &old), 0);
	assert_true(sys_pin_to_cpu(0, 1 << 20) < 0);
}

/* ---------------------------------------------------------------- */

/* The same again in a process that has to use every fallback. */
static int run_masked(char **argv)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		setenv("UHMM_CAPS", FALLBACKS, 1);
		execv("/proc/self/exe", argv);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

#ifdef __GLIBC__	/* others have no keys */
/* Keys of the program's are found, and its threads' rights stay what they were. */
static void protection_keys_are_found(void **state)
{
	int key;

	(void)state;
	assert_false(sys_keys_used());
	assert_false(sys_keys_used());
	key = pkey_alloc(0, PKEY_DISABLE_WRITE);
	if (key < 0) {
		print_message("          not here: no protection keys\n");
		return;
	}
	assert_true(sys_keys_used());
	assert_int_equal(pkey_get(key), PKEY_DISABLE_WRITE);
	pkey_free(key);
	assert_false(sys_keys_used());
}
#endif

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(probes_leave_nothing),
		cmocka_unit_test(masks_take_dependents),
		cmocka_unit_test(vma_find_agrees_with_text),
		cmocka_unit_test(files_may_have_no_number),
		cmocka_unit_test(vma_each_tells_each_once),
		cmocka_unit_test(page_states_tell_pages_apart),
		cmocka_unit_test(reserve_is_aligned),
		cmocka_unit_test(dontunmap_moves_content),
		cmocka_unit_test(populate_brings_pages),
		cmocka_unit_test(populate_waits_for_handler),
		cmocka_unit_test(populate_loses_no_store),
		cmocka_unit_test(copies_are_guarded),
		cmocka_unit_test(move_moves),
		cmocka_unit_test(every_tcb_is_told),
		cmocka_unit_test(no_tcb_is_passed_over),
		cmocka_unit_test(what_is_a_threads_is_told_exactly),
		cmocka_unit_test(what_is_shared_is_told_in_parts),
		cmocka_unit_test(kill_thread_carries_address),
		cmocka_unit_test(poll_and_events),
		cmocka_unit_test(cpus_can_be_pinned),
#ifdef __GLIBC__
		cmocka_unit_test(protection_keys_are_found),
#endif
	};
	const char *name = getenv("UHMM_CAPS") ? "sys, masked" : "sys";
	int fd, failed;

	(void)argc;
	page = sys_page_size();
	/* Not by sys_cap(): that the first question is asked in a child is a test. */
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		printf("skipped: no /proc/self/pagemap\n");
		return 77;
	}
	close(fd);
	failed = cmocka_run_group_tests_name(name, tests, NULL, NULL);
	if (!failed && !getenv("UHMM_CAPS"))
		failed = run_masked(argv);
	return failed;
}
