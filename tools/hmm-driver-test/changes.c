/* SPDX-License-Identifier: MIT */
/*
 * Trials of pages on the device while the program changes its mappings and forks.
 */
#include "kit.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * A third is unmapped, a third discarded, the rest moved by mremap: each page is freed
 * once, what stays is right, and what was discarded reads as zeros.
 */
void mappings_change(struct kit *kit)
{
	size_t third = (kit->pages < 192 ? kit->pages : 192) / 3, bytes = third * kit->page;
	unsigned char *p, *moved;
	uint64_t freed;

	if (!third)
		not_offered("the device has too few pages");
	p = map_pages(kit, third * 3);
	fill(kit, p, third * 3, 5);
	doing("a mapping changes while its pages are on the device");
	to_device(kit, p, third * 3);
	freed = watch_count(FREED);
	unmap_pages(kit, p + bytes, third);
	if (madvise(p + 2 * bytes, bytes, MADV_DONTNEED))
		cannot("madvise failed");
	moved = mremap(p, bytes, 2 * bytes, MREMAP_MAYMOVE);
	if (moved == MAP_FAILED)
		broke(D_STANDS, "mremap of pages on the device fails");
	must_hold(kit, D_BYTES, moved, third, 5, 0, "after mremap");
	must_be_zero(kit, D_ZEROS, moved + bytes, third, "what mremap added");
	must_be_zero(kit, D_ZEROS, p + 2 * bytes, third, "after madvise(DONTNEED)");
	if (watch_count(FREED) - freed < third)
		cannot("the core freed %llu of %zu pages",
		       (unsigned long long)(watch_count(FREED) - freed), third);

	doing("permissions change while pages are on the device");
	to_device(kit, moved, third);
	if (mprotect(moved, bytes, PROT_READ))
		cannot("mprotect failed");
	must_hold(kit, D_BYTES, moved, third, 5, 0, "after mprotect(PROT_READ)");
	if (mprotect(moved, bytes, PROT_READ | PROT_WRITE))
		cannot("mprotect failed");
	unmap_pages(kit, moved, 2 * third);
	unmap_pages(kit, p + 2 * bytes, third);
}

static void child_look(struct kit *kit, unsigned char *p, size_t nr)
{
	must_hold(kit, D_BYTES, p, nr, 6, 0, "in a forked child");
	fill(kit, p, nr, 7);
	must_hold(kit, D_BYTES, p, nr, 7, 0, "in a forked child that wrote");
	_exit(0);
}

/* Pages on the device when the process forks: both have all bytes, and their own. */
void children_have_their_own(struct kit *kit)
{
	size_t nr = kit->pages < 128 ? kit->pages : 128;
	unsigned char *p = map_pages(kit, nr);
	int status;
	pid_t pid;

	fill(kit, p, nr, 6);
	for (int round = 0; round < 3; round++) {
		doing("the process forks with pages on the device");
		to_device(kit, p, nr);
		pid = fork();
		if (pid < 0)
			cannot("fork failed");
		if (!pid)
			child_look(kit, p, nr);
		to_device(kit, p, nr);
		if (waitpid(pid, &status, 0) != pid)
			cannot("waitpid failed");
		if (WIFSIGNALED(status))
			broke(D_STANDS, "a forked child died of %s", strsignal(WTERMSIG(status)));
		if (WEXITSTATUS(status))
			_exit(WEXITSTATUS(status));	/* its finding is recorded */
		must_hold(kit, D_BYTES, p, nr, 6, 0, "in the parent of a child that wrote");
	}
	unmap_pages(kit, p, nr);
}
