"""check, replay and export as a user types them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.test_command import guestclock_, told

ROOT = Path(__file__).parent.parent.parent
PAUSE = ("check", "qemu-stop-cont", "--property", "kvmclock-policy")

RECIPE = '''"""Mine."""


async def save(vm):
    {save}


async def restore(vm, snapshot):
    pass
'''


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the replay files of a pause."""
    place = tmp_path_factory.mktemp("out")
    done = guestclock_(*PAUSE, "--out", place)
    assert done.returncode == 1, done.stderr
    return place


def replay_in(out: Path) -> Path:
    return out / "qemu-stop-cont.linux-6.12.kvmclock-policy.json"


# ---- check


def test_statuses(tmp_path: Path) -> None:
    """0 holds, 1 violated, 3 undecided."""
    place = tmp_path / "p.toml"
    place.write_text('kvmclock = "freeze"\n[tolerance]\nkvmclock = "2 min"\n')
    assert guestclock_(*PAUSE, "--policy", place, "--out", tmp_path).returncode == 0
    assert guestclock_(*PAUSE, "--out", tmp_path).returncode == 1
    short = ("--budget", "1 ms", "--max-delay", "1 us", "--out", tmp_path)
    done = guestclock_("check", "by-value-restore", "--property", "kvmclock-agrees", *short)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the budget ended" in done.stderr
    assert "--resume" in done.stderr


def test_what_is_shown_in_the_docs_is_what_is_printed(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "checking.md").read_text()
    shown = re.findall(r"```console\n(.*?)```", page, re.S)
    assert len(shown) == 6
    for block in shown:
        command, _, expected = block.removeprefix("$ guestclock ").partition("\n")
        done = subprocess.run(
            [sys.executable, "-m", "guestclock", *command.split()],
            capture_output=True, text=True, check=False, cwd=tmp_path, env={"COLUMNS": "100", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert without_costs(done.stdout) == without_costs(expected), done.stderr


def without_costs(text: str) -> list[str]:
    """What a search took is not the same twice."""
    return ["search: " if line.startswith("search: ") else line.rstrip() for line in text.splitlines()]


def test_kernels_stand_side_by_side(tmp_path: Path) -> None:
    done = guestclock_(*PAUSE, "--kernel", "6.1", "--kernel", "6.12", "--out", tmp_path, COLUMNS="80")
    head, row = done.stdout.splitlines()[:2]
    assert head.split() == ["linux-6.1", "linux-6.12"]
    assert row.startswith("kvmclock-policy")
    lines = [line for line in done.stdout.splitlines() if "guestclock replay" not in line]
    assert max(map(len, lines)) <= 80


def test_json_has_the_same_facts(tmp_path: Path) -> None:
    done = guestclock_(*PAUSE, "--json", "--out", tmp_path)
    document = json.loads(done.stdout)
    (verdict,) = document["checks"][0]["verdicts"]
    assert (document["status"], verdict["status"], verdict["unit"]) == (1, "violated", "ns")
    top, bottom = map(int, verdict["bound"].split("/"))
    assert verdict["worst"] * bottom <= top
    assert verdict["story"]["steps"][0]["since_ps"] == 0
    assert Path(verdict["replay"]).exists()


def test_the_fix_is_checked_too(tmp_path: Path) -> None:
    text = (ROOT / "src/guestclock/vmm/recipes/qemu_stop_cont.py").read_text()
    (tmp_path / "mine.py").write_text(text + '\nFIX = "qemu-stop-cont: nothing else is known"\n')
    done = guestclock_("check", tmp_path / "mine.py", *PAUSE[2:], "--out", tmp_path)
    assert "fix: qemu-stop-cont, nothing else is known; re-checked: still violated" in " ".join(done.stdout.split())


def test_a_built_in_recipe_names_what_does_better(tmp_path: Path) -> None:
    done = guestclock_("check", "by-value-restore", "--property", "tsc-agrees", "--out", tmp_path)
    fix = "fix: offset-restore, the offset, not the value: KVM need not guess what was meant; re-checked: holds"
    assert fix in " ".join(done.stdout.split())


def test_a_fix_that_this_kernel_cannot_have_is_said_and_since_which_it_can(tmp_path: Path) -> None:
    asked = ("check", "arm64-by-value", "--kernel", "linux-6.1-arm64", "--property", "cntvct-policy", "--vcpus", "1")
    done = guestclock_(*asked, "--out", tmp_path)
    assert done.returncode == 1, done.stderr
    (fix,) = re.findall(r"  fix: (arm64-by-offset-freeze, .*?)\n  replay:", done.stdout, re.DOTALL)
    words = " ".join(fix.split())
    assert words.endswith(
        "not on this kernel: SetCounterOffset: EINVAL (the ioctl exists since 6.4); it is there on linux-6.4-arm64"
    )
    told_ = json.loads(guestclock_(*asked, "--json", "--out", tmp_path).stdout)["checks"][0]["fix"]
    assert told_["recipe"] == "arm64-by-offset-freeze"
    assert told_["verdicts"] == []
    assert told_["not_here"] in words


def test_a_rule_is_told_once_and_then_by_its_number(tmp_path: Path) -> None:
    both = ("--property", "tsc-agrees", "--property", "tsc-policy")
    done = guestclock_("check", "by-value-restore", *both, "--max-delay", "2s", "--out", tmp_path)
    text = " ".join(done.stdout.split())
    assert text.count("P9: 0, or within one second") == 1
    assert text.count('why: when KVM takes a TSC write for "in sync": P12, as told above') == 1


def test_a_search_that_is_interrupted_goes_on_to_the_same_verdicts(tmp_path: Path) -> None:
    """Ctrl-C, once the progress on the terminal says that orders have been seen."""
    command = ("check", "highest-tsc", "--property", "tsc-policy", "--json", "--out", str(tmp_path))
    terminal, theirs = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-m", "guestclock", *command],
        stdout=subprocess.PIPE, stderr=theirs, text=True, env=os.environ | {"TERM": "xterm", "COLUMNS": "160"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # the terminal's end
        while not re.search(rb": [1-9]\d* orders", seen):
            seen += os.read(terminal, 4096)
    started.send_signal(signal.SIGINT)
    with suppress(OSError):
        while read := os.read(terminal, 4096):
            seen += read
    document = json.loads(started.communicate(timeout=20)[0])
    os.close(terminal)
    assert started.returncode in (1, 3)
    assert "interrupted after" in " ".join(seen.decode().split())
    (early,) = document["checks"]
    assert not early["complete"]

    state = tmp_path / "highest-tsc.linux-6.12.search.json"
    (resumed,) = json.loads(guestclock_(*command, "--resume", state).stdout)["checks"]
    (whole,) = json.loads(guestclock_(*command).stdout)["checks"]
    assert resumed["complete"]
    assert early["orders"] < whole["orders"] == resumed["orders"]
    ((again,), (once,)) = resumed["verdicts"], whole["verdicts"]
    differing = {key for key in once if once[key] != again[key]}
    assert not differing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def (", "mine.py:1: not Python"),
        ('"""x"""\n\n\nasync def save(vm):\n    return 1\n', "mine.py:4: save: there is no 'restore' to go with it"),
        (RECIPE.format(save="return 1 / 0"), "mine.py:5: save: ZeroDivisionError"),
        (
            RECIPE.format(save="return await vm.vcpus[0].get_tsc_offset()"),
            "mine.py:5: save: vCPU 0: GetTscOffset: EINVAL",
        ),
    ],
)
def test_a_recipe_with_a_mistake(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    line = told(guestclock_("check", tmp_path / "mine.py", "--kernel", "linux-5.15", "--out", tmp_path))
    assert expected in line


FREEZE = ("check", "threads/2017-freeze")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("check", "qemu-stop-kont"), "did you mean 'qemu-stop-cont'"),
        (("check", "threads/2017-freez"), "no recipe, scenario or thread (did you mean 'threads/2017-freeze'?)"),
        ((*FREEZE, "--design", "corected-gate"), "--design: unknown 'corected-gate' (did you mean 'corrected-gate'?)"),
        ((*FREEZE, "--case", "l2-unawar"), "--case: no design has 'l2-unawar' (did you mean 'l2-unaware'?)"),
        (
            (*FREEZE, "--design", "corrected-halted", "--case", "v0-hang"),
            "--case: corrected-halted has no 'v0-hang', expected one of",
        ),
        ((*FREEZE, "--property", "never-bak"), "--property: unknown 'never-bak' (did you mean 'never-back'?)"),
        ((*FREEZE, "--budget", "-1s"), "--budget: '-1s' is negative, expected a duration like '300 ms'"),
        ((*FREEZE, "--budget", "for ever"), "--budget: 'for ever': expected a duration like '300 ms'"),
        ((*FREEZE, "--kernel", "linux-6.12"), "--kernel: is a recipe's or a scenario's; threads/2017-freeze takes"),
        ((*FREEZE, "--on", "lab:6.12"), "--on: is a recipe's or a scenario's; threads/2017-freeze takes"),
        ((*PAUSE, "--design", "corrected-gate"), "--design, --case: are a thread's"),
        ((*PAUSE, "--property", "nice"), "--property: unknown 'nice'"),
        ((*PAUSE, "--kernel", "9.9"), "kernel '9.9' is unknown"),
        ((*PAUSE, "--max-delay", "soon"), "--max-delay: 'soon': expected a duration"),
        ((*PAUSE, "--policy", "dance"), "--policy dance: expected one of run, freeze, advance"),
        ((*PAUSE, "--vcpus", "0"), "--vcpus 0: expected 1 to 8"),
        ((*PAUSE, "--jobs", "0"), "--jobs 0: expected 1 or more"),
        ((*PAUSE, "--resume", "/nowhere"), "--resume /nowhere: cannot be read"),
        ((*PAUSE, "--out", "/dev/null"), "--out /dev/null: is a file"),
        (("check", "threads/2023-masterclock", "--vcpus", "2"), "--vcpus: is a recipe's"),
        (("replay", "/nowhere.json"), "/nowhere.json: cannot be read"),
        (("export", "/nowhere.json", "--to", "word"), "--to word: expected one of selftest-c, perfetto, mail"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], expected: str) -> None:
    assert expected in told(guestclock_(*arguments))


@pytest.mark.parametrize(
    ("vm", "steps", "expected"),
    [
        ("", "[[step]]\nguest = 'enter-l2'\nvalue = 5\n", "[[step]] 1: 'enter-l2': guests of guests cannot be checked"),
        (
            "nested = true\n[host]\narch = 'arm64'",
            "[[step]]\nguest = 'read'\n",
            "[vm]: nested: guests of guests cannot",
        ),
    ],
)
def test_guests_of_guests_are_not_checked(tmp_path: Path, vm: str, steps: str, expected: str) -> None:
    """An L2's counter was taken for its L1's: a step back by the offset between them."""
    file = tmp_path / "l2.toml"
    file.write_text(f"about = 'x'\n[vm]\nvcpus = 1\n{vm}\n{steps}")
    assert expected in told(guestclock_("check", file))


# ---- as a function of a bound

HOTPLUG = ("check", "vcpu-hotplug", "--kernel", "linux-6.7", "--max-delay", "1ms", "--away", "1ms")


def test_a_list_is_a_column_per_value_of_every_property(tmp_path: Path) -> None:
    done = guestclock_(*HOTPLUG, "--life", "10s,1h", "--property", "tsc-agrees", "--property", "kvmclock-never-back")
    assert done.returncode == 1, done.stderr
    name, head, *rows, bounds = done.stdout.splitlines()
    assert name == "vcpu-hotplug on linux-6.7"
    assert [re.split(r"  +", row) for row in (head, *rows)] == [
        ["--life", "10 s", "1 h"],
        ["tsc-agrees", "holds", "holds"],
        ["kvmclock-never-back", "499 ns back", "179.524 µs back"],
    ]
    assert head.index("1 h") == rows[0].rindex("holds") == rows[1].index("179.524"), "aligned"
    assert "life" not in bounds


def test_a_list_is_folded_into_the_page() -> None:
    lives = ",".join(f"{n}s" for n in range(10, 20))
    done = guestclock_(*HOTPLUG, "--life", lives, "--property", "kvmclock-never-back", "--property", "tsc-agrees")
    folded = guestclock_(
        *HOTPLUG, "--life", lives, "--property", "kvmclock-never-back", "--property", "tsc-agrees", COLUMNS="60"
    )
    assert max(map(len, folded.stdout.splitlines())) <= 60
    assert sorted(re.findall(r"\d+ ns back", folded.stdout)) == sorted(re.findall(r"\d+ ns back", done.stdout))


def test_a_sweep_as_json_has_the_exact_amounts() -> None:
    done = guestclock_(*HOTPLUG, "--life", "10s,100s", "--property", "kvmclock-never-back", "--json")
    document = json.loads(done.stdout)
    assert (document["guestclock_sweep"], document["status"]) == (1, 1)
    assert document["axes"] == {"life_ns": [10 * 10**9, 100 * 10**9]}
    (sweep,) = document["sweeps"]
    assert [(c["life_ns"], c["verdicts"][0]["worst"]) for c in sweep["cells"]] == [(10**10, 499), (10**11, 4987)]


def test_what_a_policy_forgives_is_forgiven_in_a_sweep(tmp_path: Path) -> None:
    place = tmp_path / "p.toml"
    place.write_text('tsc = "run"\nkvmclock = "run"\n[tolerance]\nkvmclock-never-back = "1 us"\n')
    done = guestclock_(*HOTPLUG, "--life", "10s,100s", "--property", "kvmclock-never-back", "--policy", place)
    assert [line.split()[2] for line in done.stdout.splitlines()[2:4]] == ["holds", "4.987"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            (*HOTPLUG, "--life", "10s,1h", "--max-section", "1us,2us"),
            "--max-section and --life: a grid is of one property",
        ),
        ((*HOTPLUG, "--life", "10s,10 s"), "--life 10s,10 s: a value is there twice"),
        ((*HOTPLUG, "--life", "10s,"), "--life: ''"),
        ((*PAUSE, "--life", "1s,2s", "--away", "1s,2s", "--max-delay", "1s,2s"), "3 lists, expected at most 2"),
        ((*PAUSE, "--life", "1s,2s", "--resume", "x"), "--resume x: is one search's"),
        (("check", "threads/2023-masterclock", "--life", "1s,2s"), "--life: is a recipe's"),
        (("check", "threads/2023-masterclock", "--away", "1s"), "--away: is a recipe's"),
    ],
)
def test_mistakes_in_sweeps(arguments: tuple[str, ...], expected: str) -> None:
    assert expected in told(guestclock_(*arguments))


# ---- replay and export


def test_a_replay_shows_the_recorded_value(out: Path, tmp_path: Path) -> None:
    done = guestclock_("replay", replay_in(out), "--figure", tmp_path / "f.svg")
    assert done.returncode == 0, done.stderr
    assert "as recorded" in done.stdout
    assert (tmp_path / "f.svg").read_text().startswith("<?xml")
    document = json.loads(guestclock_("replay", replay_in(out), "--json").stdout)
    assert document["same"] is True
    assert document["recorded"] == document["story"]["value"]


def test_a_replay_that_shows_another_value_is_status_1(out: Path, tmp_path: Path) -> None:
    document = json.loads(replay_in(out).read_text())
    (tmp_path / "x.json").write_text(json.dumps(document | {"value": document["value"] + 1}))
    done = guestclock_("replay", tmp_path / "x.json")
    assert done.returncode == 1
    assert "NOT as recorded" in done.stdout


def test_what_calls_alone_cannot_force_is_refused(out: Path) -> None:
    assert "can be forced by calls alone" in told(guestclock_("replay", replay_in(out), "--on", "kvm"))


def test_a_truncated_replay_file(out: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(replay_in(out).read_text()[:900])
    assert "x.json: damaged, not JSON" in told(guestclock_("replay", tmp_path / "x.json"))


def test_an_export_goes_to_a_file_or_to_the_page(out: Path, tmp_path: Path) -> None:
    page = guestclock_("export", replay_in(out), "--to", "mail")
    guestclock_("export", replay_in(out), "--to", "mail", "-o", tmp_path / "a" / "mail.txt")
    assert (tmp_path / "a" / "mail.txt").read_text() == page.stdout


# ---- a thread's run as a trace of readings


def test_a_violations_run_is_written_as_readings_and_judged_again(tmp_path: Path) -> None:
    asked = ("check", "threads/2021-suspend", "--design", "v3", "--case", "reset", "--property", "I1")
    assert guestclock_(*asked, "--out", tmp_path).returncode == 1
    trace = tmp_path / "trace.csv.gz"
    done = guestclock_("replay", tmp_path / "2021-suspend.v3.reset.I1.json", "--readings", trace)
    assert (done.returncode, done.stderr.strip()) == (0, f"readings: {trace}")
    judged = guestclock_("trace", "check", trace, "--json")
    assert judged.returncode == 1
    flagged = {each["number"] for each in json.loads(judged.stdout)["invariants"] if each["status"] == "violated"}
    assert {1, 6, 8} <= flagged
    done = guestclock_("replay", tmp_path / "2021-suspend.v3.reset.I1.json", "--readings", tmp_path / "no" / "x.csv")
    assert (done.returncode, done.stderr.strip()) == (2, f"guestclock: {tmp_path}/no/x.csv: No such file or directory")


def test_readings_are_a_threads(out: Path, tmp_path: Path) -> None:
    done = guestclock_("replay", replay_in(out), "--readings", tmp_path / "x.csv")
    assert done.returncode == 2
    assert "--readings is for threads" in " ".join(done.stderr.split())
