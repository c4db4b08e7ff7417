"""The README and docs/ say what is so: whatever there is stands in them, and what they show is what is printed."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from guestclock.abi.arm64 import TIMER_REGS
from guestclock.check import PROPERTIES, recorded
from guestclock.cli import app
from guestclock.errors import UserError
from guestclock.kvm.model import lookup, names
from guestclock.kvm.model.architectures import ARCHITECTURES as MODELS
from guestclock.kvm.model.profile import AnyProfile
from guestclock.runs import parse_on
from guestclock.scenario import load, parse
from guestclock.scenario.document import (
    Arm64Document,
    Arm64Expect,
    Arm64HostTable,
    Arm64VmTable,
    Document,
    Expect,
    HostTable,
    VmTable,
)
from guestclock.scenario.verb import OnVcpus
from guestclock.scenario.verbs import VERBS, Wait
from guestclock.vmm.clocks import ARCHITECTURES

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
WIDTH = "100"
ELLIPSIS = "[…]"


def rows(page: str) -> list[list[str]]:
    """The cells of every line of every table."""
    return [[c.strip() for c in line.strip("|").split("|")] for line in PAGES[page].splitlines() if line[:1] == "|"]


def row(page: str, first: str) -> list[str]:
    found = [cells for cells in rows(page) if cells[0] == first]
    assert len(found) == 1, f"{page}: {len(found)} table lines begin with {first}, expected one"
    return found[0]


# ---- nothing is missing


@pytest.mark.parametrize("name", names())
def test_every_kernel_and_overlay_is_described_as_the_command_describes_it(name: str) -> None:
    assert row("kernels.md", f"`{name}`")[1] == names()[name]


@pytest.mark.parametrize("hook", [h for model in MODELS.values() for h in model.hooks], ids=lambda hook: hook.name)
def test_every_hook_point_has_its_rules(hook: Any) -> None:
    rules = row("kernels.md", f"`{hook.name}`: {hook.about}")[1]
    assert re.findall(r"`(\w+)`", rules) == list(hook.rules)
    for name, rule in hook.rules.items():
        told = ", ".join(part for part in (rule.since, rule.commit) if part)
        assert f"`{name}`" + (f" ({told})" if told else "") in rules


REGISTERS = {reg: name for name, reg in TIMER_REGS.items()}


def differing(profile: AnyProfile, base: AnyProfile) -> Iterator[str]:
    for name in profile.__dataclass_fields__:
        ours, theirs = getattr(profile, name), getattr(base, name)
        if ours == theirs or name in ("name", "about"):
            continue
        if isinstance(ours, tuple):
            new = [REGISTERS.get(one, one) for one in ours if one not in theirs]
            yield f"`{name}`: " + (f"+ {', '.join(f'`{one}`' for one in new)}" if new else "in another order")
        else:
            yield f"`{name}` = `{getattr(ours, '__name__', None) or str(ours).lower()}`"


@pytest.mark.parametrize("arch", MODELS)
def test_every_profile_is_told_by_what_differs(arch: str) -> None:
    kernels = MODELS[arch].kernels
    bases = dict(zip(kernels, [None, *kernels], strict=False))
    if "pvm" in bases:
        bases["pvm"] = "linux-6.18"
    for name, base in bases.items():
        if base is not None:
            told = "; ".join(differing(kernels[name], kernels[base])) or "nothing that the model knows of"
            assert row("kernels.md", f"`{name}` from `{base}`")[1] == told


@pytest.mark.parametrize("arch", MODELS)
def test_every_fact_is_named(arch: str) -> None:
    hooks = {hook.name for hook in MODELS[arch].hooks}
    facts = {field.name for field in dataclasses.fields(MODELS[arch].baseline)} - hooks - {"name", "about"}
    assert not {fact for fact in facts if f"`{fact}`" not in PAGES["kernels.md"]}


def test_every_matching_rule_is_named() -> None:
    assert [cells[0] for cells in rows("kernels.md") if re.fullmatch(r"P\d+", cells[0])] == [f"P{i}" for i in range(15)]


def test_matching_rules_are_credited_to_profiles_and_overlays_that_there_are() -> None:
    for cells in rows("kernels.md"):
        if re.fullmatch(r"P\d+", cells[0]):
            assert {name for name in re.findall(r"`(.+?)`", cells[3]) if name not in names()} == set(), cells[0]


@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.name)
def test_every_property_is_described_as_the_command_describes_it(prop: Any) -> None:
    assert row("properties.md", f"`{prop.name}`")[1:] == [prop.meaning, prop.source]
    assert PAGES["properties.md"].count(f"`{prop.name}`") > 1, "what breaks it?"


def test_every_column_event_key_and_invariant_of_a_trace_is_described_as_the_command_describes_it() -> None:
    for column in recorded.COLUMNS:
        assert [f"`{column.name}`", column.about] in rows("traces.md")
    for kind in recorded.KINDS:
        given = " ".join([f"`{name}`" for name in kind.needs] + [f"`[{name}]`" for name in kind.may])
        assert [f"`{kind.name}`", given, kind.about] in rows("traces.md")
    for key in recorded.KEYS:
        (told,) = [cells for cells in rows("traces.md") if cells[0] == f"`{key.name}`" and len(cells) == 4]
        default = getattr(recorded.Header(), key.name)
        assert told[1] == key.unit
        assert told[2].replace(" ", "") == ("" if default in (None, "", ()) else f"{default:.10g}")
        assert told[3] == key.about
    for one in recorded.INVARIANTS:
        assert [f"I{one.number} {one.name}", one.about, one.needs, one.tolerance, one.blind] in rows("traces.md")


def steps(arch: str, actor: str) -> list[list[str]]:
    """The rows of the steps' tables that this architecture has: under `### `actor`` and "On every architecture:"."""
    section = re.search(rf"^### `{actor}`:.*?(?=^##|\Z)", PAGES["scenarios.md"], re.M | re.S)
    assert section is not None
    found = []
    for heading, table in re.findall(r"^On (.+?):\n\n((?:\|.*\n)+)", section[0], re.M):
        assert heading in ("every architecture", *ARCHITECTURES)
        if heading in ("every architecture", arch):
            found += [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return found


STEPS = [(arch, actor, name) for arch in ARCHITECTURES for actor, verbs in VERBS[arch].items() for name in verbs]


@pytest.mark.parametrize(("arch", "actor", "name"), STEPS)
def test_every_step_is_described_with_its_keys(arch: str, actor: str, name: str) -> None:
    verb = VERBS[arch][actor][name]
    ((_, keys, about),) = [cells for cells in steps(arch, actor) if cells[0] == f'`"{name}"`']
    fields = [f for f in msgspec.structs.fields(verb) if f.name not in ("say", "look", "vcpu", "gap")]
    required = {f"`{f.encode_name}`" for f in fields if f.required}
    free = {f"`[{f.encode_name}]`" for f in fields if not f.required}
    both = {"vCPUs"} if issubclass(verb, OnVcpus) else set()
    assert set(keys.split()) == (required | free | both or {"none"})
    somewhere = {"model", "lab", "kvm"} - verb.runs_on
    assert ("model" in about.split(":")[0]) == bool(somewhere), "where it can be done"
    assert ("lab" in about.split(":")[0].split(", ")) == (somewhere == {"kvm"})


def test_no_step_is_described_that_there_is_not() -> None:
    told = {(arch, a, cells[0].strip('`"')) for arch in ARCHITECTURES for a in VERBS[arch] for cells in steps(arch, a)}
    assert told == set(STEPS)


TABLES = [Document, VmTable, HostTable, Expect, Arm64Document, Arm64VmTable, Arm64HostTable, Arm64Expect, Wait]


@pytest.mark.parametrize("table", TABLES)
def test_every_key_of_the_file_is_named(table: Any) -> None:
    told = {word for code in re.findall(r"`(.+?)`", PAGES["scenarios.md"]) for word in re.findall(r"\w+", code)}
    assert not {f.encode_name for f in msgspec.structs.fields(table)} - told


def test_whatever_is_not_checked_is_owned_up_to() -> None:
    model = ROOT / "src" / "guestclock" / "kvm" / "model"
    unsure = re.compile(r"from memory|was not at hand|our own construction")
    named = re.findall(r"\w+\.py", PAGES["model.md"])
    said = {p.name for p in model.rglob("*.py") if p.name != "overlays.py" and unsure.search(p.read_text())}
    assert said
    assert not said - set(named)
    elsewhere = [
        p for p in model.parent.parent.rglob("*.py") if model not in p.parents and unsure.search(p.read_text())
    ]
    assert not elsewhere


def test_the_numbers_of_the_comparisons_are_those_of_the_tests() -> None:
    from tests.compare import test_in_the_lab, test_on_this_host
    from tests.lab.programs import SCENARIOS

    told = (
        f"{test_in_the_lab.PROGRAMS} random programs",
        f"{test_on_this_host.PROGRAMS} random programs",
        f"{len(SCENARIOS)} variations",
    )
    for page in ("README.md", "model.md"):
        assert [what for what in told if what not in PAGES[page]] == [], page


# ---- what is pointed to is there


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_resolve(page: str) -> None:
    here = ROOT if page == "README.md" else ROOT / "docs"
    text = PAGES[page]
    targets = [t for t in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in t]
    missing = [t for t in targets if not (here / t).exists()]
    paths = re.findall(r"`((?:src|tests|docs|benchmarks)/[\w./-]+)`", text)
    missing += [p for p in paths if not (ROOT / p).exists()]
    missing += [p for p in re.findall(r"`(kvm/model/\w+\.py)`", text) if not (ROOT / "src" / "guestclock" / p).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_scenarios_and_make_targets_that_are_named_exist(page: str) -> None:
    for name in re.findall(r"`((?:threads|bugs)/[\w-]+)`", PAGES[page]):
        load(name)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert not set(re.findall(r"`make (\w+)`", PAGES[page])) - set(targets)


# ---- what is shown is what is printed


@dataclass(frozen=True)
class Shown:
    """A command of a page, and the lines below it."""

    page: str
    line: str
    output: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line)[1:]

    @property
    def paragraphs(self) -> list[list[str]]:
        return [text.split("\n") for text in re.split(r"\n{2,}", "\n".join(self.output).strip("\n")) if text]


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], re.M | re.S)


def shown() -> Iterator[Shown]:
    for page in PAGES:
        for block in fenced(page, "console"):
            for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
                command, *output = part.rstrip("\n").split("\n")
                yield Shown(page, command, tuple(output))


SHOWN = list(shown())
INLINE = sorted({code for text in PAGES.values() for code in re.findall(r"`(guestclock [^`\n]+)`", text)})


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command's name and what it is given. Fails where the command line is not one of ours."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("guestclock", list(words))
    while hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", []), *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return context.info_name, context.params


@pytest.fixture(scope="module")
def tomls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every scenario that a page shows, under the name in its first line."""
    place = tmp_path_factory.mktemp("docs")
    for page in PAGES:
        for block in fenced(page, "toml"):
            name = re.match(r"# (\S+\.toml)\n", block)
            assert name is not None, f"{page}: a scenario begins with its file's name"
            (place / name[1]).write_text(block)
    return place


@pytest.mark.parametrize("line", sorted({s.line for s in SHOWN} | set(INLINE)))
def test_every_command_line_is_understood(line: str, tomls: Path) -> None:
    words = shlex.split(line)[1:]
    if line in INLINE and len(words) == 1 and not words[0].startswith("-"):
        # In a sentence, `guestclock check` is the command's name, not a line to type.
        assert words[0] in typer.main.get_command(app).commands  # type: ignore[attr-defined]
        return
    name, given = parsed(words)
    if name != "run" or given["scenario"] == "FILE":
        return
    own = tomls / given["scenario"]
    load(str(own) if own.exists() else given["scenario"])
    for machine in given["on"] or []:
        if machine != "all":
            parse_on(machine)
    for kernel in given["kernel"] or []:
        lookup(kernel)


def on_the_model(words: list[str]) -> list[str] | None:
    """The command line without other machines; None where there is nothing for the model in it."""
    if words[0] == "list":
        return words
    if words[0] != "run":
        return None
    kept, machines = [], []
    for at, word in enumerate(words):
        if word == "--on":
            machines.append(words[at + 1])
        elif not at or words[at - 1] != "--on":
            kept.append(word)
    return kept if not machines or "model" in machines else None


QUICK = [(s, words) for s in SHOWN if (words := on_the_model(s.words)) is not None]


@pytest.mark.parametrize(("command", "words"), QUICK, ids=lambda v: v.line if isinstance(v, Shown) else "")
def test_what_is_shown_is_what_is_printed(command: Shown, words: list[str], tomls: Path) -> None:
    """Line by line and in order; what a lab printed is a lab's, and is left to whoever has one."""
    done = subprocess.run(
        [sys.executable, "-m", "guestclock", *words],
        capture_output=True, text=True, check=False, cwd=tomls, env=os.environ | {"COLUMNS": WIDTH}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    for paragraph in command.paragraphs:
        if paragraph == [ELLIPSIS] or any("lab:" in line for line in paragraph):
            continue
        at = next((i for i in range(len(printed)) if printed[i : i + len(paragraph)] == paragraph), None)
        assert at is not None, f"{command.page} shows what is not printed any more, paste it anew:\n" + "\n".join(
            paragraph
        )
        printed = printed[at + len(paragraph) :]


def test_something_is_shown_and_something_is_run() -> None:
    assert len(QUICK) >= 6
    assert sum(len(c.paragraphs) > 3 for c, _ in QUICK) >= 1


@pytest.mark.parametrize(("page", "code"), [(page, code) for page in PAGES for code in fenced(page, "python")])
def test_programs_run(page: str, code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout


MISTAKES = (
    '[[step]]\nvmm = "creat-vcpu"',
    '[[step]]\nvmm = "set-tsc"\nvcpu = 2\nvalue = 0',
    "[[step]]\nwait = 3",
    '[[step]]\nvmm = "set-tsc"\nvalue = "$tsc"\n[[step]]\nvmm = "get-tsc"\nas = "tsc"',
    '[[step]]\nvmm = "start"\n[[step]]\nvmm = "set-tsc"\nvalue = 0',
    '[vary]\ndelay = ["1 s"]\n[[step]]\nwait = "1 s"',
    '[[step]]\nguest = "enter-l2"\nvalue = 5\n[[step]]\nguest = "enter-l2"\nvalue = 5',
    '[host]\ntsc_scaling = "svm"\n[[step]]\nguest = "enter-l2"\nvalue = 5\nratio = 0',
)


def test_mistakes_are_told_as_the_page_tells_them() -> None:
    told = []
    for text in MISTAKES:
        with pytest.raises(UserError) as mistake:
            parse(f'about = "x"\n[vm]\nvcpus = 2\n{text}', "x.toml")
        told.append(f"guestclock: {mistake.value}")
    (block,) = (b for b in fenced("scenarios.md", "") if b.startswith("guestclock: "))
    assert block.splitlines() == told
