// SPDX-License-Identifier: MIT
/*
 * The keeper process. See keeper.h.
 */
#include <elf.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "sys/internal.h"
#include "sys/keeper.h"
#include "sys/raw.h"
#include "sys/sys.h"

/* ---------------------------------------------------------------- the image */

/*
 * Everything marked KEEPER is copied out of its section into a file of its own and
 * run there. It may not touch anything outside of the section: no libc, no data, no
 * string, and nothing that a compiler would put there by itself. Hence the attributes
 * (instrumentation calls home) and the volatile loops (others become memset).
 */
#define KEEPER_QUIET	__attribute__((no_sanitize("address"), no_sanitize("thread"), \
				       no_sanitize("undefined"), no_stack_protector, \
				       no_profile_instrument_function))
#ifdef __clang__
#define KEEPER_TOOLS	__attribute__((disable_sanitizer_instrumentation, no_builtin))
#else
#define KEEPER_TOOLS	__attribute__((noipa))
#endif
#define KEEPER	__attribute__((section("uhmm_keeper"), noinline, used)) KEEPER_QUIET KEEPER_TOOLS

extern const char image_start[] __asm__("__start_uhmm_keeper")
	__attribute__((visibility("hidden")));
extern const char image_end[] __asm__("__stop_uhmm_keeper")
	__attribute__((visibility("hidden")));

/* The socket that keeper_start() returned the other end of. */
#define KEEPER_SOCK	0

/*
 * A call that the program had received when it died waits for ever: nobody can
 * receive it again. But ids are consecutive, and of the wrong ones the kernel says
 * ENOENT, so the keeper answers all that can have been in the program's hands.
 */
#define IDS_BEFORE	4096
#define IDS_AFTER	256	/* several threads receive; the last to note its id may lag */

KEEPER static long call(long nr, long a, long b, long c, long d, long e)
{
	return sys_raw(nr, a, b, c, d, e, 0);
}

KEEPER static void clear(void *mem, size_t size)
{
	volatile char *p = mem;

	while (size--)
		*p++ = 0;
}

/* Larger than any kernel's struct has been: the kernel writes its own size. */
union notif_room {
	struct seccomp_notif notif;
	char room[512];
};

union resp_room {
	struct seccomp_notif_resp resp;
	char room[128];
};

KEEPER static void let_through(int listener, uint64_t id)
{
	union resp_room out;

	clear(&out, sizeof(out));
	out.resp.id = id;
	out.resp.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	call(SYS_ioctl, listener, (long)SECCOMP_IOCTL_NOTIF_SEND, (long)&out, 0, 0);
}

/* False: the filter has no users any more. */
KEEPER static bool serve_next(int listener)
{
	struct pollfd wait;
	union notif_room in;
	long ret;

	clear(&wait, sizeof(wait));
	wait.fd = listener;
	wait.events = POLLIN;
	ret = call(SYS_ppoll, (long)&wait, 1, 0, 0, 0);
	if (ret < 0)
		return ret == -EINTR;
	if (!(wait.revents & POLLIN))
		return !(wait.revents & (POLLHUP | POLLERR | POLLNVAL));
	clear(&in, sizeof(in));
	ret = call(SYS_ioctl, listener, (long)SECCOMP_IOCTL_NOTIF_RECV, (long)&in, 0, 0);
	if (ret == 0)
		let_through(listener, in.notif.id);
	/* -ENOENT: the caller was killed meanwhile. */
	return ret == 0 || ret == -EINTR || ret == -ENOENT;
}

KEEPER static bool receive_fds(int *fds)
{
	char byte;
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(KEEPER_FDS * sizeof(int))];
	} control;
	struct iovec part;
	struct msghdr msg;
	const int *got;

	clear(&msg, sizeof(msg));
	clear(&control, sizeof(control));
	part.iov_base = &byte;
	part.iov_len = 1;
	msg.msg_iov = &part;
	msg.msg_iovlen = 1;
	msg.msg_control = &control;
	msg.msg_controllen = sizeof(control);
	if (call(SYS_recvmsg, KEEPER_SOCK, (long)&msg, 0, 0, 0) != 1)
		return false;
	if (control.head.cmsg_len != CMSG_LEN(KEEPER_FDS * sizeof(int)))
		return false;
	got = (const int *)(control.room + CMSG_LEN(0));
	fds[KEEPER_LISTENER] = got[KEEPER_LISTENER];
	fds[KEEPER_PIDFD] = got[KEEPER_PIDFD];
	fds[KEEPER_LAST] = got[KEEPER_LAST];
	return true;
}

KEEPER static void wait_for_end(int pidfd)
{
	struct pollfd wait;
	long ret;

	do {
		clear(&wait, sizeof(wait));
		wait.fd = pidfd;
		wait.events = POLLIN;
		ret = call(SYS_ppoll, (long)&wait, 1, 0, 0, 0);
	} while (ret == -EINTR || (ret >= 0 && !wait.revents));
}

KEEPER static void release_received(int listener, int last_fd)
{
	uint64_t last = 0;

	call(SYS_pread64, last_fd, (long)&last, sizeof(last), 0, 0);
	if (!last)
		return;
	for (uint64_t id = last - IDS_BEFORE; id != last + IDS_AFTER; id++)
		let_through(listener, id);
}

/* The entry point: there is nothing to return to, and no promise about the stack. */
#ifdef __x86_64__
__attribute__((force_align_arg_pointer))
#endif
KEEPER static void keeper_main(void)
{
	volatile uint64_t name[2];
	int fds[KEEPER_FDS];

	name[0] = 0x65656b2d6d6d6875;	/* "uhmm-kee" */
	name[1] = 0x0000000000726570;	/* "per" */
	call(SYS_prctl, PR_SET_NAME, (long)name, 0, 0, 0);
	if (receive_fds(fds)) {
		call(SYS_close, KEEPER_SOCK, 0, 0, 0, 0);
		wait_for_end(fds[KEEPER_PIDFD]);
		release_received(fds[KEEPER_LISTENER], fds[KEEPER_LAST]);
		while (serve_next(fds[KEEPER_LISTENER]))
			;
	}
	for (;;)
		call(SYS_exit_group, 0, 0, 0, 0, 0);
}

/* ---------------------------------------------------------------- starting it */

#define IMAGE_BASE	0x400000

struct image_head {
	Elf64_Ehdr ehdr;
	Elf64_Phdr load, stack;
};

_Static_assert(sizeof(struct image_head) % 16 == 0, "code keeps its alignment");

static void image_describe(struct image_head *head)
{
	size_t size = sizeof(*head) + (size_t)(image_end - image_start);
	size_t entry = (size_t)((const char *)keeper_main - image_start);

	memset(head, 0, sizeof(*head));
	memcpy(head->ehdr.e_ident, ELFMAG, SELFMAG);
	head->ehdr.e_ident[EI_CLASS] = ELFCLASS64;
	head->ehdr.e_ident[EI_DATA] = ELFDATA2LSB;
	head->ehdr.e_ident[EI_VERSION] = EV_CURRENT;
	head->ehdr.e_type = ET_EXEC;
#ifdef __x86_64__
	head->ehdr.e_machine = EM_X86_64;
#else
	head->ehdr.e_machine = EM_AARCH64;
#endif
	head->ehdr.e_version = EV_CURRENT;
	head->ehdr.e_entry = IMAGE_BASE + sizeof(*head) + entry;
	head->ehdr.e_phoff = offsetof(struct image_head, load);
	head->ehdr.e_ehsize = sizeof(head->ehdr);
	head->ehdr.e_phentsize = sizeof(head->load);
	head->ehdr.e_phnum = 2;
	head->load.p_type = PT_LOAD;
	head->load.p_flags = PF_R | PF_X;
	head->load.p_vaddr = head->load.p_paddr = IMAGE_BASE;
	head->load.p_filesz = head->load.p_memsz = size;
	head->load.p_align = 65536;
	head->stack.p_type = PT_GNU_STACK;
	head->stack.p_flags = PF_R | PF_W;
}

/* The file, or a negative errno: then the keeper is a fork. */
static int image_file(void)
{
	struct image_head head;
	struct iovec parts[2] = {
		{ .iov_base = &head, .iov_len = sizeof(head) },
		{ .iov_base = (void *)image_start, .iov_len = (size_t)(image_end - image_start) },
	};
	int fd;

	fd = (int)sys_ret(syscall(SYS_memfd_create, "uhmm-keeper",
				  (long)(MFD_CLOEXEC | UHMM_MFD_EXEC)));
	if (fd == -EINVAL)
		fd = (int)sys_ret(syscall(SYS_memfd_create, "uhmm-keeper", (long)MFD_CLOEXEC));
	if (fd < 0)
		return fd;
	image_describe(&head);
	if (writev(fd, parts, 2) != (ssize_t)(parts[0].iov_len + parts[1].iov_len)) {
		close(fd);
		return -ENOSPC;
	}
	return fd;
}

struct birth {
	int sock;		/* the keeper's end */
	int image;		/* or negative */
	char *stack;		/* upper end, for the second child */
	bool failed;		/* written by it where it could not become the image */
};

/* Close all but the socket, now 0, and @image, which closes itself on exec. */
static void birth_close(int image)
{
	struct rlimit limit;

	if (image < 0 && syscall(SYS_close_range, 1L, (long)~0U, 0L) == 0)
		return;
	if (image >= 0 && syscall(SYS_close_range, 1L, (long)~0U, (long)UHMM_CLOSE_RANGE_CLOEXEC) == 0)
		return;
	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	for (int fd = 1; fd < 1 << 20 && (rlim_t)fd < limit.rlim_cur; fd++)
		if (fd != image)
			close(fd);
}

/*
 * Leave what is the program's: its session, directory and descriptors. The image's
 * new descriptor goes to @image. @birth is the program's memory still.
 */
static int birth_settle(const struct birth *birth, int *image)
{
	int sock = (int)sys_ret(fcntl(birth->sock, F_DUPFD_CLOEXEC, 3));

	*image = -1;
	if (birth->image >= 0)
		*image = (int)sys_ret(fcntl(birth->image, F_DUPFD_CLOEXEC, 3));
	if (sock < 0 || (birth->image >= 0 && *image < 0))
		return -EMFILE;
	if (dup2(sock, KEEPER_SOCK) < 0)
		return -EBADF;
	birth_close(*image);
	setsid();
	return (int)sys_ret(chdir("/"));
}

/* All signals are blocked since keeper_start() and stay so, over exec too. */
static int birth_exec(void *arg)
{
	char *argv[] = { (char *)"uhmm-keeper", NULL };
	char *envp[] = { NULL };
	struct birth *birth = arg;
	int image;

	if (birth_settle(birth, &image) == 0)
		syscall(SYS_execveat, (long)image, "", argv, envp, (long)AT_EMPTY_PATH);
	birth->failed = true;
	return 0;
}

static int birth_fork(struct birth *birth)
{
	long pid = sys_cookie_call(SYS_clone, 0, 0, 0, 0, 0, sys_cookie());
	int none;

	if (pid)
		return pid < 0;
	birth->image = -1;
	if (birth_settle(birth, &none) == 0)
		keeper_main();
	_exit(1);
}

/*
 * In a first child, whose end makes the keeper a child of init or of whoever adopts
 * orphans, and not one that the program could wait for.
 */
static int birth_twice(void *arg)
{
	struct birth *birth = arg;
	int pid;

	if (birth->image < 0)
		return birth_fork(birth);
	pid = sys_exec_child(birth_exec, birth, birth->stack);
	if (pid >= 0 && !birth->failed)
		return 0;
	if (pid >= 0)
		syscall(SYS_wait4, (long)pid, NULL, (long)__WALL, NULL);
	return birth_fork(birth);
}

static int birth_give(struct birth *birth)
{
	const size_t size = 65536;
	void *stack;
	int ret;

	ret = sys_map_anon(size, &stack);
	if (ret)
		return ret;
	birth->stack = (char *)stack + size;
	ret = sys_call_in_child(birth_twice, birth);
	sys_munmap(stack, size);
	return ret > 0 ? -EAGAIN : ret;
}

int keeper_start(void)
{
	struct birth birth;
	int socks[2];
	int ret;

	ret = (int)sys_ret(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks));
	if (ret)
		return ret;
	birth.failed = false;
	birth.sock = socks[1];
	birth.image = image_file();
	ret = birth_give(&birth);
	sys_close(birth.image);
	close(socks[1]);
	if (ret) {
		close(socks[0]);
		return ret;
	}
	return socks[0];
}

int keeper_hand_over(int sock, const int fds[KEEPER_FDS])
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(KEEPER_FDS * sizeof(int))];
	} control;
	char byte = 0;
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	long ret;

	memset(&control, 0, sizeof(control));
	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	control.head.cmsg_len = CMSG_LEN(KEEPER_FDS * sizeof(int));
	memcpy(CMSG_DATA(&control.head), fds, KEEPER_FDS * sizeof(int));
	ret = sys_ret(sendmsg(sock, &msg, MSG_NOSIGNAL));
	close(sock);
	return ret < 0 ? (int)ret : 0;
}
