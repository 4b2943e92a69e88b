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
#include <signal.h>
#include <stddef.h>
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

static void on_term(int sig)
{
	(void)sig;
	if (write(1, "terminated\n", 11) != 11)
		_exit(1);
	_exit(31);
}

/* Says who it is, and waits. */
static int linger(void)
{
	signal(SIGTERM, on_term);
	if (fork() == 0)
		for (;;)
			pause();
	printf("%d\n", (int)getpid());
	fflush(stdout);
	while (pause())
		;
	return 0;
}

/* Busy, and changing its mappings, when whatever happens to it happens. */
static int busy(void)
{
	if (fork() == 0)
		for (;;)
			;
	printf("%d\n", (int)getpid());
	fflush(stdout);
	while (!churn((void *)9))
		;
	return 0;
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
		{ "sandbox", sandbox }, { "low-limits", low_limits }, { "linger", linger },
		{ "busy", busy }, { "hang-up", hang_up }, { "hoard", hoard },
		{ "inherit", inherit },
	};

	self = argv[0];
	if (argc > 3 && strcmp(argv[1], "without-userfaultfd") == 0)
		return without_userfaultfd(argv + 2);
	if (argc > 3 && strcmp(argv[1], "debug") == 0)
		return debug(argv + 2);
	if (argc > 3 && strcmp(argv[1], "exec-from-thread") == 0)
		return exec_from_thread(argv + 2);
	for (size_t i = 0; argc > 1 && i < sizeof(acts) / sizeof(acts[0]); i++)
		if (strcmp(argv[1], acts[i].word) == 0)
			return acts[i].act();
	return argc > 1 ? atoi(argv[1]) : 0;
}
