"""The bug corpus: entries are sound, bugs are found again, what differs is told. And recipes by outsiders."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from guestclock.checks import corpus, replay_file
from guestclock.checks.spec import Site, Spec
from guestclock.checks.verdict import HOLDS, VIOLATED, Verdict, check
from guestclock.corpus.entry import HERE, Case, Entry, chosen, entries, load
from guestclock.errors import UserError
from guestclock.report import corpus as report
from guestclock.report.numbers import grouped
from guestclock.vmm import recipe as recipes

OUTSIDERS = Path(__file__).parent / "outsiders"
PAGES = Path(__file__).parents[2] / "docs"
PAGE = (PAGES / "corpus.md").read_text()
CHECKED = [name for name, entry in entries().items() if entry.before is not None]
QUICK = [
    "fcvm-663",
    "firecracker-4987",
    "firecracker-6200",
    "hotplug-2023",
    "woodhouse-3509ns",
    "young-guest",
    "zhang-drift",
]


def one(name: str, prop: str, **changes: object) -> Verdict:
    """The verdict on an outsider's recipe."""
    path = str(OUTSIDERS / f"{name}.py")
    policy = tuple(recipes.load(path).policy.items())
    usual: dict[str, object] = {"delay_ns": 10**6, "away_ns": 10**8, "policy": policy, "properties": (prop,)}
    (verdict,) = check(Spec(recipe=path, **{**usual, **changes}), stories=False).verdicts  # type: ignore[arg-type]
    return verdict


# ---- entries


def test_at_least_fifteen_threads_are_checked_and_all_name_one() -> None:
    assert len(CHECKED) >= 15
    assert [e.name for e in entries().values() if not e.thread] == []


@pytest.mark.parametrize("name", CHECKED)
def test_an_entry_can_be_put_to_the_explorer(name: str) -> None:
    entry = entries()[name]
    for case in (entry.before, entry.after):
        if case is not None:
            spec = corpus.spec_of(entry, case)
            assert spec.properties == (entry.property,)
            assert recipes.load(spec.recipe).about


def test_every_recipe_and_kernel_of_the_corpus_is_used() -> None:
    own = {f"corpus/{p.stem.replace('_', '-')}" for f in ("recipes", "kernels") for p in (HERE / f).glob("[!_]*.py")}
    cases = [c for e in entries().values() for c in (e.before, e.after) if c is not None]
    assert own - {c.recipe for c in cases} - {c.kernel for c in cases} == set()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('about = "a"', "required field `thread`"),
        ('about = "a"\nthread = "t"', "expected [before], or [open]"),
        ('about = "a"\nthread = "t"\n[before]\nrecipe = "r"', "expected property"),
        ('about = "a"\nthread = "t"\n[befor]\nrecipe = "r"', "unknown field `befor`"),
        ('about = "a"\nthread = "t"\n[open]\nwhy = "w"\n[before]\nrecipe = "r"', "open, and yet"),
        (
            'about = "a"\nthread = "t"\nproperty = "p"\n[before]\nrecipe = "r"\n[after]\nrecipe = "r"\nremains = 1',
            "remains: expected why",
        ),
    ],
)
def test_a_mistake_in_an_entry_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith("mine.toml: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_told_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match="did you mean 'hotplug-2023'"):
        chosen(("hotplug-202",))


def test_the_page_lists_every_entry_as_it_is() -> None:
    assert [row for row in report.page_rows(list(entries().values())) if row not in PAGE.splitlines()] == []


def test_the_page_shows_a_row_of_every_checked_entry() -> None:
    assert [name for name in CHECKED if not any(line.startswith(name + " ") for line in PAGE.splitlines())] == []


def test_the_page_s_example_does_what_it_says(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- runs


def test_a_few_are_rediscovered_and_their_fixes_hold_in_several_processes(tmp_path: Path) -> None:
    told: list[str] = []
    results = corpus.run(QUICK, jobs=2, out=tmp_path, progress=lambda r: told.append(r.entry.name))
    assert [r.entry.name for r in results] == QUICK
    assert sorted(told) == QUICK
    assert [(r.entry.name, c.mistake) for r in results for c in r.cases if c.mistake] == []
    assert all(r.rediscovered for r in results)
    for name, found, fix, *_ in report.rows(results):
        (line,) = [line for line in PAGE.splitlines() if line.startswith(name + " ")]
        assert (found in line, fix in line) == (True, True), line
    by_name = {r.entry.name: r for r in results}
    assert by_name["woodhouse-3509ns"].before is not None
    assert by_name["woodhouse-3509ns"].before.value == 3509
    file = replay_file.load(tmp_path / "hotplug-2023-before.json")
    assert (file.property, file.value) == ("kvmclock-never-back", 4987)


def test_an_arm64_entry_is_asked_of_arm64_hosts() -> None:
    entry = entries()["firecracker-4987"]
    for case in (entry.before, entry.after):
        assert case is not None
        spec = corpus.spec_of(entry, case)
        assert [(site.khz, site.uptime_ns) for site in spec.sites] == [(62_500, 1000 * 10**9), (62_500, 5000 * 10**9)]
    assert corpus.amount("2.5 ms", "ticks", 62_500) == 156_250


def test_what_firecracker_resets_through_one_vcpu_is_reset_for_all() -> None:
    entry = entries()["firecracker-4987"]
    assert entry.after is not None
    spec = corpus.spec_of(entry, entry.after).but(properties=("cntpct-agrees",))
    (verdict,) = check(spec, stories=False).verdicts
    assert verdict.status == HOLDS
    assert verdict.asked > 0


def test_the_table_has_a_row_for_each_bug_and_says_what_is_open() -> None:
    results = corpus.run(["hotplug-2023", "gleixner-2017"], jobs=1)
    lines = "\n".join(report.text(results, 100))
    assert "hotplug-2023  4 987 ns back  holds" in lines
    assert "1 of 1 bugs rediscovered" in lines
    assert "open: gleixner-2017: guests of guests" in lines


def altered(name: str, part: str, **changes: object) -> Entry:
    entry = entries()[name]
    case: Case = getattr(entry, part)
    return msgspec.structs.replace(entry, **{part: msgspec.structs.replace(case, **changes)})


@pytest.mark.parametrize(
    ("part", "changes", "told"),
    [
        ("before", {"kernel": "linux-6.8"}, "expected violated, found holds"),
        ("before", {"worst": (1, 4000)}, "expected 1 to 4000 ns, found 4987"),
        ("after", {"kernel": "linux-6.7"}, "expected holds, found violated: 4987 ns back"),
        ("after", {"kernel": "linux-6.7", "remains": 4000}, "expected at most 4000 ns to remain, found 4987 ns back"),
        ("after", {"remains": 10}, "expected up to 10 ns to remain, and it holds"),
    ],
)
def test_what_differs_from_an_entry_is_told(part: str, changes: dict[str, object], told: str) -> None:
    assert told in corpus.run_case(altered("hotplug-2023", part, **changes), part).mistake


def test_a_recipe_that_fails_is_told_with_the_entry() -> None:
    entry = altered("gvisor-182", "after", kernel="linux-5.15")
    with pytest.raises(UserError, match=r"gvisor-182.toml: \[after\]: .*SetTscOffset"):
        corpus.run_case(entry, "after")


# ---- docs/recipes.md: what the best recipes leave


@pytest.mark.parametrize(
    ("name", "kernel", "vcpus", "prop", "told"),
    [
        ("best-since-5.16", "linux-6.12", 2, "tsc-policy", "2 595 cycles"),
        ("best-since-5.16", "linux-5.16", 1, "kvmclock-policy", "999 ns"),
        ("best-since-5.16", "linux-7.2", 2, "tsc-agrees", ""),
        ("best-since-5.16", "linux-6.12", 2, "kvmclock-never-back", ""),
        ("best-before-5.16", "linux-5.15", 1, "tsc-policy", "28 558 cycles"),
        ("best-before-5.16", "linux-5.10", 1, "kvmclock-policy", "11 000 ns"),
        ("best-before-5.16", "linux-5.15", 2, "tsc-agrees", ""),
    ],
)
def test_the_best_recipes_leave_what_the_page_says(name: str, kernel: str, vcpus: int, prop: str, told: str) -> None:
    policy = tuple(recipes.load(name).policy.items())
    spec = Spec(
        recipe=name, kernel=kernel, vcpus=vcpus, policy=policy, properties=(prop,), delay_ns=10_000, section_ns=1_000,
        life_ns=10 * 10**9, away_ns=60 * 10**9, after_ns=10**9,
    )  # fmt: skip
    (verdict,) = check(spec, stories=False).verdicts
    if not told:
        assert verdict.status == HOLDS
        return
    assert verdict.status == VIOLATED
    page = (PAGES / "recipes.md").read_text()
    assert verdict.worst is not None
    assert f"{grouped(verdict.worst)} {verdict.unit}" == told
    assert any(f"`{name}`" in line and told in line for line in page.splitlines())


# ---- recipes by people who have not read the engine


@pytest.mark.parametrize(
    ("name", "prop", "least", "changes"),
    [
        ("clock_after_run", "kvmclock-never-back", 90 * 10**9, {"vcpus": 1}),
        ("offset_too_early", "tsc-agrees", 10**9, {"delay_ns": 2 * 10**9}),
        ("rate_too_late", "tsc-never-back", 10**11, {"vcpus": 1, "khz": 2_000_000, "sites": (Site(scaling="vmx"),)}),
    ],
)
def test_an_outsiders_mistake_is_found_and_the_smallest_correction_holds(
    name: str, prop: str, least: int, changes: dict[str, object]
) -> None:
    wrong = one(name, prop, **changes)
    assert wrong.status == VIOLATED
    assert wrong.worst is not None
    assert wrong.worst >= least
    right = one(f"{name}_mended", prop, **changes)
    assert right.status == HOLDS


def test_a_recipe_that_is_no_python_is_told_with_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text('POLICY = {"tsc": "run"}\n\n\nasync def pause(vm):\n    await vm.vcpus[0].kick(\n')
    with pytest.raises(UserError, match=r"mine.py:5: not Python: "):
        check(Spec(recipe=str(path), properties=("tsc-agrees",)))


def test_a_recipe_that_lacks_a_function_is_told_with_its_own_line() -> None:
    with pytest.raises(UserError, match=r"missing_function.py:1: save: there is no 'restore' .*'restor' on line 5"):
        one("missing_function", "tsc-agrees")


@pytest.mark.parametrize(
    ("name", "kernel", "told"),
    [
        ("call_kvm_lacks", "linux-5.15", r"call_kvm_lacks.py:2: .*GetTscOffset: E"),
        ("exception_inside", "linux-6.12", r"exception_inside.py:7: restore: IndexError: "),
    ],
)
def test_a_recipe_that_fails_while_it_runs_is_told_with_its_own_line(name: str, kernel: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        one(name, "tsc-agrees", kernel=kernel)
