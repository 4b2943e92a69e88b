/* SPDX-License-Identifier: MIT */
#include "history.h"

#include <errno.h>	/* the names only */
#include <stdlib.h>
#include <string.h>

#include "trace_line.h"

/* The trace is read twice: first for what there is, then into rows and columns. */

#define BLOCK_SHIFT	21	/* of the smallest block there is */

struct block {
	uint64_t nr;			/* its address in units of the block size */
	size_t row;
	uint64_t pages, since_ns;	/* away, since then */
};

struct finding {
	uint64_t id;
	char name[48];
	uint64_t nr_events, nr_faults;
	struct block *blocks;		/* by address once settled; with doubles before */
	size_t nr_blocks, room;
	struct history_row *rows;
	size_t nr_rows;
};

struct reading {
	FILE *file;
	struct finding *findings;
	size_t nr_findings, last;
	uint64_t block_bytes, block_pages;	/* 0: nothing was ever away */
	uint64_t ns;
	bool complete;
	uint64_t dropped;
};

/* ---------------------------------------------------------------- lines */

/* @fn for each line, until one returns an error. -EINVAL: no trace. -EIO. */
static int each_line(struct reading *r, int (*fn)(struct reading *r, const struct trace_line *line))
{
	struct trace_line line;
	char *text = NULL;
	size_t room = 0;
	int ret = 0;

	rewind(r->file);
	if (getline(&text, &room, r->file) < 0 || !trace_line_first(text))
		ret = ferror(r->file) ? -EIO : -EINVAL;
	while (!ret && getline(&text, &room, r->file) >= 0) {
		trace_line_read(text, &line);
		ret = fn(r, &line);
	}
	if (!ret && ferror(r->file))
		ret = -EIO;
	free(text);
	return ret;
}

/* NULL: there is none yet. */
static struct finding *find(struct reading *r, uint64_t id)
{
	for (size_t i = 0; i < r->nr_findings; i++) {
		const size_t at = (r->last + i) % r->nr_findings;

		if (r->findings[at].id == id) {
			r->last = at;
			return &r->findings[at];
		}
	}
	return NULL;
}

/* ---------------------------------------------------------------- blocks */

static int by_nr(const void *a, const void *b)
{
	const struct block *one = a, *two = b;

	return (one->nr > two->nr) - (one->nr < two->nr);
}

static void settle(struct finding *f)
{
	size_t nr = 0;

	qsort(f->blocks, f->nr_blocks, sizeof(*f->blocks), by_nr);
	for (size_t i = 0; i < f->nr_blocks; i++)
		if (!nr || f->blocks[nr - 1].nr != f->blocks[i].nr)
			f->blocks[nr++] = f->blocks[i];
	f->nr_blocks = nr;
}

/* Doubles go first; it grows where that leaves it half full or more. */
static int make_room(struct finding *f)
{
	const size_t room = f->room ? f->room * 2 : 256;
	struct block *more;

	if (f->room)
		settle(f);
	if (f->room && f->nr_blocks < f->room / 2)
		return 0;
	more = realloc(f->blocks, room * sizeof(*more));
	if (!more)
		return -ENOMEM;
	f->blocks = more;
	f->room = room;
	return 0;
}

static int add_block(struct finding *f, uint64_t nr)
{
	if (f->nr_blocks && f->blocks[f->nr_blocks - 1].nr == nr)
		return 0;
	if (f->nr_blocks == f->room && make_room(f))
		return -ENOMEM;
	f->blocks[f->nr_blocks++] = (struct block){ .nr = nr };
	return 0;
}

static struct block *block_of(const struct reading *r, struct finding *f, uint64_t addr)
{
	const struct block key = { .nr = addr / r->block_bytes };

	return bsearch(&key, f->blocks, f->nr_blocks, sizeof(key), by_nr);
}

/* ---------------------------------------------------------------- the first reading */

static int note(struct reading *r, const struct trace_line *line)
{
	struct finding *f, *more;

	if (line->ns > r->ns)
		r->ns = line->ns;
	if (line->kind == LINE_END) {
		r->complete = true;
		r->dropped = line->dropped;
	}
	if (line->kind == LINE_OTHER || line->kind == LINE_END)
		return 0;
	f = find(r, line->space);
	if (!f) {
		more = realloc(r->findings, (r->nr_findings + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		r->findings = more;
		f = &r->findings[r->nr_findings++];
		*f = (struct finding){ .id = line->space };
	}
	if (line->kind == LINE_NAME) {
		memcpy(f->name, line->name, sizeof(f->name));
		return 0;
	}
	f->nr_events++;
	f->nr_faults += line->kind == LINE_FAULT;
	if (line->kind == LINE_AWAY) {
		r->block_bytes = line->end - line->start;
		r->block_pages = line->of;
	}
	return add_block(f, line->start >> BLOCK_SHIFT);
}

/* The busiest first; those that nothing happened to go. */
static int by_events(const void *a, const void *b)
{
	const struct finding *one = a, *two = b;

	return (one->nr_events < two->nr_events) - (one->nr_events > two->nr_events);
}

/* ---------------------------------------------------------------- rows */

static bool follows(const struct finding *f, size_t i)
{
	return i && f->blocks[i].nr == f->blocks[i - 1].nr + 1;
}

/* Each block gets its row, of at most @each blocks without a gap. Returns how many rows. */
static size_t lay_out(struct finding *f, size_t each)
{
	size_t nr = 0, in_row = 0;

	for (size_t i = 0; i < f->nr_blocks; i++) {
		if (!follows(f, i) || in_row == each) {
			nr++;
			in_row = 0;
		}
		f->blocks[i].row = nr - 1;
		in_row++;
	}
	return nr;
}

/*
 * As few blocks to a row as fit; where even the areas are too many, the highest go
 * together into the last row, gaps and all.
 */
static int make_rows(const struct reading *r, struct finding *f, size_t most)
{
	size_t each = 1, nr = lay_out(f, each);

	for (; nr > most && each < f->nr_blocks; each *= 2)
		nr = lay_out(f, each * 2);
	f->nr_rows = nr < most ? nr : most;
	f->rows = calloc(f->nr_rows, sizeof(*f->rows));
	if (!f->rows)
		return -ENOMEM;
	for (size_t i = 0; i < f->nr_blocks; i++) {
		struct block *block = &f->blocks[i];
		struct history_row *row;

		if (block->row >= f->nr_rows)
			block->row = f->nr_rows - 1;
		row = &f->rows[block->row];
		if (!row->end)
			row->start = block->nr * r->block_bytes;
		row->end = (block->nr + 1) * r->block_bytes;
		row->bytes += r->block_bytes;
	}
	return 0;
}

static int arrange(struct reading *r, size_t rows)
{
	int ret = 0;

	if (!r->block_bytes)
		r->block_bytes = 1ULL << BLOCK_SHIFT;
	qsort(r->findings, r->nr_findings, sizeof(*r->findings), by_events);
	r->last = 0;
	for (size_t i = 0; i < r->nr_findings && i < HISTORY_SPACES && !ret; i++) {
		struct finding *f = &r->findings[i];

		for (size_t b = 0; b < f->nr_blocks; b++)
			f->blocks[b].nr = (f->blocks[b].nr << BLOCK_SHIFT) / r->block_bytes;
		if (!f->nr_blocks)
			continue;
		settle(f);
		ret = make_rows(r, f, rows);
	}
	return ret;
}

/* ---------------------------------------------------------------- the second reading */

static size_t column_of(const struct reading *r, uint64_t ns)
{
	const size_t column = r->ns ? (size_t)((double)ns / (double)r->ns * HISTORY_COLUMNS) : 0;

	return column < HISTORY_COLUMNS ? column : HISTORY_COLUMNS - 1;
}

/* The block had its pages away until @ns: into each column what lies in its time. */
static void pass(const struct reading *r, struct finding *f, struct block *block, uint64_t ns)
{
	const double width = (double)r->ns / HISTORY_COLUMNS;
	double *away = f->rows[block->row].away;

	for (size_t c = column_of(r, block->since_ns); block->pages && c <= column_of(r, ns); c++) {
		double from = (double)c * width, to = from + width;

		from = from > (double)block->since_ns ? from : (double)block->since_ns;
		to = to < (double)ns ? to : (double)ns;
		if (to > from)
			away[c] += (double)block->pages * (to - from) / width;
	}
	block->since_ns = ns;
}

static int enter(struct reading *r, const struct trace_line *line)
{
	struct finding *f;
	struct block *block;

	if (line->kind != LINE_FAULT && line->kind != LINE_AWAY)
		return 0;
	f = find(r, line->space);
	block = f && f->rows ? block_of(r, f, line->start) : NULL;
	/* One that is written at this moment has more lines by now, of later times. */
	if (!block || line->ns > r->ns)
		return 0;
	if (line->kind == LINE_FAULT) {
		f->rows[block->row].faults[column_of(r, line->ns)]++;
		return 0;
	}
	pass(r, f, block, line->ns);
	block->pages = line->pages;
	return 0;
}

/* Pages into shares of the row's bytes. */
static void finish(struct reading *r, struct finding *f)
{
	for (size_t b = 0; b < f->nr_blocks; b++)
		pass(r, f, &f->blocks[b], r->ns);
	for (size_t i = 0; i < f->nr_rows && r->block_pages; i++) {
		const uint64_t pages = f->rows[i].bytes / r->block_bytes * r->block_pages;

		for (size_t c = 0; c < HISTORY_COLUMNS; c++)
			f->rows[i].away[c] /= (double)pages;
	}
}

static void hand_over(struct reading *r, struct history *out)
{
	*out = (struct history){ .ns = r->ns, .complete = r->complete, .dropped = r->dropped };
	for (size_t i = 0; i < r->nr_findings; i++) {
		struct finding *f = &r->findings[i];
		struct history_space *space = &out->spaces[out->nr_spaces];

		if (!f->rows) {
			out->nr_left_out += f->nr_events != 0;
			continue;
		}
		finish(r, f);
		*space = (struct history_space){
			.id = f->id, .nr_faults = f->nr_faults, .nr_rows = f->nr_rows, .rows = f->rows,
		};
		memcpy(space->name, f->name, sizeof(space->name));
		f->rows = NULL;
		out->nr_spaces++;
	}
}

int history_read(FILE *file, size_t rows, struct history *out)
{
	struct reading r = { .file = file };
	int ret;

	ret = each_line(&r, note);
	if (!ret)
		ret = arrange(&r, rows);
	if (!ret)
		ret = each_line(&r, enter);
	if (!ret)
		hand_over(&r, out);
	for (size_t i = 0; i < r.nr_findings; i++) {
		free(r.findings[i].blocks);
		free(r.findings[i].rows);
	}
	free(r.findings);
	return ret;
}

void history_free(struct history *history)
{
	for (size_t i = 0; i < history->nr_spaces; i++)
		free(history->spaces[i].rows);
}
