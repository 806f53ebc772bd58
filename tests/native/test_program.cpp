// A program as a whole, a two-layer toy model: the same bits with any number of threads, in any
// chunks and however attention is cut; steps that are wrong and threads that come second are
// refused.
#include "tektra/program.h"

#include <atomic>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "check.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

using namespace tektra;

namespace {

constexpr size_t kVocabulary = 61, kWidth = 64, kFfn = 96, kHeads = 4, kKvHeads = 2, kHead = 16;
constexpr size_t kKv = kKvHeads * kHead;
constexpr size_t kRows = 80, kOutputs = 8, kBlocks = 72;

// The model; its buffers lie one after the other.
class Toy {
  public:
    Program program;
    int32_t result = -1;

    Toy(const KernelTable& table, size_t threads, float scale = 0.2f)
        : program(table, {threads, kRows, kOutputs, kBlocks}) {
        std::mt19937 random(5);
        auto matrix = [&](size_t rows, size_t width, float deviation) {
            const auto values = normal(random, rows * width, deviation);
            const int32_t id = program.add_matrix(WeightType::F32, rows, width);
            program.pack_matrix(id, reinterpret_cast<const uint8_t*>(values.data()),
                                values.size() * sizeof(float));
            return id;
        };
        const std::vector<float> ones(kWidth, 1.0f);
        const int32_t norm = program.add_vector(ones.data(), ones.size());
        std::vector<double> rates(kHead / 2);
        for (size_t i = 0; i < rates.size(); ++i) rates[i] = 1.0 / static_cast<double>(i + 1);
        const int32_t rope = program.add_frequencies(rates.data(), rates.size(), 1.0);

        int32_t x = buffer(kWidth);
        const int32_t table_rows = buffer(kHead);
        op(OpCode::kEmbed, {}, {x}, {matrix(kVocabulary, kWidth, scale)}, {0});
        op(OpCode::kRopeTable, {}, {table_rows}, {rope});
        for (int64_t layer = 0; layer < 2; ++layer) {
            program.add_cache(kKvHeads, kHead, kHead);
            const int32_t y = buffer(kWidth), q = buffer(kWidth), k = buffer(kKv);
            const int32_t v = buffer(kKv), attended = buffer(kWidth), gate = buffer(kFfn);
            const int32_t up = buffer(kFfn);
            op(OpCode::kRmsNorm, {x}, {y}, {norm}, {kWidth}, {1e-5f});
            op(OpCode::kLinear, {y}, {q, k, v},
               {matrix(kWidth, kWidth, scale), matrix(kKv, kWidth, scale),
                matrix(kKv, kWidth, scale), -1, -1, -1},
               {0, 1});
            op(OpCode::kRope, {q, table_rows}, {q}, {}, {kHead, kHead, 1});
            op(OpCode::kRope, {k, table_rows}, {k}, {}, {kHead, kHead, 1});
            op(OpCode::kAttention, {q, k, v}, {attended}, {-1},
               {layer, kHeads, kKvHeads, kHead, kHead, 0, 1, 0, 0}, {0.25f, 0.0f});
            op(OpCode::kLinear, {attended, x}, {x}, {matrix(kWidth, kWidth, scale), -1}, {1, 1});
            op(OpCode::kLinear, {x}, {gate, up},
               {matrix(kFfn, kWidth, scale), matrix(kFfn, kWidth, scale), -1, -1}, {0, 1});
            op(OpCode::kGated, {gate, up}, {gate}, {}, {kSilu});
            op(OpCode::kLinear, {gate, x}, {x}, {matrix(kWidth, kFfn, scale), -1}, {1, 1});
        }
        const int32_t last = buffer(kWidth, Rows::kOutputs);
        result = buffer(kVocabulary, Rows::kOutputs);
        op(OpCode::kSelect, {x}, {last});
        op(OpCode::kLinear, {last}, {result}, {matrix(kVocabulary, kWidth, scale), -1}, {0, 1});
        program.finish(arena_);
    }

    std::vector<float> row(size_t index) const {
        const Program::Result r = program.result(result);
        return {r.rows + index * r.stride, r.rows + index * r.stride + r.width};
    }

  private:
    int32_t buffer(size_t width, Rows rows = Rows::kTokens) {
        const size_t stride = (width * sizeof(float) + 63) / 64 * 64;
        const size_t offset = arena_;
        arena_ += stride * (rows == Rows::kTokens ? kRows : kOutputs);
        return program.add_buffer(offset, stride, width, rows);
    }
    void op(OpCode code, std::vector<int32_t> in, std::vector<int32_t> out,
            std::vector<int32_t> weights = {}, std::vector<int64_t> ints = {},
            std::vector<float> floats = {}) {
        program.add_op({code, std::move(in), std::move(out), std::move(weights), std::move(ints),
                        std::move(floats)});
    }

    size_t arena_ = 0;
};

// A step of some sequences, made piece by piece.
struct Steps {
    size_t table_width = kBlocks;
    std::vector<int32_t> tokens, positions, starts{0}, cached, tables, outputs;

    // `rows` tokens of a text behind `before` cached ones; its blocks lie from `first_block` on
    Steps& add(size_t before, size_t rows, size_t first_block, int32_t text = 0) {
        for (size_t i = before; i < before + rows; ++i) {
            tokens.push_back(static_cast<int32_t>((i * i * 7 + i * 3 + text) % kVocabulary));
            positions.push_back(static_cast<int32_t>(i));
        }
        starts.push_back(static_cast<int32_t>(tokens.size()));
        cached.push_back(static_cast<int32_t>(before));
        const size_t used = (before + rows + kKvBlock - 1) / kKvBlock;
        for (size_t b = 0; b < table_width; ++b) {
            tables.push_back(b < used ? static_cast<int32_t>(first_block + b) : -1);
        }
        outputs.push_back(static_cast<int32_t>(tokens.size()) - 1);
        return *this;
    }

    StepView view() const {
        return {.num_rows = tokens.size(),
                .num_sequences = cached.size(),
                .num_outputs = outputs.size(),
                .table_width = table_width,
                .token_ids = tokens.data(),
                .positions = positions.data(),
                .row_starts = starts.data(),
                .num_cached = cached.data(),
                .block_tables = tables.data(),
                .output_rows = outputs.data(),
                .segments = nullptr};
    }

    void run(Program& program) const { program.run(view(), program.num_ops()); }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    for (const float x : a) {
        if (!std::isfinite(x)) return false;
    }
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Logits after `length` tokens, fed in chunks.
std::vector<float> read_text(Toy& toy, size_t length, size_t chunk, size_t first_block = 0) {
    for (size_t at = 0; at < length; at += chunk) {
        Steps().add(at, std::min(chunk, length - at), first_block).run(toy.program);
    }
    return toy.row(0);
}

// Contexts of one, two and three splits of attention; one row a step runs them in parallel.
void test_same_bits(const KernelTable& table) {
    for (const size_t length : {33, 600, 1100}) {
        Toy one(table, 1);
        const std::vector<float> expected = read_text(one, length, kRows);
        for (const size_t threads : {1, 3}) {
            for (const size_t chunk : {size_t{1}, size_t{7}, size_t{64}, kRows}) {
                if (chunk < 64 && length > 600) continue;
                Toy toy(table, threads);
                CHECK(same_bits(read_text(toy, length, chunk, 3), expected),
                      "%s, %zu tokens, %zu threads, chunks of %zu: other bits", table.name, length,
                      threads, chunk);
            }
        }
        // the last token again, alone: its splits run side by side
        for (const size_t threads : {1, 2, 3}) {
            Toy toy(table, threads);
            read_text(toy, length, kRows);
            Steps().add(length - 1, 1, 0).run(toy.program);
            CHECK(same_bits(toy.row(0), expected), "%s, %zu tokens, %zu threads, last one alone",
                  table.name, length, threads);
        }
    }
}

void test_among_others(const KernelTable& table) {
    Toy alone(table, 1), together(table, 3);
    const std::vector<float> expected = read_text(alone, 40, kRows);
    Steps().add(0, 30, 0).run(together.program);
    Steps().add(0, 17, 10, 5).add(0, 5, 20, 6).run(together.program);
    Steps().add(17, 20, 10, 5).add(30, 10, 0).add(5, 1, 20, 6).run(together.program);
    CHECK(same_bits(together.row(1), expected), "%s: other bits in a batch", table.name);
}

template <class Change>
void check_refused(Toy& toy, const char* what, Change change) {
    Steps step;
    step.add(40, 3, 0).add(0, 2, 5);
    change(step);
    bool refused = false;
    try {
        step.run(toy.program);
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    CHECK(refused, "a step was not refused: %s", what);
}

void test_refusals(const KernelTable& table) {
    constexpr int32_t kLargest = std::numeric_limits<int32_t>::max();
    Toy toy(table, 3);
    const std::vector<float> expected = read_text(toy, 50, kRows);
    check_refused(toy, "token", [](Steps& s) { s.tokens[4] = kVocabulary; });
    check_refused(toy, "negative token", [](Steps& s) { s.tokens[0] = -1; });
    check_refused(toy, "position", [](Steps& s) { s.positions[1] = -5; });
    check_refused(toy, "start", [](Steps& s) { s.starts[0] = 1; });
    check_refused(toy, "negative start", [](Steps& s) { s.starts[1] = -1; });
    check_refused(toy, "start past the end", [](Steps& s) { s.starts[1] = kLargest; });
    check_refused(toy, "end", [](Steps& s) { s.starts[2] = kLargest; });
    check_refused(toy, "empty sequence", [](Steps& s) { s.starts[1] = 0; });
    check_refused(toy, "negative cached", [](Steps& s) { s.cached[1] = -1; });
    check_refused(toy, "cached", [](Steps& s) { s.cached[0] = kLargest; });
    check_refused(toy, "block", [](Steps& s) { s.tables[1] = kBlocks; });
    check_refused(toy, "negative block", [](Steps& s) { s.tables[0] = -1; });
    check_refused(toy, "output", [](Steps& s) { s.outputs[0] = 5; });
    check_refused(toy, "negative output", [](Steps& s) { s.outputs[1] = -1; });
    check_refused(toy, "outputs", [](Steps& s) { s.outputs.assign(kOutputs + 1, 0); });
    check_refused(toy, "no rows", [](Steps& s) { s = Steps(); });
    check_refused(toy, "rows", [](Steps& s) { s.add(0, kRows, 10); });
    check_refused(toy, "two write", [](Steps& s) { s.tables[s.table_width] = 1; });
    check_refused(toy, "one writes, one reads", [](Steps& s) { s.tables[s.table_width] = 0; });
    check_refused(toy, "written and read", [](Steps& s) { s.tables[0] = s.tables[1]; });
    // repeated blocks make a context longer than the cache, and than the memory for its splits
    check_refused(toy, "longer than the cache", [](Steps& s) {
        s = Steps();
        s.table_width = 100000;
        s.add(s.table_width * kKvBlock - 1, 1, 0);
        std::fill(s.tables.begin(), s.tables.end() - 1, 0);
        s.tables.back() = 1;
    });
    CHECK(same_bits(read_text(toy, 50, kRows), expected), "%s: refusals left a trace", table.name);
}

void test_building_ends(const KernelTable& table) {
    Toy toy(table, 2);
    int refused = 0;
    auto check = [&](auto function) {
        try {
            function();
        } catch (const std::invalid_argument&) {
            ++refused;
        }
    };
    const float value = 0.0f;
    const double rate = 1.0;
    check([&] { toy.program.add_matrix(WeightType::F32, 1, 1); });
    check([&] { toy.program.pack_matrix(0, nullptr, kVocabulary * kWidth * sizeof(float)); });
    check([&] { toy.program.add_vector(&value, 1); });
    check([&] { toy.program.add_frequencies(&rate, 1, 1.0); });
    check([&] { toy.program.add_cache(1, 1, 1); });
    check([&] { toy.program.add_buffer(size_t{1} << 40, 64, 16, Rows::kOutputs); });
    check([&] { toy.program.add_op({OpCode::kSelect, {0}, {toy.result}, {}, {}, {}}); });
    check([&] { toy.program.finish(0); });
    check([&] {
        toy.program.release();
        Steps().add(0, 1, 0).run(toy.program);
    });
    CHECK(toy.program.weight_bytes() == 0 && toy.program.cache_bytes() == 0, "not released");
    CHECK(toy.row(0).size() == kVocabulary, "results stay");
    check([&] { toy.program.result(0); });  // rows of tokens
    check([&] { toy.program.result(-1); });
    check([&] { toy.program.result(1000); });
    check([&] { Program(table, {0, 1, 1, 1}); });
    check([&] { Program(table, {1, 1, 1, size_t{1} << 32}); });
    CHECK(refused == 14, "%d of 14 were refused", refused);

    bool no_memory = false;
    try {
        Program program(table, {1, 1, 1, size_t{1} << 20});
        program.add_cache(size_t{1} << 20, size_t{1} << 20, 1);
    } catch (const std::bad_alloc&) {
        no_memory = true;
    }
    CHECK(no_memory, "a cache larger than any memory");
}

// Each run is done as if alone, or not at all.
void test_second_thread(const KernelTable& table) {
    Toy toy(table, 2);
    std::atomic<int> done{0}, refused{0};
    auto call = [&] {
        for (int i = 0; i < 50; ++i) {
            try {
                Steps().add(0, kRows, 0).run(toy.program);
                ++done;
            } catch (const std::runtime_error&) {
                ++refused;
            }
        }
    };
    std::thread first(call), second(call);
    first.join();
    second.join();
    CHECK(done > 0 && done + refused == 100, "%d done, %d refused", done.load(), refused.load());
    Toy other(table, 1);
    CHECK(same_bits(read_text(toy, 60, kRows), read_text(other, 60, kRows)), "other bits after");
}

// Whatever the calling thread has set for its own floats.
void test_float_state([[maybe_unused]] const KernelTable& table) {
#if defined(__x86_64__) || defined(_M_X64)
    constexpr float kTiny = 1e-13f;  // products of such weights are denormal
    Toy plain(table, 1, kTiny);
    const std::vector<float> expected = read_text(plain, 40, kRows);
    const unsigned found = _mm_getcsr();
    _mm_setcsr(found | 0x8040);  // flush results, and read denormals as zero
    for (const size_t threads : {1, 3}) {
        Toy toy(table, threads, kTiny);
        CHECK(same_bits(read_text(toy, 40, kRows), expected), "%s, %zu threads: denormals differ",
              table.name, threads);
    }
    CHECK((_mm_getcsr() & 0x8040) == 0x8040, "the caller's own state was not put back");
    _mm_setcsr(found);
#endif
}

void test_profile(const KernelTable& table) {
    Toy toy(table, 2);
    Steps().add(0, 8, 0).run(toy.program);
    CHECK(toy.program.profile().empty(), "it measures without being asked");
    toy.program.set_profiling(true);
    for (size_t i = 0; i < 3; ++i) Steps().add(8 + i, 1, 0).run(toy.program);
    CHECK(toy.program.profile().size() == toy.program.num_ops(), "an entry for each op");
    auto of = [&](OpCode code) {
        OpTime sum{0.0, 0};
        for (size_t i = 0; i < toy.program.num_ops(); ++i) {
            if (toy.program.code(i) != code) continue;
            sum.seconds += toy.program.profile()[i].seconds;
            sum.calls += toy.program.profile()[i].calls;
        }
        return sum;
    };
    CHECK(of(OpCode::kAttention).calls == 6 && of(OpCode::kAttention).seconds > 0.0,
          "two layers, three steps");
    CHECK(of(OpCode::kSelect).calls == 3 && of(OpCode::kQuantize).calls == 0, "wrong counts");
    CHECK(std::string(op_name(OpCode::kAttention)) == "attention", "wrong name");
    toy.program.set_profiling(false);
    Steps().add(11, 1, 0).run(toy.program);
    CHECK(of(OpCode::kSelect).calls == 3, "it goes on");
}

}  // namespace

int main() {
    for (const KernelTable* table : tables()) {
        test_same_bits(*table);
        test_among_others(*table);
        test_refusals(*table);
        test_building_ends(*table);
        test_second_thread(*table);
        test_float_state(*table);
        test_profile(*table);
    }
    return failures == 0 ? 0 : 1;
}
