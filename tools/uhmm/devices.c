/* SPDX-License-Identifier: MIT */
/*
 * uhmm devices: the devices that can be used here.
 */
#include <string.h>

#include "command.h"

static const char devices_help[] =
	"usage: uhmm devices [--json]\n"
	"\n"
	"Lists the devices of this version, each tried by opening it.\n"
	"\n"
	"  --json   an array of {\"name\",\"what\",\"usable\",\"why_not\"}\n"
	"  --help   this text\n"
	"\n"
	"Exit status: 0 when at least one can be used, 1 when none can.\n";

static const struct device {
	const char *name;
	const char *what;
	void (*attempt)(struct trial *trial);
} devices[] = {
	{ "soft", "device in software: own memory, page table, lanes, DMA", trial_soft },
};

#define NR_DEVICES	(sizeof(devices) / sizeof(devices[0]))

static const char *why_not(const struct trial *trial)
{
	if (!trial->err)
		return NULL;
	return trial->said[0] ? trial->said : strerror(-trial->err);
}

static void print_json(const struct trial *trials)
{
	fputs("[", stdout);
	for (size_t i = 0; i < NR_DEVICES; i++) {
		fputs(i ? ",\n {\"name\": " : "\n {\"name\": ", stdout);
		json_string(stdout, devices[i].name);
		fputs(", \"what\": ", stdout);
		json_string(stdout, devices[i].what);
		printf(", \"usable\": %s, \"why_not\": ", trials[i].err ? "false" : "true");
		json_string(stdout, why_not(&trials[i]));
		fputs("}", stdout);
	}
	fputs("\n]\n", stdout);
}

static void print_table(const struct trial *trials)
{
	printf("%-10s %-7s %s\n", "DEVICE", "USABLE", "WHAT");
	for (size_t i = 0; i < NR_DEVICES; i++) {
		const char *reason = why_not(&trials[i]);

		printf("%-10s %-7s %s\n", devices[i].name, reason ? "no" : "yes",
		       reason ? reason : devices[i].what);
	}
}

int devices_main(int argc, char **argv)
{
	struct trial trials[NR_DEVICES];
	bool any = false;
	bool json;
	int ret;

	ret = report_options(argc, argv, devices_help, &json);
	if (ret >= 0)
		return ret;

	for (size_t i = 0; i < NR_DEVICES; i++) {
		devices[i].attempt(&trials[i]);
		any |= !trials[i].err;
	}
	if (json)
		print_json(trials);
	else
		print_table(trials);
	return any ? 0 : 1;
}
