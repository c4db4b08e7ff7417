"""Comparing x86 kernels with the model: TSCs, pages, KVM_GET_CLOCK, KVM's four clock tracepoints."""
