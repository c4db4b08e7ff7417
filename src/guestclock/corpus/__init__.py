"""Bugs that others found in guests' clocks, each as what was done wrong, what mended it, and what is to be expected.

An entry is one TOML file in `entries`; the sequences that bug threads are about are recipes in `recipes`.
`guestclock.checks.corpus` runs them: nothing here knows what comes of it.
"""

from guestclock.corpus.entry import Case, Entry, Open, entries, load

__all__ = ["Case", "Entry", "Open", "entries", "load"]
