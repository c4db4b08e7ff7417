"""The benchmark's table as it is printed, and as JSON."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from typing import Any

import pytest
from rich.console import Console

from guestclock.report.bench_counter import THREAD, amount, document, notes, ratio, show, write
from guestclock.runs.bench import INSTRUCTIONS, NS, Benched
from guestclock.runs.on import parse_on
from guestclock.runs.timed import Timed
from tests.runs.readings import ARM64, X86, lines, reads


def benched(on: str, counts: dict[str, Any], *, unit: str = INSTRUCTIONS, per_tick: int | Fraction = 1) -> Benched:
    meta, *_ = lines(counts)
    return Benched(parse_on(on), unit, Fraction(per_tick), meta, reads(counts))


def printed(*machines: Benched) -> list[str]:
    out = io.StringIO()
    show(Console(file=out, width=160, highlight=False), machines)
    return [line.rstrip() for line in out.getvalue().splitlines()]


X86_TABLE = """\
lab:6.12 · 6.12.117+deb12-cloud-amd64 · 1 000 reads of each · instructions

                             average  std dev  95th pct  minimum  outliers  itself
 ─────────────────────────────────────────────────────────────────────────────────
 empty               native        6        0         6        6
 RDTSC               native       10        0        10       10                 4
 empty, ring 0       native        6        0         6        6
 RDMSR IA32_TSC      exits     2 868    447.1     2 854    2 854         1   2 848
   trapped − native            2 858              2 844    2 844             2 844
   trapped / native            286.8              285.4    285.4             712.0
 TSC clocksource     native       27        0        27       27                21
 kvm-clock           native       46        0        46       46                40
   two − one                      19                 19       19                19
   two / one                     1.7                1.7      1.7               1.9
"""

ARM64_TABLE = """\
lab:6.12:neoverse-n1 · 6.12.117+deb12-cloud-arm64 · VHE · 16 reads of each · instructions

                              average  std dev  95th pct  minimum  outliers  itself
 ──────────────────────────────────────────────────────────────────────────────────
 empty               native         3      6.2        16        0
 CNTVCT_EL0          native         4      6.9        16        0                 1
 CNTPCT_EL0          native         4      6.9        16        0                 1
 CNTPCT_EL0, offset  trapped      240        0       240      240               237
   trapped − native               236                224      240               236
"""


def test_an_x86_machines_table() -> None:
    told = printed(benched("lab:6.12", X86))
    assert told[: len(X86_TABLE.splitlines())] == X86_TABLE.splitlines()
    assert "RDMSR IA32_TSC: 1 000 exits in 1 000 reads, by KVM's count." in told
    assert "Beyond RDTSC alone, a TSC clocksource's one conversion takes 17 instructions, kvm-clock's two 36." in told
    assert any(line.startswith("In the lab an instruction takes 1 ns of virtual time") for line in told)


def test_no_number_is_cut_on_a_narrow_page() -> None:
    out = io.StringIO()
    show(Console(file=out, width=80, highlight=False), [benched("lab:6.12", X86)])
    table = out.getvalue().split("empty: ")[0]
    assert "…" not in table
    assert all(number in table for number in ("2 868", "447.1", "2 854", "2 848", "712.0"))


def test_an_arm64_machines_table() -> None:
    told = printed(benched("lab:6.12:neoverse-n1", ARM64, per_tick=16))
    assert told[: len(ARM64_TABLE.splitlines())] == ARM64_TABLE.splitlines()
    assert any(line.startswith("The counter's tick is 16 instructions") for line in told)


def test_the_threads_own_table_stands_below() -> None:
    told = [" ".join(line.split()) for line in printed(benched("lab:6.12", X86), benched("lab:6.12", X86))]
    assert sum(line.startswith("The thread of 2021") for line in told) == 1
    for line in (
        "nVHE native 54 124 258",
        "nVHE trapped 148 122 348",
        "VHE native 53 92 204",
        "VHE trapped 152 94 307",
        "trapped − native 94 90",
        "trapped − native 99 103",
        "trapped / native 2.7 1.3",
        "trapped / native 2.9 1.5",
    ):
        assert line in told


def test_a_read_that_does_not_exit_is_told_and_another_stands_in() -> None:
    done = benched("kvm", {**X86, "rdmsr-tsc": [(40, 1000)], "rdmsr-tsc-adjust": [(3000, 1000)]}, unit=NS)
    done.reads["rdmsr-tsc"] = Timed(((40, 1000),), 2, 0)  # type: ignore[index]
    told = printed(done)
    assert any(line.startswith("RDMSR IA32_TSC does not exit here (2 exits in 1 000 reads") for line in told)
    rows = [" ".join(line.split()) for line in told]
    at = rows.index("RDMSR TSC_ADJUST exits 3 000 0.0 3 000 3 000 2 994")
    assert rows[at - 1].startswith("RDMSR IA32_TSC native 40.0")
    assert rows[at + 1] == "trapped − native 2 990 2 990 2 990 2 990"


def test_a_kvm_that_emulates_ring_0_is_told() -> None:
    done = benched("kvm", X86, unit=NS, per_tick=Fraction(1, 2))
    done.reads["empty-ring0"] = Timed(((9600, 1000),), 3, 17_001)  # type: ignore[index]
    done.reads["rdmsr-tsc"] = Timed(((15_600, 1000),), 3, 21_001)  # type: ignore[index]
    told = printed(done)
    each = "empty, ring 0: 17, RDMSR IA32_TSC: 21"
    note = f"Instructions a pass that KVM emulates, by its count ({each}): what these rows time is its emulator."
    assert note in told
    assert any(line.lstrip().startswith("emulated − native") for line in told)
    assert not any("trapped − native" in line for line in told[: told.index("") + 12])


def test_a_kernel_that_counts_nothing_is_told() -> None:
    done = benched("kvm", X86, unit=NS)
    done.reads["rdmsr-tsc"] = Timed(X86_RDMSR, None, None)  # type: ignore[index]
    assert any("not known: this kernel does not count exits" in line for line in notes(done))
    assert any("not counted" in line for line in printed(done))


X86_RDMSR = tuple(X86["rdmsr-tsc"])


def test_a_coarse_counter_is_told_on_a_host_alone() -> None:
    coarse = {name: [(26 * ticks, n) for ticks, n in counts] for name, counts in X86.items()}
    told = "The counter goes forward by 13.0 ns at a time here."
    assert told in list(notes(benched("kvm", coarse, unit=NS, per_tick=Fraction(1, 2))))
    assert told not in list(notes(benched("kvm", X86, unit=NS, per_tick=Fraction(1, 2))))


@pytest.mark.parametrize(
    ("value", "ns", "instructions"),
    [
        (Fraction(4), "4.0", "4"),
        (Fraction(49, 12), "4.1", "4.1"),
        (Fraction(-1, 2), "−0.5", "−0.5"),
        (Fraction(28546, 10), "2 855", "2 855"),
        (Fraction(-10_000), "−10 000", "−10 000"),
        (Fraction(999_96, 100_000), "1.0", "1"),
    ],
)
def test_amounts_are_to_a_tenth_and_whole_instructions_whole(value: Fraction, ns: str, instructions: str) -> None:
    assert amount(benched("kvm", X86, unit=NS), value) == ns
    assert amount(benched("lab:6.12", X86), value) == instructions


def test_a_ratio_to_nothing_is_none() -> None:
    assert ratio(Fraction(2), Fraction(5)) == "2.5"
    assert ratio(Fraction(0), Fraction(5)) == "—"
    assert ratio(Fraction(-1), Fraction(5)) == "—"


def test_json_has_every_sample_and_what_the_table_says() -> None:
    out = io.StringIO()
    write([benched("lab:6.12", X86), benched("lab:6.12:cortex-a72", ARM64, per_tick=16)], out)
    found = json.loads(out.getvalue())
    assert found["guestclock_bench"] == 1
    x86, arm64 = found["machines"]
    assert (x86["on"], x86["unit"], arm64["units_per_tick"]) == ("lab:6.12", "instructions", "16")
    rdmsr = next(read for read in x86["reads"] if read["read"] == "rdmsr-tsc")
    assert rdmsr["counts"] == [[2854, 999], [17_000, 1]]
    assert (rdmsr["how"], rdmsr["exits"], rdmsr["outliers"], rdmsr["itself"]) == ("exits", 1000, 1, 2848.0)
    assert [(p["less"], p["more"], p["difference"]) for p in x86["pairs"]] == [
        ("rdtsc", "rdmsr-tsc", 2844.0),
        ("tsc-clocksource", "kvm-clock", 19.0),
    ]
    assert arm64["pairs"] == [{"less": "cntpct", "more": "cntpct-offset", "difference": 236.0, "ratio": 237.0}]
    assert found["thread"]["VHE"]["trapped"] == {"average": 152, "std_dev": 94, "p95": 307}
    assert document([])["machines"] == []


def test_the_thread_is_quoted_as_it_was_written() -> None:
    assert THREAD == {
        "nVHE": {"native": (54, 124, 258), "trapped": (148, 122, 348)},
        "VHE": {"native": (53, 92, 204), "trapped": (152, 94, 307)},
    }
