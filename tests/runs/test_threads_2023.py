"""2023: when the masterclock is taken anew, and how far kvmclock steps then."""

import pytest

from tests.runs.story import stories, story

# kvm-x86.md 9.1: (raw mult, raw shift), (page mul, page shift), step in ns/s
SCALES = {
    2_596_122: ((6_462_414, 24), (0xC5379CA5, -1), -49.868),
    2_400_000: ((6_990_507, 24), (0xD5555555, -1), +47.777),
    3_000_000: ((5_592_405, 24), (0xAAAAAAAA, -1), -59.372),
    1_000_000: ((8_388_608, 23), (0x80000000, 1), 0.0),
}
SECONDS = {"15 s": 15, "1 h": 3_600, "40 h": 144_000}


def test_hotplug_resnapshots_the_masterclock_until_6_7():
    step_ns = {
        kernel: [run.page_step_ns(2, 5, vcpu) for vcpu in (0, 1)]
        for (kernel,), run in stories("threads/2023-masterclock").items()
    }
    # 49.868 ns/s * 100 s are 4986.8 ns; the floors of the two snapshots and of the page's own reading lie in between
    assert step_ns == {"linux-6.7": [-4986, -4986], "linux-6.8": [0, 0]}


def test_the_snapshot_is_the_new_vcpu_s():
    """Created, it asks; it is served when it runs, and only then (P8); since 6.8 nobody asks."""
    assert story("threads/2023-masterclock", "linux-6.7").snapshots == [0, 0, 0, 4]
    assert story("threads/2023-masterclock", "linux-6.8").snapshots == [0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_the_step_hangs_on_the_time_between_snapshots_not_on_anything_else(seed):
    assert abs(story("threads/2023-masterclock", "linux-6.7", seed=seed).page_step_ns(2, 5, 0) + 4986.8) < 2


def test_the_step_by_uptime_and_rate():
    for (kernel, khz, uptime), run in stories("threads/2023-uptime").items():
        (mult, shift), (mul, pv_shift), ppb = SCALES[khz]
        old, new = run.peek(1, 0)["page"], run.peek(4, 0)["page"]
        assert (old["tsc_to_system_mul"], old["tsc_shift"]) == (mul, pv_shift)
        if kernel == "linux-6.8":
            assert (new["tsc_timestamp"], new["system_time"]) == (old["tsc_timestamp"], old["system_time"])
            continue
        cycles = new["tsc_timestamp"] - old["tsc_timestamp"]
        by_raw = cycles * mult >> shift
        by_page = (cycles << pv_shift if pv_shift >= 0 else cycles >> -pv_shift) * mul >> 32
        assert run.page_step_ns(1, 4, 0) - (by_raw - by_page) in (0, 1)  # the floors of two instants
        assert abs(run.page_step_ns(1, 4, 0) - ppb * SECONDS[uptime]) < 2 + SECONDS[uptime] / 1_000


def test_a_new_generation_steps_on_every_kernel():
    """20 s at -49.868 ns/s; the diff as posted and as landed ask for the update alike."""
    for (kernel,), run in stories("threads/2023-what-still-steps").items():
        assert run.page_step_ns(2, 5, 0) in (-996, -997, -998), kernel


def test_the_posted_diff_is_what_landed_for_hotplug():
    assert story("threads/2023-masterclock", "linux-6.7+seed-2023").page_step_ns(2, 5, 0) == 0


def test_the_periodic_parameter_steps_once_a_period():
    """300 s are up to 316.4 of the timer wheel's; what the periods have taken is not left for the hotplug."""
    steps = {
        kernel: [run.page_step_ns(before, after, 0) for before, after in ((2, 3), (4, 5), (6, 7))]
        for (kernel,), run in stories("threads/2023-periodic").items()
    }
    first, second, third = steps.pop("linux-6.7+periodic-masterclock=300s")
    assert -15_779 <= first <= -14_960
    assert -15_779 <= second <= -14_960
    # 650 s in all, and the floors of four snapshots
    assert abs(first + second + third + 32_414) <= 6
    assert abs(steps["linux-6.7"].pop() + 32_414) <= 2
    assert steps == {"linux-6.7": [0, 0], "linux-6.8": [0, 0, 0]}


def leap(run, step, vcpu):
    """The top of a TSC to which a negative delta was added as a positive one: 0xc000... at 3 GHz."""
    return run.read(step, vcpu)["tsc"] >> 48 == 0xC000


def test_one_vcpu_goes_wrong_where_toggling_alone_asks():
    """P7: one vCPU is always "matched", so a new generation asks for no snapshot; the delta is negative."""
    leaps = {kernel: leap(run, 7, 0) for (kernel,), run in stories("threads/2023-single-vcpu").items()}
    assert leaps == {"linux-3.8": True, "linux-3.19": False, "linux-6.7": False, "linux-6.8": False}


def test_the_one_that_joins_and_runs_first_leaps():
    """7.5: masked while every write asked for a snapshot (P8), with us again since 6.8."""
    leaps = {kernel: leap(run, 8, 1) for (kernel,), run in stories("threads/2023-catchup-order").items()}
    assert leaps == {"linux-3.8": True, "linux-6.7": False, "linux-6.8": True, "linux-6.12": True}
    run = story("threads/2023-catchup-order", "linux-6.12")
    assert not leap(run, 9, 0)
    assert run.flags(run.last, 1) == 1, "and says STABLE"


def test_the_guard_queued_upstream_keeps_it_in_place():
    assert not leap(story("threads/2023-catchup-order", "linux-6.12+negative-delta-guard"), 8, 1)
