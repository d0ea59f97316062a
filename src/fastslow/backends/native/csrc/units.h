// The units for bfloat16 products of this machine.
#pragma once
#include "amx.h"
#include "dots.h"

#ifdef FASTSLOW_BF16
namespace fastslow {
namespace bf16 {

// A unit and a number of parts, as compile-time constants.
template <class UNIT, int N>
struct Kind {
    typedef UNIT Unit;
    static constexpr int PARTS = N;
};

// Calls fn with the Kind for `parts`: on the tile unit, or by dot products, which take one part.
template <class Fn>
void with_kind(bool tiles, i64 parts, Fn fn) {
#ifdef FASTSLOW_AMX
    if (tiles) {
        if (parts == 1)
            fn(Kind<TileUnit, 1>());
        else if (parts == 2)
            fn(Kind<TileUnit, 2>());
        else
            fn(Kind<TileUnit, 3>());
        return;
    }
#endif
    (void)tiles, (void)parts;
    fn(Kind<DotProducts, 1>());
}

}  // namespace bf16
}  // namespace fastslow
#endif
