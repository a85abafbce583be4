"""The core stands on torch alone, and is light."""

from __future__ import annotations

import subprocess
import sys


def test_core_imports_neither_models_nor_codecs() -> None:
    code = (
        "import sys, pkgutil, importlib, calotype.core as core\n"
        "for m in pkgutil.iter_modules(core.__path__): importlib.import_module('calotype.core.' + m.name)\n"
        "heavy = {'diffusers', 'transformers', 'accelerate', 'av', 'PIL', 'scipy', 'matplotlib', 'tyro', 'rich'}\n"
        "heavy |= {'nibabel', 'pydicom', 'monai', 'nilearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"
