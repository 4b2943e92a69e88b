/* SPDX-License-Identifier: MIT */
#include "command.h"

static void json_char(FILE *to, unsigned char c)
{
	switch (c) {
	case '"':
	case '\\':
		fprintf(to, "\\%c", c);
		break;
	case '\n':
		fputs("\\n", to);
		break;
	case '\t':
		fputs("\\t", to);
		break;
	default:
		if (c < 0x20 || c == 0x7f)
			fprintf(to, "\\u%04x", c);
		else
			fputc(c, to);
	}
}

void json_string(FILE *to, const char *text)
{
	if (!text) {
		fputs("null", to);
		return;
	}
	fputc('"', to);
	for (; *text; text++)
		json_char(to, (unsigned char)*text);
	fputc('"', to);
}
