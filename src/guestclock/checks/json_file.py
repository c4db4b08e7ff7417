"""JSON documents on disk, with one line for whatever keeps them from being read or written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guestclock.errors import UserError


def read(path: Path) -> Any:
    """Raises UserError where there is no such file, or no JSON in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: damaged, not JSON: {error}") from None


def write(document: Any, path: Path) -> None:
    """Makes the directories on the way. Raises UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
