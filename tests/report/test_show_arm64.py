"""What an arm64 run prints: two counters, no kvmclock; and the figure, and the JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from matplotlib.text import Text
from rich.console import Console

from guestclock.abi.arm64 import KVM_REG_ARM_PTIMER_CVAL
from guestclock.check import PROPERTIES
from guestclock.kvm.api import CreateVcpu, GetOneReg
from guestclock.report import save
from guestclock.report.figure import lines_figure
from guestclock.report.json_ import document
from guestclock.report.show import columns, show
from guestclock.sim import Trace
from tests.check.hand_arm64 import HZ, clean

S = 10**9


def stopped(kernel: str = "linux-6.12-arm64", *, frozen: bool = True, **meta: Any) -> Trace:
    """QEMU's stop and cont."""
    hand = clean()
    hand.trace.meta |= {"scenario": "by hand", "about": "Does the guest see the pause?", "kernel": kernel, **meta}
    hand.run()
    saved = hand.host_counter() - hand.virtual[0]
    hand.step("5 s pass")
    hand.wait(5 * S)
    hand.look()
    hand.step("cont")
    if frozen:
        hand.set_virtual(saved)
    hand.look()
    return hand.trace


def varied(value: str, apart: int, **looks: Any) -> Trace:
    hand = clean()
    hand.trace.meta |= {"scenario": "by hand", "variation": {"delay": value}}
    hand.step("half-way")
    hand.move("cntvct", apart, 1)
    hand.look()
    hand.step("the end")
    if not looks.get("stays"):
        hand.move("cntvct", -apart, 1)
    hand.look()
    return hand.trace


def printed(*traces: Trace, width: int = 120) -> list[str]:
    out = io.StringIO()
    show(Console(file=out, width=width, highlight=False), columns(traces))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_one_run_is_told_step_by_step() -> None:
    lines = printed(stopped())
    assert "model linux-6.12-arm64 · counter 62 500 000 Hz" in lines
    step = lines.index(next(line for line in lines if line.startswith(" 5 cont")))
    assert [line.split() for line in lines[step + 2 : step + 4]] == [
        ["vcpu0,1", "CNTVCT", "187", "500", "001", "−5.000", "s"], ["CNTPCT", "937", "512", "346", "0", "ns"],
    ]  # fmt: skip
    assert lines[step + 4 : step + 6] == [
        " ! vcpu0,1 CNTVCT falls behind 312 500 000 ticks (5.000 s)",
        " ! vcpu0,1 CNTPCT moves 312 500 000 ticks (5.000 s) ahead of CNTVCT",
    ]
    assert not any(word in line for line in lines for word in ("kvmclock", "TSC", "GET_CLOCK", "page", "STABLE"))


def test_a_step_back_is_told_once_with_what_a_guest_sees_of_it() -> None:
    hand = clean()
    hand.run()
    hand.wait(S)
    hand.step("a vCPU is plugged in")
    hand.new_vcpu()
    hand.look()
    back = [line for line in printed(hand.trace) if "CNTVCT" in line and line.startswith(" !")]
    assert back == [
        " ! vcpu0,1 CNTVCT steps back 187 500 001 ticks (3.000 000 016 s)",
        " ! vcpu0,1 CNTPCT moves 250 000 001 ticks (4.000 000 016 s) ahead of CNTVCT",
    ]


def test_both_counters_that_move_alike_are_one_line() -> None:
    hand = clean()
    hand.step("both")
    hand.move("cntvct", 5)
    hand.move("cntpct", 5)
    hand.look()
    lines = printed(hand.trace)
    assert " ! vcpu0,1 CNTVCT jumps ahead 5 ticks (80 ns), its CNTPCT with it" in lines
    hand.step("one more than the other")
    hand.move("cntvct", 5)
    hand.move("cntpct", 6)
    hand.look()
    assert " ! vcpu0,1 CNTVCT jumps ahead 5 ticks (80 ns), its CNTPCT 6 ticks (96 ns)" in printed(hand.trace)


def test_a_clean_run_says_so_and_names_no_other_architecture_s_properties() -> None:
    lines = printed(clean().trace)
    assert "No clock stepped back or jumped, vCPUs and counters agreed (4 looks)." in lines
    assert not any(p.name in line for p in PROPERTIES for line in lines)
    one = printed(clean(vcpus=1).trace)
    assert "nothing to judge     cntvct-agrees, cntpct-agrees" in one


def test_what_readings_leave_open_is_said() -> None:
    assert any("counter known to ± 8 µs" in line or "counter known to ± 8 000 ns" in line
               for line in printed(clean(sandwich=500).trace))  # fmt: skip


def test_registers_that_were_read_are_shown() -> None:
    hand = clean()
    hand.step("PTIMER_CVAL is read")
    hand.op(GetOneReg(0, 1, KVM_REG_ARM_PTIMER_CVAL), 2**64 - 7)
    hand.look()
    assert any(line.split() == ["vcpu1", "PTIMER_CVAL", *f"{2**64 - 7:,}".split(",")] for line in printed(hand.trace))
    assert any("PTIMER_CVAL 18 446" in line for line in printed(hand.trace, stopped()))
    (run,) = document(columns([hand.trace]))["runs"]
    assert run["steps"][-1]["answers"] == [{"vcpu": 1, "register": "PTIMER_CVAL", "value": 2**64 - 7}]
    assert "answers" not in run["steps"][0]


def test_several_runs_stand_side_by_side() -> None:
    lines = printed(stopped(), stopped("linux-6.1-arm64", frozen=False))
    head = next(line for line in lines if "model linux-6.12-arm64" in line)
    cont = next(line for line in lines if line.lstrip().startswith("5 cont"))
    left = head.index("model linux-6.1-arm64")
    assert "CNTVCT −5.000 s" in cont[:left]
    assert "CNTVCT 0 ns" in cont[left:]
    assert any("vcpu0,1 CNTPCT +5.000 s from CNTVCT" in line for line in lines)
    assert any(line.startswith("Each cell: vcpu0's counters minus true time") for line in lines)


def test_what_no_guest_has_seen_has_no_error() -> None:
    hand = clean()
    hand.step("the destination")
    hand.new_vm(2, ran=False)
    hand.look()
    lines = printed(hand.trace)
    last = next(line for line in reversed(lines) if line.startswith("   vcpu0,1"))
    assert last.split() == ["vcpu0,1", "CNTVCT", "0"]
    assert any("CNTVCT not yet seen" in line for line in printed(hand.trace, hand.trace))


def test_variations_are_a_grid() -> None:
    text = "\n".join(printed(varied("0 s", 0), varied("1.1 s", 1_100_000_000 // 16)))
    assert "once 0≠1 +1.100 s" in text
    assert "CNTVCT +1.100 s" in text
    assert "CNTVCT −5 ns: the largest step that any vCPU's CNTVCT took." in text
    text = "\n".join(printed(varied("0 s", 0), varied("1.1 s", 1_100_000_000 // 16, stays=True)))
    assert "0≠1 +1.100 s" in text
    assert "the CNTVCTs of vCPUs 0 and 1 read the same" in text


def test_what_was_refused_stands_in_the_grid_line_by_line() -> None:
    traces = []
    for value in ("0 s", "1 s"):
        hand = clean()
        hand.trace.meta |= {"scenario": "by hand", "variation": {"delay": value}}
        hand.refuse(CreateVcpu(0, 0), "EEXIST")
        hand.refuse(CreateVcpu(0), "EBUSY")
        hand.look()
        traces.append(hand.trace)
    lines = printed(*traces)
    assert any(line.split() == ["CreateVcpu", "refused:", "EEXIST"] * 2 for line in lines)
    assert any(line.split() == ["CreateVcpu", "refused:", "EBUSY"] * 2 for line in lines)


def test_json_has_both_counters_and_nothing_of_x86() -> None:
    told = json.loads(json.dumps(document(columns([stopped()]))))
    (run,) = told["runs"]
    last = run["steps"][-1]
    reading = last["readings"][0]
    assert (reading["cntvct"], reading["cntpct"], reading["cntvct_error_ns"]) == (
        187_500_001, 937_512_346, [-5 * S, -5 * S],
    )  # fmt: skip
    assert reading["cntpct_minus_cntvct"] == [750_012_345] * 2
    assert "tsc" not in reading
    assert last["get_clock"] is None
    assert set(last["groups"]) == {"cntvct", "cntpct"}
    assert set(run["properties"]) == {p.name for p in PROPERTIES if p.arch == "arm64"}
    assert {m["unit"] for m in last["marks"]} == {"ticks"}


def test_a_figure_has_the_counter_that_moved_and_not_the_one_that_ran(tmp_path: Path) -> None:
    figure = lines_figure(columns([stopped(), stopped("linux-5.10-arm64+timer-offset-v2", frozen=False)]))
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert any(text.startswith("CNTVCT − true time") for text in texts)
    assert not any(text.startswith("CNTPCT − true time") for text in texts)
    assert "−5.000 s" in texts
    assert save.save(columns([stopped()]), None, tmp_path / "a.svg") == [f"figure: {tmp_path / 'a.svg'}"]


def test_a_figure_shows_the_physical_counter_where_it_moved() -> None:
    hand = clean()
    hand.step("an offset for both")
    hand.set_offset(hand.host_counter() - 100 * HZ)
    hand.look()
    texts = [text.get_text() for text in lines_figure(columns([hand.trace])).findobj(Text)]
    assert any(text.startswith("CNTPCT − true time") for text in texts)


def test_long_kernel_names_are_broken_before_an_overlay() -> None:
    runs = columns([stopped(f"linux-5.1{n}-arm64+timer-offset-v2") for n in range(6)])
    texts = [text.get_text() for text in lines_figure(runs).findobj(Text)]
    assert "model linux-5.10-arm64\n+timer-offset-v2" in texts
