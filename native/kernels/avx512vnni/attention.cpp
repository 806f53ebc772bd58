// Attention over a cache of int8, whose products VNNI adds as it multiplies (`vpdpwssd`).
#include "../shared/attention512.h"
#include "tables.h"

namespace tektra::avx512vnni {
namespace {

struct Vectors : AttentionVectors512 {
    static inline Sum dot(Int a, Int b, Sum c) {
        return (Sum)_mm512_dpwssd_epi32((__m512i)c, a, b);
    }
};

}  // namespace

void fill_attention(KernelTable& table) {
    table.attend[static_cast<size_t>(KvType::kInt8)] = Int8Attention<Vectors>::run;
}

}  // namespace tektra::avx512vnni
