// Denormal numbers are treated as zero while an object of this class exists: they slow processors down many times.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fastslow {

class FlushDenormals {
#if defined(__x86_64__)
    static constexpr unsigned FLUSH = 0x8040;  // flush to zero, denormals are zero
    unsigned before = _mm_getcsr();

  public:
    FlushDenormals() { _mm_setcsr(before | FLUSH); }
    ~FlushDenormals() { _mm_setcsr((_mm_getcsr() & ~FLUSH) | (before & FLUSH)); }
#elif defined(__aarch64__)
    static constexpr std::uint64_t FLUSH = 1u << 24;
    std::uint64_t before = read();
    static std::uint64_t read() {
        std::uint64_t mode;
        asm volatile("mrs %0, fpcr" : "=r"(mode));
        return mode;
    }
    static void write(std::uint64_t mode) { asm volatile("msr fpcr, %0" ::"r"(mode)); }

  public:
    FlushDenormals() { write(before | FLUSH); }
    ~FlushDenormals() { write(before); }
#else
  public:
    FlushDenormals() {}
    ~FlushDenormals() {}
#endif
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace fastslow
