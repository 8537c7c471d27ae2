// The vectors of vector_plain.h with AVX-512 and its integer dot products (VNNI).
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC 12's own header, its bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#include "description.h"

namespace edgegpt {

inline constexpr const char *target_name = "avx512";
// 16 sums, twice the weights of two tiles, and what they are multiplied by fit the 32 registers.
inline constexpr int most_rows = 8, most_tiles = 2, most_sums = 16;
inline constexpr bool pairs_rows = false;

struct Floats {
    __m512 v;
};
struct Ints {
    __m512i v;
};
struct Mask {
    __mmask16 v;
};
struct Bytes {
    __m512i v;
};

inline Floats load(const float *p) { return {_mm512_loadu_ps(p)}; }
inline void store(float *p, Floats x) { _mm512_storeu_ps(p, x.v); }
inline Floats all(float x) { return {_mm512_set1_ps(x)}; }

inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Floats abs(Floats a) { return {_mm512_abs_ps(a.v)}; }
inline Floats with_sign(Floats a, Floats b) {
    const __m512 sign = _mm512_set1_ps(-0.0f);
    return {_mm512_or_ps(_mm512_andnot_ps(sign, a.v), _mm512_and_ps(sign, b.v))};
}
inline Floats round(Floats a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline Mask less(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Floats select(Mask mask, Floats yes, Floats no) {
    return {_mm512_mask_blend_ps(mask.v, no.v, yes.v)};
}
inline Mask between(int first, int end) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 after = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(first));
    return {_mm512_mask_cmplt_epi32_mask(after, lane, _mm512_set1_epi32(end))};
}
inline Floats times_power_of_2(Floats a, Floats n) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_mul_ps(a.v, _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23)))};
}
inline __m256 upper_half(__m512 v) { return _mm512_extractf32x8_ps(v, 1); }
inline float largest(Floats x) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), upper_half(x.v));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
// Lanes 8 apart, then 4, 2 and 1.
inline float sum(Floats x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), upper_half(x.v));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline Floats load_float16(const std::uint16_t *p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)))};
}
inline void store_float16(std::uint16_t *p, Floats x) {
    const __m256i half = _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), half);
}
inline Floats load_bfloat16(const std::uint16_t *p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    const __m512i wide = _mm512_cvtepu16_epi32(half);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}

inline void store_bfloat16(std::uint16_t *p, Floats x) {
#ifdef __AVX512BF16__
    const auto half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v));
#else
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i nearest =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 none = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(nearest, none, bits, _mm512_set1_epi32(0x400000));
    const __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
#endif
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), half);
}

inline Ints all_ints(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline std::int32_t sum(Ints x) {
    const __m256i half = _mm256_castps_si256(upper_half(_mm512_castsi512_ps(x.v)));
    const __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(x.v), half);
    const __m128i four =
        _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}
inline Floats to_floats(Ints x) { return {_mm512_cvtepi32_ps(x.v)}; }
inline Ints store_bytes(std::int8_t *p, Floats x) {
    const __m512i whole = _mm512_cvtps_epi32(x.v);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtsepi32_epi8(whole));
    return {whole};
}
inline Bytes load_bytes(const std::uint8_t *p) { return {_mm512_loadu_si512(p)}; }
inline Bytes low_halves(Bytes x) { return {_mm512_and_si512(x.v, _mm512_set1_epi8(15))}; }
inline Bytes high_halves(Bytes x) { return low_halves({_mm512_srli_epi16(x.v, 4)}); }
inline Ints start(std::int32_t zero, std::int32_t total) { return all_ints(-zero * total); }
template <int zero>
inline void add_dot(Ints &c, Bytes weights, const std::int8_t *p) {
    std::int32_t four;
    std::memcpy(&four, p, sizeof four);
    c.v = _mm512_dpbusd_epi32(c.v, weights.v, _mm512_set1_epi32(four));
}

inline void add_pairs(Floats &c, Bytes weights, const std::uint16_t *p) {
    std::int32_t two;
    std::memcpy(&two, p, sizeof two);
    const __m512i activations = _mm512_set1_epi32(two);
#ifdef __AVX512BF16__
    c.v = _mm512_dpbf16_ps(c.v, reinterpret_cast<__m512bh>(weights.v),
                           reinterpret_cast<__m512bh>(activations));
#else
    const auto second = [](__m512i x) {
        return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(-0x10000)));
    };
    const auto first = [](__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); };
    c.v = _mm512_fmadd_ps(second(weights.v), second(activations), c.v);
    c.v = _mm512_fmadd_ps(first(weights.v), first(activations), c.v);
#endif
}

}  // namespace edgegpt
