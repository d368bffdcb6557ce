"""Counts what the tests here tried and what held, by kind, for the terminal and for docs/held.md.

A test belongs to the kind in its mark, ``pytest.mark.adversary("sweeps")``, and counts as one case;
one that tries many in a go says so by ``record_property("tried", n)`` and ``("held", n)``.
"""

import json
import os
import subprocess
from collections import defaultdict

import pytest

COUNTS = defaultdict(lambda: {"tried": 0, "held": 0, "skipped": 0})
TARGET = "ADVERSARY_JSON"
"""The environment variable that names the file for the counts."""


@pytest.fixture(autouse=True)
def counted(request, record_property):
    [name] = request.node.get_closest_marker("adversary").args
    record_property("kind", name)


def pytest_runtest_logreport(report):
    properties = dict(report.user_properties)
    if "kind" not in properties:
        return
    counts = COUNTS[properties["kind"]]
    if report.skipped:
        counts["skipped"] += 1
    elif report.when == "call":
        tried = properties.get("tried", 1)
        counts["tried"] += tried
        counts["held"] += properties.get("held", tried if report.passed else 0)


def pytest_terminal_summary(terminalreporter):
    if not COUNTS:
        return
    terminalreporter.section("what the adversary tried")
    for name, counts in sorted(COUNTS.items()):
        skipped = f", {counts['skipped']} tests skipped" if counts["skipped"] else ""
        terminalreporter.line(f"{name}: {counts['held']:,} of {counts['tried']:,} held{skipped}")
    if os.environ.get(TARGET):
        with open(os.environ[TARGET], "w") as file:
            file.write(json.dumps(dict(sorted(COUNTS.items())), indent=1) + "\n")


@pytest.fixture
def disk(tmp_path):
    """Makes a disk of so many KiB, or gives it another size; by a real mount, where allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def sized(kibibytes):
        options = f"{'remount,' if mounted else ''}size={kibibytes}k"
        mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no disk can be mounted here: {error}")
        mounted.append(folder)
        return folder

    yield sized
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(disk):
    return disk(64)
