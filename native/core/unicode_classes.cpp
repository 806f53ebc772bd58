// Letters, numbers and white space of Unicode.
#include <algorithm>
#include <iterator>

#include "tektra/byte_pairs.h"

namespace tektra {
namespace {

// Where a class begins that lasts until the next entry: code point << 3 | class. Made by asking the
// tokenizers library about each code point; tests/tokenizer/test_native_bpe.py holds it to that.
constexpr uint32_t kClasses[] = {
// clang-format off
#include "unicode_classes.inc"
    // clang-format on
};

constexpr auto ascii_classes() {
    std::array<CharClass, 128> classes{};
    for (uint32_t c = 0; c < 128; ++c) {
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        const bool space = c == ' ' || (c >= '\t' && c <= '\r');
        classes[c] = letter                    ? CharClass::kLetter
                     : c >= '0' && c <= '9'    ? CharClass::kNumber
                     : space                   ? CharClass::kSpace
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
