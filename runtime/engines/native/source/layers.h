// What the stacks of a model have in common: how tokens enter, and the parts of a layer.
//
// All threads run the same functions, each on its share, and meet where one reads what another
// wrote. A part that meets says so.
#pragma once

#include "attention.h"
#include "chunk.h"
#include "norms.h"
#include "rotary.h"
#include "rows.h"
#include "team.h"
#include "workspace.h"

namespace edgegpt {

// The slots up to one's own in a row of a cache.
struct Place {
    int row, position;
};

// Keys and values of a layer, how many slots a query sees of them (0: all up to its own), what the
// scores are capped by, and the biases by distance, if there are any.
struct View {
    const Cache &cache;
    int layer, window;
    float cap;
    const float *biases;
};

template <class Stack>
class Layers {
protected:
    Layers(const std::uint8_t *file, const Workspace &space, Team &team)
        : file_(file), space_(space), team_(team) {}

    static constexpr int width = Stack::width, head_dim = Stack::head_dim;
    static constexpr int queries_width = attended_width<Stack>;

    const float *floats(Offset offset) const {
        if (offset == 0) return nullptr;
        if (file_ == nullptr) __builtin_unreachable();  // clang-tidy takes it for possible
        return reinterpret_cast<const float *>(file_ + offset);
    }
    Weights weights(const Matrix &m) const { return in_memory(m, file_); }

    void norm(const Norm &n, const float *x, float *out) const {
        normalise<Stack::norm>(x, width, Stack::epsilon, floats(n.weight), floats(n.bias), out);
    }

    // Meets.
    void embed(Worker w, const Chunk &chunk, float *stream) const {
        const Range mine = share(chunk.count, w.index, w.threads);
        for (int i = mine.first; i < mine.end; ++i) {
            const Token &token = chunk.token[i];
            float *x = stream + i * stream_stride;
            if constexpr (Stack::tied) {
                read_row(weights(Stack::head), token.id, x);
            } else {
                read_row(Stack::embedding, file_, token.id, width, x);
            }
            for (int k = 0; k < width; k += lanes) {
                Floats value = load_part(x, k, width) * all(Stack::embedding_scale);
                if constexpr (Stack::has_places)
                    value = value + load_part(place(token.position), k, width);
                store(x + k, value);
            }
            if (Stack::norm_embedding.weight != 0) norm(Stack::norm_embedding, x, x);
        }
        team_.meet(w);
    }

    const float *place(int position) const {
        return floats(Stack::places.rows) + static_cast<std::ptrdiff_t>(position) * width;
    }

    static void copy_row(const float *x, float *out) {
        for (int k = 0; k < width; k += lanes) store(out + k, load_part(x, k, width));
    }

    // ---- what products read ---------------------------------------------------------------

    // Make rows of the width of the stream by make(i, out), rounded as the products with `m` ask.
    // Few rows are made by each thread for itself; of many, each makes its share, and they meet.
    template <class Make>
    Activations prepare(Worker w, const Weights &m, int count, const Make &make) const {
        const bool own = count <= most_own;
        const Prepared to = own ? space_.own(w.index) : space_.shared;
        const Activations made = to.of(to.rows, stream_stride);
        const Range mine = own ? Range{0, count} : share(count, w.index, w.threads);
        for (int i = mine.first; i < mine.end; ++i) {
            make(i, to.rows + i * stream_stride);
            round_row(made, i, m);
        }
        if (!own) team_.meet(w);
        return made;
    }

    // The same for rows that are there already.
    Activations prepare(Worker w, const Weights &m, int count, const float *rows,
                        int stride) const {
        const bool own = count <= most_own;
        const Activations made = (own ? space_.own(w.index) : space_.shared).of(rows, stride);
        if (rounding_for(m.kind) == Rounding::none) return made;
        const Range mine = own ? Range{0, count} : share(count, w.index, w.threads);
        for (int i = mine.first; i < mine.end; ++i) round_row(made, i, m);
        if (!own) team_.meet(w);
        return made;
    }

    // What a part of a layer reads: the stream, or its norm.
    Activations read_stream(Worker w, const Chunk &chunk, const Weights &m, const Norm &n,
                            const float *stream) const {
        if (n.weight == 0) return prepare(w, m, chunk.count, stream, stream_stride);
        return prepare(w, m, chunk.count,
                       [&](int i, float *out) { norm(n, stream + i * stream_stride, out); });
    }

    // ---- what they write ------------------------------------------------------------------

    // wide = m * in + bias. Meets.
    void project(Worker w, const Chunk &chunk, const Matrix &m, const Activations &in) const {
        const Range tiles = share(m.tiles(), w.index, w.threads);
        const float *bias = floats(m.bias);
        multiply(weights(m), in, 0, chunk.count, tiles, [&](int i, int n, Floats y) {
            store(space_.wide + i * wide_stride + n, bias == nullptr ? y : y + load(bias + n));
        });
        team_.meet(w);
    }

    // sum = norm_sum(stream + scale * norm_out(m * in + bias)). Meets.
    void add_to_stream(Worker w, const Chunk &chunk, const Matrix &matrix, const Activations &in,
                       const Norm &norm_out, const Norm &norm_sum, const float *base,
                       float *sum) const {
        const Range tiles = share(matrix.tiles(), w.index, w.threads);
        const float *bias = floats(matrix.bias);
        const bool at_once = norm_out.weight == 0 && norm_sum.weight == 0;
        multiply(weights(matrix), in, 0, chunk.count, tiles, [&](int i, int n, Floats y) {
            const int place = i * stream_stride + n;
            if (bias != nullptr) y = y + load(bias + n);
            if (at_once)
                store(sum + place, added(load(base + place), y));
            else
                store(space_.written + place, y);
        });
        team_.meet(w);
        if (at_once) return;
        const Range mine = share(chunk.count, w.index, w.threads);
        for (int i = mine.first; i < mine.end; ++i) {
            float *y = space_.written + i * stream_stride, *out = sum + i * stream_stride;
            if (norm_out.weight != 0) norm(norm_out, y, y);
            for (int k = 0; k < width; k += lanes)
                store(out + k, added(load(base + i * stream_stride + k), load(y + k)));
            if (norm_sum.weight != 0) norm(norm_sum, out, out);
        }
        team_.meet(w);
    }

    static Floats added(Floats x, Floats y) {
        return x + (Stack::residual_scale == 1.0f ? y : y * all(Stack::residual_scale));
    }

    // ---- attention ------------------------------------------------------------------------

    // Queries, keys and values of the tokens. Meets.
    void project_heads(Worker w, const Chunk &chunk, const AttentionLayer &layer,
                       const float *stream) const {
        project(w, chunk, layer.qkv,
                read_stream(w, chunk, weights(layer.qkv), layer.norm_in, stream));
        if constexpr (Stack::qk_norm == QkNorm::full) norm_all_heads(w, chunk, layer);
    }

    // Meets.
    void norm_all_heads(Worker w, const Chunk &chunk, const AttentionLayer &layer) const {
        const Range mine = share(chunk.count, w.index, w.threads);
        for (int i = mine.first; i < mine.end; ++i) {
            float *q = space_.wide + i * wide_stride, *k = q + queries_width;
            norm_in_place<queries_width>(q, layer.q_norm);
            norm_in_place<Stack::kv_heads * head_dim>(k, layer.k_norm);
        }
        team_.meet(w);
    }

    // Unlike `normalise`, this leaves what follows the row in place.
    template <int count>
    void norm_in_place(float *x, const Norm &n) const {
        float out[up_to(count, lanes)];
        normalise<NormKind::rms>(x, count, Stack::epsilon, floats(n.weight), nullptr, out);
        std::memcpy(x, out, sizeof(float) * count);
    }

    // A query or a key, ready for the scores.
    void ready(const float *x, const Norm &n, const Rotary &rotary, int position,
               float *out) const {
        std::memcpy(out, x, sizeof(float) * head_dim);
        if constexpr (Stack::qk_norm == QkNorm::head) norm_in_place<head_dim>(out, n);
        if (rotary.pairs == 0) return;
        const float *table =
            floats(rotary.table) +
            static_cast<std::ptrdiff_t>(position) * static_cast<std::ptrdiff_t>(2 * rotary.pairs);
        rotate<head_dim>(out, rotary.pairs, table, out);
    }

    // Keys and values of the tokens, into layer `index` of a cache. Meets.
    void write_cache(Worker w, const Chunk &chunk, const AttentionLayer &layer, const Cache &cache,
                     int index) const {
        const Range mine = share(chunk.count * Stack::kv_heads, w.index, w.threads);
        for (int unit = mine.first; unit < mine.end; ++unit) {
            const int i = unit / Stack::kv_heads, head = unit % Stack::kv_heads;
            const Token &token = chunk.token[i];
            const float *k = space_.wide + i * wide_stride + queries_width + head * head_dim;
            float key[up_to(head_dim, lanes)];
            ready(k, layer.k_norm, layer.rotary, token.position, key);
            cache.write_key(index, token.row, head, token.position, key);
            cache.write_value(index, token.row, head, token.position,
                              k + Stack::kv_heads * head_dim);
        }
        team_.meet(w);
    }

    // Fill `attended`. A unit is a head for a run of tokens; `group` heads that are neighbours
    // share keys and values. Token i sees place_of(i), by what query_of(i, head, out) writes.
    // Meets.
    template <int group, class PlaceOf, class QueryOf>
    void attend_all(Worker w, const Chunk &chunk, const Run *runs, int count, const View &view,
                    const PlaceOf &place_of, const QueryOf &query_of) const {
        const Range mine = share(Stack::heads * count, w.index, w.threads);
        for (int unit = mine.first; unit < mine.end;) {
            const int number = unit / group, kv_head = number / count;
            const Run &run = runs[number % count];
            const int left = group - unit % group, fit = most_queries / run.count;
            int heads = mine.end - unit < left ? mine.end - unit : left;
            heads = heads < fit ? heads : fit;
            attend_run(chunk, run, kv_head * group + unit % group, heads, kv_head, view, place_of,
                       query_of);
            unit += heads;
        }
        team_.meet(w);
    }

    // The biases of each slot for a query of a head; null if the layer has none.
    static const float *bias(const View &view, int head, int position) {
        if (view.biases == nullptr) return nullptr;
        const std::ptrdiff_t row =
            static_cast<std::ptrdiff_t>(head) * bias_stride(Stack::block_size);
        return view.biases + row + (Stack::block_size - 1 - position);
    }

    // Queries of `heads` neighbouring heads for the tokens of a run.
    template <class PlaceOf, class QueryOf>
    void attend_run(const Chunk &chunk, const Run &run, int first, int heads, int kv_head,
                    const View &view, const PlaceOf &place_of, const QueryOf &query_of) const {
        Queries<head_dim> q;
        q.count = run.count * heads, q.window = view.window, q.cap = view.cap;
        for (int i = 0; i < q.count; ++i) {
            const int number = run.first + i / heads;
            q.position[i] = place_of(number).position;
            q.bias[i] = bias(view, first + i % heads, chunk.token[number].position);
            query_of(number, first + i % heads, q.query[i]);
            for (int k = 0; k < head_dim; ++k) q.query[i][k] *= Stack::attention_scale;
        }
        attend(q, view.cache, view.layer, place_of(run.first).row, kv_head);
        for (int i = 0; i < q.count; ++i) {
            const int number = run.first + i / heads, head = first + i % heads;
            std::memcpy(chunk.attended + number * attended_stride + head * head_dim, q.result[i],
                        sizeof(float) * head_dim);
        }
    }

    // sum = norm_sum(stream + scale * norm_out(m * attended + bias)). Meets.
    void join_heads(Worker w, const Chunk &chunk, const Matrix &m, const Norm &norm_out,
                    const Norm &norm_sum, const float *stream, float *sum) const {
        const Activations found =
            prepare(w, weights(m), chunk.count, chunk.attended, attended_stride);
        add_to_stream(w, chunk, m, found, norm_out, norm_sum, stream, sum);
    }

    // ---- feed-forward ---------------------------------------------------------------------

    static bool rounded_alike(const Matrix &a, const Matrix &b) {
        return rounding_for(a.kind) == rounding_for(b.kind) && a.block == b.block;
    }

    // Meets. `base` is what the attention made of the stream.
    void feed_forward(Worker w, const Chunk &chunk, const FeedForwardLayer &layer,
                      const float *stream, float *base) const {
        const Matrix &first = Stack::gated ? layer.gate : layer.up;
        Activations in = read_stream(w, chunk, weights(first), layer.norm_in, stream);
        const Range tiles = share(first.tiles(), w.index, w.threads);
        widen(chunk, first, in, tiles,
              [](Floats, Floats y) { return activated<Stack::activation>(y); });
        if constexpr (Stack::gated) {
            if (!rounded_alike(layer.gate, layer.up)) {
                team_.meet(w);  // others may still read the rows as rounded for the gate
                in = read_stream(w, chunk, weights(layer.up), layer.norm_in, stream);
            }
            widen(chunk, layer.up, in, tiles, [](Floats gate, Floats y) { return gate * y; });
        }
        team_.meet(w);
        const Activations wide =
            prepare(w, weights(layer.down), chunk.count, space_.wide, wide_stride);
        add_to_stream(w, chunk, layer.down, wide, layer.norm_out, layer.norm_sum, base, base);
    }

    // wide = change(wide, m * in + bias)
    template <class Change>
    void widen(const Chunk &chunk, const Matrix &m, const Activations &in, Range tiles,
               const Change &change) const {
        const float *bias = floats(m.bias);
        multiply(weights(m), in, 0, chunk.count, tiles, [&](int i, int n, Floats y) {
            float *place = space_.wide + i * wide_stride + n;
            store(place, change(load(place), bias == nullptr ? y : y + load(bias + n)));
        });
    }

    const std::uint8_t *file_;
    const Workspace &space_;
    Team &team_;
};

}  // namespace edgegpt
