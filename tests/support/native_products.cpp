// Write the products of random integers, for all kinds, blocks and numbers of rows to the file OUT:
// native_products OUT.
#include "products.h"

#include <cstdio>
#include <vector>

using namespace edgegpt;

namespace {

constexpr int most = 9;  // rows
std::uint32_t state = 1;

std::uint32_t random_bits() {
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

float random_float() { return static_cast<float>(random_bits()) / 0x1p23f - 1.0f; }

template <class Number, class Function>
std::vector<Number> filled(std::ptrdiff_t count, Function function) {
    std::vector<Number> found(as_size(count));
    for (Number &each : found) each = function();
    return found;
}

// The products of the last 1, 2, ... rows, so that they begin at odd ones, too.
bool write_products(const Matrix &shape, std::FILE *out) {
    const auto byte = [] { return static_cast<std::uint8_t>(random_bits()); };
    const auto weights = filled<std::uint8_t>(shape.tiles() * shape.tile_bytes(), byte);
    const int blocks = shape.blocks(), width = blocks * shape.block;
    const auto scales = filled<float>(shape.tiles() * blocks * lanes, random_float);
    auto values = filled<float>(most * width, random_float);
    for (int i = 0; i < width; ++i) values[as_size(width + i)] = 1.0f;  // the largest bytes
    std::vector<std::int8_t> bytes(values.size());
    std::vector<float> steps(as_size(most * blocks));
    std::vector<std::int32_t> sums(steps.size());
    const Weights m = {shape.kind,     shape.inputs,       shape.block,  blocks,
                       weights.data(), shape.tile_bytes(), scales.data()};
    const Activations in = {values.data(), width,       bytes.data(), width,
                            steps.data(),  sums.data(), blocks};
    for (int row = 0; row < most; ++row) round_row(in, row, m);
    std::vector<float> found(as_size(most * shape.outputs));
    const auto keep = [&](int row, int output, Floats x) {
        store(&found[as_size(row * shape.outputs + output)], x);
    };
    bool is_written = true;
    for (int rows = 1; rows <= most; ++rows) {
        multiply(m, in, most - rows, most, {0, shape.tiles()}, keep);
        const std::size_t first = as_size((most - rows) * shape.outputs);
        const std::size_t count = found.size() - first;
        is_written &= std::fwrite(&found[first], sizeof(float), count, out) == count;
        for (float &each : found) each = 0.0f;
    }
    return is_written;
}

}  // namespace

int main(int count, char **words) {
    std::FILE *out = count == 2 ? std::fopen(words[1], "wb") : nullptr;
    if (out == nullptr) return 1;
    bool is_written = true;
    for (const Kind kind : {Kind::int8, Kind::int4})
        for (const int block : {16, 32, 64, 128})
            for (const int tiles : {1, 3, 4})
                is_written &=
                    write_products({kind, tiles * lanes, 3 * block - 5, block, 0, 0, 0}, out);
    return std::fclose(out) == 0 && is_written ? 0 : 1;
}
