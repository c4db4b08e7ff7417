"""State objects: declared fields, and observers that see every access."""

from __future__ import annotations

import pytest

from guestclock.sim import Cell, State, WidthObserver, watching
from guestclock.sim.field import flag, integer, ref, s8, s64, text, u8, u32, u64


class Page(State):
    version = u32("even at rest")
    tsc_timestamp = u64("cycles")
    system_time = s64("ns", 5)
    shift = s8("shift")
    flags = u8("flags")
    stable = flag("stable")
    name = text("name", "page")
    count = integer("how many")
    other = ref("another one")


class Wider(Page):
    extra = u64("one more", 9)


class Recorder:
    def __init__(self):
        self.seen = []

    def name(self, state):
        return ""

    def read(self, state, name):
        self.seen.append(("r", name))

    def write(self, state, name, value):
        self.seen.append(("w", name, value))


def test_defaults_keywords_and_repr():
    page = Page(version=2, name="x")
    assert (page.version, page.system_time, page.name, page.stable, page.other) == (2, 5, "x", False, None)
    assert repr(page) == (
        "Page(version=2, tsc_timestamp=0, system_time=5, shift=0, flags=0, stable=False, name='x', count=0)"
    )


@pytest.mark.parametrize("observer", [None, Recorder()])
def test_a_misspelt_field_raises(observer):
    if observer is None:
        page = Page()
    else:
        with watching(observer):
            page = Page()
    with pytest.raises(AttributeError):
        page.sytem_time = 1
    with pytest.raises(AttributeError):
        _ = page.sytem_time
    page.system_time = 1  # the right one does not


def test_an_unknown_keyword_raises_and_is_named():
    with pytest.raises(TypeError, match="Page has no field 'vresion'"):
        Page(vresion=1)


def test_fields_are_inherited():
    wider = Wider(version=4)
    assert (wider.version, wider.extra, list(Wider.fields)) == (4, 9, [*Page.fields, "extra"])
    wider.extra = 10
    assert wider.extra == 10


def test_watching_reports_reads_and_writes_of_objects_built_inside():
    recorder = Recorder()
    outside = Page()
    with watching(recorder):
        page = Page(version=2)
        recorder.seen.clear()
        page.version = page.version + 2
        outside.version = 8
        assert recorder.seen == [("r", "version"), ("w", "version", 4)]
        assert isinstance(page, Page)
        assert repr(page).startswith("Page(version=4")


def test_construction_writes_are_reported_too():
    recorder = Recorder()
    with watching(recorder):
        Cell(value=3)
    assert recorder.seen == [("w", "value", 3)]


def test_after_watching_accesses_are_silent_and_values_stay():
    recorder = Recorder()
    with watching(recorder):
        page = Page(version=2)
    recorder.seen.clear()
    page.version += 2
    assert page.version == 4
    assert recorder.seen == []


def test_watching_nests_and_restores_on_error():
    outer, inner = Recorder(), Recorder()
    with watching(outer):
        page = Wider()
        outer.seen.clear()
        with pytest.raises(ZeroDivisionError), watching(inner):  # noqa: PT012 - it must leave `watching` itself
            page.version = 2
            raise ZeroDivisionError
        page.version = 4
    assert inner.seen == [("w", "version", 2)]
    assert outer.seen == [("w", "version", 4)]


def test_inherited_fields_are_watched():
    recorder = Recorder()
    with watching(recorder):
        wider = Wider()
        recorder.seen.clear()
        wider.version, wider.extra = 2, 3
    assert recorder.seen == [("w", "version", 2), ("w", "extra", 3)]


TOO_WIDE = [
    ("version", 2**32), ("version", -1), ("tsc_timestamp", 2**64), ("tsc_timestamp", -1), ("system_time", 2**63),
    ("system_time", -(2**63) - 1), ("shift", 128), ("shift", -129), ("flags", 256), ("flags", -1),
]  # fmt: skip
FITS = [
    ("version", 2**32 - 1), ("tsc_timestamp", 2**64 - 1), ("system_time", 2**63 - 1), ("system_time", -(2**63)),
    ("shift", 127), ("shift", -128), ("flags", 255), ("count", 2**100),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), TOO_WIDE)
def test_the_width_observer_catches_a_value_that_is_too_wide(name, value):
    with watching(WidthObserver()):
        page = Page()
        with pytest.raises(AssertionError, match=rf"Page\.{name}: {value} is no"):
            setattr(page, name, value)
        with pytest.raises(AssertionError):
            Page(**{name: value})


@pytest.mark.parametrize(("name", "value"), FITS)
def test_the_width_observer_lets_pass_what_fits(name, value):
    with watching(WidthObserver()):
        page = Page()
        setattr(page, name, value)
        assert getattr(page, name) == value


@pytest.mark.parametrize(("name", "value"), TOO_WIDE)
def test_nobody_watching_costs_nothing_and_checks_nothing(name, value):
    page = Page()
    setattr(page, name, value)
    assert type(page) is Page


def test_a_cell_is_shared():
    class Pointer(State):
        cell = ref("shared")

    cell = Cell(value=1)
    a, b = Pointer(cell=cell), Pointer(cell=cell)
    a.cell.value = 7
    assert b.cell.value == 7
