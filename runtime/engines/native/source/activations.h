// What products read: rows of floats, and the same rounded: to int8 by block for integer weights,
// to bfloat16 for weights of that type.
#pragma once

#include "vector.h"

namespace edgegpt {

// Sums of float products are made in blocks of so many inputs, which keeps their error small.
constexpr int float_block = 128;
constexpr float largest_byte = 127.0f;

struct Activations {
    const float *values;  // [rows][stride]
    std::ptrdiff_t stride;
    std::int8_t *bytes;  // [rows][byte_stride], or numbers of two bytes
    std::ptrdiff_t byte_stride;
    float *scales;       // [rows][block_stride], of each block of bytes
    std::int32_t *sums;  // [rows][block_stride], of the bytes of each block
    std::ptrdiff_t block_stride;

    const float *row(int r) const { return values + r * stride; }
    const std::int8_t *bytes_of(int r) const { return bytes + r * byte_stride; }
    std::uint16_t *halves_of(int r) const {
        return reinterpret_cast<std::uint16_t *>(bytes + r * byte_stride);
    }
    const float *scales_of(int r) const { return scales + r * block_stride; }
    const std::int32_t *sums_of(int r) const { return sums + r * block_stride; }
};

// The lanes of a row that ends after `width` values; zeros behind them. What lies a whole vector
// behind the end is not read: it may be a row that another thread writes.
inline Floats load_part(const float *row, int i, int width) {
    if (i + lanes <= width) return load(row + i);
    return i < width ? select(between(0, width - i), load(row + i), all(0.0f)) : all(0.0f);
}

// The first `count` lanes.
inline void store_part(float *to, Floats x, int count) {
    if (count >= lanes) return store(to, x);
    float all_lanes[lanes];
    store(all_lanes, x);
    for (int i = 0; i < count; ++i) to[i] = all_lanes[i];
}

// Round a block, which has `width` values and is filled up with zeros to `block` bytes.
inline void round_block(const float *x, int width, int block, std::int8_t *bytes, float *scale,
                        std::int32_t *total) {
    Floats top = all(0.0f);
    for (int i = 0; i < block; i += lanes) top = max(top, abs(load_part(x, i, width)));
    const float most = largest(top);
    constexpr float smallest = 1e-30f;  // 127 divided by less might be infinite
    const float factor = most > smallest ? largest_byte / most : 0.0f;
    *scale = most / largest_byte;
    Ints sums = all_ints(0);
    for (int i = 0; i < block; i += lanes)
        sums = sums + store_bytes(bytes + i, round(load_part(x, i, width) * all(factor)));
    *total = sum(sums);
}

inline bool is_finite(const float *x, int width) {
    Floats zeros = all(0.0f);
    for (int i = 0; i < width; i += lanes) zeros = fma(load_part(x, i, width), all(0.0f), zeros);
    return sum(zeros) == 0.0f;
}

// Round a row of activations for a matrix of integers. No integer stands for what is infinite or no
// number; a row that has such gets scales that are none, and so have all its products.
inline void round_to_bytes(const Activations &a, int row, const Weights &m) {
    if (!is_finite(a.row(row), m.inputs)) {
        std::memset(a.bytes + row * a.byte_stride, 0, as_size(m.blocks) * as_size(m.block));
        for (int b = 0; b < m.blocks; ++b) {
            a.scales[row * a.block_stride + b] = NAN;
            a.sums[row * a.block_stride + b] = 0;
        }
        return;
    }
    for (int b = 0; b < m.blocks; ++b) {
        const int begin = b * m.block, left = m.inputs - begin;
        round_block(a.row(row) + begin, left < m.block ? left : m.block, m.block,
                    a.bytes + row * a.byte_stride + begin, a.scales + row * a.block_stride + b,
                    a.sums + row * a.block_stride + b);
    }
}

// Round a row to bfloat16; zeros fill it up to whole vectors.
inline void round_to_bfloat16(const Activations &a, int row, int width) {
    for (int i = 0; i < width; i += lanes)
        store_bfloat16(a.halves_of(row) + i, load_part(a.row(row), i, width));
}

// Round a row of activations for the products with a matrix.
inline void round_row(const Activations &a, int row, const Weights &m) {
    switch (rounding_for(m.kind)) {
        case Rounding::none: return;
        case Rounding::bfloat16: return round_to_bfloat16(a, row, m.inputs);
        case Rounding::bytes: return round_to_bytes(a, row, m);
    }
}

}  // namespace edgegpt
