/* SPDX-License-Identifier: MIT */
/* What the figures depend on: kernel, CPU, page size, THP, capabilities, build. */
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "sys/sys.h"

#ifndef UHMM_COMMIT
#define UHMM_COMMIT "unknown"
#endif
#ifndef HMM_DEBUG
#define HMM_DEBUG 0
#endif

/* The rest of the first line of @path that begins with @key, without blanks around it. */
static bool line_of(const char *path, const char *key, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	char line[512];
	bool found = false;

	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f)) {
		char *p = line + strlen(key);

		if (strncmp(line, key, strlen(key)) != 0)
			continue;
		p += strspn(p, " \t:");
		p[strcspn(p, "\n")] = '\0';
		snprintf(buf, size, "%s", p);
		found = true;
	}
	fclose(f);
	return found;
}

static void append(char *buf, size_t size, const char *word)
{
	size_t used = strlen(buf);

	snprintf(buf + used, size - used, "%s%s", used ? " " : "", word);
}

static void read_caps(struct bench_machine *machine)
{
	for (unsigned int i = 0; i < CAP_NR; i++) {
		const char *name = sys_cap_desc((enum sys_cap)i)->name;

		if (!sys_cap_unmasked((enum sys_cap)i))
			append(machine->missing, sizeof(machine->missing), name);
		else if (!sys_cap((enum sys_cap)i))
			append(machine->masked, sizeof(machine->masked), name);
	}
}

void bench_machine_read(struct bench_machine *machine)
{
	time_t now = time(NULL);
	struct utsname name;
	struct tm utc;

	memset(machine, 0, sizeof(*machine));
	if (!uname(&name))
		snprintf(machine->kernel, sizeof(machine->kernel), "%.20s %.50s %.20s",
			 name.sysname, name.release, name.machine);
	if (!line_of("/proc/cpuinfo", "model name", machine->cpu, sizeof(machine->cpu)))
		snprintf(machine->cpu, sizeof(machine->cpu), "unknown");
	if (!line_of("/sys/kernel/mm/transparent_hugepage/enabled", "", machine->thp,
		     sizeof(machine->thp)))
		snprintf(machine->thp, sizeof(machine->thp), "not built in");
	machine->cpus = (unsigned int)sysconf(_SC_NPROCESSORS_ONLN);
	machine->page_size = hmm_page_size();
	machine->driver = "soft";
	machine->checks = HMM_DEBUG;
	snprintf(machine->commit, sizeof(machine->commit), "%s", UHMM_COMMIT);
	if (gmtime_r(&now, &utc))
		strftime(machine->date, sizeof(machine->date), "%Y-%m-%d", &utc);
	read_caps(machine);
}

size_t bench_free_ram(void)
{
	char text[64];

	if (!line_of("/proc/meminfo", "MemAvailable", text, sizeof(text)))
		return 0;
	return strtoull(text, NULL, 10) * KIB;
}
