"""Snapshots as files: JSON with a version and a checksum, exact to the last bit, read whole or refused.

    {"guestclock_snapshot": 1, "arch": "x86_64", "owner": null, "host_tsc_khz": …, "realtime_ns": …,
     "clock": {"clock_ns": …, "flags": …, "realtime_ns": …, "host_tsc": …},
     "vcpus": [{"tsc": …, "tsc_offset": …, "tsc_khz": …, "tsc_deadline": …, "arm64_cntvct": null, …}, …],
     "arm64_counter_offset": null, "crc32": "…"}

    {"guestclock_snapshot": 2, "arch": "arm64", "owner": null, "counter_offset": …, "host_counter": …,
     "realtime_ns": …, "counter_hz": …, "vcpus": [{"cntvct": …, "cntpct": …, "cntv_ctl": …, "cntv_cval": …,
     "cntp_ctl": …, "cntp_cval": …, "offset": …}, …], "crc32": "…"}

Version 2 is what arm64 is written in; x86_64 is in version 1, whose fields for arm64 were never used and are null.

Numbers are JSON integers of up to 64 bits; a reader that turns them into floating point loses the last digits. The
checksum is over the rest as `encode` writes it; a file without one (written by hand) is taken as it is.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import msgspec

from guestclock.errors import UserError
from guestclock.kvm.api import ClockData
from guestclock.vmm.snapshot import ARM64, X86_64, Arm64Snapshot, Arm64VcpuSnapshot, Snapshot, VcpuSnapshot

VERSIONS = {X86_64: 1, ARM64: 2}
MAX_VCPUS = 4096

_FLAGS = 14  # KVM_CLOCK_TSC_STABLE, REALTIME, HOST_TSC

AnySnapshot = Snapshot | Arm64Snapshot

Number = Annotated[int, msgspec.Meta(ge=0)]
"""How many bits it may have is checked in `_fits`: msgspec's bounds end at 63."""


class _Clock(msgspec.Struct, forbid_unknown_fields=True):
    clock_ns: Number
    flags: Annotated[int, msgspec.Meta(ge=0, le=_FLAGS)]
    realtime_ns: Number
    host_tsc: Number


class _Vcpu(msgspec.Struct, forbid_unknown_fields=True):
    tsc: Number | None
    tsc_offset: Number | None
    tsc_khz: Number | None
    tsc_deadline: Number | None
    arm64_cntvct: Number | None = None
    arm64_cntpct: Number | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    guestclock_snapshot: int
    arch: str
    owner: str | None
    host_tsc_khz: Number | None
    realtime_ns: Number | None
    clock: _Clock
    vcpus: Annotated[list[_Vcpu], msgspec.Meta(min_length=1, max_length=MAX_VCPUS)]
    arm64_counter_offset: Number | None = None
    crc32: str | None = None


class _Arm64Vcpu(msgspec.Struct, forbid_unknown_fields=True):
    cntvct: Number | None
    cntpct: Number | None
    cntv_ctl: Number | None
    cntv_cval: Number | None
    cntp_ctl: Number | None
    cntp_cval: Number | None
    offset: Number | None


class _Arm64File(msgspec.Struct, forbid_unknown_fields=True):
    guestclock_snapshot: int
    arch: str
    owner: str | None
    counter_offset: Number | None
    host_counter: Number | None
    realtime_ns: Number | None
    counter_hz: Number | None
    vcpus: Annotated[list[_Arm64Vcpu], msgspec.Meta(min_length=1, max_length=MAX_VCPUS)]
    crc32: str | None = None


def encode(snapshot: AnySnapshot) -> bytes:
    """The file's bytes. The values must be ints by now: forms have no file. Negative ones are written as u64."""
    body = _body(snapshot)
    body["crc32"] = _crc32(body)
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"


def decode(data: bytes, name: str, *, arch: str = X86_64) -> AnySnapshot:
    """The snapshot in the file `name`. arch: the machine's that asks.

    Raises UserError, one line that names the file and the field. Nothing has been done to any VM by then.
    """
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: not JSON, or not all of it: {error}") from None
    if not isinstance(raw, dict) or "guestclock_snapshot" not in raw:
        raise UserError(f"{name}: guestclock_snapshot: missing; not a snapshot of guestclock")
    _check_version(raw["guestclock_snapshot"], name)
    _no_floats(raw, "", name)
    _check_arch(raw, arch, name)
    file: _File | _Arm64File
    try:
        file = msgspec.convert(raw, _Arm64File) if arch == ARM64 else msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise UserError(f"{name}: {_in_words(str(error))}") from None
    _fits(file, name)
    snapshot = _arm64(file) if isinstance(file, _Arm64File) else _x86(file)
    if file.crc32 is not None and file.crc32 != _crc32(_body(snapshot)):
        raise UserError(f"{name}: crc32: {file.crc32!r} does not fit the rest: the file is damaged, or was edited")
    return snapshot


def _check_version(version: object, name: str) -> None:
    newest = max(VERSIONS.values())
    if type(version) is not int or version < 1:
        raise UserError(f"{name}: guestclock_snapshot: {version!r}, expected a version, 1 to {newest}")
    if version > newest:
        raise UserError(f"{name}: guestclock_snapshot: version {version}, this program reads up to {newest}")


def _check_arch(raw: dict[str, Any], arch: str, name: str) -> None:
    """The architecture, and that the version is one that it is written in."""
    if "arch" not in raw:
        raise UserError(f"{name}: arch: missing")
    if raw["arch"] not in VERSIONS:
        raise UserError(f"{name}: arch: {raw['arch']!r}, expected {X86_64!r} or {ARM64!r}")
    if raw["arch"] != arch:
        raise UserError(f"{name}: arch: {raw['arch']!r}, expected this machine's, {arch!r}")
    if raw["guestclock_snapshot"] != VERSIONS[arch]:
        expected = f"expected {VERSIONS[arch]}, which {arch} is written in"
        raise UserError(f"{name}: guestclock_snapshot: version {raw['guestclock_snapshot']}, {expected}")


def _x86(file: _File) -> Snapshot:
    return Snapshot(
        vcpus=tuple(VcpuSnapshot(**_without_arm64(msgspec.structs.asdict(vcpu))) for vcpu in file.vcpus),
        clock=ClockData(**msgspec.structs.asdict(file.clock)),
        realtime_ns=file.realtime_ns,
        host_tsc_khz=file.host_tsc_khz,
        owner=file.owner,
    )


def _arm64(file: _Arm64File) -> Arm64Snapshot:
    return Arm64Snapshot(
        vcpus=tuple(Arm64VcpuSnapshot(**msgspec.structs.asdict(vcpu)) for vcpu in file.vcpus),
        counter_offset=file.counter_offset,
        host_counter=file.host_counter,
        realtime_ns=file.realtime_ns,
        counter_hz=file.counter_hz,
        owner=file.owner,
    )


def _without_arm64(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if not key.startswith("arm64_")}


def _body(snapshot: AnySnapshot) -> dict[str, Any]:
    vcpus = [asdict(vcpu) for vcpu in snapshot.vcpus]
    rest = {k: v for k, v in asdict(snapshot).items() if k not in ("owner", "vcpus")}
    if isinstance(snapshot, Snapshot):  # version 1 has them
        rest["arm64_counter_offset"] = None
        vcpus = [{**vcpu, "arm64_cntvct": None, "arm64_cntpct": None} for vcpu in vcpus]
    head = {"guestclock_snapshot": VERSIONS[snapshot.arch], "arch": snapshot.arch, "owner": snapshot.owner}
    return {key: _as_u64(value) for key, value in {**head, **rest, "vcpus": vcpus}.items()}


def _as_u64(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_u64(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_u64(inner) for inner in value]
    if value is None or isinstance(value, str):
        return value
    assert type(value) is int, f"a snapshot file holds integers, not {type(value).__name__}"
    return value % 2**64


def _crc32(body: dict[str, Any]) -> str:
    return f"{zlib.crc32(msgspec.json.encode(body, order='deterministic')):08x}"


def _no_floats(value: Any, path: str, name: str) -> None:
    """1e3 and 1.0 are integers to msgspec; here an integer is written as one, or digits have been lost already."""
    if isinstance(value, float):
        raise UserError(f"{name}: {path}: {value!r}, expected an integer")
    if isinstance(value, dict):
        for key, inner in value.items():
            _no_floats(inner, f"{path}.{key}" if path else str(key), name)
    if isinstance(value, list):
        for index, inner in enumerate(value):
            _no_floats(inner, f"{path}[{index}]", name)


def _fits(file: _File | _Arm64File, name: str) -> None:
    """Widths, which msgspec's bounds cannot say beyond 63 bits; flags; and version 1's fields that hold nothing."""
    for path, struct in _parts(file):
        for field, value in msgspec.structs.asdict(struct).items():
            if type(value) is int and field not in ("flags", "guestclock_snapshot"):
                bits = 32 if field.endswith(("_khz", "_hz")) else 64
                if value >= 1 << bits:
                    raise UserError(f"{name}: {path}{field}: {value}, expected at most 2^{bits} - 1")
            if field.startswith("arm64_") and value is not None:
                raise UserError(f"{name}: {path}{field}: {value}, expected null on {file.arch}")
    if isinstance(file, _File) and file.clock.flags & ~_FLAGS:
        raise UserError(f"{name}: clock.flags: {file.clock.flags}, expected a sum of 2, 4 and 8")


def _parts(file: _File | _Arm64File) -> Iterator[tuple[str, msgspec.Struct]]:
    """The file's structs, each with the path to its fields."""
    yield "", file
    if isinstance(file, _File):
        yield "clock.", file.clock
    for index, vcpu in enumerate(file.vcpus):
        yield f"vcpus[{index}].", vcpu


_WORDS = {"int": "an integer", "str": "text", "object": "an object", "array": "a list", "null": "null", "bool": "true"}


def _in_words(message: str) -> str:
    """msgspec's complaint as `field: what`."""
    what, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if field := re.search(r"(?:missing required|contains unknown) field `(\w+)`", what):
        path = f"{path}.{field[1]}" if path else field[1]
        return f"{path}: " + ("missing" if "missing" in what else "unknown field")
    what = re.sub(r"`([\w |]+)`", lambda m: " or ".join(_WORDS.get(w, w) for w in m[1].split(" | ")), what)
    return f"{path}: {what[:1].lower()}{what[1:]}" if path else what
