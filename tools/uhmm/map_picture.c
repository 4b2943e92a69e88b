/* SPDX-License-Identifier: MIT */
#include "map_picture.h"

#include <inttypes.h>

#define BAR		40		/* columns */
#define WORD		16

/* Of the SVG, in its units. */
#define ROW		20
#define HEAD		64
#define LEFT		290
#define CELL		9
#define WIDTH		(LEFT + (int)WINDOW_CELLS * CELL + 16)

struct sums {
	uint64_t ram, away;	/* pages */
};

static struct sums sums_of(const struct window_map *map)
{
	struct sums sums = { 0 };

	for (uint32_t i = 0; i < map->nr_mappings; i++) {
		sums.ram += map->mapping[i].pages[HMM_PLACE_SYSTEM];
		sums.away += map->mapping[i].pages[HMM_PLACE_DEVICE];
	}
	return sums;
}

static const char *bytes(char word[WORD], uint64_t n)
{
	static const char units[] = "KMGTP";
	double value = (double)n / 1024;
	int unit = 0;

	for (; value >= 1000 && units[unit + 1]; unit++)
		value /= 1024;
	snprintf(word, WORD, value < 100 && unit ? "%.1f%c" : "%.0f%c", value, units[unit]);
	return word;
}

static const char *pages(char word[WORD], uint64_t nr)
{
	return bytes(word, nr * hmm_page_size());
}

/* A name is the program's to choose. */
static void put_name(FILE *to, const char *name, size_t size)
{
	for (size_t i = 0; i < size && name[i]; i++)
		fputc((unsigned char)name[i] < 0x20 || (unsigned char)name[i] > 0x7e ||
		      name[i] == '<' || name[i] == '&' ? '?' : name[i], to);
}

/* ---------------------------------------------------------------- text */

/* The cells that a column of the bar stands for, summed up. */
static char column(const struct window_mapping *m, uint32_t at, uint32_t columns)
{
	uint32_t first = at * m->nr_cells / columns, last = (at + 1) * m->nr_cells / columns;
	unsigned int ram = 0, away = 0;

	for (uint32_t i = first; i < (last > first ? last : first + 1); i++) {
		ram += m->cell[i].ram;
		away += m->cell[i].away;
	}
	if (!ram && !away)
		return '.';
	return away > 3 * ram ? 'o' : ram > 3 * away ? '#' : '+';
}

static void text_mapping(FILE *to, const struct window_mapping *m)
{
	const uint32_t columns = m->nr_cells < BAR ? m->nr_cells : BAR;
	char size[WORD], ram[WORD], away[WORD];

	fprintf(to, "%12" PRIx64 " %7s %7s %7s  ", m->start, bytes(size, m->end - m->start),
		pages(ram, m->pages[HMM_PLACE_SYSTEM]), pages(away, m->pages[HMM_PLACE_DEVICE]));
	for (uint32_t i = 0; i < columns; i++)
		fputc(column(m, i, columns), to);
	fputc('\n', to);
}

void map_text(FILE *to, const struct window_map *map)
{
	const struct sums sums = sums_of(map);
	char ram[WORD], away[WORD];

	put_name(to, map->name, sizeof(map->name));
	fprintf(to, " [%d]: %s in RAM, %s away; # RAM  o away  + both  . nothing yet\n", map->process,
		pages(ram, sums.ram), pages(away, sums.away));
	fprintf(to, "%12s %7s %7s %7s\n", "ADDRESS", "SIZE", "RAM", "AWAY");
	for (uint32_t i = 0; i < map->nr_mappings; i++)
		text_mapping(to, &map->mapping[i]);
	if (map->nr_left_out)
		fprintf(to, "and %" PRIu32 " smaller ones\n", map->nr_left_out);
}

/* ---------------------------------------------------------------- SVG */

static void rect(FILE *to, int x, int y, double width, int height, const char *class)
{
	fprintf(to, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.2f\" height=\"%d\"/>\n", class, x, y,
		width, height);
}

/* Each cell is as wide as any: left of it RAM, right of that what is away, then nothing. */
static void svg_mapping(FILE *to, const struct window_mapping *m, int y)
{
	char size[WORD], ram[WORD], away[WORD];

	fprintf(to, "<text x=\"8\" y=\"%d\">%" PRIx64 "</text>", y + 14, m->start);
	fprintf(to, "<text class=\"n\" x=\"165\" y=\"%d\">%s</text>", y + 14,
		bytes(size, m->end - m->start));
	fprintf(to, "<text class=\"n\" x=\"220\" y=\"%d\">%s</text>", y + 14,
		pages(ram, m->pages[HMM_PLACE_SYSTEM]));
	fprintf(to, "<text class=\"n\" x=\"275\" y=\"%d\">%s</text>\n", y + 14,
		pages(away, m->pages[HMM_PLACE_DEVICE]));
	rect(to, LEFT, y + 2, (double)m->nr_cells * CELL, ROW - 4, "hole");
	for (uint32_t i = 0; i < m->nr_cells; i++) {
		const int x = LEFT + (int)i * CELL;
		const int high = ROW - 4;
		const int ram_high = m->cell[i].ram * high / 255;
		const int away_high = m->cell[i].away * high / 255;

		if (m->cell[i].ram)
			rect(to, x, y + 2 + high - (ram_high ? ram_high : 1), CELL,
			     ram_high ? ram_high : 1, "ram");
		if (m->cell[i].away)
			rect(to, x, y + 2, CELL, away_high ? away_high : 1, "away");
	}
}

void map_svg(FILE *to, const struct window_map *map)
{
	const struct sums sums = sums_of(map);
	const int height = HEAD + (int)map->nr_mappings * ROW + 8;
	char ram[WORD], away[WORD];

	fprintf(to, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
		"viewBox=\"0 0 %d %d\">\n", WIDTH, height, WIDTH, height);
	fputs("<style>text{font:12px monospace}.n{text-anchor:end}.ram{fill:#2b6cb0}"
	      ".away{fill:#dd8a2e}.hole{fill:#e8e8e8}.back{fill:#fff}</style>\n", to);
	rect(to, 0, 0, WIDTH, height, "back");
	fputs("<text x=\"8\" y=\"18\">", to);
	put_name(to, map->name, sizeof(map->name));
	fprintf(to, " [%d]: %s in RAM, %s away</text>\n", map->process, pages(ram, sums.ram),
		pages(away, sums.away));
	rect(to, LEFT, 42, CELL, 12, "ram");
	fprintf(to, "<text x=\"%d\" y=\"52\">RAM</text>\n", LEFT + 14);
	rect(to, LEFT + 60, 42, CELL, 12, "away");
	fprintf(to, "<text x=\"%d\" y=\"52\">away</text>\n", LEFT + 74);
	rect(to, LEFT + 130, 42, CELL, 12, "hole");
	fprintf(to, "<text x=\"%d\" y=\"52\">nothing yet</text>\n", LEFT + 144);
	fputs("<text x=\"8\" y=\"52\">ADDRESS</text><text class=\"n\" x=\"165\" y=\"52\">SIZE</text>"
	      "<text class=\"n\" x=\"220\" y=\"52\">RAM</text>"
	      "<text class=\"n\" x=\"275\" y=\"52\">AWAY</text>\n", to);
	for (uint32_t i = 0; i < map->nr_mappings; i++)
		svg_mapping(to, &map->mapping[i], HEAD + (int)i * ROW);
	fputs("</svg>\n", to);
}
