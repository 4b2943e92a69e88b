#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""uhmm map shows each page of a process once, where it is; and of a run, what its trace says.

usage: map.py UHMM
"""
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

UHMM = sys.argv[1]
PAGE = os.sysconf("SC_PAGE_SIZE")
PATIENCE_S = 30
SILENT = []

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


def events_of(trace, name):
    """The complete lines of a trace that may still be written."""
    with open(trace, encoding="ascii") as text:
        lines = [line.rstrip(",\n") for line in text if line.endswith("\n")]
    return [json.loads(line) for line in lines if f'"name":"{name}"' in line]


def one_that_does_not_answer_is_not_waited_for(pid, folder):
    """Its socket is there, and nobody reads from it."""
    for name in ("uhmm-aaaaaa", "uhmm-zzzzzz"):
        os.mkdir(os.path.join(folder, name), 0o700)
        silent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        silent.bind(os.path.join(folder, name, "top"))
        silent.listen(8)
        SILENT.append(silent)
    # Nobody has this test's own process: who asks for it has to wait for all.
    with subprocess.Popen([UHMM, "map", str(os.getpid())], stderr=subprocess.DEVNULL) as waits:
        check(uhmm_map("--json", str(pid)).returncode == 0, "the one that has it is heard")
        check(waits.poll() is None, "without waiting for the others")
        waits.kill()


def trace_tells_where_pages_are(pid, trace):
    """Block by block, and the sum is what the process's own map says, once it waits."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        spaces = {e["pid"] for e in events_of(trace, "process_name") if f"[{pid}]" in e["args"]["name"]}
        away = {
            (event["pid"], event["args"]["start"]): event["args"]["pages"]
            for event in events_of(trace, "away")
            if event["pid"] in spaces
        }
        told = sum(away.values())
        seen = sum(m["device"] for m in json.loads(uhmm_map("--json", str(pid)).stdout)["mappings"])
        if told == seen > 0:
            return
    sys.exit(f"FAIL: {told} pages away by the trace, {seen} by the map")


def area_of(trace):
    """Bytes that are away, by the seconds that they are."""
    area, pages, since = 0, {}, {}
    for event in events_of(trace, "away"):
        block = event["pid"], event["args"]["start"]
        area += pages.get(block, 0) * PAGE * (event["ts"] - since.get(block, 0)) / 1e6
        pages[block], since[block] = event["args"]["pages"], event["ts"]
    check(area > 0, "something was away for some time")
    return area


def is_over_time(trace, report):
    history = json.loads(uhmm_map("--json", trace).stdout)
    check(history == json.loads(uhmm_map("--json", report).stdout), "a report leads to its trace")
    check(history["complete"] and not history["dropped"], "all of it")
    kinds = ("fault", "fault, in flight", "fault, exclusive", "fault, lost")
    faults = sum(len(events_of(trace, kind)) for kind in kinds)
    rows = [row for space in history["spaces"] for row in space["rows"]]
    check(history["left_out"] == 0 and sum(sum(row["faults"]) for row in rows) == faults > 0, "each fault once")
    for row in rows:
        check(int(row["end"], 16) - int(row["start"], 16) >= row["bytes"], f"addresses of {row}")
        check(all(0 <= share <= 1.0001 for share in row["away"]), f"shares of {row}")
    area = sum(sum(row["away"]) * row["bytes"] for row in rows) * history["column_s"]
    check(abs(area - area_of(trace)) <= 0.01 * area_of(trace), f"bytes times seconds: {area}")
    last = {}
    for event in events_of(trace, "away"):
        last[event["pid"], event["args"]["start"]] = event["args"]["pages"]
    check(set(last.values()) == {0}, "at the end nothing is anywhere")


def history_can_be_looked_at(trace, folder):
    lines = uhmm_map(trace).stdout.splitlines()
    check(any("@" in line[23:] for line in lines) and all(len(line) < 80 for line in lines), f"{lines}")
    name = os.path.join(folder, "history.svg")
    check(uhmm_map("--svg", name, trace).returncode == 0, "the picture is written")
    root = xml.etree.ElementTree.parse(name).getroot()
    classes = {rect.get("class") for rect in root.iter("{http://www.w3.org/2000/svg}rect")}
    check({"away", "fault", "none"} <= classes, f"{classes}")


def files_that_are_none(trace, folder):
    name = os.path.join(folder, "other")
    check(uhmm_map(name).returncode == 1, "a file that is not there")
    for text in ("", "x", "{}", '{ "version": 1, "program": ["x"],\n  "trace": null,\n'):
        with open(name, "w", encoding="ascii") as file:
            file.write(text)
        failed = uhmm_map(name)
        check(failed.returncode == 1 and failed.stderr, f"{text!r}: {failed}")
    with open(trace, encoding="ascii") as file:
        text = file.read()
    with open(name, "w", encoding="ascii") as file:
        file.write(text[: len(text) * 2 // 3])
    cut = uhmm_map("--json", name)
    check(cut.returncode == 0 and not json.loads(cut.stdout)["complete"], "one that was cut off is said to be")
    check("no end" in uhmm_map(name).stdout, "to people, too")


def main():
    if subprocess.run([UHMM, "doctor"], capture_output=True, check=False).returncode:
        print("SKIP: uhmm doctor says why memory cannot be managed here")
        sys.exit(77)
    check(uhmm_map(str(os.getpid())).returncode == 1, "who is not managed has no map")
    check(uhmm_map().returncode == 2 and uhmm_map("1", "2").returncode == 2, "usage")
    with tempfile.TemporaryDirectory(prefix="uhmm-test-", dir="/tmp") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        trace, report = os.path.join(folder, "trace.json"), os.path.join(folder, "report \"quoted\"")
        monitor = subprocess.Popen(
            [UHMM, "run", "--dram", "12M", "--trace", trace, "--report", report, sys.executable, "-c", GUEST],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            pid = int(monitor.stdout.readline())
            every_page_is_somewhere(pid)
            pictures_can_be_looked_at(pid, folder)
            one_that_does_not_answer_is_not_waited_for(pid, folder)
            trace_tells_where_pages_are(pid, trace)
        finally:
            monitor.stdin.close()
            status = monitor.wait()
        check(status == 0, f"the run ended with {status}")
        is_over_time(trace, report)
        history_can_be_looked_at(trace, folder)
        files_that_are_none(trace, folder)


main()
