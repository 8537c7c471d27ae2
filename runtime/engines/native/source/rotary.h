// Rotary positions: pairs of a head are turned by angles that grow with the position.
#pragma once

#include "vector.h"

namespace edgegpt {

// Turn x[i] and x[i + pairs] of a head of `width` numbers; `table` has the cosines of the pairs,
// then their sines.
template <int width>
inline void rotate(const float *x, int pairs, const float *table, float *out) {
    const float *cosines = table, *sines = table + pairs;
    int i = 0;
    // Heads with fewer pairs than lanes have no room for a vector, which compilers would warn of.
    for (; width >= 2 * lanes && i + lanes <= pairs; i += lanes) {
        const Floats c = load(cosines + i), s = load(sines + i);
        const Floats first = load(x + i), second = load(x + pairs + i);
        store(out + i, first * c - second * s);
        store(out + pairs + i, second * c + first * s);
    }
    for (; i < pairs; ++i) {
        const float first = x[i], second = x[pairs + i];
        out[i] = first * cosines[i] - second * sines[i];
        out[pairs + i] = second * cosines[i] + first * sines[i];
    }
}

}  // namespace edgegpt
