#include "tektra/memory.h"

#include <new>

#if defined(_WIN32)
#include <windows.h>
#else
#include <sys/mman.h>
#endif

namespace tektra {
namespace {

void give_back(uint8_t* data, [[maybe_unused]] size_t bytes) {
#if defined(_WIN32)
    VirtualFree(data, 0, MEM_RELEASE);
#else
    munmap(data, bytes);
#endif
}

}  // namespace

Memory::Memory(size_t bytes, [[maybe_unused]] bool streamed) : size_(bytes) {
    if (bytes == 0) return;
#if defined(_WIN32)
    data_ = static_cast<uint8_t*>(
        VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE));
    if (data_ == nullptr) throw std::bad_alloc();
#else
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<uint8_t*>(mapped);
#if defined(MADV_HUGEPAGE)
    // streaming through 4 KiB pages spends a good part of the time in page walks
    constexpr size_t kLargePage = 2u << 20;
    if (streamed && bytes >= kLargePage) madvise(mapped, bytes, MADV_HUGEPAGE);
#endif
#endif
    // where there is no memory to note the owner, the pages are given back by the deleter
    owner_ = std::shared_ptr<uint8_t>(data_, [bytes](uint8_t* data) { give_back(data, bytes); });
}

}  // namespace tektra
