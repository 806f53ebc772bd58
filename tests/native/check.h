// The few lines that the native tests share: a failing check says where, and main returns non-zero.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "tektra/kernel_table.h"

inline int failures = 0;

#define CHECK(condition, ...)                                    \
    do {                                                         \
        if (!(condition)) {                                      \
            ++failures;                                          \
            std::fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
            std::fprintf(stderr, __VA_ARGS__);                   \
            std::fprintf(stderr, "\n");                          \
        }                                                        \
    } while (false)

// Kernel tables of every instruction set that was compiled and that this machine runs, or of the
// one that TEKTRA_ISA names.
inline std::vector<const tektra::KernelTable*> tables() {
    const char* const* names;
    const size_t n = tektra::compiled_isas(&names);
    std::vector<const tektra::KernelTable*> found;
    const char* only = std::getenv("TEKTRA_ISA");
    if (only != nullptr && *only != '\0') return {&tektra::kernel_table(only)};
    for (size_t i = 0; i < n; ++i) {
        if (tektra::isa_runs_here(names[i])) found.push_back(&tektra::kernel_table(names[i]));
    }
    return found;
}

inline std::vector<float> normal(std::mt19937& random, size_t n, float deviation = 1.0f) {
    std::normal_distribution<float> draw(0.0f, deviation);
    std::vector<float> values(n);
    for (float& value : values) value = draw(random);
    return values;
}

// Largest difference as a share of the largest expected value, or of `scale` where that is larger:
// the size of what was added up, where the result is a sum that may cancel.
inline double distance(const float* got, const double* expected, size_t n, double scale = 1e-30) {
    double largest = scale, difference = 0.0;
    for (size_t i = 0; i < n; ++i) {
        largest = std::fmax(largest, std::fabs(expected[i]));
        const double d = std::fabs(got[i] - expected[i]);
        difference = d > difference || std::isnan(d) ? d : difference;
    }
    return difference / largest;
}
