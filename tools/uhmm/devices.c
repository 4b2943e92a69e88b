/* SPDX-License-Identifier: MIT */
/*
 * uhmm devices: the devices that can be used here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <uhmm/plugin.h>

#include "command.h"

static const char devices_help[] =
	"usage: uhmm devices [--json]\n"
	"\n"
	"Lists the devices that the drivers of this installation find, each tried by\n"
	"opening it. Drivers are looked for in the folders of UHMM_PLUGIN_PATH, then in\n"
	"the library's own. DEVICE is what opens one, NAME or NAME:OPTIONS.\n"
	"\n"
	"  --json   an array of {\"name\",\"options\",\"what\",\"mem_bytes\",\"usable\",\"why_not\"}\n"
	"  --help   this text\n"
	"\n"
	"Exit status: 0 when at least one can be used, 1 when none can.\n";

struct row {
	char name[32];
	struct hmm_plugin_device device;
	char why_not[256];	/* empty: it can be used */
};

struct rows {
	struct row *row;
	size_t nr;
};

static struct row *row_add(struct rows *rows, const char *name)
{
	struct row *more = realloc(rows->row, (rows->nr + 1) * sizeof(*more));
	struct row *row;

	if (!more)
		return NULL;
	rows->row = more;
	row = &more[rows->nr++];
	memset(row, 0, sizeof(*row));
	snprintf(row->name, sizeof(row->name), "%s", name);
	return row;
}

static void row_try(struct row *row, const struct hmm_plugin *plugin)
{
	struct trial trial;

	trial_device(&trial, plugin, row->device.options);
	if (trial.err)
		snprintf(row->why_not, sizeof(row->why_not), "%s",
			 trial.said[0] ? trial.said : strerror(-trial.err));
}

/* All devices of a driver; one row that says why where it has none. */
static int rows_of_driver(const char *name, void *ctx)
{
	struct rows *rows = ctx;
	struct row *row = row_add(rows, name);
	const struct hmm_plugin *plugin;

	if (!row)
		return -ENOMEM;
	if (hmm_plugin_load(name, &plugin, row->why_not, sizeof(row->why_not)))
		return 0;
	snprintf(row->device.what, sizeof(row->device.what), "%s", plugin->what);
	if (!plugin->describe) {
		row_try(row, plugin);
		return 0;
	}
	for (uint32_t nr = 0;; nr++) {
		struct hmm_plugin_device found = { .mem_bytes = 0 };
		int ret = plugin->describe(nr, &found);

		if (ret && nr)
			return 0;
		if (ret) {
			snprintf(row->why_not, sizeof(row->why_not), "%s",
				 found.what[0] ? found.what : strerror(-ret));
			return 0;
		}
		if (nr && !(row = row_add(rows, name)))
			return -ENOMEM;
		row->device = found;
		row_try(row, plugin);
	}
}

static void print_json(const struct rows *rows)
{
	fputs("[", stdout);
	for (size_t i = 0; i < rows->nr; i++) {
		const struct row *row = &rows->row[i];

		fputs(i ? ",\n {\"name\": " : "\n {\"name\": ", stdout);
		json_string(stdout, row->name);
		fputs(", \"options\": ", stdout);
		json_string(stdout, row->device.options);
		fputs(", \"what\": ", stdout);
		json_string(stdout, row->device.what);
		printf(", \"mem_bytes\": %llu", (unsigned long long)row->device.mem_bytes);
		printf(", \"usable\": %s, \"why_not\": ", row->why_not[0] ? "false" : "true");
		json_string(stdout, row->why_not[0] ? row->why_not : NULL);
		fputs("}", stdout);
	}
	fputs("\n]\n", stdout);
}

static void print_table(const struct rows *rows)
{
	printf("%-16s %-7s %s\n", "DEVICE", "USABLE", "WHAT");
	for (size_t i = 0; i < rows->nr; i++) {
		const struct row *row = &rows->row[i];
		char device[128];

		snprintf(device, sizeof(device), "%s%s%s", row->name,
			 row->device.options[0] ? ":" : "", row->device.options);
		printf("%-16s %-7s %s\n", device, row->why_not[0] ? "no" : "yes",
		       row->why_not[0] ? row->why_not : row->device.what);
	}
}

int devices_main(int argc, char **argv)
{
	struct rows rows = { NULL, 0 };
	bool any = false;
	bool json;
	int ret;

	ret = report_options(argc, argv, devices_help, &json);
	if (ret >= 0)
		return ret;

	ret = hmm_plugin_each(rows_of_driver, &rows);
	if (ret)
		fprintf(stderr, "uhmm devices: %s\n", strerror(-ret));
	for (size_t i = 0; i < rows.nr; i++)
		any |= !rows.row[i].why_not[0];
	if (json)
		print_json(&rows);
	else
		print_table(&rows);
	free(rows.row);
	return any && !ret ? 0 : 1;
}
