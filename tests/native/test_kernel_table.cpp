// Which instruction sets were built and which run here; they are printed. Sets that are named on
// the command line have to run here, or the test fails: emulators are asked that way.
#include <stdexcept>
#include <string>

#include "check.h"
#include "tektra/cpu_features.h"

using namespace tektra;

namespace {

bool refused(const char* isa) {
    try {
        kernel_table(isa);
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

}  // namespace

int main(int argc, char** argv) {
    const char* const* names;
    const size_t n = compiled_isas(&names);
    CHECK(n > 0 && std::string(names[0]) == "scalar", "scalar is not the first");
    std::string built, run_here, best;
    for (size_t i = 0; i < n; ++i) {
        built += std::string(" ") + names[i];
        if (!isa_runs_here(names[i])) {
            CHECK(refused(names[i]), "%s was given out, but does not run here", names[i]);
            continue;
        }
        run_here += std::string(" ") + names[i];
        best = names[i];
        const KernelTable& table = kernel_table(names[i]);
        CHECK(best == table.name, "asked for %s, got %s", names[i], table.name);
        for (const auto type : {WeightType::F32, WeightType::F16, WeightType::BF16,
                                WeightType::Q4_0, WeightType::Q8_0, WeightType::Q6_K}) {
            const LinearKernel& k = table.linear[static_cast<int>(type)];
            CHECK(k.lanes == table.linear[0].lanes && k.run != nullptr && k.pack != nullptr,
                  "%s: type %d is not like the others", names[i], static_cast<int>(type));
        }
    }
    CHECK(best == kernel_table("").name, "the choice is %s, not %s", kernel_table("").name,
          best.c_str());
    CHECK(refused("mmx"), "there are kernels for mmx");
    std::printf("kernels built:%s\nkernels run here:%s\n", built.c_str(), run_here.c_str());
    const CpuFeature* features;
    const size_t num_features = cpu_features(&features);
    for (size_t i = 0; i < num_features; ++i) {
        std::printf("%s%s", features[i].present ? " " : " no ", features[i].name);
    }
    std::printf("\n");
    for (int i = 1; i < argc; ++i) {
        CHECK(isa_runs_here(argv[i]), "%s was not built, or does not run here", argv[i]);
    }
    return failures == 0 ? 0 : 1;
}
