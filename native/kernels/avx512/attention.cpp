// Attention with vectors of sixteen floats.
#include "../shared/attention512.h"
#include "tables.h"

namespace tektra::avx512 {
namespace {

struct Vectors : AttentionVectors512 {
    static inline Sum dot(Int a, Int b, Sum c) { return plus(c, _mm512_madd_epi16(a, b)); }
};

}  // namespace

void fill_attention(KernelTable& table) {
    table.attend[static_cast<size_t>(KvType::kF16)] = FloatAttention<Vectors>::run<half_t>;
    table.attend[static_cast<size_t>(KvType::kF32)] = FloatAttention<Vectors>::run<float>;
    table.attend[static_cast<size_t>(KvType::kInt8)] = Int8Attention<Vectors>::run;
}

}  // namespace tektra::avx512
