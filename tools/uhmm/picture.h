/* SPDX-License-Identifier: MIT */
/*
 * The monitors as lines of text, for a screen or a pipe.
 */
#ifndef UHMM_PICTURE_H
#define UHMM_PICTURE_H

#include "monitors.h"

#define PICTURE_COLUMNS	79

enum picture_style {
	PICTURE_PLAIN,
	PICTURE_HEAD,		/* begins a monitor's part */
	PICTURE_TABLE,		/* names of columns */
	PICTURE_ALARM,
};

/* What processes are ordered by, the largest first; pid: the smallest. */
enum picture_order {
	ORDER_AWAY,
	ORDER_RAM,
	ORDER_FAULTS,
	ORDER_TRAFFIC,		/* pages that move, both ways */
	ORDER_PID,
	ORDERS
};

const char *picture_order_name(enum picture_order order);

/* @put gets each line, without a newline. */
void picture_draw(const struct monitors *monitors, enum picture_order order,
		  void (*put)(void *ctx, enum picture_style style, const char *line), void *ctx);

#endif
