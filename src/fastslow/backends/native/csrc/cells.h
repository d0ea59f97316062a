// All cells by their code in fastslow/cells/ (`Kind.code`).
#pragma once
#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/simple.h"

namespace fastslow {

template <class T>
CellCode<T> cell_code(i64 code, bool norm, i64 zoneout) {
    switch (code) {
        case 1: return code_of<GRU, T>(norm, zoneout);
        case 2: return code_of<Simple, T>(false, zoneout);
        case 3: return code_of<Simple, T>(true, zoneout);
        default: return code_of<LSTM, T>(norm, zoneout);
    }
}

// The caller's vectors of a node (of a window or a step), and the places of their blocks.
constexpr int MOST_VECTORS = 8;

// vectors (blocks of `padded` elements) = the sum of all given vectors' blocks of `hidden` elements at their places.
template <class T>
void lay_out(T* vectors, i64 blocks, i64 hidden, i64 padded, const void* const* given, const std::int8_t (*places)[4]) {
    std::memset(vectors, 0, sizeof(T) * blocks * padded);
    for (int v = 0; v < MOST_VECTORS; v++) {
        const T* from = static_cast<const T*>(given[v]);
        for (int b = 0; from && b < 4 && places[v][b] >= 0; b++) {
            T* to = vectors + places[v][b] * padded;
            for (i64 u = 0; u < hidden; u++) to[u] += from[b * hidden + u];
        }
    }
}

}  // namespace fastslow
