// The entry points, plain C; fastslow/backends/fused/native/library.py mirrors them.
#include "step.h"
#include "window.h"

using namespace fastslow;

extern "C" {

#define FS_PUBLIC __attribute__((visibility("default")))

// out (m, n) = a^T b for a (rows, lda), b (rows, ldb): the sum over rows, on the tile unit, float32 as `parts` bfloat16.
// `scratch`: fs_outer_scratch bytes. Only where fs_tiles() says so.
struct fs_outer {
    std::int64_t rows, m, n, lda, ldb, parts, threads;
    const float *a, *b;
    float* out;
    void* scratch;
};

// What this build is: checked after loading, so that a foreign file is not used.
FS_PUBLIC std::int64_t fs_abi() {
    std::int64_t sizes[] = {sizeof(fs_node), sizeof(fs_window), sizeof(fs_outer), sizeof(fs_step), sizeof(fs_step_node)};
    std::int64_t abi = 0;
    for (int i = 4; i >= 0; i--) abi = abi * 1000 + sizes[i];
    return abi;
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

// The streaming path: how many numbers of scratch it needs, and its steps.
FS_PUBLIC std::int64_t fs_step_scratch_float(const fs_step* s) { return Steps<float>::scratch_size(*s); }
FS_PUBLIC std::int64_t fs_step_scratch_double(const fs_step* s) { return Steps<double>::scratch_size(*s); }
FS_PUBLIC void fs_step_float(const fs_step* s) { run_steps<float>(*s); }
FS_PUBLIC void fs_step_double(const fs_step* s) { run_steps<double>(*s); }

// Whether products of float32 can run on the tile unit here.
FS_PUBLIC std::int64_t fs_tiles() {
#ifdef FASTSLOW_AMX
    return amx::allowed() ? 1 : 0;
#else
    return 0;
#endif
}

FS_PUBLIC std::int64_t fs_outer_scratch(const fs_outer* o) {
#ifdef FASTSLOW_AMX
    return o->threads * o->parts * amx::outer_scratch<1>(o->m) * 2;
#else
    (void)o;
    return 0;
#endif
}

FS_PUBLIC void fs_outer_float(const fs_outer* o) {
#ifdef FASTSLOW_AMX
    parallel(
        [](void* p, int thread, int threads) {
            const fs_outer& o = *static_cast<const fs_outer*>(p);
            const Range columns = share((o.n + amx::SIDE - 1) / amx::SIDE, thread, threads);
            amx::with_parts(o.parts, [&](auto parts) {
                amx::u16* scratch = static_cast<amx::u16*>(o.scratch) + thread * amx::outer_scratch<parts.value>(o.m);
                amx::outer<parts.value>(o.rows, o.a, o.lda, o.m, o.b, o.ldb, o.n, o.out, o.n, false, columns.first,
                                        columns.last, scratch);
            });
        },
        const_cast<fs_outer*>(o), static_cast<int>(o->threads));
#else
    (void)o;
#endif
}

}  // extern "C"
