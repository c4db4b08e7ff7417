"""What a trace shows, asked as the tests ask it: after which step, which vCPU, how far off."""

from guestclock.arith import pvclock_scale_delta, s64, u64
from guestclock.runs import run
from guestclock.scenario import load
from guestclock.sim import Trace


def stories(name, *kernels, seed=None):
    """Every run of a built-in scenario on the model, by (kernel, one variation value or several)."""
    return {
        (t.meta["kernel"], *t.meta["variation"].values()): Story(t) for t in run(load(name), kernels=kernels, seed=seed)
    }


def story(name, kernel, **kw):
    (only,) = stories(name, kernel, **kw).values()
    return only


class Story:
    """Steps are counted from 1, as [[step]] is in messages; 0 is the start."""

    def __init__(self, trace: Trace):
        self.trace, self.khz = trace, trace.meta["tsc_khz"]
        self.events = {}
        now = None
        for event in trace.events:
            if event.kind == "step":
                now = event.data["index"] + 1
            if now is not None:
                self.events.setdefault(now, []).append(event)

    @property
    def last(self):
        return max(self.events)

    def peek(self, step, vcpu):
        """What the vCPU showed when everybody had looked after the step."""
        return [e for e in self.events[step] if e.kind == "peek" and e.vcpu == vcpu][-1].data

    def read(self, step, vcpu):
        """What the guest itself read in the step."""
        return next(e for e in self.events[step] if e.kind == "guest" and e.vcpu == vcpu).data

    def clock(self, step):
        """KVM_GET_CLOCK after the step."""
        return [e for e in self.events[step] if e.kind == "op" and e.name == "GetClock"][-1].data["result"]

    def flags(self, step, vcpu):
        return self.peek(step, vcpu)["page"]["flags"]

    def offset(self, step, vcpu):
        """Guest TSC minus host TSC, cycles, s64 (meaningful without scaling)."""
        peek = self.peek(step, vcpu)
        return s64(u64(peek["tsc"] - peek["host_tsc"][0]))

    def skew_ns(self, step, vcpu=1, against=0):
        """How far a vCPU's TSC is ahead of another's."""
        return (self.offset(step, vcpu) - self.offset(step, against)) * 1_000_000 // self.khz

    def page_step_ns(self, before, after, vcpu):
        """How far the page of `after` is from where that of `before` would be, at the instant the new one begins with.

        Three floors are in it: it is within 2 ns of the true difference of rates. Meaningful without scaling.
        """
        old, new = self.peek(before, vcpu)["page"], self.peek(after, vcpu)["page"]
        moved = self.offset(after, vcpu) - self.offset(before, vcpu)
        return new["system_time"] - reading(old, new["tsc_timestamp"] - moved)

    def named(self, kind, name, *steps):
        return [e for s in (steps or self.events) for e in self.events[s] if (e.kind, e.name) == (kind, name)]

    @property
    def snapshots(self):
        """Steps in which the masterclock was taken anew, with repeats."""
        return [s for s in self.events for _ in self.named("tracepoint", "kvm_update_master_clock", s)]


def reading(page, tsc):
    """kvmclock (Definition B) of a page at a guest TSC, ns."""
    elapsed = pvclock_scale_delta(u64(tsc - page["tsc_timestamp"]), page["tsc_to_system_mul"], page["tsc_shift"])
    return u64(page["system_time"] + elapsed)


class Arm64Story:
    """The same of an arm64 guest: offsets are subtracted, ticks."""

    def __init__(self, trace: Trace):
        self.trace, self.hz = trace, trace.meta["counter_hz"]
        self.events = {}
        now = None
        for event in trace.events:
            if event.kind == "step":
                now = event.data["index"] + 1
            if now is not None:
                self.events.setdefault(now, []).append(event)

    @property
    def last(self):
        return max(self.events)

    def peek(self, step, vcpu):
        """What the vCPU showed when everybody had looked after the step."""
        return [e for e in self.events[step] if e.kind == "peek" and e.vcpu == vcpu][-1].data

    def read(self, step, vcpu):
        """What the guest itself read in the step."""
        return next(e for e in self.events[step] if e.kind == "guest" and e.vcpu == vcpu).data

    def offset(self, step, vcpu, clock="cntvct"):
        """Host counter minus the guest's, ticks, by a peek: exact on the model."""
        peek = self.peek(step, vcpu)
        assert peek["host_counter"][0] == peek["host_counter"][1]
        return s64(u64(peek["host_counter"][0] - peek[clock]))

    def skew_ns(self, step, vcpu=1, against=0):
        """How far a vCPU's virtual counter is ahead of another's."""
        return (self.offset(step, against) - self.offset(step, vcpu)) * 10**9 // self.hz

    def answer(self, step, name):
        """What an operation of the step answered."""
        (event,) = [e for e in self.events[step] if e.kind == "op" and e.name == name]
        return event.data["result"]

    def refused(self):
        return [(e.data["op"], e.data["errno"]) for s in self.events for e in self.events[s] if e.name == "refused"]


def arm64_stories(name, *kernels):
    """Every run of a built-in arm64 scenario on the model, by (kernel, one variation value or several)."""
    traces = run(load(name), kernels=kernels)
    return {(t.meta["kernel"], *t.meta["variation"].values()): Arm64Story(t) for t in traces}
