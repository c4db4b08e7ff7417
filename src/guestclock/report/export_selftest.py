"""A violation as a KVM selftest in C: the same calls at the same distances, then the property asserted.

For tools/testing/selftests/kvm/x86 of a kernel tree (v6.1 to v6.14: kvm/x86_64). Written to the selftests' API:
vm_create_with_vcpus(), vcpu_set_msr(), vm_ioctl(), vcpu_device_attr_set(), GUEST_SYNC_ARGS(). What happens inside one
kernel section, or between a vCPU's entry and its first instruction, no test can time: it is left to chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock import __version__
from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST, MSR_IA32_TSC_DEADLINE
from guestclock.checks.architectures import arch_of
from guestclock.checks.replay_file import ReplayFile
from guestclock.checks.story import Story
from guestclock.checks.whole_run import TimedCall, timed_calls
from guestclock.checks.windows import BOOT
from guestclock.errors import UserError
from guestclock.report.check_replay import what
from guestclock.report.check_story import story_lines
from guestclock.report.check_words import amount, khz_of
from guestclock.report.export_mail import PLAIN
from guestclock.report.numbers import folded
from guestclock.vmm.clocks import X86_64

MSRS = {
    MSR_IA32_TSC: "MSR_IA32_TSC",
    MSR_IA32_TSC_ADJUST: "MSR_IA32_TSC_ADJUST",
    MSR_IA32_TSC_DEADLINE: "MSR_IA32_TSC_DEADLINE",
}

GUEST = """\
static void guest_code(vm_paddr_t pvti_pa, struct pvclock_vcpu_time_info *pvti)
{
	uint64_t tsc;

	wrmsr(MSR_KVM_SYSTEM_TIME_NEW, pvti_pa | 1);
	for (;;) {
		tsc = rdtsc();
		GUEST_SYNC_ARGS(0, tsc, __pvclock_read_cycles(pvti, tsc), pvti->flags, 0);
	}
}

struct reading {
	uint64_t tsc;
	uint64_t kvmclock;
	uint64_t flags;
};

static struct timespec start;

/* Enters the guest, which reads its clocks and leaves. */
static struct reading read_clocks(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT(get_ucall(vcpu, &uc) == UCALL_SYNC, "the guest did not get to its clocks");
	return (struct reading) { uc.args[2], uc.args[3], uc.args[4] };
}

static void wait_until(uint64_t ns)
{
	struct timespec until = start;

	until.tv_sec += ns / 1000000000;
	until.tv_nsec += ns % 1000000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
		;
}
"""

TSC_OFFSET = """\
static uint64_t tsc_offset(struct kvm_vcpu *vcpu)
{
	uint64_t offset;

	vcpu_device_attr_get(vcpu, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, &offset);
	return offset;
}
"""


def selftest(file: ReplayFile, story: Story, name: str) -> str:
    """The C file. Raises UserError for an arm64 guest's: the tests that it is made like are x86's."""
    if arch_of(file.spec.kernel) != X86_64:
        raise UserError(
            f"--to selftest-c: {file.spec.kernel}: expected a replay file of an x86 kernel; mail tells this one"
        )
    return _Test(file, story, name).text()


class _Test:
    def __init__(self, file: ReplayFile, story: Story, name: str) -> None:
        self.file, self.story, self.name = file, story, name
        vms = sorted({(w.site, w.vm) for w in story.windows}) or sorted(set(story.outcome.vms))
        self.vms = {which: index for index, which in enumerate(vms)}
        self.calls = [t for t in timed_calls(story) if self.wanted(t)]
        self.start = self.calls[0].started if self.calls else 0
        site = file.spec.sites[0]
        self.host_tsc = story.outcome.kvms[0].host.machine.tsc_at(story.ps(self.start))
        self.khz = site.khz

    def wanted(self, timed: TimedCall) -> bool:
        op: Any = timed.call.op
        if timed.call.phase == BOOT or op.name in ("CreateVm", "CreateVcpu", "EnableKvmclock", "Note"):
            return False
        return not hasattr(op, "vm") or (timed.call.site, op.vm) in self.vms

    def text(self) -> str:
        body = "\n".join(self.main())
        offsets = TSC_OFFSET if "tsc_offset(" in body else ""
        parts = [self.head(), GUEST, offsets, body]
        return "\n".join(part for part in parts if part).translate(PLAIN)

    def head(self) -> str:
        file, story = self.file, self.story
        said = f"{what(file)}: {file.property}: {story.question.about}."
        shows = f"The model shows {amount(story.value, file.unit, khz_of(file.spec))} {file.sense}."
        table = [line for line, _ in story_lines(story, 76, "")]
        written = f"Written by guestclock {__version__} from {self.name}."
        lines = [*folded(said, 76), *folded(shows, 76), "", *table, "", *folded(written, 76)]
        comment = "\n".join(f" * {line}".rstrip() for line in lines).replace("*/", "* /")
        return (
            f"// SPDX-License-Identifier: GPL-2.0-only\n/*\n{comment}\n */\n"
            "#include <stdint.h>\n#include <time.h>\n\n#include <asm/pvclock.h>\n#include <asm/pvclock-abi.h>\n\n"
            '#include "test_util.h"\n#include "kvm_util.h"\n#include "processor.h"\n\n'
            f"#define NR_VCPUS {self.file.spec.vcpus}\n#define NR_VMS {len(self.vms)}\n"
        )

    def main(self) -> Iterator[str]:
        yield "int main(void)"
        yield "{"
        body = [*self.body()]
        joined = "\n".join(body)
        yield "\tstruct kvm_vcpu *vcpus[NR_VMS][NR_VCPUS];"
        yield "\tstruct kvm_vm *vms[NR_VMS];"
        if "clock" in joined and "&clock" in joined:
            yield "\tstruct kvm_clock_data clock;"
        if "&offset" in joined:
            yield "\tuint64_t offset;"
        if "tsc0" in joined:
            yield "\tuint64_t tsc0;"
        if "realtime0" in joined:
            yield "\tuint64_t realtime0;\n\tstruct timespec now;"
        if "first = " in joined:
            yield "\tstruct reading first, second;"
        yield "\tvm_vaddr_t page;"
        yield "\tint vm, i;"
        yield ""
        if "TSC_OFFSET" in joined or "tsc_offset(" in joined:
            yield "\tTEST_REQUIRE(kvm_has_cap(KVM_CAP_VCPU_ATTRIBUTES));"
        yield "\tfor (vm = 0; vm < NR_VMS; vm++) {"
        yield "\t\tvms[vm] = vm_create_with_vcpus(NR_VCPUS, guest_code, vcpus[vm]);"
        yield "\t\tfor (i = 0; i < NR_VCPUS; i++) {"
        yield "\t\t\tpage = vm_vaddr_alloc_page(vms[vm]);"
        yield "\t\t\tvcpu_args_set(vcpus[vm][i], 2, addr_gva2gpa(vms[vm], page), page);"
        yield "\t\t}"
        yield "\t}"
        yield from body
        yield ""
        yield "\tfor (vm = 0; vm < NR_VMS; vm++)"
        yield "\t\tkvm_vm_free(vms[vm]);"
        yield "\treturn 0;"
        yield "}"
        yield ""

    # ---- calls

    def body(self) -> Iterator[str]:
        told_ = [line for timed in self.calls for line in self.call(timed)]
        joined = "\n".join(told_)
        yield ""
        if "tsc0" in joined:
            yield "\ttsc0 = rdtsc();"
        if "realtime0" in joined:
            yield "\tclock_gettime(CLOCK_REALTIME, &now);"
            yield "\trealtime0 = now.tv_sec * 1000000000ull + now.tv_nsec;"
        yield "\tclock_gettime(CLOCK_MONOTONIC, &start);"
        yield from told_
        yield ""
        yield from self.asserted()

    def call(self, timed: TimedCall) -> Iterator[str]:
        lines = list(self.ioctl(timed))
        if not lines:
            return
        since_ns = (self.story.ps(timed.started) - self.story.ps(self.start)) // 1000
        if since_ns > 0:
            yield f"\twait_until({since_ns}ull);"
        yield from (f"\t{line}" for line in lines)

    def ioctl(self, timed: TimedCall) -> Iterator[str]:
        op: Any = timed.call.op
        vm = f"vms[{self.vms.get((timed.call.site, getattr(op, 'vm', -1)), 0)}]"
        vcpu = f"vcpus[{self.vms.get((timed.call.site, getattr(op, 'vm', -1)), 0)}][{getattr(op, 'vcpu', 0)}]"
        match op.name:
            case "SetMsr":
                yield f"vcpu_set_msr({vcpu}, {MSRS.get(op.index, hex(op.index))}, {op.data}ull);"
            case "GetMsr":
                yield f"vcpu_get_msr({vcpu}, {MSRS.get(op.index, hex(op.index))});"
            case "SetTscOffset":
                # An offset belongs to a host: the model's counter stood elsewhere than this one's.
                yield f"offset = {op.offset}ull + {self.host_tsc}ull - tsc0;"
                yield f"vcpu_device_attr_set({vcpu}, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, &offset);"
            case "GetTscOffset":
                yield f"vcpu_device_attr_get({vcpu}, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, &offset);"
            case "SetClock":
                yield from self.set_clock(op, vm)
            case "GetClock":
                yield f"vm_ioctl({vm}, KVM_GET_CLOCK, &clock);"
            case "SetTscKhz" if op.vcpu is None:
                yield f"vm_ioctl({vm}, KVM_SET_TSC_KHZ, (void *){op.khz}ul);"
            case "SetTscKhz":
                yield f"vcpu_ioctl({vcpu}, KVM_SET_TSC_KHZ, (void *){op.khz}ul);"
            case "GetTscKhz":
                yield f"__vcpu_ioctl({vcpu}, KVM_GET_TSC_KHZ, NULL);" if op.vcpu is not None else ""
            case "KvmclockCtrl":
                yield f"vcpu_ioctl({vcpu}, KVM_KVMCLOCK_CTRL, NULL);"
            case "Start" | "Run":
                yield f"read_clocks({vcpu});"
            case "Kick":
                yield f"/* vcpu{op.vcpu} is out of its guest */"
            case _:
                args = ", ".join(f"{k} {v}" for k, v in op.as_json().items() if k not in ("op", "vm"))
                yield f"/* {op.name}{': ' if args else ''}{args} */"

    def set_clock(self, op: Any, vm: str) -> Iterator[str]:
        realtime = ""
        if op.flags & 4:
            epoch = self.story.outcome.kvms[0].host.machine.spec.realtime_ns + self.story.ps(self.start) // 1000
            realtime = f", .realtime = {op.realtime_ns}ull - {epoch}ull + realtime0"
        yield f"clock = (struct kvm_clock_data) {{ .clock = {op.clock_ns}ull, .flags = {op.flags}{realtime} }};"
        yield f"vm_ioctl({vm}, KVM_SET_CLOCK, &clock);"

    # ---- what must be true

    def asserted(self) -> Iterator[str]:
        name, readings = self.story.question.name, self.story.readings
        if name.startswith("tsc-agrees") and readings:
            vm = self.vms[readings[-1].site, readings[-1].vm]
            yield "\t/* One offset: at any instant all vCPUs' TSCs read the same. */"
            yield "\tfor (i = 1; i < NR_VCPUS; i++)"
            yield f"\t\tTEST_ASSERT(tsc_offset(vcpus[{vm}][i]) == tsc_offset(vcpus[{vm}][0]),"
            yield '\t\t\t    "vCPU %d: TSC is %ld cycles from vCPU 0\'s", i,'
            yield f"\t\t\t    (long)(tsc_offset(vcpus[{vm}][i]) - tsc_offset(vcpus[{vm}][0])));"
            return
        if len(readings) < 2:
            yield "\t/* What is violated is inside KVM: see the tracepoints. */"
            return
        first, second = (f"vcpus[{self.vms[r.site, r.vm]}][{r.vcpu}]" for r in (readings[0], readings[-1]))
        field = self.story.clock
        yield f"\tfirst = read_clocks({first});"
        yield f"\tsecond = read_clocks({second});"
        if self.file.sense == "back" or "back" in name or "agrees" in name:
            yield f"\tTEST_ASSERT(second.{field} >= first.{field},"
            yield f'\t\t    "{field} went back by %ld", (long)(first.{field} - second.{field}));'
            return
        meant = dict(self.file.spec.policy).get(field, "as it should")
        least, most = self.allowed(readings[0].data["value"])
        yield f"\t/* Meant to {meant}. */"
        yield f"\tTEST_ASSERT(second.{field} >= {least}ull && second.{field} <= {most}ull,"
        yield f'\t\t    "{field} is %lu", (unsigned long)second.{field});'
        yield "\t(void)first;"

    def allowed(self, before: int) -> tuple[int, int]:
        """What the clock may read at the end, as the model has it with the violation taken away, give or take 1 ms."""
        story = self.story
        value, amount_ = story.readings[-1].data["value"], story.value
        meant = value - amount_ if self.file.sense.startswith("gained") else value + amount_
        slack = self.khz if self.file.unit == "cycles" else 1_000_000
        return max(meant - slack, 0), meant + slack
