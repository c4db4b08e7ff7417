"""What machines answer to the counter benchmark: samples as a lab's kernels gave them, but few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guestclock.runs.timed import Timed

Counts = list[tuple[int, int]]

X86: dict[str, Counts] = {
    "empty": [(6, 1000)],
    "rdtsc": [(10, 1000)],
    "tsc-clocksource": [(27, 1000)],
    "kvm-clock": [(46, 1000)],
    "empty-ring0": [(6, 1000)],
    "rdmsr-tsc": [(2854, 999), (17_000, 1)],
}
"""In the order of the lines; the last, RDMSR, exits each time."""

ARM64: dict[str, Counts] = {
    "empty": [(0, 13), (1, 3)],
    "cntvct": [(0, 12), (1, 4)],
    "cntpct": [(0, 12), (1, 4)],
    "cntpct-offset": [(15, 16)],
}

_META = {
    "x86_64": {"counter_hz": 2_596_122_000, "kernel": "6.12.117+deb12-cloud-amd64", "tsc_khz": 2_596_122},
    "arm64": {"counter_hz": 62_499_871, "kernel": "6.12.117+deb12-cloud-arm64", "arch": "arm64"},
}


def lines(counts: Mapping[str, Counts]) -> list[dict[str, Any]]:
    """What `guestclock.kvm.device.bench.run_bench` emits."""
    arch = "arm64" if "cntvct" in counts else "x86_64"
    told: list[dict[str, Any]] = [{"bench": "counter", "on": "kvm", **_META[arch]}]
    for name, samples in counts.items():
        n = sum(n for _, n in samples)
        trapped = n if name.startswith("rdmsr") else 0
        told.append({"read": name, "counts": samples, "exits": trapped, "emulated": 0 if arch == "x86_64" else None})
    return told


def reads(counts: Mapping[str, Counts]) -> dict[str, Timed]:
    return {line["read"]: Timed.from_json(line) for line in lines(counts)[1:]}
