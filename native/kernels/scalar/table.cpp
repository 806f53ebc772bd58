// The scalar table: every kernel, always built.
#include "tables.h"

namespace tektra::scalar {

void fill(KernelTable& table) {
    table.name = "scalar";
    fill_linear(table);
    fill_rows(table);
    fill_attention(table);
    fill_peaks(table);
    table.sampling = &kScalarSampling;
    table.encode = &kScalarEncode;
}

}  // namespace tektra::scalar
