"""Scenarios: TOML in, checked programs out. Every mistake is found before anything runs."""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guestclock.errors import UserError
from guestclock.machine import HostSpec
from guestclock.scenario import catalogue
from guestclock.scenario.document import (
    DOCUMENTS,
    Arm64Document,
    Arm64Expect,
    Arm64HostTable,
    Complaint,
    Document,
    Expect,
    HostTable,
    architecture,
    convert,
    convert_step,
)
from guestclock.scenario.quantity import Value, Vary, did_you_mean, fill_in
from guestclock.scenario.situation import Situation, Wrong
from guestclock.scenario.verb import OnVcpus, Verb
from guestclock.scenario.verbs import MAX_VCPUS, Sleep, Wait, check_khz
from guestclock.vmm.clocks import CLOCKS, clocks_of

NAME = re.compile(r"[A-Za-z_]\w*")
ON = re.compile(r"model|kvm|lab:[\w.+-]+(:[\w-]+)?")
MAX_VARIATIONS = 1_000


@dataclass(frozen=True)
class Variation:
    """One choice from every `[vary]` list: its values, the host it asks for and the program to play."""

    values: dict[str, Value]
    host: HostTable | Arm64HostTable
    program: dict[str, Any]
    steps: tuple[Verb, ...]

    @property
    def wait_ns(self) -> int:
        """True time the steps ask for in all: what a real host spends on it."""
        gaps = sum(
            step.gap.literal * (len(played["vcpus"]) - 1)
            for step, played in zip(self.steps, self.program["steps"], strict=True)
            if isinstance(step, OnVcpus) and step.gap is not None and "vcpus" in played
        )
        return gaps + sum(s.value.literal for s in self.steps if isinstance(s, Wait | Sleep))


@dataclass(frozen=True)
class Scenario:
    """A story about a guest's clocks, checked and ready to be played.

    name: as it was asked for. arch: "x86_64" or "arm64". thread: where the story comes from. kernels: profiles it is
    shown on unless others are asked for. on: machines that can show it ("model", "kvm", "lab:6.12"). expect: what each
    clock shall do.
    """

    name: str
    arch: str
    about: str
    thread: str | None
    vcpus: int
    expect: Expect | Arm64Expect
    kernels: tuple[str, ...]
    on: tuple[str, ...]
    variations: tuple[Variation, ...]

    def programs(self) -> list[tuple[dict[str, Value], dict[str, Any]]]:
        """Each variation with its program, as `vmm.steps` plays it."""
        return [(v.values, v.program) for v in self.variations]


def load(name: str) -> Scenario:
    """A scenario by its built-in name ("threads/2023-masterclock") or its file's path. UserError says what is wrong."""
    text = catalogue.read(name)
    if text is None:
        path = Path(name)
        if not name or (path.suffix != ".toml" and not path.exists()):
            raise UserError(
                f"scenario {name!r}: neither a file nor built in{did_you_mean(name, catalogue.names())}; "
                "'guestclock list scenarios' shows the built-in ones"
            )
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{name}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: not UTF-8 text (byte {error.start})") from None
    return parse(text, name)


def parse(text: str, name: str) -> Scenario:
    """The scenario in `text`; `name` begins every message."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name}: {_toml_trouble(str(error), text)}") from None
    try:
        return _scenario(raw, name)
    except Complaint as complaint:
        raise UserError(f"{name}: {complaint}") from None


def _toml_trouble(message: str, text: str) -> str:
    what, _, place = message.partition(" (at ")
    line = re.match(r"line (\d+)", place)
    number = int(line[1]) if line else len(text.splitlines())
    return f"line {number}: not TOML: {what[:1].lower()}{what[1:]}{'' if line else ' at the end of the file'}"


def _scenario(raw: Mapping[str, Any], name: str) -> Scenario:
    arch, vary = architecture(raw), _vary(raw)
    read = [_variation(raw, arch, values, first=i == 0) for i, values in enumerate(_choices(vary))]
    document = read[0][0]
    for place in document.on:
        if not ON.fullmatch(place):
            raise Complaint("on", f"expected 'model', 'kvm' or a lab like 'lab:6.12', got {place!r}")
    _check_kernels(document.kernels, arch)
    return Scenario(
        name=name,
        arch=arch,
        about=document.about,
        thread=document.thread,
        vcpus=document.vm.vcpus,
        expect=document.vm.expect,
        kernels=tuple(document.kernels),
        on=tuple(document.on),
        variations=tuple(variation for _, variation in read),
    )


def _vary(raw: Mapping[str, Any]) -> dict[str, list[Value]]:
    """[vary], read first: the rest of the file may use its names anywhere."""
    vary = raw.get("vary", {})
    if not isinstance(vary, dict):
        raise Complaint("vary", "expected a table of lists")
    for name, values in vary.items():
        if not NAME.fullmatch(name):
            raise Complaint("[vary]", f"{name!r} is no name, expected letters, digits and '_'")
        if not isinstance(values, list) or any(not isinstance(v, int | str) for v in values):
            raise Complaint("[vary]", f"{name}: expected a list of numbers, texts, true or false")
        if not values:
            raise Complaint("[vary]", f"{name}: the list is empty, expected at least one value")
        if not any(_mentions(raw.get(k), name) for k in ("host", "vm", "step")):
            raise Complaint("[vary]", f"{name}: no step says '${name}'")
    count = math.prod(map(len, vary.values()))
    if count > MAX_VARIATIONS:
        raise Complaint("[vary]", f"{count} variations, expected at most {MAX_VARIATIONS}")
    return vary


def _mentions(value: object, name: str) -> bool:
    if isinstance(value, dict):
        return any(_mentions(v, name) for v in value.values())
    if isinstance(value, list):
        return any(_mentions(v, name) for v in value)
    return isinstance(value, str) and re.search(rf"\${name}(?!\w)", value) is not None


def _choices(vary: Mapping[str, list[Value]]) -> Iterator[dict[str, Value]]:
    for chosen in itertools.product(*vary.values()):
        yield dict(zip(vary, chosen, strict=True))


def _bound(value: Any, vary: Vary) -> Any:
    """`value` with every "$name" that is a whole value replaced, and those inside sentences."""
    if isinstance(value, dict):
        return {k: fill_in(v, vary) if k == "say" and isinstance(v, str) else _bound(v, vary)
                for k, v in value.items() if k != "vary"}  # fmt: skip
    if isinstance(value, list):
        return [_bound(v, vary) for v in value]
    if isinstance(value, str) and value.startswith("$") and value[1:] in vary:
        return vary[value[1:]]
    return value


def _variation(
    raw: Mapping[str, Any], arch: str, values: dict[str, Value], *, first: bool
) -> tuple[Document | Arm64Document, Variation]:
    try:
        document = convert(_bound(raw, values), DOCUMENTS[arch], "", values)
        _check_host(document.host)
        if not 1 <= document.vm.vcpus <= MAX_VCPUS:
            raise Complaint("[vm]", f"vcpus: {document.vm.vcpus}, expected 1 to {MAX_VCPUS}")
        if isinstance(document, Document) and document.vm.kvmclock is True:
            raise Complaint("[vm]", "kvmclock: expected one of 'new', 'old', false, got true")
        steps = [convert_step(table, f"[[step]] {i}", values, arch) for i, table in enumerate(document.step, 1)]
        program = {**document.vm.program(), "steps": _compiled(steps, document, values, arch)}
    except Complaint as complaint:
        if first:
            raise
        # What is wrong with every variation is wrong with the first; this one's values have to do with it.
        raise Complaint("", f"{complaint} (with {', '.join(f'{k} = {v}' for k, v in values.items())})") from None
    return document, Variation(values, document.host, program, tuple(steps))


def _check_host(host: HostTable | Arm64HostTable) -> None:
    try:
        spec = host.spec()
        if isinstance(spec, HostSpec):
            check_khz("tsc_khz", spec.tsc_khz, zero=False)
    except UserError as error:
        raise Complaint("[host]", str(error).removeprefix("host: ")) from None
    except Wrong as wrong:
        raise Complaint("[host]", f"{wrong.key}: {wrong.what}") from None


def _compiled(steps: list[Verb], document: Document | Arm64Document, vary: Vary, arch: str) -> list[dict[str, Any]]:
    vcpus = document.vm.vcpus
    now = Situation(vcpus, vcpus, CLOCKS[clocks_of(arch)[0]].unit)
    if isinstance(document, Arm64Document):
        now.has_el2 = document.vm.nested
    else:
        now.tsc_scaling = document.host.tsc_scaling
    for number, step in enumerate(steps, 1):
        name: str | None = getattr(step, "save", None)
        if name is None:
            continue
        if not NAME.fullmatch(name):
            raise Complaint(f"[[step]] {number}", f"as: {name!r} is no name, expected letters, digits and '_'")
        if name in vary:
            raise Complaint(f"[[step]] {number}", f"as: '{name}' is already a name of [vary]")
        now.saved_later[name] = number
    compiled = []
    for now.step, step in enumerate(steps, 1):
        try:
            compiled.append(step.compile(now))
        except Wrong as wrong:
            raise Complaint(f"[[step]] {now.step}", f"{wrong.key}: {wrong.what}") from None
    return compiled


def _check_kernels(kernels: list[str], arch: str) -> None:
    if not kernels:
        return
    from guestclock.kvm.model import lookup  # the model is not loaded for scenarios that name no kernel

    for name, count in Counter(kernels).items():
        if count > 1:
            raise Complaint("kernels", f"{name!r} is named twice")
        try:
            profile = lookup(name)
        except UserError as error:
            raise Complaint("kernels", str(error)) from None
        if profile.arch != arch:
            raise Complaint("kernels", f"{name!r} is of {profile.arch}, this scenario's [host] arch is {arch!r}")


__all__ = ["Scenario", "Variation", "load", "parse"]
