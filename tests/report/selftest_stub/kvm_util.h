/* Declarations of the KVM selftests' API (tools/testing/selftests/kvm/include, v6.12), as far as exported tests use it. */
#ifndef STUB_KVM_UTIL_H
#define STUB_KVM_UTIL_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#include "test_util.h"

typedef uint64_t vm_paddr_t;
typedef uint64_t vm_vaddr_t;

struct kvm_vm;
struct kvm_vcpu;

#define UCALL_MAX_ARGS 7

enum { UCALL_NONE, UCALL_SYNC, UCALL_ABORT, UCALL_PRINTF, UCALL_DONE, UCALL_UNHANDLED };

struct ucall {
	uint64_t cmd;
	uint64_t args[UCALL_MAX_ARGS];
};

void ucall(uint64_t cmd, int nargs, ...);
uint64_t get_ucall(struct kvm_vcpu *vcpu, struct ucall *uc);

#define GUEST_SYNC_ARGS(stage, arg1, arg2, arg3, arg4) ucall(UCALL_SYNC, 6, "hello", stage, arg1, arg2, arg3, arg4)

struct kvm_vm *vm_create_barebones(void);
struct kvm_vm *vm_create_with_vcpus(uint32_t nr_vcpus, void *guest_code, struct kvm_vcpu *vcpus[]);
void kvm_vm_free(struct kvm_vm *vm);
bool kvm_has_cap(long cap);

int __vm_ioctl(struct kvm_vm *vm, unsigned long cmd, void *arg);
void vm_ioctl(struct kvm_vm *vm, unsigned long cmd, void *arg);
int __vcpu_ioctl(struct kvm_vcpu *vcpu, unsigned long cmd, void *arg);
void vcpu_ioctl(struct kvm_vcpu *vcpu, unsigned long cmd, void *arg);
void vcpu_device_attr_get(struct kvm_vcpu *vcpu, uint32_t group, uint64_t attr, void *val);
void vcpu_device_attr_set(struct kvm_vcpu *vcpu, uint32_t group, uint64_t attr, void *val);

vm_vaddr_t vm_vaddr_alloc_page(struct kvm_vm *vm);
vm_paddr_t addr_gva2gpa(struct kvm_vm *vm, vm_vaddr_t gva);
void vcpu_args_set(struct kvm_vcpu *vcpu, unsigned int num, ...);
void vcpu_run(struct kvm_vcpu *vcpu);

#endif
