// The vectors of vector_plain.h with AVX2, FMA and F16C, and with AVX-VNNI where there is that.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "description.h"

namespace edgegpt {

inline constexpr const char *target_name = "avx2";
// 4 sums of two registers each leave half of the 16 registers for what is multiplied.
inline constexpr int most_rows = 4, most_tiles = 1, most_sums = 4;
inline constexpr bool pairs_rows = false;

struct Floats {
    __m256 low, high;
};
struct Ints {
    __m256i low, high;
};
struct Mask {
    __m256 low, high;
};
struct Bytes {
    __m256i low, high;
};

inline Floats load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float *p, Floats x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
}
inline Floats all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

inline Floats operator+(Floats a, Floats b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Floats operator-(Floats a, Floats b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Floats operator*(Floats a, Floats b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Floats operator/(Floats a, Floats b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats max(Floats a, Floats b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Floats min(Floats a, Floats b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Floats abs(Floats a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
inline Floats with_sign(Floats a, Floats b) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const Floats size = abs(a);
    return {_mm256_or_ps(size.low, _mm256_and_ps(sign, b.low)),
            _mm256_or_ps(size.high, _mm256_and_ps(sign, b.high))};
}
inline Floats round(Floats a) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.low, nearest), _mm256_round_ps(a.high, nearest)};
}
inline Mask less(Floats a, Floats b) {
    return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
}
inline Floats select(Mask mask, Floats yes, Floats no) {
    return {_mm256_blendv_ps(no.low, yes.low, mask.low),
            _mm256_blendv_ps(no.high, yes.high, mask.high)};
}
inline __m256 eight_between(__m256i lane, int first, int end) {
    const __m256i after = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1));
    return _mm256_castsi256_ps(
        _mm256_and_si256(after, _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane)));
}
inline Mask between(int first, int end) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i upper = _mm256_add_epi32(lane, _mm256_set1_epi32(8));
    return {eight_between(lane, first, end), eight_between(upper, first, end)};
}
inline __m256 eight_powers_of_2(__m256 n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline Floats times_power_of_2(Floats a, Floats n) {
    return a * Floats{eight_powers_of_2(n.low), eight_powers_of_2(n.high)};
}
inline float largest(Floats x) {
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
// Lanes 8 apart, then 4, 2 and 1.
inline float sum(Floats x) {
    const __m256 eight = _mm256_add_ps(x.low, x.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline __m128i eight_halves(const std::uint16_t *p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
}
inline Floats load_float16(const std::uint16_t *p) {
    return {_mm256_cvtph_ps(eight_halves(p)), _mm256_cvtph_ps(eight_halves(p + 8))};
}
inline void store_float16(std::uint16_t *p, Floats x) {
    auto *to = reinterpret_cast<__m128i *>(p);
    _mm_storeu_si128(to, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128(to + 1,
                     _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline __m256 eight_bfloat16(const std::uint16_t *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(eight_halves(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline Floats load_bfloat16(const std::uint16_t *p) {
    return {eight_bfloat16(p), eight_bfloat16(p + 8)};
}

inline __m256i eight_to_bfloat16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), one = _mm256_set1_epi32(1);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    const __m256i nearest =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i none = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(nearest, quiet, none), 16);
}
inline void store_bfloat16(std::uint16_t *p, Floats x) {
    // Within each half, four of the low ones and four of the high ones; then in order.
    const __m256i both = _mm256_packus_epi32(eight_to_bfloat16(x.low), eight_to_bfloat16(x.high));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_permute4x64_epi64(both, 0xd8));
}

inline Ints all_ints(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Ints operator+(Ints a, Ints b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline std::int32_t sum(Ints x) {
    const __m256i eight = _mm256_add_epi32(x.low, x.high);
    const __m128i four =
        _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}
inline Floats to_floats(Ints x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }
inline Ints store_bytes(std::int8_t *p, Floats x) {
    const Ints whole = {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)};
    // Within each half, four of the low ones and four of the high ones; then in order.
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(whole.low, whole.high), 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), bytes);
    return whole;
}
inline Bytes load_bytes(const std::uint8_t *p) {
    const auto *begin = reinterpret_cast<const __m256i *>(p);
    return {_mm256_loadu_si256(begin), _mm256_loadu_si256(begin + 1)};
}
inline Bytes low_halves(Bytes x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.low, mask), _mm256_and_si256(x.high, mask)};
}
inline Bytes high_halves(Bytes x) {
    return low_halves({_mm256_srli_epi16(x.low, 4), _mm256_srli_epi16(x.high, 4)});
}

#if defined(__AVXVNNI__)

inline Ints start(std::int32_t zero, std::int32_t total) { return all_ints(-zero * total); }
template <int zero>
inline __m256i eight_dots(__m256i c, __m256i weights, __m256i four) {
    return _mm256_dpbusd_avx_epi32(c, weights, four);
}

#else

// Pairs of products have to fit 16 bits. Those of 0 to 15 do; other weights are made -128 to 127
// first, and their signs given to the activations: 2 * 128 * 127 fits.
inline Ints start(std::int32_t zero, std::int32_t total) {
    return all_ints(zero == 128 ? 0 : -zero * total);
}
template <int zero>
inline __m256i eight_dots(__m256i c, __m256i weights, __m256i four) {
    __m256i size = weights;
    if constexpr (zero == 128) {
        const __m256i moved = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
        size = _mm256_abs_epi8(moved);
        four = _mm256_sign_epi8(four, moved);
    }
    const __m256i pairs = _mm256_maddubs_epi16(size, four);
    return _mm256_add_epi32(c, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#endif

template <int zero>
inline void add_dot(Ints &c, Bytes weights, const std::int8_t *p) {
    std::int32_t four;
    std::memcpy(&four, p, sizeof four);
    const __m256i activations = _mm256_set1_epi32(four);
    c.low = eight_dots<zero>(c.low, weights.low, activations);
    c.high = eight_dots<zero>(c.high, weights.high, activations);
}

inline __m256 first_of_pairs(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
inline __m256 second_of_pairs(__m256i x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(-0x10000)));
}
inline void add_pairs(Floats &c, Bytes weights, const std::uint16_t *p) {
    std::int32_t two;
    std::memcpy(&two, p, sizeof two);
    const __m256i activations = _mm256_set1_epi32(two);
    const __m256 first = first_of_pairs(activations), second = second_of_pairs(activations);
    c.low = _mm256_fmadd_ps(second_of_pairs(weights.low), second, c.low);
    c.high = _mm256_fmadd_ps(second_of_pairs(weights.high), second, c.high);
    c.low = _mm256_fmadd_ps(first_of_pairs(weights.low), first, c.low);
    c.high = _mm256_fmadd_ps(first_of_pairs(weights.high), first, c.high);
}

}  // namespace edgegpt
