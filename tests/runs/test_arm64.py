"""The thread of 2021 and the bugs on arm64: what kvm-arm64.md says each of them shows."""

import pytest

from guestclock.errors import UserError
from guestclock.runs import run
from guestclock.runs.on import On, check_architecture, parse_on
from guestclock.runs.real import _machine
from guestclock.scenario import load, names, parse
from tests.runs.story import arm64_stories

HOUR_NS = 3_600 * 10**9
DELAY_NS = {"0 s": 0, "0.3 s": 300_000_000, "5 s": 5_000_000_000}
V2, IOCTL = "linux-5.10-arm64+timer-offset-v2", "linux-6.12-arm64"
SAVED, BY_VALUE, HALF_WAY, BY_ATTRIBUTE, REFUSED, BY_IOCTL = 5, 13, 18, 20, 25, 28


# ---- 2021


@pytest.fixture(scope="module")
def thread():
    return arm64_stories("threads/2021-idempotent-arm64")


def late_ns(story, step, vcpu):
    """How far the restored counter is behind the line that the saved one was on (the host is the same)."""
    return (story.offset(step, vcpu) - story.offset(SAVED, vcpu)) * 10**9 // story.hz


def test_by_value_is_late_by_the_delay(thread):
    for (kernel, delay), story in thread.items():
        for vcpu in (0, 1):
            assert 0 <= late_ns(story, BY_VALUE, vcpu) - DELAY_NS[delay] < 50_000, (kernel, delay)
        assert story.skew_ns(BY_VALUE) == 0, "the last write is everybody's"


def test_the_broadcast_is_half_seen_while_a_vcpu_runs_and_exact_once_it_is_out(thread):
    for delay, delay_ns in DELAY_NS.items():
        story = thread[V2, delay]
        assert late_ns(story, HALF_WAY, 0) == 0
        # vCPU 1 counts on from its VM's creation, 2 s of copying and the way until there after the 10 s.
        assert 0 <= -story.skew_ns(HALF_WAY) - 12_000_000_000 - delay_ns < 300_000, "a microsecond a call"
        assert {late_ns(story, BY_ATTRIBUTE, vcpu) for vcpu in (0, 1)} == {0}


def test_the_ioctl_is_refused_while_a_vcpu_runs_and_exact_whatever_the_delay(thread):
    for delay in DELAY_NS:
        story = thread[IOCTL, delay]
        assert story.skew_ns(REFUSED) == 0
        assert {late_ns(story, BY_IOCTL, vcpu) for vcpu in (0, 1)} == {0}
        for clock in ("cntvct", "cntpct"):
            assert story.offset(BY_IOCTL, 1, clock) == story.offset(SAVED, 0, clock)


def test_each_is_refused_what_it_has_not(thread):
    assert set(thread[V2, "5 s"].refused()) == {("SetCounterOffset", "EINVAL")}
    assert [op for op, _ in thread[IOCTL, "5 s"].refused()] == ["SetVcpuAttr", "SetVcpuAttr", "SetCounterOffset"]
    assert ("SetCounterOffset", "EBUSY") in thread[IOCTL, "5 s"].refused()


# ---- bugs


@pytest.mark.parametrize("kernel", ["linux-5.10-arm64", "linux-6.1-arm64", "linux-6.12-arm64", "linux-6.18-arm64"])
def test_creation_resets(kernel):
    (story,) = arm64_stories("bugs/arm64-vcpu-creation-resets", kernel).values()
    assert story.read(2, 0)["cntvct"] * 10**9 // story.hz > HOUR_NS
    assert all(story.read(4, vcpu)["cntvct"] * 10**9 // story.hz < 10**6 for vcpu in (0, 1, 2))
    with_ioctl = kernel not in ("linux-5.10-arm64", "linux-6.1-arm64")
    given = (0, 0, 0) if with_ioctl else None
    assert (tuple(story.offset(10, vcpu) for vcpu in (0, 1, 2)) == given) == with_ioctl
    assert ("CreateVcpu", "EBUSY") in story.refused()
    assert story.offset(16, 0) == story.offset(14, 0), "what is refused behind a vGIC resets nothing"


@pytest.mark.parametrize("kernel", ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"])
def test_writes_are_ignored(kernel):
    (story,) = arm64_stories("bugs/arm64-writes-ignored", kernel).values()
    assert story.refused() == []
    assert story.offset(3, 1) != story.offset(2, 1)
    assert {story.offset(step, vcpu, c) for step in (5, 7, 8, 9) for vcpu in (0, 1) for c in ("cntvct", "cntpct")} == {
        0
    }


@pytest.mark.parametrize("kernel", ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"])
def test_a_loaded_timer_s_compare_value_moves_with_the_offset(kernel):
    (story,) = arm64_stories("bugs/arm64-ptimer-cval", kernel).values()
    before, after = story.answer(2, "GetOneReg"), story.answer(7, "GetOneReg")
    assert before == story.hz
    assert after == (before - story.offset(6, 1, "cntpct")) % 2**64 > 2**63


def test_without_vhe_the_physical_timer_is_never_loaded():
    text = (load("bugs/arm64-ptimer-cval").name, "arch = 'arm64'\nvhe = false")
    from guestclock.scenario import catalogue

    (trace,) = run(parse(catalogue.read(text[0]).replace('arch = "arm64"', text[1]), "x.toml"), kernels=[IOCTL])
    from tests.runs.story import Arm64Story

    story = Arm64Story(trace)
    assert story.answer(2, "GetOneReg") == story.answer(7, "GetOneReg")


@pytest.mark.parametrize("kernel", ["linux-5.10-arm64", "linux-6.1-arm64", "linux-6.3-arm64", "linux-6.12-arm64"])
def test_a_running_vcpu_goes_on_with_what_it_has_loaded(kernel):
    (story,) = arm64_stories("bugs/arm64-stale-cntvoff", kernel).values()
    for step in (5, 6, 7):
        assert abs(story.skew_ns(step) + HOUR_NS) < 100_000
    assert story.offset(7, 1) == story.offset(2, 1)
    assert [story.skew_ns(step) for step in (8, 9)] == [0, 0]


def test_every_arm64_scenario_is_listed_with_kernels_and_machines():
    found = [load(name) for name in names() if load(name).arch == "arm64"]
    assert {s.name for s in found} == {
        "threads/2021-idempotent-arm64", "bugs/arm64-vcpu-creation-resets", "bugs/arm64-writes-ignored",
        "bugs/arm64-ptimer-cval", "bugs/arm64-stale-cntvoff", "threads/2021-suspend-vmm-arm64",
        "threads/2021-suspend-race-arm64",
    }  # fmt: skip
    assert all(s.kernels and "lab:6.12" in s.on and s.thread for s in found)


# ---- machines

SHORT = "about='x'\n[host]\narch='arm64'\n[vm]\nvcpus=1\n[[step]]\nwait='1 s'\n"


def test_an_arm64_scenario_runs_on_an_arm64_kernel_by_itself():
    (trace,) = run(parse(SHORT, "f"))
    assert (trace.meta["kernel"], trace.meta["arch"], trace.meta["counter_hz"]) == (IOCTL, "arm64", 62_500_000)
    assert trace.meta["counter_start"] == 62_500_000_000


def test_what_a_trace_says_of_a_counter_that_is_not_what_it_says():
    (trace,) = run(parse(SHORT.replace("[vm]", "counter_hz=25_000_000\ntrue_hz=25_000_001\n[vm]"), "f"))
    assert (trace.meta["counter_hz"], trace.meta["counter_true_hz"]) == (25_000_000, "25000001")


@pytest.mark.parametrize(
    ("text", "how", "message"),
    [
        (SHORT, {"kernels": ["linux-6.12"]},
         "--kernel linux-6.12: is of x86_64, f is for arm64, expected a kernel like linux-6.12-arm64"),
        (SHORT.replace("arm64", "x86_64"), {"kernels": ["6.12-arm64"]},
         "--kernel linux-6.12-arm64: is of arm64, f is for x86_64, expected a kernel like linux-6.12"),
        (SHORT.replace("arm64", "x86_64"), {"on": ["lab:6.12:cortex-a72"]},
         "--on lab:6.12:cortex-a72: is an arm64 CPU, f is for x86_64: use --on lab:6.12"),
        (SHORT + "[[step]]\nvmm='set-timer-offset'\nvalue=0\n", {"kernels": ["6.12-arm64+exact5"]}, "--kernel: kernel"),
    ],
)  # fmt: skip
def test_what_is_of_the_other_architecture(text, how, message):
    with pytest.raises(UserError) as raised:
        run(parse(text, "f"), **how)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_this_host_s_kvm_is_of_one_architecture(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(UserError) as raised:
        run(parse(SHORT, "f"), on=["kvm"])
    assert str(raised.value) == "--on kvm: this host is x86_64, f is for arm64: use --on lab:KERNEL"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    check_architecture(parse(SHORT, "f"), On("kvm"))


def test_a_lab_s_cpu_is_named_behind_its_kernel():
    assert parse_on("lab:6.12:cortex-a72") == On("lab", "6.12", "cortex-a72")
    assert str(parse_on("lab:6.12:neoverse-n1-nvhe")) == "lab:6.12:neoverse-n1-nvhe"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lab:6.12:cortex-a7", "--on lab:6.12:cortex-a7: unknown CPU 'cortex-a7' (did you mean 'cortex-a72'?)"),
        ("lab:6.12:", "--on lab:6.12:: unknown CPU '', expected one of neoverse-n1, neoverse-n1-nvhe, cortex-a72"),
        ("lab::cortex-a72", "--on lab::cortex-a72: expected a kernel like lab:6.12"),
    ],
)
def test_other_cpus_are_refused(text, message):
    with pytest.raises(UserError) as raised:
        parse_on(text)
    assert str(raised.value) == message


def test_what_a_lab_is_made_with():
    (variation,) = parse(SHORT, "f").variations
    assert _machine(variation, "") == {"arch": "arm64", "cpu": "", "smp": 1}
    assert _machine(variation, "cortex-a72") == {"arch": "arm64", "cpu": "cortex-a72", "smp": 1}
    (variation,) = parse(SHORT.replace("[vm]", "counter_hz=24_000_000\ncpus=2\n[vm]"), "f").variations
    assert _machine(variation, "") == {"arch": "arm64", "cpu": "", "smp": 2, "counter_hz": 24_000_000}
    (variation,) = parse(SHORT.replace("arm64", "x86_64"), "f").variations
    assert _machine(variation, "") == {"smp": 1, "tsc_khz": 2_596_122}


def test_a_preempted_vcpu_is_preempted_where_the_model_says():
    text = SHORT + "[[step]]\nvmm='start'\n[[step]]\nvmm='preempt'\nvalue='3 ms'\n[[step]]\nvmm='kick'\n"
    (trace,) = run(parse(text, "f"))
    assert [e.data["op"]["ns"] for e in trace.of("op") if e.name == "Preempt"] == [3_000_000]
    with pytest.raises(UserError, match=r"'preempt' cannot be done on lab:6.12: use --on model"):
        run(parse(text, "f"), on=["lab:6.12"])


NESTED = SHORT.replace("vcpus=1", "vcpus=1\nnested=true") + (
    "[[step]]\nguest='read'\n[[step]]\nguest='enter-l2'\nvalue='1 h'\n[[step]]\nguest='read'\nas='l2'\n"
    "[[step]]\nguest='exit-l2'\n[[step]]\nguest='read'\n"
)


def test_a_guest_hypervisor_s_guest_counts_less_its_own_offset():
    from guestclock.check import marks, story
    from tests.runs.story import Arm64Story

    (trace,) = run(parse(NESTED, "f"), kernels=["linux-6.18-arm64"])
    told = Arm64Story(trace)
    # L2 counts as its hypervisor did before, less an hour.
    behind = (told.read(2, 0)["cntvct"] - told.read(4, 0)["cntvct"]) % 2**64
    assert abs(behind * 10**9 // told.hz - HOUR_NS) < 10**6
    seen = story(trace)
    assert [r.step for r in seen.readings if r.source == "guest"] == [1, 5], "L2's is no reading of the guest's"
    assert marks(seen) == []


def test_a_guest_hypervisor_is_the_model_s_and_new():
    with pytest.raises(UserError) as raised:
        run(parse(NESTED, "f"), on=["lab:6.12"])
    assert str(raised.value) == "f: [vm]: nested: cannot be done on lab:6.12: use --on model"
    with pytest.raises(UserError, match=r"linux-6.12-arm64: no guest hypervisors"):
        run(parse(NESTED, "f"))
