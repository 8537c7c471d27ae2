// In a debug build: the residual stream before the first layer and after each, for whoever searches
// the layer that is wrong.
#pragma once

#include <cstring>

#include "edgegpt.h"

namespace edgegpt {

#ifdef EDGEGPT_STREAMS
constexpr bool keeps_streams = true;
#else
constexpr bool keeps_streams = false;
#endif

// Where the streams of the tokens at the slots from `first` on go: [layers + 1][slots][width].
struct Streams {
    float *kept = nullptr;
    int first = 0, slots = 0;

    void keep(int layers, int position, const float *stream, int width) const {
        const int slot = position - first;
        if (kept == nullptr || slot < 0 || slot >= slots) return;
        const std::ptrdiff_t place = static_cast<std::ptrdiff_t>(layers) * slots + slot;
        std::memcpy(kept + place * width, stream, sizeof(float) * as_size(width));
    }
};

inline Streams streams;

}  // namespace edgegpt

#ifdef EDGEGPT_STREAMS
extern "C" void edgegpt_keep_streams(float *kept, int first, int slots) {
    edgegpt::streams = {kept, first, slots};
}
#endif
