// Tokens that go through the layers at once.
#pragma once

#include "attention.h"
#include "workspace.h"

namespace edgegpt {

struct Token {
    int row, position;
    std::int64_t id;
};

// Neighbouring tokens of a chunk: `count` from number `first` on.
struct Run {
    int first, count;
};

// Tokens, in runs of a text and in runs that read one source; and whose logits are wanted.
struct Chunk {
    int count = 0, runs = 0, readers = 0, wanted = 0;
    Token token[most_tokens];
    Run run[most_tokens];
    Run reader[most_tokens];
    int want[most_tokens];  // numbers of tokens
    float *logits[most_tokens];
    float *attended;  // [count][attended_stride]: what heads have found

    // Join the tokens that read one source, as `rows_each` neighbouring rows do.
    void find_readers(int rows_each) {
        readers = 0;
        for (int i = 0, last = -1; i < count; ++i) {
            const int source = token[i].row / rows_each;
            if (source == last && reader[readers - 1].count < most_queries)
                ++reader[readers - 1].count;
            else
                reader[readers++] = {i, 1};
            last = source;
        }
    }
};

// Those tokens of a chunk that go on after the last layer has written the cache.
struct Rest {
    Chunk chunk;
    int place[most_tokens];  // their numbers in the whole chunk

    // Keep the wanted tokens; or all, if more are wanted later.
    void keep(const Chunk &whole, bool all) {
        bool kept[most_tokens] = {};
        int number[most_tokens];
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
