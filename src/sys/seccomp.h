/* SPDX-License-Identifier: MIT */
/*
 * Seccomp user notification on the calls that change a mapping.
 */
#ifndef UHMM_SYS_SECCOMP_H
#define UHMM_SYS_SECCOMP_H

#include <stdbool.h>
#include <stdint.h>

/* A call that waits for an answer. */
struct sys_notif {
	uint64_t id;
	uint32_t tid;
	int nr;			/* system call number */
	uint64_t args[6];
};

/*
 * Install the filter on every thread of this process and return the listener
 * (O_CLOEXEC), or -EBUSY (an ancestor's filter has one), -EPERM, -EOPNOTSUPP.
 * Cannot be undone. Sets no_new_privs where the process lacks CAP_SYS_ADMIN.
 *
 * Notified: munmap, mremap, mprotect, pkey_mprotect, brk, mmap with MAP_FIXED (not
 * FIXED_NOREPLACE), madvise that zaps or guards, process_madvise, shmat with
 * SHM_REMAP, shmdt, remap_file_pages, mlock, mlock2, mlockall, fork, clone without
 * CLONE_VM, clone3. Not notified: any of these with the library's cookie in an
 * argument register the kernel ignores (mmap of anonymous memory: the descriptor).
 */
int sys_seccomp_listen(void);

/*
 * The same for this thread and all that it and its children will ever start, other
 * programs too: execve and execveat are notified as well, and the cookie is the one
 * of sys_cookie(). For a child before it becomes another program. No keeper: who gets
 * the listener answers for as long as one of them lives. Notified too: ioctl with
 * UFFDIO_REGISTER; with @new_memory, mmap of private anonymous writable memory of 128 KiB
 * or more where nothing was.
 */
int sys_seccomp_listen_tree(bool new_memory);

/* Answers wake the caller on the answerer's CPU, where the kernel can. */
void sys_seccomp_sync_wake(int listener);

/* Put the cookie where call @nr with @args leaves room for it. */
void sys_seccomp_pass(int nr, uint64_t args[6]);

/* Block for the next call. 0, or -ENOENT (it died meanwhile), -EINTR, -ECANCELED (no filter left). */
int sys_seccomp_recv(int listener, struct sys_notif *notif);

/* Let the thread make the call itself; or answer with @value (negative: an errno). */
int sys_seccomp_continue(int listener, uint64_t id);
int sys_seccomp_answer(int listener, uint64_t id, int64_t value);

/* Does the thread still wait for that, as long as it lives? */
bool sys_seccomp_waits(int listener, uint64_t id);

/* Make @notif's call here and now, with the cookie. Returns what the kernel did, negative errno. */
int64_t sys_seccomp_perform(const struct sys_notif *notif);

/* Does the calling thread share our address space (a thread, or a vfork or CLONE_VM child)? */
bool sys_shares_mm(uint32_t tid);

/* Is @tid still inside system call @nr? false when gone. From /proc. */
bool sys_in_syscall(uint32_t tid, int nr);

/*
 * Fork the keeper: a process of its own that holds a copy of the listener and, once
 * this process is gone, lets every call of those who inherited the filter through.
 * Ends when nobody has the filter any more.
 */
int sys_seccomp_keeper(int listener);

#endif
