"""The machine that QEMU emulates: its command line. x86's is here, arm64's in `arm64`.

Traps (lab-x86.md sections 1, 2, 5; the last two measured since, with QEMU 7.2.22):
* Virtual time is deterministic only with all of: icount with sleep=off, a fixed RTC on the virtual clock, a seed,
  nokaslr, output to files (no stdio, sockets, agent), identical initrd bytes. Stdio, or fresh mtimes, broke it.
* `sleep=off` skips idle time: an hour of sleep inside costs about a second. The thread that skips it can look at the
  clock between a CPU's HLT and the accounting of the instructions before it: then time jumps that much too far. It
  happens about once in a thousand sleeps, oftener on a busy host. While a run is recorded (`rr=record`) the two take
  turns: the recording goes nowhere, it is the turns that we want. Machines with more than one CPU cannot be recorded.
* More than one CPU needs `tsc=reliable`, or 6.1 marks the TSC unstable at boot (a ready-made "no masterclock" host).
* Under icount the TSC runs at exactly 1 GHz of virtual time, where raw clock and pvclock page do not drift: comparing
  them proves nothing. `tsc_early_khz` makes the kernel believe an odd frequency. Its clocks then run slower than
  QEMU's devices by that factor (1 s of CLOCK_MONOTONIC is 2.596 s of RTC time).
* Timings differ between QEMU versions, kernels, and with any change of the initrd: assert relations, not readings.
* Under icount CPU 1 gets a turn only when CPU 0 halts or executes PAUSE: CPU 0 runs up to the next timer, and then
  nothing of the slice is left. Linux 6.1 hangs at "Booting SMP configuration" for that, so /init brings other CPUs
  up. What is left is a race of QEMU's threads: while two CPUs are busy, runs differ by microseconds up to a tick.
  Bit-identical is promised for one CPU only; a KVM with many vCPUs runs well on it.
* A machine that is being recorded can hang for good on its way out of S3: resetting it, the main loop waits for the
  CPU's thread while it is its own turn. Machines that sleep are not recorded. They, like the boot, run on one CPU of
  ours instead: where QEMU's threads are never side by side, that jump of time is about 30 times as rare.
* A PAUSE costs about half a microsecond of wall time where there is icount. Calibrating the local APIC's timer is one
  long PAUSE loop (7 s): `nolapic_timer` skips it, the HPET does its work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from guestclock.errors import UserError
from guestclock.lab import sleep_rom

CLOCKSOURCES = ("tsc", "hpet", "acpi_pm")
"""What an x86 lab's kernel can keep time by. Where its TSC is unstable, "tsc" is what it would rather have."""

ICOUNT_SHIFT = 0
"""An instruction is 2 to this power ns of virtual time."""


@dataclass(frozen=True, kw_only=True)
class Machine(ABC):
    """An emulated machine that a hypervisor can run on."""

    smp: int
    memory_mib: int
    deterministic: bool
    extra_cmdline: str

    @abstractmethod
    def board(self) -> list[str]:
        """QEMU's words for board and CPU."""

    @abstractmethod
    def kernel_words(self) -> list[str]:
        """What this machine's kernel is told."""

    def device_tree(self, start: Sequence[str]) -> bytes:
        """The device tree to boot with, where QEMU's own will not do; else nothing. start: how QEMU is started."""
        return b""

    def rom(self) -> bytes:
        """A ROM that the machine's firmware shall know of; nothing for most machines."""
        return b""

    def that_sleeps(self) -> Machine:
        """The machine for a program that puts it to sleep."""
        return self

    @property
    def recordable(self) -> bool:
        """Whether QEMU can record this machine's runs."""
        return self.deterministic and self.smp == 1

    def kernel_command_line(self) -> str:
        own = [self.extra_cmdline] if self.extra_cmdline else []
        return " ".join(["quiet", "panic=-1", "nokaslr", "norandmaps", "nowatchdog", *self.kernel_words(), *own])

    def hardware(self, *, recorded: bool = False) -> list[str]:
        """QEMU's words for the machine itself. recorded: see above; while it is, it cannot be copied."""
        command = ["-nodefaults", "-no-user-config", *self.board(), "-smp", str(self.smp), "-m", str(self.memory_mib)]
        if self.deterministic:
            icount = f"shift={ICOUNT_SHIFT},sleep=off"
            if recorded and self.recordable:
                icount += ",rr=record,rrfile=/dev/null"
            command += ["-icount", icount, "-rtc", "base=2025-01-01T00:00:00,clock=vm", "-seed", "1"]
        return [*command, "-display", "none", "-net", "none", "-no-reboot"]

    def boots(self, *, kernel: str, initrd: str, device_tree: str | None = None, rom: str | None = None) -> list[str]:
        """QEMU's words for what it boots, by path."""
        words = ["-kernel", kernel, "-initrd", initrd, "-append", self.kernel_command_line()]
        if device_tree is not None:
            words += ["-dtb", device_tree]
        return words if rom is None else [*words, *sleep_rom.words(rom)]


@dataclass(frozen=True, kw_only=True)
class X86Machine(Machine):
    """One with AMD's SVM.

    tsc_khz: what its kernel believes of its TSC; None: it calibrates. clocksource: what that keeps time by.
    tsc_unstable: it does not trust the TSC, from the first. sleeps: it goes to S3.
    """

    tsc_khz: int | None
    clocksource: str = "tsc"
    tsc_unstable: bool = False
    sleeps: bool = False

    def __post_init__(self) -> None:
        if self.clocksource not in CLOCKSOURCES:
            raise UserError(f"lab: clocksource {self.clocksource!r}: expected one of {', '.join(CLOCKSOURCES)}")

    def that_sleeps(self) -> X86Machine:
        return replace(self, sleeps=True)

    def rom(self) -> bytes:
        return sleep_rom.rom() if self.sleeps and self.deterministic else b""

    @property
    def recordable(self) -> bool:
        return super().recordable and not self.sleeps

    def board(self) -> list[str]:
        return ["-machine", "pc", "-accel", "tcg", "-cpu", "max", "-vga", "none"]

    def kernel_words(self) -> list[str]:
        words = ["console=ttyS0", "tsc=unstable" if self.tsc_unstable else "tsc=reliable"]
        if self.deterministic:
            words += ["maxcpus=1", "nolapic_timer"]
        if self.clocksource != "tsc":
            words.append(f"clocksource={self.clocksource}")
        return words if self.tsc_khz is None else [*words, f"tsc_early_khz={self.tsc_khz}"]
