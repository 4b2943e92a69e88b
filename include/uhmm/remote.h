/* SPDX-License-Identifier: MIT */
/*
 * uhmm/remote.h - an address space that is another process's.
 *
 * EXPERIMENTAL: what a monitor needs (`uhmm run`); not part of what 1.0 promises.
 *
 * The same core works on it, through the process's userfaultfd, its files in /proc, and
 * an agent: a task inside its address space that makes system calls there and decides
 * nothing. What the agent says it did is taken as a hint, and the kernel asked. Nothing
 * that a program does, lies about or dies of harms another one, or makes a call here
 * wait for ever.
 *
 * The program's changes of its mappings are announced by seccomp notification; the
 * caller owns the listener and passes each on by hmm_remote_change() before it answers.
 * A change that is not passed on costs the program what it had in device memory there.
 *
 * Address spaces that share devices are a family: each but the first is opened with a
 * sibling, or made by a fork. Devices, staging memory and fault handlers are the
 * family's, and live until its last member is destroyed. page_free() and the copy
 * operations of a devmem may then run at the same time for several address spaces.
 *
 * All of mm's functions (uhmm.h, driver.h) work on such an mm, with two differences:
 * system pages are always HMM_PFN_GUARDED, and a device page that two address spaces
 * share after a fork is reported without HMM_PFN_WRITE; a request to write to it brings
 * this address space's own copy home.
 */
#ifndef UHMM_REMOTE_H
#define UHMM_REMOTE_H

#include <uhmm/uhmm.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/* One system call to be made in the program's address space. */
struct hmm_agent_call {
	uint64_t nr;			/* system call number */
	uint64_t args[6];		/* as the program would pass them */
	int64_t ret;			/* out: what it returned, or a negative errno */
};

struct hmm_remote_opts {
	uint64_t size;			/* sizeof(struct hmm_remote_opts) */
	uint64_t flags;			/* 0 */

	int32_t pid;			/* the process, in the caller's pid namespace */
	int32_t pidfd;			/* the mm's from success on, closed with it */
	/*
	 * A task that shares the address space and never executes another program, by
	 * which it is read and written whatever the process does meanwhile; not reaped
	 * before the mm is destroyed. 0: the process itself has to do.
	 */
	int32_t agent_pid;
	int32_t uffd;			/* the mm's from success on; -1 for hmm_remote_attach() */
	int32_t agent_uffd;		/* the number of the same in the agent's table */
	uint32_t nr_handlers;		/* as in hmm_mm_opts; of a family's first */
	uint64_t features;		/* that the userfaultfd was opened with, see hmm_remote_features() */

	/* Memory for arguments of calls: here, and the same in the program. 4 KiB or more. */
	void *shm;
	uint64_t shm_addr, shm_bytes;

	/*
	 * Reserved in the program for pages on their way out: private anonymous,
	 * PROT_NONE, MAP_NORESERVE, MADV_DONTFORK, aligned to 512 pages; 3 times 512 pages
	 * or more, of which the first are for a page that the core keeps there.
	 */
	uint64_t limbo, limbo_bytes;
	uint64_t own_start, own_end;	/* the agent's own memory, never taken */

	/*
	 * Make @nr (at most 600) calls there, one after the other, a failed one does not
	 * stop the rest; past the seccomp filter. 0, or -ESRCH or the like: the program or
	 * its agent is gone, some of them may have been made, and none is being made or will
	 * be. Comes back in bounded time (an agent that does not answer is the caller's to
	 * end). Called from any thread, with the mm's lock held: calls nothing of libuhmm.
	 * None of the calls touches managed memory.
	 */
	int (*call)(void *ctx, struct hmm_agent_call *calls, size_t nr);
	void *ctx;

	struct hmm_mm *sibling;		/* NULL: the first of a new family */
	uint64_t staging_bytes;		/* as in hmm_mm_opts; of a family's first */
	hmm_log_fn log;			/* as in hmm_mm_opts */
	void *log_ctx;
};

/** hmm_remote_features() - for UFFDIO_API in the program; without EVENT_FORK on EPERM. */
uint64_t hmm_remote_features(void);

/**
 * hmm_mm_open_remote() - start managing another process's address space
 *
 * Nothing of the program is touched yet. The descriptors and the memory stay the
 * program's too, which keeps a copy of the userfaultfd: were ours the last, pages that
 * are away would turn to zeros when it is closed.
 *
 * hmm_mm_destroy() brings everything home and lets go of the process, which must have
 * stopped announcing changes; after hmm_remote_gone() it just frees. No other call with
 * the mm may be running. A family's last mm is -EBUSY while a devmem is registered.
 *
 * Context: any thread, not from a callback; blocks.
 *
 * Return: 0, or
 *   -EINVAL      a field that makes no sense
 *   -ESRCH       the process is gone
 *   -EPERM       it may not be read (see ptrace(2))
 *   -EOPNOTSUPP  this kernel lacks process_vm_readv(2)
 *   -ENOSPC      4096 address spaces are in the family
 *   -ENOMEM, -E2BIG, -EMFILE, -EDEADLK
 */
int hmm_mm_open_remote(const struct hmm_remote_opts *opts, struct hmm_mm **out) HMM_MUST_CHECK;

/* Answers of hmm_remote_change(): the kernel is to make the call itself ... */
#define HMM_CHANGE_CONTINUE	INT64_MIN
/* ... and its end is nothing to us. */
#define HMM_CHANGE_IGNORE	(INT64_MIN + 1)

/**
 * hmm_remote_change() - the program is about to change its mappings
 * @tid:    the thread that waits for an answer
 * @nr:     system call number: munmap, mremap, mprotect, pkey_mprotect, brk, madvise,
 *          mmap, shmat, shmdt, mlock and the like, ioctl(UFFDIO_REGISTER). Not clone, not
 *          execve.
 * @args:   of it
 * @result: out: what the call returned, HMM_CHANGE_CONTINUE or HMM_CHANGE_IGNORE
 *
 * The call is made by the agent, as one transaction with invalidations and tables,
 * where that can be; else what it concerns is brought home and stays there, and the
 * thread is told to go on. Then (HMM_CHANGE_CONTINUE) hmm_remote_change_end() must follow
 * once the thread was seen out of the call. Waits while the program forks.
 *
 * Context: any thread, not from a callback; blocks.
 *
 * Return: 0; -ENOMEM (answer that to the program); -EINVAL; -ECHILD; -EDEADLK.
 */
int hmm_remote_change(struct hmm_mm *mm, uint32_t tid, uint64_t nr, const uint64_t args[6],
		      int64_t *result) HMM_MUST_CHECK;

/**
 * hmm_remote_pass() - may the kernel make the change by itself, now?
 *
 * Arguments as of hmm_remote_change(), which this is a fast way round: a munmap, mprotect
 * or madvise(MADV_DONTNEED or MADV_FREE) of at most 256 KiB that are all at home, before
 * hmm_range_fault() was first asked about the mm. The thread is then to be told to go on, and its end is nothing to the caller.
 * Nothing leaves the range, and hmm_range_fault() says -EBUSY of it, until the thread is
 * seen out of the call: one that runs on without a call is not. Notifiers are not told.
 *
 * Context: any thread, not from a callback; waits for no lock, no program and no agent, so
 * that the one thread that receives can call it.
 *
 * Return: 1: tell it to go on; 0: hmm_remote_change() has to see to it; -EINVAL; -ECHILD;
 * -EDEADLK.
 */
int hmm_remote_pass(struct hmm_mm *mm, uint32_t tid, uint64_t nr,
		    const uint64_t args[6]) HMM_MUST_CHECK;

/** hmm_remote_change_end() - the thread is out of its call, or dead. Any thread; blocks. */
void hmm_remote_change_end(struct hmm_mm *mm, uint32_t tid);

/**
 * hmm_remote_fork_begin() - a thread is about to fork (clone without CLONE_VM)
 *
 * Waits until no page of RAM is on its way, and until an earlier fork of the process has
 * ended. From now on none leaves and no change is made, until hmm_remote_fork_end(),
 * which must follow. Where the userfaultfd has no EVENT_FORK everything is brought home
 * instead, and the child will have nothing to do with the library.
 *
 * Return: 0: let the thread go on; -EINVAL; -ECHILD; -EDEADLK.
 */
int hmm_remote_fork_begin(struct hmm_mm *mm, uint32_t tid) HMM_MUST_CHECK;

/**
 * hmm_remote_fork_end() - wait until the address space is copied
 * @tid:   the thread that forks: in the call @nr, or on its way there without another
 * @child: out: the child's mm, whose faults are served already, or NULL: there is none
 *
 * The child's device pages are the parent's, shared until either writes to or unmaps
 * them; nothing comes home for it. It has no agent yet, so nothing can leave it, and of
 * its changes hmm_remote_change() says HMM_CHANGE_CONTINUE. It is destroyed by
 * hmm_mm_destroy() like any other.
 *
 * Return: 0, also when the fork failed or the thread is dead; -EINVAL; -ECHILD; -EDEADLK.
 */
int hmm_remote_fork_end(struct hmm_mm *mm, uint32_t tid, uint64_t nr, struct hmm_mm **child);

/**
 * hmm_remote_matches() - is this process the one with that address space?
 * @mm: made by a fork and not attached
 *
 * Return: 1; 0; -ESRCH, -EPERM: @pid cannot be looked at; -EINVAL; -ECHILD.
 */
int hmm_remote_matches(struct hmm_mm *mm, int32_t pid) HMM_MUST_CHECK;

/**
 * hmm_remote_in_use() - has any task that address space still?
 *
 * Also where nobody knows which: a process may have made another by clone(CLONE_VM), and
 * ended. An agent is such a task too.
 *
 * Return: 1; 0: none, and none ever will; -EINVAL; -ENOMEM; -ECHILD.
 */
int hmm_remote_in_use(struct hmm_mm *mm) HMM_MUST_CHECK;

/** hmm_remote_uffd() - its userfaultfd, still the mm's: for a copy to the child. */
int hmm_remote_uffd(const struct hmm_mm *mm);

/**
 * hmm_remote_attach() - a forked child has got its agent
 * @opts: as for hmm_mm_open_remote(), but uffd -1; sibling, staging_bytes and
 *        nr_handlers do not count
 *
 * Return: as hmm_mm_open_remote(), and -EBUSY: it has one.
 */
int hmm_remote_attach(struct hmm_mm *mm, const struct hmm_remote_opts *opts) HMM_MUST_CHECK;

/**
 * hmm_remote_count() - pages of the family's, since there is one
 * @brought: out: that have come to RAM: by first touches that were served, and home
 * @mapped:  out: that programs have mapped, or made writable, as far as announced
 *
 * Any thread; does not block.
 *
 * Return: 0; -EINVAL; -ECHILD; -EDEADLK.
 */
int hmm_remote_count(struct hmm_mm *mm, uint64_t *brought, uint64_t *mapped);

/**
 * hmm_remote_allow() - bound what the family may have of RAM until the next call
 * @brought: faults may bring pages until that many have been, by hmm_remote_count()
 * @mapped:  the first touches of what is mapped when that many have been are served
 *           like faults, and bounded with them; before, by the kernel alone
 *
 * For policies that keep memory under a limit, whether or not they run in time: who
 * counts before it looks at what is there, and allows what is left on top of that, has
 * it not exceeded by what happens meanwhile. UINT64_MAX: no bound, as it is at first.
 *
 * When no more may be brought, faults wait for the next call, in rounds of at most 20 ms;
 * one that has waited for a whole round is served, a first touch with one page alone: a
 * program is slowed down, never stopped.
 *
 * First touches are served in mappings of 1 MiB or more, neighbours taken together. Plain
 * mmap() has to be announced for that: hmm_remote_change() takes it.
 *
 * Any thread; does not block.
 *
 * Return: 0; -EINVAL; -ECHILD; -EDEADLK.
 */
int hmm_remote_allow(struct hmm_mm *mm, uint64_t brought, uint64_t mapped);

/**
 * hmm_remote_watch() - take a mapping for one that is new
 * @addr: in it
 *
 * So that its first touches are served, too, where as much has been mapped as is allowed:
 * of mappings that nobody announced, and those that were there before. What cannot be
 * watched is not. Any thread, not from a callback; blocks.
 *
 * Return: 0; -EINVAL; -ECHILD; -EDEADLK.
 */
int hmm_remote_watch(struct hmm_mm *mm, uintptr_t addr);

/**
 * hmm_remote_inherit() - the address space is another process's now, which shares it
 * @pidfd: the library's from success on
 *
 * When the process that it was known by has ended, or left it by exec, and one made by
 * clone(CLONE_VM) has not. The agent stays the same. Any thread, not from a callback.
 *
 * Return: 0; -ESRCH: it is gone already; -EINVAL; -ECHILD; -EDEADLK.
 */
int hmm_remote_inherit(struct hmm_mm *mm, int32_t pid, int32_t pidfd);

/**
 * hmm_remote_gone() - the address space is no more: exec, exit, a kill
 *
 * Drops and frees everything it had. Calls that are running with it end, and later ones
 * find nothing. The agent is not called any more. hmm_mm_destroy() is still to follow.
 *
 * Context: any thread, not from a callback; blocks.
 */
void hmm_remote_gone(struct hmm_mm *mm);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
