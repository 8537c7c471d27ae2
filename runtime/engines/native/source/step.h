// A step: new tokens of some rows go through the decoder, a chunk at a time.
#pragma once

#include "layers.h"
#include "streams.h"

namespace edgegpt {

// Which sources the rows of a state attend to: `rows_each` neighbouring rows to each.
struct Reading {
    const Cache *cache = nullptr;  // a row has the keys and values of a source
    const std::int32_t *length = nullptr;  // of each row of the cache
    const std::int32_t *source = nullptr;  // which of these rows the neighbours read
    int rows_each = 1;

    int of(int row) const { return source[row / rows_each]; }
};

class Step : Layers<model::Decoder> {
    using Stack = model::Decoder;

public:
    Step(const std::uint8_t *file, const Cache &cache, const Reading &reading,
         const Workspace &space, Team &team)
        : Layers(file, space, team), cache_(cache), reading_(reading) {
        chunk_.attended = space.attended;
    }

    Chunk chunk_;
    int wanted_ = 0;
    int want_[most_tokens];  // numbers of the tokens whose logits are wanted
    float *logits_[most_tokens];

    // Compute the chunk with all threads.
    void run() {
        if constexpr (model::has_encoder) find_sources();
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
        float *stream = space_.stream, *sum = space_.sum;
        embed(w, chunk_, stream);
        if constexpr (keeps_streams) keep(w, 0, stream);
        for (int index = 0; index < Stack::layers; ++index) {
            const Layer &layer = Stack::layer[index];
            float *next = Stack::parallel ? sum : stream;
            attention(w, index, layer.attention, stream, next);
            attend_sources<model::has_encoder>(w, index, layer.source, next);
            feed_forward(w, chunk_, layer.feed_forward, stream, next);
            if (Stack::parallel) sum = stream, stream = next;
            if constexpr (keeps_streams) keep(w, index + 1, stream);
        }
        head(w, stream);
    }

    // The others do not write the stream before they meet again.
    void keep(Worker w, int layers, const float *stream) const {
        for (int i = 0; w.index == 0 && i < chunk_.count; ++i)
            streams.keep(layers, chunk_.token[i].position, stream + i * stream_stride, width);
    }

    // Meets.
    void head(Worker w, const float *stream) const {
        const Weights m = weights(Stack::head);
        const Range tiles = share(Stack::head.tiles(), w.index, w.threads);
        const float *bias = floats(Stack::head.bias);
        const Activations in = prepare(w, m, wanted_, [&](int i, float *out) {
            const float *x = stream + want_[i] * stream_stride;
            if (Stack::norm_final.weight != 0)
                norm(Stack::norm_final, x, out);
            else
                copy_row(x, out);
        });
        multiply(m, in, 0, wanted_, tiles, [&](int i, int n, Floats y) {
            if (bias != nullptr) y = y + load(bias + n);
            store_part(logits_[i] + n, capped(y, Stack::logit_cap), Stack::vocab - n);
        });
        team_.meet(w);
    }

    // Meets.
    void attention(Worker w, int index, const AttentionLayer &layer, const float *stream,
                   float *sum) const {
        project_heads(w, chunk_, layer, stream);
        write_cache(w, chunk_, layer, cache_, index);
        attend_all<Stack::heads / Stack::kv_heads>(
            w, chunk_, chunk_.run, chunk_.runs, {cache_, index, layer.window, Stack::attention_cap},
            [&](int i) { return Place{chunk_.token[i].row, chunk_.token[i].position}; },
            [&](int i, int head, float *out) {
                ready(query(i, head), layer.q_norm, layer.rotary, chunk_.token[i].position, out);
            });
        join_heads(w, chunk_, layer.proj, layer.norm_out, layer.norm_sum, stream, sum);
    }

    const float *query(int i, int head) const {
        return space_.wide + i * wide_stride + head * head_dim;
    }

    // ---- sources --------------------------------------------------------------------------

    // Join the tokens of a source, which may be of several rows.
    void find_sources() {
        int last = -1;
        sources_ = 0;
        for (int i = 0; i < chunk_.count; ++i) {
            const int source = chunk_.token[i].row / reading_.rows_each;
            if (source == last && source_run_[sources_ - 1].count < most_queries)
                ++source_run_[sources_ - 1].count;
            else
                source_run_[sources_++] = {i, 1};
            last = source;
        }
    }

    // Meets. A template, so that models without an encoder have no such function.
    template <bool there>
    void attend_sources(Worker w, int index, const SourceLayer &layer, float *stream) const {
        if constexpr (there) {
            project(w, chunk_, layer.q,
                    read_stream(w, chunk_, weights(layer.q), layer.norm_in, stream));
            attend_all<1>(
                w, chunk_, source_run_, sources_, {*reading_.cache, index, 0, 0.0f},
                [&](int i) {
                    const int source = reading_.of(chunk_.token[i].row);
                    return Place{source, reading_.length[source] - 1};
                },
                [&](int i, int head, float *out) {
                    std::memcpy(out, query(i, head), sizeof(float) * head_dim);
                });
            join_heads(w, chunk_, layer.proj, layer.norm_out, layer.norm_sum, stream, stream);
        }
    }

    const Cache &cache_;
    const Reading &reading_;
    int sources_ = 0;
    Run source_run_[most_tokens];
};

}  // namespace edgegpt
