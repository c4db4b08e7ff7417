"""What differs between labs of two architectures, as data: packages, places inside, the emulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from guestclock.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Arch:
    """An architecture that labs can be of."""

    name: str
    """As a user says it."""
    machine: str
    """As a machine says it of itself (uname -m)."""
    debian: str
    """As Debian's packages say it."""
    triplet: str
    """The directory of its libraries."""
    loader: str
    """Where its programs expect their dynamic loader."""
    modules: tuple[str, ...]
    """Kernel modules that init loads; KVM where it is not built in."""
    other_modules: tuple[str, ...]
    """There, but not loaded by init."""
    qemu: str
    """The emulator's program."""
    qemu_packages: tuple[str, ...]
    """The packages it is in, the one that names its version first; what they depend on comes with them."""
    qemu_data: tuple[str, ...]
    """Where it finds its firmware."""

    def kept(self, name: str) -> str:
        """The name of something of this architecture's in the lab's cache. x86 was the first, and has no prefix."""
        return name if self is X86 else f"{self.name}-{name}"


X86 = Arch(
    name="x86",
    machine="x86_64",
    debian="amd64",
    triplet="x86_64-linux-gnu",
    loader="lib64/ld-linux-x86-64.so.2",
    modules=("kvm_amd",),
    # lets a QMP system_powerdown wake the lab from s2idle
    other_modules=("button",),
    qemu="qemu-system-x86_64",
    qemu_packages=("qemu-system-x86", "seabios"),
    qemu_data=("usr/share/qemu", "usr/share/seabios"),
)

ARM64 = Arch(
    name="arm64",
    machine="aarch64",
    debian="arm64",
    triplet="aarch64-linux-gnu",
    loader="lib/ld-linux-aarch64.so.1",
    modules=(),
    other_modules=(),
    qemu="qemu-system-aarch64",
    qemu_packages=("qemu-system-arm",),
    qemu_data=("usr/share/qemu",),
)

ARCHES: Mapping[str, Arch] = MappingProxyType({arch.name: arch for arch in (X86, ARM64)})


def arch_of(name: str) -> Arch:
    """The architecture of that name, its own or the machines'. Raises UserError with the names there are."""
    for arch in ARCHES.values():
        if name in (arch.name, arch.machine):
            return arch
    raise UserError(f"lab: architecture {name!r}: expected {' or '.join(ARCHES)}")
