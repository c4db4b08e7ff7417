"""Real arm64 kernels, VHE and not: what KVM does to a guest's counters, as relations (kvm-arm64.md 6.3)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab, LabError
from guestclock.lab.arch import ARM64
from guestclock.lab.arm64 import ODD_COUNTER_HZ
from guestclock.lab.setup import setup
from tests.lab.arm64_programs import ON_TWO_CPUS, SCRIPTS, program

pytestmark = pytest.mark.lab

KERNELS = ("6.1", "6.12")
LABS = (("6.1", "neoverse-n1"), ("6.1", "cortex-a72"), ("6.12", "neoverse-n1"), ("6.12", "neoverse-n1-nvhe"))
TWO_CPUS = (("6.1", "neoverse-n1"), ("6.12", "neoverse-n1"), ("6.12", "neoverse-n1-nvhe"))
M64 = 2**64
UNTRAPPED_TICKS, TRAPPED_TICKS = 2, 8
"""At most so many ticks, an instruction being a sixteenth of one, lie between two reads of a counter with another read
between them, where nothing traps; at least so many where that one does.
"""


class Played:
    """Every script on one lab, each on a machine of its own: what it told."""

    def __init__(self, kernel: str, cpu: str, names: tuple[str, ...], smp: int = 1) -> None:
        self.kernel, self.cpu = kernel, cpu
        self.since_6_4 = kernel == "6.12"
        self.vhe = cpu == "neoverse-n1"
        outcomes = Lab(kernel, arch="arm64", cpu=cpu, smp=smp).outcomes([program(name) for name in names])
        self.outcomes = dict(zip(names, outcomes, strict=True))

    def lines(self, name: str) -> list[dict[str, Any]]:
        outcome = self.outcomes[name]
        if isinstance(outcome, UserError | LabError):
            raise outcome
        return outcome

    def told(self, name: str) -> dict[str, Any]:
        """All that a script told, in one."""
        return {key: value for line in self.lines(name) for key, value in line.items()}


@cache
def played(kernel: str, cpu: str) -> Played:
    setup([kernel], arch=ARM64)
    return Played(kernel, cpu, tuple(name for name in SCRIPTS if name not in ON_TWO_CPUS))


@pytest.fixture(params=LABS, ids=":".join)
def lab(request) -> Played:
    return played(*request.param)


@cache
def on_two_cpus(kernel: str, cpu: str) -> Played:
    setup([kernel], arch=ARM64)
    return Played(kernel, cpu, ON_TWO_CPUS, smp=2)


# ---- a reading is [CNTVCT, CNTPCT, CNTVCT, host counter before, after]


def behind(value: int, before: int, after: int) -> tuple[int, int]:
    """By how much a counter is behind the host's, mod 2^64: (least, most)."""
    return (before - value) % M64, (after - value) % M64


def is_behind_by(offset: int, value: int, before: int, after: int) -> bool:
    return (value - before + offset) % M64 <= after - before


def reads(reading: list[int], offset: int, physical: int = 0) -> bool:
    """Does a reading show a host's counter less `offset`, and the physical one less `physical`?"""
    virtual, shown, again, before, after = reading
    return (
        is_behind_by(offset, virtual, before, after)
        and is_behind_by(physical, shown, before, after)
        and virtual <= again
    )


def traps(reading: list[int]) -> bool:
    """Did the read of CNTPCT cost an exit?"""
    virtual, _, again, _, _ = reading
    assert again - virtual <= UNTRAPPED_TICKS or again - virtual >= TRAPPED_TICKS
    return again - virtual >= TRAPPED_TICKS


def test_the_checks_tell_a_counter_that_is_elsewhere():
    assert reads([900, 1000, 900, 990, 1010], 100)
    assert not reads([900, 1000, 900, 990, 1010], 80)
    assert not reads([900, 1020, 900, 990, 1010], 100)
    assert reads([5, 5, 5, M64 - 2, M64 + 3], M64 - 5, M64 - 5)
    assert behind(900, 990, 1010) == (90, 110)
    assert not traps([5, 6, 7, 0, 0])
    assert traps([5, 6, 20, 0, 0])


# ---- what there is


def test_capability_and_registers_are_the_kernel_s(lab):
    found = lab.told("capabilities")
    virtual = ["TIMER_CTL", "TIMER_CNT", "TIMER_CVAL"]
    physical = ["PTIMER_CTL", "PTIMER_CNT", "PTIMER_CVAL"]
    assert found["counter_offset"] == (1 if lab.since_6_4 else 0)
    assert found["registers"] == virtual + (physical if lab.since_6_4 else [])
    assert found["ptimer"] == ("ok" if lab.since_6_4 else "ENOENT")


def test_cnt_and_cval_are_under_each_other_s_encodings(lab):
    found = lab.told("swapped")
    assert (found["cval"], found["seen"]) == (12345, 12345)
    assert found["advanced"] > 0
    assert found["ids"] == ["0x603000000013df1a", "0x603000000013df02"]


def test_system_registers_are_the_timer_s(lab):
    lines = lab.lines("sysregs")
    assert lines[0] == {"cntfrq": ODD_COUNTER_HZ, "seen": [ODD_COUNTER_HZ]}
    for line in lines[1:3]:
        assert line["cval"] == 10**9
        least, tval, most = line["tval"]
        assert least <= tval <= most
        assert line["ctl"] == [3, 7], "enabled and masked; then over as well"
        earliest, moved, latest = line["moved"]
        assert earliest - 1000 <= moved <= latest - 1000, "2^32 - 1000 is -1000"
    assert [line["said"] for line in lines[3:6]] == ["EFAULT"] * 3
    assert reads(lines[6]["alive"], (lines[6]["alive"][3] - lines[6]["alive"][0]) % M64, 0)


# ---- a fresh VM


def test_a_fresh_vm_counts_from_its_last_creation_and_shows_the_host_s_physical_counter(lab):
    found = lab.told("fresh")
    before, value, after = found["cntvct"]
    assert 0 < value <= after - 0, "it began at most at the host's start"
    offsets = [behind(reading[0], *reading[3:]) for reading in found["readings"]]
    least, most = max(low for low, _ in offsets), min(high for _, high in offsets)
    assert least <= most, "one offset fits all readings of both vCPUs"
    assert before - value <= most
    assert most <= found["created"], "and it is a counter value of before the creation's end"
    for reading in found["readings"]:
        assert reads(reading, least, 0)
        assert not traps(reading)
    shown = [reading[0] for reading in found["readings"]]
    assert shown == sorted(shown)


# ---- by value


def test_a_value_set_on_one_vcpu_is_every_vcpu_s(lab):
    found = lab.told("by-value")
    first, second = found["set"]
    offsets = [behind(reading[0], *reading[3:]) for reading in (first, second)]
    assert max(low for low, _ in offsets) <= min(high for _, high in offsets)
    assert 10**12 < first[0] < second[0] < 10**12 + 10**9
    assert reads(first, offsets[0][0], 0), "the physical counter is the host's still"
    assert found["ptimer"] == ("ok" if lab.since_6_4 else "ENOENT")
    for reading in found["both"]:
        assert 10**12 < reading[0] < 10**12 + 10**9
        if lab.since_6_4:
            assert 2 * 10**12 < reading[1] < 2 * 10**12 + 10**9
        assert traps(reading) == lab.since_6_4, "an offset of the physical counter costs a trap, without ECV"


def test_a_vcpu_that_is_plugged_in_sets_the_vm_s_counters_back_and_so_does_one_that_is_refused(lab):
    lines = lab.lines("by-value")
    after, refused = lines[3], lines[5]
    for reading in after["after"]:
        assert reading[0] <= reading[4] - after["created"] + 10**6
        assert reads(reading, behind(reading[0], *reading[3:])[0], 0), "and no physical offset is left"
        assert not traps(reading)
    assert lines[4]["again"] == "EEXIST"
    assert refused["after"][0] < 10**9, "3 * 10^12 had been set before"


def test_writing_back_what_was_read_loses_the_time_between_every_time(lab):
    found = lab.told("drift")
    highest = [after - value for _, value, after in found["offsets"]]
    lowest = [before - value for before, value, _ in found["offsets"]]
    for at in range(len(highest)):
        assert max(lowest[: at + 1]) <= highest[at], "it never went back"
    before, value, after = found["before"]
    lost = (lowest[-1] - (after - value), highest[-1] - (before - value))
    assert lost[0] > 0
    assert lost[1] < found["took"], "less than what passed in all"


# ---- by offset


def test_an_offset_is_every_vcpu_s_both_counters_s_and_the_last_word(lab):
    lines = lab.lines("by-offset")
    assert lines[0]["reserved"] == "EINVAL"
    if not lab.since_6_4:
        assert len(lines) == 1, "the call itself is EINVAL before 6.4"
        return
    pairs = list(zip(lines[1:11:2], lines[2:12:2], strict=True))
    assert len({said["offset"] for said, _ in pairs}) == 5
    for said, shown in pairs:
        offset = said["offset"]
        assert said["said"] == "ok"
        assert all(is_behind_by(offset, value, before, after) for before, value, after in shown["registers"])
        assert all(reads(reading, offset, offset) for reading in shown["readings"])
        assert all(traps(reading) == (offset != 0) for reading in shown["readings"])
    for ignored in lines[11:13]:
        assert (ignored["cnt"], ignored["pcnt"]) == ("ok", "ok")
        assert reads(ignored["reading"], offset, offset), "a value is taken, and does nothing"
    late, hundred, moved, back = (next(iter(line.values())) for line in lines[13:])
    assert reads(late, offset, offset), "a vCPU that is plugged in changes nothing any more"
    assert reads(hundred, offset, offset), "nor does the same offset a hundred times"
    assert reads(moved, offset, offset), "in another VM it is the same counter"
    assert reads(back, 0, 0)
    assert not traps(back)


def test_no_offset_is_taken_while_a_vcpu_is_in_the_guest(lab):
    found = lab.told("busy")
    assert (found["running"], found["out"]) == (("EBUSY", "ok") if lab.since_6_4 else ("EINVAL", "EINVAL"))
    if lab.since_6_4:
        assert reads(found["reading"], 5, 5)


# ---- a guest that runs


def test_what_a_running_guest_shows_is_on_the_line_it_has_when_it_is_out(lab):
    found = lab.told("running")
    readings = [*found["before"], found["out"]]
    shown = [reading[0] for reading in readings]
    assert shown == sorted(set(shown))
    offsets = [behind(reading[0], *reading[3:]) for reading in readings]
    assert max(low for low, _ in offsets) <= min(high for _, high in offsets)


@pytest.mark.parametrize(("kernel", "cpu"), TWO_CPUS)
def test_a_vcpu_that_runs_keeps_its_offset_until_it_is_loaded_again(kernel, cpu):
    lab = on_two_cpus(kernel, cpu)
    found = lab.told("stale")
    lines = [reading[0] // 10**12 for reading in found["lines"]]
    assert lines == sorted(lines)
    assert any(line < written for written, line in enumerate(lines, 2)), "the others wrote, and it reads as before"
    assert found["after"][0] // 10**12 == 9, "out and in again, it reads as all do"


def test_a_physical_offset_that_moves_under_a_running_vcpu_moves_its_deadline_where_the_timer_is_hardware():
    """VHE loads CVAL + offset, and takes away another offset when it saves it; without VHE the timer is emulated."""
    for cpu in ("neoverse-n1", "neoverse-n1-nvhe"):
        found = on_two_cpus("6.12", cpu).told("stale")
        before, value, after = found["physical"]
        least, most = behind(value, before, after)
        moved = (10**15 - found["pcval"]) % M64
        if cpu == "neoverse-n1":
            assert (moved - least) % M64 <= (most - least) % M64, "by the new offset, the old one being 0"
        else:
            assert moved == 0


# ---- timers


def test_a_control_that_is_read_shows_whether_time_is_over_even_if_the_timer_is_off(lab):
    lines = lab.lines("controls")
    for line in lines[:-1]:
        kept = line["wrote"] & 3
        assert line["got"] == kept | (4 if line["over"] else 0)
        assert line["seen"] == kept | (4 if line["over"] and kept & 1 else 0), "the guest is told if it is on"
    init = lines[-1]
    before, after = init["counters"]
    assert (init["seen"], init["cval"]) == (0, 77)
    offset = behind(before[0], *before[3:])
    assert behind(after[0], *after[3:])[0] <= offset[1]
    assert offset[0] <= behind(after[0], *after[3:])[1]


def test_the_interrupts_numbers_are_checked_in_this_order(lab):
    lines = lab.lines("attributes")
    bare, values, duplicate, undone, run = lines[:5]
    assert bare == {"bare": "EINVAL", "defaults": [27, 30]}
    assert values["values"] == ["EINVAL", "EINVAL", "ok", "ok"]
    assert values["unknown"] == ["ENXIO", "ENXIO"]
    assert values["everywhere"] == [31, 31]
    assert duplicate["duplicate"] == ["ok", "EINVAL"], "found at the first entry"
    # 6.12 asks for the physical timer's first, and the interrupt it was given stays its own
    assert undone == {"undone": "EINVAL" if lab.since_6_4 else "ok", "plugged": "EBUSY"}
    assert run == {"runs": "ok", "late": "EBUSY"}


def test_stolen_time_has_one_record_for_good(lab):
    pvtime, hypercalls = lab.lines("attributes")[5:]
    assert pvtime["pvtime"] == ["EINVAL", "EINVAL", "ENXIO", "ok", "EEXIST"]
    assert hypercalls == {"hypercalls": [0, 0x4000_8000], "without": M64 - 1}


def test_the_clock_s_hypercall_gives_wall_time_and_the_guest_s_own_counters(lab):
    *lines, unknown = lab.lines("ptp")
    assert len(lines) == (2 if lab.since_6_4 else 1)
    assert unknown["unknown"] == M64 - 1
    for line in lines:
        for which, answer in ((0, line["virtual"]), (1, line["physical"])):
            wall_ns = answer[0] << 32 | answer[1]
            counter = answer[2] << 32 | answer[3]
            assert line["realtime"][0] < wall_ns < line["realtime"][1]
            assert line["before"][which] < counter < line["after"][which]


def test_a_deadline_too_far_for_64_bits_is_looked_at_early_and_never_late(lab):
    """An emulated timer's ns wrap at 2^41 (2199 s): the hrtimer for 50 ms more comes in 50 ms, and finds nothing."""
    if lab.vhe:
        pytest.skip("a VHE kernel emulates no timer")
    events: dict[str, list[str]] = {}
    name, starts = "", {}
    for line in lab.lines("far-deadline"):
        if line.get("kind") == "note":
            name = line["name"]
            starts[name] = line["start_ps"]
        elif line.get("kind") == "tracepoint" and name not in ("", "over"):
            events.setdefault(name, []).append(line)
    early = [line for line in events["far"] if line["name"] == "kvm_timer_hrtimer_expire"]
    assert len(early) == 1
    assert 0 < early[0]["start_ps"] - starts["far"] < 7 * 10**10
    assert [line["name"] for line in events["long"]].count("kvm_timer_hrtimer_expire") == 0
    told = [line for line in lab.lines("far-deadline") if "told" in line]
    assert [line["ctl"] for line in told] == [1, 1], "nothing is due"


def test_an_emulated_timer_that_is_over_gets_an_hrtimer_at_every_load_on_6_1_and_none_on_6_12(lab):
    if lab.vhe:
        pytest.skip("a VHE kernel emulates no timer")
    lines = [line for line in lab.lines("over") if "kind" in line]
    start = next(i for i, line in enumerate(lines) if line["kind"] == "note")
    names = [line["name"] for line in lines[start:]]
    assert names.count("Run") == 4
    assert names.count("kvm_timer_emulate") >= 4
    if lab.since_6_4:
        assert "kvm_timer_hrtimer_expire" not in names
    else:
        assert names.count("kvm_timer_hrtimer_expire") >= 4


# ---- the device


def before_and_after_start(lab) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What was traced before one of the vCPUs went into the guest to stay, and since then."""
    lines = [line for line in lab.lines("traced") if "kind" in line]
    start = next(i for i, line in enumerate(lines) if line["name"] == "spins")
    return lines[:start], lines[start:]


def test_tracepoints_lie_within_their_operations(lab):
    """To within what a stamp in microseconds says; and their texts are the kernel's."""
    lines, _ = before_and_after_start(lab)
    ops = {line["data"]["op"]["vcpu"]: line for line in lines if line["name"] == "Run"}
    points = [line for line in lines if line["kind"] == "tracepoint" and line["name"].endswith("_state")]
    assert points
    for point in points:
        op = ops[point["vcpu"]]
        assert op["start_ps"] <= point["end_ps"]
        assert point["start_ps"] <= op["end_ps"]
        assert point["end_ps"] - point["start_ps"] < 3 * 10**6
    loaded = [point for point in points if point["name"] == "kvm_timer_restore_state"]
    kinds = 2 if lab.vhe else 1
    assert [point["data"]["arch_timer_ctx_index"] for point in loaded[:kinds]] == [1, 0][:kinds], "virtual, physical"
    assert {point["vcpu"]: point["data"]["cval"] for point in loaded if point["data"]["arch_timer_ctx_index"] == 1} == {
        0: 0,
        1: 12345,
    }
    assert ("kvm_timer_emulate" in {line["name"] for line in lines}) == (not lab.vhe)


def test_every_load_of_a_vcpu_that_loses_its_cpu_has_its_put(lab):
    """Whoever gets it: the kernel's filter by process drops a put where that is not one of ours."""
    _, lines = before_and_after_start(lab)
    virtual = [
        line["name"].removeprefix("kvm_timer_").removesuffix("_state")
        for line in lines
        if line["name"].endswith("_state") and line["data"]["arch_timer_ctx_index"] == 1
    ]
    assert len(virtual) >= 4
    assert virtual == ["restore", "save"] * (len(virtual) // 2)


def test_nothing_of_a_device_is_left_behind(lab):
    found = lab.told("left-behind")
    assert found["after"] == found["before"]
    assert found["during"] != found["before"]
    assert found["closed"] == "CreateVm: this Arm64DeviceKvm is closed"


def test_what_cannot_be_done_is_told_in_a_line_that_says_why(lab):
    said = [line["said"] for line in lab.lines("refusals")]
    for told, expected in zip(
        said,
        (
            "Run: EnterL2: this guest is no hypervisor; run it on the model",
            "Run: ReadClocks: an arm64 guest has nothing of the kind",
            "GetClock: no ioctl does this; run it on the model",
            "Preempt: no call asks for it; run it on the model",
            "HostSleep: changes the whole host, which is not ours; run it in the lab or on the model",
            "ReadHostClock: unknown clock 'tsc' (known: counter, cntfrq, realtime, monotonic, monotonic_raw, boottime)",
            "GetOneReg: VM 0 has no vCPU 3 (1 created)",
            "CreateVcpu: id 9: expected the next free one, 1, or one that exists",
            "SetClocksource: changes the whole host, which is not ours; run it in the lab or on the model",
            "HostSleep: kind 's3': expected 's2idle': arm64 firmware here has no other sleep",
            "HostSleep: a counter that is stopped: the system counter runs on whatever sleeps",
            "SetClocksource: 'tsc' is not available here (available: arch_sys_counter)",
        ),
        strict=True,
    ):
        assert told == expected


# ---- the host sleeps


def test_guests_counters_run_through_a_sleep_of_the_host(lab):
    """Suspend-to-idle: the system counter goes on, BOOTTIME and REALTIME are told so, MONOTONIC stands still."""
    *lines, out = lab.lines("sleep")
    assert len(lines) == 2
    for line in lines:
        advanced = line["advanced"]
        counter_ns = advanced["counter"] * 10**9 // ODD_COUNTER_HZ
        assert 10 * 10**9 <= counter_ns < 10.1 * 10**9
        # reading the clocks one after the other takes some microseconds, some milliseconds where a guest spins
        for clock in ("boottime", "realtime"):
            assert abs(advanced[clock] - counter_ns) < 2 * 10**7
        for clock in ("monotonic", "monotonic_raw"):
            assert 0 < advanced[clock] < 10**9
        for before, after in line["vcpus"]:
            offset = behind(before[0], *before[3:])
            assert behind(after[0], *after[3:])[0] <= offset[1]
            assert offset[0] <= behind(after[0], *after[3:])[1]
            assert after[0] - before[0] > 9.9 * ODD_COUNTER_HZ
    assert out["out"][0] > 0


# ---- the same bytes, whenever


@pytest.mark.parametrize(("kernel", "cpu"), LABS)
def test_every_run_gives_the_same_bytes(kernel, cpu):
    """Three times each, side by side."""
    setup([kernel], arch=ARM64)
    names = ("fresh", "by-value", "running", "sleep", "far-deadline")
    results = Lab(kernel, arch="arm64", cpu=cpu).run_many([program(name) for name in names] * 3)
    assert results[:5] == results[5:10] == results[10:]
    assert results[:5] == [played(kernel, cpu).lines(name) for name in names]


def test_labs_of_both_kernels_run_at_once():
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda kernel: Lab(kernel, arch="arm64").run({"program": "probe"}), KERNELS))
    for kernel, lines in zip(KERNELS, both, strict=True):
        facts = {line["fact"]: line for line in lines}
        assert facts["uname"]["machine"] == "aarch64"
        assert facts["uname"]["release"].startswith(f"{kernel}.")
        assert facts["counter"]["cntfrq"] == ODD_COUNTER_HZ
        assert facts["clocksource"]["current"] == "arch_sys_counter"
        assert any("VHE mode initialized" in line for line in facts["dmesg"]["lines"])
        readings = facts["monotonic_raw"]["readings_ns"]
        assert readings == sorted(set(readings))


def test_a_script_that_sleeps_where_it_did_not_say_so_is_told(lab):
    with pytest.raises(UserError, match="HostSleep: no idle state to sleep in"):
        Lab(lab.kernel, arch="arm64", cpu=lab.cpu).run(program("sleep") | {"sleeps": False})
