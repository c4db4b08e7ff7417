/* tools/arch/x86/include/asm/pvclock-abi.h, as far as exported tests use it. */
#ifndef STUB_PVCLOCK_ABI_H
#define STUB_PVCLOCK_ABI_H

#include <stdint.h>

struct pvclock_vcpu_time_info {
	uint32_t version;
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
} __attribute__((__packed__));

#endif
