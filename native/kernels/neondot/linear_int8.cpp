// Quantized linear layers with the dot-product instructions of Arm.
#include "../shared/linear_int8.h"

#include "../shared/dots_sdot.h"
#include "tables.h"

namespace tektra::neondot {
namespace {

struct Vectors : SdotNeon<Vectors> {};

}  // namespace

void fill_linear_int8(KernelTable& table) {
    fill_int8<Vectors>(table);
}

}  // namespace tektra::neondot
