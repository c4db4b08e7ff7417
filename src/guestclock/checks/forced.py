"""A violation on a real kernel: the VMM's calls once more, at the same distances, and then a look at the clocks.

Only calls and the time between them can be forced; where a vCPU is at that moment, and what happens inside one call,
cannot. So the same program runs on the model first: what does not show there is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST
from guestclock.check import Span, groups
from guestclock.check import story as read
from guestclock.checks.replay_file import ReplayFile
from guestclock.checks.story import Story
from guestclock.checks.whole_run import TimedCall, timed_calls
from guestclock.checks.windows import BOOT
from guestclock.errors import UserError
from guestclock.runs.on import On, parse_on
from guestclock.scenario import Variation
from guestclock.scenario.document import HostTable
from guestclock.sim import Trace
from guestclock.vmm.clocks import COUNTED

CLOCKS = {"tsc-agrees": "tsc", "kvmclock-agrees": "kvmclock"}
"""Properties that the clocks' state after the last call decides, and the clock."""

MSR_VERBS = {MSR_IA32_TSC: "set-tsc", MSR_IA32_TSC_ADJUST: "set-tsc-adjust"}
MAX_WAIT_NS = 120 * 10**9

Program = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Forced:
    """What the clocks showed. least, most: how far they were apart, in the file's unit, as far as readings tell."""

    on: str
    kernel: str
    violated: bool
    least: int
    most: int


def forced(file: ReplayFile, story: Story, on: str, progress: Callable[[str], None]) -> Forced:
    """Raises UserError where calls alone do not bring it about, and where the machine is not here."""
    where = parse_on(on)
    program = program_of(file, story)
    variation = Variation({}, HostTable(tsc_khz=file.spec.sites[0].khz), program, ())
    on_model = _apart(file, _run(variation, On("model"), file))
    if on_model.hi == on_model.lo == 0 or max(abs(on_model.lo), abs(on_model.hi)) < abs(file.value) // 2:
        shown = max(abs(on_model.lo), abs(on_model.hi))
        raise UserError(
            f"--on {on}: this order cannot be forced: on the model the same calls at the same distances show {shown} "
            f"{file.unit}, recorded are {file.value} (a story on the edge is the model's; its .worst.json may go)"
        )
    if where.kind == "model":
        raise UserError("--on model: is what replay does by itself")
    progress(f"{on}: {file.property}")
    trace = _run(variation, where, file)
    apart = _apart(file, trace)
    least, most = sorted((abs(apart.lo), abs(apart.hi))) if 0 not in apart else (0, max(abs(apart.lo), abs(apart.hi)))
    kernel = str(trace.meta.get("kernel", ""))
    slack = 0 if file.unit in COUNTED else 3
    violated = least > slack
    return Forced(on, kernel, violated, least, most)


def _run(variation: Variation, where: On, file: ReplayFile) -> Trace:
    if where.kind == "model":
        from guestclock.runs.model import run_model

        return run_model(variation, kernel=file.spec.kernel)
    from guestclock.runs.real import run_kvm, run_lab

    return run_kvm(variation) if where.kind == "kvm" else run_lab([variation], where.lab)[0]


def _apart(file: ReplayFile, trace: Trace) -> Span:
    """How far the vCPUs' clocks are apart at the end: the furthest group from the first."""
    told = read(trace)
    looks = [look for look in told.looks if look.looked]
    found = groups(told, looks[-1], CLOCKS[file.property]) if looks else []
    return max((group.ahead for group in found), key=lambda span: max(abs(span.lo), abs(span.hi)), default=Span(0, 0))


# ---- the program


def program_of(file: ReplayFile, story: Story) -> Program:
    """What guestclock.vmm.steps plays: the calls on the VM in question, with the waits between them.

    Raises UserError for what cannot be played.
    """
    if file.property not in CLOCKS:
        known = " and ".join(CLOCKS)
        raise UserError(f"--on: only {known} can be forced by calls alone, not {file.property}")
    vms = {(w.site, w.vm) for w in story.windows}
    if len(vms) != 1 or len(file.spec.sites) != 1:
        raise UserError("--on: the readings are on several VMs or hosts: this cannot be forced on one")
    (which,) = vms
    steps = list(_steps(story, [t for t in timed_calls(story) if _on(t, which)]))
    waits = sum(step["value"][0][1] for step in steps if step["do"] == "wait")
    if waits > MAX_WAIT_NS:
        raise UserError(f"--on: its calls take {waits // 10**9} s, at most {MAX_WAIT_NS // 10**9} s are waited for")
    return {"vcpus": file.spec.vcpus, "boot": False, "kvmclock": "new", "steps": steps}


def _on(timed: TimedCall, which: tuple[int, int]) -> bool:
    op: Any = timed.call.op
    if op.name == "EnableKvmclock" or (op.name == "CreateVcpu" and timed.call.phase == BOOT):
        return False  # done with the VM, or with the vCPU that is plugged in
    return (timed.call.site, getattr(op, "vm", -1)) == which


def _steps(story: Story, calls: list[TimedCall]) -> Iterator[dict[str, Any]]:
    machine = story.outcome.kvms[0].host.machine
    began = story.ps(calls[0].started) if calls else 0
    yield {**_step("read-clock", clock="tsc"), "as": "t0"}
    tsc0 = machine.tsc_at(began)
    now_ns = 0
    for timed in calls:
        told = _verb(timed.call.op, tsc0)
        if told is None:
            continue
        due_ns = (story.ps(timed.started) - began) // 1000
        if due_ns > now_ns and timed.call.phase != BOOT:
            yield _step("wait", value=[["ns", due_ns - now_ns]])
            now_ns = due_ns
        yield told
    yield {**_step("wait", value=[["ns", 1000]]), "look": True}


def _verb(op: Any, tsc0: int) -> dict[str, Any] | None:
    """The step that makes this call; None for what moves nothing."""
    vcpus: dict[str, Any] = {"vcpus": [op.vcpu]} if getattr(op, "vcpu", None) is not None else {}
    match op.name:
        case "SetMsr" if op.index in MSR_VERBS:
            return _step(MSR_VERBS[op.index], value=[["int", op.data]], **vcpus)
        case "SetMsr":
            return _step("set-msr", index=op.index, value=[["int", op.data]], **vcpus)
        case "SetTscOffset":
            # An offset belongs to a host: this one's counter stands elsewhere than the model's did.
            return _step("set-tsc-offset", value=[["int", op.offset + tsc0], ["var", "t0", -1]], **vcpus)
        case "SetTscKhz":
            return _step("set-tsc-khz", khz=op.khz, **(vcpus or {"scope": "vm"}))
        case "SetClock" if not op.flags & 4:
            return _step("set-clock", value=[["ns", op.clock_ns]])
        case "SetClock":
            raise UserError("--on: KVM_SET_CLOCK with a realtime belongs to the model's day: it cannot be forced")
        case "GetClock":
            return _step("get-clock")
        case "CreateVcpu":
            return _step("create-vcpu")
        case "KvmclockCtrl":
            return _step("kvmclock-ctrl", **vcpus)
        case "Run" | "Start":
            return _step("run", **vcpus)
    return None


def _step(do: str, **keys: Any) -> dict[str, Any]:
    return {"actor": "vmm", "do": do, "say": do, "look": False, **keys}
