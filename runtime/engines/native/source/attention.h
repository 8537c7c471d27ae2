// Attention of queries that share a text and a head of its cache.
//
// The keys are visited in blocks that begin at multiples of 256 slots, whoever asks; each block
// updates the largest score, the sum of the exponentials and the weighted values (Milakov and
// Gimelshein 2018, "Online normalizer calculation for softmax"). Keys that no query sees are not
// visited, and those that only some see count nothing for the others. So the bits of a result
// depend only on the position of its query.
#pragma once

#include "cache.h"
#include "functions.h"
#include "products.h"

namespace edgegpt {

constexpr int key_block = 256;
constexpr int most_queries = 16;
constexpr float nothing = -1e30f;  // the largest score before the first key

template <int width>
struct Queries {
    static constexpr int padded = up_to(width, lanes);
    int count;
    int position[most_queries];
    int window;                       // how many slots each sees; 0: all up to its own
    float cap;                        // of the scores; 0: none
    const float *bias[most_queries];  // of each slot, added to its score; null: none
    alignas(64) float query[most_queries][padded];
    alignas(64) float result[most_queries][padded];
    float top[most_queries], total[most_queries];
    alignas(64) float score[most_queries][key_block];

    int begin_of(int i) const {
        return window > 0 && position[i] >= window ? position[i] - window + 1 : 0;
    }
};

// Make weights of the scores of one query for the slots `first` .. `end` - 1 of a block, which
// begins at slot `block`. Returns the factor for what was found before.
template <int width>
inline float weigh(Queries<width> &q, int i, int block, int first, int end) {
    const int begin = q.begin_of(i) - block, behind = q.position[i] + 1 - block;
    float *score = q.score[i];
    Floats top = all(nothing);
    for (int k = first; k < end; k += lanes) {
        Floats s = capped(load(score + k), q.cap);
        if (q.bias[i] != nullptr) s = s + load(q.bias[i] + block + k);
        s = select(between(begin - k, behind - k), s, all(-INFINITY));
        store(score + k, s);
        top = max(s, top);
    }
    const float before = q.top[i], now = std::fmax(before, largest(top));
    Floats total = all(0.0f);
    for (int k = first; k < end; k += lanes) {
        const Floats weight = exponential(load(score + k) - all(now));
        store(score + k, weight);
        total = total + weight;
    }
    alignas(64) float factor[lanes];
    store(factor, exponential(all(before - now)));
    q.top[i] = now;
    q.total[i] = std::fma(q.total[i], factor[0], sum(total));
    return factor[0];
}

template <int width>
inline void attend_block(Queries<width> &q, const Cache &cache, int layer, int row, int head,
                         int block, int first, int end) {
    // Whole tiles of keys, but no value of a slot that was never filled.
    const int tiles_end = up_to(end, lanes);
    constexpr int padded = Queries<width>::padded;
    const Weights keys = cache.keys_as_weights(layer, row, head);
    const Activations queries = {q.query[0], padded, nullptr, 0, nullptr, nullptr, 0};
    multiply_near(keys, queries, 0, q.count, {(block + first) / lanes, (block + tiles_end) / lanes},
                  [&](int i, int slot, Floats s) { store(q.score[i] + slot - block, s); });
    float factor[most_queries];
    for (int i = 0; i < q.count; ++i) factor[i] = weigh(q, i, block, first, tiles_end);
    const Weights values = cache.values_as_weights(layer, row, head, block + first, end - first);
    const Activations weights = {q.score[0] + first, key_block, nullptr, 0, nullptr, nullptr, 0};
    multiply_near(values, weights, 0, q.count, {0, padded / lanes},
                  [&](int i, int place, Floats x) {
                      float *result = q.result[i] + place;
                      store(result, fma(load(result), all(factor[i]), x));
                  });
}

// Replace `result` by what each query finds; the positions ascend.
template <int width>
void attend(Queries<width> &q, const Cache &cache, int layer, int row, int head) {
    int begin = q.begin_of(0), end = 0;
    for (int i = 0; i < q.count; ++i) {
        begin = q.begin_of(i) < begin ? q.begin_of(i) : begin;
        end = q.position[i] + 1 > end ? q.position[i] + 1 : end;
        q.top[i] = nothing, q.total[i] = 0.0f;
        for (float &x : q.result[i]) x = 0.0f;
    }
    for (int block = begin / key_block * key_block; block < end; block += key_block) {
        // Where the sums of a product over the slots are cut anyway.
        const int first = begin > block ? (begin - block) / float_block * float_block : 0;
        const int left = end - block < key_block ? end - block : key_block;
        attend_block(q, cache, layer, row, head, block, first, left);
    }
    for (int i = 0; i < q.count; ++i)
        for (int k = 0; k < Queries<width>::padded; k += lanes)
            store(q.result[i] + k, load(q.result[i] + k) / all(q.total[i]));
}

}  // namespace edgegpt
