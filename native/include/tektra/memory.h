// Memory for weights, cache and activations: aligned, zeroed, given back when done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace tektra {

// Pages straight from the operating system, which hands them out when they are first touched and
// gets them back at once. 64-byte alignment at least. Throws std::bad_alloc.
class Memory {
  public:
    Memory() = default;
    // `streamed`: all of it is read again and again, so large pages are asked for. Not for what is
    // filled little by little: a large page is taken whole when its first byte is.
    explicit Memory(size_t bytes, bool streamed = false);
    ~Memory();
    Memory(Memory&& other) noexcept { swap(other); }
    Memory& operator=(Memory&& other) noexcept {
        swap(other);
        return *this;
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

  private:
    void swap(Memory& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
    }

    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace tektra
