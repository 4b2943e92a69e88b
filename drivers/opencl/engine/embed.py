#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write files as C strings: embed.py OUT FILE...; device.clh becomes source_device_clh."""
import pathlib
import sys

out, *files = sys.argv[1:]
lines = []
for name in files:
    path = pathlib.Path(name)
    symbol = "source_" + path.name.replace(".", "_")
    lines.append(f"extern const char {symbol}[];\nconst char {symbol}[] =")
    for line in path.read_text().splitlines():
        lines.append('\t"' + line.replace("\\", "\\\\").replace('"', '\\"') + '\\n"')
    lines[-1] += ";"
pathlib.Path(out).write_text("\n".join(lines) + "\n")
