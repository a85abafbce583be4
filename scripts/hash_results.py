"""Hash what the methods make of the example files, in this tree and in another one: a change of structure must not change a bit.

    python scripts/hash_results.py                      # prints one hash for each run
    python scripts/hash_results.py --against ../before  # the same runs in a second checkout too; status 1 if a hash differs
    python scripts/hash_results.py --only ovam qsmdiff

Every run has one thread; hashes are comparable on one machine only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
EXAMPLES = TREE / "examples"
RUNS: dict[str, str] = {
    "time-reversal-fusion": "--model toy-i2v --start {x}/start.png --end {x}/end.png --seed 1",
    "time-reversal-fusion/loop": "--model toy-i2v --start {x}/start.png --drop-last-frame --clamp-end --max-guidance-scale 2",
    "time-reversal-fusion/sequential": "--model toy-i2v --start {x}/start.png --end {x}/end.png --fusion sequential",
    "anyv2v": "--model toy-i2v --video {x}/clip.mp4 --edited-first-frame {x}/start.png --cache-megabytes 0",
    "anyv2v/guided": "--model toy-i2v --video {x}/clip.mp4 --edited-first-frame {x}/end.png --guidance-scale 2 --cache-megabytes 0",
    "ovam": "--model toy-t2i --image {x}/start.png --words tree,snow",
    "ovam/prompt": "--model toy-t2i --prompt {red} --words house,tree,sand --seed 4",
    "design-edit": "--image {x}/two.png --remove {x}/two-upper.png --refine {x}/two-lower.png",
    "design-edit/move": "--image {x}/two.png --move {x}/two-lower.png --dx 0.4 --scale 0.8 --flip h --refine {x}/two-upper.png",
    "design-edit/swap": "--image {x}/two.png --swap {x}/two-upper.png {x}/two-lower.png",
    "harmonized-customization": "--subject {x}/creature.png --prompt {lying} --seed 3",
    "harmonized-customization/projection": "--subject {x}/creature.png --prompt {jumping} --swap off",
    "qsmdiff": "--model toy-qsm --field {x}/local-field.nii.gz --mask {x}/brain-mask.nii.gz --noise 0.002",
}
TEXTS = {"red": "a red house left of a green tree on sand", "lying": "lying on sand", "jumping": "jumping at night"}


def result_hash(tree: Path, name: str) -> str:
    """One hash over the names and values of all results of a run in a source tree (the files beside them hold paths and times too)."""
    arguments = [part.format(x=EXAMPLES, **TEXTS) for part in RUNS[name].split()]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        command = [sys.executable, "-m", "calotype", "run", name.partition("/")[0], *arguments, "--out", str(out), "--quiet"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=scratch, check=False)
        if done.returncode:
            raise SystemExit(f"{name} ended with status {done.returncode}:\n{done.stderr or done.stdout}")
        outputs = json.loads((out / "run.json").read_text())["outputs"]
    if not outputs:
        raise SystemExit(f"{name} made no result")
    made = sorted((key, entry["pixels_sha256"]) for key, entry in outputs.items())
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()


def say(line: str) -> None:
    """Write a line at once: a run takes a while."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Print the hashes; with --against both, side by side."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--against", type=Path, help="a second checkout")
    parser.add_argument("--only", nargs="*", default=[], help="names, or methods, of the runs; default: all")
    options = parser.parse_args()
    differ = 0
    for name in RUNS:
        if options.only and not {name, name.partition("/")[0]} & set(options.only):
            continue
        ours = result_hash(TREE, name)
        if options.against is None:
            say(f"{ours}  {name}")
            continue
        theirs = result_hash(options.against.resolve(), name)
        differ += ours != theirs
        say(f"{ours[:32]}  {theirs[:32]}  {'same' if ours == theirs else 'DIFFERENT'}  {name}")
    return 1 if differ else 0


if __name__ == "__main__":
    raise SystemExit(main())
