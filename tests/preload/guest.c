// SPDX-License-Identifier: MIT
/*
 * An unmodified program. What it prints of itself is the same whether or not uhmm is
 * there; how it behaves is its first word.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS	16

static const char *self;

/* ---------------------------------------------------------------- what it can see of itself */

static int count_threads(void)
{
	char line[128];
	int nr = -1;
	FILE *status = fopen("/proc/self/status", "r");

	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "Threads: %d", &nr) == 1)
			break;
	if (status)
		fclose(status);
	return nr;
}

static int manners(void)
{
	struct sigaction action;
	sigset_t mask;
	char cwd[256];
	int saved = errno;

	printf("errno %d\n", saved);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	for (int sig = 1; sig < 65; sig++) {
		if (sigismember(&mask, sig) == 1)
			printf("blocked %d\n", sig);
		if (sigaction(sig, NULL, &action) == 0 && action.sa_handler != SIG_DFL)
			printf("handled %d\n", sig);
	}
	for (int fd = 3; fd < 256; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf("open %d\n", fd);
	fcntl(0, F_DUPFD, 0);
	printf("next descriptor is 3: %d\n", fcntl(3, F_GETFD) >= 0);
	printf("threads %d\n", count_threads());
	errno = 0;
	printf("wait %d", (int)wait(NULL));
	printf(" %s\n", strerror(errno));
	printf("directory %s\n", getcwd(cwd, sizeof(cwd)) ? cwd : "?");
	printf("leader %d\n", getsid(0) == getpid());
	printf("unshare %d\n", (int)syscall(SYS_unshare, 0x00020000L /* CLONE_NEWNS */) == 0 ||
	       errno == EPERM);
	return 0;
}

/* ---------------------------------------------------------------- what programs do */

static void fill_and_check(unsigned char *p, size_t len, unsigned char value)
{
	memset(p, value, len);
	for (size_t i = 0; i < len; i += 997)
		if (p[i] != value)
			abort();
}

static void *churn(void *arg)
{
	unsigned char value = (unsigned char)(size_t)arg;

	for (int i = 0; i < 100; i++) {
		size_t len = 200000 + (size_t)i * 4096;
		unsigned char *p = malloc(len);

		fill_and_check(p, len, value);
		p = realloc(p, 2 * len);
		for (size_t j = 0; j < len; j += 997)
			if (p[j] != value)
				abort();
		free(p);
	}
	return NULL;
}

static int status_of(pid_t pid)
{
	int status = -1;

	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int life(void)
{
	pthread_t threads[THREADS];
	pid_t pid;

	for (size_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, churn, (void *)i);
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	pid = fork();
	if (pid == 0) {
		churn((void *)1);
		_exit(11);
	}
	printf("fork %d\n", status_of(pid));
	pid = vfork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", "exit 12", NULL);
		_exit(1);
	}
	printf("vfork %d\n", status_of(pid));
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (pid == 0) {
		void *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			       -1, 0);

		fill_and_check(p, 1 << 20, 3);
		munmap(p, 1 << 20);
		syscall(SYS_exit_group, 13);
	}
	printf("clone %d\n", status_of(pid));
	printf("system %d\n", WEXITSTATUS(system("exit 14")));
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		execl(self, self, "manners", NULL);
		_exit(1);
	}
	return status_of(pid);
}

#define HOARD	(64UL << 20)

static uint64_t word(size_t i, uint64_t salt)
{
	return (i + 1) * 0x9e3779b97f4a7c15u ^ salt;
}

static void write_words(uint64_t *p, uint64_t salt)
{
	for (size_t i = 0; i < HOARD / sizeof(*p); i++)
		p[i] = word(i, salt);
}

static void check_words(const uint64_t *p, uint64_t salt)
{
	for (size_t i = 0; i < HOARD / sizeof(*p); i++)
		if (p[i] != word(i, salt)) {
			fprintf(stderr, "word %zu is %llx\n", i, (unsigned long long)p[i]);
			abort();
		}
}

/* More than its share of memory, gone through again and again. */
static int hoard(void)
{
	uint64_t *p = malloc(HOARD);

	for (uint64_t salt = 0; salt < 4; salt++) {
		write_words(p, salt);
		check_words(p, salt);
	}
	free(p);
	return 0;
}

struct outliver {
	uint64_t *words;
	int ends[2];		/* a pipe, whose writer its maker keeps until it is gone */
};

/* In its maker's memory, and nobody else's any more when the pipe is closed. */
static int outliver_main(void *arg)
{
	const struct outliver *o = arg;
	char end;

	close(o->ends[1]);
	while (read(o->ends[0], &end, 1) < 0)
		;
	for (uint64_t salt = 7; salt < 12; salt++) {
		check_words(o->words, salt);
		write_words(o->words, salt + 1);
	}
	free(malloc(1 << 22));
	dprintf(1, "outlived\n");
	syscall(SYS_exit_group, 0);
	return 0;
}

/* A process shares its memory and ends, or becomes another program. */
static int outlive_by(uint64_t *words, int (*leave)(void))
{
	const size_t room = 1 << 18;
	struct outliver o = { .words = words };
	char *stack = malloc(room);

	if (pipe2(o.ends, O_CLOEXEC) ||
	    clone(outliver_main, stack + room, CLONE_VM | SIGCHLD, &o) < 0)
		return 1;
	return leave();
}

static int leave_by_end(void)
{
	syscall(SYS_exit_group, 33);
	return 1;
}

static int leave_by_exec(void)
{
	execl(self, self, "34", NULL);
	return 1;
}

static uint64_t *words_of(uint64_t salt)
{
	uint64_t *words = mmap(NULL, HOARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			       -1, 0);

	write_words(words, salt);
	return words;
}

static int outlived(void)
{
	return outlive_by(words_of(7), leave_by_end);
}

static int outlived_by_exec(void)
{
	return outlive_by(words_of(7), leave_by_exec);
}

/* A child that no libc sees being made. It changes its mappings, and then does as told. */
static int bare_child(uint64_t *words, int (*act)(uint64_t *words))
{
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	int status;

	if (pid)
		return status_of(pid);
	munmap(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096);
	status = act(words);
	fflush(stdout);
	_exit(status);
}

static int outlive(uint64_t *words)
{
	return outlive_by(words, leave_by_end);
}

static int outlived_child(void)
{
	return bare_child(words_of(7), outlive);
}

/* What shares the program's memory makes another that does, and that one changes it. */
struct nest {
	uint64_t *words;
	int go[2], done[2];
	bool leave;		/* the one in the middle ends first */
	char *stack;		/* of the two */
};

#define NEST_STACK	(1 << 18)

/* The words' second half goes elsewhere, their first is made anew. */
static void change_halves(uint64_t *words)
{
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
	char *p = (char *)words, *to;

	to = mmap(NULL, HOARD / 2, PROT_NONE, flags, -1, 0);
	if (mremap(p + HOARD / 2, HOARD / 2, HOARD / 2, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to ||
	    munmap(p, HOARD / 2) || mmap(p, HOARD / 2, prot, flags | MAP_FIXED, -1, 0) != p)
		abort();
	for (size_t i = 0; i < HOARD / 16; i++)
		if (words[i] || ((uint64_t *)(void *)to)[i] != word(HOARD / 16 + i, 5))
			abort();
}

static int innermost_main(void *arg)
{
	const struct nest *n = arg;
	char ready;

	if (read(n->go[0], &ready, 1) != 1)
		abort();
	change_halves(n->words);
	if (write(n->done[1], "", 1) != 1)
		abort();
	return 0;
}

static int middle_main(void *arg)
{
	const struct nest *n = arg;

	if (clone(innermost_main, n->stack + NEST_STACK, CLONE_VM | SIGCHLD, arg) < 0)
		abort();
	if (!n->leave)
		wait(NULL);
	return 0;
}

static int nest(uint64_t *words, bool leave)
{
	struct nest n = { .words = words, .leave = leave, .stack = malloc(2 * NEST_STACK) };
	pid_t pid;
	char done;

	if (pipe(n.go) || pipe(n.done))
		return 1;
	pid = clone(middle_main, n.stack + 2 * NEST_STACK, CLONE_VM | SIGCHLD, &n);
	if (pid < 0 || (leave && waitpid(pid, NULL, 0) != pid) || write(n.go[1], "", 1) != 1)
		return 1;
	close(n.done[1]);
	done = read(n.done[0], &done, 1) == 1;
	printf("%s\n", done ? "as it should be" : "wrong");
	return 0;
}

static int nested(void)
{
	return nest(words_of(5), false);
}

static int nest_alone(uint64_t *words)
{
	return nest(words, true);
}

static int nested_alone(void)
{
	return nest_alone(words_of(5));
}

/* Nobody may look into it, nor has it become another program, as it wanted to. */
static int undumpable(void)
{
	uint64_t *words = words_of(5);

	prctl(PR_SET_DUMPABLE, 0);
	execl("/nonexistent", "nonexistent", NULL);
	change_halves(words);
	printf("as it should be\n");
	return 0;
}

static int nested_in_child(void)
{
	return bare_child(words_of(5), nest_alone);
}

static sigjmp_buf over;

static void on_bus(int sig)
{
	(void)sig;
	siglongjmp(over, 1);
}

/*
 * Its memory may lose pages: it says how many it has found so, and takes what is in the
 * others for granted. Nothing but that memory is on the heap.
 */
static int survive(void)
{
	const size_t words = 4096 / sizeof(uint64_t);
	volatile size_t lost = 0, i;
	volatile uint64_t salt;
	uint64_t *p = mmap(NULL, HOARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	signal(SIGBUS, on_bus);
	write_words(p, 0);
	for (salt = 0; salt < 3; salt++) {
		lost = 0;
		for (i = 0; i < HOARD / sizeof(*p); i += words) {
			if (sigsetjmp(over, 1)) {
				lost++;
				continue;
			}
			for (size_t j = i; j < i + words; j++)
				if (p[j] != word(j, salt))
					abort();
			for (size_t j = i; j < i + words; j++)
				p[j] = word(j, salt + 1);
		}
	}
	dprintf(1, "%zu\n", lost);
	return 0;
}

static unsigned long vm_bytes(void)
{
	unsigned long pages = 0;
	FILE *statm = fopen("/proc/self/statm", "r");

	if (!statm || fscanf(statm, "%lu", &pages) != 1)
		abort();
	fclose(statm);
	return pages * 4096;
}

static const char *got(const void *p)
{
	return p == MAP_FAILED ? strerror(errno) : "memory";
}

static int who_am_i(void)
{
	printf("user %d, effectively %d\n", (int)getuid(), (int)geteuid());
	return 0;
}

/* What it may have it limits itself, for a while. */
static int limits(void)
{
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
	char *p = mmap(NULL, 1 << 20, prot, flags, -1, 0);
	struct rlimit all, few;

	getrlimit(RLIMIT_AS, &all);
	few = all;
	few.rlim_cur = vm_bytes() + (64UL << 20);
	setrlimit(RLIMIT_AS, &few);
	printf("mmap: %s\n", got(mmap(NULL, 256UL << 20, prot, flags, -1, 0)));
	printf("mmap at: %s\n", got(mmap(p + (1 << 19), 256UL << 20, prot, flags | MAP_FIXED, -1, 0)));
	printf("mremap: %s\n", got(mremap(p, 1 << 19, 256UL << 20, MREMAP_MAYMOVE)));
	setrlimit(RLIMIT_AS, &all);
	printf("mmap: %s\n", got(mmap(NULL, 256UL << 20, prot, flags, -1, 0)));
	return 0;
}

/* ---------------------------------------------------------------- at full speed */

#define PIECES_MAX	(1u << 15)

struct allocator {
	const struct way {
		const char *name;
		size_t piece;		/* 0: all in one */
		char *(*get)(size_t len);
		void *(*fill)(void *arg);
	} *way;
	size_t bytes, piece;
	char *pieces[PIECES_MAX];
	size_t nr;
};

static char *by_malloc(size_t len)
{
	return malloc(len);
}

static char *by_populating(size_t len)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
		    -1, 0);
}

/* Nothing is as fast as a word for each page. */
static void mark(char *p, size_t len, size_t nr)
{
	for (size_t i = 0; i < len; i += 4096)
		memcpy(p + i, &(size_t){ nr + 1 }, sizeof(nr));
}

static void *allocate_pieces(void *arg)
{
	struct allocator *a = arg;

	for (a->nr = 0; a->nr * a->piece < a->bytes; a->nr++) {
		a->pieces[a->nr] = a->way->get(a->piece);
		mark(a->pieces[a->nr], a->piece, a->nr);
	}
	return NULL;
}

static void *check_pieces(void *arg)
{
	const struct allocator *a = arg;

	for (size_t nr = 0; nr < a->nr; nr++)
		for (size_t i = 0; i < a->piece; i += 4096)
			if (memcmp(a->pieces[nr] + i, &(size_t){ nr + 1 }, sizeof(nr)))
				abort();
	return NULL;
}

/* One block that grows by halves. */
static void *allocate_growing(void *arg)
{
	struct allocator *a = arg;

	for (size_t len = 0, next = a->piece; len < a->bytes; next = (len + len / 2) & ~4095UL) {
		a->pieces[0] = realloc(a->pieces[0], next);
		mark(a->pieces[0] + len, next - len, 0);
		len = next;
	}
	a->piece = a->bytes;
	a->nr = 1;
	return NULL;
}

static long peak_kib(void)
{
	char line[128];
	long kib = -1;
	FILE *status = fopen("/proc/self/status", "r");

	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "VmHWM: %ld", &kib) == 1)
			break;
	if (status)
		fclose(status);
	return kib;
}

static void with_threads(void *(*fn)(void *), struct allocator *all, size_t nr)
{
	pthread_t threads[THREADS];

	for (size_t i = 0; i < nr; i++)
		pthread_create(&threads[i], NULL, fn, &all[i]);
	for (size_t i = 0; i < nr; i++)
		pthread_join(threads[i], NULL);
}

static const struct way ways[] = {
	{ "one", 0, by_malloc, allocate_pieces },
	{ "large", 3 << 20, by_malloc, allocate_pieces },
	{ "pieces", 200 << 10, by_malloc, allocate_pieces },
	{ "small", 8000, by_malloc, allocate_pieces },
	{ "populate", 8 << 20, by_populating, allocate_pieces },
	{ "grow", 1 << 20, NULL, allocate_growing },
};

/* allocate HOW MIB THREADS: says by how much it has grown at most, in KiB. */
static int allocate(char **argv)
{
	static struct allocator all[THREADS];
	const size_t threads = strtoul(argv[2], NULL, 0);
	const size_t bytes = (strtoul(argv[1], NULL, 0) << 20) / threads;
	const long before = peak_kib();
	const struct way *way = ways;

	while (strcmp(way->name, argv[0]))
		way++;
	for (size_t i = 0; i < threads; i++) {
		all[i].way = way;
		all[i].bytes = bytes;
		all[i].piece = way->piece ? way->piece : bytes;
	}
	with_threads(way->fill, all, threads);
	printf("%ld\n", peak_kib() - before);
	with_threads(check_pieces, all, threads);
	printf("%ld\n", peak_kib() - before);
	return 0;
}

/* Parent and children have each their own bytes, whatever the others do. */
static int inherit(void)
{
	uint64_t *p = malloc(HOARD);
	pid_t pids[3];

	write_words(p, 100);
	for (uint64_t i = 0; i < 3; i++) {
		pids[i] = i == 2 ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
		if (pids[i])
			continue;
		check_words(p, 100);
		write_words(p, 200 + i);
		check_words(p, 200 + i);
		_exit(0);
	}
	write_words(p, 103);
	for (int i = 0; i < 3; i++)
		printf("child %d: %d\n", i, status_of(pids[i]));
	check_words(p, 103);
	return 0;
}

static void read_for_a_while(const uint64_t *p, uint64_t salt)
{
	const struct timespec nap = { .tv_nsec = 30 * 1000000 };

	for (int round = 0; round < 10; round++) {
		check_words(p, salt);
		nanosleep(&nap, NULL);
	}
}

/* What a fork has left to all of them is read by all of them for some time. */
static int shared_by_four(bool anew)
{
	uint64_t *p = malloc(HOARD);
	pid_t pids[3];

	write_words(p, 300);
	for (int i = 0; i < 3; i++) {
		pids[i] = fork();
		if (pids[i])
			continue;
		read_for_a_while(p, 300);
		if (anew) {
			free(p);
			p = malloc(HOARD);
			write_words(p, 301);
			read_for_a_while(p, 301);
		}
		_exit(0);
	}
	for (int i = 0; i < 3; i++)
		printf("child %d: %d\n", i, status_of(pids[i]));
	check_words(p, 300);
	return 0;
}

static int read_together(void)
{
	return shared_by_four(false);
}

/* ... and then let go of by the children, who take as much for themselves. */
static int take_anew(void)
{
	return shared_by_four(true);
}

/* Everything but standard error is closed; then it forks, and goes on. */
static int daemonise(void)
{
	pid_t pid;

	for (int fd = 3; fd < 2048; fd++)
		close(fd);
	pid = fork();
	if (pid)
		return status_of(pid) == 21 ? 0 : 1;
	setsid();
	churn((void *)5);
	_exit(21);
}

/* The kernel's answer to calls @nr is no; to those only whose argument @arg is @value. */
static int filter(unsigned int nr, unsigned int arg, unsigned int value, unsigned int action)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + 8 * arg),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = 6, .filter = code };

	prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0L, &program);
}

static int sandbox(void)
{
	printf("filter %d\n", filter(SYS_ptrace, 0, 0, SECCOMP_RET_KILL_PROCESS));
	churn((void *)7);
	printf("fork %d\n", WEXITSTATUS(system("exit 3")));
	return 0;
}

/* Runs what follows where there is no way to a userfaultfd: no call, and no device. */
static int without_userfaultfd(char **argv)
{
	if (filter(SYS_userfaultfd, 0, O_CLOEXEC | O_NONBLOCK, SECCOMP_RET_ERRNO | EPERM) ||
	    filter(SYS_ioctl, 1, 0xaa00 /* USERFAULTFD_IOC_NEW */, SECCOMP_RET_ERRNO | EPERM))
		return 1;
	execvp(argv[0], argv);
	return 1;
}

static int low_limits(void)
{
	struct rlimit files = { 8, 8 };

	fflush(stdout);
	setrlimit(RLIMIT_NOFILE, &files);
	execl(self, self, "sandbox", NULL);
	return 1;
}

#define REOPENED	20

static int open_null(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* Where no userfaultfd is to be had, /dev/null will do. */
static int open_own_userfaultfd(void)
{
	const int fd = (int)syscall(SYS_userfaultfd, (long)(O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */));

	return fd < 0 ? open_null() : fd;
}

/* How many of them are open in a child of a fork? */
static int reopened(int (*open_one)(void))
{
	int fds[REOPENED], kept = 0;
	pid_t pid;

	for (int fd = 3; fd < 64; fd++)
		close(fd);
	for (int i = 0; i < REOPENED; i++)
		fds[i] = open_one();
	pid = fork();
	if (pid)
		return status_of(pid);
	for (int i = 0; i < REOPENED; i++)
		kept += fcntl(fds[i], F_GETFD) >= 0;
	_exit(kept);
}

/* With no room for high numbers: all that was open is closed, and others have the numbers. */
static int reopen(void)
{
	struct rlimit files;

	getrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_cur != 64) {
		files.rlim_cur = 64;
		setrlimit(RLIMIT_NOFILE, &files);
		execl(self, self, "reopen", NULL);
		return 1;
	}
	printf("%d of %d files\n", reopened(open_null), REOPENED);
	printf("%d of %d userfaultfds\n", reopened(open_own_userfaultfd), REOPENED);
	return 0;
}

static void on_term(int sig)
{
	(void)sig;
	if (write(1, "terminated\n", 11) != 11)
		_exit(1);
	_exit(31);
}

/*
 * Waits until more of its pages are not there any more than are taken at a time: some then
 * have arrived.
 */
static int until_taken(void)
{
	enum { NR = 1024, AT_A_TIME = 16 };
	const size_t size = (size_t)sysconf(_SC_PAGESIZE);
	unsigned char *p = mmap(NULL, NR * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				-1, 0);
	int fd = open("/proc/self/pagemap", O_RDONLY);
	static uint64_t entries[NR];

	if (p == MAP_FAILED || fd < 0)
		return 1;
	memset(p, 1, NR * size);
	alarm(60);
	for (size_t away = 0; away <= AT_A_TIME; sched_yield()) {
		if (pread(fd, entries, sizeof(entries), (off_t)((uintptr_t)p / size * 8)) !=
		    (ssize_t)sizeof(entries))
			return 1;
		away = 0;
		for (size_t i = 0; i < NR; i++)
			away += !(entries[i] >> 62);
	}
	return 0;
}

/* The test waits for the line. */
static void announce(void)
{
	printf("%d\n", (int)getpid());
	fflush(stdout);
}

/* Says who it is, and waits. */
static int linger(void)
{
	signal(SIGTERM, on_term);
	if (fork() == 0)
		for (;;)
			pause();
	announce();
	while (pause())
		;
	return 0;
}

/* Says that it is there, sees its adopter's end, and goes on. */
static int adopted(char **argv)
{
	const struct timespec nap = { .tv_nsec = 100 * 1000000 };
	const pid_t adopter = getppid();

	if (write(atoi(argv[0]), "", 1) != 1)
		return 1;
	while (getppid() == adopter)
		sched_yield();
	/* Who is to be ended for it is ended now. */
	nanosleep(&nap, NULL);
	churn((void *)6);
	printf("goes on\n");
	return 0;
}

/* Whoever is an orphan below it becomes its child; it ends before what it has started. */
static int adopter(void)
{
	char number[16], there;
	int ends[2];

	if (prctl(PR_SET_CHILD_SUBREAPER, 1L, 0L, 0L, 0L) || pipe(ends))
		return 1;
	snprintf(number, sizeof(number), "%d", ends[1]);
	if (fork() == 0) {
		execl(self, self, "adopted", number, NULL);
		_exit(1);
	}
	return read(ends[0], &there, 1) == 1 ? 35 : 1;
}

static void on_alarm(int sig)
{
	(void)sig;
	_exit(36);
}

/* Has it children? Does not wait for them for ever, as the first of a namespace either. */
static int childless(void)
{
	int subreaper = 0;
	pid_t pid;

	signal(SIGALRM, on_alarm);
	alarm(20);
	errno = 0;
	pid = wait(NULL);
	prctl(PR_GET_CHILD_SUBREAPER, &subreaper, 0L, 0L, 0L);
	printf("wait %d %s, subreaper %d, first %d\n", (int)pid, strerror(errno), subreaper,
	       getpid() == 1);
	return 0;
}

static int adopt_exec(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1L, 0L, 0L, 0L);
	execl(self, self, "childless", NULL);
	return 1;
}

/* The first process of a namespace; the namespace's other orphans become its children. */
static int adopt_first(void)
{
	pid_t pid;

	if (unshare(CLONE_NEWUSER | CLONE_NEWPID)) {
		printf("no namespaces here\n");
		return 0;
	}
	pid = fork();
	if (pid == 0) {
		execl(self, self, "childless", NULL);
		_exit(1);
	}
	return status_of(pid);
}

static int linger_alone(void)
{
	announce();
	while (pause())
		;
	return 0;
}

/* In a cleared environment, so without an agent; its child, which has it again, has one. */
static int linger_plainly(char **environment)
{
	if (fork() == 0) {
		execle(self, self, "linger-alone", NULL, environment);
		_exit(1);
	}
	while (pause())
		;
	return 0;
}

/* Whoever is an orphan below it becomes its child: its child's agent. */
static int linger_adopting(void)
{
	char preload[4096], monitor[4096], *const none[] = { NULL };

	if (!getenv("LD_PRELOAD") || !getenv("UHMM_MONITOR") ||
	    prctl(PR_SET_CHILD_SUBREAPER, 1L, 0L, 0L, 0L))
		return 1;
	snprintf(preload, sizeof(preload), "LD_PRELOAD=%s", getenv("LD_PRELOAD"));
	snprintf(monitor, sizeof(monitor), "UHMM_MONITOR=%s", getenv("UHMM_MONITOR"));
	execle(self, self, "linger-plainly", preload, monitor, NULL, none);
	return 1;
}

/* Children that are all there at once: @nr, or as many as forks are allowed. */
static int crowd_of(int nr, bool all)
{
	const size_t len = 1 << 18;
	int fds[2], failed = 0, status;
	char none;

	if (pipe(fds))
		return 1;
	for (int i = 0; i < nr; i++) {
		pid_t pid = fork();

		if (pid < 0 && errno == EAGAIN && !all)
			break;
		if (pid == 0) {
			unsigned char *p = malloc(len);

			close(fds[1]);
			memset(p, i, len);
			if (read(fds[0], &none, 1) != 0)
				_exit(1);
			for (size_t j = 0; j < len; j++)
				if (p[j] != (unsigned char)i)
					_exit(1);
			_exit(0);
		}
		failed |= pid < 0;
	}
	close(fds[1]);
	while (wait(&status) > 0)
		failed |= status;
	printf("crowd %d\n", failed);
	return failed;
}

/* More than a monitor looks at in one go. */
static int crowd(void)
{
	return crowd_of(150, true);
}

static int crowd_as_allowed(void)
{
	return crowd_of(150, false);
}

/* For ever. */
static void announce_and_churn(void)
{
	announce();
	while (!churn((void *)9))
		;
}

static void fork_spinner(void)
{
	if (fork() == 0)
		for (;;)
			;
}

/* Busy, and changing its mappings, when whatever happens to it happens. */
static int busy(void)
{
	fork_spinner();
	announce_and_churn();
	return 0;
}

/* ... and executing itself again and again, each time with another agent. */
static int again(void)
{
	const size_t len = 1 << 20;
	unsigned char *p = malloc(len);

	for (int i = 0; i < 4; i++)
		fill_and_check(p, len, (unsigned char)i);
	execl(self, self, "again", NULL);
	return 1;
}

static int busy_with_execs(void)
{
	fork_spinner();
	announce();
	return again();
}

/* Another process that shares its memory, and changes it for ever. */
static int change_for_ever(void *arg)
{
	(void)arg;
	for (;;)
		munmap(mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		       1 << 16);
	return 0;
}

/* ... or reads it for ever, and says so when it is not what it was. */
static int read_for_ever(void *words)
{
	const uint64_t *p = words;

	for (size_t i = 0; p[i] == word(i, 9); i = (i + 1) % (HOARD / sizeof(*p)))
		;
	return write(1, "wrong\n", 6) != 6;
}

static int share_with(int (*other)(void *arg), void *arg)
{
	const size_t room = 1 << 18;
	char *stack = malloc(room);

	if (clone(other, stack + room, CLONE_VM | SIGCHLD, arg) < 0)
		return 1;
	announce_and_churn();
	return 0;
}

static int share(void)
{
	return share_with(change_for_ever, NULL);
}

static int share_to_read(void)
{
	uint64_t *words = malloc(HOARD);

	write_words(words, 9);
	return share_with(read_for_ever, words);
}

static void *headless_main(void *arg)
{
	char state = 'R';

	(void)arg;
	while (state != 'Z') {
		FILE *stat = fopen("/proc/self/stat", "r");

		if (!stat || fscanf(stat, "%*d %*s %c", &state) != 1)
			abort();
		fclose(stat);
	}
	announce_and_churn();
	return NULL;
}

/* Its first thread ends before the others. */
static int headless(void)
{
	pthread_t thread;

	if (fork() == 0)
		for (;;)
			;
	pthread_create(&thread, NULL, headless_main, NULL);
	pthread_exit(NULL);
}

/* What a debugger does: see it start, and let it run. */
static int debug(char **argv)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		execv(argv[0], argv);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	if (!WIFSTOPPED(status))
		return 126;
	ptrace(PTRACE_CONT, pid, NULL, NULL);
	return status_of(pid);
}

static void *become(void *arg)
{
	char **argv = arg;

	execv(argv[0], argv);
	_exit(127);
}

/* A thread that is not the main one becomes another program, and all others end. */
static int exec_from_thread(char **argv)
{
	pthread_t threads[2];

	pthread_create(&threads[0], NULL, churn, (void *)1);
	pthread_create(&threads[1], NULL, become, argv);
	while (pause())
		;
	return 0;
}

static int hang_up(void)
{
	printf("last word\n");
	fflush(stdout);
	close(1);
	while (pause())
		;
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *word;
		int (*act)(void);
	} acts[] = {
		{ "manners", manners }, { "life", life }, { "daemonise", daemonise },
		{ "sandbox", sandbox }, { "low-limits", low_limits }, { "reopen", reopen },
		{ "linger", linger }, { "until-taken", until_taken },
		{ "crowd", crowd }, { "crowd-as-allowed", crowd_as_allowed },
		{ "busy", busy }, { "busy-with-execs", busy_with_execs },
		{ "again", again }, { "share", share }, { "share-to-read", share_to_read },
		{ "headless", headless }, { "hang-up", hang_up }, { "hoard", hoard },
		{ "read-together", read_together }, { "take-anew", take_anew },
		{ "inherit", inherit }, { "survive", survive }, { "limits", limits }, { "whoami", who_am_i },
		{ "outlived", outlived }, { "outlived-by-exec", outlived_by_exec },
		{ "outlived-child", outlived_child },
		{ "nested", nested }, { "nested-alone", nested_alone },
		{ "nested-in-child", nested_in_child }, { "undumpable", undumpable },
		{ "adopter", adopter }, { "adopt-exec", adopt_exec }, { "adopt-first", adopt_first },
		{ "childless", childless }, { "linger-adopting", linger_adopting },
		{ "linger-alone", linger_alone },
	};

	self = argv[0];
	if (argc > 3 && strcmp(argv[1], "without-userfaultfd") == 0)
		return without_userfaultfd(argv + 2);
	if (argc > 3 && strcmp(argv[1], "debug") == 0)
		return debug(argv + 2);
	if (argc > 3 && strcmp(argv[1], "exec-from-thread") == 0)
		return exec_from_thread(argv + 2);
	if (argc == 4 && strcmp(argv[1], "linger-plainly") == 0)
		return linger_plainly(argv + 2);
	if (argc == 3 && strcmp(argv[1], "adopted") == 0)
		return adopted(argv + 2);
	if (argc == 5 && strcmp(argv[1], "allocate") == 0)
		return allocate(argv + 2);
	for (size_t i = 0; argc > 1 && i < sizeof(acts) / sizeof(acts[0]); i++)
		if (strcmp(argv[1], acts[i].word) == 0)
			return acts[i].act();
	return argc > 1 ? atoi(argv[1]) : 0;
}
