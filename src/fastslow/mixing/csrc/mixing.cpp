// The entry points, plain C; fastslow/mixing/native.py mirrors them.
#include "mixer.h"

using namespace fastslow::mixing;

namespace {

// A mixer with its own tables and its position in the text.
struct Session {
    Tables tables;
    Mixer mixer;
    i64 lane = 0, step = 0;

    Session(const fs_mixing_tables& t, i64 length, i64 lanes, bool network) : tables(t), mixer(tables, length, lanes, network) {}
};

}  // namespace

extern "C" {

#define FS_PUBLIC __attribute__((visibility("default")))

FS_PUBLIC std::int64_t fs_mixing_abi() { return sizeof(fs_mixing_tables); }

// A mixer for a text of this many bytes, or null if there is not enough memory.
FS_PUBLIC void* fs_mixer_make(const fs_mixing_tables* tables, std::int64_t length, std::int64_t lanes, std::int64_t network) {
    try {
        return new Session(*tables, length, lanes, network != 0);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
FS_PUBLIC void fs_mixer_free(void* session) { delete static_cast<Session*>(session); }

// The next `count` bytes, in order of steps, then of lanes, within the length. frequencies (count, V): the network's
// predictions for the bytes in `symbols` (V); null without one. probabilities (count, 8): of each bit that occurred.
// likeliest, chances (count, most): the likeliest bytes at each place and their probabilities.
FS_PUBLIC void fs_mixer_code(void* session, const std::uint8_t* bytes, std::int64_t count, const std::int64_t* frequencies,
                             const std::uint8_t* symbols, std::int64_t size, std::uint16_t* probabilities, std::int64_t most,
                             std::uint8_t* likeliest, std::uint32_t* chances) {
    Session& its = *static_cast<Session*>(session);
    Mixer& mixer = its.mixer;
    Masses masses;
    for (i64 i = 0; i < count; i++) {
        if (frequencies) spread(masses, frequencies + i * size, symbols, size, its.tables);
        mixer.begin(its.lane, its.step, frequencies ? &masses : nullptr);
        if (most) mixer.likeliest(static_cast<int>(most), likeliest + i * most, chances + i * most);
        for (int bit = 7; bit >= 0; bit--) {
            const int y = bytes[i] >> bit & 1, p = mixer.predict();
            probabilities[8 * i + 7 - bit] = static_cast<u16>(y ? p : 65536 - p);
            mixer.update(y);
        }
        mixer.end();
        if (++its.lane == mixer.active(its.step)) its.lane = 0, its.step++;
    }
}

// Whether this build's instructions run on this machine.
FS_PUBLIC std::int64_t fs_self_test() { return 1; }

}  // extern "C"
