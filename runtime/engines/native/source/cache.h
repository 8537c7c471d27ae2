// Keys and values of the tokens so far, laid out as the weights of a product are.
//
// The keys of a head are a matrix of [slots] outputs and [head_dim] inputs, in tiles of 16 slots.
// Its values are one of [head_dim] outputs and [slots] inputs, in tiles of 16 numbers. So attention
// is two products, and no sum goes across the lanes of a vector.
#pragma once

#include <cstring>

#include "description.h"
#include "pages.h"

namespace edgegpt {

struct Cache {
    float *memory;
    int rows, slots;  // slots are whole tiles
    int heads, width, padded;  // width of a head, and the same in whole vectors

    static std::size_t floats(int layers, int rows, int slots, int heads, int width) {
        return static_cast<std::size_t>(layers) * static_cast<std::size_t>(rows) *
               static_cast<std::size_t>(heads) * static_cast<std::size_t>(up_to(slots, lanes)) *
               static_cast<std::size_t>(width + up_to(width, lanes));
    }
    std::size_t key_floats() const { return static_cast<std::size_t>(slots) * width; }
    std::size_t value_floats() const { return static_cast<std::size_t>(slots) * padded; }

    // [slots / 16][width][16]
    float *keys(int layer, int row, int head) const {
        const std::size_t place = (static_cast<std::size_t>(layer) * rows + row) * heads + head;
        return memory + place * (key_floats() + value_floats());
    }
    // [padded / 16][slots][16]
    float *values(int layer, int row, int head) const {
        return keys(layer, row, head) + key_floats();
    }

    Weights keys_as_weights(int layer, int row, int head) const {
        return as_weights(keys(layer, row, head), width, static_cast<std::size_t>(width));
    }
    // Of the slots from `first` on, `count` of them.
    Weights values_as_weights(int layer, int row, int head, int first, int count) const {
        const float *begin = values(layer, row, head) + static_cast<std::size_t>(first) * lanes;
        return as_weights(begin, count, static_cast<std::size_t>(slots));
    }
    static Weights as_weights(const float *tiles, int inputs, std::size_t tile_inputs) {
        const auto *bytes = reinterpret_cast<const std::uint8_t *>(tiles);
        const std::size_t tile_bytes = tile_inputs * lanes * sizeof(float);
        return {Kind::float32, inputs, 0, 0, bytes, tile_bytes, nullptr};
    }

    void write_key(int layer, int row, int head, int slot, const float *key) const {
        float *tile = keys(layer, row, head) + static_cast<std::size_t>(slot / lanes) * width * lanes;
        for (int i = 0; i < width; ++i) tile[i * lanes + slot % lanes] = key[i];
    }
    void write_value(int layer, int row, int head, int slot, const float *value) const {
        float *to = values(layer, row, head) + static_cast<std::size_t>(slot) * lanes;
        for (int i = 0; i < width; i += lanes, to += static_cast<std::size_t>(slots) * lanes) {
            const int count = width - i < lanes ? width - i : lanes;
            std::memcpy(to, value + i, static_cast<std::size_t>(count) * sizeof(float));
        }
    }

    // Copy the tiles of slots since .. end - 1 to a row of another cache of the same shape.
    void copy(int layer, int row, const Cache &to, int to_layer, int to_row, int since,
              int end) const {
        const std::size_t first = static_cast<std::size_t>(since / lanes * lanes);
        const std::size_t count = static_cast<std::size_t>(up_to(end, lanes)) - first;
        for (int head = 0; head < heads; ++head) {
            std::memcpy(to.keys(to_layer, to_row, head) + first * width,
                        keys(layer, row, head) + first * width, count * width * sizeof(float));
            for (int i = 0; i < padded; i += lanes) {
                const std::size_t begin = static_cast<std::size_t>(i) * slots + first * lanes;
                std::memcpy(to.values(to_layer, to_row, head) + begin,
                            values(layer, row, head) + begin, count * lanes * sizeof(float));
            }
        }
    }
};

// Copy rows all at once: those that are both source and target are kept aside first. Returns
// whether there was memory for that.
inline bool copy_rows(const Cache &cache, int layers, int n, const std::int32_t *source,
                      const std::int32_t *target, int since, int end) {
    const auto is_target = [&](int row) {
        for (int i = 0; i < n; ++i)
            if (target[i] == row) return true;
        return false;
    };
    int kept = 0;
    for (int i = 0; i < n; ++i) kept += is_target(source[i]);
    Pages memory;
    const std::size_t bytes =
        Cache::floats(1, kept, cache.slots, cache.heads, cache.width) * sizeof(float);
    if (kept > 0 && !memory.reserve(bytes)) return false;
    Cache aside = cache;
    aside.memory = reinterpret_cast<float *>(memory.begin()), aside.rows = kept;
    for (int layer = 0; layer < layers; ++layer) {
        for (int i = 0, place = 0; i < n; ++i)
            if (is_target(source[i])) cache.copy(layer, source[i], aside, 0, place++, since, end);
        for (int i = 0; i < n; ++i)
            if (!is_target(source[i])) cache.copy(layer, source[i], cache, layer, target[i], since, end);
        for (int i = 0, place = 0; i < n; ++i)
            if (is_target(source[i])) aside.copy(0, place++, cache, layer, target[i], since, end);
    }
    return true;
}

}  // namespace edgegpt
