// In a debug build: the residual streams of both stacks before their first layers and after each,
// for whoever searches the layer that is wrong.
#pragma once

#include <cstring>

#include "chunk.h"
#include "edgegpt.h"

namespace edgegpt {

#ifdef EDGEGPT_STREAMS
constexpr bool keeps_streams = true;
#else
constexpr bool keeps_streams = false;
#endif

// Where the streams of the tokens at the slots from `first` on go: [stages][slots][width].
struct Streams {
    float *kept = nullptr;
    int first = 0, slots = 0;

    // Keep the rows of a chunk, after so many layers.
    void keep(int stage, const Chunk &chunk, const float *stream, int width) const {
        for (int i = 0; kept != nullptr && i < chunk.count; ++i, stream += stream_stride) {
            const int slot = chunk.token[i].position - first;
            if (slot < 0 || slot >= slots) continue;
            const std::ptrdiff_t place = static_cast<std::ptrdiff_t>(stage) * slots + slot;
            std::memcpy(kept + place * width, stream, sizeof(float) * as_size(width));
        }
    }
};

inline Streams streams, source_streams;

}  // namespace edgegpt

#ifdef EDGEGPT_STREAMS
extern "C" void edgegpt_keep_streams(float *kept, int first, int slots) {
    edgegpt::streams = {kept, first, slots};
}
extern "C" void edgegpt_keep_source_streams(float *kept, int first, int slots) {
    edgegpt::source_streams = {kept, first, slots};
}
#endif
