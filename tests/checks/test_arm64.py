"""arm64 under the checker: what is proved of every order and delay, with the worst case to the tick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guestclock.checks.breaks import Breaks
from guestclock.checks.spec import Site, Spec
from guestclock.checks.target import targets
from guestclock.checks.verdict import HOLDS, VACUOUS, VIOLATED, Verdict, check
from guestclock.errors import UserError
from guestclock.vmm import recipe as recipes

HZ = 62_500_000
STRETCHES = 4
"""Delays between the VMM's read and its write: to the read's end, into the pause, out of it, to the write's end."""

DELAY_NS = 10**8
QUICK = {"delay_ns": DELAY_NS, "life_ns": 10**10, "away_ns": 10**10, "sites": (Site(khz=HZ // 1000),)}


def ticks(ns: int) -> int:
    return ns * HZ // 10**9


def ask(recipe: str, kernel: str, *properties: str, stories: bool = False, **changes: Any) -> dict[str, Verdict]:
    policy = tuple(recipes.load(recipe).policy.items())
    spec = Spec(**{"recipe": recipe, "kernel": kernel, "policy": policy, "properties": properties, **QUICK, **changes})
    result = check(spec, stories=stories)
    assert result.complete
    return {verdict.property: verdict for verdict in result.verdicts}


def one(recipe: str, kernel: str, name: str, **changes: Any) -> Verdict:
    verdict = ask(recipe, kernel, name, **changes)[name]
    assert verdict.asked > 0, verdict
    return verdict


@pytest.fixture
def own(tmp_path: Path) -> Any:
    def write(text: str) -> str:
        path = tmp_path / "own.py"
        path.write_text(text)
        return str(path)

    return write


BY_VALUE = '''"""CNTVCT alone, by value: read of vCPU 0, written to vCPU 0."""
from guestclock.abi.arm64 import KVM_REG_ARM_TIMER_CNT
from guestclock.kvm.api import ClockData, Vm
from guestclock.vmm.snapshot import ARM64, Snapshot, VcpuSnapshot
ARCH = "arm64"
POLICY = {"cntvct": "advance"}
async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
    vm.kept["cntvct"] = await vm.vcpus[0].get_one_reg(KVM_REG_ARM_TIMER_CNT)
async def resume(vm: Vm) -> None:
    await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, vm.kept["cntvct"])
'''


@pytest.mark.parametrize("kernel", ["linux-5.10-arm64", "linux-6.1-arm64", "linux-6.12-arm64", "linux-6.18-arm64"])
def test_written_back_by_value_a_counter_loses_what_passed_meanwhile(kernel: str, own: Any) -> None:
    """The loss is the time from the read to the write, to the tick."""
    verdict = one(own(BY_VALUE), kernel, "cntvct-policy", vcpus=1, away_ns=0, away_min_ns=0)
    assert (verdict.status, verdict.sense, verdict.unit) == (VIOLATED, "lost", "ticks")
    assert verdict.worst == verdict.bound == STRETCHES * ticks(DELAY_NS)


def test_the_loss_is_the_delay(own: Any) -> None:
    """Twice the delay, twice the loss."""
    lost = {}
    for delay_ns in (0, 10**8, 2 * 10**8):
        verdict = one(own(BY_VALUE), "linux-6.12-arm64", "cntvct-policy", vcpus=1, away_ns=0, away_min_ns=0,
                      delay_ns=delay_ns)  # fmt: skip
        lost[delay_ns] = verdict.worst or 0
    step = lost[10**8] - lost[0]
    assert step == STRETCHES * ticks(10**8)
    assert lost[2 * 10**8] - lost[10**8] == step


@pytest.mark.parametrize("kernel", ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"])
@pytest.mark.parametrize("delay_ns", [0, 10**8, 5 * 10**9])
def test_by_offset_nothing_is_lost_whatever_the_delays(kernel: str, delay_ns: int) -> None:
    verdicts = ask("arm64-by-offset", kernel, delay_ns=delay_ns)
    asked = {name: v for name, v in verdicts.items() if v.asked}
    assert {"cntvct-policy", "cntpct-policy", "counters-together", "cntvct-agrees", "cntpct-never-back"} <= set(asked)
    assert {v.status for v in asked.values()} == {HOLDS}


def test_the_ioctl_is_refused_where_it_does_not_exist() -> None:
    with pytest.raises(UserError, match=r"arm64_by_offset.py:\d+: give: SetCounterOffset: EINVAL .*since 6.4"):
        ask("arm64-by-offset", "linux-6.1-arm64")


RUNNING = '''"""{about}"""
from guestclock.abi.arm64 import *
from guestclock.kvm.api import KvmError, Vm
ARCH = "arm64"
POLICY = {{"cntvct": "run"}}
async def pause(vm: Vm) -> None:
    await vm.vcpus[1].kick()
async def resume(vm: Vm) -> None:
    {call}
    await vm.vcpus[1].start()
'''


def running(about: str, call: str) -> str:
    return RUNNING.format(about=about, call=call)


ATTRIBUTE = "await vm.vcpus[1].set_attr(KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_OFFSET_VTIMER, 1_000)"
VALUE = "await vm.vcpus[1].set_one_reg(KVM_REG_ARM_TIMER_CNT, 10**12)"
IOCTL = """try:
        await vm.set_counter_offset(1_000)
    except KvmError as refused:
        assert refused.errno == "EBUSY\""""


def test_the_broadcast_of_2021_is_seen_half_way(own: Any) -> None:
    """vCPU 1 enters with the new offset while vCPU 0, told as well, counts on with the one it entered with."""
    recipe = own(running("v2's attribute, written while vCPU 0 runs", ATTRIBUTE))
    verdicts = ask(recipe, "linux-6.1-arm64+timer-offset-v2", "cntvct-agrees", "cntvct-never-back", "cntpct-agrees")
    apart, back = verdicts["cntvct-agrees"], verdicts["cntvct-never-back"]
    assert (apart.status, back.status) == (VIOLATED, VIOLATED)
    # Uptime, and the creation of the VM's last vCPU at which the counter began: all but the 1000 ticks of the offset.
    assert apart.worst is not None
    assert apart.worst == apart.bound
    assert apart.worst >= ticks(1_000 * 10**9) - 1_000
    assert back.worst == apart.worst
    assert verdicts["cntpct-agrees"].status == HOLDS


@pytest.mark.parametrize("kernel", ["linux-6.1-arm64", "linux-6.3-arm64", "linux-6.12-arm64"])
def test_a_running_vcpu_keeps_the_counter_it_entered_with(kernel: str, own: Any) -> None:
    recipe = own(running("a counter by value, written while vCPU 0 runs", VALUE))
    verdict = one(recipe, kernel, "cntvct-agrees")
    assert verdict.status == VIOLATED
    assert verdict.worst == verdict.bound


def test_the_ioctl_cannot_be_seen_half_way(own: Any) -> None:
    """It wants every vCPU out: with one in its guest it answers EBUSY and changes nothing."""
    recipe = own(running("the ioctl, tried while vCPU 0 runs", IOCTL))
    verdicts = ask(recipe, "linux-6.12-arm64", "cntvct-agrees", "cntvct-never-back", "cntvct-policy")
    assert {v.status for v in verdicts.values()} == {HOLDS}
    assert all(v.asked for v in verdicts.values())


def test_creating_a_vcpu_resets_the_counters_unless_an_offset_was_given() -> None:
    plugged = ask("arm64-vcpu-hotplug", "linux-6.12-arm64", "cntvct-agrees", "cntvct-never-back")
    assert {v.status for v in plugged.values()} == {VIOLATED}
    apart = plugged["cntvct-agrees"].worst
    assert apart is not None
    assert apart >= ticks(QUICK["life_ns"])  # the guest's whole life, and more
    given = ask("arm64-vcpu-hotplug-with-offset", "linux-6.12-arm64", "cntvct-agrees", "cntvct-never-back")
    assert {v.status for v in given.values()} == {HOLDS}


def test_a_stamp_taken_before_the_vcpus_left_puts_the_counter_back() -> None:
    """b/345278018 and its fix: a before t_p (kvm-arm64.md 3.3)."""
    early = ask("crosvm-arm64-suspend-stamped-early", "linux-6.12-arm64", "cntvct-never-back", "cntpct-never-back")
    assert {v.status for v in early.values()} == {VIOLATED}
    mended = ask("crosvm-arm64-suspend-resume", "linux-6.12-arm64", "cntvct-never-back", "cntpct-never-back")
    assert {v.status for v in mended.values()} == {HOLDS}


@pytest.mark.parametrize("host", [{"vhe": True}, {"vhe": False}, {"ecv": True}], ids=["vhe", "nvhe", "ecv"])
def test_with_one_offset_for_both_the_counters_are_one_on_every_host(host: dict[str, bool]) -> None:
    """However CNTPCT comes about: trapped at a load, trapped at an entry, or with the offset in hardware."""
    site = Site(khz=HZ // 1000, **host)  # type: ignore[arg-type]
    assert one("crosvm-arm64-suspend-resume", "linux-6.12-arm64", "counters-together", sites=(site,)).status == HOLDS


def test_restoring_twice_moves_a_counter_by_value_and_none_by_offset() -> None:
    name = "idempotent-restore"
    moved = one("arm64-by-value", "linux-6.12-arm64", name)
    assert (moved.status, moved.unit) == (VIOLATED, "ticks")
    assert one("arm64-by-offset", "linux-6.12-arm64", name).status == HOLDS


def test_qemu_freezes_one_counter_and_lets_the_other_run() -> None:
    verdicts = ask("qemu-arm64-stop-cont", "linux-6.12-arm64", "counters-together", "cntpct-policy")
    apart = verdicts["counters-together"]
    assert apart.status == VIOLATED
    assert apart.worst is not None
    assert apart.worst >= ticks(QUICK["away_ns"])
    assert verdicts["cntpct-policy"].status == HOLDS


def test_the_smallest_delay_of_a_loss_is_found(own: Any) -> None:
    """A delay of one tick breaks it, and that a delay below a tick is safe is proved."""
    verdicts = ask(own(BY_VALUE), "linux-6.12-arm64", "cntvct-policy-calls", stories=True, vcpus=1, section_ns=0,
                   away_ns=0, away_min_ns=0)  # fmt: skip
    verdict = verdicts["cntvct-policy-calls"]
    assert verdict.status == VIOLATED
    assert verdict.breaks == Breaks(delay_ns=10**9 // HZ, value=STRETCHES, safe_ns=0, proved=True)


def test_x86_is_not_asked_of_arm64_nor_the_other_way_round() -> None:
    with pytest.raises(UserError, match="'tsc-agrees' is not asked of arm64 guests"):
        targets("arm64-by-value", properties=("tsc-agrees",))
    with pytest.raises(UserError, match="'cntvct-agrees' is not asked of x86_64 guests"):
        targets("offset-restore", properties=("cntvct-agrees",))
    with pytest.raises(UserError, match="arm64-by-value is for arm64 guests, expected a kernel like"):
        targets("arm64-by-value", ["linux-6.12"])


def test_what_is_not_touched_is_not_asked_of_calls() -> None:
    verdicts = ask("arm64-by-offset", "linux-6.12-arm64", "cntvct-policy-calls")
    assert verdicts["cntvct-policy-calls"].status == VACUOUS
