"""Byte layouts and numbers of the interfaces: pvclock page, ioctls, MSRs, CPUID. Standard library only."""
