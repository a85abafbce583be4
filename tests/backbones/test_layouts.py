"""Layouts: each names classes that there are and an adapter of its own role; the room's other files know no pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import calotype.backbones
from calotype.backbones.layouts import LAYOUTS, Layout, known_roles, pipeline_layout, resolve, single_layout
from calotype.index import MODELS

GENERIC = ("backbones/folder.py", "backbones/loading.py", "backbones/headers.py", "backbones/hub.py", "cli/doctor.py", "cli/models.py")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.class_name)
def test_a_layout_names_what_there_is(layout: Layout) -> None:
    adapter = resolve(layout.adapter)
    assert adapter.role == layout.role
    assert callable(adapter.from_components)
    assert set(layout.optional) <= set(layout.parts)
    for networks in layout.parts.values():
        for network in networks:
            assert isinstance(resolve(network.target), type)
            assert not network.loader or callable(resolve(network.loader))


def test_every_class_has_one_layout_and_every_role_of_the_index_one_at_least() -> None:
    names = [name for layout in LAYOUTS for name in (layout.class_name, *layout.also)]
    assert len(names) == len(set(names))
    for layout in LAYOUTS:
        assert (single_layout if layout.single else pipeline_layout)(layout.class_name) is layout
        assert (pipeline_layout if layout.single else single_layout)(layout.class_name) is None
        assert all(pipeline_layout(name) is layout for name in layout.also)
    assert {row.role for row in MODELS.values()} <= known_roles()


@pytest.mark.parametrize("file", GENERIC)
def test_what_looks_and_loads_names_no_pipeline_and_no_role(file: str) -> None:
    content = (Path(calotype.backbones.__file__).parents[1] / file).read_text(encoding="utf-8")
    code = "\n".join(line for line in content.splitlines() if ">>>" not in line)
    names = {name for layout in LAYOUTS for name in (layout.class_name, *layout.also, layout.role)}
    assert [name for name in names if f'"{name}"' in code] == []


def test_layouts_and_doctor_import_no_torch() -> None:
    code = (
        "import sys; import calotype.backbones.layouts, calotype.cli.doctor, calotype.cli.models; "
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
