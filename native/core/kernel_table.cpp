// Chooses the kernels for this machine: the best set that was compiled and that it can run.
#include "tektra/kernel_table.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

#include "tektra/cpu_features.h"

namespace tektra {
namespace {

struct InstructionSet {
    const char* name;
    bool (*runs_here)();
    // Fills a table; a set builds on the ones before it.
    void (*fill)(KernelTable& table);
};

bool always() {
    return true;
}

// Worst first. A new set is one line here, one line in CMake, and a folder.
const InstructionSet kSets[] = {
    {"scalar", always, scalar::fill},
#if TEKTRA_HAVE_AVX2
    {"avx2", cpu_has_avx2, avx2::fill},
#endif
#if TEKTRA_HAVE_AVXVNNI && TEKTRA_HAVE_AVX2
    {"avxvnni", cpu_has_avxvnni, avxvnni::fill},
#endif
#if TEKTRA_HAVE_AVX512 && TEKTRA_HAVE_AVX2
    {"avx512", cpu_has_avx512, avx512::fill},
#endif
#if TEKTRA_HAVE_AVX512VNNI && TEKTRA_HAVE_AVX512 && TEKTRA_HAVE_AVX2
    {"avx512vnni", cpu_has_avx512vnni, avx512vnni::fill},
#endif
#if TEKTRA_HAVE_NEON
    {"neon", always, neon::fill},
#endif
#if TEKTRA_HAVE_NEONDOT && TEKTRA_HAVE_NEON
    {"neondot", cpu_has_neondot, neondot::fill},
#endif
#if TEKTRA_HAVE_NEONI8MM && TEKTRA_HAVE_NEONDOT && TEKTRA_HAVE_NEON
    {"neoni8mm", cpu_has_neoni8mm, neoni8mm::fill},
#endif
};
constexpr size_t kNumSets = sizeof kSets / sizeof kSets[0];

}  // namespace

size_t compiled_isas(const char* const** names) {
    static const auto list = [] {
        std::array<const char*, kNumSets> all{};
        for (size_t i = 0; i < kNumSets; ++i) all[i] = kSets[i].name;
        return all;
    }();
    *names = list.data();
    return list.size();
}

bool isa_runs_here(const char* name) {
    for (const InstructionSet& set : kSets) {
        if (std::strcmp(set.name, name) == 0) return set.runs_here();
    }
    return false;
}

const KernelTable& kernel_table(const char* isa) {
    // one table a set, filled on first use and constant from then on
    static std::array<KernelTable, kNumSets> tables{};
    static std::array<std::once_flag, kNumSets> filled;
    const bool forced = isa != nullptr && *isa != '\0';
    size_t chosen = kNumSets;
    for (size_t i = 0; i < kNumSets; ++i) {
        if (forced ? std::strcmp(kSets[i].name, isa) == 0 : kSets[i].runs_here()) chosen = i;
    }
    if (chosen == kNumSets) {
        throw std::invalid_argument("there are no kernels for the instruction set '" +
                                    std::string(isa) + "' in this build");
    }
    if (!kSets[chosen].runs_here()) {
        throw std::invalid_argument("this processor does not have the instruction set '" +
                                    std::string(isa) + "'");
    }
    std::call_once(filled[chosen], [&] {
        for (size_t i = 0; i <= chosen; ++i) {
            if (kSets[i].runs_here()) kSets[i].fill(tables[chosen]);
        }
    });
    return tables[chosen];
}

std::string packed_layout(const KernelTable& table) {
    // FNV-1a over what a reader of packed matrices depends on
    uint64_t digest = 0xcbf29ce484222325u;
    auto add = [&](uint64_t value) { digest = (digest ^ value) * 0x100000001b3u; };
    size_t lanes = 0;
    for (size_t type = 0; type < kMaxWeightType; ++type) {
        const LinearKernel& kernel = table.linear[type];
        if (kernel.lanes == 0) continue;
        for (const size_t value : {type, kernel.lanes, kernel.block_width, kernel.block_bytes}) {
            add(value);
        }
        lanes = std::max(lanes, kernel.lanes);
    }
    constexpr char kDigits[] = "0123456789abcdef";
    std::string hex;
    for (int shift = 60; shift >= 0; shift -= 4) hex += kDigits[digest >> shift & 15];
    std::string name = "v";
    name.append(std::to_string(kPackedVersion)).append("-rows").append(std::to_string(lanes));
    return name.append("-").append(hex);
}

}  // namespace tektra
