"""A scenario file's tables as types, and msgspec's complaints in a user's words."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from guestclock.machine import HostSpec
from guestclock.scenario.quantity import Quantity, Vary, did_you_mean
from guestclock.scenario.verb import Vcpus, Verb
from guestclock.scenario.verbs import VERBS, Wait

Policy = Literal["run", "freeze", "advance"]
KINDS = ("wait", "vmm", "guest", "host")
T = TypeVar("T")

WORDS = {
    "int": "an integer", "str": "text", "bool": "true or false", "array": "a list", "object": "a table",
    "float": "a number", "null": "nothing",
}  # fmt: skip


class Expect(msgspec.Struct, forbid_unknown_fields=True):
    """What each guest clock shall do across the operation."""

    tsc: Policy | None = None
    kvmclock: Policy | None = None


class VmTable(msgspec.Struct, forbid_unknown_fields=True):
    """[vm]. kvmclock: by which MSR the guest registers its page; false: not at all. boot: vCPUs run once at first."""

    vcpus: int
    kvmclock: Literal["new", "old"] | bool = "new"
    boot: bool = True
    expect: Expect = msgspec.field(default_factory=Expect)


class HostTable(msgspec.Struct, forbid_unknown_fields=True):
    """[host]: `machine.HostSpec`, where it shall not be the ordinary server. The lab takes tsc_khz and cpus from it; a
    real host is what it is.
    """

    tsc_khz: int | None = None
    tsc_hz: int | None = None
    cpus: int | None = None
    skew: list[int] | None = None
    constant_tsc: bool | None = None
    clocksource: str | None = None
    clocksources: list[str] | None = None
    hz: int | None = None
    tsc_unstable: bool | None = None
    tsc_scaling: str | None = None
    tsc_tolerance_ppm: int | None = None
    uptime_ns: int | None = None
    tsc_at_start: int | None = None
    realtime_ns: int | None = None
    rtc_grain_ns: int | None = None
    rtc_ahead_ns: int | None = None
    nonstop_tsc: bool | None = None

    def given(self) -> dict[str, Any]:
        return {k: v for k, v in msgspec.structs.asdict(self).items() if v is not None}

    def spec(self, **otherwise: Any) -> HostSpec:
        """The machine. otherwise: what holds for keys that the file does not set. Raises UserError."""
        return HostSpec(**{**otherwise, **self.given()})


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """The file."""

    about: str
    vm: VmTable
    step: list[dict[str, Any]]
    thread: str | None = None
    host: HostTable = msgspec.field(default_factory=HostTable)
    kernels: list[str] = []
    on: list[str] = msgspec.field(default_factory=lambda: ["model"])


class Complaint(Exception):
    """Where in the file, and what was expected there: one line together."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}" if where else what)


def convert(table: Mapping[str, Any], cls: type[T], where: str, vary: Vary) -> T:
    """The table as a `cls`. where: the table's heading, for the Complaint."""

    def custom(kind: type, written: object) -> object:
        if kind is Vcpus:
            return Vcpus(written)
        assert issubclass(kind, Quantity)
        return kind.parse(written, vary)

    try:
        return msgspec.convert(table, cls, dec_hook=custom)
    except msgspec.ValidationError as error:
        raise _complaint(str(error), cls, table, where) from None


def convert_step(table: Mapping[str, Any], where: str, vary: Vary) -> Verb:
    """A [[step]]: one of wait, vmm, guest, host, and the keys of that verb."""
    kinds = [k for k in KINDS if k in table]
    if len(kinds) != 1:
        near = next(filter(None, (did_you_mean(key, KINDS) for key in table)), "")
        had = f"has {' and '.join(map(repr, kinds))}" if kinds else f"has none of them{near}"
        raise Complaint(where, f"expected exactly one of wait, vmm, guest and host: the step {had}")
    (kind,) = kinds
    if kind == "wait":
        return convert(table, Wait, where, vary)
    name = table[kind]
    if not isinstance(name, str) or name not in VERBS[kind]:
        raise Complaint(where, f"unknown step {name!r}{_other_step(kind, str(name))}")
    return convert({k: v for k, v in table.items() if k != kind}, VERBS[kind][name], where, vary)


def _other_step(kind: str, name: str) -> str:
    for other, verbs in VERBS.items():
        if other != kind and name in verbs:
            return f" for {kind!r}: it is a step of the {other}'s, {other} = {name!r}"
    return did_you_mean(name, VERBS[kind])


def _complaint(message: str, cls: type, table: Mapping[str, Any], where: str) -> Complaint:
    what, _, path = message.partition(" - at `$")
    keys = re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path.rstrip("`"))
    return _located(what, [name or int(index) if index != "..." else 0 for name, index in keys], cls, table, where)


def _located(what: str, keys: list[str | int], cls: Any, value: Any, where: str) -> Complaint:
    """Follows the path into the types to say where it is in the file's own terms, and what fits there."""
    while keys:
        key = keys.pop(0)
        if isinstance(key, int):
            where, value = f"{where} {key + 1}", value[key]
            cls = next(iter(get_args(cls)), cls)
            continue
        cls = _without_none(_field_type(cls, key))
        value = value.get(key) if isinstance(value, Mapping) else None
        is_table = isinstance(cls, type) and issubclass(cls, msgspec.Struct) and isinstance(value, Mapping)
        heading = f"[[{key}]]" if key == "step" else f"[{key}]" if is_table or key == "vary" else key
        where = f"{where}: {heading}" if where else heading
    return Complaint(where, _worded(what, cls, value))


def _worded(what: str, cls: Any, value: Any) -> str:
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what):
        if cls is not Document and unknown[1] in _keys(Document):
            return f"unknown key {unknown[1]!r}: it belongs to the top of the file, before the first table"
        return f"unknown key {unknown[1]!r}{did_you_mean(unknown[1], _keys(cls))}"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"key {missing[1]!r} is missing"
    if what.startswith("Invalid enum value") or (allowed(cls) and isinstance(value, str)):
        near = did_you_mean(str(value), [a for a in allowed(cls) if isinstance(a, str)])
        return f"expected one of {', '.join(_literal(a) for a in allowed(cls))}, got {value!r}{near}"
    if expected := re.fullmatch(r"Expected `(.*)`, got `(.*)`", what):
        wanted = [WORDS.get(w.strip(), w.strip()) for w in expected[1].split("|") if w.strip() != "null"]
        return f"expected {' or '.join(wanted)}, got {WORDS.get(expected[2], expected[2])}"
    return what


def allowed(cls: Any) -> list[Any]:
    """The values a Literal, alone or in a union, admits."""
    if get_origin(cls) is Literal:
        return list(get_args(cls))
    if get_origin(cls) in (Union, types.UnionType):
        return [a for part in get_args(cls) for a in allowed(part)]
    return []


def _literal(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value).lower()


def _keys(cls: Any) -> list[str]:
    return [f.encode_name for f in msgspec.structs.fields(cls)]


def _field_type(cls: Any, key: str) -> Any:
    if isinstance(cls, type) and issubclass(cls, msgspec.Struct):
        return next((f.type for f in msgspec.structs.fields(cls) if f.encode_name == key), Any)
    return get_args(cls)[-1] if get_origin(cls) is dict else Any


def _without_none(cls: Any) -> Any:
    if get_origin(cls) in (Union, types.UnionType):
        parts = [p for p in get_args(cls) if p is not type(None)]
        return parts[0] if len(parts) == 1 else Union[tuple(parts)]  # noqa: UP007
    return cls
