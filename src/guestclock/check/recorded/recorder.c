/*
 * Records a machine's clocks for "guestclock trace check": every reading between two reads of the counter, a thread
 * per CPU, CSV on stdout.
 *
 *   cc -O2 -pthread recorder.c -o recorder          (-static for a guest without a C library)
 *   ./recorder SECONDS INTERVAL_MS [TSC_KHZ] > trace.csv
 *
 * TSC_KHZ: what the guest's log says ("tsc: Refined TSC clocksource calibration: 2596.122 MHz", or "Detected ... MHz
 * processor" where nothing was refined). Without it x86's rates are not judged. Where user space reads no counter
 * (neither x86-64 nor arm64), CLOCK_MONOTONIC_RAW stands for it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS_KEPT 64

static const struct { clockid_t id; const char *name; } clocks[] = {
	{ CLOCK_MONOTONIC, "MONOTONIC" }, { CLOCK_BOOTTIME, "BOOTTIME" }, { CLOCK_REALTIME, "REALTIME" },
	{ CLOCK_TAI, "TAI" }, { CLOCK_MONOTONIC_RAW, "MONOTONIC_RAW" }, { CLOCK_MONOTONIC, "MONOTONIC" },
};
#define CLOCKS (sizeof(clocks) / sizeof(*clocks))

struct reading { uint64_t before, after; struct timespec shown; };

static struct timespec until;
static long interval_ns;
static pthread_mutex_t out = PTHREAD_MUTEX_INITIALIZER;

#if defined(__x86_64__)
static uint64_t counter(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}
#elif defined(__aarch64__)
static uint64_t counter(void)
{
	uint64_t now;

	__asm__ volatile("isb; mrs %0, cntvct_el0; isb" : "=r"(now) : : "memory");
	return now;
}
#else
static uint64_t counter(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}
#endif

static void put(int cpu, unsigned long round, const struct reading *kept)
{
	for (unsigned i = 0; i < CLOCKS; i++)
		printf("%d,%lu,%llu,%llu,%s,%lld,%s\n", cpu, round * CLOCKS + i, (unsigned long long)kept[i].before,
		       (unsigned long long)kept[i].after, clocks[i].name,
		       (long long)kept[i].shown.tv_sec * 1000000000ll + kept[i].shown.tv_nsec,
		       round & 1 ? "syscall" : "vdso");
}

/* Every second round by the system call, the others by the vDSO. */
static void take(struct reading *kept, unsigned long round)
{
	for (unsigned i = 0; i < CLOCKS; i++) {
		kept[i].before = counter();
		if (round & 1)
			syscall(SYS_clock_gettime, clocks[i].id, &kept[i].shown);
		else
			clock_gettime(clocks[i].id, &kept[i].shown);
		kept[i].after = counter();
	}
}

static int over(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec > until.tv_sec || (now.tv_sec == until.tv_sec && now.tv_nsec >= until.tv_nsec);
}

static void *record(void *argument)
{
	int cpu = (int)(intptr_t)argument;
	static __thread struct reading kept[ROUNDS_KEPT][CLOCKS];
	struct timespec pause = { interval_ns / 1000000000, interval_ns % 1000000000 };
	unsigned long round = 0;
	cpu_set_t only;
	int last = 0;

	CPU_ZERO(&only);
	CPU_SET(cpu, &only);
	if (pthread_setaffinity_np(pthread_self(), sizeof(only), &only))
		return NULL;
	while (!last) {
		unsigned count = 0;

		while (count < ROUNDS_KEPT && !(last = over())) {
			take(kept[count], round + count);
			count++;
			nanosleep(&pause, NULL);
		}
		pthread_mutex_lock(&out);
		for (unsigned i = 0; i < count; i++)
			put(cpu, round + i, kept[i]);
		pthread_mutex_unlock(&out);
		round += count;
	}
	return NULL;
}

/* NTP's frequency in ppm, if nobody disciplines the clock now: nothing is left to slew, and no PLL is on. */
static int undisciplined(double *ppm)
{
	struct timex now = { .modes = 0 };

	if (adjtimex(&now) < 0)
		return 0;
	*ppm = now.freq / 65536.0;
	return now.status & STA_UNSYNC && !(now.status & (STA_PLL | STA_FLL | STA_PPSFREQ)) && now.offset == 0 &&
	       now.tick == 1000000 / 100;
}

static void header(const char *khz, int free_running, double ppm)
{
	char name[32] = "";
	FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "r");
	int common;

	if (file) {
		if (!fgets(name, sizeof(name), file))
			name[0] = 0;
		fclose(file);
		name[strcspn(name, "\n")] = 0;
	}
	common = !strcmp(name, "tsc") || !strcmp(name, "arch_sys_counter");
	printf("# clocksource: %s\n", name[0] ? name : "unknown");
#if defined(__x86_64__)
	if (khz)
		printf("# tsc_khz: %s\n", khz);
#elif defined(__aarch64__)
	{
		uint64_t hz;

		(void)khz;
		__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(hz));
		printf("# counter_hz: %llu\n", (unsigned long long)hz);
	}
#else
	(void)khz;
	printf("# counter_hz: 1000000000\n");
	common = 1;
#endif
	/* The kernel takes a counter for its clock only if all CPUs' are one. */
	if (common)
		printf("# counters: common\n");
	if (free_running)
		printf("# freq_ppm: %.6f\n", ppm);
	printf("vcpu,seq,c0,c1,clock,value,path\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 0, interval_ms = argc > 2 ? atof(argv[2]) : 0, before = 0, after = 0;
	int free_running = undisciplined(&before);
	pthread_t threads[CPU_SETSIZE];
	cpu_set_t allowed;
	int count = 0;

	if (seconds <= 0 || interval_ms <= 0 || seconds > 1e8 || interval_ms > 1e7) {
		fprintf(stderr, "usage: recorder SECONDS INTERVAL_MS [TSC_KHZ]\n");
		return 2;
	}
	interval_ns = (long)(interval_ms * 1e6);
	header(argc > 3 ? argv[3] : NULL, free_running, before);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)seconds;
	until.tv_nsec += (long)((seconds - (time_t)seconds) * 1e9);
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	if (sched_getaffinity(0, sizeof(allowed), &allowed)) {
		perror("recorder: sched_getaffinity");
		return 1;
	}
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) &&
		    !pthread_create(&threads[count], NULL, record, (void *)(intptr_t)cpu))
			count++;
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	if (fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "recorder: writing: %s\n", strerror(errno));
		return 1;
	}
	if (free_running && (!undisciplined(&after) || after != before)) {
		fprintf(stderr, "recorder: NTP changed the clock's rate meanwhile: take the line freq_ppm out\n");
		return 3;
	}
	return 0;
}
