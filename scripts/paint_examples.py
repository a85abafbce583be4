"""Paints examples/start.png and examples/end.png: the first and the last picture of the demo's scene, at 256 px.

python scripts/paint_examples.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from calotype.cli.demo import example_pair, write_examples

if __name__ == "__main__":
    write_examples(dataclasses.replace(example_pair(), size=256), Path(__file__).parent.parent / "examples")
