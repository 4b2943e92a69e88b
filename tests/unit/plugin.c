/* SPDX-License-Identifier: MIT */
/*
 * Plug-ins: option strings by a table, and which files are taken for one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <unistd.h>

#include <cmocka.h>

#include <uhmm/soft.h>

#include "plugin/options.h"

enum { MEM, LANES, NAME, MODE };

static const struct hmm_plugin_option table[] = {
	[MEM] = { "mem", HMM_PLUGIN_SIZE, 1 << 20, 4096, 1ULL << 40, NULL, "memory" },
	[LANES] = { "lanes", HMM_PLUGIN_NUMBER, 2, 0, 64, NULL, "lanes" },
	[NAME] = { "name", HMM_PLUGIN_TEXT, 0, 0, 0, NULL, "name" },
	[MODE] = { "mode", HMM_PLUGIN_WORD, 1, 0, 0, "first|nth|never", "mode" },
};

static const struct hmm_plugin plugin = {
	.size = sizeof(plugin), .abi = HMM_PLUGIN_ABI, .name = "test", .what = "a test",
	.options = table, .nr_options = 4,
};

static struct hmm_plugin_value values[4];
static char why[HMM_DEVICE_SAID], text[OPTIONS_BYTES];

static int parse(const char *options)
{
	why[0] = '\0';
	strcpy(text, options);
	return options_parse(&plugin, text, values, why, sizeof(why));
}

/* What is not given has its preset, and no text. */
static void presets_hold(void **state)
{
	(void)state;
	assert_int_equal(parse(""), 0);
	assert_int_equal(values[MEM].number, 1 << 20);
	assert_int_equal(values[LANES].number, 2);
	assert_int_equal(values[MODE].number, 1);
	assert_null(values[NAME].text);
	assert_false(values[MEM].given);
}

/* Every kind, in any order, with = and : in a text. */
static void values_of_every_kind(void **state)
{
	(void)state;
	assert_int_equal(parse("mode=never,name=nbd://h:1/x?a=b,lanes=0x10,mem=3G"), 0);
	assert_int_equal(values[MEM].number, 3ULL << 30);
	assert_int_equal(values[LANES].number, 16);
	assert_string_equal(values[NAME].text, "nbd://h:1/x?a=b");
	assert_int_equal(values[MODE].number, 2);
	assert_true(values[MEM].given);
	assert_int_equal(parse("name="), 0);
	assert_string_equal(values[NAME].text, "");
}

/* What cannot be is refused in words that name it. */
static void refusals_say_why(void **state)
{
	static const struct {
		const char *options, *says;
	} cases[] = {
		{ "mme=1", "test: no option mme: it has mem, lanes, name, mode" },
		{ "mem", "test: options are key=value, not mem" },
		{ "=1", "test: options are key=value, not =1" },
		{ ",mem=1M", "test: options are key=value, not nothing" },
		{ "mem=1M,mem=2M", "test: given twice: mem" },
		{ "mem=", "test: mem wants a size such as 64M, not: " },
		{ "mem=1Q", "test: mem wants a size such as 64M, not: 1Q" },
		{ "mem=1MB", "test: mem wants a size such as 64M, not: 1MB" },
		{ "mem=-1", "test: mem wants a size such as 64M, not: -1" },
		{ "lanes=1K", "test: lanes wants a number, not: 1K" },
		{ "lanes=0x", "test: lanes wants a number, not: 0x" },
		{ "lanes=65", "test: lanes must be: 0 to 64" },
		{ "mem=1", "test: mem must be: 4096 to 1099511627776" },
		{ "mem=99999999999999999999", "test: mem wants a size such as 64M, not: 99999999999999999999" },
		{ "mem=99999999999999T", "test: mem wants a size such as 64M, not: 99999999999999T" },
		{ "mode=fir", "test: mode is one of: first|nth|never" },
		{ "mode=", "test: mode is one of: first|nth|never" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(parse(cases[i].options), -EINVAL);
		assert_string_equal(why, cases[i].says);
	}
}

/* A host that has no mm yet hears the same of options, and of nothing else. */
static void check_says_what_open_would(void **state)
{
	char many[OPTIONS_BYTES + 1];

	(void)state;
	assert_int_equal(hmm_device_check(&plugin, NULL, why, sizeof(why)), 0);
	assert_int_equal(hmm_device_check(&plugin, "mem=64M,mode=nth", why, sizeof(why)), 0);
	assert_int_equal(hmm_device_check(&plugin, "lanes=65", why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "test: lanes must be: 0 to 64");
	assert_int_equal(hmm_device_check(&plugin, "lanes=65", NULL, sizeof(why)), -EINVAL);
	memset(many, ',', sizeof(many));
	many[sizeof(many) - 1] = '\0';
	assert_int_equal(hmm_device_check(&plugin, many, why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "test: the options are too long");
	assert_int_equal(hmm_device_check(NULL, NULL, why, sizeof(why)), -EINVAL);
}

/* No byte string makes the parser read or write where it may not (run under ASan too). */
static void any_bytes_are_answered(void **state)
{
	static const char alphabet[] = "mem=,lanes0x19GKT|:first\xff ";
	unsigned int seed = 20261126;
	char options[64];

	(void)state;
	print_message("seed %u\n", seed);
	for (int round = 0; round < 20000; round++) {
		size_t len = (size_t)rand_r(&seed) % sizeof(options);
		int ret;

		for (size_t i = 0; i < len; i++)
			options[i] = alphabet[(size_t)rand_r(&seed) % (sizeof(alphabet) - 1)];
		options[len ? len - 1 : 0] = '\0';
		ret = parse(options);
		assert_true(ret == 0 || (ret == -EINVAL && why[0]));
	}
}

/* What is no plug-in is told apart, and said. */
static void load_tells_what_it_is(void **state)
{
	const struct hmm_plugin *out = NULL;

	(void)state;
	assert_int_equal(hmm_plugin_load(NULL, &out, NULL, 0), -EINVAL);
	assert_int_equal(hmm_plugin_load("soft", NULL, NULL, 0), -EINVAL);
	assert_int_equal(hmm_plugin_load("", &out, why, sizeof(why)), -EINVAL);
	assert_int_equal(hmm_plugin_load("so.ft", &out, why, sizeof(why)), -EINVAL);
	assert_int_equal(hmm_plugin_load("nowhere", &out, why, sizeof(why)), -ENOENT);
	assert_string_equal(why, "nowhere: no such device");
	assert_int_equal(hmm_plugin_load("./nowhere.so", &out, why, sizeof(why)), -ENOENT);
	assert_int_equal(hmm_plugin_load("/etc/passwd", &out, why, sizeof(why)), -ENOEXEC);
	assert_null(out);
	assert_int_equal(hmm_plugin_load("soft", &out, NULL, 0), 0);
	assert_ptr_equal(out, hmm_soft_plugin());
}

static int count_name(const char *name, void *ctx)
{
	unsigned int *seen = ctx;

	seen[0]++;
	seen[1] += !strcmp(name, "soft");
	seen[2] += !strcmp(name, "mine");
	return 0;
}

static int stop_at_once(const char *name, void *ctx)
{
	(void)name;
	(void)ctx;
	return 7;
}

/* Names of folders, each once, whatever else lies there. */
static void each_lists_names_once(void **state)
{
	static const char *const files[] = { "mine.so", "soft.so", "mine.so.0", ".so", "x y.so" };
	char folder[] = "/tmp/uhmm-plugins-XXXXXX", path[4096], twice[4096];
	unsigned int seen[3] = { 0 };

	(void)state;
	assert_non_null(mkdtemp(folder));
	for (size_t i = 0; i < 5; i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, files[i]);
		fclose(fopen(path, "w"));
	}
	snprintf(twice, sizeof(twice), ":%s::%s:/nowhere", folder, folder);
	setenv("UHMM_PLUGIN_PATH", twice, 1);
	assert_int_equal(hmm_plugin_each(count_name, seen), 0);
	assert_int_equal(hmm_plugin_each(stop_at_once, NULL), 7);
	assert_int_equal(hmm_plugin_each(NULL, NULL), -EINVAL);
	unsetenv("UHMM_PLUGIN_PATH");
	for (size_t i = 0; i < 5; i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, files[i]);
		unlink(path);
	}
	rmdir(folder);
	assert_int_equal(seen[1], 1);
	assert_int_equal(seen[2], 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(presets_hold),
		cmocka_unit_test(values_of_every_kind),
		cmocka_unit_test(refusals_say_why),
		cmocka_unit_test(check_says_what_open_would),
		cmocka_unit_test(any_bytes_are_answered),
		cmocka_unit_test(load_tells_what_it_is),
		cmocka_unit_test(each_lists_names_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
