"""One QEMU process: its command line, and its end, which is always ours to bring about.

Traps (lab-x86.md sections 1, 2, 5; the last two measured since, with QEMU 7.2.22):
* Virtual time is deterministic only with all of: icount with sleep=off, a fixed RTC on the virtual clock, a seed,
  nokaslr, output to files (no stdio, sockets, agent), identical initrd bytes. Stdio, or fresh mtimes, broke it.
* `sleep=off` skips idle time: an hour of sleep inside costs about a second.
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

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guestclock.lab.tools import LabError

CONSOLE = "console.txt"
RESULTS = "results.txt"


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

    def arguments(self, *, kernel: Path, initrd: Path, output: Path) -> list[str]:
        """What QEMU is started with. `output`: directory for what the two serial ports write."""
        command = ["-nodefaults", "-no-user-config", "-machine", "pc", "-accel", "tcg"]
        command += ["-cpu", "max", "-smp", str(self.smp), "-m", str(self.memory_mib)]
        if self.deterministic:
            command += ["-icount", "shift=0,sleep=off", "-rtc", "base=2025-01-01T00:00:00,clock=vm", "-seed", "1"]
        command += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", self.kernel_command_line()]
        command += ["-serial", f"file:{output / CONSOLE}", "-serial", f"file:{output / RESULTS}"]
        command += ["-display", "none", "-vga", "none", "-net", "none", "-monitor", "none", "-no-reboot"]
        return command


def run(command: Sequence[str], *, timeout_s: float) -> None:
    """Run QEMU to its end; `LabError` when it does not come to one in time or does not start."""
    arguments = list(command)
    setpriv = shutil.which("setpriv")
    if setpriv is not None:  # ends QEMU even when we are killed and cannot
        arguments = [setpriv, "--pdeathsig", "KILL", *arguments]
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise LabError(f"lab: still running after {timeout_s:g} s") from None
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise LabError(f"lab: QEMU failed (status {process.returncode}): {errors.decode(errors='replace').strip()}")
