// The types of the constants in model.h, which is generated for each bundle.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgegpt {

constexpr int lanes = 16;  // outputs of a tile, and numbers of a vector

constexpr int up_to(int count, int multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

// For functions that take sizes without a sign.
constexpr std::size_t as_size(std::ptrdiff_t count) { return static_cast<std::size_t>(count); }

enum class Kind { float32, float16, bfloat16, int8, int4 };
enum class NormKind { layer, rms };
enum class Activation { relu, relu2, gelu, gelu_tanh, silu };
enum class QkNorm { none, head, full };

using Offset = std::uint64_t;  // bytes from the begin of the weight file; 0: no such tensor

constexpr bool is_integer(Kind kind) { return kind == Kind::int8 || kind == Kind::int4; }

// What the activations of a product are rounded to.
enum class Rounding { none, bfloat16, bytes };
constexpr Rounding rounding_for(Kind kind) {
    if (is_integer(kind)) return Rounding::bytes;
    return kind == Kind::bfloat16 ? Rounding::bfloat16 : Rounding::none;
}

// Biases of a head for texts of up to so many tokens: entry i is that of the distance i - (span -
// 1), key minus query. Whole vectors are read behind the last one.
constexpr int bias_stride(int span) { return up_to(2 * span - 1 + lanes, lanes); }

// A weight [outputs, inputs] in tiles of 16 outputs. Integers lie in blocks of `block` inputs, the
// last of which is filled up, with a scale [tile][block][16] each:
//   float32, float16            [tile][input][16]
//   bfloat16                    [tile][input / 2][16][2], the last pair filled up
//   int8                        [tile][block][input / 4][16][4], zero point 128
//   int4                        [tile][block][input / 8][16][4] bytes, zero point 8; the low halves
//                               of four bytes are inputs 0 to 3, the high halves 4 to 7
// The bias is float32, and like the outputs filled up to whole tiles.
struct Matrix {
    Kind kind;
    int outputs, inputs, block;
    Offset weights, scales, bias;

    constexpr int tiles() const { return (outputs + lanes - 1) / lanes; }
    constexpr int blocks() const { return (inputs + block - 1) / block; }
    constexpr std::ptrdiff_t tile_bytes() const {
        switch (kind) {
            case Kind::float32: return static_cast<std::ptrdiff_t>(inputs) * lanes * 4;
            case Kind::float16: return static_cast<std::ptrdiff_t>(inputs) * lanes * 2;
            case Kind::bfloat16: return static_cast<std::ptrdiff_t>(up_to(inputs, 2)) * lanes * 2;
            case Kind::int8: return static_cast<std::ptrdiff_t>(blocks()) * block * lanes;
            case Kind::int4: return static_cast<std::ptrdiff_t>(blocks()) * block * lanes / 2;
        }
        return 0;
    }
};

// A matrix in memory, and the tiles of a cache, which are never integers.
struct Weights {
    Kind kind;
    int inputs, block, blocks;
    const std::uint8_t *tiles;
    std::ptrdiff_t tile_bytes;
    const float *scales;
};

inline Weights in_memory(const Matrix &m, const std::uint8_t *file) {
    const auto *scales = reinterpret_cast<const float *>(file + m.scales);
    return {m.kind, m.inputs, m.block, m.blocks(), file + m.weights, m.tile_bytes(), scales};
}

// float32, filled up to whole vectors with zeros; a LayerNorm may have no bias, an RMSNorm has
// none.
struct Norm {
    Offset weight, bias;
};

// Rows [count, width] one after the other, in a type of floats.
struct Table {
    Kind kind;
    Offset rows;
};

// Cosines, then sines, of each position: float32 [positions, 2 * pairs].
struct Rotary {
    Offset table;
    int pairs;
};

// How much of the text before it a token sees, itself included; 0: all of it. `biases` are what the
// distance from a query to a key adds to a score: float32 [heads][bias_stride], see `Biases`.
struct AttentionLayer {
    int window;
    Rotary rotary;
    Offset biases;
    Norm norm_in;
    Matrix qkv;
    Norm q_norm, k_norm;
    Matrix proj;
    Norm norm_out, norm_sum;
};

// Attention to the source that a text is made from; `kv` multiplies what an encoder returns.
struct SourceLayer {
    Norm norm_in;
    Matrix q, kv, proj;
    Norm norm_out, norm_sum;
};

struct FeedForwardLayer {
    Norm norm_in;
    Matrix gate, up, down;
    Norm norm_out, norm_sum;
};

// Where there is no encoder, `source` is empty.
struct Layer {
    AttentionLayer attention;
    SourceLayer source;
    FeedForwardLayer feed_forward;
};

}  // namespace edgegpt
