// New tokens that go through the layers at once.
#pragma once

#include "workspace.h"

namespace edgegpt {

struct Token {
    int row, position;
    std::int64_t id;
};

// Tokens that follow each other in a text: `count` from number `first` of the chunk on.
struct Run {
    int first, count;
};

// A chunk of the new tokens, and those of them whose logits are wanted.
struct Chunk {
    int count = 0, runs = 0, wanted = 0;
    Token token[chunk];
    Run run[chunk];
    int want[chunk];  // numbers of tokens
    float *logits[chunk];
};

// Those tokens of a chunk that go on after the last layer has written the cache.
struct Rest {
    Chunk chunk;
    int place[edgegpt::chunk];  // their numbers in the whole chunk

    // Keep the wanted tokens; or all, if more are wanted later.
    void keep(const Chunk &whole, bool all) {
        bool kept[edgegpt::chunk] = {};
        int number[edgegpt::chunk];
        for (int i = 0; i < whole.wanted; ++i) kept[whole.want[i]] = true;
        chunk.count = chunk.runs = 0;
        for (int r = 0; r < whole.runs; ++r) {
            Run run = {chunk.count, 0};
            for (int i = whole.run[r].first; i < whole.run[r].first + whole.run[r].count; ++i) {
                if (!all && !kept[i]) continue;
                number[i] = chunk.count, place[chunk.count] = i;
                chunk.token[chunk.count++] = whole.token[i];
                ++run.count;
            }
            if (run.count > 0) chunk.run[chunk.runs++] = run;
        }
        chunk.wanted = whole.wanted;
        for (int i = 0; i < whole.wanted; ++i) {
            chunk.want[i] = number[whole.want[i]];
            chunk.logits[i] = whole.logits[i];
        }
    }
};

}  // namespace edgegpt
