// Exponential, tanh, erf, and the activations made of them, to about one unit in the last place.
//
// The coefficients are weighted least-squares fits, reweighted until the error was level
// (Lawson 1961). tests/native compares with float64 over the whole range.
#pragma once

#include "vector.h"

namespace edgegpt {

// The polynomial with coefficients a[0], a[1] ... by Horner's rule.
template <int count>
inline Floats polynomial(Floats x, const float (&a)[count]) {
    Floats y = all(a[count - 1]);
    for (int i = count - 2; i >= 0; --i) y = fma(y, x, all(a[i]));
    return y;
}

// e^x; 0 below -87.3, where the result would not be a normal number, and at most e^88.
inline Floats exponential(Floats x) {
    constexpr float lowest = -87.33f, highest = 88.0f;
    constexpr float per_octave = 0x1.715476p+0f;  // 1 / ln 2
    constexpr float octave = 0x1.62e43p-1f, octave_rest = -0x1.05c61p-29f;
    constexpr float terms[] = {0x1p+0f,         0x1p+0f,         0x1p-1f,        0x1.555554p-3f,
                               0x1.55548ep-5f,  0x1.111272p-7f,  0x1.6d8dbp-10f, 0x1.9f081p-13f};
    const Floats within = min(max(x, all(lowest)), all(highest));
    const Floats n = round(within * all(per_octave));
    const Floats rest = fma(n, all(-octave_rest), fma(n, all(-octave), within));
    const Floats result = times_power_of_2(polynomial(rest, terms), n);
    const Floats kept = select(less(x, all(lowest)), all(0.0f), result);
    return select(less(all(0.0f), abs(x) + all(1.0f)), kept, x);  // no number stays none
}

inline Floats hyperbolic_tangent(Floats x) {
    constexpr float border = 0.55f;
    constexpr float terms[] = {-0x1.555554p-2f, 0x1.1110dcp-3f,  -0x1.ba0996p-5f,
                               0x1.64e3ccp-6f,  -0x1.13b564p-7f, 0x1.3a0674p-9f};
    const Floats size = abs(x), square = x * x;
    const Floats near_zero = fma(x * square, polynomial(square, terms), x);
    const Floats grown = exponential(size + size);
    const Floats far = all(1.0f) - all(2.0f) / (grown + all(1.0f));
    return select(less(size, all(border)), near_zero, with_sign(far, x));
}

inline Floats error_function(Floats x) {
    constexpr float border = 0.925f, end = 3.95f;  // from there on it is 1
    constexpr float near_terms[] = {0x1.06eba8p-3f,  -0x1.812744p-2f, 0x1.ce2e18p-4f,
                                    -0x1.b80fc2p-6f, 0x1.54d3aap-8f,  -0x1.aaa864p-11f,
                                    0x1.5e3524p-14f};
    constexpr float far_terms[] = {0x1.077a16p-3f, 0x1.45315p-1f,   0x1.b335dcp-4f, -0x1.8589e4p-6f,
                                   0x1.de42ap-9f,  -0x1.5420fep-12f, 0x1.7e1e02p-17f};
    const Floats size = min(abs(x), all(end)), square = x * x;
    const Floats near_zero = fma(x, polynomial(square, near_terms), x);
    // 1 - erf(t) is e^(-t - t * p(t)).
    const Floats power = fma(size, polynomial(size, far_terms), size);
    const Floats far = all(1.0f) - exponential(all(0.0f) - power);
    return select(less(abs(x), all(border)), near_zero, with_sign(far, x));
}

template <Activation activation>
inline Floats activated(Floats x) {
    const Floats zero = all(0.0f), one = all(1.0f);
    if constexpr (activation == Activation::silu) {
        return x / (one + exponential(zero - x));
    } else if constexpr (activation == Activation::gelu) {
        constexpr float root_of_half = 0x1.6a09e6p-1f;
        return all(0.5f) * x * (one + error_function(x * all(root_of_half)));
    } else if constexpr (activation == Activation::gelu_tanh) {
        constexpr float root = 0x1.988454p-1f, cubic = 0.044715f;  // sqrt(2 / pi)
        const Floats inner = all(root) * fma(all(cubic) * x * x, x, x);
        return all(0.5f) * x * (one + hyperbolic_tangent(inner));
    } else {
        const Floats positive = select(less(x, zero), zero, x);  // no number stays none
        return activation == Activation::relu2 ? positive * positive : positive;
    }
}

// c * tanh(x / c); c = 0 leaves x as it is.
inline Floats capped(Floats x, float c) {
    return c > 0.0f ? all(c) * hyperbolic_tangent(x / all(c)) : x;
}

}  // namespace edgegpt
