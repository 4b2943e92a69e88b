/* SPDX-License-Identifier: MIT */
/*
 * uhmm doctor: what this kernel and this user can do, what is lost without the
 * rest, and the one line that fixes what can be fixed.
 */
#include <errno.h>	/* the names only */
#include <string.h>

#include "command.h"
#include "sys/sys.h"

static const char doctor_help[] =
	"usage: uhmm doctor [--json]\n"
	"\n"
	"Tries each capability of the kernel that uhmm can use, and says what is lost\n"
	"where one is missing and how to get it. UHMM_CAPS=-NAME[,-NAME...] makes uhmm do\n"
	"without capabilities that are there; they are shown as masked.\n"
	"\n"
	"  --json   an array of {\"name\",\"since\",\"have\",\"lost_without\",\"fix\",\"masked\"}\n"
	"  --help   this text\n"
	"\n"
	"Exit status: 0 when a program can use uhmm here, 1 when it cannot.\n";

static bool masked(enum sys_cap cap)
{
	return !sys_cap(cap) && sys_cap_unmasked(cap);
}

static const char *here(enum sys_cap cap)
{
	if (sys_cap(cap))
		return "yes";
	return masked(cap) ? "masked" : "no";
}

static const char *migration_path(void)
{
	if (sys_cap(CAP_MOVE))
		return "MOVE (UFFDIO_MOVE: pages move, pinned ones are seen and left alone)";
	if (sys_cap(CAP_DONTUNMAP))
		return "DONTUNMAP (mremap: pages move, pinned ones cannot be told)";
	return "none (needs uffdio-move or dontunmap): pages stay in system memory";
}

static void print_json(void)
{
	fputs("[", stdout);
	for (int cap = 0; cap < CAP_NR; cap++) {
		const struct sys_cap_desc *desc = sys_cap_desc(cap);

		fputs(cap ? ",\n {\"name\": " : "\n {\"name\": ", stdout);
		json_string(stdout, desc->name);
		fputs(", \"since\": ", stdout);
		json_string(stdout, desc->since);
		printf(", \"have\": %s, \"lost_without\": ", sys_cap(cap) ? "true" : "false");
		json_string(stdout, desc->without);
		fputs(", \"fix\": ", stdout);
		json_string(stdout, desc->fix);
		printf(", \"masked\": %s}", masked(cap) ? "true" : "false");
	}
	fputs("\n]\n", stdout);
}

static void print_table(void)
{
	printf("%-20s %-6s %-7s %s\n", "CAPABILITY", "SINCE", "HERE", "WITHOUT IT");
	for (int cap = 0; cap < CAP_NR; cap++) {
		const struct sys_cap_desc *desc = sys_cap_desc(cap);

		printf("%-20s %-6s %-7s %s\n", desc->name, desc->since, here(cap), desc->without);
	}
	for (int cap = 0; cap < CAP_NR; cap++) {
		const struct sys_cap_desc *desc = sys_cap_desc(cap);

		if (!sys_cap_unmasked(cap) && desc->fix)
			printf("to have %s: %s\n", desc->name, desc->fix);
	}
}

/* What is left where no fault of a system call can be served. False: nothing. */
static bool print_user_faults_only(void)
{
	struct trial trial;

	trial_mm(&trial, HMM_MM_USER_FAULTS_ONLY);
	if (trial.err)
		return false;
	puts("this user's userfaultfd serves a program's own touches, not those of its system calls:\n"
	     "  uhmm run      runs programs, with nothing of theirs on a device\n"
	     "  uhmm dmirror  refuses\n"
	     "  libuhmm       an mm with HMM_MM_USER_FAULTS_ONLY, whose system calls fail with\n"
	     "                EFAULT on memory that is away");
	return true;
}

static void print_verdict(const struct trial *trial)
{
	bool some = trial->err == -EPERM && print_user_faults_only();

	if (!trial->err || some) {
		printf("migration path: %s\n", migration_path());
		return;
	}
	if (trial->said[0])
		printf("%s\n", trial->said);
	printf("migration path: none; hmm_mm_create() fails here: %s\n", strerror(-trial->err));
}

int doctor_main(int argc, char **argv)
{
	const char *unknown;
	struct trial trial;
	bool json;
	int ret;

	ret = report_options(argc, argv, doctor_help, &json);
	if (ret >= 0)
		return ret;

	unknown = sys_caps_unknown();
	if (unknown) {
		fprintf(stderr, "uhmm doctor: UHMM_CAPS names %s, which is no capability\n", unknown);
		return EXIT_USAGE;
	}

	trial_mm(&trial, 0);
	if (json) {
		print_json();
	} else {
		print_table();
		print_verdict(&trial);
	}
	return trial.err ? 1 : 0;
}
