/* Declarations of the KVM selftests' x86 processor.h, as far as exported tests use it. */
#ifndef STUB_PROCESSOR_H
#define STUB_PROCESSOR_H

#include <stdint.h>

#include "kvm_util.h"

#define MSR_IA32_TSC 0x10
#define MSR_IA32_TSC_ADJUST 0x3b
#define MSR_IA32_TSC_DEADLINE 0x6e0
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01

uint64_t vcpu_get_msr(struct kvm_vcpu *vcpu, uint64_t msr_index);
void vcpu_set_msr(struct kvm_vcpu *vcpu, uint64_t msr_index, uint64_t msr_value);
uint64_t rdtsc(void);
void wrmsr(uint32_t msr, uint64_t value);

#endif
