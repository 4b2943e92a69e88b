// SPDX-License-Identifier: MIT
#include "sys/exec.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "sys/image.h"
#include "sys/internal.h"
#include "sys/sys.h"

/* An interpreter may be a script too; the kernel goes as far as this. */
#define SCRIPTS_MAX	4

#define SCRIPT_LINE	256

/* A path in the caller's memory: its last page may be the last of a mapping. */
static bool read_path(pid_t tid, uint64_t addr, char path[PATH_MAX])
{
	const size_t page = sys_page_size();
	size_t got = 0, piece;

	while (got < PATH_MAX - 1) {
		piece = page - (addr + got) % page;
		if (piece > PATH_MAX - 1 - got)
			piece = PATH_MAX - 1 - got;
		if (sys_vm_read((int)tid, path + got, addr + got, piece) != (ssize_t)piece)
			return false;
		if (memchr(path + got, '\0', piece))
			return true;
		got += piece;
	}
	return false;
}

static int open_proc(pid_t tid, const char *what, const char *rest)
{
	char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "/proc/%d/%s%s", (int)tid, what, rest);
	return (int)sys_ret(open(path, O_PATH | O_CLOEXEC));
}

/* As the caller would find it, O_PATH. */
static int open_named(pid_t tid, const char *path)
{
	static const char self[] = "/proc/self/";

	if (strncmp(path, self, sizeof(self) - 1) == 0)
		return open_proc(tid, path + sizeof(self) - 1, "");
	return path[0] == '/' ? open_proc(tid, "root", path) : open_proc(tid, "cwd/", path);
}

static int open_at(pid_t tid, int dir, const char *path)
{
	char base[32];

	if (path[0] == '/' || (dir == AT_FDCWD && path[0]))
		return open_named(tid, path);
	snprintf(base, sizeof(base), "fd/%d%s", dir, path[0] ? "/" : "");
	return open_proc(tid, base, path);
}

/* To be read; takes @fd. Nothing is opened that opening does something to. */
static int reopen_file(int fd)
{
	struct stat st;
	char path[32];
	int file = -EACCES;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && !(st.st_mode & (S_ISUID | S_ISGID))) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		file = (int)sys_ret(open(path, O_RDONLY | O_CLOEXEC));
	}
	close(fd);
	return file;
}

/* Of a script: the path of its interpreter. */
static bool read_script(int fd, char path[SCRIPT_LINE])
{
	char line[SCRIPT_LINE] = "";
	ssize_t got = sys_ret(pread(fd, line, sizeof(line) - 1, 0));
	size_t start, len;

	if (got < 3 || line[0] != '#' || line[1] != '!')
		return false;
	start = 2 + strspn(line + 2, " \t");
	len = strcspn(line + start, " \t\n");
	memcpy(path, line + start, len);
	path[len] = '\0';
	return len > 0;
}

bool sys_exec_is_static(const struct sys_notif *n)
{
	const bool at = n->nr == SYS_execveat;
	const pid_t tid = (pid_t)n->tid;
	char path[PATH_MAX], script[SCRIPT_LINE];
	bool found = false, more;
	int fd;

	if (!read_path(tid, n->args[at], path))
		return false;
	fd = reopen_file(at ? open_at(tid, (int)n->args[0], path) : open_named(tid, path));
	for (int i = 0; fd >= 0; i++) {
		found = sys_image_is_static(fd);
		more = !found && i < SCRIPTS_MAX && read_script(fd, script);
		close(fd);
		fd = more ? reopen_file(open_named(tid, script)) : -1;
	}
	return found;
}

bool sys_process_is_static(pid_t pid)
{
	int fd = reopen_file(open_proc(pid, "exe", ""));
	bool found = fd >= 0 && sys_image_is_static(fd);

	sys_close(fd);
	return found;
}
