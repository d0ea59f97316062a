// The entry points, plain C; fastslow/backends/fused/native/library.py mirrors them.
#include "window.h"

using namespace fastslow;

extern "C" {

#define FS_PUBLIC __attribute__((visibility("default")))

// What this build is: checked after loading, so that a stale or foreign file is built again.
FS_PUBLIC std::int64_t fs_abi() {
    return static_cast<std::int64_t>(sizeof(fs_node)) * 1000000 + static_cast<std::int64_t>(sizeof(fs_window)) * 100 + 1;
}

// Bytes in a vector: padded sizes are multiples of this.
FS_PUBLIC std::int64_t fs_vector_bytes() { return FS_BYTES; }

// The entry points of the OpenMP runtime that the process has loaded already.
FS_PUBLIC void fs_use_openmp(void* parallel, void* thread_number, void* team_size) {
    openmp().parallel = reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(parallel);
    openmp().thread_number = reinterpret_cast<int (*)()>(thread_number);
    openmp().team_size = reinterpret_cast<int (*)()>(team_size);
    openmp().owner = getpid();
}

// Whether this build's instructions run here: asked in a process of its own before a new build is taken into use.
FS_PUBLIC std::int64_t fs_self_test() {
    alignas(64) float x[2 * Simd<float>::W];
    for (int i = 0; i < 2 * Simd<float>::W; i++) x[i] = 0.1f * static_cast<float>(i);
    const Vec<float> s = fastslow::tanh<float>(sigmoid<float>(load(x)) * load(x + Simd<float>::W));
    const Vec<double> d = fastslow::tanh<double>(sigmoid<double>(splat(static_cast<double>(x[1]))));
    const auto bits = random_bits<float>({1, 2}, 3);
    return s[1] > 0.0f && s[1] < 1.0f && d[0] > 0.4 && d[0] < 0.6 && bits[0] != bits[1] ? 1 : 0;
}

// Steps first .. last-1 of a window; `prepare`: pack the weights, which the first call of a pass asks for.
FS_PUBLIC void fs_forward_float(const fs_window* w, std::int64_t prepare) { run_window<float>(*w, false, prepare != 0); }
FS_PUBLIC void fs_forward_double(const fs_window* w, std::int64_t prepare) { run_window<double>(*w, false, prepare != 0); }
FS_PUBLIC void fs_backward_float(const fs_window* w, std::int64_t prepare) { run_window<float>(*w, true, prepare != 0); }
FS_PUBLIC void fs_backward_double(const fs_window* w, std::int64_t prepare) { run_window<double>(*w, true, prepare != 0); }

}  // extern "C"
