"""Help, lists and mistakes are quick and import nothing heavy."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from calotype.cli.app import VERBS

HEAVY = ("torch", "diffusers", "transformers", "numpy", "av", "PIL", "tyro")
PROGRAM = """
import json, sys
from calotype.cli.app import run
status = run(json.loads(sys.argv[1]))
sys.stderr.write("\\n" + json.dumps({"status": status, "heavy": [name for name in json.loads(sys.argv[2]) if name in sys.modules]}))
"""


def isolated(*arguments: str) -> tuple[str, dict]:
    """stdout, and {status, heavy modules that were imported} of a process of its own."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(arguments), json.dumps(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "COLUMNS": "100"})
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


def test_the_overview_names_every_verb_and_imports_nothing_heavy() -> None:
    text, told = isolated("--help")
    assert told == {"status": 0, "heavy": []}
    for name, verb in VERBS.items():
        assert f"  {name} " in text
        assert verb.summary in text


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["list", "--json"], ["models"], ["run", "--help"], ["train", "--help"], ["doctor"], ["run", "tme-reversal-fusion"], ["lst"]],
)
def test_looking_around_imports_no_torch(arguments: list[str], tmp_path: Path) -> None:
    _, told = isolated(*arguments)
    assert not {"torch", "diffusers", "transformers", "av"} & set(told["heavy"])
    assert told["status"] == (2 if arguments[-1] in ("tme-reversal-fusion", "lst") else 0)


@pytest.mark.parametrize("argument", ["--help", "list"])
def test_help_and_list_take_less_than_half_a_second_of_cpu(argument: str) -> None:
    def cost() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "calotype", argument], capture_output=True, check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Other work on the machine only adds to it: the first start that is quick enough proves it.
    assert any(cost() < 0.5 for _ in range(4))
