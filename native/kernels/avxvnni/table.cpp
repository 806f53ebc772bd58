// The table for processors that have VNNI without AVX-512: most clients since 2021. What it does
// not fill is what AVX2 has, and so is the packed layout.
#include "tables.h"

namespace tektra::avxvnni {

void fill(KernelTable& table) {
    table.name = "avxvnni";
    fill_linear_int8(table);
    fill_peaks(table);
}

}  // namespace tektra::avxvnni
