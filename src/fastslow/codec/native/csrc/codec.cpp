// The entry points, plain C; fastslow/codec/native/library.py mirrors them.
#include "coder.h"

using namespace fastslow;
using namespace fastslow::codec;

namespace {

struct Steps {
    Engine* engine;
    Block* block;  // null: one step of `symbols`
    const i32* symbols;
    i64 first, last;
    Barrier barrier;
    std::atomic<int> state{0};
    bool whole = true;

    Steps(Engine* its, Block* coded, const i32* row, i64 from, i64 to)
        : engine(its), block(coded), symbols(row), first(from), last(to) {}

    void run(int thread, int threads) {
        Tiles tiles(engine->uses_tiles());
        if (!block) return engine->step(symbols, thread, threads, barrier);
        for (i64 t = first; t < last; t++) {
            engine->step(block->previous(), thread, threads, barrier);
            const Range lanes = share(block->active(t), thread, threads);
            for (i64 lane = lanes.first; lane < lanes.last; lane++) block->prepare(engine->logits_of(lane), lane);
            barrier.wait();
            if (thread == 0) whole = block->code(t);
            barrier.wait();
            if (!whole) return;
        }
    }
};

// A parallel region may get fewer threads than asked for: the first to arrive sets the barrier for those that came.
void run_steps(Steps& steps, std::int64_t threads) {
    const i64 most = 4 * round_up(steps.engine->lane_count(), SIDE);  // more would find next to nothing to do
    parallel(
        [](void* p, int thread, int team) {
            Steps& all = *static_cast<Steps*>(p);
            int fresh = 0;
            if (all.state.compare_exchange_strong(fresh, 1)) {
                all.barrier.reset(team);
                all.state.store(2, std::memory_order_release);
            } else {
                while (all.state.load(std::memory_order_acquire) != 2) sched_yield();
            }
            all.run(thread, team);
        },
        &steps, static_cast<int>(threads < most ? threads : most));
}

}  // namespace

extern "C" {

#define FS_PUBLIC __attribute__((visibility("default")))

// What this build is: checked after loading, so that a foreign file is not used.
FS_PUBLIC std::int64_t fs_codec_abi() {
    const std::int64_t sizes[] = {sizeof(fs_norm), sizeof(fs_exact_cell), sizeof(fs_exact_node), sizeof(fs_exact_model), sizeof(fs_block)};
    std::int64_t abi = 0;
    for (int i = 4; i >= 0; i--) abi = abi * 1000 + sizes[i];
    return abi;
}

FS_PUBLIC void fs_use_openmp(void* parallel, void* thread_number, void* team_size) {
    openmp().parallel = reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(parallel);
    openmp().thread_number = reinterpret_cast<int (*)()>(thread_number);
    openmp().team_size = reinterpret_cast<int (*)()>(team_size);
    openmp().owner = getpid();
}

FS_PUBLIC std::int64_t fs_codec_tiles() { return tiles_allowed() ? 1 : 0; }

// An engine for one model, or null for want of memory; the model's arrays are copied.
FS_PUBLIC void* fs_engine_make(const fs_exact_model* model) {
    try {
        return new Engine(*model);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
FS_PUBLIC void fs_engine_free(void* engine) { delete static_cast<Engine*>(engine); }

// Zero state for so many lanes; 0 if there is no memory for it.
FS_PUBLIC std::int64_t fs_engine_begin(void* engine, std::int64_t lanes) {
    try {
        static_cast<Engine*>(engine)->begin(lanes);
        return 1;
    } catch (const std::bad_alloc&) {
        return 0;
    }
}

// symbols (S) -> logits (S, V).
FS_PUBLIC void fs_engine_step(void* engine, const std::int32_t* symbols, std::int64_t* logits, std::int64_t threads) {
    Engine& its = *static_cast<Engine*>(engine);
    Steps steps(&its, nullptr, symbols, 0, 1);
    run_steps(steps, threads);
    for (i64 lane = 0; lane < its.lane_count(); lane++)
        for (i64 j = 0; j < its.symbols; j++) logits[lane * its.symbols + j] = static_cast<i64>(its.logits_of(lane)[j]);
}

FS_PUBLIC void* fs_block_make(const fs_block* block) {
    try {
        return new Block(*block);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
FS_PUBLIC void fs_block_free(void* block) { delete static_cast<Block*>(block); }

// Steps first .. last-1 of a block; engine: one with as many lanes, null without a network. 0: the payload ends too early.
FS_PUBLIC std::int64_t fs_block_run(void* block, void* engine, std::int64_t first, std::int64_t last, std::int64_t threads) {
    Block& its = *static_cast<Block*>(block);
    if (!engine) {
        for (i64 t = first; t < last; t++)
            if (!its.code(t)) return 0;
        return 1;
    }
    Steps steps(static_cast<Engine*>(engine), &its, nullptr, first, last);
    run_steps(steps, threads);
    return steps.whole;
}

// One step whose logits (S, V) come from elsewhere.
FS_PUBLIC std::int64_t fs_block_step(void* block, const std::int64_t* logits, std::int64_t t) {
    Block& its = *static_cast<Block*>(block);
    for (i64 lane = 0; lane < its.active(t); lane++) its.prepare(logits + lane * its.symbol_count(), lane);
    return its.code(t);
}

// The last symbol of each lane (S).
FS_PUBLIC const std::int32_t* fs_block_previous(void* block) { return static_cast<Block*>(block)->previous(); }

// The text as far as it is known.
FS_PUBLIC const std::uint8_t* fs_block_text(void* block) { return static_cast<Block*>(block)->bytes(); }

// Bytes written so far; after fs_block_finish all of them.
FS_PUBLIC std::int64_t fs_block_size(void* block) { return static_cast<Block*>(block)->encoding().size(); }
FS_PUBLIC const std::uint8_t* fs_block_finish(void* block) {
    Encoder& encoder = static_cast<Block*>(block)->encoding();
    encoder.finish();
    return encoder.bytes();
}

// Bytes that a decoder has read, the zeros past the end included.
FS_PUBLIC std::int64_t fs_block_read(void* block) { return static_cast<Block*>(block)->decoding().read(); }

// Whether this build's instructions run here: asked in a process of its own before a new build is taken into use. A product
// of 3 x 70 with 70 x 5, on the tile unit too, against plain sums.
FS_PUBLIC std::int64_t fs_self_test() {
    constexpr i64 rows = 3, depth = 70, columns = 5;
    i16 weight[columns * depth];
    i64 x = 1;
    auto draw = [&] { return static_cast<i16>((x = (1103515245 * x + 12345) % 2147483648) >> 8); };
    for (i16& w : weight) w = draw();
    const bool on[2] = {false, true};
    for (bool tiles : on) {
        if (tiles && !tiles_allowed()) continue;
        Activations h;
        h.resize(SIDE, depth, true);
        for (i64 r = 0; r < rows; r++)
            for (i64 k = 0; k < depth; k++) {
                const i16 value = draw();
                const i64 at = r * h.padded + k;
                h.whole.get()[at] = value;
                h.high.get()[at] = static_cast<u8>(value >> 8), h.low.get()[at] = static_cast<u8>(value & 255);
            }
        Matrix matrix;
        matrix.pack(weight, columns, {depth}, tiles);
        double z[SIDE * SIDE], half[SIDE];
        for (double& value : half) value = 0.5;
        const Activations* read[1] = {&h};
        {
            Tiles unit(tiles);
            matrix.multiply(read, rows, {z, SIDE, 1.0, half, 0, nullptr}, 0, 1);
        }
        for (i64 r = 0; r < rows; r++)
            for (i64 c = 0; c < columns; c++) {
                i64 sum = 0;
                for (i64 k = 0; k < depth; k++) sum += static_cast<i64>(h.whole.get()[r * h.padded + k]) * weight[c * depth + k];
                if (z[r * SIDE + c] != static_cast<double>(sum)) return 0;
            }
    }
    return 1;
}

}  // extern "C"
