"""What will the guest's clocks show?

The floors, lowest first: arith, abi, sim, linux, machine, kvm, vmm, guest, scenario, check, lab, inspect, report, cli.
A lower floor imports nothing of a higher one (tests/test_floors.py).
"""

__version__ = "0.1.0"
