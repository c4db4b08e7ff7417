"""The machine that QEMU emulates: its command line.

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
* A PAUSE costs about half a microsecond of wall time where there is icount. Calibrating the local APIC's timer is one
  long PAUSE loop (7 s): `nolapic_timer` skips it, the HPET does its work.
"""

from __future__ import annotations

from dataclasses import dataclass

ICOUNT_SHIFT = 0
"""An instruction is 2 to this power ns of virtual time."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """An emulated machine with AMD's SVM."""

    smp: int
    tsc_khz: int | None
    memory_mib: int
    deterministic: bool
    extra_cmdline: str

    def kernel_command_line(self) -> str:
        words = ["console=ttyS0", "quiet", "panic=-1", "nokaslr", "norandmaps", "nowatchdog", "tsc=reliable"]
        if self.deterministic:
            words += ["maxcpus=1", "nolapic_timer"]
        if self.tsc_khz is not None:
            words.append(f"tsc_early_khz={self.tsc_khz}")
        if self.extra_cmdline:
            words.append(self.extra_cmdline)
        return " ".join(words)

    def hardware(self, *, recorded: bool = False) -> list[str]:
        """QEMU's words for the machine itself. recorded: see above; while it is, it cannot be copied."""
        command = ["-nodefaults", "-no-user-config", "-machine", "pc", "-accel", "tcg"]
        command += ["-cpu", "max", "-smp", str(self.smp), "-m", str(self.memory_mib)]
        if self.deterministic:
            icount = f"shift={ICOUNT_SHIFT},sleep=off"
            if recorded and self.smp == 1:
                icount += ",rr=record,rrfile=/dev/null"
            command += ["-icount", icount, "-rtc", "base=2025-01-01T00:00:00,clock=vm", "-seed", "1"]
        return [*command, "-display", "none", "-vga", "none", "-net", "none", "-no-reboot"]

    def boots(self, *, kernel: str, initrd: str) -> list[str]:
        """QEMU's words for what it boots, by path."""
        return ["-kernel", kernel, "-initrd", initrd, "-append", self.kernel_command_line()]
