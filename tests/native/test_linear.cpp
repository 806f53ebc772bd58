// Packing and linear kernels of every weight type and instruction set, against float64 sums over
// the unpacked weights; and that neither the batch nor the cut into groups changes a bit.
#include "check.h"

#include "tektra/memory.h"

using namespace tektra;

namespace {

struct Case {
    WeightType type;
    const char* name;
};
constexpr Case kTypes[] = {
    {WeightType::F32, "F32"},         {WeightType::F16, "F16"},
    {WeightType::BF16, "BF16"},       {WeightType::Q4_0, "Q4_0"},
    {WeightType::Q4_1, "Q4_1"},       {WeightType::Q5_0, "Q5_0"},
    {WeightType::Q5_1, "Q5_1"},       {WeightType::Q8_0, "Q8_0"},
    {WeightType::Q2_K, "Q2_K"},       {WeightType::Q3_K, "Q3_K"},
    {WeightType::Q4_K, "Q4_K"},       {WeightType::Q5_K, "Q5_K"},
    {WeightType::Q6_K, "Q6_K"},       {WeightType::IQ2_XXS, "IQ2_XXS"},
    {WeightType::IQ2_XS, "IQ2_XS"},   {WeightType::IQ2_S, "IQ2_S"},
    {WeightType::IQ3_XXS, "IQ3_XXS"}, {WeightType::IQ3_S, "IQ3_S"},
    {WeightType::IQ1_S, "IQ1_S"},     {WeightType::IQ1_M, "IQ1_M"},
    {WeightType::IQ4_NL, "IQ4_NL"},   {WeightType::IQ4_XS, "IQ4_XS"},
    {WeightType::TQ1_0, "TQ1_0"},     {WeightType::TQ2_0, "TQ2_0"},
    {WeightType::MXFP4, "MXFP4"},     {WeightType::NVFP4, "NVFP4"},
    {WeightType::Q1_0, "Q1_0"},       {WeightType::Q2_0, "Q2_0"},
};

// binary16 of 2^-7 .. 2^-4 with random low bits and sign: scales that neither vanish nor overflow
uint16_t random_scale(std::mt19937& random) {
    return static_cast<uint16_t>((8 + random() % 4) << 10 | (random() & 0x3ff) |
                                 (random() & 1) << 15);
}

// Rows of the file with random integers and sane scales.
std::vector<uint8_t> random_rows(WeightType type, size_t rows, size_t width, const LinearKernel& k,
                                 std::mt19937& random) {
    const size_t bytes = rows * width / k.block_width * k.source_bytes;
    std::vector<uint8_t> data(bytes);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
    auto scales = [&](std::initializer_list<size_t> offsets) {
        for (size_t at = 0; at < bytes; at += k.source_bytes) {
            for (const size_t offset : offsets) {
                const uint16_t scale = random_scale(random);
                std::memcpy(&data[at + offset], &scale, sizeof scale);
            }
        }
    };
    switch (type) {
        case WeightType::F32: {
            const auto values = normal(random, rows * width);
            std::memcpy(data.data(), values.data(), bytes);
            break;
        }
        case WeightType::BF16:
            for (size_t at = 0; at < bytes; at += 2) {
                data[at + 1] = static_cast<uint8_t>(0x3c | (random() & 0x83));
            }
            break;
        case WeightType::F16:
        case WeightType::Q4_0:
        case WeightType::Q5_0:
        case WeightType::Q8_0:
        case WeightType::IQ2_XXS:
        case WeightType::IQ2_XS:
        case WeightType::IQ2_S:
        case WeightType::IQ3_XXS:
        case WeightType::IQ3_S:
        case WeightType::IQ1_S:
        case WeightType::IQ4_NL:
        case WeightType::IQ4_XS:
        case WeightType::Q1_0:
        case WeightType::Q2_0:
            scales({0});
            break;
        case WeightType::Q4_1:
        case WeightType::Q5_1:
        case WeightType::Q4_K:
        case WeightType::Q5_K:
            scales({0, 2});
            break;
        case WeightType::Q2_K:
            scales({offsetof(BlockQ2_K, d), offsetof(BlockQ2_K, dmin)});
            break;
        case WeightType::Q3_K:
            scales({offsetof(BlockQ3_K, d)});
            break;
        case WeightType::Q6_K:
            scales({offsetof(BlockQ6_K, d)});
            break;
        case WeightType::TQ1_0:
            scales({offsetof(BlockTQ1_0, d)});
            break;
        case WeightType::TQ2_0:
            scales({offsetof(BlockTQ2_0, d)});
            break;
        case WeightType::IQ1_M:
            for (size_t at = offsetof(BlockIQ1_M, scales); at < bytes; at += k.source_bytes) {
                const uint16_t scale = random_scale(random);
                for (size_t i = 0; i < 4; ++i) {
                    uint8_t& high = data[at + 2 * i + 1];
                    high = static_cast<uint8_t>((high & 15) | (scale >> 4 * i & 15) << 4);
                }
            }
            break;
        case WeightType::MXFP4:
            for (size_t at = 0; at < bytes; at += k.source_bytes) {
                data[at] = static_cast<uint8_t>(120 + random() % 6);
            }
            break;
        case WeightType::NVFP4:  // any scale is finite
            break;
    }
    return data;
}

// Element e of a quantized row.
double dequantized(const uint8_t* row, size_t width, size_t e) {
    ActivationBlock block;
    std::memcpy(&block, row + e / 32 * sizeof block, sizeof block);
    float d;
    std::memcpy(&d, row + width / 32 * sizeof block, sizeof d);
    return static_cast<double>(d) * block.factor[e / 16 % 2] * block.q[e % 32];
}

void test(const KernelTable& table, const Case& c, size_t rows, size_t width, size_t num_x) {
    std::mt19937 random(static_cast<unsigned>(rows * 31 + width * 7 + num_x));
    const LinearKernel& k = table.linear[static_cast<int>(c.type)];
    CHECK(k.lanes != 0, "%s has no %s", table.name, c.name);
    const size_t row_bytes = width / k.block_width * k.source_bytes;
    const auto source = random_rows(c.type, rows, width, k, random);
    const size_t groups = (rows + k.lanes - 1) / k.lanes, group_bytes = k.group_bytes(width);
    std::vector<uint8_t> packed(groups * group_bytes + 64);
    for (size_t g = 0; g < groups; ++g) {
        k.pack(source.data() + g * k.lanes * row_bytes, std::min(k.lanes, rows - g * k.lanes),
               row_bytes, width, packed.data() + g * group_bytes);
    }
    std::vector<float> weights(rows * width);
    for (size_t r = 0; r < rows; ++r) {
        k.unpack_row(packed.data() + r / k.lanes * group_bytes, r % k.lanes, width,
                     &weights[r * width]);
    }

    // activations, as the kernel wants them and as what they stand for
    const auto values = normal(random, num_x * width, 3.0f);
    const size_t stride = k.quantized_input ? quantized_row_bytes(width) : width * sizeof(float);
    const Memory memory(num_x * stride);  // quantized rows are aligned
    uint8_t* x = memory.data();
    std::vector<double> meant(num_x * width);
    for (size_t i = 0; i < num_x; ++i) {
        uint8_t* row = x + i * stride;
        if (!k.quantized_input) {
            std::memcpy(row, &values[i * width], stride);
            for (size_t e = 0; e < width; ++e) meant[i * width + e] = values[i * width + e];
            continue;
        }
        table.rows.quantize(&values[i * width], width, row);
        for (size_t e = 0; e < width; ++e) meant[i * width + e] = dequantized(row, width, e);
    }

    const auto bias = normal(random, rows), addend = normal(random, num_x * rows);
    std::vector<double> expected(num_x * rows);
    for (size_t i = 0; i < num_x; ++i) {
        for (size_t r = 0; r < rows; ++r) {
            double sum = static_cast<double>(bias[r]) + addend[i * rows + r];
            for (size_t e = 0; e < width; ++e) {
                sum += meant[i * width + e] * weights[r * width + e];
            }
            expected[i * rows + r] = sum;
        }
    }

    constexpr float kCanary = 12345.0f;
    std::vector<float> out(num_x * rows + 8, kCanary);
    LinearTask task{.weights = packed.data(),
                    .group_begin = 0,
                    .group_end = groups,
                    .width = width,
                    .out_width = rows,
                    .x = x,
                    .x_stride = stride,
                    .terms = 1,
                    .num_rows = num_x,
                    .out = out.data(),
                    .out_stride = rows,
                    .bias = bias.data(),
                    .addend = addend.data(),
                    .addend_stride = rows};
    k.run(task);
    const double error = distance(out.data(), expected.data(), expected.size());
    CHECK(error < 3e-6, "%s %s %zu x %zu, %zu rows: off by %g", table.name, c.name, rows, width,
          num_x, error);
    for (size_t i = 0; i < 8; ++i) {
        CHECK(out[num_x * rows + i] == kCanary, "%s %s wrote past its rows", table.name, c.name);
    }

    std::vector<float> single(num_x * rows);
    for (size_t i = 0; i < num_x; ++i) {
        for (size_t g = 0; g < groups; ++g) {
            LinearTask one = task;
            one.x = x + i * stride;
            one.num_rows = 1;
            one.group_begin = g;
            one.group_end = g + 1;
            one.out = &single[i * rows];
            one.addend = &addend[i * rows];
            k.run(one);
        }
    }
    CHECK(std::memcmp(single.data(), out.data(), single.size() * sizeof(float)) == 0,
          "%s %s %zu x %zu: a row alone differs from the same row among %zu", table.name, c.name,
          rows, width, num_x);

    // pairs of rows as terms of one; a single output may be what two large terms leave over
    if (!k.quantized_input || num_x % 2 != 0 || rows < 8) return;
    LinearTask pairs = task;
    pairs.x_stride = 2 * stride;
    pairs.terms = 2;
    pairs.num_rows = num_x / 2;
    pairs.bias = nullptr;
    pairs.addend = nullptr;
    std::vector<float> summed(num_x / 2 * rows);
    pairs.out = summed.data();
    k.run(pairs);
    std::vector<double> sums(summed.size());
    for (size_t i = 0; i < sums.size(); ++i) {
        const size_t row = i / rows, column = i % rows;
        for (const size_t r : {2 * row, 2 * row + 1}) {
            sums[i] += expected[r * rows + column] - bias[column] - addend[r * rows + column];
        }
    }
    const double apart = distance(summed.data(), sums.data(), sums.size());
    CHECK(apart < 3e-6, "%s %s %zu x %zu, %zu pairs of terms: off by %g", table.name, c.name, rows,
          width, num_x / 2, apart);
}

}  // namespace

int main() {
    for (const KernelTable* table : tables()) {
        for (const Case& c : kTypes) {
            const size_t block = table->linear[static_cast<int>(c.type)].block_width;
            for (const size_t width :
                 {block, 3 * block, block == 256 ? 1024 : 576 / block * block}) {
                for (const size_t rows : {1, 8, 13, 64}) {
                    for (const size_t num_x : {1, 2, 3, 4, 7, 40})
                        test(*table, c, rows, width, num_x);
                }
            }
        }
    }
    return failures == 0 ? 0 : 1;
}
