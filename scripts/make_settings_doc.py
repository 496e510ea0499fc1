#!/usr/bin/env python3
"""Writes docs/settings.md from the table that `lane env --json` prints; with --check, fails if the file differs.

scripts/make_settings_doc.py build/release/cli/lane [--check]
"""
import json
import os
import pathlib
import subprocess
import sys

lane, check = sys.argv[1], "--check" in sys.argv
clean = {name: value for name, value in os.environ.items() if not name.startswith("LANE_")}
table = json.loads(subprocess.run([lane, "env", "--json"], check=True, capture_output=True, text=True, env=clean).stdout)
lines = ["# Settings", "", "Environment variables, read once at start; `lane env` prints the values in force. This page is made by",
         "`scripts/make_settings_doc.py`.", "", "| variable | default | meaning |", "| --- | --- | --- |"]
lines += [f"| `{name}` | {entry['default'] or '(empty)'} | {entry['help']} |" for name, entry in sorted(table.items())]
path = pathlib.Path(__file__).parent.parent / "docs/settings.md"
text = "\n".join(lines) + "\n"
if check:
    if path.read_text() != text:
        sys.exit(f"{path} is out of date; run {sys.argv[0]} {lane}")
    print("settings: ok")
else:
    path.write_text(text)
