#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What uhmm trace writes is what happened: it adds up to the report of the same run.

usage: trace.py UHMM
"""
import collections
import json
import os
import subprocess
import sys
import tempfile

UHMM = sys.argv[1]

# Two processes that each use more than may be in RAM, one made by a fork, one by an exec.
GUEST = """
import os, sys
held = bytearray(24 << 20)
for turn in range(3):
    for i in range(0, len(held), 4096):
        held[i] = (held[i] + 1) & 255
pid = os.fork()
for i in range(0, len(held), 4096):
    held[i] = (held[i] + 1) & 255
assert set(held[::4096]) == {4}
if not pid:
    os.execv(sys.executable, [sys.executable, "-c", "print(sum(bytearray(16 << 20)))"])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def check(claim, what):
    if not claim:
        sys.exit(f"FAIL: {what}")


def run(*argv):
    return subprocess.run([UHMM, *argv], capture_output=True, text=True, timeout=100, check=False)


def total(events, name, key):
    return sum(event["args"][key] for event in events if event["name"] == name)


def adds_up(trace, report):
    events = trace["traceEvents"]
    count = collections.Counter(event["name"] for event in events)
    check(trace["otherData"]["dropped"] == 0, "nothing is dropped")
    check(report["pages_to_device"] > 1000, f"much happened: {report}")
    check(total(events, "to device", "pages") == report["pages_to_device"], "pages to the device")
    check(total(events, "home", "pages") == report["pages_to_system"], "pages that came home")
    check(total(events, "first touch", "pages") == report["zero_fills"], "first touches")
    check(count["fault"] == report["cpu_faults"], "faults on pages that were away")
    check(count["fork"] >= 1 and count["munmap"] >= 1 and count["memory"] >= 1, f"{count}")


def is_well_formed(trace):
    """As the viewers' format asks: spans of one thread follow each other, or nest."""
    threads = collections.defaultdict(list)
    for event in trace["traceEvents"]:
        check(event["ph"] in "XiMC", f"phase of {event}")
        if event["ph"] != "X":
            continue
        check(event["ts"] >= 0 and event["dur"] > 0, f"times of {event}")
        check(event["pid"] > 0 and event["cat"], f"place of {event}")
        if event["cat"] in ("fault", "change"):
            threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in threads.values():
        spans.sort()
        for (_, end), (begin, _) in zip(spans, spans[1:]):
            check(begin >= end - 0.001, f"a thread that waits for two at once, at {begin}")


def names_address_spaces(trace):
    named = {
        event["pid"]: event["args"]["name"]
        for event in trace["traceEvents"]
        if event["name"] == "process_name"
    }
    used = {event["pid"] for event in trace["traceEvents"] if event["ph"] == "X"}
    check(used <= set(named), f"{used} of {named}")
    check(sum(name.startswith("python") for name in named.values()) >= 3, f"{named}")
    pids = collections.Counter(name.split("[")[1] for name in named.values() if "[" in name)
    check(max(pids.values()) >= 2, f"an exec begins another: {named}")


def files_that_cannot_be_written(folder):
    missing = os.path.join(folder, "none", "trace.json")
    check(run("run", "--trace", missing, "echo", "x").returncode == 125, "no such folder")
    check(run("run", "--trace", missing, "echo", "x").stdout == "", "and the program does not run")
    full = run("run", "--trace", "/dev/full", "--dram", "16M", "sh", "-c", "exit 3")
    check(full.returncode == 3, f"a full disk is not the program's: {full}")
    check("the trace could not be written" in full.stderr, f"and is said: {full.stderr}")


def main():
    if run("doctor").returncode:
        print("SKIP: uhmm doctor says why memory cannot be managed here")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="uhmm-test-") as folder:
        trace, report = os.path.join(folder, "trace.json"), os.path.join(folder, "report.json")
        ran = run("trace", "-o", trace, "--dram", "12M", "--report", report, sys.executable, "-c", GUEST)
        check(ran.returncode == 0 and ran.stdout == "0\n", f"the guest: {ran}")
        with open(trace, encoding="ascii") as text:
            written = json.load(text)
        with open(report, encoding="ascii") as text:
            adds_up(written, json.load(text))
        is_well_formed(written)
        names_address_spaces(written)
        files_that_cannot_be_written(folder)


main()
