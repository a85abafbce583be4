"""Fail if anything that calotype needs, directly or through another package, requires torchvision."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution


def requirements(name: str) -> set[str]:
    """The names that an installed distribution requires without any extra; empty if it isn't installed."""
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        return set()
    return {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in lines if "extra ==" not in line}


def closure(root: str) -> set[str]:
    """All distributions that `root` needs, its own extras included, theirs not."""
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in distribution(root).requires or []}
    waiting, seen = set(names), set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= requirements(name) - seen
    return seen


if __name__ == "__main__":
    needed = closure("calotype")
    if "torchvision" in needed:
        sys.exit("a dependency of calotype requires torchvision; its wheel breaks transformers beside the CPU build of torch")
    sys.stdout.write(f"{len(needed)} distributions are needed, none of them requires torchvision\n")
