"""Each property of the checker: something that breaks it, and something that keeps it, asked and not vacuous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.checks.asks import QUESTIONS
from guestclock.checks.spec import Site, Spec
from guestclock.checks.verdict import HOLDS, VACUOUS, VIOLATED, Verdict, check
from guestclock.checks.x86.windows import protocol
from guestclock.vmm import recipe as recipes

QUICK = {"delay_ns": 10**8, "life_ns": 10**10, "away_ns": 10**10}
SECOND = 10**9


def ask(recipe: str, kernel: str, *properties: str, **changes: Any) -> dict[str, Verdict]:
    policy = tuple(recipes.load(recipe).policy.items())
    spec = Spec(**{"recipe": recipe, "kernel": kernel, "policy": policy, "properties": properties, **QUICK, **changes})
    result = check(spec, stories=False)
    assert result.complete
    return {verdict.property: verdict for verdict in result.verdicts}


def one(recipe: str, kernel: str, name: str, **changes: Any) -> Verdict:
    verdict = ask(recipe, kernel, name, **changes)[name]
    assert verdict.asked > 0, verdict
    return verdict


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """Writes a recipe, or a kernel, of a test's own."""

    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


NOTHING = '''"""Out of the guest and in again: no clock is touched."""
from guestclock.kvm.api import Vm
async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
async def resume(vm: Vm) -> None:
    pass
'''

HOTPLUG = '''"""A vCPU is plugged in while the others run."""
from guestclock.kvm.api import Vm
async def pause(vm: Vm) -> None:
    pass
async def resume(vm: Vm) -> None:
    vcpu = await vm.create_vcpu()
    await vcpu.enable_kvmclock()
'''


# ---- policies


def test_from_call_to_call_leaves_out_what_is_lost_on_the_way() -> None:
    found = ask("qemu-stop-cont", "linux-6.12", "kvmclock-policy", "kvmclock-policy-calls")
    assert found["kvmclock-policy"].status == VIOLATED
    assert found["kvmclock-policy-calls"].status == HOLDS
    assert found["kvmclock-policy-calls"].asked > 0


def test_a_policy_that_the_calls_do_not_carry_out_is_seen_from_call_to_call() -> None:
    verdict = one("qemu-stop-cont", "linux-6.12", "kvmclock-policy-calls", policy=(("kvmclock", "advance"),))
    assert (verdict.status, verdict.sense) == (VIOLATED, "lost")
    assert verdict.worst is not None
    assert verdict.worst > 10 * SECOND


def test_a_tsc_by_value_is_given_another_vcpus_line() -> None:
    """The second write comes later and is taken for the first: its TSC has gained what passed between them."""
    assert one("by-value-restore", "linux-6.12", "tsc-policy-calls").status == VIOLATED
    assert one("by-value-restore", "linux-6.12", "tsc-policy-calls", vcpus=1).status == HOLDS


# ---- KVM_GET_CLOCK


SCALED = {"sites": (Site(khz=3_000_000, scaling="vmx"),), "khz": 2_500_000}


def test_get_clock_goes_by_the_hosts_rate_where_the_guests_is_scaled() -> None:
    assert one("qemu-stop-cont", "linux-6.12", "get-clock-agrees").status == HOLDS
    verdict = one("qemu-stop-cont", "linux-6.12", "get-clock-agrees", **SCALED)
    assert verdict.status == VIOLATED
    assert verdict.worst is not None
    assert 4000 < verdict.worst < 5500  # 400.177 ns/s (kvm-x86.md 9.2) for 10 s, and for what its boot took


# ---- the pair of clocks


def test_a_tsc_that_runs_while_kvmclock_stands_is_no_pair(own: Any) -> None:
    assert one(own("nothing.py", NOTHING), "linux-6.12", "pairing").status == HOLDS
    verdict = one("qemu-stop-cont", "linux-6.12", "pairing")
    assert (verdict.status, verdict.sense) == (VIOLATED, "kvmclock behind")


# ---- rates


def test_a_rate_that_is_not_the_calibrated_one(own: Any) -> None:
    quiet, rates = own("nothing.py", NOTHING), ("kvmclock-rate", "tsc-rate")
    good = ask(quiet, "linux-6.12", *rates)
    off = ask(quiet, "linux-6.12", *rates, sites=(Site(true_hz=f"{2_596_122 * 10_001}/10"),))
    assert [good[name].status for name in rates] == [HOLDS, HOLDS]
    assert [off[name].status for name in rates] == [VIOLATED, VIOLATED]
    assert off["kvmclock-rate"].sense.startswith("fast")


def test_a_rate_within_the_tolerance_is_promised_and_not_given(own: Any) -> None:
    verdict = one(own("nothing.py", NOTHING), "linux-6.12", "tsc-rate", khz=2_596_122 + 200)
    assert (verdict.status, verdict.sense.partition(" ")[0]) == (VIOLATED, "slow")


def test_ntp_reaches_the_guest_until_5_4(own: Any) -> None:
    plugged = own("hotplug.py", HOTPLUG)
    old, new = (one(plugged, kernel, "ntp-not-fed-through", vcpus=1) for kernel in ("linux-5.4", "linux-5.10"))
    assert (old.status, new.status) == (VIOLATED, HOLDS)
    assert old.worst is not None
    assert 4 * 10**6 < old.worst < 12 * 10**6  # 500 ppm of up to 20 s


def test_a_host_that_is_not_slewed_feeds_nothing_through(own: Any) -> None:
    verdict = one(own("hotplug.py", HOTPLUG), "linux-5.4", "ntp-not-fed-through", vcpus=1, sites=(Site(slew_ppm=0),))
    assert verdict.status == HOLDS


# ---- pages


def test_before_3_19_no_odd_version_is_written() -> None:
    assert one("qemu-stop-cont", "linux-6.12", "version-protocol").status == HOLDS
    verdict = one("qemu-stop-cont", "linux-3.8", "version-protocol", policy=(), vcpus=1)
    assert verdict.status == VIOLATED
    assert "no odd one between" in verdict.sense


def page(version: int, tsc_timestamp: int = 0) -> PvclockVcpuTimeInfo:
    return PvclockVcpuTimeInfo(version, tsc_timestamp, 0, 1, 0, 0)


@pytest.mark.parametrize(
    ("old", "new", "good"),
    [
        (page(2), page(3, 5), True),
        (page(3), page(3, 5), True),
        (page(3), page(4), True),
        (page(0xFFFFFFFF), page(0), True),
        (page(2), page(2, 5), False),
        (page(2), page(4, 5), False),
        (page(3), page(6), False),
    ],
)
def test_the_protocol_of_a_store(old: PvclockVcpuTimeInfo, new: PvclockVcpuTimeInfo, good: bool) -> None:
    assert (protocol(old, new) == "") == good


TORN = '''"""A page written in two stores under one even version."""
from guestclock.kvm.model.x86.kernels import LINUX_6_12
from guestclock.sim import cp
async def without_a_version(vcpu, page, tsc, system_time, flags):
    """The first page counts its version; those after it forget to."""
    page.tsc_timestamp = tsc
    await cp("pvclock page: body")
    page.system_time = system_time
    page.tsc_to_system_mul, page.tsc_shift, page.flags = vcpu.pvclock_tsc_mul, vcpu.pvclock_tsc_shift, flags
    page.version = 2
    return flags
PROFILE = LINUX_6_12.but(name="torn", about="torn pages", page_store=without_a_version)
'''


def test_a_reader_elsewhere_mixes_two_bodies_under_one_version(own: Any) -> None:
    # Both stay in the guest while vCPU 0's page is written anew: a new snapshot on a kick of vCPU 0 alone.
    quiet, kernel = own("kick.py", KICK_0), own("torn.py", TORN)
    assert one(quiet, "linux-6.12", "torn-page").status == HOLDS
    assert one(quiet, kernel, "torn-page").status == VIOLATED
    assert one(quiet, kernel, "version-protocol").status == VIOLATED


KICK_0 = '''"""vCPU 0 alone is told that it was stopped, so that its page is written anew."""
from guestclock.kvm.api import Vm
async def pause(vm: Vm) -> None:
    await vm.vcpus[0].kick()
    await vm.vcpus[0].set_tsc_offset(12345)
    await vm.vcpus[0].kvmclock_ctrl()
async def resume(vm: Vm) -> None:
    await vm.vcpus[0].start()
'''


# ---- vCPU 0's page on all


def test_the_vdso_sees_the_old_page_until_vcpu_0_has_run(own: Any) -> None:
    """QEMU sets the clock back and lets the vCPUs go one by one: vCPU 1 may be first, and reads vCPU 0's old page."""
    quiet = ask(own("nothing.py", NOTHING), "linux-6.12", "vdso-never-back", "flags-honest")
    assert [(v.status, v.asked > 0) for v in quiet.values()] == [(HOLDS, True)] * 2
    found = ask("qemu-stop-cont", "linux-6.12", "vdso-never-back", "flags-honest")
    assert [v.status for v in found.values()] == [VIOLATED] * 2
    assert found["flags-honest"].who == "vCPU 0's page and its own, on vCPU 1"
    assert found["vdso-never-back"].worst is not None
    assert found["vdso-never-back"].worst > 10 * SECOND


GUEST_WRITE = '''"""The guest writes vCPU 1's TSC. Since 5.10 its page stays as it was (kvm-x86.md 7.10)."""
from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm, Wrmsr
async def pause(vm: Vm) -> None:
    await vm.vcpus[1].kick()
    await vm.vcpus[1].run(Wrmsr(MSR_IA32_TSC, 1 << 50))
async def resume(vm: Vm) -> None:
    await vm.vcpus[1].start()
'''


def test_a_guest_that_writes_0_to_one_tsc(own: Any) -> None:
    properties = ("tsc-never-back", "tsc-agrees", "kvmclock-agrees")
    quiet = ask(own("nothing.py", NOTHING), "linux-6.12", *properties)
    assert [(v.status, v.asked > 0) for v in quiet.values()] == [(HOLDS, True)] * 3
    found = ask(own("write.py", GUEST_WRITE.replace("1 << 50", "0")), "linux-6.12", *properties)
    assert [v.status for v in found.values()] == [VIOLATED] * 3


def test_stable_though_the_guest_moved_one_vcpus_tsc(own: Any) -> None:
    verdict = one(own("write.py", GUEST_WRITE), "linux-6.12", "flags-honest")
    assert (verdict.status, verdict.who) == (VIOLATED, "vCPU 0 and vCPU 1")


# ---- restores


APART = '''"""{about}"""
from guestclock.abi.msr import MSR_IA32_TSC_ADJUST
from guestclock.kvm.api import Host, Wrmsr
from guestclock.vmm.recipes.{module} import restore, save
async def create(host: Host, vcpus, snapshot):
    vm = await host.create_vm()
    for _ in range(vcpus):
        await vm.create_vcpu()
    if snapshot is None:
        await vm.vcpus[1].run(Wrmsr(MSR_IA32_TSC_ADJUST, 1_000_000_000))
    return vm
'''


def test_a_guest_that_wants_its_tscs_apart_keeps_them_by_offsets_only(own: Any) -> None:
    kept = own("kept.py", APART.format(about="by offset", module="kernel_doc_migrate"))
    lost = own("lost.py", APART.format(about="by value", module="by_value_restore"))
    assert one(kept, "linux-6.12", "guest-apart-kept").status == HOLDS
    verdict = one(lost, "linux-6.12", "guest-apart-kept")
    assert verdict.status == VIOLATED
    assert verdict.worst == 1_000_000_000  # within a second of the first: KVM makes them one


def test_a_guest_that_wants_nothing_is_not_asked_about() -> None:
    assert ask("qemu-stop-cont", "linux-6.12", "guest-apart-kept")["guest-apart-kept"].status == VACUOUS


TWICE = '''"""{about}, twice."""
from guestclock.checks.twice import restored_twice
from guestclock.vmm.recipes.{module} import save
from guestclock.vmm.recipes.{module} import restore as once
async def restore(vm, snapshot):
    await restored_twice(once, vm, snapshot)
'''


def test_a_value_that_is_written_again_is_another_clock(own: Any) -> None:
    by_value = own("by_value.py", TWICE.format(about="by value", module="by_value_restore"))
    document = own("document.py", TWICE.format(about="as documented", module="kernel_doc_migrate"))
    assert one(by_value, "linux-6.12", "idempotent-restore", vcpus=1).status == VIOLATED
    assert one(document, "linux-6.12", "idempotent-restore", vcpus=1).status == HOLDS


# ---- all of them


def test_every_property_says_where_it_comes_from_and_what_breaks() -> None:
    for question in QUESTIONS.values():
        assert question.about, question.name
        assert question.source, question.name
        assert question.breaks, question.name
