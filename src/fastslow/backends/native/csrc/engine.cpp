// The entry points, plain C; fastslow/backends/native/library.py mirrors them.
#include "step.h"
#include "window.h"

using namespace fastslow;

extern "C" {

#define FS_PUBLIC __attribute__((visibility("default")))

// The gradients of a node's matrices by bf16.h; only if fs_dots() is true. out[o] (blocks hidden, m[o]) (+)=
// b^T a[o], summed over rows: a[o] (rows, lda[o]) is an input of the node with m[o] elements per row, and b (rows, ldb)
// has the gradients of the products, in blocks of `padded` elements. b is converted to bfloat16 once for all a's. Block
// i of b is block to[i] of out's rows.
struct fs_outer {
    std::int64_t rows, count, hidden, padded, ldb, blocks;
    std::int8_t to[8];
    std::int64_t parts;    // float32 split into that many bfloat16
    std::int64_t tiles;    // on the tile unit; else by dot products, 1 part
    std::int64_t threads;
    std::int64_t chunk;    // rows at a time, a multiple of 32
    std::int64_t add;
    std::int64_t m[2], lda[2];
    const float* a[2];
    float* out[2];
    const float* b;
    float* sums;    // (blocks padded rounded up to 32, the m's rounded up to 32 each): scratch
    char* scratch;  // (threads, scratch_size) bytes: scratch
    std::int64_t scratch_size;
};

}  // extern "C"

#ifdef FASTSLOW_BF16
namespace {

struct Outer {
    const fs_outer& o;
    i64 vectors() const { return o.blocks * o.padded / bf16::SIDE; }
    i64 side(i64 index) const { return bf16::round_up(o.m[index], 2 * bf16::SIDE); }
    i64 sides() const { return side(0) + (o.count > 1 ? side(1) : 0); }

    void multiply(int thread, int threads) const {
        const Range pairs = share((vectors() + 1) / 2, thread, threads);
        const i64 last = 2 * pairs.last < vectors() ? 2 * pairs.last : vectors();
        const bf16::Columns columns[2] = {{o.a[0], o.lda[0], o.m[0]}, {o.a[1], o.lda[1], o.m[1]}};
        bf16::with_kind(o.tiles != 0, o.parts, [&](auto kind) {
            typedef decltype(kind) K;
            bf16::u16* left = reinterpret_cast<bf16::u16*>(o.scratch + thread * o.scratch_size);
            bf16::u16* right = left + sides() * o.chunk * K::PARTS;
            bf16::outer<typename K::Unit, K::PARTS>(o.rows, o.chunk, columns, static_cast<int>(o.count), o.b, o.ldb,
                                                    o.blocks * o.padded, o.sums, 2 * pairs.first, last, left, right);
        });
    }

    // The transposed sums, without the padding.
    void finish(int thread, int threads) const {
        constexpr i64 S = bf16::SIDE;
        const Range mine = share(vectors(), thread, threads);
        float turned[S * S];
        for (i64 v = mine.first; v < mine.last; v++) {
            const i64 gate = o.to[v * S / o.padded], unit = v * S % o.padded, units = o.hidden - unit < S ? o.hidden - unit : S;
            const float* from = o.sums + v / 2 * 2 * S * sides() + v % 2 * S;
            for (i64 part = 0; part < o.count; from += side(part) * 2 * S, part++)
                for (i64 c = 0, m = o.m[part]; c < m; c += S) {
                    const i64 columns = m - c < S ? m - c : S;
                    bf16::transpose_square(from + c * 2 * S, 2 * S, turned, S);
                    for (i64 u = 0; u < units; u++) {
                        float *at = o.out[part] + (gate * o.hidden + unit + u) * m + c, *row = turned + u * S;
                        if (o.add)
                            for (i64 i = 0; i < columns; i++) row[i] += at[i];
                        std::memcpy(at, row, sizeof(float) * columns);
                    }
                }
        }
    }
};

}  // namespace
#endif

extern "C" {

// Identifies this build; checked after loading, so that no incompatible library is used.
FS_PUBLIC std::int64_t fs_abi() {
    std::int64_t sizes[] = {sizeof(fs_node), sizeof(fs_window), sizeof(fs_outer), sizeof(fs_step), sizeof(fs_step_node)};
    std::int64_t abi = 0;
    for (int i = 4; i >= 0; i--) abi = abi * 1000 + sizes[i];
    return abi;
}

// Bytes in a vector: padded sizes are multiples of this.
FS_PUBLIC std::int64_t fs_vector_bytes() { return FS_BYTES; }

// The entry points of the OpenMP runtime that the process has already loaded.
FS_PUBLIC void fs_use_openmp(void* parallel, void* thread_number, void* team_size) {
    openmp().parallel = reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(parallel);
    openmp().thread_number = reinterpret_cast<int (*)()>(thread_number);
    openmp().team_size = reinterpret_cast<int (*)()>(team_size);
    openmp().owner = getpid();
}

// Whether this build's instructions run on this machine; called in a separate process before a new build is used.
FS_PUBLIC std::int64_t fs_self_test() {
    alignas(64) float x[2 * Simd<float>::W];
    for (int i = 0; i < 2 * Simd<float>::W; i++) x[i] = 0.1f * static_cast<float>(i);
    const Vec<float> s = fastslow::tanh<float>(sigmoid<float>(load(x)) * load(x + Simd<float>::W));
    const Vec<double> d = fastslow::tanh<double>(sigmoid<double>(splat(static_cast<double>(x[1]))));
    const auto bits = random_bits<float>({1, 2}, 3);
    return s[1] > 0.0f && s[1] < 1.0f && d[0] > 0.4 && d[0] < 0.6 && bits[0] != bits[1] ? 1 : 0;
}

// Steps first .. last-1 of a window; `prepare`: pack the weights, set in the first call of a pass.
FS_PUBLIC void fs_forward_float(const fs_window* w, std::int64_t prepare) { run_window<float>(*w, false, prepare != 0); }
FS_PUBLIC void fs_forward_double(const fs_window* w, std::int64_t prepare) { run_window<double>(*w, false, prepare != 0); }
FS_PUBLIC void fs_backward_float(const fs_window* w, std::int64_t prepare) { run_window<float>(*w, true, prepare != 0); }
FS_PUBLIC void fs_backward_double(const fs_window* w, std::int64_t prepare) { run_window<double>(*w, true, prepare != 0); }

// The streaming path: the number of scratch elements that it needs, and its steps.
FS_PUBLIC std::int64_t fs_step_scratch_float(const fs_step* s) { return Steps<float>::scratch_size(*s); }
FS_PUBLIC std::int64_t fs_step_scratch_double(const fs_step* s) { return Steps<double>::scratch_size(*s); }
FS_PUBLIC void fs_step_float(const fs_step* s) { run_steps<float>(*s); }
FS_PUBLIC void fs_step_double(const fs_step* s) { run_steps<double>(*s); }

// Whether this machine has dot products of bfloat16.
FS_PUBLIC std::int64_t fs_dots() {
#ifdef FASTSLOW_BF16
    return 1;
#else
    return 0;
#endif
}

// Whether products of float32 can also run on the tile unit of this machine.
FS_PUBLIC std::int64_t fs_tiles() {
#ifdef FASTSLOW_AMX
    return bf16::allowed() ? 1 : 0;
#else
    return 0;
#endif
}

FS_PUBLIC void fs_outer_float(const fs_outer* o) {
#ifdef FASTSLOW_BF16
    Outer outer{*o};
    const int threads = static_cast<int>(o->threads);
    parallel([](void* p, int thread, int count) { static_cast<Outer*>(p)->multiply(thread, count); }, &outer, threads);
    parallel([](void* p, int thread, int count) { static_cast<Outer*>(p)->finish(thread, count); }, &outer, threads);
#else
    (void)o;
#endif
}

}  // extern "C"
