// A step: new tokens of some rows go through the decoder, a chunk at a time.
#pragma once

#include "layers.h"
#include "streams.h"

namespace edgegpt {

// Which sources the rows of a state attend to: `rows_each` neighbouring rows to each.
struct Reading {
    const Cache *cache = nullptr;          // a row has the keys and values of a source
    const std::int32_t *length = nullptr;  // of each row of the cache
    const std::int32_t *source = nullptr;  // which of these rows the neighbours read
    int rows_each = 1;

    int of(int row) const { return source[row / rows_each]; }
};

class Step : Layers<model::Decoder> {
    using Stack = model::Decoder;

public:
    Step(const std::uint8_t *file, const Cache &cache, const Reading &reading,
         const Workspace &space, Team &team, const Chunk &tokens, const Rest &last)
        : Layers(file, space, team),
          cache_(cache),
          reading_(reading),
          tokens_(tokens),
          last_(last) {}

    // Compute the chunk with all threads.
    void run() {
        team_.run([](void *step, Worker w) { static_cast<const Step *>(step)->work(w); }, this);
    }

    // Compute only the logits of the tokens that are wanted now.
    void run_head() {
        team_.run([](void *step, Worker w) { static_cast<const Step *>(step)->rest(w); }, this);
    }

private:
    void rest(Worker w) const {
        head(w, Stack::parallel && Stack::layers % 2 == 1 ? space_.sum : space_.stream);
    }

    void work(Worker w) const {
        constexpr int final = Stack::layers - 1;
        float *stream = space_.stream, *sum = space_.sum;
        embed(w, tokens_, stream);
        keep(w, tokens_, 0, stream);
        for (int index = 0; index < final; ++index) {
            write_attention(w, index, stream);
            change(w, tokens_, index, stream, sum);
            if (Stack::parallel) {
                float *next = sum;
                sum = stream, stream = next;
            }
            keep(w, tokens_, index + 1, stream);
        }
        write_attention(w, final, stream);
        if (last_.chunk.count == 0) return;
        if (last_.chunk.count < tokens_.count) drop_others(w, stream);
        change(w, last_.chunk, final, stream, sum);
        keep(w, last_.chunk, Stack::layers, Stack::parallel ? sum : stream);
        head(w, Stack::parallel ? sum : stream);
    }

    // Queries, and keys and values in the cache. Meets.
    void write_attention(Worker w, int index, const float *stream) const {
        const AttentionLayer &layer = Stack::layer[index].attention;
        project_heads(w, tokens_, layer, stream);
        write_cache(w, tokens_, layer, cache_, index);
    }

    // What a layer adds to the stream, once the cache has the keys and values. Meets.
    void change(Worker w, const Chunk &chunk, int index, float *stream, float *sum) const {
        float *next = Stack::parallel ? sum : stream;
        read_attention(w, chunk, index, stream, next);
        read_sources<model::has_encoder>(w, chunk, index, next);
        feed_forward(w, chunk, Stack::layer[index].feed_forward, stream, next);
    }

    // Move the queries and the stream of the tokens that go on to the front. Meets.
    void drop_others(Worker w, float *stream) const {
        if (w.index == 0)
            for (int i = 0; i < last_.chunk.count; ++i) {
                const int from = last_.place[i];  // at least i, so that nothing is lost
                std::memmove(stream + i * stream_stride, stream + from * stream_stride,
                             sizeof(float) * stream_stride);
                std::memmove(space_.wide + i * wide_stride, space_.wide + from * wide_stride,
                             sizeof(float) * queries_width);
            }
        team_.meet(w);
    }

    // In a debug build, for `streams`. The others do not write the stream before they meet again.
    void keep(Worker w, const Chunk &chunk, int layers, const float *stream) const {
        if constexpr (keeps_streams)
            if (w.index == 0) streams.keep(layers, chunk, stream, width);
    }

    // Meets.
    void head(Worker w, const float *stream) const {
        const Chunk &chunk = last_.chunk;
        const Weights m = weights(Stack::head);
        const Range tiles = share(Stack::head.tiles(), w.index, w.threads);
        const float *bias = floats(Stack::head.bias);
        const Activations in = prepare(w, m, chunk.wanted, [&](int i, float *out) {
            const float *x = stream + chunk.want[i] * stream_stride;
            if (Stack::norm_final.weight != 0)
                norm(Stack::norm_final, x, out);
            else
                copy_row(x, out);
        });
        multiply(m, in, 0, chunk.wanted, tiles, [&](int i, int n, Floats y) {
            if (bias != nullptr) y = y + load(bias + n);
            store_part(chunk.logits[i] + n, capped(y, Stack::logit_cap), Stack::vocab - n);
        });
        team_.meet(w);
    }

    // Meets.
    void read_attention(Worker w, const Chunk &chunk, int index, const float *stream,
                        float *sum) const {
        const AttentionLayer &layer = Stack::layer[index].attention;
        attend_all<Stack::heads / Stack::kv_heads>(
            w, chunk, chunk.run, chunk.runs,
            {cache_, index, layer.window, Stack::attention_cap, floats(layer.biases)},
            [&](int i) {
                return Place{chunk.token[i].row, chunk.token[i].position};
            },
            [&](int i, int head, float *out) {
                ready(query(i, head), layer.q_norm, layer.rotary, chunk.token[i].position, out);
            });
        join_heads(w, chunk, layer.proj, layer.norm_out, layer.norm_sum, stream, sum);
    }

    const float *query(int i, int head) const {
        return space_.wide + i * wide_stride + head * head_dim;
    }

    // Meets. A template, so that models without an encoder have no such function.
    template <bool there>
    void read_sources(Worker w, const Chunk &chunk, int index, float *stream) const {
        if constexpr (there) {
            const SourceLayer &layer = Stack::layer[index].source;
            project(w, chunk, layer.q,
                    read_stream(w, chunk, weights(layer.q), layer.norm_in, stream));
            attend_all<1>(
                w, chunk, chunk.reader, chunk.readers, {*reading_.cache, index, 0, 0.0f, nullptr},
                [&](int i) {
                    const int source = reading_.of(chunk.token[i].row);
                    return Place{source, reading_.length[source] - 1};
                },
                [&](int i, int head, float *out) {
                    std::memcpy(out, query(i, head), sizeof(float) * head_dim);
                });
            join_heads(w, chunk, layer.proj, layer.norm_out, layer.norm_sum, stream, stream);
        }
    }

    const Cache &cache_;
    const Reading &reading_;
    const Chunk &tokens_;
    const Rest &last_;
};

}  // namespace edgegpt
