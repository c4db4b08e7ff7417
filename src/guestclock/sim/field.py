"""Fields of state objects: width, sign, one line of meaning."""

from __future__ import annotations

from typing import Any, cast


class Field:
    """One declared field of a `State`: its meaning, its default, and the integers it may hold (None: anything)."""

    __slots__ = ("default", "doc", "hi", "kind", "lo")

    def __init__(self, kind: str, doc: str, default: Any, lo: int | None = None, hi: int | None = None) -> None:
        self.kind, self.doc, self.default, self.lo, self.hi = kind, doc, default, lo, hi

    def holds(self, value: Any) -> bool:
        """Whether an integer lies in the field's range; values that are not integers are the explorer's business."""
        if self.lo is None or self.hi is None or type(value) is not int:
            return True
        return self.lo <= value <= self.hi


def u64(doc: str, default: int = 0) -> int:
    return cast(int, Field("u64", doc, default, 0, 2**64 - 1))


def s64(doc: str, default: int = 0) -> int:
    return cast(int, Field("s64", doc, default, -(2**63), 2**63 - 1))


def u32(doc: str, default: int = 0) -> int:
    return cast(int, Field("u32", doc, default, 0, 2**32 - 1))


def s8(doc: str, default: int = 0) -> int:
    return cast(int, Field("s8", doc, default, -128, 127))


def u8(doc: str, default: int = 0) -> int:
    return cast(int, Field("u8", doc, default, 0, 255))


def integer(doc: str, default: int = 0) -> int:
    """A C int that the kernel never lets overflow (counts, CPU numbers), or a mathematical integer."""
    return cast(int, Field("int", doc, default))


def flag(doc: str, default: bool = False) -> bool:
    return cast(bool, Field("flag", doc, default))


def text(doc: str, default: str = "") -> str:
    return cast(str, Field("text", doc, default))


def ref(doc: str, default: Any = None) -> Any:
    """A reference to another state object or to a concrete list; what is behind it has footprints of its own."""
    return Field("ref", doc, default)
