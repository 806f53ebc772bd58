// What the processor and the operating system together let a program use.
#pragma once

#include <cstddef>

namespace tektra {

struct CpuFeature {
    const char* name;
    bool present;
};

// All features that are looked at on this architecture.
size_t cpu_features(const CpuFeature** features);

bool cpu_has_avx2();        // AVX2, FMA and F16C, as the avx2 kernels are compiled with
bool cpu_has_avxvnni();     // that, and AVX-VNNI
bool cpu_has_avx512();      // AVX2's, and AVX-512 F, BW and VL
bool cpu_has_avx512vnni();  // that, and AVX-512 VNNI
bool cpu_has_neondot();     // the dot-product instructions of Arm
bool cpu_has_neoni8mm();    // that, and its int8 matrix products

}  // namespace tektra
