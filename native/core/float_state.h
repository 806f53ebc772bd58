// The state of a thread that float arithmetic depends on: rounding, and what becomes of denormals.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace tektra {

// While one lives, its thread rounds to nearest, keeps denormals and traps nothing, whatever some
// other library has set: results must be the same on every thread and in every process.
class DefaultFloats {
  public:
    DefaultFloats() : found_(get()) {
        if (found_ != kDefault) set(kDefault);
    }
    ~DefaultFloats() {
        if (found_ != kDefault) set(found_);
    }
    DefaultFloats(const DefaultFloats&) = delete;
    DefaultFloats& operator=(const DefaultFloats&) = delete;

  private:
#if defined(__x86_64__) || defined(_M_X64)
    using State = uint32_t;
    static constexpr State kDefault = 0x1f80;
    // without the flags of what happened so far
    static State get() { return _mm_getcsr() & ~State{0x3f}; }
    static void set(State state) { _mm_setcsr(state); }
#elif defined(__aarch64__) && !defined(_MSC_VER)
    using State = uint64_t;
    static constexpr State kDefault = 0;
    static State get() {
        State state;
        asm volatile("mrs %0, fpcr" : "=r"(state));
        return state;
    }
    static void set(State state) { asm volatile("msr fpcr, %0" : : "r"(state)); }
#else
    using State = uint32_t;
    static constexpr State kDefault = 0;
    static State get() { return kDefault; }
    static void set(State) {}
#endif

    const State found_;
};

}  // namespace tektra
