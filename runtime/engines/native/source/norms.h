// LayerNorm and RMSNorm of a row.
#pragma once

#include "activations.h"

namespace edgegpt {

// Sums in 16 lanes, each in order, and then over the lanes.
inline float mean_of(const float *x, int width) {
    Floats total = all(0.0f);
    for (int i = 0; i < width; i += lanes) total = total + load_part(x, i, width);
    return sum(total) / static_cast<float>(width);
}

// Of the differences from `centre`.
inline float mean_square(const float *x, int width, float centre) {
    Floats total = all(0.0f);
    for (int i = 0; i < width; i += lanes) {
        Floats away = load_part(x, i, width) - all(centre);
        if (i + lanes > width) away = select(between(0, width - i), away, all(0.0f));
        total = fma(away, away, total);
    }
    return sum(total) / static_cast<float>(width);
}

// Write the norm of x [width]; `weight` and `bias`, which may be null, are filled up with zeros,
// and so is the result.
template <NormKind kind>
inline void normalise(const float *x, int width, float epsilon, const float *weight,
                      const float *bias, float *out) {
    const float centre = kind == NormKind::layer ? mean_of(x, width) : 0.0f;
    const Floats factor = all(1.0f / std::sqrt(mean_square(x, width, centre) + epsilon));
    for (int i = 0; i < width; i += lanes) {
        const Floats y = (load_part(x, i, width) - all(centre)) * factor;
        const Floats w = load(weight + i);
        store(out + i, bias == nullptr ? y * w : fma(y, w, load(bias + i)));
    }
}

}  // namespace edgegpt
