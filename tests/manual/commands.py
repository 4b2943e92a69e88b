#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every command in the documents works.

A command is an indented line of a *.md that begins with a program, and a .Dl line of a
manual page. Each is run here as it stands, or has an entry below that says what runs it
instead, and where that can be read. One that has neither fails.

What is named in a sentence (`uhmm run --trace`) is a command that there is, with options
that it has.

usage: commands.py SOURCE-ROOT UHMM HMM-DRIVER-TEST TEMPLATE.SO
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT, UHMM, KIT, TEMPLATE = (pathlib.Path(arg).resolve() for arg in sys.argv[1:])
PATIENCE_S = 60

# Begins a command -> the file that has it run, and words of that file that do.
ELSEWHERE = {
    "scripts/demo": ("scripts/demo", "scripts/demo [WORDINDEX"),
    "scripts/check": ("scripts/check", "scripts/check [--quick"),
    "scripts/hmm-tests": ("scripts/check", 'scripts/hmm-tests "$@"'),
    "gcc -I. -o hmm-tests": ("scripts/hmm-tests", "hmm-tests.c"),
    "uhmm dmirror -- ./hmm-tests": ("scripts/hmm-tests", "dmirror --"),
    "make install": ("scripts/check", "make -s BUILD"),
    "make check": ("Makefile", "scripts/check"),
    "make quick": ("Makefile", "scripts/check --quick"),
    "make help": ("tests/manual/commands.py", "make_helps"),
    "make": ("scripts/check", "make -s BUILD"),
    "cp -r examples/driver-template": ("scripts/check", "cp -r examples/driver-template"),
    "cd my-driver && make": ("scripts/check", 'make -C "$tmp/driver"'),
    "hmm-driver-test ./template.so": ("tests/kit/meson.build", "test('kit-template'"),
    "nbdkit memory": ("tests/nbd/servers.c", "nbdkit"),
    "uhmm bench --json": ("tests/manual/commands.py", "bench_writes_json"),
    "uhmm top": ("tests/tools/top.py", "live_view_follows_keys_and_size"),
    "bpftrace": ("tests/tools/probe.py", "usdt:%s:uhmm:event"),
}


def check(claim, what):
    if not claim:
        sys.exit(f"FAIL: {what}")


def output(*argv):
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout


# ---------------------------------------------------------------- finding


def is_program(word):
    return word in ("uhmm", "hmm-driver-test", "nbdkit", "bpftrace") or word.startswith("scripts/") or (
        re.fullmatch(r"[a-z][a-z0-9-]*", word) and shutil.which(word))


def documents():
    return [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/design/*.md")]


def commands():
    """Of each: where it stands, and its text without a comment."""
    for path in sorted(documents()):
        text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
        for line in re.findall(r"^    (\S.*)$", text, re.M):
            if is_program(re.sub(r"^([A-Z_]+=\S* )+", "", line).split()[0]):
                yield path.relative_to(ROOT), re.sub(r"\s\s+#.*", "", line)
    for path in sorted((ROOT / "man").glob("*.[0-9]*")):
        for line in re.findall(r"^\.Dl (.*)$", path.read_text(), re.M):
            yield path.relative_to(ROOT), re.sub(r"^[$#] ", "", line)


def named():
    for path in documents():
        for words in re.findall(r"`((?:uhmm|hmm-driver-test|scripts/[a-z-]+)(?: [^`]*)?)`", path.read_text()):
            yield path.relative_to(ROOT), words.replace("\n", " ").split()


# ---------------------------------------------------------------- running


def sorting(monitor):
    """The process of the sort that waits for its input, once it is managed."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and monitor.poll() is None:
        for view in json.loads(output(UHMM, "top", "--once", "--json", "--interval", "0.1", str(monitor.pid))):
            for process in view["running"]:
                if process["name"] == "sort" and process["managed"]:
                    return process["pid"]
    sys.exit("FAIL: the sort is not seen")


def prepare(folder):
    """What the examples take for granted: the programs by name, an input, a driver."""
    (folder / "bin").mkdir()
    for program in (UHMM, KIT):
        (folder / "bin" / program.name).symlink_to(program)
    shutil.copy(TEMPLATE, folder)
    with open(folder / "big.txt", "w", encoding="ascii") as text:
        text.writelines(f"{i * 7919 % 100003}\n" for i in range(100000))


def find_the_sort(folder, pid):
    """Others may be sorting, too."""
    pgrep = folder / "bin" / "pgrep"
    pgrep.write_text(f"#!/bin/sh\necho {pid}\n")
    pgrep.chmod(0o755)


def run(where, command, folder):
    if "jq" in command.split() and not shutil.which("jq"):
        print(f"without jq: {where}: {command}")
        return
    ran = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True,
                         text=True, timeout=200, check=False)
    check(ran.returncode == 0, f"{where}: {command}: status {ran.returncode}\n{ran.stdout}{ran.stderr}")


def run_elsewhere(where, command):
    for begin, (file, words) in ELSEWHERE.items():
        if command == begin or command.startswith(begin + " "):
            if begin == "uhmm top" and command != begin:
                continue
            check(words in (ROOT / file).read_text(), f"{where}: {command}: {file} does not run it")
            return True
    return False


def make_helps():
    text = output("make", "-C", str(ROOT), "help")
    for target in ("make all", "make quick", "make install"):
        check(target in text, f"make help says nothing of {target}")


def bench_writes_json():
    """All of it takes minutes, and scripts/benchdoc --check reads what that wrote once."""
    for line in output(UHMM, "bench", "--json", "--quick", "notifier_find").splitlines():
        check(json.loads(line)["name"] == "notifier_find", line)


def all_are_run(folder):
    nr = 0
    for where, command in commands():
        nr += 1
        if not run_elsewhere(where, command):
            run(where, command, folder)
    check(nr > 20, f"{nr} commands found")


def all_that_is_named_is_there():
    helps = {}
    for where, words in named():
        if words[0].startswith("scripts/"):
            check((ROOT / words[0]).exists(), f"{where}: {words[0]}")
            helps[words[0]] = (ROOT / words[0]).read_text()
        have = words[:1]
        if words[0] == "uhmm" and len(words) > 1 and words[1].isalpha() and words[1].islower():
            have = words[:2]
            check(re.search(rf"^  {words[1]} ", output(UHMM, "--help"), re.M), f"{where}: {' '.join(words)}")
        key = " ".join(have)
        if key not in helps:
            helps[key] = output(UHMM if words[0] == "uhmm" else KIT, *have[1:], "--help")
        for option in words[len(have):]:
            if re.fullmatch(r"--[a-z-]+", option):
                check(re.search(rf"{option}\b", helps[key]), f"{where}: {key} has no {option}")


def main():
    all_that_is_named_is_there()
    make_helps()
    bench_writes_json()
    if subprocess.run([UHMM, "doctor"], capture_output=True, check=False).returncode:
        print("SKIP: uhmm doctor says why memory cannot be managed here")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="uhmm-test-") as name:
        folder = pathlib.Path(name)
        prepare(folder)
        os.environ.update(PATH=f"{folder / 'bin'}:{os.environ['PATH']}", XDG_RUNTIME_DIR=name, LC_ALL="C")
        monitor = subprocess.Popen([UHMM, "run", "--dram", "4M", "sort", folder / "big.txt", "-"],
                                   stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            find_the_sort(folder, sorting(monitor))
            all_are_run(folder)
        finally:
            monitor.stdin.close()
            status = monitor.wait()
        check(status == 0, f"the sort ended with {status}")


main()
