// The encoders with AVX2: the same loops, eight lanes a vector.
#include "../shared/encode_codebook.h"

namespace tektra {

const EncodeKernels kAvx2Encode = all_encoders();

}  // namespace tektra
