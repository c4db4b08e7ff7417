"""What kind of host is this? Told by what its KVM does, never by its version or by what it says it can do."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from guestclock.arith.kernel import clocks_calc_mult_shift, kvm_get_time_scale
from guestclock.errors import UserError
from guestclock.inspect.probe import Observations, WriteProbe, observe
from guestclock.kvm.api import Host, Op, drive
from guestclock.kvm.device import open_device


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The answers by which kernels differ. None: not observed here."""

    clock_flags: int | None
    """Flags KVM_GET_CLOCK can set: 2, since 5.16 (c68dc1b577ea) 14."""
    offset_attribute: bool | None
    """KVM_VCPU_TSC_OFFSET exists: since 5.16 (828ca89628bf)."""
    vm_khz: str | None
    """KVM_SET_TSC_KHZ on a VM: absent; always since 5.18 (ffbb61d09fc5); first, before vCPUs only, since 6.17."""
    guest_write_unmatches: bool | None
    """A guest's TSC write goes through matching: until 5.9 (0c899c25d754)."""
    young_write_matched: bool | None
    """A first write within 1 s of the creation's is corrected: until 6.6 (bf328e22e472)."""
    hotplug_resnapshots: bool | None
    """A new vCPU re-snapshots the masterclock: 3.19 to 6.7 (c52ffadc65e2)."""
    delayed_update: bool | None
    """Pages are written once more 100 ms after a vCPU's first run: until 6.18 (43ddbf16edf5)."""


_5_4 = Behaviour(2, False, "absent", True, True, True, True)
_5_10 = Behaviour(2, False, "absent", False, True, True, True)
_5_16 = Behaviour(14, True, "absent", False, True, True, True)
_5_18 = Behaviour(14, True, "always", False, True, True, True)
_6_7 = Behaviour(14, True, "always", False, False, True, True)
_6_8 = Behaviour(14, True, "always", False, False, False, True)
_6_17 = Behaviour(14, True, "first", False, False, False, True)
_6_19 = Behaviour(14, True, "first", False, False, False, False)

KERNELS: dict[str, Behaviour] = {
    "linux-5.4": _5_4,
    "linux-5.10": _5_10,
    "linux-5.15": _5_10,
    "linux-5.16": _5_16,
    "linux-6.1": _5_18,
    "linux-6.7": _6_7,
    "linux-6.8": _6_8,
    "linux-6.12": _6_8,
    "linux-6.18": _6_17,
    "linux-6.19": _6_19,
    "linux-7.2": _6_19,
}
"""Upstream kernels by behaviour. A distribution's kernel may stand between two of them."""

_WORDS: dict[str, Callable[[Any], str]] = {
    "clock_flags": lambda v: f"KVM_CAP_ADJUST_CLOCK is {v}",
    "offset_attribute": lambda v: f"KVM_VCPU_TSC_OFFSET {'exists' if v else 'does not exist'}",
    "vm_khz": lambda v: {
        "absent": "KVM_SET_TSC_KHZ is refused on a VM",
        "always": "KVM_SET_TSC_KHZ is accepted on a VM that has vCPUs",
        "first": "KVM_SET_TSC_KHZ is accepted on a VM before its first vCPU only",
    }[v],
    "guest_write_unmatches": lambda v: f"a guest's TSC write {'turns' if v else 'does not turn'} the masterclock off",
    "young_write_matched": lambda v: (
        f"a first TSC write of 0.25 s {'counts as in sync' if v else 'opens a new generation'}"
    ),
    "hotplug_resnapshots": lambda v: f"a new vCPU {'gives' if v else 'does not give'} the pages a new snapshot",
    "delayed_update": lambda v: f"a page is {'written again' if v else 'not written again'} 100 ms after the first run",
}


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A kernel that this host's is not, and what showed it."""

    kernel: str
    evidence: list[str]


@dataclass(frozen=True, slots=True)
class HostReport:
    """A host as a VMM meets it. Plain data; `as_json` and `lines` are for those who print.

    tsc_writes: what becomes of a write to a guest's TSC: honoured, ignored, refused, or astray. fits: kernel profiles
    that nothing observed excludes ("pvm": a kernel's bookkeeping over TSCs that cannot be moved). rules_like: kernels
    with the same bookkeeping, offsets aside. unknown: behaviours that could not be observed, and why.
    """

    observations: Observations
    behaviour: Behaviour
    tsc_writes: str
    fits: list[str]
    rules_like: list[str]
    excluded: list[Exclusion]
    unknown: list[str]
    follows: list[str]
    meta: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The verdict first, then what was seen, then what was excluded, then what follows."""
        told = [f"this host  {', '.join(self.fits) or 'no profile known here'}"]
        if self.fits == ["pvm"]:
            told.append(f"bookkeeping as in  {', '.join(self.rules_like) or 'no kernel known here'}")
        told += [f"{name}  {value}" for name, value in self.meta.items()]
        told += ["", "seen", *(f"  {line}" for line in _seen(self.observations, self.behaviour))]
        told += [f"  not seen: {line}" for line in self.unknown]
        told += ["", "excluded", *(f"  {line}" for line in _excluded(self.excluded))]
        told += ["", "what follows for a VMM", *(f"  {line}" for line in self.follows)]
        return told


def classify(execute: Callable[[Op], Any] | None = None) -> HostReport:
    """Puts the questions to an executor, or to this machine's KVM. Raises UserError where there is none."""
    if execute is not None:
        return conclude(drive(observe(Host()), execute))
    if platform.machine() != "x86_64":
        raise UserError(f"host: this machine is {platform.machine()}: the questions asked are those of x86_64")
    with open_device(lambda event: None, trace=False) as kvm:
        return conclude(drive(observe(Host()), kvm.execute), kvm.meta())


def conclude(seen: Observations, meta: dict[str, Any] | None = None) -> HostReport:
    """The classification itself, from what was observed alone."""
    behaviour, unknown = _behaviour(seen)
    writes = _tsc_writes(seen)
    rules_like, excluded = [], []
    for kernel, expected in KERNELS.items():
        evidence = _differences(behaviour, expected)
        if evidence:
            excluded.append(Exclusion(kernel, evidence))
        else:
            rules_like.append(kernel)
    fits = rules_like
    if writes == "ignored":
        why = [_write_line("a write to the guest's TSC", seen.tsc_msr)]
        excluded += [Exclusion(kernel, why) for kernel in rules_like]
        fits = ["pvm"]
    else:
        excluded.append(Exclusion("pvm", [f"writes to a guest's TSC are {writes}"]))
        if writes != "honoured":
            excluded += [Exclusion(kernel, [f"writes to a guest's TSC are {writes}"]) for kernel in rules_like]
            fits = []
    follows = _follows(seen, behaviour, writes)
    return HostReport(seen, behaviour, writes, fits, rules_like, excluded, unknown, follows, meta or {})


def _tsc_writes(seen: Observations) -> str:
    """One word for both ways to write; where they differ, the worse."""
    verdicts = {seen.tsc_msr.verdict} | ({seen.offset_attribute.verdict} if seen.offset_attribute else set())
    return next(v for v in ("astray", "refused", "ignored", "honoured") if v in verdicts)


def _behaviour(seen: Observations) -> tuple[Behaviour, list[str]]:
    why = "the host did not let it be asked" if seen.masterclock else "this host gives guests no masterclock"
    asked_by_masterclock = ("guest_write_unmatches", "young_write_matched", "hotplug_resnapshots")
    unknown = [f"{name}: {why}" for name in asked_by_masterclock if getattr(seen, name) is None]
    vm_khz = "absent"
    if seen.vm_khz_before == "accepted":
        vm_khz = "always" if seen.vm_khz_after == "accepted" else "first"
    first, at_once, later = seen.page_versions
    delayed: bool | None = later != at_once
    if first != at_once or not seen.masterclock:
        # Without a masterclock, or when vCPUs are moved about, pages are rewritten for other reasons.
        delayed = None
        unknown.append(f"delayed_update: page versions {first}, {at_once}, {later}: pages change for other reasons too")
    flags = seen.capabilities["ADJUST_CLOCK"]
    return Behaviour(
        flags,
        seen.offset_attribute is not None,
        vm_khz,
        seen.guest_write_unmatches,
        seen.young_write_matched,
        seen.hotplug_resnapshots,
        delayed,
    ), unknown


def _differences(here: Behaviour, there: Behaviour) -> list[str]:
    told = []
    for name, words in _WORDS.items():
        ours, theirs = getattr(here, name), getattr(there, name)
        if ours is not None and ours != theirs:
            told.append(words(ours))
    return told


def _seen(seen: Observations, behaviour: Behaviour) -> list[str]:
    first, at_once, later = seen.page_versions
    told = [
        f"TSC {seen.tsc_khz} kHz, scaling {'yes' if seen.capabilities['TSC_CONTROL'] else 'no'}",
        f"KVM_GET_CLOCK flags {seen.flags_before_run} before the first run, {seen.flags_after_run} after",
        _write_line("MSR_IA32_TSC", seen.tsc_msr),
    ]
    if seen.offset_attribute is not None:
        told.append(_write_line("KVM_VCPU_TSC_OFFSET", seen.offset_attribute))
    for name, words in _WORDS.items():
        value = getattr(behaviour, name)
        if value is not None:
            told.append(words(value) + (f" (versions {first}, {at_once}, {later})" if name == "delayed_update" else ""))
    return told


def _excluded(excluded: list[Exclusion]) -> list[str]:
    """One line for all kernels that the same evidence excludes."""
    kernels: dict[str, list[str]] = {}
    for exclusion in excluded:
        kernels.setdefault("; ".join(exclusion.evidence), []).append(exclusion.kernel)
    return [f"{', '.join(names)}: {evidence}" for evidence, names in kernels.items()]


def _write_line(what: str, probe: WriteProbe) -> str:
    if probe.moved is None:
        return f"{what}: refused ({probe.errno})"
    least, most = probe.moved
    said = "" if probe.said is None else f", KVM says it moved by {probe.said}"
    return f"{what}: {probe.verdict}: asked to move {probe.asked} cycles, RDTSC moved by {least}..{most}{said}"


def drift_ppb(tsc_khz: int) -> float:
    """ns per second by which the host's raw clock outruns a guest's page: the step of a re-snapshot, per second.

    tsc_khz: the host's; the guest's is the same (no scaling). Only for telling: a float.
    """
    mult, shift = clocks_calc_mult_shift(tsc_khz)
    page_shift, page_mul = kvm_get_time_scale(1_000_000_000, tsc_khz * 1000)
    ahead = Fraction(mult, 1 << shift) - Fraction(page_mul, 1 << 32) * Fraction(2) ** page_shift
    return float(ahead * tsc_khz * 1000)


def _follows(seen: Observations, behaviour: Behaviour, writes: str) -> list[str]:
    told = []
    if writes == "honoured":
        how = "KVM_VCPU_TSC_OFFSET" if seen.offset_attribute else "MSR_IA32_TSC (values within 1 s count as in sync)"
        told.append(f"A guest's TSC can be restored: by {how}.")
    elif writes == "ignored":
        told.append(
            "A guest's TSC is the host's, whatever is written: calls succeed and change nothing. After a restore on "
            "another host, or after this one was rebooted, it jumps by the difference of the two hosts' TSCs."
        )
        told.append("Let guests keep time by kvmclock, and restore it with KVM_SET_CLOCK; the TSC cannot be frozen.")
    else:
        told.append(f"Writes to a guest's TSC are {writes}: do not restore a snapshot here that depends on one.")
    if not seen.masterclock:
        told.append(
            "No masterclock: pages lack the STABLE flag, guests' clock reads leave the vDSO for a system call, and "
            "KVM_GET_CLOCK gives no realtime and host TSC to pair with the clock."
        )
    elif behaviour.clock_flags is not None and not behaviour.clock_flags & 4:
        told.append("KVM_GET_CLOCK pairs kvmclock with no realtime: downtime has to be measured by the VMM itself.")
    step = drift_ppb(seen.tsc_khz)
    if step:
        told.append(f"Each new snapshot of the masterclock steps kvmclock by {step:+.3f} ns per second since the last.")
    if behaviour.hotplug_resnapshots:
        told.append("Plugging in a vCPU takes such a snapshot (until 6.7).")
    if behaviour.young_write_matched:
        told.append(
            "A guest younger than 1 s cannot be restored by MSR_IA32_TSC: its value is taken for the creation's."
        )
    if behaviour.vm_khz == "first":
        told.append("Set the VM's TSC rate before its first vCPU is created; later it is refused.")
    elif behaviour.vm_khz == "always":
        told.append(
            "Set the VM's TSC rate before its first vCPU is created; later it succeeds and they keep the old one."
        )
    if not seen.capabilities["TSC_CONTROL"]:
        told.append(
            "No TSC scaling: beyond 250 ppm a lower TSC rate is refused, and a higher one is only made up for at exits."
        )
    return told
