"""What the arm64 labs play: scripts over `kvm.api`, each of which tells what a real kernel answered."""

from __future__ import annotations

from typing import Any

PRELUDE = """
from guestclock.abi import arm64 as abi
from guestclock.kvm import api

M64 = 2**64
CNT, CTL, CVAL = abi.KVM_REG_ARM_TIMER_CNT, abi.KVM_REG_ARM_TIMER_CTL, abi.KVM_REG_ARM_TIMER_CVAL
PCNT, PCTL, PCVAL = abi.KVM_REG_ARM_PTIMER_CNT, abi.KVM_REG_ARM_PTIMER_CTL, abi.KVM_REG_ARM_PTIMER_CVAL

async def made(host, vcpus=1):
    vm = await host.create_vm()
    for _ in range(vcpus):
        await vm.create_vcpu()
    return vm

async def read(vcpu):
    [reading] = await vcpu.run(api.ReadCounters())
    return told(reading)

def told(reading):
    return [reading.cntvct, reading.cntpct, reading.cntvct_after, *reading.host_counter]

async def refused(call):
    try:
        await call
    except api.KvmError as refusal:
        return refusal.errno
    return "ok"

async def between(host, call):
    before = await host.read_clock("counter")
    value = await call
    return [before, value, await host.read_clock("counter")]
"""

SCRIPTS = {
    "capabilities": """
async def script(host, tell):
    tell({"counter_offset": await host.check_extension(abi.KVM_CAP_COUNTER_OFFSET)})
    vm = await made(host)
    names = {id_: name for name, id_ in abi.TIMER_REGS.items()}
    tell({"registers": [names[id_] for id_ in await vm.vcpus[0].get_reg_list()]})
    tell({"ptimer": await refused(vm.vcpus[0].get_one_reg(PCNT))})
""",
    "fresh": """
async def script(host, tell):
    vm = await made(host, 2)
    created = await host.read_clock("counter")
    tell({"created": created, "cntvct": await between(host, vm.vcpus[0].get_one_reg(CNT))})
    tell({"readings": [await read(vcpu) for vcpu in (*vm.vcpus, *vm.vcpus)]})
""",
    "swapped": """
async def script(host, tell):
    vcpu = (await made(host)).vcpus[0]
    await vcpu.set_one_reg(CVAL, 12345)
    tell({"cval": await vcpu.get_one_reg(CVAL)})
    first = await vcpu.get_one_reg(CNT)
    tell({"advanced": await vcpu.get_one_reg(CNT) - first})
    [cval] = await vcpu.run(api.ReadSysreg("CNTV_CVAL_EL0"))
    tell({"seen": cval})
    tell({"ids": [f"{id_:#x}" for id_ in (CNT, CVAL)]})
""",
    "by-value": """
async def script(host, tell):
    vm = await made(host, 2)
    await vm.vcpus[0].set_one_reg(CNT, 10**12)
    tell({"set": [await read(v) for v in vm.vcpus]})
    tell({"ptimer": await refused(vm.vcpus[1].set_one_reg(PCNT, 2 * 10**12))})
    tell({"both": [await read(v) for v in vm.vcpus]})
    late = await vm.create_vcpu()
    created = await host.read_clock("counter")
    tell({"created": created, "after": [await read(v) for v in vm.vcpus]})
    await vm.vcpus[0].set_one_reg(CNT, 3 * 10**12)
    tell({"again": await refused(api.CreateVcpu(vm.id, 0))})
    created = await host.read_clock("counter")
    tell({"refused": created, "after": await read(late)})
""",
    "drift": """
async def script(host, tell):
    vm = await made(host, 2)
    cnt = [await between(host, v.get_one_reg(CNT)) for v in vm.vcpus]
    start = await host.read_clock("counter")
    offsets = []
    for _ in range(100):
        for vcpu in vm.vcpus:
            await vcpu.set_one_reg(CNT, await vcpu.get_one_reg(CNT))
        offsets.append(await between(host, vm.vcpus[0].get_one_reg(CNT)))
    tell({"before": cnt[0], "offsets": offsets, "took": await host.read_clock("counter") - start})
""",
    "by-offset": """
async def script(host, tell):
    vm = await made(host, 2)
    now = await host.read_clock("counter")
    tell({"reserved": await refused(vm.set_counter_offset(5, 1))})
    if await refused(vm.set_counter_offset(0)) != "ok":
        return
    for offset in (0, 1, 2**63, M64 - 1, now):
        tell({"offset": offset, "said": await refused(vm.set_counter_offset(offset))})
        registers = [await between(host, v.get_one_reg(r)) for v in vm.vcpus for r in (CNT, PCNT)]
        tell({"offset": offset, "registers": registers, "readings": [await read(v) for v in vm.vcpus]})
    for value in (0, 10**12):
        tell({"cnt": await refused(vm.vcpus[0].set_one_reg(CNT, value)),
              "pcnt": await refused(vm.vcpus[1].set_one_reg(PCNT, value)), "reading": await read(vm.vcpus[0])})
    late = await vm.create_vcpu()
    tell({"late": await read(late)})
    for _ in range(100):
        await vm.set_counter_offset(now)
    tell({"hundred": await read(late)})
    other = await made(host, 1)
    await other.set_counter_offset(now)
    tell({"moved": await read(other.vcpus[0])})
    await other.set_counter_offset(0)
    tell({"back": await read(other.vcpus[0])})
""",
    "busy": """
async def script(host, tell):
    vm = await made(host, 2)
    await vm.vcpus[1].start()
    tell({"running": await refused(vm.set_counter_offset(5))})
    await vm.vcpus[1].kick()
    tell({"out": await refused(vm.set_counter_offset(5)), "reading": await read(vm.vcpus[1])})
""",
    "running": """
async def script(host, tell):
    vm = await made(host, 2)
    await vm.vcpus[0].set_one_reg(CNT, 10**12)
    await vm.vcpus[1].start()
    before = [told(await vm.vcpus[1].peek()) for _ in range(3)]
    await vm.vcpus[1].kick()
    tell({"before": before, "out": await read(vm.vcpus[1])})
""",
    "controls": """
async def script(host, tell):
    vcpu = (await made(host)).vcpus[0]
    for cval in (0, 2**62):  # QEMU never comes back from 2**64 - 1 with a timer that is on
        for ctl in (0, 1, 2, 3, 7):
            await vcpu.set_one_reg(CVAL, cval)
            await vcpu.set_one_reg(CTL, ctl)
            got = await vcpu.get_one_reg(CTL)
            [seen] = await vcpu.run(api.ReadSysreg("CNTV_CTL_EL0"))
            tell({"over": cval == 0, "wrote": ctl, "got": got, "seen": seen})
    await vcpu.set_one_reg(CVAL, 77)
    await vcpu.set_one_reg(CTL, 3)
    before = await read(vcpu)
    await vcpu.init()
    [seen] = await vcpu.run(api.ReadSysreg("CNTV_CTL_EL0"))
    tell({"seen": seen, "cval": await vcpu.get_one_reg(CVAL), "counters": [before, await read(vcpu)]})
""",
    "sysregs": """
async def script(host, tell):
    vcpu = (await made(host)).vcpus[0]
    tell({"cntfrq": await host.read_clock("cntfrq"), "seen": await vcpu.run(api.ReadSysreg("CNTFRQ_EL0"))})
    for timer in ("CNTV", "CNTP"):
        cval, tval, ctl = (f"{timer}_{name}_EL0" for name in ("CVAL", "TVAL", "CTL"))
        counter = api.ReadSysreg("CNTVCT_EL0" if timer == "CNTV" else "CNTPCT_EL0")
        [now] = await vcpu.run(counter)
        before, _, cval_is, tval_is, after = await vcpu.run(
            counter, api.WriteSysreg(cval, now + 10**9), api.ReadSysreg(cval), api.ReadSysreg(tval), counter)
        _, ctl_is = await vcpu.run(api.WriteSysreg(ctl, 3), api.ReadSysreg(ctl))
        earliest, _, moved, ctl_over, latest, _ = await vcpu.run(
            counter, api.WriteSysreg(tval, 2**32 - 1000), api.ReadSysreg(cval), api.ReadSysreg(ctl), counter,
            api.WriteSysreg(ctl, 0))
        tell({"timer": timer, "cval": cval_is - now, "tval": [now + 10**9 - after, tval_is, now + 10**9 - before],
              "ctl": [ctl_is, ctl_over], "moved": [earliest, moved, latest]})
    for name in ("CNTVCT_EL0", "CNTPCT_EL0", "CNTFRQ_EL0"):
        tell({"write": name, "said": await refused(vcpu.run(api.WriteSysreg(name, 1)))})
    tell({"alive": await read(vcpu)})
""",
    "ptp": """
async def script(host, tell):
    vm = await made(host)
    PTP = abi.ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID
    for offset in (None, 10**9):
        if offset is not None and await refused(vm.set_counter_offset(offset)) != "ok":
            break
        realtime = await host.read_clock("realtime")
        before, virtual, physical, after = await vm.vcpus[0].run(
            api.ReadCounters(), api.Hvc(PTP, abi.KVM_PTP_VIRT_COUNTER), api.Hvc(PTP, abi.KVM_PTP_PHYS_COUNTER),
            api.ReadCounters())
        tell({"before": told(before), "after": told(after), "virtual": virtual, "physical": physical,
              "realtime": [realtime, await host.read_clock("realtime")]})
    [unknown] = await vm.vcpus[0].run(api.Hvc(0x8600_0042))
    tell({"unknown": unknown[0]})
""",
    "attributes": """
async def script(host, tell):
    GROUP, V, P = abi.KVM_ARM_VCPU_TIMER_CTRL, abi.KVM_ARM_VCPU_TIMER_IRQ_VTIMER, abi.KVM_ARM_VCPU_TIMER_IRQ_PTIMER
    bare = (await made(host)).vcpus[0]
    defaults = [await bare.get_attr(GROUP, V), await bare.get_attr(GROUP, P)]
    tell({"bare": await refused(bare.set_attr(GROUP, V, 27)), "defaults": defaults})
    vm = await made(host, 2)
    await vm.create_irqchip()
    vcpu = vm.vcpus[0]
    tell({"values": [await refused(vcpu.set_attr(GROUP, V, irq)) for irq in (15, 32, 16, 31)],
          "unknown": [await refused(vcpu.set_attr(GROUP, 9, 20)), await refused(vcpu.get_attr(GROUP, 9))],
          "everywhere": [await v.get_attr(GROUP, V) for v in vm.vcpus]})
    tell({"duplicate": [await refused(vcpu.set_attr(GROUP, P, 31)), await refused(vcpu.run())]})
    await vcpu.set_attr(GROUP, P, 30)
    tell({"undone": await refused(vcpu.run()), "plugged": await refused(vm.create_vcpu())})
    other = await made(host)
    await other.create_irqchip()
    tell({"runs": await refused(other.vcpus[0].run()), "late": await refused(other.vcpus[0].set_attr(GROUP, V, 27))})
    TIME, IPA = abi.KVM_ARM_VCPU_PVTIME_CTRL, abi.KVM_ARM_VCPU_PVTIME_IPA
    stolen = [(0x4000_8001, IPA), (0x5000_0000, IPA), (0x4000_8000, 1), (0x4000_8000, IPA), (0x4000_8000, IPA)]
    tell({"pvtime": [await refused(bare.set_attr(TIME, attr, ipa)) for ipa, attr in stolen]})
    FEATURES, TIME_AT = abi.ARM_SMCCC_HV_PV_TIME_FEATURES, abi.ARM_SMCCC_HV_PV_TIME_ST
    said = await bare.run(api.Hvc(FEATURES, TIME_AT), api.Hvc(TIME_AT))
    [without] = await other.vcpus[0].run(api.Hvc(TIME_AT))
    tell({"hypercalls": [answer[0] for answer in said], "without": without[0]})
""",
    "far-deadline": """
async def script(host, tell):
    vcpu = (await made(host)).vcpus[0]
    hz = await host.read_clock("cntfrq")
    for name, ns in (("far", 2**41 + 5 * 10**7), ("long", 2**41 - 5 * 10**7)):
        now = (await read(vcpu))[1]
        await vcpu.run(api.WriteSysreg("CNTP_CVAL_EL0", now + ns * hz // 10**9), api.WriteSysreg("CNTP_CTL_EL0", 1))
        await api.Note(name)
        await vcpu.start()
        await host.wait(7 * 10**7)
        await vcpu.kick()
        await api.Note("over")
        [ctl] = await vcpu.run(api.ReadSysreg("CNTP_CTL_EL0"))
        tell({"told": name, "ctl": ctl, "now": now})
""",
    "over": """
async def script(host, tell):
    vcpu = (await made(host)).vcpus[0]
    await vcpu.run(api.WriteSysreg("CNTP_CVAL_EL0", 0), api.WriteSysreg("CNTP_CTL_EL0", 1))
    await api.Note("over")
    for _ in range(4):
        await vcpu.run(api.ReadCounters())
""",
    "sleep": """
async def script(host, tell):
    vm = await made(host, 2)
    clocks = ("counter", "monotonic", "monotonic_raw", "boottime", "realtime")
    for spins in (False, True):
        if spins:
            await vm.vcpus[1].start()
        before = {clock: await host.read_clock(clock) for clock in clocks}
        readings = [told(await vcpu.peek()) for vcpu in vm.vcpus]
        await api.HostSleep(10 * 10**9, kind="s2idle")
        after = {clock: await host.read_clock(clock) for clock in clocks}
        tell({"advanced": {clock: after[clock] - before[clock] for clock in clocks},
              "vcpus": list(zip(readings, [told(await vcpu.peek()) for vcpu in vm.vcpus]))})
    await vm.vcpus[1].kick()
    tell({"out": await read(vm.vcpus[1])})
""",
    "traced": """
async def script(host, tell):
    vm = await made(host, 2)
    await vm.vcpus[1].set_one_reg(CVAL, 12345)
    for vcpu in vm.vcpus:
        await vcpu.run(api.ReadCounters())
    await api.Note("spins")
    await vm.vcpus[0].start()
    await host.wait(2 * 10**7)
    await vm.vcpus[0].kick()
""",
    "left-behind": """
import os, threading
from guestclock.kvm.device import open_device

def left():
    return sorted(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), threading.active_count(), sorted(
        os.listdir("/sys/kernel/tracing/instances"))

async def script(host, tell):
    before = left()
    with open_device(lambda event: None) as device:
        for op in (api.CreateVm(), api.CreateVcpu(0), api.CreateVcpu(0), api.CreateIrqchip(0)):
            device.execute(op)
        for op in (api.Run(0, 0), api.Start(0, 1)):
            device.execute(op)
        during = left()
    device.close()
    try:
        device.execute(api.CreateVm())
    except Exception as closed:
        tell({"closed": str(closed)})
    tell({"before": before, "during": during, "after": left()})
""",
    "refusals": """
async def script(host, tell):
    from guestclock.errors import UserError
    from guestclock.kvm.device import open_device
    with open_device(lambda event: None, trace=False) as device:
        for op in (api.CreateVm(), api.CreateVcpu(0)):
            device.execute(op)
        for op in (api.Run(0, 0, (api.EnterL2(5),)), api.Run(0, 0, (api.ReadClocks(),)), api.GetClock(0),
                   api.Preempt(0, 0, 5), api.HostSleep(10**9, kind="s2idle"), api.ReadHostClock("tsc"),
                   api.GetOneReg(0, 3, 5), api.CreateVcpu(0, 9), api.SetClocksource("tsc")):
            try:
                tell({"said": str(device.execute(op))})
            except UserError as refusal:
                tell({"said": str(refusal)})
    with open_device(lambda event: None, host_ops_allowed=True, trace=False) as device:
        for op in (api.HostSleep(10**9), api.HostSleep(10**9, "stopped", "s2idle"), api.SetClocksource("tsc")):
            try:
                tell({"said": str(device.execute(op))})
            except UserError as refusal:
                tell({"said": str(refusal)})
""",
    "stale": """
import os

async def script(host, tell):
    os.sched_setaffinity(0, {0})  # the CPU of the vCPU that runs is nobody else's
    vm = await made(host, 2)
    a, b = vm.vcpus
    await b.move_to_cpu(1)
    await a.move_to_cpu(0)
    await a.set_one_reg(CNT, 10**12)
    if await host.check_extension(abi.KVM_CAP_COUNTER_OFFSET):
        await b.set_one_reg(PCVAL, 10**15)
    await b.run()
    await b.start()
    lines = []
    for line in range(2, 10):
        await a.set_one_reg(CNT, line * 10**12)
        lines.append(told(await b.peek()))
    if await host.check_extension(abi.KVM_CAP_COUNTER_OFFSET):
        await a.set_one_reg(PCNT, 5 * 10**12)
        physical = await between(host, a.get_one_reg(PCNT))
        await b.kick()
        tell({"pcval": await b.get_one_reg(PCVAL), "physical": physical})
    else:
        await b.kick()
    tell({"lines": lines, "after": await read(b)})
""",
}  # fmt: skip

SCRIPT_OPTIONS = {"host_ops_allowed": True, "trace": False}
ON_TWO_CPUS = ("stale",)
ASLEEP = ("sleep",)
TRACED = ("far-deadline", "over", "traced")


def program(name: str) -> dict[str, Any]:
    traced = name in TRACED
    options = {**SCRIPT_OPTIONS, "trace": traced}
    return {
        "program": "script",
        "source": PRELUDE + SCRIPTS[name],
        "options": options,
        "events": traced,
        "sleeps": name in ASLEEP,
    }
