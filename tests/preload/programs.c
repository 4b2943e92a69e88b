// SPDX-License-Identifier: MIT
/*
 * Programs of others whose memory goes to a device and back print what they print without,
 * and not a page is lost. One that is not there, or not all of it, is skipped. With
 * arguments these claims alone are looked at.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "spawn.h"

static const char *uhmm;

static const struct program {
	const char *name;
	const char *script;	/* for sh; what it prints is compared */
} programs[] = {
	{ "sort", "seq 1 200000 | rev | sort --parallel=2 | sha1sum" },
	{ "xz", "seq 1 100000 | xz -1 | xz -d | sha1sum" },
	{ "zstd", "seq 1 200000 | zstd -q | zstd -qd | sha1sum" },
	{ "perl", "perl -e 'for (1..60000) { $h{$_ * 7} = \"x\" x ($_ % 97) } "
		  "print join(\",\", map { length $h{$_} } sort keys %h)' | sha1sum" },
	{ "python3", "python3 -c '\nimport json, hashlib, multiprocessing as m\n"
		     "def f(n): return hashlib.sha1((str(n) * 999).encode()).hexdigest()\n"
		     "d = {str(i): [i, str(i) * 5] for i in range(30000)}\n"
		     "print(hashlib.sha1(json.dumps(json.loads(json.dumps(d))).encode()).hexdigest())\n"
		     "with m.get_context(\"fork\").Pool(3) as p: print(len(set(p.map(f, range(300)))))'" },
	{ "sqlite3", "sqlite3 :memory: 'create table t(a integer primary key, b text); "
		     "with recursive c(x) as (select 1 union all select x + 1 from c where x < 40000) "
		     "insert into t select x, hex(x * 7919) from c; create index i on t(b); "
		     "select count(*), sum(length(b)) from t where b > 3; pragma integrity_check'" },
	{ "gcc", "echo 'int f(int x) { return x * x; } int main(void) { return f(3); }' | "
		 "gcc -O2 -S -x c - -o - | grep -v ident" },
	{ "bash", "bash -c 'for i in {1..40}; do x=$(echo $i | tr 1 a | sed s/a/b/); y+=$x; done; "
		  "echo $y; (exit 3); echo $?'" },
	{ "git", "git --version | cut -c 1-11; d=$(mktemp -d); cd $d && git init -q . && "
		 "seq 1 5000 > f && git add f && git -c user.name=a -c user.email=a@b commit -qm one && "
		 "git gc -q && git fsck && git log --oneline | wc -l; rm -rf $d" },
};

static void same_under(const struct program *program, const char *option, const char *value)
{
	char there[64];
	struct spawned plain, run;

	snprintf(there, sizeof(there), "command -v %s", program->name);
	spawn_run(&plain, "sh", "-c", there, NULL);
	if (!plain.status)
		spawn_run(&plain, "sh", "-c", program->script, NULL);
	if (!plain.said[0]) {
		print_message("          not here: %s\n", program->name);
		skip();
	}
	spawn_run(&run, uhmm, "run", option, value, "--report", "-", "sh", "-c", program->script,
		  NULL);
	spawn_same(&run, &plain, program->name);
	spawn_nothing_lost(&run);
}

/* Byte for byte the same output, with everything migrating at random. */
static void under_stress(void **state)
{
	for (int round = 0; round < (getenv("UHMM_TEST_LONG") ? 5 : 1); round++)
		same_under(*state, "--policy", spawn_stress());
}

/* ... and with little memory. */
static void under_tier(void **state)
{
	same_under(*state, "--dram", "8M");
}

/* A state of the group's would stand before the tests' own. */
static void *directory;

static int own_directory(void **state)
{
	(void)state;
	return spawn_own_directory(&directory);
}

static int remove_directory(void **state)
{
	(void)state;
	return spawn_remove_directory(&directory);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *format;
		CMUnitTestFunction run;
	} policies[] = { { "%s_under_stress", under_stress }, { "%s_under_tier", under_tier } };
	enum { NR = sizeof(programs) / sizeof(programs[0]) };
	static struct CMUnitTest tests[NR * 2];
	static char names[NR * 2][32];

	(void)argc;
	uhmm = spawn_path("UHMM");
	spawn_seed();
	for (size_t i = 0; i < NR * 2; i++) {
		snprintf(names[i], sizeof(names[i]), policies[i % 2].format, programs[i / 2].name);
		tests[i] = (struct CMUnitTest){ .name = names[i], .test_func = policies[i % 2].run,
						.initial_state = (void *)&programs[i / 2] };
	}
	return spawn_claims("programs", tests, NR * 2, argv, own_directory, remove_directory);
}
