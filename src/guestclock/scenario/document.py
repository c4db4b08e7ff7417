"""A scenario file's tables as types, and msgspec's complaints in a user's words."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from guestclock.machine import Arm64Spec, HostSpec
from guestclock.scenario.quantity import Quantity, Vary, did_you_mean
from guestclock.scenario.verb import Vcpus, Verb
from guestclock.scenario.verbs import VERBS, Wait
from guestclock.vmm.clocks import ARCHITECTURES, ARM64, X86_64

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


class Arm64Expect(msgspec.Struct, forbid_unknown_fields=True):
    """The same on arm64."""

    cntvct: Policy | None = None
    cntpct: Policy | None = None


class VmTable(msgspec.Struct, forbid_unknown_fields=True):
    """[vm]. kvmclock: by which MSR the guest registers its page; false: not at all. boot: vCPUs run twice at first."""

    vcpus: int
    kvmclock: Literal["new", "old"] | bool = "new"
    boot: bool = True
    expect: Expect = msgspec.field(default_factory=Expect)

    def program(self) -> dict[str, Any]:
        """What of it the steps are played with."""
        return {"vcpus": self.vcpus, "kvmclock": self.kvmclock or None, "boot": self.boot}


class Arm64VmTable(msgspec.Struct, forbid_unknown_fields=True):
    """[vm] on arm64. boot: vCPUs run once at first. nested: they have EL2; the model alone can give it to them."""

    vcpus: int
    boot: bool = True
    nested: bool = False
    expect: Arm64Expect = msgspec.field(default_factory=Arm64Expect)

    def program(self) -> dict[str, Any]:
        nested = {"nested": True} if self.nested else {}
        return {"arch": ARM64, "vcpus": self.vcpus, "boot": self.boot, **nested}


class HostTable(msgspec.Struct, forbid_unknown_fields=True):
    """[host]: `machine.HostSpec`, where it shall not be the ordinary server. The lab takes tsc_khz, clocksource,
    tsc_unstable and cpus from it; a real host is what it is.
    """

    arch: Literal["x86_64"] = "x86_64"
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

    def spec(self, **otherwise: Any) -> HostSpec:
        """The machine. otherwise: what holds for keys that the file does not set. Raises UserError."""
        return HostSpec(**{**otherwise, **_given(self)})


class Arm64HostTable(msgspec.Struct, forbid_unknown_fields=True):
    """[host] with arch = "arm64": `machine.Arm64Spec`, the same way. The lab takes cpus from it."""

    arch: Literal["arm64"]
    counter_hz: int | None = None
    true_hz: int | None = None
    counter_at_start: int | None = None
    cpus: int | None = None
    vhe: bool | None = None
    ecv: bool | None = None
    hz: int | None = None
    uptime_ns: int | None = None
    realtime_ns: int | None = None

    def spec(self, **otherwise: Any) -> Arm64Spec:
        """The machine. otherwise: what holds for keys that the file does not set. Raises UserError."""
        return Arm64Spec(**{**otherwise, **_given(self)})


def _given(host: msgspec.Struct) -> dict[str, Any]:
    return {k: v for k, v in msgspec.structs.asdict(host).items() if v is not None and k != "arch"}


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """The file."""

    about: str
    vm: VmTable
    step: list[dict[str, Any]]
    thread: str | None = None
    host: HostTable = msgspec.field(default_factory=HostTable)
    kernels: list[str] = []
    on: list[str] = msgspec.field(default_factory=lambda: ["model"])


class Arm64Document(msgspec.Struct, forbid_unknown_fields=True):
    """The file of an arm64 guest."""

    about: str
    vm: Arm64VmTable
    step: list[dict[str, Any]]
    host: Arm64HostTable
    thread: str | None = None
    kernels: list[str] = []
    on: list[str] = msgspec.field(default_factory=lambda: ["model"])


DOCUMENTS: dict[str, type[Document] | type[Arm64Document]] = {X86_64: Document, ARM64: Arm64Document}
TWINS: dict[Any, tuple[str, Any]] = {
    HostTable: (ARM64, Arm64HostTable), Arm64HostTable: (X86_64, HostTable),
    VmTable: (ARM64, Arm64VmTable), Arm64VmTable: (X86_64, VmTable),
    Expect: (ARM64, Arm64Expect), Arm64Expect: (X86_64, Expect),
}  # fmt: skip
"""The same table on the other architecture."""


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


def architecture(raw: Mapping[str, Any]) -> str:
    """The file's: [host] arch, x86_64 if it says none. Raises Complaint."""
    host = raw.get("host", {})
    arch = host.get("arch", X86_64) if isinstance(host, Mapping) else X86_64
    if arch in ARCHITECTURES:
        return str(arch)
    known = ", ".join(map(repr, ARCHITECTURES))
    raise Complaint("[host]", f"arch: expected one of {known}, got {arch!r}{did_you_mean(str(arch), ARCHITECTURES)}")


def convert_step(table: Mapping[str, Any], where: str, vary: Vary, arch: str) -> Verb:
    """A [[step]]: one of wait, vmm, guest, host, and the keys of that verb."""
    kinds = [k for k in KINDS if k in table]
    if len(kinds) != 1:
        near = next(filter(None, (did_you_mean(key, KINDS) for key in table)), "")
        had = f"has {' and '.join(map(repr, kinds))}" if kinds else f"has none of them{near}"
        raise Complaint(where, f"expected exactly one of wait, vmm, guest and host: the step {had}")
    (kind,) = kinds
    if kind == "wait":
        return convert(table, Wait, where, vary)
    name, verbs = table[kind], VERBS[arch]
    if not isinstance(name, str) or name not in verbs[kind]:
        raise Complaint(where, _unknown_step(kind, name, arch))
    return convert({k: v for k, v in table.items() if k != kind}, verbs[kind][name], where, vary)


def _unknown_step(kind: str, name: object, arch: str) -> str:
    for other, verbs in VERBS[arch].items():
        if other != kind and name in verbs:
            return f"unknown step {name!r} for {kind!r}: it is a step of the {other}'s, {other} = {name!r}"
    for other, of_other in VERBS.items():
        if name in of_other[kind]:
            return f"{name!r} is a step on {other}, and this scenario's [host] arch is {arch!r}"
    return f"unknown step {name!r}{did_you_mean(str(name), VERBS[arch][kind])}"


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
        if cls not in DOCUMENTS.values() and unknown[1] in _keys(Document):
            return f"unknown key {unknown[1]!r}: it belongs to the top of the file, before the first table"
        other, twin = TWINS.get(cls, ("", None))
        if twin is not None and unknown[1] in _keys(twin):
            return f"unknown key {unknown[1]!r}: there is one on {other}, [host] arch = {other!r}"
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
