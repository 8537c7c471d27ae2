// The vectors of vector_plain.h with NEON, and with its dot products where there are those.
#pragma once

#include <arm_neon.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "description.h"

namespace edgegpt {

inline constexpr const char *target_name = "neon";
// 4 sums of four registers each leave half of the 32 registers for what is multiplied.
inline constexpr int most_rows = 4, most_tiles = 1, most_sums = 4;

struct Floats {
    float32x4_t v[4];
};
struct Ints {
    int32x4_t v[4];
};
struct Mask {
    uint32x4_t v[4];
};
struct Bytes {
    uint8x16_t v[4];
};

template <class Out, class Function>
inline Out each(Function function) {
    Out out;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) out.v[i] = function(i);
    return out;
}

inline Floats load(const float *p) {
    return each<Floats>([&](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float *p, Floats x) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
inline Floats all(float x) {
    return each<Floats>([&](int) { return vdupq_n_f32(x); });
}

inline Floats operator+(Floats a, Floats b) {
    return each<Floats>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline Floats operator-(Floats a, Floats b) {
    return each<Floats>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
inline Floats operator*(Floats a, Floats b) {
    return each<Floats>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline Floats operator/(Floats a, Floats b) {
    return each<Floats>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
inline Floats fma(Floats a, Floats b, Floats c) {
    return each<Floats>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
// Not vmaxq: the second one is wanted if either is no number.
inline Floats max(Floats a, Floats b) {
    return each<Floats>(
        [&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline Floats min(Floats a, Floats b) {
    return each<Floats>(
        [&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline Floats abs(Floats a) {
    return each<Floats>([&](int i) { return vabsq_f32(a.v[i]); });
}
inline Floats with_sign(Floats a, Floats b) {
    const uint32x4_t sign = vdupq_n_u32(0x80000000u);
    return each<Floats>([&](int i) { return vbslq_f32(sign, b.v[i], a.v[i]); });
}
inline Floats round(Floats a) {
    return each<Floats>([&](int i) { return vrndnq_f32(a.v[i]); });
}
inline Mask less(Floats a, Floats b) {
    return each<Mask>([&](int i) { return vcltq_f32(a.v[i], b.v[i]); });
}
inline Floats select(Mask mask, Floats yes, Floats no) {
    return each<Floats>([&](int i) { return vbslq_f32(mask.v[i], yes.v[i], no.v[i]); });
}
inline Mask between(int first, int end) {
    const std::int32_t lane[4] = {0, 1, 2, 3};
    const int32x4_t begin = vld1q_s32(lane);
    return each<Mask>([&](int i) {
        const int32x4_t own = vaddq_s32(begin, vdupq_n_s32(4 * i));
        return vandq_u32(vcgeq_s32(own, vdupq_n_s32(first)), vcltq_s32(own, vdupq_n_s32(end)));
    });
}
inline Floats times_power_of_2(Floats a, Floats n) {
    return each<Floats>([&](int i) {
        const int32x4_t biased = vaddq_s32(vcvtq_s32_f32(n.v[i]), vdupq_n_s32(127));
        return vmulq_f32(a.v[i], vreinterpretq_f32_s32(vshlq_n_s32(biased, 23)));
    });
}
inline float largest(Floats x) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[1]), vmaxq_f32(x.v[2], x.v[3])));
}
// Lanes 8 apart, then 4, 2 and 1.
inline float sum(Floats x) {
    const float32x4_t four = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

inline Floats load_float16(const std::uint16_t *p) {
    return each<Floats>(
        [&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline void store_float16(std::uint16_t *p, Floats x) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
}
inline Floats load_bfloat16(const std::uint16_t *p) {
    return each<Floats>([&](int i) {
        return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p + 4 * i)), 16));
    });
}

inline void store_bfloat16(std::uint16_t *p, Floats x) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const uint32x4_t bits = vreinterpretq_u32_f32(x.v[i]);
        const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        const uint32x4_t nearest = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
        const uint32x4_t number = vceqq_f32(x.v[i], x.v[i]);
        vst1_u16(p + 4 * i, vshrn_n_u32(vbslq_u32(number, nearest, quiet), 16));
    }
}

inline Ints all_ints(std::int32_t x) {
    return each<Ints>([&](int) { return vdupq_n_s32(x); });
}
inline Ints operator+(Ints a, Ints b) {
    return each<Ints>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
}
inline std::int32_t sum(Ints x) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3])));
}
inline Floats to_floats(Ints x) {
    return each<Floats>([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
inline Ints store_bytes(std::int8_t *p, Floats x) {
    const Ints whole = each<Ints>([&](int i) { return vcvtq_s32_f32(x.v[i]); });
    const int16x8_t low = vcombine_s16(vqmovn_s32(whole.v[0]), vqmovn_s32(whole.v[1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(whole.v[2]), vqmovn_s32(whole.v[3]));
    vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
    return whole;
}
inline Bytes load_bytes(const std::uint8_t *p) {
    return each<Bytes>([&](int i) { return vld1q_u8(p + 16 * i); });
}
inline Bytes low_halves(Bytes x) {
    return each<Bytes>([&](int i) { return vandq_u8(x.v[i], vdupq_n_u8(15)); });
}
inline Bytes high_halves(Bytes x) {
    return each<Bytes>([&](int i) { return vshrq_n_u8(x.v[i], 4); });
}

#ifdef __ARM_FEATURE_MATMUL_INT8
// Bytes without a sign are multiplied by bytes with one.
inline Ints start(std::int32_t zero, std::int32_t total) { return all_ints(-zero * total); }
template <int>
inline int32x4_t four_dots(int32x4_t c, uint8x16_t weights, int8x16_t activations) {
    return vusdotq_s32(c, weights, activations);
}
#else
// Weights are made signed, -128 to 127, where they are not below 128 anyway.
inline Ints start(std::int32_t zero, std::int32_t total) {
    return all_ints(zero == 128 ? 0 : -zero * total);
}
// Four products in each of four lanes.
template <int zero>
inline int32x4_t four_dots(int32x4_t c, uint8x16_t weights, int8x16_t b) {
    const int8x16_t a =
        vreinterpretq_s8_u8(zero == 128 ? veorq_u8(weights, vdupq_n_u8(128)) : weights);
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(c, a, b);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
    const int16x8_t high = vmull_high_s8(a, b);
    return vaddq_s32(c, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}
#endif
template <int zero>
inline void add_dot(Ints &c, Bytes weights, const std::int8_t *p) {
    std::int32_t four;
    std::memcpy(&four, p, sizeof four);
    const int8x16_t activations = vreinterpretq_s8_s32(vdupq_n_s32(four));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) c.v[i] = four_dots<zero>(c.v[i], weights.v[i], activations);
}

#ifdef __ARM_FEATURE_MATMUL_INT8
inline constexpr bool pairs_rows = true;
// Let each odd lane of the first trade places with the even one before it of the second.
inline void trade(Ints &first, Ints &second) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const int32x4_t even = vtrn1q_s32(first.v[i], second.v[i]);
        second.v[i] = vtrn2q_s32(first.v[i], second.v[i]);
        first.v[i] = even;
    }
}
// Add to the sums of two rows, which have traded lanes, what `add_dot` adds to each of them for
// the weights of four inputs and of the next four: p and q have eight activations of both rows.
inline void add_row_pair(Ints &first, Ints &second, Bytes four, Bytes next, const std::int8_t *p,
                         const std::int8_t *q) {
    const int8x16_t activations = vcombine_s8(vld1_s8(p), vld1_s8(q));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const uint32x4_t a = vreinterpretq_u32_u8(four.v[i]), b = vreinterpretq_u32_u8(next.v[i]);
        const uint8x16_t even = vreinterpretq_u8_u32(vtrn1q_u32(a, b));
        const uint8x16_t odd = vreinterpretq_u8_u32(vtrn2q_u32(a, b));
        first.v[i] = vusmmlaq_s32(first.v[i], even, activations);
        second.v[i] = vusmmlaq_s32(second.v[i], odd, activations);
    }
}
#else
inline constexpr bool pairs_rows = false;
#endif

// Not BFDOT, which rounds in a way of its own.
inline float32x4_t first_of_pairs(uint32x4_t x) {
    return vreinterpretq_f32_u32(vshlq_n_u32(x, 16));
}
inline float32x4_t second_of_pairs(uint32x4_t x) {
    return vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000u)));
}
inline void add_pairs(Floats &c, Bytes weights, const std::uint16_t *p) {
    std::uint32_t two;
    std::memcpy(&two, p, sizeof two);
    const uint32x4_t activations = vdupq_n_u32(two);
    const float32x4_t first = first_of_pairs(activations), second = second_of_pairs(activations);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const uint32x4_t pairs = vreinterpretq_u32_u8(weights.v[i]);
        c.v[i] = vfmaq_f32(c.v[i], second_of_pairs(pairs), second);
        c.v[i] = vfmaq_f32(c.v[i], first_of_pairs(pairs), first);
    }
}

}  // namespace edgegpt
