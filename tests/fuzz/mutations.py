"""Mutations of files as hypothesis strategies: bytes, numbers, paths, structure, containers.

A mutation is a small frozen value with `apply(content) -> content`, so that a failing example
prints as what it does, and hypothesis can shrink a list of them.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from hypothesis import strategies as st

NUMBERS = (
    b"0 -1 1 2 255 256 65535 65536 2147483647 -2147483648 4294967295 18446744073709551616"
    b" 1e400 -1e400 1e308 1e38 1e-320 nan NaN inf -inf Infinity 0.5 1e9 007 0x10 1_000"
).split()
WORDS = (
    *NUMBERS,
    *b'null true false "" [] {} "x" [[[[]]]] {"a":1} -0 "'.split(),
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\t"),
    b" " * 1000,
    b"9" * 400,
    b"[" * 2000,
)
PATHS = (
    b"../secret.png",
    b"..%2Fsecret.png",
    b"%2e%2e/secret.bin",
    b"..\\secret.png",
    b"link/secret.png",
    b"/etc/passwd",
    b"file:///etc/passwd",
    b"C:\\secret.png",
    b"\\\\host\\share\\a.png",
    b"a\x00b.png",
    b"x" * 5000,
    b".",
    b"",
)
_INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_QUOTED = re.compile(
    rb'"[^"\n]{0,200}"|[\w./\\-]+\.(?:png|jpg|jpeg|mtl|bin|webp|tif)', re.IGNORECASE
)
_TOKEN = re.compile(rb"[^\s,:\[\]{}]+")


def _at(content: bytes, fraction: float) -> int:
    """A position in 0..len from a fraction in 0..1."""
    return min(int(fraction * len(content)), len(content))


@dataclass(frozen=True)
class Flip:
    """One byte, exclusive-or."""

    fraction: float
    bits: int

    def apply(self, content: bytes) -> bytes:
        if not content:
            return content
        position = min(_at(content, self.fraction), len(content) - 1)
        return content[:position] + bytes([content[position] ^ self.bits]) + content[position + 1 :]


@dataclass(frozen=True)
class Integer:
    """Four bytes are replaced by a boundary value, in either byte order."""

    fraction: float
    value: int
    order: str

    def apply(self, content: bytes) -> bytes:
        position = _at(content, self.fraction) & ~3
        return (
            content[:position] + struct.pack(f"{self.order}I", self.value) + content[position + 4 :]
        )


@dataclass(frozen=True)
class Cut:
    """The end is truncated."""

    fraction: float

    def apply(self, content: bytes) -> bytes:
        return content[: _at(content, self.fraction)]


@dataclass(frozen=True)
class Delete:
    """Some bytes are missing."""

    fraction: float
    length: int

    def apply(self, content: bytes) -> bytes:
        position = _at(content, self.fraction)
        return content[:position] + content[position + self.length :]


@dataclass(frozen=True)
class Repeat:
    """Some bytes are repeated."""

    fraction: float
    length: int
    times: int

    def apply(self, content: bytes) -> bytes:
        position = _at(content, self.fraction)
        part = content[position : position + self.length]
        return content[:position] + part * self.times + content[position:]


@dataclass(frozen=True)
class Insert:
    """Foreign bytes are inserted."""

    fraction: float
    inserted: bytes

    def apply(self, content: bytes) -> bytes:
        position = _at(content, self.fraction)
        return content[:position] + self.inserted + content[position:]


@dataclass(frozen=True)
class Substitute:
    """One match of a pattern is substituted: a number, a quoted path, a token."""

    pattern: str
    fraction: float
    new: bytes

    def apply(self, content: bytes) -> bytes:
        pattern = {"number": _NUMBER, "path": _QUOTED, "token": _TOKEN}[self.pattern]
        found = [match.span() for match in pattern.finditer(content[:200_000])]
        if not found:
            return content
        start, end = found[min(int(self.fraction * len(found)), len(found) - 1)]
        new = self.new
        if content[start : start + 1] == b'"' and self.pattern == "path":
            new = b'"' + new.replace(b"\\", b"\\\\") + b'"'
        return content[:start] + new + content[end:]


@dataclass(frozen=True)
class Swap:
    """Two tokens are swapped."""

    first: float
    second: float

    def apply(self, content: bytes) -> bytes:
        found = [match.span() for match in _TOKEN.finditer(content[:200_000])]
        if len(found) < 2:
            return content
        a, b = sorted(min(int(s * len(found)), len(found) - 1) for s in (self.first, self.second))
        (a0, a1), (b0, b1) = found[a], found[b]
        if a == b:
            return content
        return content[:a0] + content[b0:b1] + content[a1:b0] + content[a0:a1] + content[b1:]


Mutation = Flip | Integer | Cut | Delete | Repeat | Insert | Substitute | Swap

_fraction = st.floats(0.0, 1.0, exclude_max=True)
MUTATIONS: st.SearchStrategy[Mutation] = st.one_of(
    st.builds(Flip, _fraction, st.integers(1, 255)),
    st.builds(Integer, _fraction, st.sampled_from(_INTEGERS), st.sampled_from("<>")),
    st.builds(Cut, _fraction),
    st.builds(Delete, _fraction, st.integers(1, 64)),
    st.builds(Repeat, _fraction, st.integers(1, 64), st.integers(1, 50)),
    st.builds(Insert, _fraction, st.one_of(st.sampled_from(WORDS), st.binary(max_size=16))),
    st.builds(Substitute, st.just("number"), _fraction, st.sampled_from(NUMBERS)),
    st.builds(Substitute, st.just("token"), _fraction, st.sampled_from(WORDS)),
    st.builds(Substitute, st.just("path"), _fraction, st.sampled_from(PATHS)),
    st.builds(Swap, _fraction, _fraction),
)
"""One change of a file's bytes."""
