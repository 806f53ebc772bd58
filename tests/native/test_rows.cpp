// Row kernels of every instruction set, against float64 formulas.
#include <limits>

#include "../../native/core/half.h"
#include "check.h"

#include "tektra/memory.h"

using namespace tektra;

namespace {

constexpr size_t kSizes[] = {1, 7, 8, 9, 33, 64, 576, 1001};

double function(double x, int kind) {
    switch (kind) {
        case kSilu:
            return x / (1.0 + std::exp(-x));
        case kGelu:
            return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
        case kGeluTanh:
            return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
        case kRelu:
            return x > 0.0 ? x : 0.0;
        case kSigmoid:
            return 1.0 / (1.0 + std::exp(-x));
        default:
            return std::tanh(x);
    }
}

void check(const KernelTable& table, const char* what, const std::vector<float>& got,
           const std::vector<double>& expected, double tolerance, double scale = 1e-30) {
    const double error = distance(got.data(), expected.data(), expected.size(), scale);
    CHECK(error < tolerance, "%s %s, %zu wide: off by %g", table.name, what, expected.size(),
          error);
}

void test_elementwise(const KernelTable& table, std::mt19937& random) {
    const RowKernels& k = table.rows;
    for (const size_t n : kSizes) {
        const auto a = normal(random, n, 4.0f), b = normal(random, n);
        std::vector<float> out(n);
        std::vector<double> expected(n);
        for (int kind = 0; kind < kNumActivations; ++kind) {
            for (size_t i = 0; i < n; ++i) expected[i] = function(a[i], kind);
            k.activate(a.data(), n, kind, out.data());
            check(table, "activate", out, expected, 2e-6);
            for (size_t i = 0; i < n; ++i) expected[i] *= b[i];
            k.gated(a.data(), b.data(), n, kind, out.data());
            check(table, "gated", out, expected, 2e-6);
        }
        for (size_t i = 0; i < n; ++i) expected[i] = 30.0 * std::tanh(a[i] / 30.0);
        k.softcap(a.data(), n, 30.0f, out.data());
        check(table, "softcap", out, expected, 1e-6);

        double squares = 0.0, mean = 0.0, variance = 0.0;
        for (const float v : a) squares += static_cast<double>(v) * v, mean += v;
        mean /= static_cast<double>(n);
        for (const float v : a) variance += (v - mean) * (v - mean);
        for (size_t i = 0; i < n; ++i) {
            expected[i] = a[i] / std::sqrt(squares / static_cast<double>(n) + 1e-5) * b[i];
        }
        k.rms_norm(a.data(), b.data(), n, 1e-5f, out.data());
        check(table, "rms_norm", out, expected, 2e-6);
        const auto c = normal(random, n);
        for (size_t i = 0; i < n; ++i) {
            expected[i] =
                (a[i] - mean) / std::sqrt(variance / static_cast<double>(n) + 1e-5) * b[i];
            expected[i] += c[i];
        }
        k.layer_norm(a.data(), b.data(), c.data(), n, 1e-5f, out.data());
        check(table, "layer_norm", out, expected, 1e-5);
    }
}

void test_quantize(const KernelTable& table, std::mt19937& random) {
    constexpr size_t n = 288;
    auto x = normal(random, n, 5.0f);
    for (size_t i = 32; i < 64; ++i) x[i] = 0.0f;  // a block of zeros
    const Memory memory(quantized_row_bytes(n));
    const uint8_t* out = memory.data();
    for (const float outlier : {0.0f, 300.0f, 1e30f}) {
        x[70] = outlier;
        table.rows.quantize(x.data(), n, memory.data());
        float d;
        std::memcpy(&d, out + n / 32 * sizeof(ActivationBlock), sizeof d);
        for (size_t b = 0; b < n / 32; ++b) {
            ActivationBlock a;
            std::memcpy(&a, out + b * sizeof a, sizeof a);
            float total = 0.0f;
            for (size_t h = 0; h < 2; ++h) {
                const float* from = &x[32 * b + 16 * h];
                const int8_t* q = a.q + 16 * h;
                const float scale = d * a.scale[h];
                float largest = 0.0f, sum = 0.0f;
                for (size_t e = 0; e < 16; ++e) {
                    CHECK(q[e] >= -127, "%s: -128 would overflow the products", table.name);
                    CHECK(std::fabs(scale * static_cast<float>(q[e]) - from[e]) <= 0.5001f * scale,
                          "%s: element %zu of half %zu is rounded wrongly", table.name, e, h);
                    largest = std::fmax(largest, std::fabs(from[e]));
                    sum += a.scale[h] * static_cast<float>(q[e]);
                }
                // no coarser than needed: one step of the factor more than the largest asks for
                CHECK(127.0f * scale <= largest + 127.001f * d, "%s: half %zu is coarse",
                      table.name, h);
                CHECK(a.factor[h] == static_cast<int16_t>(a.scale[h]) &&
                          a.twice[h][0] == a.factor[h] && a.twice[h][1] == a.factor[h] &&
                          a.factor[h] <= kMaxFactor && a.centre[h] == -32.0f * sum,
                      "%s: half %zu does not fit together", table.name, h);
                total += sum;
            }
            CHECK(a.total == total, "%s: the total of block %zu is wrong", table.name, b);
        }
    }
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        x[33] = bad;
        table.rows.quantize(x.data(), n, memory.data());
        float d;
        std::memcpy(&d, out + n / 32 * sizeof(ActivationBlock), sizeof d);
        CHECK(!std::isfinite(d), "%s: %g was quantized to something", table.name, bad);
    }
}

void test_halves(const KernelTable& table) {
    for (uint32_t bits = 0; bits < 0x10000; bits += 1) {
        const float value = half_to_float(static_cast<half_t>(bits));
        if (std::isnan(value)) continue;
        half_t back;
        table.rows.to_half(&value, 1, &back);
        CHECK(back == bits, "%s: half %04x came back as %04x", table.name, bits, back);
        // between two neighbours, rounding goes to the nearer and to even
        const float next = half_to_float(static_cast<half_t>(bits + 1));
        if ((bits & 0x7fff) >= 0x7bff || std::isinf(next)) continue;
        const float middle = value + (next - value) / 2.0f;
        table.rows.to_half(&middle, 1, &back);
        CHECK(back == (bits % 2 == 0 ? bits : bits + 1), "%s: tie after %04x", table.name, bits);
    }
}

}  // namespace

int main() {
    std::mt19937 random(1);
    for (const KernelTable* table : tables()) {
        test_elementwise(*table, random);
        test_quantize(*table, random);
        test_halves(*table);
    }
    return failures == 0 ? 0 : 1;
}
