"""Scenarios on machines: the model, this host's KVM, kernels in the lab.

traces = run(load("threads/2023-masterclock"), on=["model", "lab:6.1"], kernels=["linux-6.7", "linux-6.8"])
"""

from guestclock.runs.on import On, parse_on
from guestclock.runs.run import DEFAULT_KERNELS, run

__all__ = ["DEFAULT_KERNELS", "On", "parse_on", "run"]
