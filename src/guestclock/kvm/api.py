"""What a VMM may ask of KVM and of its host, as typed operations.

A recipe is an `async` function over the handles `Host`, `Vm` and `Vcpu`. Each `await` hands one operation to whoever
drives the recipe (`serve` for the model, `drive` for real ioctls); the answer, or a `KvmError`, comes back to it.
Standard library only: this file also runs inside the lab.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.errors import UserError


class KvmError(Exception):
    """An operation that the kernel refused: the errno's name ("EINVAL") and the operation."""

    def __init__(self, errno: str, op: Op, why: str = "") -> None:
        super().__init__(f"{op.name}: {errno}" + (f" ({why})" if why else ""))
        self.errno, self.op, self.why = errno, op, why


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. Awaiting it asks the executor and returns the answer."""

    @property
    def name(self) -> str:
        return type(self).__name__

    def __await__(self) -> Generator[Op, Any, Any]:
        return (yield self)

    def as_json(self) -> dict[str, Any]:
        return {"op": self.name, **asdict(self)}


# ---- answers


@dataclass(frozen=True, slots=True)
class ClockData:
    """struct kvm_clock_data: u64 clock_ns, realtime_ns, host_tsc; flags 2 TSC_STABLE, 4 REALTIME, 8 HOST_TSC."""

    clock_ns: int
    flags: int
    realtime_ns: int = 0
    host_tsc: int = 0


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What one vCPU's clocks show at one instant: guest TSC and, where a system-time page is active, the page.

    tsc: guest cycles, u64. page: None until the guest (or the VMM) has registered one. kvmclock_ns: Definition B, from
    page and tsc; None without a page or before its first write (version 0). host_tsc: (before, after), the sandwich.
    """

    tsc: int
    page: PvclockVcpuTimeInfo | None
    kvmclock_ns: int | None
    host_tsc: tuple[int, int]


@dataclass(frozen=True, slots=True)
class CounterReading:
    """What one arm64 vCPU's counters show: CNTVCT_EL0, CNTPCT_EL0, CNTVCT_EL0 again, one right after the other, u64.

    cntpct: None where nothing tells it (Peek before 6.4, whose KVM has no register for it). host_counter: (before,
    after), the sandwich of all three.
    """

    cntvct: int
    cntpct: int | None
    cntvct_after: int
    host_counter: tuple[int, int]


# ---- what a guest does inside one KVM_RUN


@dataclass(frozen=True, slots=True)
class GuestAction:
    """Something the guest does between entry and exit."""


@dataclass(frozen=True, slots=True)
class ReadClocks(GuestAction):
    """RDTSC and a kvmclock read by the version protocol; answers a ClockReading."""


@dataclass(frozen=True, slots=True)
class Wrmsr(GuestAction):
    """WRMSR by the guest: index u32, data u64. Answers None."""

    index: int
    data: int


@dataclass(frozen=True, slots=True)
class Rdmsr(GuestAction):
    """RDMSR by the guest; answers the value, u64."""

    index: int


@dataclass(frozen=True, slots=True)
class ClearGuestStopped(GuestAction):
    """The guest's pvclock_clocksource_read: clears GUEST_STOPPED in its own page. Answers whether it was set."""


@dataclass(frozen=True, slots=True)
class ReadCounters(GuestAction):
    """arm64: CNTVCT_EL0, CNTPCT_EL0 and CNTVCT_EL0, an ISB before each; answers a CounterReading."""


@dataclass(frozen=True, slots=True)
class ReadSysreg(GuestAction):
    """arm64: MRS by the guest of one of `abi.arm64.GUEST_SYSREGS` ("CNTV_CTL_EL0"); answers u64."""

    name: str


@dataclass(frozen=True, slots=True)
class WriteSysreg(GuestAction):
    """arm64: MSR by the guest, value u64. Answers None."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Hvc(GuestAction):
    """arm64: HVC #0 with x0..x3 by the SMC calling convention; answers x0..x3 afterwards, u64 each, as a tuple."""

    x0: int
    x1: int = 0
    x2: int = 0
    x3: int = 0


@dataclass(frozen=True, slots=True)
class EnterL2(GuestAction):
    """The guest, itself a hypervisor, runs an L2: x86 with this TSC offset (s64 cycles, added) and ratio (None: no
    scaling); arm64 with this CNTVOFF_EL2 (u64 ticks, subtracted), and no ratio.
    """

    offset: int
    ratio: int | None = None


@dataclass(frozen=True, slots=True)
class ExitL2(GuestAction):
    """L2 exits to the guest hypervisor."""


# ---- operations on KVM, VM scope


@dataclass(frozen=True, slots=True)
class CheckExtension(Op):
    """KVM_CHECK_EXTENSION; answers the int."""

    capability: int


@dataclass(frozen=True, slots=True)
class CreateVm(Op):
    """KVM_CREATE_VM; answers the VM's id, counted from 0."""


@dataclass(frozen=True, slots=True)
class CreateVcpu(Op):
    """KVM_CREATE_VCPU (x86: and a 32-byte slot for its system-time page; arm64: and KVM_ARM_VCPU_INIT); answers the
    vCPU's index.

    id: None is the next free one. One that exists already is refused with EEXIST.
    """

    vm: int
    id: int | None = None


@dataclass(frozen=True, slots=True)
class GetClock(Op):
    """KVM_GET_CLOCK; answers ClockData."""

    vm: int


@dataclass(frozen=True, slots=True)
class SetClock(Op):
    """KVM_SET_CLOCK: clock_ns u64, flags, realtime_ns u64 (used with flag 4), host_tsc (ignored by KVM)."""

    vm: int
    clock_ns: int
    flags: int = 0
    realtime_ns: int = 0
    host_tsc: int = 0


@dataclass(frozen=True, slots=True)
class SetTscKhz(Op):
    """KVM_SET_TSC_KHZ, of one vCPU or (vcpu None) of the VM. khz u32, 0: the host's; never near zero on real hosts."""

    vm: int
    khz: int
    vcpu: int | None = None


@dataclass(frozen=True, slots=True)
class GetTscKhz(Op):
    """KVM_GET_TSC_KHZ, of one vCPU or of the VM; answers kHz."""

    vm: int
    vcpu: int | None = None


@dataclass(frozen=True, slots=True)
class StopAllTscs(Op):
    """2010's assistance that never was: hold every vCPU's TSC at one instant; answers it (overlay `stop-all-tscs`)."""

    vm: int


@dataclass(frozen=True, slots=True)
class StartAllTscs(Op):
    """Lets the TSCs held by StopAllTscs run on from `tsc` (u64), all vCPUs at one instant."""

    vm: int
    tsc: int


@dataclass(frozen=True, slots=True)
class XenSharedInfoInit(Op):
    """KVM_XEN_HVM_SET_ATTR shared_info: writes the Xen wall clock and requests a masterclock update on all vCPUs."""

    vm: int


@dataclass(frozen=True, slots=True)
class SetCounterOffset(Op):
    """arm64: KVM_ARM_SET_COUNTER_OFFSET (6.4): offset u64 ticks, subtracted from the host's counter; reserved: 0."""

    vm: int
    offset: int
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class CreateIrqchip(Op):
    """arm64: an in-kernel vGIC, created and initialised: no vCPU can be created after it."""

    vm: int


# ---- operations on a vCPU


@dataclass(frozen=True, slots=True)
class SetOneReg(Op):
    """arm64: KVM_SET_ONE_REG: id u64 (`abi.arm64` names those of the timers), value u64."""

    vm: int
    vcpu: int
    id: int
    value: int


@dataclass(frozen=True, slots=True)
class GetOneReg(Op):
    """arm64: KVM_GET_ONE_REG; answers u64."""

    vm: int
    vcpu: int
    id: int


@dataclass(frozen=True, slots=True)
class GetRegList(Op):
    """arm64: KVM_GET_REG_LIST; answers those of its ids that are timers' (`abi.arm64.TIMER_REGS`), in its order."""

    vm: int
    vcpu: int


@dataclass(frozen=True, slots=True)
class VcpuInit(Op):
    """arm64: KVM_ARM_VCPU_INIT once more, as for a reset: the timers' controls become 0, counters stay."""

    vm: int
    vcpu: int


@dataclass(frozen=True, slots=True)
class SetVcpuAttr(Op):
    """arm64: KVM_SET_DEVICE_ATTR on a vCPU: group u32, attr u64; value u64, or s32 where the attribute is an int."""

    vm: int
    vcpu: int
    group: int
    attr: int
    value: int


@dataclass(frozen=True, slots=True)
class GetVcpuAttr(Op):
    """arm64: KVM_GET_DEVICE_ATTR on a vCPU; answers the value."""

    vm: int
    vcpu: int
    group: int
    attr: int


@dataclass(frozen=True, slots=True)
class SetMsr(Op):
    """KVM_SET_MSRS with one MSR: index u32, data u64."""

    vm: int
    vcpu: int
    index: int
    data: int


@dataclass(frozen=True, slots=True)
class GetMsr(Op):
    """KVM_GET_MSRS with one MSR; answers u64."""

    vm: int
    vcpu: int
    index: int


@dataclass(frozen=True, slots=True)
class SetTscOffset(Op):
    """KVM_SET_DEVICE_ATTR KVM_VCPU_TSC_CTRL/KVM_VCPU_TSC_OFFSET: offset u64 cycles."""

    vm: int
    vcpu: int
    offset: int


@dataclass(frozen=True, slots=True)
class GetTscOffset(Op):
    """KVM_GET_DEVICE_ATTR of the same; answers u64 cycles. EINVAL before 5.16 (no such ioctl)."""

    vm: int
    vcpu: int


@dataclass(frozen=True, slots=True)
class EnableKvmclock(Op):
    """KVM_SET_MSRS of the system-time MSR: this vCPU's page, enabled. old: MSR 0x12 instead of 0x4b564d01."""

    vm: int
    vcpu: int
    old: bool = False


@dataclass(frozen=True, slots=True)
class KvmclockCtrl(Op):
    """KVM_KVMCLOCK_CTRL: the guest is told (flag 2) that it was stopped. EINVAL without an active page."""

    vm: int
    vcpu: int


@dataclass(frozen=True, slots=True)
class Run(Op):
    """KVM_RUN: requests are served, the guest does `actions`, then exits. Answers a list, one answer per action."""

    vm: int
    vcpu: int
    actions: tuple[GuestAction, ...] = ()

    def as_json(self) -> dict[str, Any]:
        actions = [{"action": type(a).__name__, **asdict(a)} for a in self.actions]
        return {"op": self.name, "vm": self.vm, "vcpu": self.vcpu, "actions": actions}


@dataclass(frozen=True, slots=True)
class Start(Op):
    """The vCPU's thread goes into KVM_RUN and stays: the guest spins until `Kick`. Vcpu operations wait meanwhile."""

    vm: int
    vcpu: int


@dataclass(frozen=True, slots=True)
class Kick(Op):
    """Signal and immediate_exit: the vCPU's thread leaves KVM_RUN and stays out. Answers None when it is out."""

    vm: int
    vcpu: int


@dataclass(frozen=True, slots=True)
class Peek(Op):
    """The vCPU's clocks seen from outside (page in guest memory, TSC by KVM_GET_MSRS): KVM serves no request for it.

    For a vCPU in KVM_RUN the TSC comes from its last known offset, as the MSR ioctl would wait. Answers a ClockReading.
    arm64: the counters by KVM_GET_ONE_REG, or what the spinning guest itself last stored; answers a CounterReading.
    """

    vm: int
    vcpu: int


@dataclass(frozen=True, slots=True)
class MoveToCpu(Op):
    """sched_setaffinity of the vCPU's thread: its next load is on physical CPU `cpu`."""

    vm: int
    vcpu: int
    cpu: int


@dataclass(frozen=True, slots=True)
class Preempt(Op):
    """The host's scheduler takes the CPU from a vCPU's thread in KVM_RUN for `ns`: it is put, waits, and is loaded.

    Model only: no call asks for it.
    """

    vm: int
    vcpu: int
    ns: int = 0


# ---- operations on the host (outside KVM)


@dataclass(frozen=True, slots=True)
class Wait(Op):
    """The VMM does nothing for `ns` of true time."""

    ns: int


@dataclass(frozen=True, slots=True)
class ReadHostClock(Op):
    """clock_gettime, or the counter itself.

    clock: "realtime", "monotonic", "monotonic_raw", "boottime" (ns); on x86 "tsc" (cycles), on arm64 "counter" (ticks).
    """

    clock: str


@dataclass(frozen=True, slots=True)
class SetClocksource(Op):
    """Writes current_clocksource: "tsc", "hpet", ... Only where the host may be changed (model, lab)."""

    clocksource: str


@dataclass(frozen=True, slots=True)
class MarkTscUnstable(Op):
    """mark_tsc_unstable(): sticky, host-wide, permanent. Model only."""


@dataclass(frozen=True, slots=True)
class StepRealtime(Op):
    """clock_settime: REALTIME moves by `ns` (signed) at once."""

    ns: int


@dataclass(frozen=True, slots=True)
class AdjustFrequency(Op):
    """adjtimex(ADJ_FREQUENCY): MONOTONIC runs `ppb` (signed, within 500 000) faster than the clocksource."""

    ppb: int


@dataclass(frozen=True, slots=True)
class HostSleep(Op):
    """The host sleeps for `ns`. tsc: its counter is "running", "stopped" (holds) or "reset" (starts at 0 again).

    kind: "s3" (the hardware goes down and comes up again) or "s2idle" (only timekeeping stops).
    """

    ns: int
    tsc: str = "running"
    kind: str = "s3"


@dataclass(frozen=True, slots=True)
class Note(Op):
    """A line in the trace: kind "step" begins a step of the scenario. Changes nothing."""

    name_: str
    kind: str = "note"
    data: tuple[tuple[str, Any], ...] = ()


# ---- handles


class Vcpu:
    """A vCPU of one VM; each method is one operation."""

    __slots__ = ("index", "vm")

    def __init__(self, vm: int, index: int) -> None:
        self.vm, self.index = vm, index

    async def set_msr(self, index: int, data: int) -> None:
        await SetMsr(self.vm, self.index, index, data)

    async def get_msr(self, index: int) -> int:
        return await GetMsr(self.vm, self.index, index)  # type: ignore[no-any-return]

    async def set_tsc_offset(self, offset: int) -> None:
        await SetTscOffset(self.vm, self.index, offset)

    async def get_tsc_offset(self) -> int:
        return await GetTscOffset(self.vm, self.index)  # type: ignore[no-any-return]

    async def set_tsc_khz(self, khz: int) -> None:
        await SetTscKhz(self.vm, khz, self.index)

    async def get_tsc_khz(self) -> int:
        return await GetTscKhz(self.vm, self.index)  # type: ignore[no-any-return]

    async def enable_kvmclock(self, *, old: bool = False) -> None:
        await EnableKvmclock(self.vm, self.index, old)

    async def kvmclock_ctrl(self) -> None:
        await KvmclockCtrl(self.vm, self.index)

    async def set_one_reg(self, id_: int, value: int) -> None:
        await SetOneReg(self.vm, self.index, id_, value)

    async def get_one_reg(self, id_: int) -> int:
        return await GetOneReg(self.vm, self.index, id_)  # type: ignore[no-any-return]

    async def get_reg_list(self) -> list[int]:
        return await GetRegList(self.vm, self.index)  # type: ignore[no-any-return]

    async def init(self) -> None:
        await VcpuInit(self.vm, self.index)

    async def set_attr(self, group: int, attr: int, value: int) -> None:
        await SetVcpuAttr(self.vm, self.index, group, attr, value)

    async def get_attr(self, group: int, attr: int) -> int:
        return await GetVcpuAttr(self.vm, self.index, group, attr)  # type: ignore[no-any-return]

    async def run(self, *actions: GuestAction) -> list[Any]:
        return await Run(self.vm, self.index, actions)  # type: ignore[no-any-return]

    async def start(self) -> None:
        await Start(self.vm, self.index)

    async def kick(self) -> None:
        await Kick(self.vm, self.index)

    async def peek(self) -> Any:
        return await Peek(self.vm, self.index)

    async def move_to_cpu(self, cpu: int) -> None:
        await MoveToCpu(self.vm, self.index, cpu)


class Vm:
    """A VM; `vcpus` are the ones created through this handle, in order.

    kept: what the VMM itself remembers about the VM from one operation to the next (a clock read at pause).
    """

    __slots__ = ("id", "kept", "vcpus")

    def __init__(self, vm_id: int) -> None:
        self.id = vm_id
        self.vcpus: list[Vcpu] = []
        self.kept: dict[str, Any] = {}

    async def create_vcpu(self) -> Vcpu:
        vcpu = Vcpu(self.id, await CreateVcpu(self.id))
        self.vcpus.append(vcpu)
        return vcpu

    async def get_clock(self) -> ClockData:
        return await GetClock(self.id)  # type: ignore[no-any-return]

    async def set_clock(self, clock_ns: int, flags: int = 0, realtime_ns: int = 0, host_tsc: int = 0) -> None:
        await SetClock(self.id, clock_ns, flags, realtime_ns, host_tsc)

    async def set_tsc_khz(self, khz: int) -> None:
        await SetTscKhz(self.id, khz)

    async def get_tsc_khz(self) -> int:
        return await GetTscKhz(self.id)  # type: ignore[no-any-return]

    async def stop_all_tscs(self) -> int:
        return await StopAllTscs(self.id)  # type: ignore[no-any-return]

    async def start_all_tscs(self, tsc: int) -> None:
        await StartAllTscs(self.id, tsc)

    async def xen_shared_info_init(self) -> None:
        await XenSharedInfoInit(self.id)

    async def set_counter_offset(self, offset: int, reserved: int = 0) -> None:
        await SetCounterOffset(self.id, offset, reserved)

    async def create_irqchip(self) -> None:
        await CreateIrqchip(self.id)


class Host:
    """The host a recipe runs on."""

    __slots__ = ()

    async def create_vm(self) -> Vm:
        return Vm(await CreateVm())

    async def check_extension(self, capability: int) -> int:
        return await CheckExtension(capability)  # type: ignore[no-any-return]

    async def wait(self, ns: int) -> None:
        await Wait(ns)

    async def read_clock(self, clock: str) -> int:
        return await ReadHostClock(clock)  # type: ignore[no-any-return]


# ---- drivers

Recipe = Coroutine[Op, Any, Any]


def _tell(recipe: Recipe, mistake: UserError) -> NoReturn:
    """Raises the mistake with the recipe's own line in its traceback. A recipe may clean up, not catch it for good."""
    with suppress(StopIteration):
        recipe.throw(mistake)
    raise mistake


def drive(recipe: Recipe, execute: Callable[[Op], Any]) -> Any:
    """Runs a recipe to its end against an executor that answers at once (real ioctls). Returns the recipe's result."""
    answer: Any = None
    failure: KvmError | None = None
    try:
        while True:
            op = recipe.send(answer) if failure is None else recipe.throw(failure)
            try:
                answer, failure = execute(op), None
            except KvmError as error:
                failure = error
            except UserError as mistake:
                _tell(recipe, mistake)
    except StopIteration as end:
        return end.value
    finally:
        recipe.close()


async def serve(recipe: Recipe, execute: Callable[[Op], Awaitable[Any]]) -> Any:
    """Runs a recipe to its end as an actor of a simulation: each operation is carried out by awaiting `execute(op)`."""
    answer: Any = None
    failure: KvmError | None = None
    try:
        while True:
            op = recipe.send(answer) if failure is None else recipe.throw(failure)
            try:
                answer, failure = await execute(op), None
            except KvmError as error:
                failure = error
            except UserError as mistake:
                _tell(recipe, mistake)
    except StopIteration as end:
        return end.value
    finally:
        recipe.close()
