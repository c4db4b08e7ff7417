"""Comparing arm64 kernels with the model: both counters of every vCPU, timers' registers, KVM's timer tracepoints."""
