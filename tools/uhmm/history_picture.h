/* SPDX-License-Identifier: MIT */
/*
 * The history of a run as lines of 79 columns, as SVG and as JSON.
 */
#ifndef UHMM_HISTORY_PICTURE_H
#define UHMM_HISTORY_PICTURE_H

#include "history.h"

#define HISTORY_TEXT_ROWS	16u
#define HISTORY_SVG_ROWS	48u

void history_text(FILE *to, const struct history *history);
void history_svg(FILE *to, const struct history *history);
void history_json(FILE *to, const struct history *history);

#endif
