// Attention kernels against the formula in double precision; and what they promise: a query's bits
// depend neither on the other queries, nor on the blocks around those that it sees, nor on what
// lies at positions that it does not see.
#include <algorithm>
#include <bit>
#include <limits>

#include "../../native/core/half.h"
#include "../../native/core/kv_cache.h"
#include "check.h"

using namespace tektra;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// An element of a Hadamard matrix: -1 for an odd number of bits that both indices have.
double hadamard(size_t row, size_t column) {
    return std::popcount(row & column) % 2 != 0 ? -1.0 : 1.0;
}

// Keys and values of one kv head over a split, in the cache's blocks, and as what they stand for.
struct Context {
    const KernelTable& table;
    KvShape shape;
    std::vector<std::vector<uint8_t>> blocks;
    std::vector<double> keys, values;  // [position][dim], as read back

    Context(const KernelTable& table, KvType type, size_t head_dim, size_t value_dim,
            std::mt19937& random)
        : table(table),
          shape{type, 1, head_dim, value_dim, 0},
          keys(kSplit * head_dim),
          values(kSplit * value_dim) {
        auto k = normal(random, keys.size());
        const auto v = normal(random, values.size());
        // as real keys are: one element is far larger than the others
        for (size_t p = 0; p < kSplit; ++p) k[p * head_dim + head_dim / 2] += 10.0f;
        blocks.assign(kSplitBlocks, std::vector<uint8_t>(shape.head_bytes()));
        for (size_t p = 0; p < kSplit; ++p) {
            put(p, &k[p * head_dim], &v[p * value_dim]);
            if (type == KvType::kF16) read_floats<half_t>(p);
            if (type == KvType::kF32) read_floats<float>(p);
            if (type == KvType::kInt8) read_int8(p);
            check_rounding(p, &k[p * head_dim], &v[p * value_dim]);
        }
    }

    void put(size_t position, const float* key, const float* value) {
        write_kv(table.rows, shape, position % kKvBlock, key, value,
                 blocks[position / kKvBlock].data());
    }

  private:
    static float to_float(half_t h) { return half_to_float(h); }
    static float to_float(float f) { return f; }
    template <class Element>
    void read_floats(size_t p) {
        const uint8_t* block = blocks[p / kKvBlock].data();
        const auto* k = reinterpret_cast<const Element*>(block);
        const auto* v = reinterpret_cast<const Element*>(block + shape.key_bytes());
        const size_t place = p % kKvBlock;
        for (size_t d = 0; d < shape.head_dim; ++d) {
            keys[p * shape.head_dim + d] = to_float(k[d * kKvBlock + place]);
        }
        for (size_t d = 0; d < shape.value_dim; ++d) {
            values[p * shape.value_dim + d] = to_float(v[place * shape.value_dim + d]);
        }
    }
    void read_int8(size_t p) {
        const uint8_t* block = blocks[p / kKvBlock].data();
        const auto* k = reinterpret_cast<const int8_t*>(block);
        const auto* v = reinterpret_cast<const int8_t*>(block + shape.key_bytes());
        const size_t place = p % kKvBlock, head_dim = shape.head_dim;
        const size_t pairs = (head_dim + 1) / 2;
        const float key_scale = reinterpret_cast<const float*>(block + 2 * pairs * kKvBlock)[place];
        const float value_scale = reinterpret_cast<const float*>(block + shape.key_bytes() +
                                                                 kKvBlock * shape.value_dim)[place];
        // rotated back: a Hadamard matrix is its own inverse, times its size
        size_t n = 1;
        while (head_dim % (2 * n) == 0) n *= 2;
        for (size_t d = 0; d < head_dim; ++d) {
            double sum = 0.0;
            for (size_t e = 0; e < n; ++e) {
                const size_t from = d / n * n + e;
                const double code = k[(from / 2 * kKvBlock + place) * 2 + from % 2];
                sum += hadamard(d % n, e) * code;
            }
            keys[p * head_dim + d] = sum * key_scale / static_cast<double>(n);
        }
        for (size_t d = 0; d < shape.value_dim; ++d) {
            const double code = v[(place / 2 * shape.value_dim + d) * 2 + place % 2];
            values[p * shape.value_dim + d] = code * value_scale;
        }
    }
    // Half a step of the scale for each element, which rotating back cannot make larger.
    void check_rounding(size_t p, const float* key, const float* value) const {
        double largest = 0.0, error = 0.0, power = 0.0;
        for (size_t d = 0; d < shape.head_dim; ++d) {
            const double exact = key[d], off = keys[p * shape.head_dim + d] - exact;
            power += exact * exact;
            error += off * off;
        }
        double step = shape.type == KvType::kF16 ? 1.0 / 2048 : 0.5 / 127;
        if (shape.type == KvType::kF32) step = 0.0;
        // the largest rotated element is at most the length of the key times the root of its size
        const double length = std::sqrt(static_cast<double>(shape.head_dim));
        CHECK(std::sqrt(error / power) <= step * length, "a key is rounded by %g of its length",
              std::sqrt(error / power));
        for (const float x : std::vector<float>(value, value + shape.value_dim)) {
            if (std::fabs(x) > largest) largest = std::fabs(x);
        }
        for (size_t d = 0; d < shape.value_dim; ++d) {
            // below 2^-14 the steps of binary16 are 2^-24
            const double least = shape.type == KvType::kF16 ? std::ldexp(1.0, -25) : 0.0;
            CHECK(std::fabs(values[p * shape.value_dim + d] - value[d]) <=
                      std::fmax(1.0001 * step * largest, least),
                  "a value is rounded wrongly");
        }
    }
};

struct Result {
    std::vector<float> maximum, sum, values;
};

struct Query {
    const float* at;
    int first, last;

    int position() const { return (first + last) / 2; }  // with slopes
};

// Runs the kernel over the blocks [first_block, last_block) of the context.
Result attend(const Context& context, const std::vector<Query>& queries, float scale, float softcap,
              size_t first_block = 0, size_t last_block = kSplitBlocks, float slope = 0.0f) {
    const KvShape& shape = context.shape;
    const size_t n = queries.size();
    std::vector<const float*> at;
    std::vector<float> made(n * int8_query_floats(shape.head_dim));
    std::vector<int32_t> first, last, position;
    const std::vector<float> slopes(n, slope);
    const int start = static_cast<int>(first_block * kKvBlock);
    for (const Query& q : queries) {
        if (shape.type == KvType::kInt8) {
            float* to = &made[at.size() * int8_query_floats(shape.head_dim)];
            quantize_query(q.at, shape.head_dim, to);
            at.push_back(to);
        } else {
            at.push_back(q.at);
        }
        first.push_back(q.first < q.last ? q.first - start : 0);
        last.push_back(q.first < q.last ? q.last - start : 0);
        position.push_back(q.position() - start);
    }
    std::vector<const uint8_t*> keys, values;
    for (size_t b = first_block; b < last_block; ++b) {
        keys.push_back(context.blocks[b].data());
        values.push_back(keys.back() + shape.key_bytes());
    }
    // what the state and the scratch hold before must not matter
    Result result{std::vector<float>(n, kNan), std::vector<float>(n, kNan),
                  std::vector<float>(n * shape.value_dim, kNan)};
    std::vector<float> scratch(attention_scratch(n, shape.head_dim, shape.value_dim) + 16, kNan);
    const size_t skip = (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
    context.table.attend[static_cast<size_t>(shape.type)](
        {.queries = at.data(),
         .num_queries = n,
         .keys = keys.data(),
         .values = values.data(),
         .num_blocks = keys.size(),
         .next = keys.data(),
         .num_next = keys.size() > 1 ? kFetchAhead : 0,
         .head_dim = shape.head_dim,
         .value_dim = shape.value_dim,
         .first = first.data(),
         .last = last.data(),
         .scale = scale,
         .softcap = softcap,
         .slopes = slope == 0.0f ? nullptr : slopes.data(),
         .at = position.data(),
         .maximum = result.maximum.data(),
         .sum = result.sum.data(),
         .values_sum = result.values.data(),
         .scratch = scratch.data() + skip / sizeof(float)});
    return result;
}

std::vector<double> formula(const Context& context, const Query& q, double scale, double softcap,
                            double slope) {
    const size_t head_dim = context.shape.head_dim, value_dim = context.shape.value_dim;
    std::vector<double> expected(value_dim);
    double total = 0.0;
    for (int p = q.first; p < q.last; ++p) {
        double score = 0.0;
        for (size_t d = 0; d < head_dim; ++d) score += q.at[d] * context.keys[p * head_dim + d];
        score *= scale;
        if (softcap != 0.0) score = softcap * std::tanh(score / softcap);
        score -= slope * std::abs(p - q.position());
        const double weight = std::exp(score);
        total += weight;
        for (size_t d = 0; d < value_dim; ++d) {
            expected[d] += weight * context.values[p * value_dim + d];
        }
    }
    for (double& value : expected) value /= total;
    return expected;
}

// Queries that see all, a part, one position, nothing; enough for tiles of every size.
std::vector<Query> some_queries(const std::vector<float>& q, size_t head_dim, size_t n) {
    const int ranges[][2] = {{0, 256}, {0, 256}, {0, 255}, {5, 170}, {40, 41}, {0, 64},
                             {33, 95}, {7, 7},   {31, 33}, {64, 96}, {0, 1},   {200, 256}};
    std::vector<Query> queries;
    for (size_t i = 0; i < n; ++i) {
        const auto& range = ranges[i % std::size(ranges)];
        queries.push_back({&q[i * head_dim], range[0], range[1]});
    }
    return queries;
}

void test_formula(const KernelTable& table, KvType type, size_t head_dim, size_t value_dim,
                  float softcap, float slope, std::mt19937& random) {
    const Context context(table, type, head_dim, value_dim, random);
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    for (const size_t n : {1, 2, 5, 12, 29}) {
        const auto q = normal(random, n * head_dim);
        const auto queries = some_queries(q, head_dim, n);
        const Result result = attend(context, queries, scale, softcap, 0, kSplitBlocks, slope);
        for (size_t i = 0; i < n; ++i) {
            const float* values = &result.values[i * value_dim];
            if (queries[i].first >= queries[i].last) {
                CHECK(result.sum[i] == 0.0f && std::isinf(result.maximum[i]),
                      "%s: something out of nothing", table.name);
                CHECK(std::all_of(values, values + value_dim, [](float v) { return v == 0.0f; }),
                      "%s: values out of nothing", table.name);
                continue;
            }
            const auto expected = formula(context, queries[i], scale, softcap, slope);
            std::vector<float> got(value_dim);
            for (size_t d = 0; d < value_dim; ++d) got[d] = values[d] / result.sum[i];
            const double error = distance(got.data(), expected.data(), value_dim, 1.0);
            // A weight of an int8 cache is rounded by 0.29 units of 1 / 32767 (root mean square):
            // 5e-5 over a block of 32 whose largest weight outweighs all others, and five times
            // that for the worst of so many results. The rounding of queries is less.
            CHECK(error < (type == KvType::kInt8 ? 2.5e-4 : 3e-6),
                  "%s: head %zu, value %zu, cap %g, slope %g, query %zu of %zu: off by %g",
                  table.name, head_dim, value_dim, softcap, slope, i, n, error);
        }
    }
}

bool same(const Result& a, size_t i, const Result& b, size_t j, size_t value_dim) {
    return std::memcmp(&a.maximum[i], &b.maximum[j], sizeof(float)) == 0 &&
           std::memcmp(&a.sum[i], &b.sum[j], sizeof(float)) == 0 &&
           std::memcmp(&a.values[i * value_dim], &b.values[j * value_dim],
                       value_dim * sizeof(float)) == 0;
}

void test_bits(const KernelTable& table, KvType type, size_t head_dim, size_t value_dim,
               std::mt19937& random) {
    constexpr size_t n = 29;
    Context context(table, type, head_dim, value_dim, random);
    const auto q = normal(random, n * head_dim);
    const auto queries = some_queries(q, head_dim, n);
    const Result all = attend(context, queries, 0.2f, 0.0f);
    const Result sloped = attend(context, queries, 0.2f, 0.0f, 0, kSplitBlocks, 0.1f);
    const std::vector<float> no_key(head_dim, kNan), no_value(value_dim, kNan);
    for (size_t i = 0; i < n; ++i) {
        const Query& query = queries[i];
        if (query.first >= query.last) continue;
        const Result alone = attend(context, {query}, 0.2f, 0.0f);
        CHECK(same(all, i, alone, 0, value_dim), "%s: query %zu has other bits alone", table.name,
              i);
        const size_t begin = query.first / kKvBlock;
        const size_t end = (query.last + kKvBlock - 1) / kKvBlock;
        const Result few = attend(context, {query}, 0.2f, 0.0f, begin, end);
        CHECK(same(all, i, few, 0, value_dim), "%s: query %zu has other bits in its own blocks",
              table.name, i);
        const Result near = attend(context, {query}, 0.2f, 0.0f, begin, end, 0.1f);
        CHECK(same(sloped, i, near, 0, value_dim), "%s: query %zu has other bits with a slope",
              table.name, i);
    }
    // the first half of the queries sees 100 positions and the others more, which are NaN
    for (size_t p = 100; p < kSplit; ++p) context.put(p, no_key.data(), no_value.data());
    std::vector<Query> halves;
    for (size_t i = 0; i < n; ++i) {
        halves.push_back({&q[i * head_dim], 0, i % 2 == 0 ? 100 : 100 + static_cast<int>(i)});
    }
    const Result mixed = attend(context, halves, 0.2f, 0.0f);
    for (size_t i = 0; i < n; i += 2) {
        const Result alone = attend(context, {halves[i]}, 0.2f, 0.0f, 0, 4);
        CHECK(same(mixed, i, alone, 0, value_dim) && std::isfinite(alone.values[0]),
              "%s: query %zu finds what it does not see", table.name, i);
    }
}

// From 0 down past the end of what a float can hold; a weight that is hidden is exactly zero.
void test_far_scores(const KernelTable& table, KvType type) {
    std::mt19937 random(3);
    Context context(table, type, 1, 1, random);
    for (size_t p = 0; p < kSplit; ++p) {
        const float key = -static_cast<float>(p), value = 1.0f;
        context.put(p, &key, &value);
    }
    const float q = 1.0f;
    const Result result = attend(context, {{&q, 0, 256}}, 1.0f, 0.0f);
    CHECK(std::fabs(result.sum[0] - 1.0f / (1.0f - std::exp(-1.0f))) < 1e-6f,
          "%s: the sum of a geometric series is %g", table.name, result.sum[0]);
    CHECK(result.maximum[0] == 0.0f, "%s: maximum %g", table.name, result.maximum[0]);
}

}  // namespace

int main() {
    std::mt19937 random(1);
    for (const KernelTable* table : tables()) {
        for (const KvType type : {KvType::kF16, KvType::kInt8, KvType::kF32}) {
            for (const size_t head_dim : {1, 18, 32, 80, 128}) {
                for (const size_t value_dim : {1, 9, 64, 72, 256}) {
                    test_formula(*table, type, head_dim, value_dim, 0.0f, 0.0f, random);
                    test_formula(*table, type, head_dim, value_dim, 20.0f, 0.0f, random);
                    test_formula(*table, type, head_dim, value_dim, 0.0f, 0.0625f, random);
                }
            }
            test_bits(*table, type, 64, 64, random);
            test_bits(*table, type, 80, 72, random);
            test_bits(*table, type, 33, 9, random);
            test_far_scores(*table, type);
        }
    }
    return failures == 0 ? 0 : 1;
}
