// Shares rows among threads, makes floats of them and hands these to the kernel of the type.
#include "tektra/encoder.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "float_state.h"
#include "half.h"

namespace tektra {
namespace {

size_t bytes_of(WeightType source) {
    switch (source) {
        case WeightType::F32:
            return 4;
        case WeightType::F16:
        case WeightType::BF16:
            return 2;
        default:
            throw std::invalid_argument("encoding begins with F32, F16 or BF16");
    }
}

void to_floats(WeightType source, const uint8_t* from, size_t n, float* to) {
    if (source == WeightType::F32) {
        std::memcpy(to, from, 4 * n);
        return;
    }
    for (size_t i = 0; i < n; ++i) {
        uint16_t bits;
        std::memcpy(&bits, from + 2 * i, 2);
        to[i] = source == WeightType::F16 ? half_to_float(bits) : bfloat_to_float(bits);
    }
}

}  // namespace

size_t Encoder::row_bytes(int32_t type, size_t width) const {
    if (type < 0 || static_cast<size_t>(type) >= kNumEncodeTypes) return 0;
    const EncodeKernel& kernel = kernels_.encode->of[type];
    if (kernel.block_width == 0 || width == 0 || width % kernel.block_width != 0) return 0;
    return width / kernel.block_width * kernel.block_bytes;
}

EncodeResult Encoder::run(int32_t type, WeightType source, const uint8_t* rows, size_t num_rows,
                          size_t width, const float* importance, uint8_t* out) {
    const size_t out_bytes = row_bytes(type, width);
    if (out_bytes == 0) {
        std::string message = "type ";
        message.append(std::to_string(type)).append(" has no encoder for rows of ");
        throw std::invalid_argument(message.append(std::to_string(width)).append(" elements"));
    }
    const EncodeKernel& kernel = kernels_.encode->of[type];
    const size_t row_size = width * bytes_of(source);
    // Enough elements to fill all lanes of a kernel several times, few enough to stay in a cache.
    constexpr size_t kElements = size_t{1} << 15;
    const size_t share = std::max<size_t>(1, kElements / width);
    const std::lock_guard lock(mutex_);
    std::vector<std::vector<float>> scratch(pool_.num_threads());
    std::atomic<EncodeResult> result{EncodeResult::kDone};
    pool_.run((num_rows + share - 1) / share, [&](size_t task, size_t thread) {
        if (result.load(std::memory_order_relaxed) != EncodeResult::kDone) return;
        const DefaultFloats floats;
        const size_t first = task * share;
        const size_t count = std::min(share, num_rows - first);
        std::vector<float>& x = scratch[thread];
        x.resize(share * width);
        to_floats(source, rows + first * row_size, count * width, x.data());
        const EncodeResult done =
            kernel.run(x.data(), importance, width, count * width / kernel.block_width,
                       out + first * out_bytes);
        if (done != EncodeResult::kDone) result.store(done, std::memory_order_relaxed);
    });
    return result.load();
}

}  // namespace tektra
