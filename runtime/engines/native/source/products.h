// Products of activations with weights in tiles.
//
// An output is the sum over its blocks of inputs, in order, of the sum over a block, in order. So
// its bits are the same however many rows and tiles are computed at once. Integer weights take
// activations rounded to int8 by block, as ONNX Runtime's MatMulNBits does; those of bfloat16 take
// them rounded to bfloat16, as this type computes everywhere, and add in float32.
#pragma once

#include "activations.h"

// GCC's elimination of partial redundancies copies every sum in the innermost loop; without it,
// prompts are a fifth faster.
#if defined(__GNUC__) && !defined(__clang__)
#define EDGEGPT_KERNEL [[gnu::optimize("no-tree-pre")]]
#else
#define EDGEGPT_KERNEL
#endif

namespace edgegpt {

struct Range {
    int first, end;
};

// The part of `count` things that is done by thread `index` of `threads`.
inline Range share(int count, int index, int threads) {
    const auto border = [&](int i) {
        return static_cast<int>(static_cast<std::int64_t>(count) * i / threads);
    };
    return {border(index), border(index + 1)};
}

template <Kind kind>
inline Floats load_weights(const std::uint8_t *p) {
    if constexpr (kind == Kind::float32) return load(reinterpret_cast<const float *>(p));
    return load_float16(reinterpret_cast<const std::uint16_t *>(p));
}

// Processors do not look ahead far enough by themselves: a tile has few pages. So the next tiles
// are called for while these are used.
template <int tiles>
inline void call_ahead(const std::uint8_t *weights, std::ptrdiff_t tile_bytes) {
#pragma GCC unroll 16
    for (int t = 0; t < tiles; ++t) __builtin_prefetch(weights + (tiles + t) * tile_bytes);
}

// Sums over `count` inputs: sums[t][r] += x[r][k] * weights[t][k].
template <Kind kind, int tiles, int rows>
inline void add_products(const std::uint8_t *weights, std::ptrdiff_t tile_bytes, const float *x,
                         std::ptrdiff_t stride, int count, Floats (&sums)[tiles][rows]) {
    constexpr int step = lanes * (kind == Kind::float32 ? 4 : 2);
    for (int k = 0; k < count; ++k, weights += step) {
        call_ahead<tiles>(weights, tile_bytes);
        Floats w[tiles];
#pragma GCC unroll 16
        for (int t = 0; t < tiles; ++t) w[t] = load_weights<kind>(weights + t * tile_bytes);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Floats value = all(x[r * stride + k]);
#pragma GCC unroll 16
            for (int t = 0; t < tiles; ++t) sums[t][r] = fma(value, w[t], sums[t][r]);
        }
    }
}

// The same for bfloat16: of each pair of products, the second one is added first.
template <int tiles, int rows>
inline void add_pair_products(const std::uint8_t *weights, std::ptrdiff_t tile_bytes,
                              const std::uint16_t *x, std::ptrdiff_t stride, int count,
                              Floats (&sums)[tiles][rows]) {
    for (int k = 0; k < count; k += 2, weights += 4 * lanes) {
        call_ahead<tiles>(weights, tile_bytes);
        Bytes w[tiles];
#pragma GCC unroll 16
        for (int t = 0; t < tiles; ++t) w[t] = load_bytes(weights + t * tile_bytes);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
            for (int t = 0; t < tiles; ++t) add_pairs(sums[t][r], w[t], x + r * stride + k);
    }
}

// Sums of an even number of rows, where the target multiplies eight inputs of two rows at once.
template <Kind kind, int tiles, int rows>
inline void add_row_pairs(const std::uint8_t *weights, std::ptrdiff_t tile_bytes,
                          const std::int8_t *x, std::ptrdiff_t stride, int count,
                          Ints (&sums)[tiles][rows]) {
    constexpr int half = 4 * lanes, step = kind == Kind::int8 ? 2 * half : half;  // bytes
    for (auto &of_tile : sums)
        for (int r = 0; r < rows; r += 2) trade(of_tile[r], of_tile[r + 1]);
    for (int k = 0; k < count; k += 8, weights += step) {
        call_ahead<tiles>(weights, tile_bytes);
        if constexpr (kind == Kind::int8) call_ahead<tiles>(weights + half, tile_bytes);
#pragma GCC unroll 16
        for (int t = 0; t < tiles; ++t) {
            const std::uint8_t *own = weights + t * tile_bytes;
            Bytes four = load_bytes(own), next;
            if constexpr (kind == Kind::int8)
                next = load_bytes(own + half);
            else
                next = high_halves(four), four = low_halves(four);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r += 2) {
                const std::int8_t *p = x + r * stride + k;
                add_row_pair(sums[t][r], sums[t][r + 1], four, next, p, p + stride);
            }
        }
    }
    for (auto &of_tile : sums)
        for (int r = 0; r < rows; r += 2) trade(of_tile[r], of_tile[r + 1]);
}

template <Kind kind, int tiles, int rows>
inline void add_byte_products(const std::uint8_t *weights, std::ptrdiff_t tile_bytes,
                              const std::int8_t *x, std::ptrdiff_t stride, int count,
                              Ints (&sums)[tiles][rows]) {
    if constexpr (pairs_rows && rows % 2 == 0)
        return add_row_pairs<kind>(weights, tile_bytes, x, stride, count, sums);
    constexpr int inputs = kind == Kind::int8 ? 4 : 8;  // in 64 bytes of weights
    for (int k = 0; k < count; k += inputs, weights += 4 * lanes) {
        call_ahead<tiles>(weights, tile_bytes);
        Bytes w[tiles];
#pragma GCC unroll 16
        for (int t = 0; t < tiles; ++t) w[t] = load_bytes(weights + t * tile_bytes);
        if constexpr (kind == Kind::int8) {
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
                for (int t = 0; t < tiles; ++t) add_dot<128>(sums[t][r], w[t], x + r * stride + k);
        } else {
            Bytes low[tiles], high[tiles];
#pragma GCC unroll 16
            for (int t = 0; t < tiles; ++t) low[t] = low_halves(w[t]), high[t] = high_halves(w[t]);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
                for (int t = 0; t < tiles; ++t) {
                    add_dot<8>(sums[t][r], low[t], x + r * stride + k);
                    add_dot<8>(sums[t][r], high[t], x + r * stride + k + 4);
                }
        }
    }
}

// The outputs of neighbouring tiles for neighbouring rows of activations, out [rows][tiles * 16].
template <Kind kind, int tiles, int rows>
EDGEGPT_KERNEL void float_outputs(const Weights &m, const Activations &in, int tile, int row,
                                  float *out) {
    const std::uint8_t *weights = m.tiles + static_cast<std::ptrdiff_t>(tile) * m.tile_bytes;
    Floats total[tiles][rows];
    for (auto &of_tile : total)
        for (Floats &each_row : of_tile) each_row = all(0.0f);
    for (int begin = 0; begin < m.inputs; begin += float_block) {
        const int count = m.inputs - begin < float_block ? m.inputs - begin : float_block;
        Floats sums[tiles][rows];
        for (auto &of_tile : sums)
            for (Floats &each_row : of_tile) each_row = all(0.0f);
        if constexpr (kind == Kind::bfloat16)
            add_pair_products(weights, m.tile_bytes, in.halves_of(row) + begin, in.byte_stride / 2,
                              count, sums);
        else
            add_products<kind>(weights, m.tile_bytes, in.row(row) + begin, in.stride, count, sums);
        for (int t = 0; t < tiles; ++t)
            for (int r = 0; r < rows; ++r) total[t][r] = total[t][r] + sums[t][r];
        weights += static_cast<std::ptrdiff_t>(count) * lanes * (kind == Kind::float32 ? 4 : 2);
    }
    for (int t = 0; t < tiles; ++t)
        for (int r = 0; r < rows; ++r) store(out + (r * tiles + t) * lanes, total[t][r]);
}

template <Kind kind, int tiles, int rows>
EDGEGPT_KERNEL void integer_outputs(const Weights &m, const Activations &in, int tile, int row,
                                    float *out) {
    constexpr int zero = kind == Kind::int8 ? 128 : 8;
    const std::ptrdiff_t block_bytes = m.tile_bytes / m.blocks;
    const std::uint8_t *weights = m.tiles + static_cast<std::ptrdiff_t>(tile) * m.tile_bytes;
    const float *scales = m.scales + static_cast<std::ptrdiff_t>(tile) * m.blocks * lanes;
    Floats total[tiles][rows];
    for (auto &of_tile : total)
        for (Floats &each_row : of_tile) each_row = all(0.0f);
    for (int b = 0; b < m.blocks; ++b, weights += block_bytes) {
        Ints sums[tiles][rows];
        for (int t = 0; t < tiles; ++t)
            for (int r = 0; r < rows; ++r) sums[t][r] = start(zero, in.sums_of(row + r)[b]);
        add_byte_products<kind>(weights, m.tile_bytes, in.bytes_of(row) + b * m.block,
                                in.byte_stride, m.block, sums);
        for (int t = 0; t < tiles; ++t) {
            const Floats scale = load(scales + (t * m.blocks + b) * lanes);
            for (int r = 0; r < rows; ++r)
                total[t][r] =
                    fma(to_floats(sums[t][r]), all(in.scales_of(row + r)[b]) * scale, total[t][r]);
        }
    }
    for (int t = 0; t < tiles; ++t)
        for (int r = 0; r < rows; ++r) store(out + (r * tiles + t) * lanes, total[t][r]);
}

// The kernel for a kind of weights; a switch, so that only the kinds that a model has are called.
template <int tiles, int rows>
inline void outputs(const Weights &m, const Activations &in, int tile, int row, float *out) {
    switch (m.kind) {
        case Kind::float32: return float_outputs<Kind::float32, tiles, rows>(m, in, tile, row, out);
        case Kind::float16: return float_outputs<Kind::float16, tiles, rows>(m, in, tile, row, out);
        case Kind::bfloat16:
            return float_outputs<Kind::bfloat16, tiles, rows>(m, in, tile, row, out);
        case Kind::int8: return integer_outputs<Kind::int8, tiles, rows>(m, in, tile, row, out);
        case Kind::int4: return integer_outputs<Kind::int4, tiles, rows>(m, in, tile, row, out);
    }
}

// Call use(row, first output, 16 outputs) for all rows and the tiles of a range.
template <int tiles, int rows, class Use>
inline void some_outputs(const Weights &m, const Activations &in, int tile, int row,
                         const Use &use) {
    alignas(64) float out[rows * tiles * lanes];
    outputs<tiles, rows>(m, in, tile, row, out);
    for (int r = 0; r < rows; ++r)
        for (int t = 0; t < tiles; ++t)
            use(row + r, (tile + t) * lanes, load(out + (r * tiles + t) * lanes));
}

constexpr int fewer(int rows) { return rows > 4 ? 4 : rows - 1; }

// All rows for some tiles, as many at once as the registers hold.
template <int tiles, int rows, class Use>
inline void for_rows(const Weights &m, const Activations &in, int first, int end, int tile,
                     const Use &use) {
    for (; first + rows <= end; first += rows) some_outputs<tiles, rows>(m, in, tile, first, use);
    if constexpr (rows > 1)
        if (first < end) for_rows<tiles, fewer(rows)>(m, in, first, end, tile, use);
}

// So many tiles of a range at a time, then half as many. Each is used for all rows before the next.
template <int tiles, class Use>
void for_tiles(const Weights &m, const Activations &in, int first, int end, Range range,
               const Use &use) {
    constexpr int rows = most_sums / tiles < most_rows ? most_sums / tiles : most_rows;
    for (; range.first + tiles <= range.end; range.first += tiles)
        for_rows<tiles, rows>(m, in, first, end, range.first, use);
    if constexpr (tiles > 1) for_tiles<tiles / 2>(m, in, first, end, range, use);
}

// Multiply rows first .. end - 1 by a range of tiles. A few rows wait for the memory, which is
// fastest when it is read in order.
template <class Use>
void multiply(const Weights &m, const Activations &in, int first, int end, Range tiles,
              const Use &use) {
    if (end - first <= most_rows) return for_tiles<1>(m, in, first, end, tiles, use);
    for_tiles<most_tiles>(m, in, first, end, tiles, use);
}

// The same for a few rows, and weights that are not far: sums that wait for the one before them
// are what takes time, so more tiles are taken at once.
template <class Use>
void multiply_near(const Weights &m, const Activations &in, int first, int end, Range tiles,
                   const Use &use) {
    constexpr int many = 4, some = 2;
    const int rows = end - first;
    if (rows * many <= most_sums) return for_tiles<many>(m, in, first, end, tiles, use);
    if (rows * some <= most_sums) return for_tiles<some>(m, in, first, end, tiles, use);
    for_tiles<most_tiles>(m, in, first, end, tiles, use);
}

}  // namespace edgegpt
