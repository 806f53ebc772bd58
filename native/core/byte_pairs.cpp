// Byte-level BPE: reading vocabulary and merges, and merging.
#include "tektra/byte_pairs.h"

#include <algorithm>
#include <queue>
#include <stdexcept>

namespace tektra {
namespace {

constexpr size_t kMostStrings = size_t{1} << 26;
constexpr size_t kMostBytes = size_t{1} << 30;  // of all tokens together
constexpr size_t kMostInToken = size_t{1} << 14;

[[noreturn]] void refuse(const char* what) {
    throw std::invalid_argument(what);
}

// The strings of a GGUF array, one after another.
class Strings {
  public:
    explicit Strings(std::string_view array) : left_(array) {}

    std::string_view next() {
        if (left_.size() < 8) refuse("an array of strings is cut short");
        uint64_t length = 0;
        for (size_t i = 0; i < 8; ++i) {
            length |= static_cast<uint64_t>(static_cast<uint8_t>(left_[i])) << 8 * i;
        }
        left_.remove_prefix(8);
        if (length > left_.size()) refuse("a string reaches past the end");
        const std::string_view string = left_.substr(0, static_cast<size_t>(length));
        left_.remove_prefix(string.size());
        return string;
    }

  private:
    std::string_view left_;
};

// Unicode 15, table 3-7.
bool is_utf8(std::string_view text) {
    auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0; };
    for (size_t i = 0; i < text.size();) {
        const int a = byte(i);
        if (a < 0x80) {
            ++i;
            continue;
        }
        auto follows = [&](size_t k, int low = 0x80, int high = 0xbf) {
            return byte(i + k) >= low && byte(i + k) <= high;
        };
        if (a >= 0xc2 && a <= 0xdf && follows(1)) {
            i += 2;
        } else if (a >= 0xe0 && a <= 0xef && follows(2) &&
                   follows(1, a == 0xe0 ? 0xa0 : 0x80, a == 0xed ? 0x9f : 0xbf)) {
            i += 3;
        } else if (a >= 0xf0 && a <= 0xf4 && follows(2) && follows(3) &&
                   follows(1, a == 0xf0 ? 0x90 : 0x80, a == 0xf4 ? 0x8f : 0xbf)) {
            i += 4;
        } else {
            return false;
        }
    }
    return true;
}

uint64_t hash(std::string_view bytes) {
    uint64_t h = 0xcbf29ce484222325u;
    for (const char c : bytes) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
    return h ^ h >> 29;
}

uint64_t hash(uint64_t pair) {
    pair *= 0x9e3779b97f4a7c15u;
    return pair ^ pair >> 32;
}

// Places of a hash table for so many things, at most half of them taken: a power of two.
size_t table_size(size_t count) {
    size_t size = 16;
    while (size < 2 * count) size *= 2;
    return size;
}

}  // namespace

BytePairs::BytePairs(std::string_view tokens, size_t num_tokens, std::string_view merges,
                     size_t num_merges, Words words, bool ignore_merges)
    : words_(words), ignore_merges_(ignore_merges) {
    // each takes its length at least, so that no table is made for strings that are not there
    if (num_tokens > std::min(kMostStrings, tokens.size() / 8) ||
        num_merges > std::min(kMostStrings, merges.size() / 8)) {
        refuse("too many tokens or merges");
    }
    if (words < Words{} || words >= Words::kNumWords) refuse("an unknown way to cut texts");
    read_tokens(tokens, num_tokens);
    // the alphabet of GPT-2: printable Latin-1 stands for itself, the rest for U+0100 and on
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
        const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        const uint32_t code = printable ? byte : next++;
        std::string& letter = alphabet_[byte];
        if (code < 0x80) {
            letter.push_back(static_cast<char>(code));
        } else {
            letter.push_back(static_cast<char>(0xc0 | code >> 6));
            letter.push_back(static_cast<char>(0x80 | (code & 0x3f)));
        }
        byte_ids_[byte] = id_of(letter);
    }
    read_merges(merges, num_merges);
}

void BytePairs::read_tokens(std::string_view tokens, size_t num_tokens) {
    Strings strings(tokens);
    ids_.assign(table_size(num_tokens), -1);
    offsets_.reserve(num_tokens + 1);
    offsets_.push_back(0);
    const size_t mask = ids_.size() - 1;
    for (size_t id = 0; id < num_tokens; ++id) {
        const std::string_view token = strings.next();
        if (token.size() > kMostInToken || text_.size() + token.size() > kMostBytes) {
            refuse("tokens are too long");
        }
        if (!is_utf8(token)) refuse("a token is not UTF-8");
        text_.append(token);
        offsets_.push_back(static_cast<uint32_t>(text_.size()));
        if (token.empty()) continue;
        size_t at = hash(token) & mask;
        for (; ids_[at] >= 0; at = (at + 1) & mask) {
            if (this->token(static_cast<size_t>(ids_[at])) == token)
                refuse("a token is there twice");
        }
        ids_[at] = static_cast<int32_t>(id);
    }
}

void BytePairs::read_merges(std::string_view merges, size_t num_merges) {
    Strings strings(merges);
    merges_.assign(table_size(num_merges), {0, -1, -1});
    const size_t mask = merges_.size() - 1;
    std::string whole;
    for (size_t rank = 0; rank < num_merges; ++rank) {
        const std::string_view merge = strings.next();
        const size_t space = merge.find(' ');
        if (space == std::string_view::npos || merge.find(' ', space + 1) != merge.npos) {
            refuse("a merge is not two tokens");
        }
        whole.assign(merge.substr(0, space)).append(merge.substr(space + 1));
        const int32_t left = id_of(merge.substr(0, space));
        const int32_t right = id_of(merge.substr(space + 1));
        const int32_t id = id_of(whole);
        if (left < 0 || right < 0 || id < 0) refuse("a merge of what is no token");
        const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
        size_t at = hash(pair) & mask;
        for (; merges_[at].rank >= 0; at = (at + 1) & mask) {
            if (merges_[at].pair == pair) refuse("a merge is there twice");
        }
        merges_[at] = {pair, static_cast<int32_t>(rank), id};
    }
}

int32_t BytePairs::id_of(std::string_view token) const {
    if (token.empty()) return -1;
    const size_t mask = ids_.size() - 1;
    for (size_t at = hash(token) & mask; ids_[at] >= 0; at = (at + 1) & mask) {
        if (this->token(static_cast<size_t>(ids_[at])) == token) return ids_[at];
    }
    return -1;
}

const BytePairs::Merge* BytePairs::find_merge(int32_t left, int32_t right) const {
    const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
    const size_t mask = merges_.size() - 1;
    for (size_t at = hash(pair) & mask; merges_[at].rank >= 0; at = (at + 1) & mask) {
        if (merges_[at].pair == pair) return &merges_[at];
    }
    return nullptr;
}

bool BytePairs::encode(std::string_view text, std::vector<int32_t>& ids) const {
    if (!is_utf8(text)) return false;
    while (!text.empty()) {
        const size_t length = piece_length(text, words_);
        if (length == 0) return false;
        const std::string_view piece = text.substr(0, length);
        for (const char c : piece) {
            if (byte_ids_[static_cast<uint8_t>(c)] < 0) return false;
        }
        encode_piece(piece, ids);
        text.remove_prefix(length);
    }
    return true;
}

void BytePairs::encode_piece(std::string_view piece, std::vector<int32_t>& ids) const {
    if (ignore_merges_) {
        std::string written;
        for (const char c : piece) written += alphabet_[static_cast<uint8_t>(c)];
        if (const int32_t id = id_of(written); id >= 0) {
            ids.push_back(id);
            return;
        }
    }
    // The merge with the lowest rank first, of those the leftmost. One that has become another by
    // the time that its turn comes is passed over, unless it ends in the same token.
    struct Candidate {
        int32_t rank, place, id;
        bool operator<(const Candidate& other) const {  // the queue takes the largest first
            return rank != other.rank ? rank > other.rank : place > other.place;
        }
    };
    const auto count = static_cast<int32_t>(piece.size());
    std::vector<Place> places(piece.size());
    std::vector<Candidate> candidates;
    for (int32_t i = 0; i < count; ++i) {
        const auto byte = static_cast<uint8_t>(piece[static_cast<size_t>(i)]);
        places[i] = {byte_ids_[byte], i - 1, i + 1 < count ? i + 1 : -1, false};
        if (i == 0) continue;
        if (const Merge* merge = find_merge(places[i - 1].id, places[i].id)) {
            candidates.push_back({merge->rank, i - 1, merge->id});
        }
    }
    std::priority_queue<Candidate> queue({}, std::move(candidates));
    auto offer = [&](int32_t left) {
        if (left < 0 || places[left].next < 0) return;
        if (const Merge* merge = find_merge(places[left].id, places[places[left].next].id)) {
            queue.push({merge->rank, left, merge->id});
        }
    };
    while (!queue.empty()) {
        const Candidate top = queue.top();
        queue.pop();
        Place& left = places[top.place];
        if (left.gone || left.next < 0) continue;
        Place& right = places[left.next];
        const Merge* merge = find_merge(left.id, right.id);
        if (merge == nullptr || merge->id != top.id) continue;
        right.gone = true;
        left.id = top.id;
        left.next = right.next;
        if (left.next >= 0) places[left.next].previous = top.place;
        offer(left.previous);
        offer(top.place);
    }
    for (int32_t i = 0; i >= 0 && i < count; i = places[i].next) ids.push_back(places[i].id);
}

}  // namespace tektra
