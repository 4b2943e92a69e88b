/* SPDX-License-Identifier: MIT */
#include "command.h"

/* Of the UTF-8 character that @s begins with, in bytes; 0: it begins with none. */
static size_t utf8_length(const unsigned char *s)
{
	const unsigned int len = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	unsigned int low, high;

	if ((s[0] >= 0x80 && s[0] < 0xc2) || s[0] > 0xf4)
		return 0;
	/* The second byte: no overlong form, no half of a surrogate pair, none beyond the last. */
	low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
	high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
	for (unsigned int i = 1; i < len; i++) {
		if (s[i] < low || s[i] > high)
			return 0;
		low = 0x80;
		high = 0xbf;
	}
	return len;
}

/* Of one byte, or a byte that is none. */
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
		if (c < 0x20 || c >= 0x7f)
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
	while (*text) {
		size_t len = utf8_length((const unsigned char *)text);

		if (len > 1)
			fwrite(text, 1, len, to);
		else
			json_char(to, (unsigned char)*text);
		text += len ? len : 1;
	}
	fputc('"', to);
}
