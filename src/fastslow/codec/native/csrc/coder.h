// Logits to frequencies to bytes, and back: codec/frequencies.py, codec/rangecoder.py and the Python coder of
// codec/blocks.py once more.
#pragma once
#include "step.h"

extern "C" {

// What a block is, for either direction.
struct fs_block {
    std::int64_t lanes, length, symbols, start, escape;  // escape: its frequency, 0 if there is none
    const std::uint8_t* alphabet;                         // (V)
    const std::int64_t *coarse, *fine;                    // exp's tables: (coarse_size) and (2^fine_bits)
    std::int64_t coarse_size, fine_bits, knot_bits;
    std::uint8_t* text;            // (length): read or written
    const std::uint8_t* payload;   // of decoding: (payload_size)
    std::int64_t payload_size;
};

}  // extern "C"

namespace fastslow {
namespace codec {

constexpr int TOTAL_BITS = 24;
constexpr i64 TOTAL = 1 << TOTAL_BITS;
constexpr u64 BOTTOM = u64(1) << 56;
constexpr i64 RAW = TOTAL / 256;

class Encoder {
    u64 low = 0, width = ~u64(0);
    std::vector<u8> out;

    void carry() {
        size_t at = out.size() - 1;
        while (out[at] == 0xFF) out[at--] = 0;
        out[at]++;
    }

  public:
    i64 size() const { return static_cast<i64>(out.size()); }
    const u8* bytes() const { return out.data(); }

    void encode(i64 start, i64 frequency) {
        width >>= TOTAL_BITS;
        const u64 before = low;
        low += width * static_cast<u64>(start);
        if (low < before) carry();
        width *= static_cast<u64>(frequency);
        while (width < BOTTOM) {
            out.push_back(static_cast<u8>(low >> 56));
            low <<= 8;
            width <<= 8;
        }
    }

    // The fewest bytes that name a number in the last interval.
    void finish() {
        typedef unsigned __int128 wide;
        const wide end = static_cast<wide>(low) + width;
        int count = 0;
        wide value = 0;
        for (; count < 9; count++) {
            const wide rest = (static_cast<wide>(1) << (64 - 8 * count)) - 1;
            value = (low + rest) & ~rest;
            if (value < end) break;
        }
        if (value >> 64) carry();
        for (int i = 0; i < count; i++) out.push_back(static_cast<u8>(static_cast<u64>(value) >> (56 - 8 * i)));
    }
};

enum Fault { NONE = 0, OUTSIDE = 1, SHORT = 2 };

class Decoder {
    const u8* data;
    i64 size, at = 8;
    u64 value = 0, width = ~u64(0), unit = 0;

  public:
    Decoder(const u8* from, i64 count) : data(from), size(count) {
        for (int i = 0; i < 8; i++) value = value << 8 | (i < size ? data[i] : 0);
    }
    i64 read() const { return at; }

    // A number inside the next symbol's interval, or -1.
    i64 target() {
        unit = width >> TOTAL_BITS;
        const u64 found = value / unit;
        return found < u64(TOTAL) ? static_cast<i64>(found) : -1;
    }

    bool take(i64 start, i64 frequency) {
        value -= unit * static_cast<u64>(start);
        width = unit * static_cast<u64>(frequency);
        while (width < BOTTOM) {
            if (at >= size + 8) return false;
            value = value << 8 | (at < size ? data[at] : 0);
            at++;
            width <<= 8;
        }
        return true;
    }
};

// Frequencies of one row of logits.
class Frequencies {
    std::vector<i64> coarse, fine;
    i64 size, escape;
    int fine_bits, knot_bits;

  public:
    explicit Frequencies(const fs_block& b)
        : coarse(b.coarse, b.coarse + b.coarse_size), fine(b.fine, b.fine + (i64(1) << b.fine_bits)), size(b.symbols),
          escape(b.escape), fine_bits(static_cast<int>(b.fine_bits)), knot_bits(static_cast<int>(b.knot_bits)) {
        coarse.push_back(0);
    }

    // out (V): frequencies without the escape's. Logits: integers, below 2^53 in size.
    template <class T>
    void of(const T* __restrict logits, i64* __restrict out) const {
        i64 best = 0;
        for (i64 j = 1; j < size; j++)
            if (logits[j] > logits[best]) best = j;
        const double largest = static_cast<double>(logits[best]);
        const double beyond = static_cast<double>((static_cast<i64>(coarse.size()) - 1) << fine_bits);
        const i64 *first = coarse.data(), *second = fine.data(), mask = (i64(1) << fine_bits) - 1;
        i64 total = 0;
#pragma omp simd reduction(+ : total)
        for (i64 j = 0; j < size; j++) {
            double below = largest - static_cast<double>(logits[j]);  // rounded only where it is far beyond the table
            below = below < beyond ? below : beyond;
            const i32 d = static_cast<i32>(below);
            const i64 weight = (first[d >> fine_bits] * second[d & mask]) >> knot_bits;
            out[j] = weight;
            total += weight;
        }
        // floor(weight budget / total), by a quotient that is at most one off.
        const i64 budget = TOTAL - size - escape;
        const double each = static_cast<double>(budget) / static_cast<double>(total);
        i64 sum = 0;
#pragma omp simd reduction(+ : sum)
        for (i64 j = 0; j < size; j++) {
            const i64 weight = out[j];
            i64 quotient = static_cast<i64>(static_cast<i32>(static_cast<double>(weight) * each));
            const i64 rest = weight * budget - quotient * total;
            quotient += (rest >= total ? 1 : 0) - (rest < 0 ? 1 : 0);
            out[j] = quotient + 1;
            sum += quotient + 1;
        }
        out[best] += TOTAL - escape - sum;
    }
};

// The coder of one block: its lanes, where each stands, and one range coder for all.
class Block {
    Frequencies frequencies;
    i64 lanes, size, start, escape, full, longer;
    std::vector<u8> alphabet;
    std::vector<i64> offsets;
    std::vector<i32> symbol_of;  // of a byte; V outside the alphabet
    u8* text;
    std::vector<i32> previous_;
    std::vector<i64> rows;       // (S, V): frequencies
    std::vector<i64> starts, widths;
    Encoder encoder;
    Decoder decoder;

  public:
    explicit Block(const fs_block& b)
        : frequencies(b), lanes(b.lanes), size(b.symbols), start(b.start), escape(b.escape), full(b.length / b.lanes),
          longer(b.length % b.lanes), alphabet(b.alphabet, b.alphabet + b.symbols), offsets(b.lanes),
          symbol_of(256, static_cast<i32>(b.symbols)), text(b.text), previous_(b.lanes, static_cast<i32>(b.start)),
          rows(b.lanes * b.symbols), starts(b.lanes), widths(b.lanes), decoder(b.payload, b.payload_size) {
        for (i64 lane = 1; lane < lanes; lane++) offsets[lane] = offsets[lane - 1] + full + (lane <= longer ? 1 : 0);
        for (i64 j = 0; j < size; j++) symbol_of[alphabet[j]] = static_cast<i32>(j);
    }

    const i32* previous() const { return previous_.data(); }
    i64 active(i64 t) const { return t < full ? lanes : longer; }
    i64 symbol_count() const { return size; }
    Encoder& encoding() { return encoder; }
    const Decoder& decoding() const { return decoder; }

    // A lane's part of a step that can be done beside the others'.
    template <class T>
    void prepare(const T* logits, i64 t, i64 lane, bool encoding) {
        i64* row = &rows[lane * size];
        frequencies.of(logits, row);
        if (encoding) {
            const i64 symbol = symbol_of[text[offsets[lane] + t]];
            i64 before = 0;
            for (i64 j = 0; j < symbol; j++) before += row[j];
            starts[lane] = before;
            widths[lane] = symbol < size ? row[symbol] : escape;
        } else {
            i64 end = 0;
            for (i64 j = 0; j < size; j++) row[j] = end += row[j];
        }
    }

    void encode(i64 t) {
        const i64 count = active(t);
        for (i64 lane = 0; lane < count; lane++) {
            encoder.encode(starts[lane], widths[lane]);
            const u8 byte = text[offsets[lane] + t];
            i32 symbol = symbol_of[byte];
            if (symbol == size) {
                encoder.encode(byte * RAW, RAW);
                symbol = static_cast<i32>(start);
            }
            previous_[lane] = symbol;
        }
        for (i64 lane = count; lane < lanes; lane++) previous_[lane] = static_cast<i32>(start);
    }

    Fault decode(i64 t) {
        const i64 count = active(t);
        for (i64 lane = 0; lane < count; lane++) {
            const i64* ends = &rows[lane * size];
            const i64 target = decoder.target();
            if (target < 0) return OUTSIDE;
            // The first end above the target.
            i64 symbol = 0, left = size;
            while (left > 0) {
                const i64 half = left / 2;
                if (ends[symbol + half] <= target) symbol += half + 1, left -= half + 1;
                else left = half;
            }
            const i64 before = symbol ? ends[symbol - 1] : 0;
            if (!decoder.take(before, symbol < size ? ends[symbol] - before : escape)) return SHORT;
            u8 byte;
            if (symbol < size) {
                byte = alphabet[symbol];
            } else {
                const i64 raw = decoder.target();
                if (raw < 0) return OUTSIDE;
                byte = static_cast<u8>(raw / RAW);
                if (!decoder.take(byte * RAW, RAW)) return SHORT;
                symbol = start;
            }
            text[offsets[lane] + t] = byte;
            previous_[lane] = static_cast<i32>(symbol);
        }
        for (i64 lane = count; lane < lanes; lane++) previous_[lane] = static_cast<i32>(start);
        return NONE;
    }
};

}  // namespace codec
}  // namespace fastslow
