/* Declarations of the KVM selftests' test_util.h, as far as exported tests use it. */
#ifndef STUB_TEST_UTIL_H
#define STUB_TEST_UTIL_H

#include <stdbool.h>

void test_assert(bool exp, const char *exp_str, const char *file, unsigned int line, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
void ksft_exit_skip(const char *msg, ...);

#define TEST_ASSERT(e, fmt, ...) test_assert((e), #e, __FILE__, __LINE__, fmt, ##__VA_ARGS__)
#define TEST_REQUIRE(f)						\
	do {							\
		if (!(f))					\
			ksft_exit_skip("Requirement not met: %s\n", #f); \
	} while (0)

#endif
