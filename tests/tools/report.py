#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The report is JSON whatever bytes a name has; those that are no UTF-8 are \\u0080 to \\u00ff.

usage: report.py UHMM
"""
import json
import os
import subprocess
import sys
import tempfile

UHMM = sys.argv[1]

# What is UTF-8 stays as it is; of what is not each byte is a character.
AS_THEY_ARE = [
    "",
    'plain "quoted" \\',
    "\t\n\x01\x7f",
    "\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff",
]
BYTE_BY_BYTE = [
    b"\xff",
    b"\x80 alone",
    b"\xc3",
    b"\xc3(",
    b"\xe2\x82",
    b"\xf0\x9f\x98",
    b"\xc0\xaf overlong",
    b"\xe0\x9f\xbf overlong",
    b"\xf0\x8f\xbf\xbf overlong",
    b"\xed\xa0\x80 half a pair",
    b"\xf4\x90\x80\x80 beyond the last",
    b"\xf5\x80\x80\x80",
]


def check(claim, what):
    if not claim:
        sys.exit(f"FAIL: {what}")


def report_of(report, *words):
    with open(os.devnull, "wb") as nowhere:
        subprocess.run([UHMM, "run", "--report", report, *words], stdout=nowhere, timeout=60, check=True)
    with open(report, "rb") as file:
        text = file.read()
    try:
        return json.loads(text.decode("utf-8"))
    except ValueError as error:
        sys.exit(f"FAIL: {error} in {text!r}")


def words_are_strings(folder):
    words = [word.encode() for word in AS_THEY_ARE] + BYTE_BY_BYTE
    said = report_of(os.path.join(folder, "words"), "echo", *words)["program"][1:]
    check(said == AS_THEY_ARE + [word.decode("latin-1") for word in BYTE_BY_BYTE], f"{said}")
    mixed = b"\xc3\xa9\xe9"
    said = report_of(os.path.join(folder, "words"), "echo", mixed)["program"][1]
    check(said == "\u00e9\u00e9", f"one that is UTF-8 and one that is not: {said!r}")


def trace_is_found_again(folder):
    """uhmm map reads such a name as it was: both ways to write this character are other files."""
    for name in (b"trace \xc3\xa9.json", b"trace \xe9.json", b"trace \xff\xc3\\\"\n"):
        trace, report = os.path.join(os.fsencode(folder), name), os.path.join(folder, "report")
        report_of(report, "--trace", trace, "true")
        found = subprocess.run([UHMM, "map", "--json", report], capture_output=True, timeout=60, check=False)
        wanted = subprocess.run([UHMM, "map", "--json", trace], capture_output=True, timeout=60, check=False)
        check(wanted.returncode == 0 and found.stdout == wanted.stdout, f"{name}: {found}")


def main():
    with tempfile.TemporaryDirectory(prefix="uhmm-test-", dir="/tmp") as folder:
        words_are_strings(folder)
        trace_is_found_again(folder)


main()
