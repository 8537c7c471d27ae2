// A step: new tokens of some rows go through the layers, a chunk at a time.
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

class Step {
public:
    Step(const std::uint8_t *file, const Cache &cache, const Workspace &space, Team &team,
         const Chunk &tokens, const Rest &last)
        : file_(file), cache_(cache), space_(space), team_(team), chunk_(tokens), last_(last) {}

    // Compute the chunk with all threads.
    void run() {
        team_.run([](void *step, Worker w) { static_cast<const Step *>(step)->work(w); }, this);
    }

    // Compute only the logits of the tokens that are wanted now.
    void run_head() {
        team_.run([](void *step, Worker w) { static_cast<const Step *>(step)->rest(w); }, this);
    }

private:
    Step after_last() const { return Step(file_, cache_, space_, team_, last_.chunk, last_); }

    void rest(Worker w) const {
        const float *stream = model::parallel && model::layers % 2 == 1 ? space_.sum : space_.stream;
        after_last().head(w, stream);
    }

    void work(Worker w) const {
        float *stream = space_.stream, *sum = space_.sum;
        embed(w, stream);
        for (int layer = 0; layer < model::layers - 1; ++layer) {
            write_attention(w, layer, stream);
            change(w, layer, stream, sum);
            if (model::parallel) {
                float *next = sum;
                sum = stream, stream = next;
            }
        }
        write_attention(w, model::layers - 1, stream);
        if (last_.chunk.count == 0) return;
        if (last_.chunk.count < chunk_.count) drop_others(w, stream);
        const Step last = after_last();
        last.change(w, model::layers - 1, stream, sum);
        last.head(w, model::parallel ? sum : stream);
    }

    // What a layer adds to the stream, once the cache has the keys and values. Meets.
    void change(Worker w, int layer, float *stream, float *sum) const {
        read_attention(w, layer, stream, model::parallel ? sum : stream);
        feed_forward(w, layer, stream, model::parallel ? sum : stream);
    }

    // Move the queries and the stream of the tokens that go on to the front. Meets.
    void drop_others(Worker w, float *stream) const {
        if (w.index == 0)
            for (int i = 0; i < last_.chunk.count; ++i) {
                const int from = last_.place[i];  // at least i, so that nothing is lost
                std::memmove(stream + i * stream_stride, stream + from * stream_stride,
                             sizeof(float) * stream_stride);
                std::memmove(space_.wide + i * wide_stride, space_.wide + from * wide_stride,
                             sizeof(float) * attended_width);
            }
        team_.meet(w);
    }

    const float *floats(Offset offset) const {
        return offset == 0 ? nullptr : reinterpret_cast<const float *>(file_ + offset);
    }
    Weights weights(const Matrix &m) const { return in_memory(m, file_); }

    void norm(const Norm &n, const float *x, float *out) const {
        normalise<model::norm>(x, model::width, model::epsilon, floats(n.weight), floats(n.bias),
                               out);
    }

    // ---- the begin and the end ------------------------------------------------------------

    // Meets.
    void embed(Worker w, float *stream) const {
        const Range mine = share(chunk_.count, w.index, w.threads);
        for (int i = mine.first; i < mine.end; ++i) {
            const Token &token = chunk_.token[i];
            float *x = stream + i * stream_stride;
            if constexpr (model::tied) {
                read_row(weights(model::head), token.id, x);
            } else {
                read_row(model::embedding, file_, token.id, model::width, x);
            }
            for (int k = 0; k < model::width; k += lanes) {
                Floats value = load_part(x, k, model::width) * all(model::embedding_scale);
                if constexpr (model::has_places)
                    value = value + load_part(place(token.position), k, model::width);
                store(x + k, value);
            }
            if (model::norm_embedding.weight != 0) norm(model::norm_embedding, x, x);
        }
        team_.meet(w);
    }

    const float *place(int position) const {
        return floats(model::places.rows) + static_cast<std::ptrdiff_t>(position) * model::width;
    }

    // Meets.
    void head(Worker w, const float *stream) const {
        const Weights m = weights(model::head);
        const Range tiles = share(model::head.tiles(), w.index, w.threads);
        const float *bias = floats(model::head.bias);
        const Activations in = prepare(w, m, chunk_.wanted, [&](int i, float *out) {
            const float *x = stream + chunk_.want[i] * stream_stride;
            if (model::norm_final.weight != 0)
                norm(model::norm_final, x, out);
            else
                copy_row(x, out);
        });
        multiply(m, in, 0, chunk_.wanted, tiles, [&](int i, int n, Floats y) {
            if (bias != nullptr) y = y + load(bias + n);
            store_part(chunk_.logits[i] + n, capped(y, model::logit_cap), model::vocab - n);
        });
        team_.meet(w);
    }

    static void copy_row(const float *x, float *out) {
        for (int k = 0; k < model::width; k += lanes) store(out + k, load_part(x, k, model::width));
    }

    // ---- what products read ---------------------------------------------------------------

    // Make rows of the width of the stream by make(i, out), and round them if `m` is of integers.
    // Few rows are made by each thread for itself; of many, each makes its share, and they meet.
    template <class Make>
    Activations prepare(Worker w, const Weights &m, int count, const Make &make) const {
        const bool own = count <= most_own;
        const Prepared to = own ? space_.own(w.index) : space_.shared;
        const Activations made = to.of(to.rows, stream_stride);
        const Range mine = own ? Range{0, count} : share(count, w.index, w.threads);
        for (int i = mine.first; i < mine.end; ++i) {
            make(i, to.rows + i * stream_stride);
            if (is_integer(m.kind)) round_row(made, i, m);
        }
        if (!own) team_.meet(w);
        return made;
    }

    // The same for rows that are there already.
    Activations prepare(Worker w, const Weights &m, int count, const float *rows,
                        int stride) const {
        const bool own = count <= most_own;
        const Activations made = (own ? space_.own(w.index) : space_.shared).of(rows, stride);
        if (!is_integer(m.kind)) return made;
        const Range mine = own ? Range{0, count} : share(count, w.index, w.threads);
        for (int i = mine.first; i < mine.end; ++i) round_row(made, i, m);
        if (!own) team_.meet(w);
        return made;
    }

    // What a part of a layer reads: the stream, or its norm.
    Activations read_stream(Worker w, const Weights &m, const Norm &n, const float *stream) const {
        if (n.weight == 0) return prepare(w, m, chunk_.count, stream, stream_stride);
        return prepare(w, m, chunk_.count,
                       [&](int i, float *out) { norm(n, stream + i * stream_stride, out); });
    }

    // sum = norm_sum(stream + scale * norm_out(m * in + bias)). Meets.
    void add_to_stream(Worker w, const Matrix &matrix, const Activations &in, const Norm &norm_out,
                       const Norm &norm_sum, const float *base, float *sum) const {
        const Range tiles = share(matrix.tiles(), w.index, w.threads);
        const float *bias = floats(matrix.bias);
        const bool at_once = norm_out.weight == 0 && norm_sum.weight == 0;
        multiply(weights(matrix), in, 0, chunk_.count, tiles, [&](int i, int n, Floats y) {
            const int place = i * stream_stride + n;
            if (bias != nullptr) y = y + load(bias + n);
            if (at_once)
                store(sum + place, added(load(base + place), y));
            else
                store(space_.written + place, y);
        });
        team_.meet(w);
        if (at_once) return;
        const Range mine = share(chunk_.count, w.index, w.threads);
        for (int i = mine.first; i < mine.end; ++i) {
            float *y = space_.written + i * stream_stride, *out = sum + i * stream_stride;
            if (norm_out.weight != 0) norm(norm_out, y, y);
            for (int k = 0; k < model::width; k += lanes)
                store(out + k, added(load(base + i * stream_stride + k), load(y + k)));
            if (norm_sum.weight != 0) norm(norm_sum, out, out);
        }
        team_.meet(w);
    }

    static Floats added(Floats x, Floats y) {
        return x + (model::residual_scale == 1.0f ? y : y * all(model::residual_scale));
    }

    // ---- attention ------------------------------------------------------------------------

    static constexpr int head_dim = model::head_dim;
    static constexpr int group = model::heads / model::kv_heads;

    // Queries, and keys and values in the cache. Meets.
    void write_attention(Worker w, int index, const float *stream) const {
        const AttentionLayer &layer = model::layer[index].attention;
        const Weights qkv = weights(layer.qkv);
        const float *bias = floats(layer.qkv.bias);
        const Activations in = read_stream(w, qkv, layer.norm_in, stream);
        const Range tiles = share(layer.qkv.tiles(), w.index, w.threads);
        multiply(qkv, in, 0, chunk_.count, tiles, [&](int i, int n, Floats y) {
            store(space_.wide + i * wide_stride + n, bias == nullptr ? y : y + load(bias + n));
        });
        team_.meet(w);
        if constexpr (model::qk_norm == QkNorm::full) norm_all_heads(w, layer);
        write_cache(w, index, layer);
    }

    // Meets.
    void read_attention(Worker w, int index, const float *stream, float *sum) const {
        const AttentionLayer &layer = model::layer[index].attention;
        attend_all(w, index, layer);
        const Activations out =
            prepare(w, weights(layer.proj), chunk_.count, space_.attended, attended_stride);
        add_to_stream(w, layer.proj, out, layer.norm_out, layer.norm_sum, stream, sum);
    }

    // Meets.
    void norm_all_heads(Worker w, const AttentionLayer &layer) const {
        const Range mine = share(chunk_.count, w.index, w.threads);
        for (int i = mine.first; i < mine.end; ++i) {
            float *q = space_.wide + i * wide_stride, *k = q + attended_width;
            norm_in_place<attended_width>(q, layer.q_norm);
            norm_in_place<model::kv_heads * head_dim>(k, layer.k_norm);
        }
        team_.meet(w);
    }

    // Unlike `normalise`, this leaves what follows the row in place.
    template <int count>
    void norm_in_place(float *x, const Norm &n) const {
        float out[up_to(count, lanes)];
        normalise<NormKind::rms>(x, count, model::epsilon, floats(n.weight), nullptr, out);
        std::memcpy(x, out, sizeof(float) * count);
    }

    // A query or a key, ready for the scores.
    void ready(const float *x, const Norm &n, const Rotary &rotary, int position,
               float *out) const {
        std::memcpy(out, x, sizeof(float) * head_dim);
        if constexpr (model::qk_norm == QkNorm::head) norm_in_place<head_dim>(out, n);
        if (rotary.pairs == 0) return;
        const float *table =
            floats(rotary.table) +
            static_cast<std::ptrdiff_t>(position) * static_cast<std::ptrdiff_t>(2 * rotary.pairs);
        rotate<head_dim>(out, rotary.pairs, table, out);
    }

    // Keys and values of the new tokens. Meets.
    void write_cache(Worker w, int index, const AttentionLayer &layer) const {
        const Range mine = share(chunk_.count * model::kv_heads, w.index, w.threads);
        for (int unit = mine.first; unit < mine.end; ++unit) {
            const int i = unit / model::kv_heads, head = unit % model::kv_heads;
            const Token &token = chunk_.token[i];
            const float *k = space_.wide + i * wide_stride + attended_width + head * head_dim;
            float key[up_to(head_dim, lanes)];
            ready(k, layer.k_norm, layer.rotary, token.position, key);
            cache_.write_key(index, token.row, head, token.position, key);
            cache_.write_value(index, token.row, head, token.position,
                               k + model::kv_heads * head_dim);
        }
        team_.meet(w);
    }

    // A unit is a head for a run of tokens; heads that share keys and values are neighbours. Meets.
    void attend_all(Worker w, int index, const AttentionLayer &layer) const {
        const Range mine = share(model::heads * chunk_.runs, w.index, w.threads);
        for (int unit = mine.first; unit < mine.end;) {
            const int place = unit / group, head = place / chunk_.runs;
            const Run &run = chunk_.run[place % chunk_.runs];
            const int left = group - unit % group, fit = most_queries / run.count;
            int heads = mine.end - unit < left ? mine.end - unit : left;
            heads = heads < fit ? heads : fit;
            attend_run(index, layer, run, head, head * group + unit % group, heads);
            unit += heads;
        }
        team_.meet(w);
    }

    // Queries of `heads` neighbouring heads for the tokens of a run.
    void attend_run(int index, const AttentionLayer &layer, const Run &run, int kv_head, int first,
                    int heads) const {
        Queries<head_dim> q;
        q.count = run.count * heads, q.window = layer.window, q.cap = model::attention_cap;
        for (int i = 0; i < q.count; ++i) {
            const int number = run.first + i / heads, head = first + i % heads;
            q.position[i] = chunk_.token[number].position;
            float *query = q.query[i];
            ready(space_.wide + number * wide_stride + head * head_dim, layer.q_norm, layer.rotary,
                  q.position[i], query);
            for (int k = 0; k < head_dim; ++k) query[k] *= model::attention_scale;
        }
        attend(q, cache_, index, chunk_.token[run.first].row, kv_head);
        for (int i = 0; i < q.count; ++i) {
            const int number = run.first + i / heads, head = first + i % heads;
            std::memcpy(space_.attended + number * attended_stride + head * head_dim, q.result[i],
                        sizeof(float) * head_dim);
        }
    }

    // ---- feed-forward ---------------------------------------------------------------------

    static bool rounded_alike(const Matrix &a, const Matrix &b) {
        return is_integer(a.kind) == is_integer(b.kind) && a.block == b.block;
    }

    // Meets. `base` is what the attention made of the stream.
    void feed_forward(Worker w, int index, const float *stream, float *base) const {
        const FeedForwardLayer &layer = model::layer[index].feed_forward;
        const Matrix &first = model::gated ? layer.gate : layer.up;
        Activations in = read_stream(w, weights(first), layer.norm_in, stream);
        const Range tiles = share(first.tiles(), w.index, w.threads);
        widen(first, in, tiles, [](Floats, Floats y) { return activated<model::activation>(y); });
        if constexpr (model::gated) {
            if (!rounded_alike(layer.gate, layer.up)) {
                team_.meet(w);  // others may still read the rows as rounded for the gate
                in = read_stream(w, weights(layer.up), layer.norm_in, stream);
            }
            widen(layer.up, in, tiles, [](Floats gate, Floats y) { return gate * y; });
        }
        team_.meet(w);
        const Activations wide =
            prepare(w, weights(layer.down), chunk_.count, space_.wide, wide_stride);
        add_to_stream(w, layer.down, wide, layer.norm_out, layer.norm_sum, base, base);
    }

    // wide = change(wide, m * in + bias)
    template <class Change>
    void widen(const Matrix &m, const Activations &in, Range tiles, const Change &change) const {
        const float *bias = floats(m.bias);
        multiply(weights(m), in, 0, chunk_.count, tiles, [&](int i, int n, Floats y) {
            float *place = space_.wide + i * wide_stride + n;
            store(place, change(load(place), bias == nullptr ? y : y + load(bias + n)));
        });
    }

    const std::uint8_t *file_;
    const Cache &cache_;
    const Workspace &space_;
    Team &team_;
    const Chunk &chunk_;
    const Rest &last_;
};

}  // namespace edgegpt
