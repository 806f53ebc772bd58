// The encoders as any compiler makes vectors of them; also what 64-bit Arm uses.
#include "../shared/encode_codebook.h"

namespace tektra {

const EncodeKernels kScalarEncode = all_encoders();

}  // namespace tektra
