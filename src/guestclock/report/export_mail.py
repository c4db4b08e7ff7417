"""A violation as a mail to a kernel list: plain text of 72 columns, no letters that a mailer could spoil."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from guestclock import __version__
from guestclock.checks.architectures import arch_of
from guestclock.checks.replay_file import ReplayFile, portable
from guestclock.checks.story import Story
from guestclock.report.check_replay import what
from guestclock.report.check_story import rule_told, told
from guestclock.report.check_words import amount, khz_of, span, who_named
from guestclock.report.numbers import folded, grouped
from guestclock.vmm.clocks import X86_64

WIDTH = 72
PLAIN = str.maketrans({"−": "-", "µ": "u", "—": "-", "–": "-", "…": "...", "±": "+-", "×": "x"})


def mail(file: ReplayFile, story: Story, name: str) -> str:
    """The subject, what goes wrong, how, why, and how to see it again."""
    return "\n".join(line.translate(PLAIN).rstrip() for line in _lines(file, story, name)) + "\n"


def _lines(file: ReplayFile, story: Story, name: str) -> Iterator[str]:
    spec, khz = file.spec, khz_of(file.spec)
    shown = f"{amount(story.value, file.unit, khz)} {file.sense}"
    # A header line may be folded; the second line of it is indented.
    subject = f"Subject: KVM: {file.property}: {shown}, {portable(spec.kernel)}"
    yield from textwrap.wrap(subject, WIDTH, subsequent_indent=" ")
    yield ""
    yield from _filled(f"{what(file)}: {story.question.about} - not so here: {shown} ({who_named(file.who)}).")
    yield from _filled(f"What breaks: {story.question.breaks}.")
    yield ""
    yield "How it comes about (times from the first step):"
    yield ""
    yield from _table(story)
    yield ""
    for rule in story.rules:
        yield from _filled(f"Why: {rule_told(rule)}.")
    yield ""
    yield from _filled(
        f"Found by an exhaustive search of orders and delays (at most {span(spec.delay_ns)} between calls, "
        f"{span(spec.section_ns)} inside a kernel section, host counter {grouped(spec.sites[0].khz)} kHz), "
        "and confirmed by a run of the model with integers."
    )
    yield ""
    yield f"To reproduce (guestclock {__version__}):"
    yield ""
    commands = [f"guestclock replay {name}"]
    if arch_of(spec.kernel) == X86_64:
        commands.append(f"guestclock export {name} --to selftest-c -o test.c")
    for command in commands:
        yield from _command(command)


def _command(command: str) -> Iterator[str]:
    """A command line as a shell reads it, folded where it is long."""
    lines = textwrap.wrap(command, WIDTH - 6, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        more = " \\" if number + 1 < len(lines) else ""
        yield f"{'  ' if number == 0 else '    '}{line}{more}"


def _filled(text: str) -> Iterator[str]:
    yield from folded(text, WIDTH)


def _table(story: Story) -> Iterator[str]:
    before = ""
    rows = told(story)
    times = max((len(row.time) for row in rows), default=0)
    for row in rows:
        time, before = row.time if row.time != before else "", row.time
        head = f"  {time:<{times}}  {row.actor:<5}  "
        for number, line in enumerate(folded(row.text, WIDTH - len(head))):
            yield (head if number == 0 else " " * len(head)) + line
