// Single rows of a table of embeddings, as floats.
#pragma once

#include "vector.h"

namespace edgegpt {

inline float one_float(Kind kind, const std::uint8_t *begin, std::ptrdiff_t place) {
    if (kind == Kind::float32) {
        float value;
        std::memcpy(&value, begin + place * 4, sizeof value);
        return value;
    }
    std::uint16_t half[lanes] = {};
    std::memcpy(half, begin + place * 2, sizeof half[0]);
    float out[lanes];
    store(out, kind == Kind::float16 ? load_float16(half) : load_bfloat16(half));
    return out[0];
}

// Row `id` of a table [vocab, width].
inline void read_row(const Table &table, const std::uint8_t *file, std::int64_t id, int width,
                     float *out) {
    const std::ptrdiff_t begin =
        static_cast<std::ptrdiff_t>(id) * static_cast<std::ptrdiff_t>(width);
    for (int k = 0; k < width; ++k)
        out[k] = one_float(table.kind, file + table.rows, begin + static_cast<std::ptrdiff_t>(k));
}

// The weights of output `id` of a matrix, which is what a tied embedding looks up.
inline void read_row(const Weights &m, std::int64_t id, float *out) {
    const auto tile = static_cast<std::ptrdiff_t>(id / lanes),
               lane = static_cast<std::ptrdiff_t>(id % lanes);
    const std::uint8_t *begin = m.tiles + tile * m.tile_bytes;
    for (int k = 0; k < m.inputs; ++k) {
        const auto input = static_cast<std::ptrdiff_t>(k);
        if (!is_integer(m.kind)) {
            const std::ptrdiff_t place = m.kind == Kind::bfloat16
                                             ? (input / 2 * lanes + lane) * 2 + input % 2
                                             : input * lanes + lane;
            out[k] = one_float(m.kind, begin, place);
            continue;
        }
        const int zero = m.kind == Kind::int8 ? 128 : 8;
        const std::ptrdiff_t four = m.kind == Kind::int8 ? input / 4 : input / 8;
        const int byte = begin[(four * lanes + lane) * 4 + input % 4];
        const int value = m.kind == Kind::int8 ? byte : k % 8 < 4 ? byte & 15 : byte >> 4;
        const float scale = m.scales[(tile * static_cast<std::ptrdiff_t>(m.blocks) +
                                      input / static_cast<std::ptrdiff_t>(m.block)) *
                                         lanes +
                                     lane];
        out[k] = static_cast<float>(value - zero) * scale;
    }
}

}  // namespace edgegpt
