"""The machines that `--on` names, and what each of them can be asked."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass

from guestclock.errors import UserError
from guestclock.scenario import Scenario, Variation
from guestclock.scenario.quantity import did_you_mean
from guestclock.vmm.clocks import ARM64

USAGE = {"model": "model", "lab": "lab:KERNEL", "kvm": "kvm"}
KVM_WAIT_LIMIT_NS = 120 * 10**9
"""Where a second is a second, a run that waits longer in all is left out."""


@dataclass(frozen=True, slots=True)
class On:
    """kind: "model", "kvm" or "lab"; lab: its kernel, "6.12"; cpu: what an arm64 kernel runs on, "" for the usual."""

    kind: str
    lab: str = ""
    cpu: str = ""

    def __str__(self) -> str:
        return ":".join(filter(None, (self.kind, self.lab, self.cpu)))


def whatever_is_here(scenario: Scenario) -> tuple[list[str], list[str]]:
    """`--on all`: of the machines that can show the scenario those that are here, and for each other one why not."""
    here, missing = [], []
    for name in scenario.on:
        try:
            on = parse_on(name)
            check_architecture(scenario, on)
            _ask(on, scenario.arch)
        except UserError as absent:
            missing.append(f"not on {name}: {absent}")
        else:
            here.append(name)
    return here, missing


def _ask(on: On, arch: str) -> None:
    """Raises UserError if the machine is not here."""
    if on.kind == "kvm":
        from guestclock.kvm.device.ioctls import open_kvm

        os.close(open_kvm())
    elif on.kind == "lab":
        from guestclock.lab.arch import arch_of
        from guestclock.lab.boot import ready

        ready(on.lab, arch_of(arch))


def parse_on(text: str) -> On:
    """The machine `text` names. Raises UserError with what was expected; whether it is there is asked later."""
    if text in ("model", "kvm"):
        return On(text)
    kind, colon, rest = text.partition(":")
    if kind == "lab" and colon:
        kernel, colon, cpu = rest.partition(":")
        if not re.fullmatch(r"\d+\.\d+", kernel):
            raise UserError(f"--on {text}: expected a kernel like lab:6.12")
        if colon:
            _check_cpu(text, cpu)
        return On("lab", kernel, cpu)
    raise UserError(f"--on {text}: expected model, kvm, lab:KERNEL (as lab:6.12) or all")


def _check_cpu(text: str, cpu: str) -> None:
    from guestclock.lab.arm64 import CPUS

    if cpu not in CPUS:
        near = did_you_mean(cpu, CPUS) or f", expected one of {', '.join(CPUS)}"
        raise UserError(f"--on {text}: unknown CPU {cpu!r}{near}")


def check_architecture(scenario: Scenario, on: On) -> None:
    """Raises UserError where the machine is of another architecture than the scenario's guest."""
    if on.cpu and scenario.arch != ARM64:
        raise UserError(f"--on {on}: is an arm64 CPU, {scenario.name} is for {scenario.arch}: use --on lab:{on.lab}")
    if on.kind == "kvm" and (host := _own()) != scenario.arch:
        raise UserError(f"--on kvm: this host is {host}, {scenario.name} is for {scenario.arch}: use --on lab:KERNEL")


def _own() -> str:
    """This host's architecture, as scenarios call it."""
    machine = platform.machine()
    return {"aarch64": ARM64}.get(machine, machine)


def check_steps(scenario: Scenario, on: On) -> None:
    """Raises UserError for the first step that this machine cannot take, or for a VM that it cannot make."""
    for variation in scenario.variations:
        if variation.program.get("nested") and on.kind != "model":
            raise UserError(f"{scenario.name}: [vm]: nested: cannot be done on {on}: use --on model")
        for number, step in enumerate(variation.steps, 1):
            possible = step.can_be_done_on()
            if on.kind not in possible:
                can = " or ".join(f"--on {USAGE[kind]}" for kind in USAGE if kind in possible)
                raise UserError(f"{scenario.name}: [[step]] {number}: '{step.name}' cannot be done on {on}: use {can}")


def in_time(scenario: Scenario, on: On) -> tuple[list[Variation], list[str]]:
    """The variations that can be waited for on this machine, and a line for each of the others."""
    if on.kind != "kvm":
        return list(scenario.variations), []
    runnable, left_out = [], []
    for variation in scenario.variations:
        if variation.wait_ns <= KVM_WAIT_LIMIT_NS:
            runnable.append(variation)
        else:
            told = ", ".join(f"{k} = {v}" for k, v in variation.values.items())
            left_out.append(
                f"{scenario.name}{f' with {told}' if told else ''}: not on kvm, where its {seconds(variation.wait_ns)} "
                f"of waiting would take that long (limit {seconds(KVM_WAIT_LIMIT_NS)})"
            )
    if not runnable:
        raise UserError(f"{left_out[0]}; use --on model or --on lab:KERNEL")
    return runnable, left_out


def seconds(ns: int) -> str:
    return f"{ns // 10**9:,} s".replace(",", " ") if ns >= 10**9 else f"{ns} ns"
