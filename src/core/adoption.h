/* SPDX-License-Identifier: MIT */
/*
 * Adopted mappings: anonymous memory in the place of a private mapping of a file, so
 * that userfaultfd can hold it.
 *
 * What the mapping showed it shows still, private copies and the file's pages alike.
 * What it loses by madvise(MADV_DONTNEED) is the file's again: the library keeps a view
 * of the file (a window) and fills holes from there, for which the mapping stays trapped
 * as long as it is adopted.
 *
 *	adoption	[start, end) of the program's, and where its window shows start
 *	window		a part of the file, mapped in the arena; used by refs adoptions
 *
 * All under the mm's lock.
 */
#ifndef UHMM_CORE_ADOPTION_H
#define UHMM_CORE_ADOPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hmm_mm;

#define ADOPTIONS	1024u
#define WINDOWS		256u

struct adoption {
	uintptr_t start, end;
	uintptr_t file;			/* where the window shows what was at start */
	uint32_t window;
};

struct window {
	uintptr_t addr;
	uint32_t chunks;		/* 0: free */
	uint32_t refs;
};

struct adoptions {
	uint32_t nr;
	uint32_t moves;			/* told by adopt_follow(), wraps */
	struct adoption adoption[ADOPTIONS];	/* in no order */
	struct window window[WINDOWS];
};

/* First adopted address of [start, end), or @end. */
uintptr_t adopt_next(const struct hmm_mm *mm, uintptr_t start, uintptr_t end);

static inline bool adopt_has(const struct hmm_mm *mm, uintptr_t addr)
{
	return adopt_next(mm, addr, addr + 1) == addr;
}

/* A hole was touched: if it is an adopted mapping's, it gets the file's data. */
bool adopt_fill(struct hmm_mm *mm, uintptr_t addr, uint32_t tid);

/*
 * Fill all holes. What there is no memory for in the end is lost, and counted. Events are
 * read, and the lock is dropped while memory is waited for.
 */
void adopt_fill_all(struct hmm_mm *mm);

/* Calls @fn with each hole, and what is to be in it: one page, of a file that may be shorter. */
void adopt_each_hole(struct hmm_mm *mm, void (*fn)(uintptr_t addr, const void *bytes, void *ctx),
		     void *ctx);

/* Of changes of mappings: it is gone; it moved, and if @kept it is where it was as well. */
void adopt_forget(struct hmm_mm *mm, uintptr_t start, uintptr_t end);
void adopt_follow(struct hmm_mm *mm, uintptr_t from, uintptr_t to, size_t len, bool kept);

/* Grows one that ends where @new begins, or adds it. false: no room for another. */
bool adoption_add(struct adoptions *all, const struct adoption *new);

/* One user less; none: its memory is let go. */
void window_put(struct adoptions *all, uint32_t window);
void window_unmap(const struct window *window);

/* The mm ends: what is adopted is plain anonymous memory from now on. */
void adopt_close(struct hmm_mm *mm);

#endif
