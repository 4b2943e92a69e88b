#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""uhmm top, as scripts and as people see it.

The live view runs on a terminal of its own, which here is a pseudo-terminal and a
little that understands what ncurses sends to a vt100. Others may run programs under
uhmm run meanwhile.

usage: top.py UHMM [--live]     --live: this build has the live view
"""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

UHMM = sys.argv[1]
PATIENCE_S = 30

# Has more memory than it may have in RAM, and uses all of it until its input ends.
GUEST = """
import select, sys
held = bytearray(48 << 20)
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for i in range(0, len(held), 4096):
        held[i] ^= 1
"""


def check(claim, what):
    if not claim:
        sys.exit(f"FAIL: {what}")


class Screen:
    """What a vt100 of that size shows."""

    CONTROL = re.compile(rb"\x1b\[\??([0-9;]*)([A-Za-z])|\x1b[()].|\x1b[78=>MDEHc]|[\r\n\b]")

    def __init__(self, rows, columns):
        self.rows, self.columns = rows, columns
        self.row = self.column = 0
        self.top, self.bottom = 0, rows - 1     # what scrolls
        self.cells = [[" "] * columns for _ in range(rows)]

    def text(self):
        return "\n".join("".join(line).rstrip() for line in self.cells)

    def erase(self, first, last):
        for at in range(first, last):
            self.cells[at // self.columns][at % self.columns] = " "

    def down(self):
        if self.row != self.bottom:
            self.row = min(self.row + 1, self.rows - 1)
            return
        del self.cells[self.top]
        self.cells.insert(self.bottom, [" "] * self.columns)

    def up(self):
        if self.row != self.top:
            self.row = max(self.row - 1, 0)
            return
        del self.cells[self.bottom]
        self.cells.insert(self.top, [" "] * self.columns)

    def put(self, data):
        for byte in data:
            if 0x20 <= byte < 0x7F and self.row < self.rows and self.column < self.columns:
                self.cells[self.row][self.column] = chr(byte)
                self.column += 1

    def control(self, match):
        here = self.row * self.columns + min(self.column, self.columns - 1)
        numbers = [int(n) if n else 0 for n in (match[1] or b"").split(b";")]
        if match[0] == b"\r":
            self.column = 0
        elif match[0] in (b"\n", b"\x1bD"):
            self.down()
        elif match[0] == b"\x1bM":
            self.up()
        elif match[2] == b"r":
            self.top = max(numbers[0], 1) - 1
            self.bottom = (numbers[1] if len(numbers) > 1 else self.rows) - 1
            self.row = self.column = 0
        elif match[0] == b"\b":
            self.column = max(self.column - 1, 0)
        elif match[2] == b"H":
            self.row = min(max(numbers[0], 1), self.rows) - 1
            self.column = min(max(numbers[1] if len(numbers) > 1 else 1, 1), self.columns) - 1
        elif match[2] == b"J":
            self.erase(0 if numbers[0] == 2 else here, self.rows * self.columns)
        elif match[2] == b"K" and numbers[0] == 0:
            self.erase(here, (self.row + 1) * self.columns)
        elif match[2] == b"K" and numbers[0] == 1:
            self.erase(self.row * self.columns, here + 1)
        elif match[2] == b"A":
            self.row = max(self.row - max(numbers[0], 1), 0)
        elif match[2] == b"B":
            self.row = min(self.row + max(numbers[0], 1), self.rows - 1)
        elif match[2] == b"C":
            self.column = min(self.column + max(numbers[0], 1), self.columns - 1)
        elif match[2] == b"D":
            self.column = max(self.column - max(numbers[0], 1), 0)

    def feed(self, data):
        at = 0
        for match in self.CONTROL.finditer(data):
            self.put(data[at : match.start()])
            self.control(match)
            at = match.end()
        self.put(data[at:])


class Terminal:
    """A program on a terminal, which is looked at until it shows what it should."""

    def __init__(self, *argv, rows=24, columns=80):
        self.data = b""
        self.pid, self.fd = pty.fork()
        if not self.pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execvpe(argv[0], argv, {**os.environ, "TERM": "vt100", "LC_ALL": "C"})
        self.size = rows, columns

    def read(self):
        if not select.select([self.fd], [], [], 0.1)[0]:
            return True
        try:
            more = os.read(self.fd, 65536)
        except OSError:
            more = b""
        self.data += more
        return bool(more)

    def screen(self):
        screen = Screen(*self.size)
        # Half a sequence at the end belongs to the next look.
        screen.feed(re.sub(rb"\x1b[^A-Za-z]*$", b"", self.data))
        return screen.text()

    def shows(self, pattern, absent=None):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            text = self.screen()
            if re.search(pattern, text) and not (absent and re.search(absent, text)):
                return text
            if not self.read():
                break
        sys.exit(f"FAIL: no {pattern!r} on the screen:\n{self.screen()}")

    def key(self, keys):
        os.write(self.fd, keys)

    def resize(self, rows, columns):
        self.size = rows, columns
        self.data = b""     # all is drawn anew
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def status(self):
        while self.read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def top(*args):
    return subprocess.run([UHMM, "top", *args], capture_output=True, text=True, timeout=60)


def seen(monitor):
    """The one monitor, once its guest has memory away and got some of it back between two looks."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = json.loads(top("--once", "--json", "--interval", "0.2", str(monitor.pid)).stdout)
        check(len(found) <= 1, f"{len(found)} times")
        # On a busy machine it may be late with an answer.
        if (found and found[0]["devices"] and found[0]["devices"][0]["used_bytes"] > 16 << 20
                and found[0]["fault_us"] and found[0]["pages_home_per_s"] > 0
                and any(process["faults_per_s"] > 0 for process in found[0]["running"])):
            return found[0]
    sys.exit(f"FAIL: nothing goes away: {found}")


def scripts_see_each_process(monitor):
    view = seen(monitor)
    check(view["policy"] == "tier" and view["dram_bytes"] == 24 << 20, "policy and limit")
    check(view["lost_pages"] == 0, "no page is lost")
    check(view["faults_per_s"] > 0 and view["pages_home_per_s"] > 0, "rates of the tree")
    check(view["fault_us"]["p99"] >= view["fault_us"]["p50"] > 0, "fault times")
    device = view["devices"][0]
    check(device["name"] == "soft" and device["bytes"] == 64 << 20, "the device")
    check(0 < device["used_bytes"] <= device["peak_bytes"] <= device["bytes"], "its use")
    guest = max(view["running"], key=lambda process: process["device_bytes"])
    check(guest["name"].startswith("python") and guest["managed"], "the guest by its name")
    check(guest["resident_bytes"] > 1 << 20 and guest["device_bytes"] > 8 << 20, "its memory")
    check(guest["faults_per_s"] > 0, "its rates")
    by_pid = json.loads(top("--once", "--json", "--interval", "0.1", str(guest["pid"])).stdout)
    check(by_pid[0]["pid"] == monitor.pid, "found by a process of it")
    check(top("--once", "--interval", "0.1", str(os.getpid())).returncode == 1, "not by another")


def people_see_a_table(monitor):
    lines = top("--once", "--interval", "0.1", str(monitor.pid)).stdout.splitlines()
    check(any(re.match(r" *\d+ python3? ", line) for line in lines), f"a row in {lines}")
    check(all(len(line) < 80 for line in lines), "within 80 columns")


def a_busy_monitor_is_waited_for(monitor):
    """It does not answer for longer than the live view would wait."""
    monitor.send_signal(signal.SIGSTOP)
    with subprocess.Popen([UHMM, "top", "--once", "--interval", "0.1", str(monitor.pid)], text=True,
                          stdout=subprocess.PIPE) as looks:
        time.sleep(0.8)     # wrong code gives up meanwhile
        monitor.send_signal(signal.SIGCONT)
        lines = looks.stdout.read().splitlines()
    check(any(re.match(r" *\d+ python3? ", line) for line in lines), f"a row in {lines}")


def live_view_follows_keys_and_size(monitor):
    check(top().returncode == 1, "without a terminal it ends")
    terminal = Terminal(UHMM, "top", "--interval", "0.2", str(monitor.pid))
    text = terminal.shows(r"(?m)^ *\d+ python3? +\S+ +\S+ +\d")
    check(text.startswith("uhmm top") and "device soft" in text, f"title and device in\n{text}")
    terminal.key(b"h")
    terminal.shows(r"order by faults", absent="PROCESS")
    terminal.key(b"hf")
    terminal.shows(r"by faults(?s:.*)PROCESS")
    terminal.resize(6, 40)
    terminal.shows(r"(?m)^ *PID PROCESS", absent=r"(?m)^ *\d+ python")
    terminal.key(b"\x1bOB" * 2)
    terminal.shows(r"(?m)^ *\d+ python")
    terminal.resize(40, 132)
    terminal.key(b"\x1bOA" * 2)
    terminal.shows(r"(?ms)policy.*^processes.*^faults.*^device.*^ *PID.*^ *\d+ python")
    terminal.key(b"q")
    check(terminal.status() == 0, "q ends it with 0")


def hostile_viewers_are_sent_away(monitor, folder):
    """Who says nothing, too much, or another version keeps nobody from looking."""
    import socket

    path = next(os.path.join(folder, d, "top") for d in os.listdir(folder))
    idle = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    idle.connect(path)
    for message in (b"x", b"x" * 4096):
        loud = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        loud.connect(path)
        loud.send(message)
        check(loud.recv(65536) == b"", "sent away")
    other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.connect(path)
    other.send(struct.pack("II", 77, 0))
    version, pid = struct.unpack("Ii", other.recv(65536)[:8])
    check(version != 77 and pid == monitor.pid, "told which version this is")
    greedy = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    greedy.connect(path)
    try:    # asks and never reads
        for _ in range(1000):
            greedy.send(struct.pack("II", 2, 0))
    except OSError:
        pass
    check(seen(monitor)["pid"] == monitor.pid, "others are served")


def main():
    with tempfile.TemporaryDirectory(prefix="uhmm-test-", dir="/tmp") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        os.environ.pop("TMPDIR", None)
        if subprocess.run([UHMM, "doctor"], capture_output=True, check=False).returncode:
            print("SKIP: uhmm doctor says why memory cannot be managed here")
            sys.exit(77)
        monitor = subprocess.Popen(
            [UHMM, "run", "--dram", "24M", "--device", "soft:mem=64M", sys.executable, "-c", GUEST],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            check(monitor.stdout.readline() == b"ready\n", "the guest runs")
            scripts_see_each_process(monitor)
            people_see_a_table(monitor)
            a_busy_monitor_is_waited_for(monitor)
            hostile_viewers_are_sent_away(monitor, folder)
            if "--live" in sys.argv:
                live_view_follows_keys_and_size(monitor)
        finally:
            monitor.stdin.close()
            status = monitor.wait()
        check(status == 0, f"the run ended with {status}")
        gone = top("--once", "--json", str(monitor.pid))
        check(gone.stdout == "[]\n" and gone.returncode == 1, "it is seen no more")
        check(os.listdir(folder) == [], "nothing is left behind")


main()
