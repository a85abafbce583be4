"""What happens to files on their way: strategies for damaged bytes and for records that somebody else wrote."""

from __future__ import annotations

import copy
import json
import os
import resource
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from calotype.errors import CalotypeError

EXAMPLES = int(os.environ.get("CALOTYPE_FUZZ_EXAMPLES", "200"))
MOST_SECONDS, MOST_GIGABYTES = 20.0, 3.0
"""What reading one small file may take."""

fuzzed = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 200, database=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip
"""The settings of every test that reads damaged files."""

_NUMBERS = (0, 1, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_WORDS = (b"\xff" * 4, b"\0" * 4, struct.pack("<f", float("nan")), struct.pack("<f", float("inf")), struct.pack("<f", 1e38))
_HEAD = 400


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with 1 to 6 damages, most of them among its first bytes, where headers are."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        if not data:
            return b""
        place = draw(st.integers(0, min(len(data), _HEAD) - 1) | st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(("flip", "number", "word", "delete", "insert", "cut", "copy", "repeat")))
        if kind == "flip":
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            size = draw(st.sampled_from((1, 2, 4)))
            value = draw(st.sampled_from(_NUMBERS)) & ((1 << 8 * size) - 1)
            data[place : place + size] = value.to_bytes(size, draw(st.sampled_from(("little", "big"))))
        elif kind == "word":
            data[place : place + 4] = draw(st.sampled_from(_WORDS))
        elif kind == "delete":
            del data[place : place + draw(st.sampled_from((1, 2, 4, 16, 100)))]
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "cut":
            del data[place + 1 :]
        elif kind == "copy":
            start, size = draw(st.integers(0, len(data) - 1)), draw(st.sampled_from((4, 16, 64)))
            data[place : place + size] = data[start : start + size]
        else:
            data[place : place + 1] = data[place : place + 1] * draw(st.sampled_from((2, 10, 300)))
    return bytes(data)


HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, 10**30, -(10**20), 2**63, float("nan"), float("inf"), "", "../../x", "/etc/passwd", "a/b", "..", "\0",
    "a" * 500, "\ud800", "é/..", "word:x", "@x", "nan", "http://127.0.0.1:9/x", [], {}, [1, 2], {"a": 1}, [[]] * 3,
)  # fmt: skip
"""Values that no record of ours holds at most of its places."""


@st.composite
def tampered(draw: st.DrawFn, records: Sequence[Any]) -> Any:
    """One of the records (JSON values) with 1 to 3 of its leaves, keys or branches changed."""
    record = json.loads(json.dumps(draw(st.sampled_from(records))))
    for _ in range(draw(st.integers(1, 3))):
        nodes = list(_nodes(record))
        if not nodes:
            break
        parent, key = draw(st.sampled_from(nodes))
        kind = draw(st.sampled_from(("change", "change", "change", "delete", "rename")))
        if kind == "change":
            # A copy: the next change may be inside of it.
            parent[key] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
        elif kind == "delete":
            del parent[key]
        elif isinstance(parent, dict):
            parent[draw(st.sampled_from(("x", "", "../y", "a/b", "self", "model", "seed", "\0", "__class__")))] = parent.pop(key)
    return record


def as_bytes(record: Any) -> bytes:
    """A record as a file, whatever it holds."""
    return json.dumps(record).encode("utf-8", "surrogatepass")


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, child in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
        yield value, key
        if isinstance(child, dict | list):
            yield from _nodes(child)


def reads_or_refuses(read: Callable[[], object]) -> object | None:
    """Call a reader: its value, or None if it refused in one line. Any other exception, a long wait or much memory fails the test."""
    with bounded():
        try:
            return read()
        except CalotypeError as error:
            message = str(error)
            assert message.strip(), "an empty message"
            assert "\n" not in message, f"a message of several lines: {message!r}"
            assert not message.startswith("unexpected"), message
            assert len(message) <= 1500, f"a message of {len(message)} characters"
            return None


@contextmanager
def bounded() -> Iterator[None]:
    """Fails if the block takes longer than `MOST_SECONDS`, or lifts the process's peak memory by more than `MOST_GIGABYTES`."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    took, grown = time.monotonic() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    assert took <= MOST_SECONDS, f"took {took:.0f} s"
    assert grown <= MOST_GIGABYTES, f"took {grown:.1f} GB"
