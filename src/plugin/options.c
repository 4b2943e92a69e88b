/* SPDX-License-Identifier: MIT */
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct refusal {
	const struct hmm_plugin *plugin;
	char *why;
	size_t bytes;
};

static int refuse(const struct refusal *r, const char *what, const char *word, const char *more)
{
	snprintf(r->why, r->bytes, "%s: %s %s%s%s", r->plugin->name, what, word, more ? ": " : "",
		 more ? more : "");
	return -EINVAL;
}

static int refuse_key(const struct refusal *r, const char *key)
{
	size_t used = 0;
	char names[HMM_DEVICE_SAID] = "it has none";

	for (uint32_t i = 0; i < r->plugin->nr_options && used < sizeof(names); i++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s",
					 i ? ", " : "it has ", r->plugin->options[i].name);
	return refuse(r, "no option", key, names);
}

/* Decimal or 0x; false: no number, or one that does not fit. */
static bool number_parse(const char **text, uint64_t *out)
{
	const char *s = *text;
	unsigned int base = 10, digit;
	uint64_t n = 0;

	if (s[0] == '0' && s[1] == 'x') {
		base = 16;
		s += 2;
	}
	*text = s;
	for (;; s++) {
		if (*s >= '0' && *s <= '9')
			digit = (unsigned int)(*s - '0');
		else if (base == 16 && *s >= 'a' && *s <= 'f')
			digit = (unsigned int)(*s - 'a') + 10;
		else
			break;
		if (__builtin_mul_overflow(n, base, &n) || __builtin_add_overflow(n, digit, &n))
			return false;
	}
	if (s == *text)
		return false;
	*text = s;
	*out = n;
	return true;
}

static bool unit_parse(const char **text, uint64_t *n)
{
	static const char units[] = "KMGT";
	const char *unit = **text ? strchr(units, **text) : NULL;
	unsigned int shift;

	if (!unit)
		return true;
	++*text;
	shift = 10 * ((unsigned int)(unit - units) + 1);
	if (*n > UINT64_MAX >> shift)
		return false;
	*n <<= shift;
	return true;
}

/* The place of @word in "one|two|three", or -1. */
static int word_find(const char *words, const char *word)
{
	size_t len = strlen(word);

	for (int i = 0; words; i++) {
		const char *end = strchrnul(words, '|');

		if ((size_t)(end - words) == len && !strncmp(words, word, len))
			return i;
		words = *end ? end + 1 : NULL;
	}
	return -1;
}

static int number_take(const struct refusal *r, const struct hmm_plugin_option *o,
		       const char *text, struct hmm_plugin_value *value)
{
	const char *s = text;
	char bounds[96];
	uint64_t n;

	if (!number_parse(&s, &n) || (o->kind == HMM_PLUGIN_SIZE && !unit_parse(&s, &n)) || *s)
		return refuse(r, o->name, o->kind == HMM_PLUGIN_SIZE ?
			      "wants a size such as 64M, not" : "wants a number, not", text);
	if (n < o->min || (o->max && n > o->max)) {
		if (o->max)
			snprintf(bounds, sizeof(bounds), "%llu to %llu",
				 (unsigned long long)o->min, (unsigned long long)o->max);
		else
			snprintf(bounds, sizeof(bounds), "%llu or more",
				 (unsigned long long)o->min);
		return refuse(r, o->name, "must be", bounds);
	}
	value->number = n;
	return 0;
}

static int value_take(const struct refusal *r, const struct hmm_plugin_option *o, char *text,
		      struct hmm_plugin_value *value)
{
	int word;

	value->given = true;
	switch (o->kind) {
	case HMM_PLUGIN_NUMBER:
	case HMM_PLUGIN_SIZE:
		return number_take(r, o, text, value);
	case HMM_PLUGIN_TEXT:
		value->text = text;
		return 0;
	case HMM_PLUGIN_WORD:
		word = word_find(o->words, text);
		if (word < 0)
			return refuse(r, o->name, "is one of", o->words);
		value->number = (uint64_t)word;
		return 0;
	}
	return refuse(r, o->name, "has no kind", NULL);
}

static int pair_take(const struct refusal *r, char *pair, struct hmm_plugin_value *values)
{
	char *text = strchr(pair, '=');

	if (!text || text == pair)
		return refuse(r, "options are key=value, not", *pair ? pair : "nothing", NULL);
	*text++ = '\0';
	for (uint32_t i = 0; i < r->plugin->nr_options; i++) {
		const struct hmm_plugin_option *o = &r->plugin->options[i];

		if (strcmp(o->name, pair))
			continue;
		if (values[i].given)
			return refuse(r, "given twice:", pair, NULL);
		return value_take(r, o, text, &values[i]);
	}
	return refuse_key(r, pair);
}

int options_parse(const struct hmm_plugin *plugin, char *text, struct hmm_plugin_value *values,
		  char *why, size_t why_bytes)
{
	const struct refusal r = { plugin, why, why_bytes };
	char *next;
	int ret;

	for (uint32_t i = 0; i < plugin->nr_options; i++)
		values[i] = (struct hmm_plugin_value){ .number = plugin->options[i].preset };
	for (; text && *text; text = next) {
		next = strchr(text, ',');
		if (next)
			*next++ = '\0';
		ret = pair_take(&r, text, values);
		if (ret)
			return ret;
	}
	return 0;
}
