/* SPDX-License-Identifier: MIT */
/*
 * One request of the program's: what the kernel's driver checks, in its order, and what
 * it gives back.
 */
#include <errno.h>

#include "dmirror.h"

/* The program's structure, which may be anywhere, or nowhere. */
static int cmd_get(struct dmirror *m, struct dmirror_cmd *cmd, uintptr_t arg)
{
	return hmm_copy_from_user(m->process->mm, cmd, arg, sizeof(*cmd)) ==
	       (int64_t)sizeof(*cmd) ? 0 : -EFAULT;
}

static int cmd_put(struct dmirror *m, const struct dmirror_cmd *cmd, uintptr_t arg)
{
	return hmm_copy_to_user(m->process->mm, arg, cmd, sizeof(*cmd)) ==
	       (int64_t)sizeof(*cmd) ? 0 : -EFAULT;
}

static int run(struct request *r, unsigned long request)
{
	struct dmirror_device *d = r->mirror->device;

	switch (request) {
	case DMIRROR_READ:
	case DMIRROR_READ_UNLOCKED:	/* we hold nothing while we fault in either */
		return request_read(r);
	case DMIRROR_WRITE:
		return request_write(r);
	case DMIRROR_MIGRATE_TO_DEV:
		return request_migrate_to_dev(r);
	case DMIRROR_MIGRATE_TO_SYS:
		return request_migrate_to_sys(r);
	case DMIRROR_SNAPSHOT:
		return request_snapshot(r);
	case DMIRROR_EXCLUSIVE:
		return request_exclusive(r);
	case DMIRROR_CHECK_EXCLUSIVE:
		return request_check_exclusive(r);
	case DMIRROR_RELEASE:
		device_evict(d);
		return 0;
	case DMIRROR_FLAGS:
		atomic_store(&d->fail_large, r->cmd.npages & DMIRROR_FLAG_FAIL_ALLOC);
		return 0;
	default:
		return -EINVAL;
	}
}

/*
 * Where a change is told of after it was made, the caller that made it may be here before
 * we have heard of it: whoever is about to tell us holds a lock that this call takes.
 */
static void hear_changes(struct dmirror *m, uintptr_t addr)
{
	struct hmm_mm *mm = m->process->mm;
	uint8_t place;

	if (!(hmm_mm_flags(mm) & HMM_MM_STRICT) &&
	    hmm_residency(mm, addr, addr + m->process->page_size, &place))
		return;		/* beyond user space, where nothing changes */
}

int dmirror_command(struct dmirror *m, unsigned long request, uintptr_t arg)
{
	struct request r = { .mirror = m };
	size_t page = m->process->page_size;
	int ret = cmd_get(m, &r.cmd, arg);

	if (ret)
		return ret;
	if (r.cmd.addr & (page - 1))
		return -EINVAL;
	r.start = r.cmd.addr;
	r.end = r.cmd.addr + r.cmd.npages * page;	/* wraps as the kernel's does */
	if (r.start >= r.end)
		return -EINVAL;
	r.cmd.cpages = r.cmd.faults = 0;
	hear_changes(m, r.start);
	ret = run(&r, request);
	return ret ? ret : cmd_put(m, &r.cmd, arg);
}
