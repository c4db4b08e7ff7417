"""A guest from one lab to another, with the model in each lab's place: two hosts, true time, a recipe's halves."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from guestclock.errors import UserError
from guestclock.runs import migrate as runs_migrate
from guestclock.runs.migrate import Migration, migrate
from guestclock.runs.on import On
from guestclock.vmm.half import as_json, from_json
from guestclock.vmm.recipe import names
from tests.runs.model_lab import READ_NS, ModelLab

S = 10**9
MS = 10**6


@pytest.fixture(autouse=True)
def labs(monkeypatch) -> None:
    monkeypatch.setattr(runs_migrate, "Lab", ModelLab)


def moved(recipe: str, source: str = "6.12", destination: str = "6.12", **how: Any) -> Migration:
    return migrate(recipe, On("lab", source), On("lab", destination), **how)


def off_ns(done: Migration, clock: str) -> list[Fraction]:
    return [off.off_ns for off in done.off if off.clock == clock]


@pytest.mark.parametrize("kernels", [("6.12", "6.12"), ("6.1", "6.12"), ("6.12", "6.1")])
@pytest.mark.parametrize("skew_ns", [0, 5 * MS, -700])
def test_the_kernel_s_own_way_is_off_by_the_skew_of_the_wall_clocks(kernels, skew_ns):
    """And by what passes between the two reads of KVM_SET_CLOCK, of which one is for the snapshot: 20 ns here."""
    done = moved("kernel-doc-migrate", *kernels, skew_ns=skew_ns)
    for clock in ("tsc", "kvmclock"):
        for off in off_ns(done, clock):
            assert off - skew_ns == pytest.approx(READ_NS, abs=5), clock
    assert all(off.meant == "advance" and off.within_ns == 0 for off in done.off)


def test_true_time_passes_while_it_is_away():
    for away_ns in (S, 60 * S):
        done = moved("kernel-doc-migrate", away_ns=away_ns)
        assert 0 < done.away_ns - away_ns < MS
        gained = done.there.meta["tsc_start"], done.here.meta["tsc_start"]
        assert gained[0] == gained[1], "each host counts from its own boot: the downtime is in no counter"


def test_what_is_meant_to_stand_still_is_off_by_what_it_gained():
    """QEMU's way: TSCs and kvmclock by value, read after the last instruction, written before the first."""
    done = moved("qemu-migrate")
    assert {off.meant for off in done.off} == {"freeze"}
    for clock in ("tsc", "kvmclock"):
        assert all(0 < off < MS for off in off_ns(done, clock)), clock
    longer = moved("qemu-migrate", away_ns=60 * S)
    for clock in ("tsc", "kvmclock"):
        assert off_ns(longer, clock) == pytest.approx(off_ns(done, clock), abs=1), "the downtime is lost, by design"


def test_before_5_16_there_is_no_instant_of_both_clocks_and_it_is_told_what_that_leaves_open():
    done = moved("best-before-5.16", "5.10", "5.10")
    for off in done.off:
        assert off.within_ns > 0
        assert abs(off.off_ns) <= off.within_ns + 10_000  # the recipe reads one thing after the other, 1 µs apart


def test_snapshots_come_through_as_they_were():
    for recipe in ("kernel-doc-migrate", "qemu-migrate", "firecracker-restore"):
        done = moved(recipe)
        assert from_json("x86_64", json.loads(json.dumps(as_json(done.snapshot)))) == done.snapshot
        assert len(done.snapshot.vcpus) == 2


def test_a_user_s_own_recipe_goes_along_as_text(tmp_path: Path):
    own = tmp_path / "mine.py"
    own.write_text((Path(runs_migrate.__file__).parents[1] / "vmm/recipes/kernel_doc_migrate.py").read_text())
    done = moved(str(own))
    assert off_ns(done, "tsc") == off_ns(moved("kernel-doc-migrate"), "tsc")
    own.write_text(own.read_text().replace("src.clock_ns - dst", "src.clock_ns - 1 - dst"))
    assert off_ns(moved(str(own)), "tsc")[0] == pytest.approx(off_ns(done, "tsc")[0] + 1, abs=0.5)


def test_mistakes_are_told(tmp_path: Path):
    with pytest.raises(UserError, match="'qemu-stop-cont': it pauses and resumes: expected one that saves"):
        moved("qemu-stop-cont")
    with pytest.raises(UserError, match=r"lab:6\.12:cortex-a72: is an arm64 CPU"):
        migrate("kernel-doc-migrate", On("lab", "6.12", "cortex-a72"), On("lab", "6.12"))
    with pytest.raises(UserError, match=r"kvm: expected a lab, as lab:6\.12"):
        migrate("kernel-doc-migrate", On("kvm"), On("lab", "6.12"))
    own = tmp_path / "mine.py"
    own.write_text("async def save(vm): return 1 // 0\nasync def restore(vm, snapshot): pass\n")
    with pytest.raises(UserError, match=r"mine\.py:1: save: ZeroDivisionError"):
        moved(str(own))
    own.write_text("async def save(vm): await vm.vcpus[0].set_tsc_khz(1)\nasync def restore(vm, snapshot): pass\n")
    with pytest.raises(UserError, match=r"mine\.py:1: save: "):
        moved(str(own))


def test_every_recipe_that_saves_and_restores_can_be_moved_by():
    from guestclock.vmm.recipe import load

    movable = [name for name in names("x86_64") if load(name).save is not None]
    assert len(movable) > 8
    for name in movable:
        if name != "stop-all-tscs":  # which needs a call that no kernel has
            assert {off.clock for off in moved(name).off} == {"tsc", "kvmclock"}, name
