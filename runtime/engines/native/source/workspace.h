// The memory of a step: rows of activations for as many tokens as go through the layers at once.
#pragma once

#include "activations.h"
#include "model.h"
#include "pages.h"

namespace edgegpt {

constexpr int chunk = 128;   // tokens: their rows fit the second-level cache
constexpr int most_own = 2;  // rows that every thread prepares for itself, which saves a barrier

constexpr int larger(int a, int b) { return a > b ? a : b; }

// Inputs of a matrix with what fills up its last block; a block may be wider than the rows are.
constexpr int filled_up(const Matrix &m) { return m.blocks() * m.block; }
constexpr int widest_input() {
    int found = larger(filled_up(model::head), model::width);
    for (const Layer &layer : model::layer) {
        const AttentionLayer &attention = layer.attention;
        const FeedForwardLayer &ff = layer.feed_forward;
        found = larger(found, larger(filled_up(attention.qkv), filled_up(attention.proj)));
        found = larger(found, larger(filled_up(ff.gate), filled_up(ff.up)));
        found = larger(found, filled_up(ff.down));
    }
    return found;
}
constexpr int byte_stride = up_to(widest_input(), 128) + 64;

constexpr int smaller_block(int block, const Matrix &m) {
    return is_integer(m.kind) && m.block < block ? m.block : block;
}
constexpr int smallest_block() {
    int found = smaller_block(byte_stride, model::head);
    for (const Layer &layer : model::layer) {
        found = smaller_block(smaller_block(found, layer.attention.qkv), layer.attention.proj);
        found = smaller_block(smaller_block(found, layer.feed_forward.gate), layer.feed_forward.up);
        found = smaller_block(found, layer.feed_forward.down);
    }
    return found;
}

// Vectors may be read behind the end of a row; an odd number of lines keeps rows apart in caches.
constexpr int stride_of(int width) { return up_to(width, 2 * lanes) + lanes; }
constexpr int qkv_width = (model::heads + 2 * model::kv_heads) * model::head_dim;
constexpr int attended_width = model::heads * model::head_dim;
constexpr int stream_stride = stride_of(model::width);
constexpr int wide_stride = stride_of(larger(qkv_width, model::inner));
constexpr int attended_stride = stride_of(attended_width);
constexpr int block_stride = up_to(byte_stride / smallest_block() + 1, lanes);

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
    float *stream, *sum;  // [chunk][stream_stride]: the residual stream before and after a part
    float *wide;          // [chunk][wide_stride]: queries, keys, values; or the widened stream
    float *attended;      // [chunk][attended_stride]
    float *written;       // [chunk][stream_stride]: what a part writes, where norms follow
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
        stream = cursor.take<float>(chunk, stream_stride);
        sum = cursor.take<float>(chunk, stream_stride);
        wide = cursor.take<float>(chunk, wide_stride);
        attended = cursor.take<float>(chunk, attended_stride);
        written = cursor.take<float>(chunk, stream_stride);
        shared = prepared(cursor, chunk);
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
