"""The arm64 machine that QEMU emulates: its command line, and the device tree of one that can sleep.

Traps (lab-arm64.md; the last eight measured since, with QEMU 7.2.22):
* EL2 is there with virtualization=on only. -cpu max costs seconds (its pointer authentication), and kvm-arm.mode=
  protected panics.
* Deterministic with icount and sleep=off, an RTC on the virtual clock, dtb-randomness=off.
* shift=0, an instruction a nanosecond: virtual time is as fine as it gets, and what costs virtual time costs as little
  of it as it can. A higher shift makes the same run longer inside and no faster outside.
* Without entropy, getrandom() in 6.12 spends two virtual seconds on making some, and until then every system call
  makes a random stack offset of 10 000 instructions: randomize_kstack_offset=off, and Python's hash seed is fixed.
* 6.12 goes on testing its ciphers for seconds after boot and takes every other tick for it: cryptomgr.notests.
* A timer that is on, with a CVAL that its offset carries beyond 2^64 (the "never" of 2^64 - 1), hangs QEMU 7.2.
* The counter's period is whole nanoseconds: 10^9 // CNTFRQ. `cntfrq=` makes CNTFRQ_EL0 say anything, so a counter that
  truly has 62.5 MHz can be believed to be an odd one; kernel and guests know of the other rate nothing.
* A PCI resource smaller than a page lies anywhere in one, and is mapped by pages: resource_alignment.
* Suspend-to-idle needs an idle state in the device tree, which QEMU's has not, and GICv2: a GICv3 with a single
  security state is switched off by an idle CPU, and nothing wakes it any more.
* A second CPU comes up by itself. As on x86, runs are the same to the last bit while only one is busy.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

from guestclock.errors import UserError
from guestclock.lab import fdt
from guestclock.lab.qemu import Machine
from guestclock.lab.tools import LabError

ODD_COUNTER_HZ = 62_499_871
"""What CNTFRQ_EL0 says unless asked otherwise. At 62.5 MHz a tick is 16 ns to the last digit, and no rounding shows."""

COUNTER_HZ_MOST = 10**9


@dataclass(frozen=True)
class Cpu:
    """What a machine's CPU is called by QEMU, and what its kernel is told."""

    model: str
    words: tuple[str, ...] = ()


CPUS: Mapping[str, Cpu] = MappingProxyType(
    {
        "neoverse-n1": Cpu("neoverse-n1"),
        "neoverse-n1-nvhe": Cpu("neoverse-n1", ("kvm-arm.mode=nvhe",)),
        "cortex-a72": Cpu("cortex-a72"),
    }
)
"""By the name that a lab is given: VHE, the same without it by choice, and one that has none."""

DEFAULT_CPU = "neoverse-n1"


@dataclass(frozen=True, kw_only=True)
class Arm64Machine(Machine):
    """One with EL2. sleeps: it has a GICv2, and an idle state for suspend-to-idle."""

    cpu: str = DEFAULT_CPU
    counter_hz: int = ODD_COUNTER_HZ
    sleeps: bool = False

    def __post_init__(self) -> None:
        if self.cpu not in CPUS:
            raise UserError(f"lab: cpu {self.cpu!r}: expected one of {', '.join(CPUS)}")
        if not 1 <= self.counter_hz <= COUNTER_HZ_MOST:
            raise UserError(f"lab: counter_hz {self.counter_hz}: expected 1 to {COUNTER_HZ_MOST}")

    def that_sleeps(self) -> Arm64Machine:
        return replace(self, sleeps=True)

    def board(self) -> list[str]:
        cpu = f"{CPUS[self.cpu].model},cntfrq={self.counter_hz}"
        return ["-machine", self._virt(), "-accel", "tcg", "-cpu", cpu]

    def kernel_words(self) -> list[str]:
        words = ["console=ttyAMA0", "randomize_kstack_offset=off", "cryptomgr.notests"]
        return [*words, "pci=resource_alignment=12@pci:1b36:0011", *CPUS[self.cpu].words]

    def _virt(self) -> str:
        return f"virt,virtualization=on,gic-version={2 if self.sleeps else 3},dtb-randomness=off"

    def device_tree(self, start: Sequence[str]) -> bytes:
        if not self.sleeps:
            return b""
        return with_idle_state(_qemu_s_tree(tuple(start), self._virt(), self.smp, self.memory_mib))


def with_idle_state(blob: bytes) -> bytes:
    """A device tree in which every CPU has one idle state, which loses nothing: PSCI's standby."""
    tree = fdt.read(blob)
    cpus, phandle = tree.root.child("cpus"), tree.free_phandle()
    for cpu in cpus.children:
        if cpu.name.startswith("cpu@"):
            cpu.properties["cpu-idle-states"] = fdt.cells(phandle)
            cpu.properties.setdefault("enable-method", fdt.string("psci"))
    standby = {
        "compatible": fdt.string("arm,idle-state"),
        "arm,psci-suspend-param": fdt.cells(1),
        "entry-latency-us": fdt.cells(10),
        "exit-latency-us": fdt.cells(10),
        "min-residency-us": fdt.cells(100),
        "phandle": fdt.cells(phandle),
    }
    cpus.children.append(
        fdt.Node("idle-states", {"entry-method": fdt.string("psci")}, [fdt.Node("cpu-standby", standby)])
    )
    return fdt.write(tree)


@cache
def _qemu_s_tree(start: tuple[str, ...], board: str, smp: int, memory_mib: int) -> bytes:
    """The device tree that QEMU makes for such a machine."""
    with tempfile.TemporaryDirectory(prefix="guestclock-lab-") as work:
        blob = Path(work) / "dtb"
        machine = ["-machine", f"{board},dumpdtb={blob}", "-cpu", CPUS[DEFAULT_CPU].model, "-nodefaults"]
        command = [*start, *machine, "-smp", str(smp), "-m", str(memory_mib), "-display", "none"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not blob.exists():
            raise LabError(f"lab: QEMU made no device tree (status {done.returncode}): {done.stderr.strip()}")
        return blob.read_bytes()
