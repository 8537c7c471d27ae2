// Vectors of 16 numbers on every processor, so that all of them add in the same order.
//
// A target defines Floats, Ints, Mask and Bytes (64 of them) and the functions on them; they are
// listed in vector_plain.h. Products and sums are only joined (fma) where the source says so, and
// nothing is approximate. The bits of a result are therefore the same on all targets.
#pragma once

#if defined(EDGEGPT_PLAIN)
#include "vector_plain.h"
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#include "vector_avx512.h"
#else
#include "vector_plain.h"
#endif
