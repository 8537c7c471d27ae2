// Sources go through the encoder, and become keys and values for each layer of the decoder.
//
// A token of a source sees all of it, so all tokens of some sources go through a layer, a chunk at
// a time, before any goes through the next.
#pragma once

#include <memory>

#include "layers.h"
#include "streams.h"

namespace edgegpt {

// Sources one after the other: their numbers of tokens [count], and the ids of all.
struct Texts {
    int count;
    const std::int32_t *length;
    const std::int64_t *ids;
};

// A template, so that models without an encoder have none.
template <class Stack>
class Encoding : Layers<Stack> {
    using Base = Layers<Stack>;
    using Base::head_dim, Base::space_;

public:
    // The keys and values of the first text go to row `row` of `out`, those of others follow.
    Encoding(const std::uint8_t *file, const Workspace &space, Team &team, const Cache &out,
             int row)
        : Base(file, space, team), out_(out), row_(row) {}

    // How many of the texts are best encoded together: as many as fill some chunks, or one.
    static int most_together(const Texts &texts) {
        constexpr int most = 8 * most_tokens;  // places, those that fill up shorter texts included
        int longest = 0, count = 0;
        for (; count < texts.count; ++count) {
            longest = larger(longest, texts.length[count]);
            if (count > 0 && (count + 1) * longest > most) break;
        }
        return count;
    }

    // Encode texts with all threads. Returns whether there was memory for that.
    bool run(const Texts &texts) {
        if (!reserve(texts)) return false;
        cut(texts);
        Base::team_.run([](void *self, Worker w) { static_cast<const Encoding *>(self)->work(w); },
                        this);
        return true;
    }

private:
    static constexpr int heads = Stack::heads;

    bool reserve(const Texts &texts) {
        int tokens = 0, longest = 0;
        for (int i = 0; i < texts.count; ++i)
            tokens += texts.length[i], longest = larger(longest, texts.length[i]);
        count_ = (tokens + most_tokens - 1) / most_tokens;
        chunks_.reset(new (std::nothrow) Chunk[as_size(count_)]);
        own_ = Cache(Kind::float32, texts.count, longest, heads, head_dim);
        const auto rows = static_cast<std::ptrdiff_t>(count_) * most_tokens;
        const std::ptrdiff_t item = sizeof(float), stream = rows * stream_stride * item,
                             attended = rows * attended_stride * item;
        if (!chunks_ || !pages_.reserve(as_size(stream + attended + own_.bytes(1)))) return false;
        auto *memory = reinterpret_cast<std::uint8_t *>(pages_.begin());
        stream_ = reinterpret_cast<float *>(memory);
        attended_ = reinterpret_cast<float *>(memory + stream);
        own_.memory = memory + stream + attended;
        return true;
    }

    // A run is of one text.
    void cut(const Texts &texts) {
        length_ = texts.length;
        const std::int64_t *id = texts.ids;
        for (int row = 0, total = 0; row < texts.count; ++row)
            for (int position = 0; position < texts.length[row]; ++position, ++total) {
                Chunk &chunk = chunks_[as_size(total / most_tokens)];
                const bool joins = position > 0 && chunk.count > 0 &&
                                   chunk.run[chunk.runs - 1].count < most_queries;
                if (!joins) chunk.run[chunk.runs++] = {chunk.count, 0};
                ++chunk.run[chunk.runs - 1].count;
                chunk.token[chunk.count++] = {row, position, *id++};
            }
        for (int i = 0; i < count_; ++i)
            chunks_[as_size(i)].attended =
                attended_ + static_cast<std::ptrdiff_t>(i) * most_tokens * attended_stride;
    }

    // Call part(chunk, its stream) for all chunks.
    template <class Part>
    void each(const Part &part) const {
        for (int i = 0; i < count_; ++i)
            part(chunks_[as_size(i)],
                 stream_ + static_cast<std::ptrdiff_t>(i) * most_tokens * stream_stride);
    }

    void work(Worker w) const {
        each([&](const Chunk &chunk, float *stream) { this->embed(w, chunk, stream); });
        keep(w, 0);
        for (int number = 0; number < Stack::layers; ++number) {
            const Layer &layer = Stack::layer[number];
            each([&](const Chunk &chunk, const float *stream) {
                this->project_heads(w, chunk, layer.attention, stream);
                keep_queries(w, chunk, layer.attention);
                this->write_cache(w, chunk, layer.attention, own_, 0);
            });
            each([&](const Chunk &chunk, float *stream) {
                float *next = Stack::parallel ? space_.sum : stream;
                attention(w, chunk, layer.attention, stream, next);
                this->feed_forward(w, chunk, layer.feed_forward, stream, next);
                if (Stack::parallel) copy_rows(w, chunk, next, stream);
            });
            keep(w, number + 1);
        }
        keep_normed(w);
        for (int index = 0; index < model::Decoder::layers; ++index)
            each([&](const Chunk &chunk, const float *stream) {
                write_source(w, chunk, index, model::Decoder::layer[index].source.kv, stream);
            });
    }

    // In a debug build, for `source_streams`. The others do not write streams before they meet
    // again.
    void keep(Worker w, int layers) const {
        if constexpr (keeps_streams)
            each([&](const Chunk &chunk, const float *stream) {
                if (w.index == 0) source_streams.keep(layers, chunk, stream, Stack::width);
            });
    }

    // The same of what the layers of the decoder read.
    void keep_normed(Worker w) const {
        if constexpr (keeps_streams && Stack::norm_final.weight != 0)
            each([&](const Chunk &chunk, const float *stream) {
                if (w.index != 0) return;
                for (int i = 0; i < chunk.count; ++i)
                    this->norm(Stack::norm_final, stream + i * stream_stride,
                               space_.written + i * stream_stride);
                source_streams.keep(Stack::layers + 1, chunk, space_.written, Stack::width);
            });
    }

    // The next chunk overwrites `wide` before any attends, so queries lie where results will.
    void keep_queries(Worker w, const Chunk &chunk, const AttentionLayer &layer) const {
        const Range mine = share(chunk.count, w.index, w.threads);
        for (int i = mine.first; i < mine.end; ++i)
            for (int head = 0; head < heads; ++head)
                this->ready(space_.wide + i * wide_stride + head * head_dim, layer.q_norm,
                            layer.rotary, chunk.token[i].position, query(chunk, i, head));
    }
    static float *query(const Chunk &chunk, int i, int head) {
        return chunk.attended + i * attended_stride + head * head_dim;
    }

    // Meets.
    void attention(Worker w, const Chunk &chunk, const AttentionLayer &layer, const float *stream,
                   float *sum) const {
        this->template attend_all<1>(
            w, chunk, chunk.run, chunk.runs,
            {own_, 0, layer.window, Stack::attention_cap, this->floats(layer.biases)},
            [&](int i) {
                const int row = chunk.token[i].row;
                return Place{row, length_[row] - 1};
            },
            [&](int i, int head, float *out) {
                std::memcpy(out, query(chunk, i, head), sizeof(float) * head_dim);
            });
        this->join_heads(w, chunk, layer.proj, layer.norm_out, layer.norm_sum, stream, sum);
    }

    // Meets.
    void copy_rows(Worker w, const Chunk &chunk, const float *from, float *to) const {
        const Range mine = share(chunk.count, w.index, w.threads);
        const std::ptrdiff_t begin = static_cast<std::ptrdiff_t>(mine.first) * stream_stride;
        std::memcpy(to + begin, from + begin,
                    sizeof(float) * as_size((mine.end - mine.first) * stream_stride));
        Base::team_.meet(w);
    }

    // What a layer of the decoder sees of the tokens. Meets.
    void write_source(Worker w, const Chunk &chunk, int index, const Matrix &kv,
                      const float *stream) const {
        using Reader = model::Decoder;
        this->project(w, chunk, kv,
                      this->read_stream(w, chunk, this->weights(kv), Stack::norm_final, stream));
        const Range mine = share(chunk.count * Reader::heads, w.index, w.threads);
        for (int unit = mine.first; unit < mine.end; ++unit) {
            const int i = unit / Reader::heads, head = unit % Reader::heads;
            const Token &token = chunk.token[i];
            const float *key = space_.wide + i * wide_stride + head * Reader::head_dim;
            out_.write_key(index, row_ + token.row, head, token.position, key);
            out_.write_value(index, row_ + token.row, head, token.position,
                             key + Reader::heads * Reader::head_dim);
        }
        Base::team_.meet(w);
    }

    const Cache &out_;
    const int row_;
    Pages pages_;
    std::unique_ptr<Chunk[]> chunks_;
    int count_ = 0;
    const std::int32_t *length_ = nullptr;
    float *stream_ = nullptr, *attended_ = nullptr;  // rows of all chunks
    Cache own_;                                      // of one layer at a time
};

}  // namespace edgegpt
