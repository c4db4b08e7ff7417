from __future__ import annotations

import errno
import subprocess
import sys

from guestclock.lab.tools import no_room, workplace


def test_a_workplace_is_gone_at_the_end_but_for_what_was_moved_out(tmp_path):
    with workplace(tmp_path) as place:
        (place / "one").touch()
        (place / "two").touch()
        (place / "one").rename(tmp_path / "one")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_uses_is_not(tmp_path):
    code = (
        "import pathlib, sys\n"
        "from guestclock.lab.tools import workplace\n"
        "with workplace(pathlib.Path(sys.argv[1])) as place:\n"
        "    (place / 'half').touch()\n"
        "    print(place, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = other.stdout.readline().strip()
        with workplace(tmp_path) as ours:
            assert sorted(tmp_path.iterdir()) == sorted([ours, tmp_path / theirs])
        other.kill()
    with workplace(tmp_path) as ours:
        assert list(tmp_path.iterdir()) == [ours]


def test_a_full_place_is_told_with_what_to_do(tmp_path):
    full = no_room(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    told = f"lab: {tmp_path}: No space left on device: make room, or name another place by $GUESTCLOCK_LAB_CACHE"
    assert str(full) == told
    refused = no_room(OSError(errno.EACCES, "Permission denied", "/there/ram"), tmp_path)
    assert str(refused) == "lab: /there/ram: Permission denied ($GUESTCLOCK_LAB_CACHE names another place)"
