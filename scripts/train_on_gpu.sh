#!/bin/bash
# Train the queue on a machine that has a GPU and PyTorch, but neither diffusers nor a network. Run it from the repository's root.
#
#   scripts/train_on_gpu.sh wheels                 with a network: put the wheels (about 40 MB) into .gpu/wheels; carry that folder along
#   scripts/train_on_gpu.sh run [BUDGET] [OUT]     on the GPU machine: install them into .gpu/site, train for BUDGET (20m), pack into OUT (.gpu/out)
#   scripts/train_on_gpu.sh take OUT               back home: unpack the models that got better into src/calotype/checkpoints
#
# PYTHON_VERSION (3.12) is that of the GPU machine. PyTorch and what comes with it are taken from there.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(
  diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 safetensors==0.8.0 tokenizers==0.23.3 huggingface_hub jaxtyping wadler-lindig
  httpx httpcore h11 anyio idna certifi sniffio hf-xet regex pyyaml requests urllib3 charset-normalizer importlib_metadata zipp tqdm packaging
  filelock typing_extensions pillow psutil rich tyro typeguard docstring_parser pygments markdown-it-py mdurl shellingham typer click
)
case "${1:-}" in
  wheels)
    mkdir -p .gpu/wheels
    python=.venv/bin/python
    [ -x "$python" ] || python=python3
    "$python" -m pip download --quiet --dest .gpu/wheels --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
      --constraint constraints.txt --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 "${packages[@]}"
    du -sh .gpu/wheels
    ;;
  run)
    budget=${2:-20m} out=${3:-.gpu/out}
    mkdir -p "$out"
    python3 -m pip install --quiet --no-index --find-links .gpu/wheels --no-deps --upgrade --target .gpu/site .gpu/wheels/*.whl
    export PYTHONPATH="$PWD/src:$PWD/.gpu/site" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
    python3 - "$budget" > "$out/queue.txt" <<'PYTHON'
import sys
from calotype.embedded import train_pending
# The gates need scipy, which isn't carried: measure them back home (`take` says how).
for result in train_pending(budget=sys.argv[1], device="cuda", validate=False):
    print(result)
PYTHON
    cat "$out/queue.txt"
    tar -cf "$out/checkpoints.tar" -C src/calotype checkpoints
    tar -czf "$out/logs.tar.gz" --exclude='state-*' --exclude='data*' --exclude=start training
    ;;
  take)
    tar -xf "${2:?give the folder that run wrote}/checkpoints.tar" -C src/calotype
    cat "$2/queue.txt"
    echo "now measure the gates: .venv/bin/python -c \"from calotype.embedded import measure_gates; measure_gates('toy-t2i', seed=1)\" and so on"
    ;;
  *)
    sed -n '2,8p' "$0"
    exit 2
    ;;
esac
