from __future__ import annotations

import shutil
import stat
import subprocess

import pytest

from guestclock.lab import newc

ENTRIES = [
    newc.Entry("etc/name", b"odd"),
    newc.executable("init", b"#!/bin/sh\n"),
    newc.character_device("dev/console", 5, 1),
    newc.directory("proc"),
    newc.Entry("etc-name", b""),
]


def test_what_was_written_is_read_back_with_the_directories_it_needs():
    read = {entry.path: entry for entry in newc.read(newc.archive(ENTRIES))}
    assert {entry.path: read[entry.path] for entry in ENTRIES} == {entry.path: entry for entry in ENTRIES}
    assert set(read) - {entry.path for entry in ENTRIES} == {"etc", "dev"}
    assert all(stat.S_ISDIR(read[path].mode) for path in ("etc", "dev", "proc"))


def test_parents_come_before_children():
    paths = [entry.path for entry in newc.read(newc.archive(ENTRIES))]
    assert paths.index("etc") < paths.index("etc/name")


def test_the_order_of_entries_does_not_change_a_byte():
    assert newc.archive(ENTRIES) == newc.archive(reversed(ENTRIES))


def test_archives_may_be_concatenated():
    both = newc.archive(ENTRIES[:2]) + bytes(512) + newc.archive(ENTRIES[2:])
    assert {entry.path for entry in newc.read(both)} == {entry.path for entry in newc.read(newc.archive(ENTRIES))}


@pytest.mark.parametrize("path", ["/etc", "../etc", "etc/", "a//b", "./a", ""])
def test_paths_are_relative_and_short(path):
    with pytest.raises(ValueError, match="expected a relative path"):
        newc.Entry(path)


def test_one_path_twice_is_a_mistake():
    with pytest.raises(ValueError, match="twice"):
        newc.archive([newc.Entry("a"), newc.Entry("a")])


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio here")
def test_cpio_reads_it():
    listed = subprocess.run(["cpio", "-t", "--quiet"], input=newc.archive(ENTRIES), capture_output=True, check=True)
    assert listed.stdout.decode().split() == [entry.path for entry in newc.read(newc.archive(ENTRIES))]
