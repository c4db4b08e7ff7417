"""The architectures that there is a model of, each with its kernels, overlays, machine and KVM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guestclock.kvm.model.arm64 import kernels as arm64_kernels
from guestclock.kvm.model.arm64 import overlays as arm64_overlays
from guestclock.kvm.model.arm64 import profile as arm64_profile
from guestclock.kvm.model.arm64.kvm import Arm64Kvm
from guestclock.kvm.model.executor import ModelKvm
from guestclock.kvm.model.hooks import Hook
from guestclock.kvm.model.overlay import Overlay
from guestclock.kvm.model.profile import AnyProfile
from guestclock.kvm.model.x86 import kernels as x86_kernels
from guestclock.kvm.model.x86 import overlays as x86_overlays
from guestclock.kvm.model.x86 import profile as x86_profile
from guestclock.kvm.model.x86.kvm import X86Kvm
from guestclock.machine import Arm64Machine, Machine, X86Machine


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of them. baseline: the kernel whose facts say what type each fact is of. choices: what facts may be."""

    name: str
    kernels: Mapping[str, AnyProfile]
    overlays: Mapping[str, Overlay]
    hooks: tuple[Hook[Any], ...]
    baseline: AnyProfile
    machine: type[Machine]
    kvm: type[ModelKvm[Any, Any]]
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


X86_64 = Architecture(
    "x86_64", x86_kernels.KERNELS, x86_overlays.OVERLAYS, x86_profile.HOOKS, x86_kernels.LINUX_6_12, X86Machine, X86Kvm,
    {"base_clock": ("raw", "boottime")},
)  # fmt: skip
ARM64 = Architecture(
    "arm64", arm64_kernels.KERNELS, arm64_overlays.OVERLAYS, arm64_profile.HOOKS, arm64_kernels.LINUX_6_12,
    Arm64Machine, Arm64Kvm, {"timer_offset_reg": ("", "always", "opt-in")},
)  # fmt: skip

ARCHITECTURES: Mapping[str, Architecture] = {arch.name: arch for arch in (X86_64, ARM64)}
