// The memory of a step: rows of activations for as many tokens as go through the layers at once.
#pragma once

#include "activations.h"
#include "model.h"
#include "pages.h"

namespace edgegpt {

constexpr int most_tokens = 128;  // of a chunk: their rows fit the second-level cache
constexpr int most_own = 2;  // rows that every thread prepares for itself, which saves a barrier

constexpr int larger(int a, int b) { return a > b ? a : b; }

// The largest number that `of` tells of the matrices in the layers of a stack.
template <class Stack, class Of>
constexpr int largest_in(const Of &of) {
    int found = 0;
    for (const Layer &layer : Stack::layer) {
        const AttentionLayer &own = layer.attention;
        const SourceLayer &source = layer.source;
        const FeedForwardLayer &ff = layer.feed_forward;
        for (const Matrix *m :
             {&own.qkv, &own.proj, &source.q, &source.kv, &source.proj, &ff.gate, &ff.up, &ff.down})
            found = larger(found, of(*m));
    }
    return found;
}
template <class Of>
constexpr int largest_in_layers(const Of &of) {
    return larger(largest_in<model::Decoder>(of), largest_in<model::Encoder>(of));
}
template <class Of>
constexpr int largest_of_all(const Of &of) {
    return larger(of(model::Decoder::head), largest_in_layers(of));
}

// Of a row of activations, with what fills up the last block; a block may be wider than the rows
// are.
constexpr int rounded_bytes(const Matrix &m) {
    return m.blocks() * m.block * (m.kind == Kind::bfloat16 ? 2 : 1);
}
constexpr int blocks_of_integers(const Matrix &m) { return is_integer(m.kind) ? m.blocks() : 0; }
constexpr int outputs_of(const Matrix &m) { return m.outputs; }
constexpr int byte_stride = up_to(largest_of_all(rounded_bytes), 128) + 64;
constexpr int block_stride = up_to(largest_of_all(blocks_of_integers) + 1, lanes);

// Vectors may be read behind the end of a row; an odd number of lines keeps rows apart in caches.
constexpr int stride_of(int width) { return up_to(width, 2 * lanes) + lanes; }
template <class Stack>
constexpr int attended_width = Stack::heads *Stack::head_dim;
constexpr int stream_stride = stride_of(model::Decoder::width);  // the encoder is as wide
constexpr int attended_stride =
    stride_of(larger(attended_width<model::Decoder>, attended_width<model::Encoder>));
constexpr int wide_stride = stride_of(largest_in_layers(outputs_of));

// Normalised rows, and bytes of these or other rows.
struct Prepared {
    float *rows;  // [count][stream_stride]
    float *scales;
    std::int32_t *sums;
    std::int8_t *bytes;

    Activations of(const float *values, int stride) const {
        return {values,      static_cast<std::ptrdiff_t>(stride), bytes, byte_stride, scales, sums,
                block_stride};
    }
};

// Everything that the threads share in a step, and what each prepares for itself.
class Workspace {
public:
    float *stream, *sum;  // [tokens][stream_stride]: the residual stream before and after a part
    float *wide;          // [tokens][wide_stride]: queries, keys, values; or the widened stream
    float *attended;      // [tokens][attended_stride]: what heads have found
    float *written;       // [tokens][stream_stride]: what a part writes, where norms follow
    Prepared shared;

    // Return whether there was room.
    bool reserve(int threads) {
        Cursor measure{nullptr, 0};
        lay_out(measure, threads);
        if (!pages_.reserve(measure.used)) return false;
        Cursor cursor{pages_.begin(), 0};
        lay_out(cursor, threads);
        return true;
    }

    Prepared own(int thread) const {
        Cursor cursor{own_, own_bytes_ * static_cast<std::size_t>(thread)};
        return prepared(cursor, most_own);
    }

private:
    struct Cursor {
        char *memory;
        std::size_t used;

        template <class Item>
        Item *take(int count, int stride) {
            void *begin = memory + used;
            const auto bytes = static_cast<std::size_t>(count) * static_cast<std::size_t>(stride);
            used += (bytes * sizeof(Item) + 63) / 64 * 64;
            return static_cast<Item *>(begin);
        }
    };

    static Prepared prepared(Cursor &cursor, int count) {
        return {cursor.take<float>(count, stream_stride), cursor.take<float>(count, block_stride),
                cursor.take<std::int32_t>(count, block_stride),
                cursor.take<std::int8_t>(count, byte_stride)};
    }

    void lay_out(Cursor &cursor, int threads) {
        stream = cursor.take<float>(most_tokens, stream_stride);
        sum = cursor.take<float>(most_tokens, stream_stride);
        wide = cursor.take<float>(most_tokens, wide_stride);
        attended = cursor.take<float>(most_tokens, attended_stride);
        written = cursor.take<float>(most_tokens, stream_stride);
        shared = prepared(cursor, most_tokens);
        own_ = cursor.memory + cursor.used;
        const std::size_t before = cursor.used;
        prepared(cursor, most_own);
        own_bytes_ = cursor.used - before;
        cursor.used += own_bytes_ * static_cast<std::size_t>(threads - 1);
    }

    Pages pages_;
    char *own_ = nullptr;
    std::size_t own_bytes_ = 0;
};

}  // namespace edgegpt
