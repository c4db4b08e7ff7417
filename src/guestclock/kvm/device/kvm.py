"""The operations of `guestclock.kvm.api` carried out on this machine's KVM, each with the host TSC on both sides.

A success code is no evidence: what is written is read back, and the answer goes into the trace beside the write. The
device judges nothing; hosts that ignore writes (kvm-pvm keeps every TSC offset at 0) are told apart by their readings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmClockData, pack_xen_shared_info
from guestclock.abi.msr import (
    KVM_MSR_ENABLED,
    MSR_IA32_TSC,
    MSR_KVM_SYSTEM_TIME,
    MSR_KVM_SYSTEM_TIME_NEW,
    SYSTEM_TIME_MSRS,
)
from guestclock.arith.kernel import u64
from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.device import guest, host, ioctls, native
from guestclock.kvm.device.entry import Entry, reading
from guestclock.kvm.device.ioctls import IoctlError
from guestclock.kvm.device.tracefs import Tracepoints
from guestclock.kvm.device.vcpu import Vcpu
from guestclock.kvm.device.vm import Vm
from guestclock.kvm.record import as_json, record
from guestclock.sim.trace import Emit, Event

MIN_TSC_KHZ = 100_000
"""Below, scaled rates come near 0, and a rate of 0 hangs a kernel before 6.16 for good (4578a747f3c7)."""


class _Took:
    """When an operation took place, in host TSC, and what else is to be told of it."""

    def __init__(self) -> None:
        self.start = self.end = native.rdtsc()
        self.more: dict[str, Any] = {}
        self._fixed = False

    def at(self, host_tsc: tuple[int, int]) -> None:
        """It took place within this sandwich; several calls span all of theirs."""
        if not self._fixed:
            self.start, self._fixed = host_tsc[0], True
        self.end = host_tsc[1]

    def done(self) -> None:
        if not self._fixed:
            self.end = native.rdtsc()


class DeviceKvm:
    """An executor over real ioctls: `drive(recipe, kvm.execute)`. Use it as a context manager.

    emit: receives the trace. host_ops_allowed: operations that change the whole host are carried out; never outside a
    lab. trace: KVM's own tracepoints as well, where this process may have them; it says so in a note where it may not.
    """

    def __init__(self, emit: Emit, *, host_ops_allowed: bool = False, trace: bool = True) -> None:
        self._sink, self._host_ops_allowed = emit, host_ops_allowed
        self._waiting: list[Event] = []
        self._vms: list[Vm] = []
        self._tracepoints: Tracepoints | None = None
        self._cpus = sorted(os.sched_getaffinity(0))
        self._kvm_fd = ioctls.open_kvm()
        try:
            native.kick_signal()
            self.tsc_khz, self.tsc_start = self._calibrated_khz(), native.rdtsc()
            if trace:
                self._open_tracepoints()
            self.tsc_start = native.rdtsc()  # time 0 is when the first operation can come
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kicks and joins every vCPU, closes every descriptor, removes the trace instance. May be called twice."""
        for vm in self._vms:
            vm.close()
        self._vms.clear()
        if self._tracepoints is not None:
            self._flush()
            self._tracepoints.close()
            self._tracepoints = None
        if self._kvm_fd >= 0:
            os.close(self._kvm_fd)
            self._kvm_fd = -1

    def meta(self) -> dict[str, Any]:
        """What a trace of this machine says about itself."""
        rates = {"tsc_khz": self.tsc_khz, "tsc_start": self.tsc_start, "clocksource": host.clocksource()}
        return {"on": "kvm", "kernel": os.uname().release, **rates}

    def ps(self, tsc: int) -> int:
        """True time of a host TSC value: its counter at the calibrated rate, from the device's creation."""
        return (tsc - self.tsc_start) * 1_000_000_000 // self.tsc_khz

    def execute(self, op: api.Op) -> Any:
        """Carries out one operation and records it. Raises KvmError where KVM refuses, UserError where we do."""
        carry_out = _OPS.get(type(op))
        if carry_out is None:
            raise UserError(f"{op.name}: {_MODEL_ONLY.get(op.name, 'no ioctl does this')}; run it on the model")
        if self._kvm_fd < 0:
            raise UserError(f"{op.name}: this DeviceKvm is closed")
        took = _Took()
        try:
            answer = carry_out(self, op, took)
        except IoctlError as refusal:
            took.at(refusal.host_tsc)
            answer = api.KvmError(refusal.errno, op, refusal.why)
            if refusal.why:
                took.more["why"] = refusal.why
        took.done()
        record(self._waiting.append, op, self.ps(took.start), self.ps(took.end), answer, took.more)
        self._flush()
        if isinstance(answer, api.KvmError):
            raise answer
        return answer

    # ---- the trace

    def _flush(self) -> None:
        """What the operation and the kernel have said since, by time."""
        if self._tracepoints is not None:
            for point in self._tracepoints.drain():
                ps = self.ps(point.host_tsc)
                self._waiting.append(Event("tracepoint", point.name, ps, ps, point.vcpu, point.data))
        for event in sorted(self._waiting, key=lambda e: e.end_ps if e.kind == "guest" else e.start_ps):
            self._sink(event)
        self._waiting.clear()

    def _open_tracepoints(self) -> None:
        try:
            self._tracepoints = Tracepoints()
        except UserError as missing:
            now = self.ps(native.rdtsc())
            self._sink(Event("note", "no-tracepoints", now, now, None, {"why": str(missing)}))

    def _calibrated_khz(self) -> int:
        """KVM_GET_TSC_KHZ of a fresh vCPU: the rate by which all of KVM reckons."""
        vm = Vm(self._kvm_fd)
        try:
            return vm.create_vcpu(self._cpus[0]).tsc_khz
        finally:
            vm.close()

    # ---- finding things

    def _vm(self, op: Any) -> Vm:
        index: int = op.vm
        if not 0 <= index < len(self._vms):
            raise UserError(f"{op.name}: no VM {index} ({len(self._vms)} created)")
        return self._vms[index]

    def _vcpu(self, op: Any, *, in_guest_too: bool = False) -> Vcpu:
        vcpus, index = self._vm(op).vcpus, int(op.vcpu)
        if not 0 <= index < len(vcpus):
            raise UserError(f"{op.name}: VM {op.vm} has no vCPU {index} ({len(vcpus)} created)")
        vcpu = vcpus[index]
        if vcpu.spinning and not in_guest_too:
            raise UserError(f"{op.name}: vCPU {index} is in KVM_RUN since Start: Kick it first")
        return vcpu

    # ---- /dev/kvm and VMs

    def _check_extension(self, op: api.CheckExtension, took: _Took) -> int:
        answer = ioctls.call(self._kvm_fd, abi.KVM_CHECK_EXTENSION, op.capability)
        took.at(answer.host_tsc)
        return answer.value

    def _create_vm(self, op: api.CreateVm, took: _Took) -> int:
        vm = Vm(self._kvm_fd)
        self._vms.append(vm)
        took.at(vm.created.host_tsc)
        return len(self._vms) - 1

    def _create_vcpu(self, op: api.CreateVcpu, took: _Took) -> int:
        vm = self._vm(op)
        vcpu = vm.create_vcpu(self._cpus[len(vm.vcpus) % len(self._cpus)])
        if self._tracepoints is not None and vcpu.tid is not None:
            self._tracepoints.threads[vcpu.tid] = (op.vm, vcpu.index)
        took.at(vcpu.created.host_tsc)
        took.more |= {"vcpu": vcpu.index, "cpu": vcpu.cpu, "tsc_khz": vcpu.tsc_khz}
        return vcpu.index

    def _get_clock(self, op: api.GetClock, took: _Took) -> api.ClockData:
        answer = self._vm(op).ioctl(abi.KVM_GET_CLOCK, bytes(KvmClockData.SIZE))
        took.at(answer.host_tsc)
        data = KvmClockData.unpack(answer.data)
        return api.ClockData(data.clock, data.flags, data.realtime, data.host_tsc)

    def _set_clock(self, op: api.SetClock, took: _Took) -> None:
        data = KvmClockData(u64(op.clock_ns), op.flags, u64(op.realtime_ns), u64(op.host_tsc))
        took.at(self._vm(op).ioctl(abi.KVM_SET_CLOCK, data.pack()).host_tsc)
        after = _Took()
        self._read_back(took, as_json(self._get_clock(api.GetClock(op.vm), after)), (after.start, after.end))

    def _set_tsc_khz(self, op: api.SetTscKhz, took: _Took) -> None:
        if op.khz != 0 and not MIN_TSC_KHZ <= op.khz < 2**32:
            raise UserError(
                f"SetTscKhz: {op.khz} kHz: expected 0 (the host's rate) or {MIN_TSC_KHZ}..{2**32 - 1}: "
                "kernels before 6.16 hang on rates near zero"
            )
        target = self._vm(op) if op.vcpu is None else self._vcpu(op)
        refusal = None
        try:
            took.at(target.ioctl(abi.KVM_SET_TSC_KHZ, op.khz).host_tsc)
        except IoctlError as error:
            refusal = error
            if op.vcpu is None:  # before 5.18 a VM has neither of the two calls
                raise
        answer = target.ioctl(abi.KVM_GET_TSC_KHZ)
        if isinstance(target, Vcpu):
            target.tsc_khz = answer.value  # a rate that was refused can have been kept all the same (kvm-x86.md 7.9)
        self._read_back(took, answer.value, answer.host_tsc, answer.value == (op.khz or self.tsc_khz))
        if refusal is not None:
            raise refusal

    def _get_tsc_khz(self, op: api.GetTscKhz, took: _Took) -> int:
        target = self._vm(op) if op.vcpu is None else self._vcpu(op)
        answer = target.ioctl(abi.KVM_GET_TSC_KHZ)
        took.at(answer.host_tsc)
        return answer.value

    def _xen_shared_info_init(self, op: api.XenSharedInfoInit, took: _Took) -> None:
        offered = ioctls.call(self._kvm_fd, abi.KVM_CHECK_EXTENSION, abi.KVM_CAP_XEN_HVM)
        if not offered.value & abi.KVM_XEN_HVM_CONFIG_SHARED_INFO:
            raise IoctlError("ENOTTY", offered.host_tsc, "KVM_CAP_XEN_HVM (38) does not offer shared_info here")
        config = abi.KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL
        self._vm(op).ioctl(abi.KVM_XEN_HVM_CONFIG, config.to_bytes(4, "little") + bytes(52))
        attr = pack_xen_shared_info(guest.XEN_SHARED_INFO_GPA >> 12)
        took.at(self._vm(op).ioctl(abi.KVM_XEN_HVM_SET_ATTR, attr).host_tsc)

    # ---- vCPUs

    def _set_msr(self, op: api.SetMsr, took: _Took) -> None:
        vcpu, data = self._vcpu(op), u64(op.data)
        took.at(vcpu.do(lambda: ioctls.set_msr(vcpu.fd, op.index, data)).host_tsc)
        if op.index in SYSTEM_TIME_MSRS:
            vcpu.register_page(data)
        value, host_tsc = vcpu.do(lambda: ioctls.get_msr(vcpu.fd, op.index))
        same = value == data
        if op.index == MSR_IA32_TSC:  # it has been running since
            least, most = (c * vcpu.tsc_khz // self.tsc_khz for c in (host_tsc[0] - took.end, host_tsc[1] - took.start))
            same = u64(value - data - least) <= most - least + 1
        self._read_back(took, value, host_tsc, same)

    def _get_msr(self, op: api.GetMsr, took: _Took) -> int:
        vcpu = self._vcpu(op)
        value, host_tsc = vcpu.do(lambda: ioctls.get_msr(vcpu.fd, op.index))
        took.at(host_tsc)
        return value

    def _set_tsc_offset(self, op: api.SetTscOffset, took: _Took) -> None:
        vcpu, offset = self._vcpu(op), u64(op.offset)
        took.at(vcpu.do(lambda: ioctls.set_tsc_offset(vcpu.fd, offset)).host_tsc)
        value, host_tsc = vcpu.do(lambda: ioctls.get_tsc_offset(vcpu.fd))
        self._read_back(took, value, host_tsc, value == offset)

    def _get_tsc_offset(self, op: api.GetTscOffset, took: _Took) -> int:
        vcpu = self._vcpu(op)
        value, host_tsc = vcpu.do(lambda: ioctls.get_tsc_offset(vcpu.fd))
        took.at(host_tsc)
        return value

    def _enable_kvmclock(self, op: api.EnableKvmclock, took: _Took) -> None:
        index = MSR_KVM_SYSTEM_TIME if op.old else MSR_KVM_SYSTEM_TIME_NEW
        self._set_msr(api.SetMsr(op.vm, op.vcpu, index, guest.system_time_gpa(op.vcpu) | KVM_MSR_ENABLED), took)

    def _kvmclock_ctrl(self, op: api.KvmclockCtrl, took: _Took) -> None:
        took.at(self._vcpu(op).ioctl(abi.KVM_KVMCLOCK_CTRL).host_tsc)

    def _run(self, op: api.Run, took: _Took) -> list[Any]:
        vcpu = self._vcpu(op)
        if len(op.actions) > guest.MAX_COMMANDS:
            raise UserError(f"Run: {len(op.actions)} actions, the guest's mailbox holds {guest.MAX_COMMANDS}")
        entry = Entry(vcpu, op)
        try:
            commands, host_tsc = vcpu.run(entry.commands)
        finally:  # even an entry that failed can have come as far as writing the MSR
            vcpu.page_gpa = entry.page_after
        took.at(host_tsc)
        return entry.answers(commands, host_tsc)

    def _start(self, op: api.Start, took: _Took) -> None:
        took.at(self._vcpu(op).start())

    def _kick(self, op: api.Kick, took: _Took) -> None:
        vcpu = self._vcpu(op, in_guest_too=True)
        took.more["was_in_guest"] = vcpu.spinning
        took.at(vcpu.kick())

    def _peek(self, op: api.Peek, took: _Took) -> api.ClockReading:
        vcpu = self._vcpu(op, in_guest_too=True)
        if vcpu.anchor is None:
            tsc, host_tsc = vcpu.do(lambda: ioctls.get_msr(vcpu.fd, MSR_IA32_TSC))
        else:  # read when the host's TSC was between `first` and `last`; what has passed since one of them has passed
            then, (first, last) = vcpu.anchor
            now = native.rdtsc()
            tsc, host_tsc = u64(then + (now - first) * vcpu.tsc_khz // self.tsc_khz), (now, now + last - first)
        took.at(host_tsc)
        page = None if vcpu.page_gpa is None else guest.read_page(self._vm(op).memory, vcpu.page_gpa)
        return reading(tsc, page, host_tsc)

    def _move_to_cpu(self, op: api.MoveToCpu, took: _Took) -> None:
        vcpu = self._vcpu(op)
        if op.cpu not in self._cpus:
            raise UserError(f"MoveToCpu: no CPU {op.cpu} for this process (it has {', '.join(map(str, self._cpus))})")
        vcpu.move_to(op.cpu)

    # ---- the host

    def _wait(self, op: api.Wait, took: _Took) -> None:
        time.sleep(op.ns / 1e9)

    def _read_host_clock(self, op: api.ReadHostClock, took: _Took) -> int:
        value, host_tsc = host.read_clock(op.clock)
        took.at(host_tsc)
        return value

    def _change_host(self, op: api.Op, took: _Took) -> None:
        if not self._host_ops_allowed:
            raise UserError(f"{op.name}: changes the whole host, which is not ours; run it in the lab or on the model")
        if isinstance(op, api.SetClocksource):
            host.set_clocksource(op.clocksource)
            took.done()
            now = host.clocksource()
            self._read_back(took, now, (took.end, native.rdtsc()), now == op.clocksource)
        elif isinstance(op, api.StepRealtime):
            host.step_realtime(op.ns)
        elif isinstance(op, api.AdjustFrequency):
            host.adjust_frequency(op.ppb)
        else:
            raise UserError(f"{op.name}: a lab does not put itself to sleep yet; run it on the model")

    def _note(self, op: api.Note, took: _Took) -> None:
        pass

    @staticmethod
    def _read_back(took: _Took, value: Any, host_tsc: tuple[int, int], same: bool | None = None) -> None:
        took.more["readback"] = {"value": value, "host_tsc": list(host_tsc)} | ({} if same is None else {"same": same})


_OPS: dict[type[api.Op], Callable[[DeviceKvm, Any, _Took], Any]] = {
    api.CheckExtension: DeviceKvm._check_extension,
    api.CreateVm: DeviceKvm._create_vm,
    api.CreateVcpu: DeviceKvm._create_vcpu,
    api.GetClock: DeviceKvm._get_clock,
    api.SetClock: DeviceKvm._set_clock,
    api.SetTscKhz: DeviceKvm._set_tsc_khz,
    api.GetTscKhz: DeviceKvm._get_tsc_khz,
    api.XenSharedInfoInit: DeviceKvm._xen_shared_info_init,
    api.SetMsr: DeviceKvm._set_msr,
    api.GetMsr: DeviceKvm._get_msr,
    api.SetTscOffset: DeviceKvm._set_tsc_offset,
    api.GetTscOffset: DeviceKvm._get_tsc_offset,
    api.EnableKvmclock: DeviceKvm._enable_kvmclock,
    api.KvmclockCtrl: DeviceKvm._kvmclock_ctrl,
    api.Run: DeviceKvm._run,
    api.Start: DeviceKvm._start,
    api.Kick: DeviceKvm._kick,
    api.Peek: DeviceKvm._peek,
    api.MoveToCpu: DeviceKvm._move_to_cpu,
    api.Wait: DeviceKvm._wait,
    api.ReadHostClock: DeviceKvm._read_host_clock,
    api.SetClocksource: DeviceKvm._change_host,
    api.StepRealtime: DeviceKvm._change_host,
    api.AdjustFrequency: DeviceKvm._change_host,
    api.HostSleep: DeviceKvm._change_host,
    api.Note: DeviceKvm._note,
}

_MODEL_ONLY = {
    "StopAllTscs": "no kernel has this call (it was proposed in 2010)",
    "StartAllTscs": "no kernel has this call (it was proposed in 2010)",
    "MarkTscUnstable": "host-wide and permanent, nothing outside the kernel asks for it",
}
"""Why an operation is not here, where there is more to say than that."""
