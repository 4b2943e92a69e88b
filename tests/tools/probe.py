#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The probe tells bpftrace what the trace of the same run says.

usage: probe.py UHMM
"""
import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile

UHMM = sys.argv[1]
FAULT, MIGRATE, HOME = 0, 1, 2      # of enum hmm_trace_type
GUEST = "held = bytearray(32 << 20)\nfor i in range(0, 2 * len(held), 4096): held[i % len(held)] ^= 1\n"
SCRIPT = "usdt:%s:uhmm:event /arg0 < 3/ { @events[arg0] = count(); @pages[arg0] = sum(arg5); }"


def check(claim, what):
    if not claim:
        sys.exit(f"FAIL: {what}")


def skip(why):
    print(f"SKIP: {why}")
    sys.exit(77)


def kind_of(event):
    if event.get("cat") == "fault":
        return FAULT
    return {"to device": MIGRATE, "home": HOME}.get(event["name"])


def main():
    if os.geteuid() or not shutil.which("bpftrace"):
        skip("a probe is looked at by bpftrace, as root")
    if subprocess.run([UHMM, "doctor"], capture_output=True, check=False).returncode:
        skip("uhmm doctor says why memory cannot be managed here")
    with tempfile.TemporaryDirectory(prefix="uhmm-test-") as folder:
        guest, trace = os.path.join(folder, "guest.py"), os.path.join(folder, "trace.json")
        with open(guest, "w", encoding="ascii") as file:
            file.write(GUEST)
        ran = subprocess.run(
            ["bpftrace", "-f", "json", "-e", SCRIPT % os.path.realpath(UHMM),
             "-c", f"{UHMM} run --dram 12M --trace {trace} -- {sys.executable} {guest}"],
            capture_output=True, text=True, timeout=100, check=False)
        told = {}
        for line in ran.stdout.splitlines():
            if '"type": "map"' in line:
                told.update(json.loads(line)["data"])
        if "@events" not in told:
            skip(f"bpftrace does not work here: {ran.stderr.strip().splitlines()[-1:]}")
        with open(trace, encoding="ascii") as file:
            events = json.load(file)["traceEvents"]
    count, pages = collections.Counter(), collections.Counter()
    for event in events:
        count[kind_of(event)] += 1
        pages[kind_of(event)] += event["args"].get("pages", 0)
    check(count[HOME] > 0, f"something happened: {count}")
    for kind in (FAULT, MIGRATE, HOME):
        check(told["@events"].get(str(kind)) == count[kind], f"events: {told}, {count}")
        check(told["@pages"].get(str(kind)) == pages[kind], f"pages: {told}, {pages}")


main()
