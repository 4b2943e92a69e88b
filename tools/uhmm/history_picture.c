/* SPDX-License-Identifier: MIT */
#include "history_picture.h"

#include <inttypes.h>

#include "command.h"

#define WORD		16

/* Of the SVG, in its units. */
#define CELL		7
#define ROW		12
#define HEAD		46
#define TITLE		40
#define LABELS		170
#define PANEL		((int)HISTORY_COLUMNS * CELL)
#define BETWEEN		24
#define WIDTH		(LABELS + 2 * PANEL + BETWEEN + 12)
#define SHADES		9

static const char *size_word(char word[WORD], uint64_t bytes)
{
	static const char units[] = "MGTP";
	double value = (double)bytes / (1 << 20);
	int unit = 0;

	for (; value >= 1000 && units[unit + 1]; unit++)
		value /= 1024;
	snprintf(word, WORD, "%.0f%c", value, units[unit]);
	return word;
}

/* 0: none; n: 2^(n-1) of them and more, at most 9. */
static int heat(uint64_t faults)
{
	int digit = 0;

	for (; faults && digit < 9; faults >>= 1)
		digit++;
	return digit;
}

static double seconds(const struct history *history)
{
	return (double)history->ns / 1e9;
}

/* ---------------------------------------------------------------- text */

static char away_letter(double share)
{
	if (!(share > 0))
		return '.';
	return share < 0.25 ? ':' : share < 0.5 ? 'o' : share < 0.75 ? 'O' : '@';
}

static void text_panel(FILE *to, const struct history_space *space, bool faults)
{
	char size[WORD];

	fprintf(to, "%14s %6s  %s\n", "ADDRESS", "SIZE", faults ? "FAULTS" : "AWAY");
	for (size_t i = 0; i < space->nr_rows; i++) {
		const struct history_row *row = &space->rows[i];

		fprintf(to, "%14" PRIx64 " %6s  ", row->start, size_word(size, row->bytes));
		for (size_t c = 0; c < HISTORY_COLUMNS; c++)
			fputc(!faults ? away_letter(row->away[c]) :
			      row->faults[c] ? '0' + heat(row->faults[c]) : '.', to);
		fputc('\n', to);
	}
}

/* What the trace cannot know is said wherever it is shown. */
static const char *warning(const struct history *history)
{
	if (history->dropped)
		return "events are missing: they came faster than they could be written";
	return history->complete ? NULL : "the trace has no end: it is still written, or was cut off";
}

void history_text(FILE *to, const struct history *history)
{
	const char *why = warning(history);

	fprintf(to, "%.3f s from left to right, %.0f ms a column\n", seconds(history),
		seconds(history) * 1e3 / HISTORY_COLUMNS);
	fputs("AWAY: the mean share of it  . none  : some  o 25%  O 50%  @ 75% and more\n"
	      "FAULTS on pages that were away: n stands for 2^(n-1) and more\n", to);
	if (why)
		fprintf(to, "%s\n", why);
	for (size_t i = 0; i < history->nr_spaces; i++) {
		const struct history_space *space = &history->spaces[i];

		fprintf(to, "\n%.50s: %" PRIu64 " faults\n", space->name[0] ? space->name : "?",
			space->nr_faults);
		text_panel(to, space, false);
		text_panel(to, space, true);
	}
	if (history->nr_left_out)
		fprintf(to, "\nand %zu address spaces that less happened to\n", history->nr_left_out);
}

/* ---------------------------------------------------------------- SVG */

static int shade_of(const struct history_row *row, size_t c, bool faults)
{
	if (faults)
		return heat(row->faults[c]);
	return row->away[c] > 0 ? 1 + (int)(row->away[c] * (SHADES - 1)) : 0;
}

/* Cells of one shade that follow each other are one rectangle. */
static void svg_row(FILE *to, const struct history_row *row, int x, int y, bool faults)
{
	for (size_t c = 0, n; c < HISTORY_COLUMNS; c += n) {
		const int shade = shade_of(row, c, faults);

		for (n = 1; c + n < HISTORY_COLUMNS && shade_of(row, c + n, faults) == shade; n++)
			;
		if (shade)
			fprintf(to, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" "
				"fill-opacity=\"%.2f\"/>\n", faults ? "fault" : "away",
				x + (int)c * CELL, y, (int)n * CELL, ROW - 1, (double)shade / SHADES);
	}
}

static void svg_panel(FILE *to, const struct history *history, const struct history_space *space,
		      int x, int y, bool faults)
{
	const int height = (int)space->nr_rows * ROW;

	fprintf(to, "<text x=\"%d\" y=\"%d\">%s</text>\n", x, y - 5, faults ? "faults" : "away");
	fprintf(to, "<text class=\"n\" x=\"%d\" y=\"%d\">%.2f s</text>\n", x + PANEL, y - 5,
		seconds(history));
	fprintf(to, "<rect class=\"none\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n", x, y, PANEL,
		height);
	for (size_t i = 0; i < space->nr_rows; i++)
		svg_row(to, &space->rows[i], x, y + (int)i * ROW, faults);
}

/* A name has no quotes, but may have what means something to XML. */
static void svg_name(FILE *to, const char *name)
{
	for (; *name; name++)
		fputc(*name == '<' || *name == '&' ? '?' : *name, to);
}

static void svg_space(FILE *to, const struct history *history, const struct history_space *space,
		      int y)
{
	char size[WORD];

	fprintf(to, "<text x=\"8\" y=\"%d\">", y + 14);
	svg_name(to, space->name[0] ? space->name : "?");
	fprintf(to, ": %" PRIu64 " faults</text>\n", space->nr_faults);
	y += TITLE;
	for (size_t i = 0; i < space->nr_rows; i++) {
		const int line = y + (int)i * ROW + ROW - 2;

		fprintf(to, "<text x=\"8\" y=\"%d\">%" PRIx64 "</text>", line, space->rows[i].start);
		fprintf(to, "<text class=\"n\" x=\"%d\" y=\"%d\">%s</text>\n", LABELS - 8, line,
			size_word(size, space->rows[i].bytes));
	}
	svg_panel(to, history, space, LABELS, y, false);
	svg_panel(to, history, space, LABELS + PANEL + BETWEEN, y, true);
}

void history_svg(FILE *to, const struct history *history)
{
	const char *why = warning(history);
	int height = HEAD, y = HEAD;

	for (size_t i = 0; i < history->nr_spaces; i++)
		height += TITLE + ROW + (int)history->spaces[i].nr_rows * ROW;
	fprintf(to, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
		"viewBox=\"0 0 %d %d\">\n", WIDTH, height, WIDTH, height);
	fputs("<style>text{font:11px monospace}.n{text-anchor:end}.away{fill:#dd6b20}"
	      ".fault{fill:#c53030}.none{fill:#f0f0f0}.back{fill:#fff}</style>\n", to);
	fprintf(to, "<rect class=\"back\" width=\"%d\" height=\"%d\"/>\n", WIDTH, height);
	fprintf(to, "<text x=\"8\" y=\"18\">From left to right %.3f s. Left: the share that was away. "
		"Right: faults on it there, darker by powers of two.</text>\n", seconds(history));
	fprintf(to, "<text x=\"8\" y=\"36\">%s", why ? why : "");
	if (history->nr_left_out)
		fprintf(to, "%s%zu address spaces are left out", why ? "; " : "", history->nr_left_out);
	fputs("</text>\n", to);
	for (size_t i = 0; i < history->nr_spaces; i++) {
		svg_space(to, history, &history->spaces[i], y);
		y += TITLE + ROW + (int)history->spaces[i].nr_rows * ROW;
	}
	fputs("</svg>\n", to);
}

/* ---------------------------------------------------------------- JSON */

static void json_row(FILE *to, const struct history_row *row)
{
	fprintf(to, "{\"start\": \"0x%" PRIx64 "\", \"end\": \"0x%" PRIx64 "\", \"bytes\": %" PRIu64
		", \"away\": [", row->start, row->end, row->bytes);
	for (size_t c = 0; c < HISTORY_COLUMNS; c++)
		fprintf(to, "%s%.4f", c ? ", " : "", row->away[c]);
	fputs("], \"faults\": [", to);
	for (size_t c = 0; c < HISTORY_COLUMNS; c++)
		fprintf(to, "%s%" PRIu64, c ? ", " : "", row->faults[c]);
	fputs("]}", to);
}

void history_json(FILE *to, const struct history *history)
{
	fprintf(to, "{\"elapsed_s\": %.6f, \"column_s\": %.6f, \"complete\": %s, \"dropped\": %" PRIu64
		", \"left_out\": %zu,\n  \"spaces\": [", seconds(history), seconds(history) / HISTORY_COLUMNS,
		history->complete ? "true" : "false", history->dropped, history->nr_left_out);
	for (size_t i = 0; i < history->nr_spaces; i++) {
		const struct history_space *space = &history->spaces[i];

		fprintf(to, "%s\n    {\"id\": %" PRIu64 ", \"name\": ", i ? "," : "", space->id);
		json_string(to, space->name);
		fprintf(to, ", \"faults\": %" PRIu64 ", \"rows\": [", space->nr_faults);
		for (size_t row = 0; row < space->nr_rows; row++) {
			fputs(row ? ",\n      " : "\n      ", to);
			json_row(to, &space->rows[row]);
		}
		fputs("]}", to);
	}
	fputs("] }\n", to);
}
