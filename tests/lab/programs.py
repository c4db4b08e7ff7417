"""What each kernel plays: every built-in scenario that a lab can show, and sequences made by hand."""

from __future__ import annotations

import json
from typing import Any

from guestclock.lab.boot import program_sleeps
from guestclock.scenario import load, names
from guestclock.scenario.document import HostTable

S = 10**9
OUR_HOST = {"options": {"host_ops_allowed": True}}
UPTIME_S = 200
KHZ_ABOVE = 3_000_000

Program = dict[str, Any]
Step = dict[str, Any]


def program(*steps: Step, vcpus: int = 2, boot: bool = False) -> Program:
    return {"program": "steps", "vcpus": vcpus, "kvmclock": "new", "boot": boot, "steps": list(steps), **OUR_HOST}


def vmm(do: str, **keys: Any) -> Step:
    return {"actor": "vmm", "do": do, "say": do, **keys}


def probe() -> Step:
    """Do all TSCs match? KVM_SET_CLOCK takes a new snapshot and decides; the look after it reads the flags."""
    return vmm("set-clock", value=[["int", S]])


def tsc(vcpu: int, seconds: float) -> list[Step]:
    value = [["ns", round(seconds * S)]]
    return [vmm("set-tsc", vcpus=[vcpu], value=value), vmm("get-tsc-offset", vcpus=[0]), probe()]


def offset(vcpu: int, cycles: int) -> list[Step]:
    return [vmm("set-tsc-offset", vcpus=[vcpu], value=[["int", cycles]]), probe()]


def sequences() -> dict[str, Program]:
    """kvm-x86.md 9.3; a is vCPU 0, b is vCPU 1."""
    a, b = 0, 1
    return {
        "fresh": program(
            probe(), *tsc(a, 5), *tsc(b, 5.5), *tsc(b, 7), *tsc(a, 6.5), *tsc(b, 0), *tsc(a, 7)
        ),
        "young": program(probe(), *tsc(a, 0.25), *tsc(b, 0.25)),
        "attribute": program(probe(), *offset(a, 123), *offset(b, 123), *offset(b, 124), *offset(a, 124)),
        "create-between": program(*tsc(a, 5), vmm("create-vcpu"), *tsc(b, 5.01), vcpus=1),
        "create-first": program(*tsc(a, 5), *tsc(b, 5.01)),
        "khz": program(probe(), vmm("set-tsc-khz", vcpus=[a], khz=KHZ_ABOVE), *tsc(a, 0), *tsc(b, 0)),
    }  # fmt: skip


def hotplug() -> Program:
    wait = vmm("wait", value=[["ns", UPTIME_S * S]])
    return program(wait, vmm("run"), vmm("create-vcpu"), vmm("run"), vmm("run"), boot=True)


def upheaval() -> Program:
    """Leaves the host on another clocksource, 5 s ahead, its clock slewed: no other program may meet it so."""
    host = {"actor": "host", "say": "host"}
    return program(
        {**host, "do": "clocksource", "to": "hpet"},
        {**host, "do": "step-realtime", "value": [["ns", 5 * S]]},
        {**host, "do": "adjust-frequency", "ppb": 100_000},
    )


def scenarios() -> dict[str, tuple[str, Program]]:
    """Scenario's name and program of every variation on the lab's own host, by a name for the two."""
    found = {}
    for name in names():
        scenario = load(name)
        for variation in scenario.variations:
            host = variation.host
            if not isinstance(host, HostTable) or "lab:6.12" not in scenario.on:
                continue
            if program_sleeps(variation.program):  # test_sleep's
                continue
            if host.tsc_khz in (None, 2_596_122) and host.cpus is None:
                told = f"{name} {json.dumps(variation.values)}" if variation.values else name
                found[told] = (name, {"program": "steps", **variation.program, **OUR_HOST})
    return found


SCENARIOS = scenarios()
SEQUENCES = sequences()
PROGRAMS: dict[str, Program] = {
    "probe": {"program": "probe"},
    "classify": {"program": "classify"},
    "unknown": {"program": "nonsense"},
    "mistaken": {"program": "steps", "vcpus": 1, "steps": [], "options": {"no-such": True}},
    "upheaval": upheaval(),
    "probe again": {"program": "probe"},
    "hotplug": hotplug(),
    **SEQUENCES,
    **{name: played for name, (_, played) in SCENARIOS.items()},
}
