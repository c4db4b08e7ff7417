"""threads/2021-suspend on arm64: what the checker finds in each design, and what it must find in broken ones."""

from __future__ import annotations

from typing import Any

import pytest

from guestclock.abi.arm64 import KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_TIMER_OFFSET
from guestclock.arith import u64
from guestclock.checks.protocol import CaseResult
from guestclock.checks.suspend import detect
from guestclock.checks.suspend import vmm as vmms
from guestclock.checks.suspend.setting import ARM64_KHZ, Night, S, Setting
from guestclock.checks.suspend.thread import THREAD
from guestclock.checks.suspend.vmm import Gate, Inhibitor, StoppingVmm
from guestclock.checks.verdict import VIOLATED
from guestclock.guest.suspend_time import HandlerByCounter, HandlerCorrected
from guestclock.kvm import api
from guestclock.kvm.model.arm64 import overlays
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.sleep_gate import SleepGate, VmSleep
from guestclock.kvm.model.overlay import plain
from guestclock.linux import Timekeeper, arch_sys_counter
from guestclock.linux.readout import Readout, vdso_calc_ns_generic
from guestclock.sim import cp
from tests.checks.suspend import asking
from tests.checks.suspend.asking import held, in_world, replayed, wrong

MS = 10**6
SLEPT_TICKS = 600 * ARM64_KHZ * 1000
STEP_NS = 50 * MS


def asked(design: str, case_: str, *properties: str) -> CaseResult:
    result = asking.asked(design, case_, *properties)
    assert not result.never
    return result


# ---- what is found


@pytest.mark.parametrize("case_", ["arm64", "arm64-s3"])
def test_stock_counts_the_sleep_in_both_counters_and_in_monotonic(case_: str) -> None:
    found = wrong(asked("stock", case_))
    assert set(found) == {"I6", "I8", "I10", "I24"}
    assert found["I6"] == pytest.approx(600 * S, abs=STEP_NS + 20_000)
    assert found["I8"] == pytest.approx(SLEPT_TICKS, abs=51 * ARM64_KHZ)


ALL = {"I1", "I4", "I6", "I8", "I9", "I10", "I11", "I13", "I21", "I23", "I24"}


@pytest.mark.parametrize("design", ["inhibitor", "gate"])
@pytest.mark.parametrize("case_", ["arm64", "arm64-s3", "arm64-nested", "arm64-twice-slept"])
def test_one_offset_before_any_vcpu_runs_keeps_everything(design: str, case_: str) -> None:
    result = asked(design, case_)
    assert not wrong(result)
    assert held(result) == ALL


def test_the_counter_measures_the_sleep_so_the_host_does_not_err_about_it() -> None:
    """BOOTTIME is right to what the roundings of its multiplier make of 600 s: on x86 an RTC errs by a second."""
    for design in ("inhibitor", "gate"):
        (verdict,) = asked(design, "arm64", "I11").verdicts
        assert verdict.bound is not None
        assert verdict.bound < 1_000


@pytest.mark.parametrize("design", ["inhibitor", "gate"])
@pytest.mark.parametrize(
    "case_", ["arm64-abort", "arm64-abort-late", "arm64-idle", "arm64-plugged", "arm64-raw", "arm64-guest-asleep"]
)
def test_whatever_disturbs_it(design: str, case_: str) -> None:
    result = asked(design, case_)
    assert not wrong(result)
    assert held(result)


@pytest.mark.parametrize("case_", ["arm64-two", "arm64-ecv", "arm64-nvhe", "arm64-nested-two"])
def test_two_vcpus_have_one_counter_on_every_kind_of_host(case_: str) -> None:
    result = asked("inhibitor", case_)
    assert not wrong(result)
    assert {"I8", "I24"} <= held(result)
    assert ("two" in case_) == ("one" in held(result))


def test_who_is_not_asked_keeps_nothing_with_an_inhibitor_and_everything_with_a_gate() -> None:
    assert {"I6", "I8", "I10", "I24"} <= set(wrong(asked("inhibitor", "arm64-uninformed")))
    assert not wrong(asked("gate", "arm64-uninformed"))
    assert "I6" in wrong(asked("gate-late-stamp", "arm64", "I6"))


def test_a_guest_that_ignores_the_interrupt_keeps_its_counters_and_loses_the_sleep_from_boottime() -> None:
    for case_ in ("sleep", "arm64", "arm64-gate"):
        found = asked("untold", case_)
        assert set(wrong(found)) == {"I9", "I11", "I13"}
        assert wrong(found)["I11"] == pytest.approx(600 * S, abs=13 * STEP_NS)
        assert {"I1", "I6", "I8", "I10"} <= held(found)


def test_before_6_4_cntvct_can_be_hidden_to_within_the_vmms_delay_and_cntpct_not() -> None:
    found = asked("by-value", "arm64")
    assert set(wrong(found)) == {"I11", "I13"}
    assert wrong(found)["I11"] == pytest.approx(STEP_NS, abs=30_000), "from a reading of the clock to the call"
    assert {"I1", "I6", "I8", "I10"} <= held(found)
    found = asked("by-value", "arm64-cntpct")
    assert wrong(found) == {"I8": pytest.approx(SLEPT_TICKS, abs=51 * ARM64_KHZ)}
    assert set(wrong(asked("by-value", "arm64-plugged"))) == {"I1", "I22"}, "all begin at 0 again"


def test_a_guest_that_suspends_itself_measures_it_by_its_counter_which_counts_through_the_sleep() -> None:
    found = asked("guest-first", "arm64")
    assert set(wrong(found)) == {"I8"}
    assert {"I6", "I10", "I11", "I13"} <= held(found)


def test_a_sleep_of_more_than_18_minutes_that_is_not_hidden_is_garbage_to_the_vdso_of_arm64() -> None:
    """64 bits hold so many ticks times mult; the kernel's own readers take 128, and x86's vDSO too."""
    found = wrong(asked("stock", "arm64-long", "I1"))
    clock = arch_sys_counter(ARM64_KHZ * 1000)
    holds_s = (1 << 64 - clock.shift) / S
    assert holds_s == pytest.approx(1099.5, abs=0.1)
    beyond_s = 1200 - holds_s + 1  # a second early, and by what the host's steps and the first tick take late
    assert found["I1"] == pytest.approx(beyond_s * ARM64_KHZ * 1000, abs=0.3 * ARM64_KHZ * 1000)
    for design in ("inhibitor", "gate", "guest-first"):
        assert not wrong(asked(design, "arm64-long"))
    tk = Timekeeper.start(clock, 0, hz=250, monotonic_ns=100 * S, realtime_ns=10**18)
    data = Readout.of(tk).vdso
    base = data.basetime["monotonic"]
    for slept_s, wrong_ns in ((600, 0), (1200, 1 << 64 - clock.shift)):
        cycles = slept_s * ARM64_KHZ * 1000
        vdso_ns = base.sec * S + vdso_calc_ns_generic(data, cycles, base.nsec)
        assert tk.monotonic_ns(cycles) - vdso_ns == wrong_ns


def test_the_nested_views_are_four_counters() -> None:
    what = THREAD.case("gate", "arm64-nested")
    result = asked("gate", "arm64-nested", "I8")
    (verdict,) = result.verdicts
    assert what.build is not None
    orders = result.tally.orders
    assert verdict.asked == orders * 4 * 2, "too far on, and back, of four counters"


# ---- a VMM that looks


@pytest.mark.parametrize("case_", ["arm64", "arm64-s3", "arm64-nested", "arm64-two", "arm64-plugged"])
def test_a_vmm_that_looks_before_each_kvm_run_keeps_everything_where_nobody_is_frozen_on_the_way_in(case_: str) -> None:
    result = asked("detect", case_)
    assert not wrong(result)
    assert held(result) >= {"arm64-two": {"I2", "I8", "I24", "one"}, "arm64-plugged": {"I22"}}.get(case_, ALL)


def test_who_is_frozen_between_look_and_kvm_run_enters_with_the_sleep_in_both_counters() -> None:
    found = wrong(asked("detect", "arm64-window"))
    assert set(found) == {"I1", "I6", "I8", "I10", "I24"}
    assert found["I6"] == pytest.approx(600 * S, rel=1e-4)
    assert wrong(asked("detect", "arm64-window-two"))["I24"] == 1


def test_a_raw_clock_that_is_taken_at_its_word_lets_the_counter_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "RAW_IS_SLOW", 10**18)
    monkeypatch.setattr(detect, "LOST_NS", 0)
    assert set(wrong(asked("detect", "arm64", "I1"))) == {"I1"}


# ---- negative controls: a VMM that gets one thing wrong


class StartsFirst(Inhibitor):
    """Runs the vCPUs, then takes the sleep from their counters (with one of them in KVM_RUN the call is refused)."""

    async def put_back(self, stop: Any) -> Any:
        await self.start_all()
        await cp("it has other things to do")
        await self.out()
        return await super().put_back(stop)


class FirstOffsetNow(Inhibitor):
    """Gives the VM an offset for the first time after the sleep, as if it had been 0: CNTVCT's was not."""

    offset_at_start = False


class FirstOffsetByCntvct(FirstOffsetNow):
    """... or as if it had been CNTVCT's: CNTPCT's was 0, as it was the host's counter."""

    async def stamp(self) -> Any:
        stop = await super().stamp()
        value = await self.stage.execute(api.GetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT))
        return stop._replace(offset=stop.counter - value)


class TellsNobody(Inhibitor):
    """Hides the sleep, and does not say so."""

    def tell(self, hidden_ns: Any) -> None:
        pass


class ByValue(Inhibitor):
    """Saves CNTVCT of whichever level runs and writes it back: with an L2 inside it is that one's."""

    offset_at_start = False

    async def stamp(self) -> Any:
        value = await self.stage.execute(api.GetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT))
        return (await super().stamp())._replace(value=value)


class L2Twice(Inhibitor):
    """Takes the sleep from the CNTVOFF_EL2 that the hypervisor inside wrote, too."""

    async def put_back(self, stop: Any) -> Any:
        before = self.stage.offset
        hidden_ns = await super().put_back(stop)
        execute = self.stage.execute
        for i in self.vcpus:
            inner = await execute(api.GetOneReg(0, i, KVM_REG_ARM_TIMER_OFFSET))
            await execute(api.SetOneReg(0, i, KVM_REG_ARM_TIMER_OFFSET, u64(inner + self.stage.offset - before)))
        return hidden_ns


class OneByOne(Inhibitor):
    """Before 6.4: writes each vCPU's CNTVCT just before it starts it, though each write is for all of them."""

    async def put_back(self, stop: Any) -> Any:
        hidden_ns = await super().put_back(stop)
        self.value = stop.value
        return hidden_ns

    async def start_all(self) -> None:
        for i in self.vcpus:
            await self.stage.execute(api.SetOneReg(0, i, KVM_REG_ARM_TIMER_CNT, self.value))
            await self.stage.start(i)


class ReadsTheStopFirst(Gate):
    """Reads the instant of the stop before all its vCPUs are out: where the sleep was aborted, one may still be in."""

    async def out(self) -> None:
        self.stop = self.stage.arch.stopped_at(self.stage)
        await super().out()

    async def stopped_at(self) -> Any:
        return self.stop


S2IDLE, ABORTED = (Night(kind="s2idle"),), (Night(kind="s2idle", aborted_at="freezer"),)
ONE = Setting(kernel="linux-6.12-arm64", handler=HandlerCorrected, vmm="broken", vcpus=1, nights=S2IDLE)
NESTED = ONE.but(kernel="linux-6.18-arm64", nested=True)


def found_in(setting: Setting, *properties: str) -> dict[str, str]:
    """Which invariants are violated, and of what."""
    result = in_world(setting, *properties, orders=60)
    return {v.property: v.who for v in result.verdicts if v.status == VIOLATED}


@pytest.mark.parametrize(
    ("vmm", "setting", "flagged", "who"),
    [
        (ReadsTheStopFirst, ONE.but(kernel="linux-6.12-arm64+sleep-gate", nights=ABORTED), "I1", ""),
        (StartsFirst, ONE, "I1", ""),
        (StartsFirst, ONE, "I24", ""),
        (FirstOffsetNow, ONE, "I8", "CNTVCT"),
        (FirstOffsetByCntvct, ONE, "I1", "CNTPCT"),
        (FirstOffsetByCntvct, ONE, "I8", "CNTPCT"),
        (TellsNobody, ONE, "I11", "BOOTTIME"),
        (ByValue, NESTED, "I1", ""),
        (ByValue, NESTED, "I8", ""),
        (L2Twice, NESTED, "I1", "L2 CNTVCT"),
        (L2Twice, NESTED, "I8", "L2 CNTVCT"),
        (OneByOne, ONE.but(kernel="linux-6.1-arm64", vcpus=2, reads=("CNTVCT",)), "one", "CNTVCT"),
        (OneByOne, ONE.but(kernel="linux-6.1-arm64", vcpus=2, reads=("CNTVCT",)), "I2", ""),
    ],
)
def test_a_broken_vmm_is_flagged(
    monkeypatch: pytest.MonkeyPatch, vmm: type[StoppingVmm], setting: Setting, flagged: str, who: str
) -> None:
    monkeypatch.setitem(vmms.VMMS, "broken", vmm)
    assert who in found_in(setting, flagged)[flagged]


def test_a_guest_that_takes_the_record_for_measured_loses_a_sleep_that_its_counter_did_not_see() -> None:
    """The handler that is right with an RTC; and the one that is right here."""
    asleep = ONE.but(vmm="inhibitor", guest_asleep=True)
    assert "I11" in found_in(asleep, "I11")
    assert not found_in(asleep.but(handler=HandlerByCounter), "I11")


class OpensByItself(SleepGate):
    """The gate opens when the sleep is over, and nobody has moved a counter."""

    @classmethod
    def post(cls, kvm: KvmHost) -> None:
        super().post(kvm)
        for vm in kvm.vms:
            told: VmSleep = vm.suspend
            told.gate = False


class StampsBeforeTheLastExit(SleepGate):
    """The stop is where the gate was closed, though a vCPU may have run on for a while."""

    @classmethod
    def exited(cls, vcpu: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("rule", "flagged"),
    [(OpensByItself, "I6"), (StampsBeforeTheLastExit, "I1")],
)
def test_a_broken_gate_is_flagged(monkeypatch: pytest.MonkeyPatch, rule: type[SleepGate], flagged: str) -> None:
    monkeypatch.setitem(overlays.OVERLAYS, "broken", plain("broken", "broken", suspend_time=rule))
    setting = ONE.but(kernel="linux-6.12-arm64+broken", vmm="gate")
    assert flagged in found_in(setting, flagged)


# ---- the second opinion


def test_a_violation_is_a_run_with_integers() -> None:
    result = asked("stock", "arm64", "I8")
    (verdict,) = result.verdicts
    assert replayed("stock", "arm64", verdict).finished
    assert verdict.bound is not None
    assert verdict.worst is not None
    assert verdict.bound - 2 <= verdict.worst <= verdict.bound + 2
