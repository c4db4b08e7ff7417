"""Records this machine's clocks as a trace: builds recorder.c, runs it, and adds what the kernel's log says."""

from __future__ import annotations

import gzip
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from guestclock.errors import Failure, UserError

SOURCE = Path(__file__).with_name("recorder.c")
CHANGED = 3
"""The recorder's exit status where NTP changed the rate meanwhile."""

_REFINED = re.compile(r"tsc: Refined TSC clocksource calibration: (\d+)\.(\d{3}) MHz")
_DETECTED = re.compile(r"tsc: Detected (\d+)\.(\d{3}) MHz (?:processor|TSC)")


def record(out: Path, seconds: float, interval_ms: float, tsc_khz: int | None = None) -> list[str]:
    """Writes the trace to `out`, gzipped if its name ends in .gz; returns what there is to say about it.

    tsc_khz: the TSC's rate as this kernel knows it; None: what its log says, if it may be read. Raises UserError for
    a missing compiler or a file that cannot be written, Failure where the recorder does not end well.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise UserError("cc: not found, needed to build the recorder (Debian package gcc); or build it elsewhere: "
                        "guestclock trace record --source")  # fmt: skip
    if not out.parent.is_dir():
        raise UserError(f"{out}: no such directory: {out.parent}")
    remarks = []
    if tsc_khz is None and platform.machine() in ("x86_64", "AMD64"):
        tsc_khz = khz_of(_log())
        if tsc_khz is None:
            remarks.append("the kernel's log does not tell the TSC's rate, so rates are not judged: give --tsc-khz")
    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "recorder"
        built = subprocess.run(
            [compiler, "-O2", "-pthread", str(SOURCE), "-o", str(program)], capture_output=True, text=True, check=False
        )
        if built.returncode:
            raise Failure(f"cc: the recorder does not build\n{built.stderr}")
        arguments = [str(program), f"{seconds:f}", f"{interval_ms:f}", *([] if tsc_khz is None else [str(tsc_khz)])]
        raw = Path(place) / "trace.csv"
        with raw.open("wb") as file:
            ran = subprocess.run(arguments, stdout=file, stderr=subprocess.PIPE, text=True, check=False)
        if ran.returncode not in (0, CHANGED):
            raise Failure(f"recorder: {ran.stderr.strip() or f'exit status {ran.returncode}'}")
        if ran.returncode == CHANGED:
            remarks.append("NTP changed the clock's rate meanwhile, so MONOTONIC is held to 500 ppm only")
        _keep(raw, out, without="# freq_ppm" if ran.returncode == CHANGED else None)
    return remarks


def khz_of(log: str) -> int | None:
    """The TSC's kHz by the lines of a kernel's log: refined, else detected."""
    found = _REFINED.search(log) or _DETECTED.search(log)
    return None if found is None else int(found[1]) * 1000 + int(found[2])


def _log() -> str:
    try:
        return subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", check=False).stdout
    except OSError:
        return ""


def _keep(raw: Path, out: Path, without: str | None) -> None:
    try:
        with raw.open("rb") as file, gzip.open(out, "wb") if out.suffix == ".gz" else out.open("wb") as kept:
            for line in file:
                if without is None or not line.startswith(without.encode()):
                    kept.write(line)
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}") from None
