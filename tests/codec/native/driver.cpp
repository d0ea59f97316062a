// A block coded and decoded by the codec's own C++, without Python: test_builds.py compiles this for other machines and
// with sanitizers. Reads a file: 8-byte numbers lanes, length, V, start, steps; the mixer's tables; the alphabet, exp's
// tables, the text, and the logits (steps, lanes, V). Prints the payload in hexadecimal.
#include <cstdio>
#include <cstdlib>

#include "codec.cpp"

static FILE* input;

template <class T>
static std::vector<T> take(std::size_t count) {
    std::vector<T> values(count + 1);  // never empty
    if (std::fread(values.data(), sizeof(T), count, input) != count) std::exit(3);
    return values;
}

int main(int, char** arguments) {
    input = std::fopen(arguments[1], "rb");
    if (!input) return 3;
    const auto sizes = take<std::int64_t>(5);
    const std::int64_t lanes = sizes[0], length = sizes[1], symbols = sizes[2], steps = sizes[4];
    const auto stretch = take<std::int16_t>(65536);
    const auto squash = take<std::uint16_t>(24576);
    const auto rate = take<std::int32_t>(1024);
    const auto next = take<std::uint8_t>(512);
    const auto initial = take<std::uint32_t>(256);
    const auto logarithm = take<std::int32_t>(4096);
    const auto alphabet = take<std::uint8_t>(symbols);
    const auto coarse = take<std::int64_t>(704);
    const auto fine = take<std::int64_t>(1024);
    const auto text = take<std::uint8_t>(length);
    const auto logits = take<std::int64_t>(steps * lanes * symbols);
    const fs_mixing_tables tables{stretch.data(), squash.data(), rate.data(), next.data(), initial.data(), logarithm.data()};
    fs_block args{lanes,         length,      symbols, sizes[3],    alphabet.data(), coarse.data(), fine.data(),
                  704,           10,          30,      text.data(), nullptr,         0,             &tables};
    const std::uint8_t nothing = 0;
    args.payload = &nothing;
    auto run = [&](void* block) {
        for (std::int64_t t = 0; t < steps; t++) {
            const bool whole = symbols ? fs_block_step(block, &logits[t * lanes * symbols], t) : fs_block_run(block, nullptr, t, t + 1, 1);
            if (!whole) std::exit(4);
        }
    };
    void* encoder = fs_block_make(&args);
    run(encoder);
    const std::uint8_t* payload = fs_block_finish(encoder);
    const std::int64_t size = fs_block_size(encoder);
    args.text = nullptr, args.payload = payload, args.payload_size = size;
    void* decoder = fs_block_make(&args);
    run(decoder);
    if (std::memcmp(fs_block_text(decoder), text.data(), length)) return 5;
    for (std::int64_t i = 0; i < size; i++) std::printf("%02x", payload[i]);
    std::printf("\n");
    fs_block_free(encoder);
    fs_block_free(decoder);
    return std::fclose(input);
}
