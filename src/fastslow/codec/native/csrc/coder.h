// Bytes to bits to a payload, and back: codec/frequencies.py, codec/rangecoder.py and the Python coder of codec/mixed.py
// once more. The bits' probabilities come from the mixer.
#pragma once
#include "mixer.h"
#include "step.h"

extern "C" {

// What a block is, for either direction.
struct fs_block {
    std::int64_t lanes, length, symbols, start;  // symbols: V of the network, 0 without one
    const std::uint8_t* alphabet;                 // (V)
    const std::int64_t *coarse, *fine;            // exp's tables: (coarse_size) and (2^fine_bits)
    std::int64_t coarse_size, fine_bits, knot_bits;
    const std::uint8_t* text;      // (length) of encoding
    const std::uint8_t* payload;   // (payload_size) of decoding
    std::int64_t payload_size;
    const fs_mixing_tables* mixing;
};

}  // extern "C"

namespace fastslow {
namespace codec {

using u32 = std::uint32_t;

constexpr int TOTAL_BITS = 24, BIT_BITS = 16;
constexpr i64 TOTAL = 1 << TOTAL_BITS;
constexpr u64 BOTTOM = u64(1) << 56;

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

    // A bit; p: the probability of a 1 in 2^-16.
    void encode(int y, u32 p) {
        const u64 split = (width >> BIT_BITS) * p;
        if (y) {
            width = split;
        } else {
            const u64 before = low;
            low += split;
            if (low < before) carry();
            width -= split;
        }
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

class Decoder {
    const u8* data;
    i64 size, at = 8;
    u64 value = 0, width = ~u64(0);

  public:
    Decoder(const u8* from, i64 count) : data(from), size(count) {
        for (int i = 0; i < 8; i++) value = value << 8 | (i < size ? data[i] : 0);
    }
    i64 read() const { return at; }
    bool ends_early() const { return at > size + 8; }

    int decode(u32 p) {
        const u64 split = (width >> BIT_BITS) * p;
        const int y = value < split;
        if (y) {
            width = split;
        } else {
            value -= split;
            width -= split;
        }
        while (width < BOTTOM) {
            value = value << 8 | (at < size ? data[at] : 0);
            at++;
            width <<= 8;
        }
        return y;
    }
};

// Frequencies of one row of logits.
class Frequencies {
    std::vector<i64> coarse, fine;
    i64 size;
    int fine_bits, knot_bits;

  public:
    explicit Frequencies(const fs_block& b)
        : coarse(b.coarse, b.coarse + b.coarse_size), fine(b.fine, b.fine + (i64(1) << b.fine_bits)), size(b.symbols),
          fine_bits(static_cast<int>(b.fine_bits)), knot_bits(static_cast<int>(b.knot_bits)) {
        coarse.push_back(0);
    }

    // out (V). Logits: integers, below 2^53 in size.
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
        const i64 budget = TOTAL - size;
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
        out[best] += TOTAL - sum;
    }
};

// The coder of one block: its mixer, what a network says of each lane's next byte, and one range coder for all lanes.
class Block {
    mixing::Tables tables;
    mixing::Mixer mixer;
    Frequencies frequencies;
    i64 lanes, size, start;
    bool encoding_;
    std::vector<u8> alphabet;
    std::vector<i32> symbol_of;  // of a byte; the start symbol outside the alphabet
    const u8* text;
    std::vector<i32> previous_;
    std::vector<mixing::Masses> masses;
    Encoder encoder;
    Decoder decoder;

  public:
    explicit Block(const fs_block& b)
        : tables(*b.mixing), mixer(tables, b.length, b.lanes, b.symbols != 0), frequencies(b), lanes(b.lanes), size(b.symbols),
          start(b.start), encoding_(b.text != nullptr), alphabet(b.alphabet, b.alphabet + b.symbols),
          symbol_of(256, static_cast<i32>(b.start)), text(b.text), previous_(b.lanes, static_cast<i32>(b.start)),
          masses(b.symbols ? b.lanes : 0), decoder(b.payload, b.payload_size) {
        for (i64 j = 0; j < size; j++) symbol_of[alphabet[j]] = static_cast<i32>(j);
    }

    const i32* previous() const { return previous_.data(); }
    i64 active(i64 t) const { return mixer.active(t); }
    i64 symbol_count() const { return size; }
    Encoder& encoding() { return encoder; }
    const Decoder& decoding() const { return decoder; }
    const u8* bytes() const { return mixer.bytes(); }

    // A lane's part of a step that can be done beside the others'.
    template <class T>
    void prepare(const T* logits, i64 lane) {
        i64 row[256];
        frequencies.of(logits, row);
        mixing::spread(masses[lane], row, alphabet.data(), size, tables);
    }

    // The step's bytes, lane after lane. False: the payload ends too early.
    bool code(i64 t) {
        const i64 count = active(t);
        for (i64 lane = 0; lane < count; lane++) {
            mixer.begin(lane, t, size ? &masses[lane] : nullptr);
            if (encoding_) {
                const u8 byte = text[mixer.place(lane, t)];
                for (int bit = 7; bit >= 0; bit--) {
                    const int y = byte >> bit & 1;
                    encoder.encode(y, static_cast<u32>(mixer.predict()));
                    mixer.update(y);
                }
            } else {
                for (int bit = 7; bit >= 0; bit--) mixer.update(decoder.decode(static_cast<u32>(mixer.predict())));
                if (decoder.ends_early()) return false;
            }
            previous_[lane] = symbol_of[mixer.end()];
        }
        for (i64 lane = count; lane < lanes; lane++) previous_[lane] = static_cast<i32>(start);
        return true;
    }
};

}  // namespace codec
}  // namespace fastslow
