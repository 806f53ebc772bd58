#include "tektra/cpu_features.h"

#include <cstdint>
#include <cstring>

#if defined(_MSC_VER) && defined(_M_X64)
#include <intrin.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace tektra {
namespace {

#if defined(__x86_64__) || defined(_M_X64)

struct Registers {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
    Registers r;
#if defined(_MSC_VER)
    int values[4];
    __cpuidex(values, static_cast<int>(leaf), static_cast<int>(subleaf));
    std::memcpy(&r, values, sizeof values);
#else
    if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
#endif
    return r;
}

// Which register sets the operating system saves: bits 1, 2 for AVX, 5..7 for AVX-512.
uint64_t saved_state() {
    if ((cpuid(1, 0).ecx >> 27 & 1) == 0) return 0;
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<uint64_t>(high) << 32 | low;
#endif
}

struct Features {
    CpuFeature list[9];

    Features() {
        const Registers one = cpuid(1, 0), seven = cpuid(7, 0), seven1 = cpuid(7, 1);
        const uint64_t state = saved_state();
        const bool avx = (state & 0x6) == 0x6;
        const bool avx512 = avx && (state & 0xe0) == 0xe0;
        auto bit = [](uint32_t word, int n) { return (word >> n & 1) != 0; };
        const CpuFeature all[] = {
            {"avx", avx && bit(one.ecx, 28)},
            {"f16c", avx && bit(one.ecx, 29)},
            {"fma", avx && bit(one.ecx, 12)},
            {"avx2", avx && bit(seven.ebx, 5)},
            {"avx_vnni", avx && bit(seven1.eax, 4)},
            {"avx512f", avx512 && bit(seven.ebx, 16)},
            {"avx512bw", avx512 && bit(seven.ebx, 30)},
            {"avx512vl", avx512 && bit(seven.ebx, 31)},
            {"avx512_vnni", avx512 && bit(seven.ecx, 11)},
        };
        static_assert(sizeof all == sizeof list);
        std::memcpy(list, all, sizeof all);
    }
};

#elif defined(__aarch64__)

bool has([[maybe_unused]] const char* apple, [[maybe_unused]] int linux_bit,
         [[maybe_unused]] bool second) {
#if defined(__APPLE__)
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(apple, &value, &size, nullptr, 0) == 0 && value != 0;
#elif defined(__linux__)
    return (getauxval(second ? AT_HWCAP2 : AT_HWCAP) >> linux_bit & 1) != 0;
#else
    return false;
#endif
}

struct Features {
    CpuFeature list[3] = {
        {"neon", true},  // part of every 64-bit Arm
        {"dotprod", has("hw.optional.arm.FEAT_DotProd", 20, false)},
        {"i8mm", has("hw.optional.arm.FEAT_I8MM", 13, true)},
    };
};

#else

struct Features {
    CpuFeature list[1] = {{"unknown architecture", false}};
};

#endif

const Features& features() {
    static const Features found;
    return found;
}

[[maybe_unused]] bool has_feature(const char* name) {
    for (const CpuFeature& feature : features().list) {
        if (std::strcmp(feature.name, name) == 0) return feature.present;
    }
    return false;
}

}  // namespace

size_t cpu_features(const CpuFeature** out) {
    *out = features().list;
    return sizeof features().list / sizeof features().list[0];
}

bool cpu_has_avx2() {
    return has_feature("avx2") && has_feature("fma") && has_feature("f16c");
}

bool cpu_has_avxvnni() {
    return cpu_has_avx2() && has_feature("avx_vnni");
}

bool cpu_has_avx512() {
    return cpu_has_avx2() && has_feature("avx512f") && has_feature("avx512bw") &&
           has_feature("avx512vl");
}

bool cpu_has_avx512vnni() {
    return cpu_has_avx512() && has_feature("avx512_vnni");
}

bool cpu_has_neondot() {
    return has_feature("dotprod");
}

bool cpu_has_neoni8mm() {
    return cpu_has_neondot() && has_feature("i8mm");
}

}  // namespace tektra
