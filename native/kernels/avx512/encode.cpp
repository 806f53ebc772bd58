// The encoders with AVX-512: the same loops, sixteen lanes a vector.
#include "../shared/encode_codebook.h"

namespace tektra {

const EncodeKernels kAvx512Encode = all_encoders();

}  // namespace tektra
