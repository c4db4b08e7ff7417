"""The device against the kernel under it: facts that hold on every KVM with a TSC clocksource, kvm-pvm included."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from guestclock.abi import ioctl as abi
from guestclock.abi.msr import (
    MSR_IA32_TSC,
    MSR_KVM_SYSTEM_TIME,
    MSR_KVM_SYSTEM_TIME_NEW,
    MSR_KVM_WALL_CLOCK_NEW,
)
from guestclock.arith.kernel import pvclock_scale_delta
from guestclock.errors import UserError
from guestclock.kvm.api import (
    CheckExtension,
    ClearGuestStopped,
    ClockReading,
    CreateVcpu,
    CreateVm,
    EnableKvmclock,
    GetClock,
    GetMsr,
    GetTscOffset,
    Host,
    Kick,
    KvmclockCtrl,
    KvmError,
    MoveToCpu,
    Note,
    Peek,
    Rdmsr,
    ReadClocks,
    ReadHostClock,
    Run,
    SetClock,
    SetMsr,
    SetTscOffset,
    Start,
    Wait,
    Wrmsr,
    drive,
)
from guestclock.kvm.device import tracefs
from guestclock.kvm.device.tracefs import Tracepoints
from guestclock.kvm.device.x86 import X86DeviceKvm, guest
from guestclock.kvm.device.x86.tracing import X86Tracing
from guestclock.sim.trace import Trace
from guestclock.vmm.on_device import run_program

pytestmark = pytest.mark.kvm


@pytest.fixture
def vm(kvm: X86DeviceKvm) -> Callable[[int], int]:
    """A VM with so many vCPUs, kvmclock enabled on each, none run yet."""

    def create(vcpus: int) -> int:
        vm = kvm.execute(CreateVm())
        for i in range(vcpus):
            assert kvm.execute(CreateVcpu(vm)) == i
            kvm.execute(EnableKvmclock(vm, i))
        return int(vm)

    return create


@pytest.fixture
def masterclock(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    """Skips where this host gives no masterclock: its clocksource is not the TSC."""
    v = vm(1)
    kvm.execute(Run(v, 0))
    if not kvm.execute(GetClock(v)).flags & abi.KVM_CLOCK_TSC_STABLE:
        pytest.skip("this host gives guests no masterclock (clocksource is not tsc)")


def clock_at(reading: ClockReading) -> int:
    assert reading.kvmclock_ns is not None
    return reading.kvmclock_ns


# ---- KVM_GET_CLOCK, pages


def test_flags_are_0_before_the_first_run_and_14_after(
    kvm: X86DeviceKvm, vm: Callable[[int], int], masterclock: None
) -> None:
    v = vm(1)
    before = kvm.execute(GetClock(v))
    assert (before.flags, before.realtime_ns, before.host_tsc) == (0, 0, 0)
    kvm.execute(Run(v, 0))
    after = kvm.execute(GetClock(v))
    assert after.flags == 14
    assert after.clock_ns > before.clock_ns


def test_a_page_is_written_at_the_first_run_and_not_before(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    v = vm(1)
    before = kvm.execute(Peek(v, 0))
    assert (before.page.version, before.kvmclock_ns) == (0, None)
    [reading] = kvm.execute(Run(v, 0, (ReadClocks(),)))
    assert reading.page.version == 2
    assert kvm.execute(Peek(v, 0)).page == reading.page


def test_a_clock_that_was_set_is_read(
    kvm: X86DeviceKvm, vm: Callable[[int], int], masterclock: None, trace: Trace
) -> None:
    v = vm(1)
    kvm.execute(Run(v, 0))
    kvm.execute(SetClock(v, 5_000_000_000))
    assert 5_000_000_000 <= kvm.execute(GetClock(v)).clock_ns < 6_000_000_000
    [event] = [e for e in trace.of("op") if e.name == "SetClock"]
    assert 0 <= event.data["readback"]["value"]["clock_ns"] - 5_000_000_000 < 1_000_000_000


def test_a_flag_that_does_not_exist_is_refused_by_name(
    kvm: X86DeviceKvm, vm: Callable[[int], int], trace: Trace
) -> None:
    with pytest.raises(KvmError) as refusal:
        kvm.execute(SetClock(vm(1), 0, flags=1))
    assert refusal.value.errno == "EINVAL"
    assert trace.events[-1].data["error"] == "EINVAL"


def test_the_guests_clock_is_kvm_get_clock_to_the_nanosecond(
    kvm: X86DeviceKvm, vm: Callable[[int], int], masterclock: None
) -> None:
    """B == C at the same host TSC, without scaling."""
    v = vm(2)
    for vcpu in (0, 1, 0, 1):
        kvm.execute(Run(v, vcpu))
    offset = kvm.execute(GetTscOffset(v, 0))
    for _ in range(20):
        got = kvm.execute(GetClock(v))
        for vcpu in (0, 1):
            page = kvm.execute(Peek(v, vcpu)).page
            elapsed = (got.host_tsc + offset - page.tsc_timestamp) % 2**64
            at_that_tsc = page.system_time + pvclock_scale_delta(elapsed, page.tsc_to_system_mul, page.tsc_shift)
            assert at_that_tsc == got.clock_ns


def test_readings_from_inside_and_outside_are_in_order(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    v = vm(1)
    kvm.execute(Run(v, 0))
    for _ in range(10):
        before = kvm.execute(Peek(v, 0))
        first, second = kvm.execute(Run(v, 0, (ReadClocks(), ReadClocks())))
        after = kvm.execute(Peek(v, 0))
        assert before.tsc < first.tsc < second.tsc < after.tsc
        assert clock_at(before) <= clock_at(first) <= clock_at(second) <= clock_at(after)
        for reading in (before, first, second, after):
            assert reading.host_tsc[0] < reading.host_tsc[1]


def test_a_guest_without_a_page_reads_its_tsc(kvm: X86DeviceKvm) -> None:
    kvm.execute(CreateVm())
    kvm.execute(CreateVcpu(0))
    [reading] = kvm.execute(Run(0, 0, (ReadClocks(),)))
    assert reading.page is None
    assert reading.kvmclock_ns is None
    assert reading.tsc > 0


def test_an_unwritten_page_is_no_clock(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    v = vm(1)
    kvm.execute(SetMsr(v, 0, MSR_KVM_SYSTEM_TIME_NEW, 0))
    kvm.execute(Run(v, 0))
    assert kvm.execute(Peek(v, 0)).page is None


def test_a_late_vcpu_reads_the_same_clock(kvm: X86DeviceKvm, vm: Callable[[int], int], masterclock: None) -> None:
    v = vm(1)
    kvm.execute(Run(v, 0))
    late = kvm.execute(CreateVcpu(v))
    kvm.execute(EnableKvmclock(v, late))
    readings = [kvm.execute(Run(v, i, (ReadClocks(),)))[0] for i in (0, late, 0, late)]
    clocks = [clock_at(r) for r in readings]
    assert clocks == sorted(clocks)
    assert all(r.page.flags & 1 for r in readings)
    assert kvm.execute(GetClock(v)).flags == 14


def test_an_id_that_exists_is_refused_by_kvm_itself(kvm: X86DeviceKvm, vm: Callable[[int], int], trace: Trace) -> None:
    v = vm(2)
    with pytest.raises(KvmError) as refusal:
        kvm.execute(CreateVcpu(v, id=0))
    assert (refusal.value.errno, trace.events[-1].data["error"]) == ("EEXIST", "EEXIST")
    with pytest.raises(UserError, match="id 7: expected the next free one, 2, or one that exists"):
        kvm.execute(CreateVcpu(v, id=7))
    assert kvm.execute(CreateVcpu(v, id=2)) == 2


# ---- the guest's own doings


def test_the_guest_finds_and_clears_the_stopped_flag(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    v = vm(1)
    kvm.execute(Run(v, 0))
    kvm.execute(KvmclockCtrl(v, 0))
    assert kvm.execute(Peek(v, 0)).page.flags & 2 == 0  # KVM serves no request for a peek
    told, was_set, again = kvm.execute(Run(v, 0, (ReadClocks(), ClearGuestStopped(), ClearGuestStopped())))
    assert (told.page.flags & 2, was_set, again) == (2, True, False)
    assert kvm.execute(Peek(v, 0)).page.flags & 2 == 0


def test_kvmclock_ctrl_needs_a_page(kvm: X86DeviceKvm) -> None:
    kvm.execute(CreateVm())
    kvm.execute(CreateVcpu(0))
    with pytest.raises(KvmError, match="EINVAL"):
        kvm.execute(KvmclockCtrl(0, 0))


def test_the_guest_registers_its_page_and_reads_it_in_one_entry(kvm: X86DeviceKvm) -> None:
    kvm.execute(CreateVm())
    kvm.execute(CreateVcpu(0))
    gpa = guest.system_time_gpa(0) + 0x40
    actions = (Wrmsr(MSR_KVM_SYSTEM_TIME_NEW, gpa | 1), ReadClocks(), Rdmsr(MSR_KVM_SYSTEM_TIME))
    nothing, reading, alias = kvm.execute(Run(0, 0, actions))
    assert nothing is None
    assert reading.page.version == 2
    assert alias == gpa | 1
    assert kvm.execute(Peek(0, 0)).page == reading.page


def test_the_wall_clock_is_written_when_its_msr_is(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    v = vm(1)
    kvm.execute(Run(v, 0))
    kvm.execute(SetMsr(v, 0, MSR_KVM_WALL_CLOCK_NEW, guest.WALL_CLOCK_GPA))
    wall = guest.read_wall_clock(kvm._vms[v].memory)
    realtime, kvmclock = kvm.execute(ReadHostClock("realtime")), kvm.execute(GetClock(v)).clock_ns
    assert wall.version == 2
    assert abs(wall.sec * 10**9 + wall.nsec + kvmclock - realtime) < 100_000_000


def test_a_fault_of_the_guests_is_an_error_and_not_its_end(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    v = vm(1)
    with pytest.raises(KvmError, match="RDMSR of 0x12345678 faulted"):
        kvm.execute(Run(v, 0, (Rdmsr(0x12345678), ReadClocks())))
    [reading] = kvm.execute(Run(v, 0, (ReadClocks(),)))
    assert reading.page.version == 2


def test_a_refused_msr_is_einval(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    v = vm(1)
    with pytest.raises(KvmError, match="took 0 of 1 MSRs") as refusal:
        kvm.execute(SetMsr(v, 0, MSR_KVM_SYSTEM_TIME_NEW + 0x1000, 1))
    assert refusal.value.errno == "EINVAL"


# ---- start and kick


def test_a_vcpu_goes_in_and_comes_out_a_hundred_times(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    v = vm(2)
    for i in range(100):
        kvm.execute(Start(v, i % 2))
        kvm.execute(Kick(v, i % 2))
    tscs = [kvm.execute(Run(v, i, (ReadClocks(),)))[0].tsc for i in (0, 1)]
    assert tscs == sorted(tscs)


def test_a_running_vcpu_is_peeked_at_without_being_stopped(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    v = vm(1)
    kvm.execute(Run(v, 0))
    kvm.execute(Start(v, 0))
    readings = [kvm.execute(Peek(v, 0)) for _ in range(5)]
    assert kvm._vms[v].vcpus[0].spinning
    kvm.execute(Kick(v, 0))
    readings.append(kvm.execute(Peek(v, 0)))
    for earlier, later in itertools.pairwise(readings):
        assert later.tsc - earlier.tsc > 0
        assert (
            later.host_tsc[0] - earlier.host_tsc[1]
            <= later.tsc - earlier.tsc
            <= later.host_tsc[1] - earlier.host_tsc[0]
        )


def test_kicking_who_is_out_does_nothing(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    v = vm(1)
    kvm.execute(Kick(v, 0))
    kvm.execute(Run(v, 0))


def test_a_vcpu_moves_and_keeps_its_clock(kvm: X86DeviceKvm, vm: Callable[[int], int]) -> None:
    v, clocks = vm(1), []
    for cpu in sorted(os.sched_getaffinity(0)) * 3:
        kvm.execute(MoveToCpu(v, 0, cpu))
        clocks.append(clock_at(kvm.execute(Run(v, 0, (ReadClocks(),)))[0]))
    assert clocks == sorted(clocks)


# ---- what is written is read back


def test_a_tsc_offset_is_read_back_whether_it_took_or_not(
    kvm: X86DeviceKvm, vm: Callable[[int], int], trace: Trace
) -> None:
    v = vm(1)
    if not kvm.execute(CheckExtension(abi.KVM_CAP_VCPU_ATTRIBUTES)):
        pytest.skip("no KVM_VCPU_TSC_OFFSET before 5.16")
    kvm.execute(SetTscOffset(v, 0, 2**64 - 10**12))
    [event] = [e for e in trace.of("op") if e.name == "SetTscOffset"]
    readback = event.data["readback"]
    assert readback["value"] == kvm.execute(GetTscOffset(v, 0))
    assert readback["same"] == (readback["value"] == 2**64 - 10**12)


def test_a_tsc_write_says_whether_the_tsc_went_there(kvm: X86DeviceKvm, vm: Callable[[int], int], trace: Trace) -> None:
    v = vm(1)
    kvm.execute(SetMsr(v, 0, MSR_IA32_TSC, 10**12))
    [event] = [e for e in trace.of("op") if e.name == "SetMsr"]
    readback = event.data["readback"]
    assert readback["same"] == (0 <= readback["value"] - 10**12 < 10**9)
    # the value that it has anyway took, on every host
    now = kvm.execute(GetMsr(v, 0, MSR_IA32_TSC))
    kvm.execute(SetMsr(v, 0, MSR_IA32_TSC, now))
    value = [e for e in trace.of("op") if e.name == "SetMsr"][-1].data["readback"]["value"]
    assert 0 <= value - now < 10**9


# ---- the trace


def test_tracepoints_lie_within_their_operations(kvm: X86DeviceKvm, vm: Callable[[int], int], trace: Trace) -> None:
    try:
        Tracepoints(X86Tracing()).close()
    except UserError as missing:
        pytest.skip(str(missing))
    v = vm(1)
    kvm.execute(Run(v, 0))
    kvm.execute(SetClock(v, 10**9))
    ops = list(trace.of("op"))
    points = list(trace.of("tracepoint"))
    names = {p.name for p in points}
    assert names == {"kvm_write_tsc_offset", "kvm_track_tsc", "kvm_update_master_clock", "kvm_pvclock_update"}
    for point in points:
        assert [o for o in ops if o.start_ps <= point.start_ps <= o.end_ps], point
    [update] = [p for p in points if p.name == "kvm_pvclock_update"]
    page = kvm.execute(Peek(v, 0)).page
    for name in ("version", "tsc_timestamp", "system_time", "tsc_to_system_mul", "tsc_shift", "flags"):
        assert update.data[name] == getattr(page, name)
    assert (update.vcpu, update.data["vm"]) == (0, v)


def test_events_come_in_order_and_are_json(kvm: X86DeviceKvm, vm: Callable[[int], int], trace: Trace) -> None:
    v = vm(2)
    for i in (0, 1):
        kvm.execute(Run(v, i, (ReadClocks(),)))
    kvm.execute(Wait(2_000_000))
    kvm.execute(Note("here", "step", (("index", 1),)))
    starts = [e.start_ps for e in trace.events if e.kind != "guest"]
    assert starts == sorted(starts)
    assert all(0 <= e.start_ps <= e.end_ps for e in trace.events)
    wait = next(e for e in trace.events if e.name == "Wait")
    assert wait.end_ps - wait.start_ps >= 2_000_000_000 * 0.999
    out = io.StringIO()
    trace.save(out)
    assert Trace.load(out.getvalue().splitlines()).events[-1].name == "here"


def test_no_tracepoints_are_said_once(x86_answers: None, monkeypatch: pytest.MonkeyPatch, trace: Trace) -> None:
    def none() -> int:
        raise UserError("tracepoints: tracefs is not here")

    monkeypatch.setattr(tracefs, "_open_tracefs", none)
    with X86DeviceKvm(trace.emit) as kvm:
        kvm.execute(CreateVm())
    notes = [e for e in trace.of("note") if e.name == "no-tracepoints"]
    assert [n.data["why"] for n in notes] == ["tracepoints: tracefs is not here"]


# ---- nothing is left behind


def instances() -> set[str]:
    root = tracefs._open_tracefs()
    try:
        fd = os.open("instances", os.O_RDONLY, dir_fd=root)
        try:
            return set(os.listdir(fd))
        finally:
            os.close(fd)
    finally:
        os.close(root)


def test_the_trace_instance_goes_with_the_device(x86_answers: None) -> None:
    try:
        before = instances()
    except UserError as missing:
        pytest.skip(str(missing))
    with X86DeviceKvm(lambda event: None) as one, X86DeviceKvm(lambda event: None) as two:
        assert len([i for i in instances() - before if str(os.getpid()) in i]) == 2
        for kvm in (one, two):
            kvm.execute(CreateVm())
    ours = {i for i in instances() - before if str(os.getpid()) in i}
    assert ours == set()


def left_behind() -> tuple[set[str], int, list[str]]:
    fds = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the directory's own
            fds.add(os.readlink(f"/proc/self/fd/{fd}"))
    threads = [t.name for t in threading.enumerate() if t.name.startswith("vcpu")]
    return {f for f in fds if "kvm" in f or "trace" in f}, len(os.listdir("/proc/self/task")), threads


@pytest.mark.parametrize("how", ["closed", "in the guest", "an error"])
def test_nothing_is_left_behind(x86_answers: None, how: str) -> None:
    before = left_behind()

    def use(kvm: X86DeviceKvm) -> None:
        for op in (CreateVm(), CreateVcpu(0), CreateVcpu(0), Run(0, 0), Start(0, 1)):
            kvm.execute(op)
        if how == "closed":
            kvm.close()
            kvm.close()
            with pytest.raises(UserError, match="closed"):
                kvm.execute(CreateVm())
        if how == "an error":
            kvm.execute(GetMsr(0, 9, 0x10))

    try:
        with X86DeviceKvm(lambda event: None) as kvm:
            use(kvm)
    except UserError:
        assert how == "an error"
    assert left_behind() == before


# ---- recipes and programs


def test_a_recipe_runs_unchanged(kvm: X86DeviceKvm) -> None:
    async def recipe(host: Host) -> list[Any]:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        await vcpu.enable_kvmclock()
        return await vcpu.run(ReadClocks())

    [reading] = drive(recipe(Host()), kvm.execute)
    assert reading.page.version == 2


def test_a_program_gives_a_trace_that_can_be_loaded(x86_answers: None) -> None:
    lines: list[str] = []
    steps = [{"actor": "guest", "do": "read", "say": "the guest reads its clocks"}]
    program = {"program": "steps", "vcpus": 1, "steps": steps, "options": {"trace": False}}
    run_program(program, lambda line: lines.append(json.dumps(line)))
    trace = Trace.load(lines)
    assert trace.meta["on"] == "kvm"
    assert trace.meta["tsc_khz"] > 100_000
    assert [e for e in trace.of("guest") if e.data["kvmclock_ns"]]
