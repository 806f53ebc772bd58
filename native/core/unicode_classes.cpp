// Letters, numbers and white space of Unicode.
#include "unicode_classes.h"

#include <algorithm>
#include <iterator>

#include "tektra/byte_pairs.h"

namespace tektra {
namespace {

constexpr auto ascii_classes() {
    std::array<CharClass, 128> classes{};
    for (uint32_t c = 0; c < 128; ++c) {
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        const bool space = c == ' ' || (c >= '\t' && c <= '\r');
        classes[c] = letter                 ? CharClass::kLetter
                     : c >= '0' && c <= '9' ? CharClass::kNumber
                     : space                ? CharClass::kSpace
                                            : CharClass::kOther;
    }
    return classes;
}
constexpr auto kAscii = ascii_classes();

}  // namespace

CharClass char_class(uint32_t code_point) {
    if (code_point < kAscii.size()) return kAscii[code_point];
    const auto* after =
        std::upper_bound(std::begin(kClasses), std::end(kClasses), code_point << 3 | 7);
    return static_cast<CharClass>(after[-1] & 7);
}

}  // namespace tektra
