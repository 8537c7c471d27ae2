// Keys and values of the tokens so far, laid out as the weights of a product are.
//
// The keys of a head are a matrix of [slots] outputs and [width] inputs, in tiles of 16 slots. Its
// values are one of [width] outputs and [slots] inputs, in tiles of 16 numbers. So attention is two
// products, and no sum goes across the lanes of a vector.
#pragma once

#include <cstring>

#include "pages.h"
#include "vector.h"

namespace edgegpt {

class Cache {
public:
    Cache() = default;
    Cache(Kind of, int row_count, int context, int kv_heads, int head_dim)
        : kind(of),
          rows(row_count),
          slots(up_to(context, lanes)),
          heads(kv_heads),
          width(head_dim),
          padded(up_to(head_dim, lanes)) {}

    Kind kind = Kind::float32;  // or float16
    std::uint8_t *memory = nullptr;
    int rows = 0, slots = 0;               // slots are whole tiles
    int heads = 0, width = 0, padded = 0;  // width of a head, and the same in whole vectors

    std::ptrdiff_t item() const { return kind == Kind::float32 ? 4 : 2; }
    std::ptrdiff_t key_bytes() const { return item() * slots * width; }
    std::ptrdiff_t value_bytes() const { return item() * slots * padded; }
    std::ptrdiff_t row_bytes() const { return heads * (key_bytes() + value_bytes()); }
    std::ptrdiff_t bytes(int layers) const { return row_bytes() * layers * rows; }

    // [slots / 16][width][16]
    std::uint8_t *keys(int layer, int row, int head) const {
        const std::ptrdiff_t place = static_cast<std::ptrdiff_t>(layer) * rows + row;
        return memory + place * row_bytes() + head * (key_bytes() + value_bytes());
    }
    // [padded / 16][slots][16]
    std::uint8_t *values(int layer, int row, int head) const {
        return keys(layer, row, head) + key_bytes();
    }

    Weights keys_as_weights(int layer, int row, int head) const {
        return as_weights(keys(layer, row, head), width, width);
    }
    // Of the slots from `first` on, `count` of them.
    Weights values_as_weights(int layer, int row, int head, int first, int count) const {
        return as_weights(values(layer, row, head) + first * (lanes * item()), count, slots);
    }
    Weights as_weights(const std::uint8_t *tiles, int inputs, int tile_inputs) const {
        return {kind, inputs, 0, 0, tiles, tile_inputs * (lanes * item()), nullptr};
    }

    // Vectors are read behind the end of a key or a value.
    void write_key(int layer, int row, int head, int slot, const float *key) const {
        const std::ptrdiff_t place =
            static_cast<std::ptrdiff_t>(slot / lanes) * width * lanes + slot % lanes;
        std::uint8_t *to = keys(layer, row, head) + place * item();
        if (kind == Kind::float32)
            spread(key, reinterpret_cast<float *>(to));
        else
            spread(key, reinterpret_cast<std::uint16_t *>(to));
    }
    void write_value(int layer, int row, int head, int slot, const float *value) const {
        std::uint8_t *to = values(layer, row, head) + slot * (lanes * item());
        if (kind == Kind::float32)
            put(value, reinterpret_cast<float *>(to));
        else
            put(value, reinterpret_cast<std::uint16_t *>(to));
    }

    // Number i of a key and of a value, which the two above have put there.
    float read_key(int layer, int row, int head, int slot, int i) const {
        const std::ptrdiff_t tile = static_cast<std::ptrdiff_t>(slot / lanes) * width * lanes;
        return number(keys(layer, row, head) + (tile + i * lanes + slot % lanes) * item());
    }
    float read_value(int layer, int row, int head, int slot, int i) const {
        const std::ptrdiff_t tile = static_cast<std::ptrdiff_t>(i / lanes) * slots * lanes;
        return number(values(layer, row, head) + (tile + slot * lanes + i % lanes) * item());
    }

    // Copy the tiles of slots since .. end - 1 to a row of another cache of the same shape.
    void copy(int layer, int row, const Cache &to, int to_layer, int to_row, int since,
              int end) const {
        const int first = since / lanes * lanes, count = up_to(end, lanes) - first;
        for (int head = 0; head < heads; ++head) {
            const std::ptrdiff_t key = item() * first * width;
            std::memcpy(to.keys(to_layer, to_row, head) + key, keys(layer, row, head) + key,
                        as_size(item() * count * width));
            for (int i = 0; i < padded; i += lanes) {
                const std::ptrdiff_t begin = i * item() * slots + first * (lanes * item());
                std::memcpy(to.values(to_layer, to_row, head) + begin,
                            values(layer, row, head) + begin, as_size(item() * count * lanes));
            }
        }
    }

private:
    static void store_items(float *to, Floats x) { store(to, x); }
    static void store_items(std::uint16_t *to, Floats x) { store_float16(to, x); }

    // One item into each row of a tile of keys.
    template <class Item>
    void spread(const float *key, Item *to) const {
        for (int i = 0; i < width; i += lanes) {
            Item items[lanes];
            store_items(items, load(key + i));
            for (int k = i; k < width && k < i + lanes; ++k, to += lanes) *to = items[k - i];
        }
    }

    // Some items into a row of each tile of values.
    template <class Item>
    void put(const float *value, Item *to) const {
        for (int i = 0; i < width; i += lanes, to += static_cast<std::ptrdiff_t>(slots) * lanes) {
            Item items[lanes];
            store_items(items, load(value + i));
            if (width - i >= lanes)
                std::memcpy(to, items, sizeof items);
            else
                for (int k = 0; k < width - i; ++k) to[k] = items[k];
        }
    }

    float number(const std::uint8_t *from) const {
        float numbers[lanes] = {};
        if (kind == Kind::float32) {
            std::memcpy(numbers, from, sizeof(float));
        } else {
            std::uint16_t narrow[lanes] = {};
            std::memcpy(narrow, from, sizeof(std::uint16_t));
            store(numbers, load_float16(narrow));
        }
        return numbers[0];
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
    Cache aside = cache;
    aside.rows = 0;
    for (int i = 0; i < n; ++i) aside.rows += is_target(source[i]);
    Pages pages;
    if (aside.rows > 0 && !pages.reserve(as_size(aside.bytes(1)))) return false;
    aside.memory = reinterpret_cast<std::uint8_t *>(pages.begin());
    for (int layer = 0; layer < layers; ++layer) {
        for (int i = 0, place = 0; i < n; ++i)
            if (is_target(source[i])) cache.copy(layer, source[i], aside, 0, place++, since, end);
        for (int i = 0; i < n; ++i)
            if (!is_target(source[i]))
                cache.copy(layer, source[i], cache, layer, target[i], since, end);
        for (int i = 0, place = 0; i < n; ++i)
            if (is_target(source[i])) aside.copy(0, place++, cache, layer, target[i], since, end);
    }
    return true;
}

}  // namespace edgegpt
