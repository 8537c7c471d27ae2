// The vectors in plain C++: the meaning of every function, and what runs where nothing better does.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "description.h"

namespace edgegpt {

inline constexpr const char *target_name = "plain";
// What the registers hold: rows of activations in a product, tiles, and sums of both.
inline constexpr int most_rows = 4, most_tiles = 2, most_sums = 4;
// Whether there are `trade` and `add_row_pair`, which vector_neon.h has.
inline constexpr bool pairs_rows = false;

struct Floats {
    float v[lanes];
};
struct Ints {
    std::int32_t v[lanes];
};
struct Mask {
    bool v[lanes];
};
struct Bytes {
    std::uint8_t v[4 * lanes];
};

template <class Out, class Function>
inline Out each(Function function) {
    Out out;
    for (int i = 0; i < lanes; ++i) out.v[i] = function(i);
    return out;
}

inline Floats load(const float *p) {
    return each<Floats>([&](int i) { return p[i]; });
}
inline void store(float *p, Floats x) { std::memcpy(p, x.v, sizeof x.v); }
inline Floats all(float x) {
    return each<Floats>([&](int) { return x; });
}

inline Floats operator+(Floats a, Floats b) {
    return each<Floats>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Floats operator-(Floats a, Floats b) {
    return each<Floats>([&](int i) { return a.v[i] - b.v[i]; });
}
inline Floats operator*(Floats a, Floats b) {
    return each<Floats>([&](int i) { return a.v[i] * b.v[i]; });
}
inline Floats operator/(Floats a, Floats b) {
    return each<Floats>([&](int i) { return a.v[i] / b.v[i]; });
}
// a * b + c, rounded once.
inline Floats fma(Floats a, Floats b, Floats c) {
    return each<Floats>([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
// The second one if either is no number.
inline Floats max(Floats a, Floats b) {
    return each<Floats>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats min(Floats a, Floats b) {
    return each<Floats>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats abs(Floats a) {
    return each<Floats>([&](int i) { return std::fabs(a.v[i]); });
}
// The magnitude of a with the sign of b.
inline Floats with_sign(Floats a, Floats b) {
    return each<Floats>([&](int i) { return std::copysign(a.v[i], b.v[i]); });
}
// To the nearest whole number, halves to the even one.
inline Floats round(Floats a) {
    return each<Floats>([&](int i) { return std::nearbyint(a.v[i]); });
}
inline Mask less(Floats a, Floats b) {
    return each<Mask>([&](int i) { return a.v[i] < b.v[i]; });
}
inline Floats select(Mask mask, Floats yes, Floats no) {
    return each<Floats>([&](int i) { return mask.v[i] ? yes.v[i] : no.v[i]; });
}
// Lanes first .. end - 1.
inline Mask between(int first, int end) {
    return each<Mask>([&](int i) { return first <= i && i < end; });
}
// A float as a whole number, and the lowest one if it is none of 32 bits, as on x86.
inline std::int32_t whole(float x) {
    return std::fabs(x) < 0x1p31f ? static_cast<std::int32_t>(x) : INT32_MIN;
}
// a * 2^n for whole n of -126 to 127.
inline Floats times_power_of_2(Floats a, Floats n) {
    return each<Floats>([&](int i) {
        const std::uint32_t bits = static_cast<std::uint32_t>(whole(n.v[i]) + 127) << 23;
        float power;
        std::memcpy(&power, &bits, sizeof power);
        return a.v[i] * power;
    });
}
inline float largest(Floats x) {
    float found = x.v[0];
    for (int i = 1; i < lanes; ++i) found = found > x.v[i] ? found : x.v[i];
    return found;
}

// A fixed tree: lanes 8 apart, then 4, 2 and 1.
inline float sum(Floats x) {
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) x.v[i] += x.v[i + half];
    return x.v[0];
}

inline float from_half(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t rest = static_cast<std::uint32_t>(half & 0x7fffu) << 13;
    float scaled;
    std::memcpy(&scaled, &rest, sizeof scaled);
    scaled *= 0x1p112f;  // moves the exponent, and makes small ones normal
    std::uint32_t bits;
    std::memcpy(&bits, &scaled, sizeof bits);
    if ((half & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;  // infinite, or no number
    bits |= sign;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline Floats load_float16(const std::uint16_t *p) {
    return each<Floats>([&](int i) { return from_half(p[i]); });
}
// To the nearest one, halves to the even one; too large ones become infinite.
inline std::uint16_t to_half(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    std::uint32_t half;
    if (size > 0x7f800000u) {
        half = 0x7e00u | (size >> 13 & 0x1ffu);  // no number
    } else if (size >= 0x477ff000u) {
        half = 0x7c00u;
    } else if (size < 0x38800000u) {  // not normal: adding 0.5 rounds at the right bit
        const float added = std::fabs(value) + 0.5f;
        std::memcpy(&half, &added, sizeof half);
        half -= 0x3f000000u;
    } else {
        half = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
    }
    return static_cast<std::uint16_t>(sign | half);
}
inline void store_float16(std::uint16_t *p, Floats x) {
    for (int i = 0; i < lanes; ++i) p[i] = to_half(x.v[i]);
}
inline Floats load_bfloat16(const std::uint16_t *p) {
    return each<Floats>([&](int i) {
        const std::uint32_t bits = static_cast<std::uint32_t>(p[i]) << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    });
}

// To the nearest one, ties to the even one.
inline std::uint16_t to_bfloat16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline void store_bfloat16(std::uint16_t *p, Floats x) {
    for (int i = 0; i < lanes; ++i) p[i] = to_bfloat16(x.v[i]);
}

inline Ints all_ints(std::int32_t x) {
    return each<Ints>([&](int) { return x; });
}
// Of few small numbers, unless there was one that is none: then it only must not trap.
inline std::int32_t wrapped_sum(std::int32_t a, std::int32_t b) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
}
inline Ints operator+(Ints a, Ints b) {
    return each<Ints>([&](int i) { return wrapped_sum(a.v[i], b.v[i]); });
}
inline std::int32_t sum(Ints x) {
    std::int32_t total = 0;
    for (int i = 0; i < lanes; ++i) total = wrapped_sum(total, x.v[i]);
    return total;
}
inline Floats to_floats(Ints x) {
    return each<Floats>([&](int i) { return static_cast<float>(x.v[i]); });
}
// Whole numbers of -127 to 127: write them as bytes, and return them.
inline Ints store_bytes(std::int8_t *p, Floats x) {
    const Ints found = each<Ints>([&](int i) { return whole(x.v[i]); });
    for (int i = 0; i < lanes; ++i) p[i] = static_cast<std::int8_t>(found.v[i]);
    return found;
}
inline Bytes load_bytes(const std::uint8_t *p) {
    Bytes out;
    std::memcpy(out.v, p, sizeof out.v);
    return out;
}
inline Bytes low_halves(Bytes x) {
    for (std::uint8_t &byte : x.v) byte = static_cast<std::uint8_t>(byte & 15);
    return x;
}
inline Bytes high_halves(Bytes x) {
    for (std::uint8_t &byte : x.v) byte = static_cast<std::uint8_t>(byte >> 4);
    return x;
}
// What a sum of products with `zero` as zero point starts from: `total` is the activations' sum.
inline Ints start(std::int32_t zero, std::int32_t total) { return all_ints(-zero * total); }
// Add to lane i of c the products of bytes 4i to 4i + 3 with the four activations at p.
template <int zero>
inline void add_dot(Ints &c, Bytes weights, const std::int8_t *p) {
    for (int i = 0; i < lanes; ++i)
        for (int j = 0; j < 4; ++j) c.v[i] += weights.v[4 * i + j] * p[j];
}

// Add to lane i of c the products of the numbers 2i + 1 and then 2i, all of them bfloat16, with the
// second and the first of the two activations at p. Where the processor has an instruction for
// this, numbers below 2^-126 count as zeros.
inline void add_pairs(Floats &c, Bytes weights, const std::uint16_t *p) {
    std::uint16_t half[2 * lanes], first[lanes], second[lanes], two[lanes] = {p[0], p[1]};
    std::memcpy(half, weights.v, sizeof half);
    for (int i = 0; i < lanes; ++i) first[i] = half[2 * i], second[i] = half[2 * i + 1];
    const Floats activations = load_bfloat16(two);
    c = fma(load_bfloat16(second), all(activations.v[1]), c);
    c = fma(load_bfloat16(first), all(activations.v[0]), c);
}

}  // namespace edgegpt
