// Memory for weights, cache and activations: aligned, zeroed, given back when done; or memory of
// somebody else's, such as a mapped file, that is only read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>
#include <utility>

namespace tektra {

// Product of sizes; std::bad_alloc where it does not fit, since so much memory cannot be had.
inline size_t product_of(std::initializer_list<size_t> sizes) {
    size_t product = 1;
    for (const size_t size : sizes) {
        if (size != 0 && product > std::numeric_limits<size_t>::max() / size)
            throw std::bad_alloc();
        product *= size;
    }
    return product;
}

// Pages straight from the operating system, which hands them out when they are first touched and
// gets them back at once. 64-byte alignment at least. Throws std::bad_alloc.
class Memory {
  public:
    Memory() = default;
    // `streamed`: all of it is read again and again, so large pages are asked for. Not for what is
    // filled little by little: a large page is taken whole when its first byte is.
    explicit Memory(size_t bytes, bool streamed = false);
    // Memory that `owner` keeps as it is. Nobody writes to it.
    Memory(const uint8_t* data, size_t bytes, std::shared_ptr<const void> owner)
        : data_(const_cast<uint8_t*>(data)),
          size_(bytes),
          owner_(std::move(owner)),
          foreign_(true) {}
    Memory(Memory&& other) noexcept { swap(other); }
    Memory& operator=(Memory&& other) noexcept {
        swap(other);
        return *this;
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    // Some of its bytes, which stay there for as long as the part does.
    Memory part(size_t offset, size_t bytes) const {
        Memory part(data_ + offset, bytes, owner_);
        part.foreign_ = foreign_;
        return part;
    }

    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }
    bool foreign() const { return foreign_; }
    // Keeps the bytes there, for those who read them longer than this object lives.
    std::shared_ptr<const void> owner() const { return owner_; }

  private:
    void swap(Memory& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(owner_, other.owner_);
        std::swap(foreign_, other.foreign_);
    }

    uint8_t* data_ = nullptr;
    size_t size_ = 0;
    std::shared_ptr<const void> owner_;
    bool foreign_ = false;
};

}  // namespace tektra
