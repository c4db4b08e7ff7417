"""Scenarios: stories about a guest's clocks as TOML, checked to the last key before anything runs.

    scenario = load("threads/2023-masterclock")
    for values, program in scenario.programs(): ...

A module `catalogue` holds the built-in ones: the mailing-list threads, and bugs that were found since.
"""

from guestclock.scenario.catalogue import names
from guestclock.scenario.scenario import Scenario, Variation, load, parse

__all__ = ["Scenario", "Variation", "load", "names", "parse"]
