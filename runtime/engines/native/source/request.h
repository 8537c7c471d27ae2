// What a step is asked for, and how it is cut into chunks.
#pragma once

#include "chunk.h"

namespace edgegpt {

// The arguments of edgegpt_step, once they are checked.
struct Request {
    int n;
    const std::int32_t *row, *count;
    const std::int64_t *past, *ids;
    int wanted;
    const std::int32_t *position;
    float *logits;
};

// Cuts the new tokens of all rows into chunks.
class Chunks {
public:
    explicit Chunks(const Request &request) : request_(request) {}

    // Fill the next chunk; return whether there was anything left.
    bool next(Chunk &chunk) {
        chunk.count = chunk.runs = chunk.wanted = 0;
        first_ += taken_, taken_ = 0;
        while (row_ < request_.n && chunk.count < most_tokens) take(chunk);
        taken_ = chunk.count;
        return chunk.count > 0;
    }

    // List wanted tokens of the chunk from number `from` on; return where to go on, or -1.
    int want(Chunk &chunk, int from) const {
        chunk.wanted = 0;
        for (int i = from; i < request_.wanted; ++i) {
            const std::int64_t place = request_.position[i] - first_;
            if (place < 0 || place >= chunk.count) continue;
            if (chunk.wanted == most_tokens) return i;
            chunk.want[chunk.wanted] = static_cast<int>(place);
            chunk.logits[chunk.wanted++] = request_.logits + as_size(i) * model::Decoder::vocab;
        }
        return -1;
    }

private:
    // A run of tokens of the row whose turn it is.
    void take(Chunk &chunk) {
        const int left = request_.count[row_] - done_, room = most_tokens - chunk.count;
        int count = left < room ? left : room;
        count = count < most_queries ? count : most_queries;
        chunk.run[chunk.runs++] = {chunk.count, count};
        for (int k = 0; k < count; ++k, ++done_, ++id_)
            chunk.token[chunk.count++] = {request_.row[row_],
                                          static_cast<int>(request_.past[row_]) + done_,
                                          request_.ids[id_]};
        if (done_ == request_.count[row_]) ++row_, done_ = 0;
    }

    const Request &request_;
    int row_ = 0, done_ = 0;
    std::int64_t id_ = 0, first_ = 0;
    int taken_ = 0;
};

}  // namespace edgegpt
