/* SPDX-License-Identifier: MIT */
#include "screen.h"

#include <curses.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "../command.h"
#include "../picture.h"
#include "sys/sys.h"

#define CTRL(letter)	((letter) - '@')
#define PATIENCE_MS	500		/* there is another look soon */
#define INTERVAL_MIN_S	0.1
#define INTERVAL_MAX_S	60.0

static const char *const help_lines[] = {
	"q        end",
	"h  ?     this help, and back",
	"a        order by memory that is away",
	"r        order by memory in RAM",
	"f        order by faults",
	"t        order by traffic: pages that move, both ways",
	"p        order by process id",
	"+  -     look twice as often, half as often",
	"space    look now",
	"up down  PgUp PgDn  Home    move through what does not fit",
	"",
	"RAM      private anonymous memory in RAM",
	"AWAY     in a device's memory",
	"FAULT/S  touches of pages that were away; P50 and P99: how long they took",
	"AWAY/S   pages that went to the device",
	"HOME/S   pages that came back",
	"plain    runs without device memory",
};

struct screen {
	enum picture_order order;
	double interval_s;
	int first, line;		/* the first shown; the one being drawn */
	bool help;
};

static void put_at(int row, const char *line, attr_t attr)
{
	if (row < 1 || row >= LINES)
		return;
	attrset(attr);
	mvaddnstr(row, 0, line, COLS);
}

/* Below the title line, from the first to be shown on. */
static void put_line(void *ctx, enum picture_style style, const char *line)
{
	static const attr_t attrs[] = {
		[PICTURE_PLAIN] = A_NORMAL, [PICTURE_HEAD] = A_BOLD,
		[PICTURE_TABLE] = A_REVERSE, [PICTURE_ALARM] = A_BOLD | A_REVERSE,
	};
	struct screen *screen = ctx;
	const int row = 1 + screen->line++ - screen->first;

	put_at(row, line, attrs[style]);
}

static void draw_title(const struct screen *screen, size_t nr)
{
	char line[160], clock[16] = "";
	struct tm tm;
	time_t now = time(NULL);

	if (localtime_r(&now, &tm))
		strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	snprintf(line, sizeof(line), "uhmm top  %s  %zu running  by %s, every %.1f s   h help  q end",
		 clock, nr, picture_order_name(screen->order), screen->interval_s);
	attrset(A_BOLD);
	mvaddnstr(0, 0, line, COLS);
}

static void draw(struct screen *screen, const struct monitors *monitors)
{
	erase();
	draw_title(screen, monitors->nr);
	screen->line = 0;
	if (screen->help) {
		for (size_t i = 0; i < ARRAY_SIZE(help_lines); i++)
			put_at(2 + (int)i, help_lines[i], A_NORMAL);
	} else {
		picture_draw(monitors, screen->order, put_line, screen);
		if (!monitors->nr)
			put_at(2, "nothing runs under uhmm run now", A_NORMAL);
	}
	/* What was shown may have become less. */
	if (screen->first && screen->first >= screen->line) {
		screen->first = screen->line > 1 ? screen->line - 1 : 0;
		draw(screen, monitors);
		return;
	}
	attrset(A_NORMAL);
	move(0, 0);
	refresh();
}

static void scroll_by(struct screen *screen, int lines)
{
	screen->first += lines;
	if (screen->first >= screen->line)
		screen->first = screen->line - 1;
	if (screen->first < 0)
		screen->first = 0;
}

static void set_interval(struct screen *screen, double s)
{
	screen->interval_s = s < INTERVAL_MIN_S ? INTERVAL_MIN_S :
			     s > INTERVAL_MAX_S ? INTERVAL_MAX_S : s;
}

/* False: the end. *look: look again at once. */
static bool obey(struct screen *screen, int key, bool *look)
{
	const int page = LINES > 2 ? LINES - 2 : 1;

	switch (key) {
	case 'q': case 'Q': case CTRL('C'): return false;
	case 'h': case '?': screen->help = !screen->help; break;
	case 'a': screen->order = ORDER_AWAY; break;
	case 'r': screen->order = ORDER_RAM; break;
	case 'f': screen->order = ORDER_FAULTS; break;
	case 't': screen->order = ORDER_TRAFFIC; break;
	case 'p': screen->order = ORDER_PID; break;
	case '+': set_interval(screen, screen->interval_s / 2); break;
	case '-': set_interval(screen, screen->interval_s * 2); break;
	case ' ': *look = true; break;
	case KEY_UP: scroll_by(screen, -1); break;
	case KEY_DOWN: scroll_by(screen, 1); break;
	case KEY_PPAGE: scroll_by(screen, -page); break;
	case KEY_NPAGE: scroll_by(screen, page); break;
	case KEY_HOME: screen->first = 0; break;
	case KEY_RESIZE: clear(); break;
	case CTRL('Z'): raise(SIGTSTP); break;
	}
	return true;
}

/* Keys until it is time to look again. False: the end, or nobody is at the keyboard. */
static bool serve_keys(struct screen *screen, const struct monitors *monitors)
{
	const uint64_t start = sys_now_ns();
	bool look = false;

	while (!look) {
		const uint64_t end = start + (uint64_t)(screen->interval_s * 1e9), now = sys_now_ns();
		int key;

		if (now >= end)
			return true;
		timeout((int)((end - now) / 1000000) + 1);
		key = getch();
		if (key == ERR) {
			/* A terminal that is gone says so at once, and for ever. */
			if (sys_now_ns() + 2000000 < end && !isatty(STDIN_FILENO))
				return false;
			continue;
		}
		if (!obey(screen, key, &look))
			return false;
		draw(screen, monitors);
	}
	return true;
}

int screen_run(struct monitors *monitors, double interval_s)
{
	struct screen screen = { .order = ORDER_AWAY };
	SCREEN *terminal;

	setlocale(LC_CTYPE, "");
	terminal = newterm(NULL, stdout, stdin);
	if (!terminal) {
		fputs("uhmm top: this terminal cannot be drawn on (see TERM); uhmm top --once\n", stderr);
		return 1;
	}
	raw();
	noecho();
	keypad(stdscr, TRUE);
	curs_set(0);
	set_interval(&screen, interval_s);
	do {
		monitors_look(monitors, PATIENCE_MS);
		draw(&screen, monitors);
	} while (serve_keys(&screen, monitors));
	endwin();
	delscreen(terminal);
	return 0;
}
