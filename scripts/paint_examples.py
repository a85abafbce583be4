"""Paints the examples: start.png and end.png, the ends of the demo's scene at 256 px, and clip.mp4, which the chain starts from.

python scripts/paint_examples.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from calotype.cli.demo import example_pair, write_examples
from calotype.imaging.types import Video
from calotype.world import paint, sample_scene

EXAMPLES = Path(__file__).parent.parent / "examples"

if __name__ == "__main__":
    write_examples(dataclasses.replace(example_pair(), size=256), EXAMPLES)
    scene = sample_scene("small", split="tune", seed=77, index=2, num_frames=8, objects=2)
    Video(paint([scene], size=64, num_frames=8)[0], float(scene.fps)).save(EXAMPLES / "clip.mp4", overwrite=True)
