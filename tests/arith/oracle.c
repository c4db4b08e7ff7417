/*
 * The kernel's arithmetic on time once more, in C: unsigned __int128 for the wide products, C's own types for every
 * wrap and truncation. Written from the formulas, to be compared with guestclock.arith.kernel.
 *
 * Each function works through n calls: columns of arguments in, one column (or two) of results out.
 */
#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef int64_t s64;
typedef uint32_t u32;
typedef int32_t s32;
typedef unsigned __int128 u128;

#define EACH for (size_t i = 0; i < n; i++)

static u64 mul_shr(u64 a, u64 b, unsigned shift) { return (u64)(((u128)a * b) >> shift); }

static u64 smul_shr(s64 a, u64 b, unsigned shift)
{
	u64 magnitude = a < 0 ? 0 - (u64)a : (u64)a;
	u64 product = mul_shr(magnitude, b, shift);

	return a < 0 ? 0 - product : product;
}

static u64 scale(u64 delta, u32 mul, int shift)
{
	if (shift < 0)
		delta >>= -shift;
	else
		delta <<= shift;
	return (u64)(((u128)delta * mul) >> 32);
}

void c_mul_u64_u64_shr(size_t n, const u64 *a, const u64 *b, const s64 *shift, u64 *out)
{
	EACH out[i] = mul_shr(a[i], b[i], (unsigned)shift[i]);
}

void c_mul_s64_u64_shr(size_t n, const u64 *a, const u64 *b, const s64 *shift, u64 *out)
{
	EACH out[i] = smul_shr((s64)a[i], b[i], (unsigned)shift[i]);
}

void c_div_s64(size_t n, const u64 *dividend, const u64 *divisor, u64 *out)
{
	EACH out[i] = (u64)((s64)dividend[i] / (s64)(u32)divisor[i]);
}

void c_words(size_t n, const u64 *x, u64 *as_s64, u64 *as_u32, u64 *as_s32)
{
	EACH {
		as_s64[i] = (u64)(s64)x[i];
		as_u32[i] = (u32)x[i];
		as_s32[i] = (u64)(s64)(s32)(u32)x[i];
	}
}

void c_pvclock_scale_delta(size_t n, const u64 *delta, const u64 *mul, const s64 *shift, u64 *out)
{
	EACH out[i] = scale(delta[i], (u32)mul[i], (int)shift[i]);
}

/* Shift 127 stands for a loop that was still going after 10 000 rounds. */
void c_kvm_get_time_scale(size_t n, const u64 *scaled_hz, const u64 *base_hz, s64 *shift_out, u64 *mul_out)
{
	EACH {
		u64 scaled = scaled_hz[i], base = base_hz[i];
		int shift = 0, rounds = 0;
		u32 base32;

		while ((base > scaled * 2 || base & 0xffffffff00000000ull) && rounds++ < 10000) {
			base >>= 1;
			shift--;
		}
		base32 = (u32)base;
		while ((base32 <= scaled || scaled & 0xffffffff00000000ull) && rounds++ < 10000) {
			if (scaled & 0xffffffff00000000ull || base32 & 0x80000000u)
				scaled >>= 1;
			else
				base32 <<= 1;
			shift++;
		}
		if (rounds >= 10000) {
			shift_out[i] = 127;
			mul_out[i] = 0;
			continue;
		}
		shift_out[i] = (signed char)shift;
		mul_out[i] = (u32)((scaled << 32) / base32);
	}
}

/* A quotient that needs more than 64 bits is divq's fault; it is reported as all ones. */
void c_tsc_ratio(size_t n, const u64 *guest_khz, const u64 *host_khz, const s64 *frac_bits, u64 *out)
{
	EACH {
		u128 quotient = (((u128)1 << frac_bits[i]) * (u32)guest_khz[i]) / (u32)host_khz[i];

		out[i] = quotient >> 64 ? ~0ull : (u64)quotient;
	}
}

void c_scale_tsc(size_t n, const u64 *tsc, const u64 *ratio, const s64 *frac_bits, u64 *out)
{
	EACH out[i] = ratio[i] == 1ull << frac_bits[i] ? tsc[i] : mul_shr(tsc[i], ratio[i], (unsigned)frac_bits[i]);
}

void c_nested_tsc_offset(size_t n, const u64 *l1, const u64 *l2, const u64 *ratio, const s64 *frac_bits, u64 *out)
{
	EACH {
		u64 o = l1[i];

		if (ratio[i] != 1ull << frac_bits[i])
			o = smul_shr((s64)l1[i], ratio[i], (unsigned)frac_bits[i]);
		out[i] = o + l2[i];
	}
}

void c_nested_tsc_ratio(size_t n, const u64 *l1, const u64 *l2, const s64 *frac_bits, u64 *out)
{
	EACH out[i] = l2[i] == 1ull << frac_bits[i] ? l1[i] : mul_shr(l1[i], l2[i], (unsigned)frac_bits[i]);
}

void c_tsc_khz_tolerance(size_t n, const u64 *khz, const u64 *ppm, u64 *lo, u64 *hi)
{
	EACH {
		/* the sums are int and wrap: the kernel is built with -fno-strict-overflow */
		s32 slow = (s32)(1000000u - (u32)ppm[i]), fast = (s32)(1000000u + (u32)ppm[i]);

		lo[i] = (u32)((u64)(u32)khz[i] * (u64)(s64)slow / 1000000);
		hi[i] = (u32)((u64)(u32)khz[i] * (u64)(s64)fast / 1000000);
	}
}

void c_pvclock_tsc_khz(size_t n, const u64 *mul, const s64 *shift, u64 *out)
{
	EACH {
		u64 khz = (1000000ull << 32) / (u32)mul[i];

		out[i] = shift[i] < 0 ? khz << -shift[i] : khz >> shift[i];
	}
}

void c_clocksource_update_freq_scale(size_t n, const u64 *freq, const u64 *scale, u64 *mult_out, s64 *shift_out)
{
	EACH {
		u32 from = (u32)freq[i], to = 1000000000u / (u32)scale[i], maxsec = 600 * (u32)scale[i];
		u64 tmp = ((u64)maxsec * from) >> 32;
		u32 sft, sftacc = 32, mult, maxadj;

		while (tmp) {
			tmp >>= 1;
			sftacc--;
		}
		for (sft = 32; sft > 0; sft--) {
			tmp = (u64)to << sft;
			tmp += from / 2;
			tmp /= from;
			if ((tmp >> sftacc) == 0)
				break;
		}
		mult = (u32)tmp;
		maxadj = (u32)((u64)mult * 11 / 100);
		while (mult + maxadj < mult || mult - maxadj > mult) {
			mult >>= 1;
			sft--;
			maxadj = (u32)((u64)mult * 11 / 100);
		}
		mult_out[i] = mult;
		shift_out[i] = sft;
	}
}

void c_clocksource_cyc2ns(size_t n, const u64 *cycles, const u64 *mult, const s64 *shift, u64 *out)
{
	EACH out[i] = (cycles[i] * (u32)mult[i]) >> shift[i];
}

void c_cyclecounter_cyc2ns(size_t n, const u64 *cycles, const u64 *mult, const s64 *shift, const u64 *frac,
			   u64 *ns, u64 *left)
{
	EACH {
		u64 shifted = cycles[i] * (u32)mult[i] + frac[i];

		left[i] = shifted & ((1ULL << shift[i]) - 1);
		ns[i] = shifted >> shift[i];
	}
}

void c_raw_ns(size_t n, const u64 *cycles, const u64 *mult, const s64 *shift, const u64 *base, u64 *out)
{
	EACH out[i] = (u64)(((u128)cycles[i] * (u32)mult[i] + base[i]) >> shift[i]);
}

/* 1 in refused where KVM marks the page broken; the scale is then 0. */
void c_hv_tsc_scale(size_t n, const u64 *mul, const s64 *shift, u64 *out, u64 *refused)
{
	EACH {
		u64 max_mul = 100ull << (32 - shift[i]);

		refused[i] = (u32)mul[i] >= max_mul;
		out[i] = refused[i] ? 0 : (u64)((u128)(1ull << (32 + shift[i])) * (u32)mul[i] / 100);
	}
}

void c_hv_tsc_offset(size_t n, const u64 *system_time, const u64 *tsc_timestamp, const u64 *scale_, u64 *out)
{
	EACH out[i] = system_time[i] / 100 - mul_shr(tsc_timestamp[i], scale_[i], 64);
}

void c_hv_ref_time(size_t n, const u64 *tsc, const u64 *scale_, const u64 *offset, u64 *out)
{
	EACH out[i] = mul_shr(tsc[i], scale_[i], 64) + offset[i];
}
