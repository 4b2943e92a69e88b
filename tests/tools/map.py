#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""uhmm map shows each page of a process once, where it is.

usage: map.py UHMM
"""
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

UHMM = sys.argv[1]
PAGE = os.sysconf("SC_PAGE_SIZE")
PATIENCE_S = 30

# 32 MiB in a mapping of its own, of which it touches the first 24 once; then it waits.
GUEST = """
import mmap, sys
held = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, 24 << 20, 4096):
    held[at] = 1
print(__import__("os").getpid(), flush=True)
sys.stdin.read()
"""


def check(claim, what):
    if not claim:
        sys.exit(f"FAIL: {what}")


def uhmm_map(*args):
    return subprocess.run([UHMM, "map", *args], capture_output=True, text=True, timeout=60, check=False)


def settled(pid):
    """The map, once the policy has nothing left to send away."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        view = json.loads(uhmm_map("--json", str(pid)).stdout)
        if sum(m["system"] for m in view["mappings"]) * PAGE <= 12 << 20:
            return view
    sys.exit(f"FAIL: it stays in RAM: {view}")


def every_page_is_somewhere(pid):
    view = settled(pid)
    check(view["pid"] == pid and view["name"].startswith("python"), "whose it is")
    for mapping in view["mappings"]:
        pages = (int(mapping["end"], 16) - int(mapping["start"], 16)) // PAGE
        seen = sum(mapping[place] for place in ("hole", "system", "device", "exclusive", "flight"))
        check(mapping["looked_at"] == pages == seen, f"each page once: {mapping}")
    # The kernel may have merged a neighbour with it.
    held = max(view["mappings"], key=lambda mapping: mapping["looked_at"])
    check(held["looked_at"] >= (32 << 20) // PAGE, f"the largest: {held}")
    touched = held["system"] + held["device"] + held["flight"]
    check(touched >= (24 << 20) // PAGE and held["hole"] >= (7 << 20) // PAGE, f"what was touched: {held}")
    check(held["device"] > (8 << 20) // PAGE, f"the rest is away: {held}")


def pictures_can_be_looked_at(pid, folder):
    lines = uhmm_map(str(pid)).stdout.splitlines()
    check(any("o" in line[37:] and "." in line[37:] for line in lines[2:]), f"a bar in {lines}")
    check(all(len(line) < 80 for line in lines), f"80 columns: {lines}")
    name = os.path.join(folder, "map.svg")
    check(uhmm_map("--svg", name, str(pid)).returncode == 0, "the picture is written")
    root = xml.etree.ElementTree.parse(name).getroot()
    classes = [rect.get("class") for rect in root.iter("{http://www.w3.org/2000/svg}rect")]
    check(root.tag.endswith("svg") and {"ram", "away", "hole"} <= set(classes), f"{set(classes)}")
    check(uhmm_map("--svg", "/dev/full", str(pid)).returncode == 1, "a full disk is said")


def main():
    if subprocess.run([UHMM, "doctor"], capture_output=True, check=False).returncode:
        print("SKIP: uhmm doctor says why memory cannot be managed here")
        sys.exit(77)
    check(uhmm_map(str(os.getpid())).returncode == 1, "who is not managed has no map")
    check(uhmm_map().returncode == 2 and uhmm_map("x").returncode == 2, "usage")
    with tempfile.TemporaryDirectory(prefix="uhmm-test-") as folder:
        monitor = subprocess.Popen(
            [UHMM, "run", "--dram", "12M", sys.executable, "-c", GUEST],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            pid = int(monitor.stdout.readline())
            every_page_is_somewhere(pid)
            pictures_can_be_looked_at(pid, folder)
        finally:
            monitor.stdin.close()
            status = monitor.wait()
        check(status == 0, f"the run ended with {status}")


main()
