// Byte-level BPE (Sennrich et al. 2016, on bytes as GPT-2 has it): cuts a text into pieces and
// merges the bytes of each. It does what the tokenizers library does, token for token, for the
// texts and vocabularies that it takes on; it says so where it does not.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tektra {

// How a text is cut into the pieces that merges do not cross.
enum class Words : int32_t {
    kGpt2,          // GPT-2's expression
    kGpt2Digits,    // each digit by itself, then GPT-2's expression
    kCl100kThrees,  // that of cl100k: numbers in threes
    kCl100kOnes,    // the same, each digit by itself
    kNumWords,
};

// What the expressions distinguish. kUnsure: implementations of Unicode differ.
enum class CharClass : uint8_t { kOther, kLetter, kNumber, kSpace, kUnsure };
CharClass char_class(uint32_t code_point);

class BytePairs {
  public:
    // The arrays are as GGUF has them: for each string its length, 8 bytes, little-endian, and its
    // bytes. They are not needed afterwards. Throws std::invalid_argument for what is not taken on:
    // strings that reach past the end or are not UTF-8, tokens twice, merges twice or of what are
    // no tokens. That need not be an error of the file.
    BytePairs(std::string_view tokens, size_t num_tokens, std::string_view merges,
              size_t num_merges, Words words, bool ignore_merges);

    // Appends the tokens of a text, without special ones. False where it is not sure how the text
    // is cut, a byte of it has no token, or it is no UTF-8; what was appended then means nothing.
    bool encode(std::string_view text, std::vector<int32_t>& ids) const;

    size_t num_tokens() const { return offsets_.size() - 1; }
    // Text of a token, as the vocabulary writes it.
    std::string_view token(size_t id) const {
        return {text_.data() + offsets_[id], offsets_[id + 1] - offsets_[id]};
    }
    // -1 where there is no such token.
    int32_t id_of(std::string_view token) const;

  private:
    struct Merge {
        uint64_t pair;  // left << 32 | right
        int32_t rank;   // -1: an empty place
        int32_t id;     // what it becomes
    };
    struct Place {  // a piece of text while it is merged: a list of tokens
        int32_t id;
        int32_t previous, next;  // -1: none
        bool gone;
    };

    void read_tokens(std::string_view tokens, size_t num_tokens);
    void read_merges(std::string_view merges, size_t num_merges);
    const Merge* find_merge(int32_t left, int32_t right) const;
    void encode_piece(std::string_view piece, std::vector<int32_t>& ids) const;

    Words words_;
    bool ignore_merges_;
    std::string text_;               // of all tokens
    std::vector<uint32_t> offsets_;  // into it, [num_tokens + 1]
    std::vector<int32_t> ids_;       // hash table of tokens; -1: an empty place
    std::vector<Merge> merges_;      // hash table
    std::array<std::string, 256> alphabet_;
    std::array<int32_t, 256> byte_ids_;  // -1: none
};

// Length of the first piece of a text, which is not empty and is UTF-8; 0 where that is not sure.
size_t piece_length(std::string_view text, Words words);

}  // namespace tektra
