/* tools/arch/x86/include/asm/pvclock.h, as far as exported tests use it. */
#ifndef STUB_PVCLOCK_H
#define STUB_PVCLOCK_H

#include <asm/pvclock-abi.h>

uint64_t __pvclock_read_cycles(const struct pvclock_vcpu_time_info *src, uint64_t tsc);

#endif
