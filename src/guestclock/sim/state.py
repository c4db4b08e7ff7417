"""State objects: declared fields, and a way to watch every read and write of them without a price when nobody does.

A concrete run works on plain slots. Whoever wants footprints (the explorer) or width checks (the tests) installs an
observer *before* the model is built; objects made while it is installed get a twin class whose fields report to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from guestclock.sim.field import Field


class Observer(Protocol):
    """Sees each access to a field of a watched object."""

    def name(self, state: State) -> str:
        """What a new object is called, for as long as it lives: the same in every run that makes it in that step."""
        ...

    def read(self, state: State, name: str) -> None: ...
    def write(self, state: State, name: str, value: Any) -> None: ...


_observer: Observer | None = None
_twins: dict[type, type] = {}


class _Slots(type):
    """Turns declared fields into slots, so that a misspelt field is an AttributeError and access costs nothing."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kw: Any) -> _Slots:
        own = {k: v for k, v in namespace.items() if isinstance(v, Field)}
        for k in own:
            del namespace[k]
        namespace.setdefault("__slots__", tuple(own))
        cls = super().__new__(mcs, name, bases, namespace, **kw)
        inherited: dict[str, Field] = {}
        for base in reversed(bases):
            inherited |= getattr(base, "fields", {})
        cls.fields = {**inherited, **own}  # type: ignore[attr-defined]
        return cls


class State(metaclass=_Slots):
    """What one part of a model remembers: fields declared with `guestclock.sim.field`, given by keyword or default."""

    fields: dict[str, Field]

    def __new__(cls, **values: Any) -> State:
        if _observer is None:
            return super().__new__(cls)
        made: Any = super().__new__(_twin(cls))
        made.watched_as = _observer.name(made)
        return cast(State, made)

    def __init__(self, **values: Any) -> None:
        for name, field in self.fields.items():
            setattr(self, name, values.pop(name) if name in values else field.default)
        if values:
            raise TypeError(f"{type(self).__name__} has no field {sorted(values)[0]!r}")

    def __repr__(self) -> str:
        shown = (f"{n}={getattr(self, n)!r}" for n, f in self.fields.items() if f.kind != "ref")
        return f"{type(self).__name__.removeprefix('Watched')}({', '.join(shown)})"


class Cell(State):
    """One value that several fields of others refer to."""

    value = cast(int, Field("int", "the shared value", 0))


@contextmanager
def watching(observer: Observer) -> Iterator[None]:
    """Objects built inside report their reads and writes to `observer` for as long as they live in this context."""
    global _observer
    before, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = before


class WidthObserver:
    """Asserts that every integer written fits its field: the kernel's types as invariants, used by the tests."""

    def name(self, state: State) -> str:
        return ""

    def read(self, state: State, name: str) -> None:
        pass

    def write(self, state: State, name: str, value: Any) -> None:
        field = state.fields[name]
        assert field.holds(value), f"{type(state).__name__}.{name}: {value} is no {field.kind}"


def _twin(cls: type) -> type:
    if cls in _twins:
        return _twins[cls]
    fields = cast(Any, cls).fields
    namespace: dict[str, Any] = {"__slots__": ("watched_as",)}
    for name in fields:
        namespace[name] = _watched(name, getattr(cls, name))
    twin = type(cls)("Watched" + cls.__name__, (cls,), namespace)
    _twins[cls] = twin
    _twins[twin] = twin
    return twin


def _watched(name: str, slot: Any) -> property:
    def get(self: State) -> Any:
        if _observer is not None:
            _observer.read(self, name)
        return slot.__get__(self)

    def put(self: State, value: Any) -> None:
        if _observer is not None:
            _observer.write(self, name, value)
        slot.__set__(self, value)

    return property(get, put)
