// The regular expressions with which BPE tokenizers cut texts, by hand. Which expression is which:
// src/tektra/tokenizer/pretokenizers.py.
#include "tektra/byte_pairs.h"

namespace tektra {
namespace {

struct Char {
    uint32_t code;
    CharClass kind;
    size_t length;  // bytes; 0 at the end of the text
};

// A text, which is UTF-8: that was seen to. Where digits are cut out first, it ends before one.
class Reader {
  public:
    Reader(std::string_view text, bool ends_at_digits)
        : text_(text), ends_at_digits_(ends_at_digits) {}

    Char at(size_t at) const {
        Char c = any_at(at);
        if (ends_at_digits_ && c.kind == CharClass::kNumber) c.length = 0;
        return c;
    }
    std::string_view text() const { return text_; }

  private:
    Char any_at(size_t at) const {
        if (at >= text_.size()) return {0, CharClass::kOther, 0};
        auto byte = [&](size_t i) { return static_cast<uint8_t>(text_[at + i]); };
        auto low = [&](size_t i) { return byte(i) & 0x3fu; };
        const uint32_t first = byte(0);
        if (first < 0x80) return {first, char_class(first), 1};
        if (first < 0xe0) {
            const uint32_t code = (first & 0x1f) << 6 | low(1);
            return {code, char_class(code), 2};
        }
        if (first < 0xf0) {
            const uint32_t code = (first & 0xf) << 12 | low(1) << 6 | low(2);
            return {code, char_class(code), 3};
        }
        const uint32_t code = (first & 7) << 18 | low(1) << 12 | low(2) << 6 | low(3);
        return {code, char_class(code), 4};
    }

    std::string_view text_;
    bool ends_at_digits_;
};

// Length of the contraction at the beginning of a text, 0 where there is none.
size_t contraction(std::string_view text, bool any_case) {
    if (text.size() < 2 || text[0] != '\'') return 0;
    auto letter = [&](size_t i) {
        const char c = i < text.size() ? text[i] : '\0';
        return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    const char a = letter(1), b = letter(2);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    const bool two = (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l');
    return two ? 3 : 0;
}

// The end of the run of characters of a kind from `at` on, of `most` characters at most.
template <class Wanted>
size_t run_end(const Reader& text, size_t at, Wanted wanted, bool& sure, size_t most = SIZE_MAX) {
    while (most-- > 0) {
        const Char c = text.at(at);
        if (c.length == 0) break;
        if (c.kind == CharClass::kUnsure) {
            sure = false;
            break;
        }
        if (!wanted(c)) break;
        at += c.length;
    }
    return at;
}

bool is_newline(const Char& c) {
    return c.code == '\r' || c.code == '\n';
}

auto of(CharClass kind) {
    return [kind](const Char& c) { return c.kind == kind; };
}

// The end of what the last alternatives take of a text that begins with white space: all of a run
// but what belongs to the word behind it.
size_t space_end(const Reader& text, bool& sure) {
    size_t end = 0, last = 0;
    while (true) {
        const Char c = text.at(end);
        if (c.length == 0) return end;
        if (c.kind == CharClass::kUnsure) sure = false;
        if (c.kind != CharClass::kSpace) break;
        last = end;
        end += c.length;
    }
    return last == 0 ? end : last;
}

size_t gpt2(const Reader& text, bool& sure) {
    if (const size_t length = contraction(text.text(), false)) return length;
    const size_t begin = text.text()[0] == ' ' ? 1 : 0;
    const Char c = text.at(begin);
    if (c.kind == CharClass::kUnsure) sure = false;
    if (c.length != 0 && c.kind != CharClass::kSpace) {
        return run_end(text, begin, of(c.kind), sure);
    }
    return space_end(text, sure);
}

size_t cl100k(const Reader& text, size_t most_digits, bool& sure) {
    if (const size_t length = contraction(text.text(), true)) return length;
    const Char c = text.at(0);
    const Char next = text.at(c.length);
    if (c.kind == CharClass::kUnsure || next.kind == CharClass::kUnsure) sure = false;
    if (c.kind == CharClass::kLetter) return run_end(text, 0, of(CharClass::kLetter), sure);
    if (c.kind == CharClass::kNumber) {
        return run_end(text, 0, of(CharClass::kNumber), sure, most_digits);
    }
    if (!is_newline(c) && next.kind == CharClass::kLetter) {
        return run_end(text, c.length, of(CharClass::kLetter), sure);
    }
    const bool after_space = c.code == ' ' && next.length != 0 && next.kind == CharClass::kOther;
    if (after_space || c.kind == CharClass::kOther) {
        const size_t begin = after_space ? c.length : 0;
        const size_t end = run_end(text, begin, of(CharClass::kOther), sure);
        return run_end(text, end, is_newline, sure);
    }
    // white space: up to the last line end in it, or as GPT-2's
    const size_t end = run_end(text, 0, of(CharClass::kSpace), sure);
    const size_t newline = text.text().substr(0, end).find_last_of("\r\n");
    return newline == std::string_view::npos ? space_end(text, sure) : newline + 1;
}

}  // namespace

size_t piece_length(std::string_view text, Words words) {
    bool sure = true;
    size_t length = 0;
    const Reader whole(text, false);
    switch (words) {
        case Words::kGpt2:
            length = gpt2(whole, sure);
            break;
        case Words::kGpt2Digits: {
            const Char c = whole.at(0);
            length = c.kind == CharClass::kNumber ? c.length : gpt2(Reader(text, true), sure);
            break;
        }
        case Words::kCl100kThrees:
            length = cl100k(whole, 3, sure);
            break;
        case Words::kCl100kOnes:
            length = cl100k(whole, 1, sure);
            break;
        case Words::kNumWords:
            break;
    }
    return sure ? length : 0;
}

}  // namespace tektra
