// What the processor has to have, as the compiler was told, and whether it has it.
//
// Nothing here may use what it asks for: see `baseline`.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

// Of functions that run before the processor is known to be the right one.
#if defined(__x86_64__)
#define EDGEGPT_BASELINE [[gnu::noinline, gnu::target("no-avx,no-bmi,no-bmi2,no-lzcnt")]]
#else
#define EDGEGPT_BASELINE [[gnu::noinline]]
#endif

namespace edgegpt {

// Where a feature is told: on x86 a register of the leaf 1 or 7 of cpuid, on aarch64 a word of the
// kernel's auxiliary vector.
enum class Told { leaf_1_ecx, leaf_7_ebx, leaf_7_ecx, leaf_7_1_eax, hwcap, hwcap2 };

struct Feature {
    const char *name;
    Told place;
    int bit;
};

inline constexpr Feature features[] = {
#ifdef __FMA__
    {"fma", Told::leaf_1_ecx, 12},
#endif
#ifdef __F16C__
    {"f16c", Told::leaf_1_ecx, 29},
#endif
#ifdef __BMI2__
    {"bmi2", Told::leaf_7_ebx, 8},
#endif
#ifdef __AVX2__
    {"avx2", Told::leaf_7_ebx, 5},
#endif
#ifdef __AVXVNNI__
    {"avx_vnni", Told::leaf_7_1_eax, 4},
#endif
#ifdef __AVX512F__
    {"avx512f", Told::leaf_7_ebx, 16},
#endif
#ifdef __AVX512DQ__
    {"avx512dq", Told::leaf_7_ebx, 17},
#endif
#ifdef __AVX512BW__
    {"avx512bw", Told::leaf_7_ebx, 30},
#endif
#ifdef __AVX512VL__
    {"avx512vl", Told::leaf_7_ebx, 31},
#endif
#ifdef __AVX512VBMI__
    {"avx512vbmi", Told::leaf_7_ecx, 1},
#endif
#ifdef __AVX512VNNI__
    {"avx512_vnni", Told::leaf_7_ecx, 11},
#endif
#ifdef __AVX512BF16__
    {"avx512_bf16", Told::leaf_7_1_eax, 5},
#endif
#ifdef __ARM_FEATURE_ATOMICS
    {"atomics", Told::hwcap, 8},
#endif
#ifdef __ARM_FEATURE_FP16_VECTOR_ARITHMETIC
    {"asimdhp", Told::hwcap, 10},
#endif
#ifdef __ARM_FEATURE_DOTPROD
    {"asimddp", Told::hwcap, 20},
#endif
#ifdef __ARM_FEATURE_SVE
    {"sve", Told::hwcap, 22},
#endif
#ifdef __ARM_FEATURE_MATMUL_INT8
    {"i8mm", Told::hwcap2, 13},
#endif
    {nullptr, Told::hwcap, 0},
};

#if defined(__x86_64__)

// Whether the system keeps the wide registers when it switches threads.
EDGEGPT_BASELINE inline bool keeps_registers() {
    if (features[0].name == nullptr) return true;
    std::uint32_t a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c >> 27 & 1) == 0) return false;
    std::uint32_t low, high;
    asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
#ifdef __AVX512F__
    constexpr std::uint32_t needed = 0xe6;
#else
    constexpr std::uint32_t needed = 0x06;
#endif
    return (low & needed) == needed;
}

EDGEGPT_BASELINE inline std::uint32_t told(Told place) {
    std::uint32_t a = 0, b = 0, c = 0, d = 0;
    const bool first = place == Told::leaf_1_ecx, second = place == Told::leaf_7_1_eax;
    if (__get_cpuid_count(first ? 1 : 7, second ? 1 : 0, &a, &b, &c, &d) == 0) return 0;
    return second ? a : place == Told::leaf_7_ebx ? b : c;
}

#elif defined(__aarch64__) && defined(__linux__)

inline bool keeps_registers() { return true; }
inline std::uint32_t told(Told place) {
    return static_cast<std::uint32_t>(getauxval(place == Told::hwcap ? AT_HWCAP : AT_HWCAP2));
}

#else  // a system that does not tell

inline bool keeps_registers() { return true; }
inline std::uint32_t told(Told) { return ~0u; }

#endif

// The name of a feature that is missing; null if there is none.
EDGEGPT_BASELINE inline const char *missing_feature() {
    for (const Feature *f = features; f->name != nullptr; ++f)
        if ((told(f->place) >> f->bit & 1) == 0) return f->name;
    return keeps_registers() ? nullptr : "a system that keeps their wide registers";
}

// The names of all features with spaces between; `out` has room for 16 characters each.
EDGEGPT_BASELINE inline void list_features(char *out) {
    for (const Feature *f = features; f->name != nullptr; ++f) {
        for (const char *p = f->name; *p != '\0'; ++p) *out++ = *p;
        if (f[1].name != nullptr) *out++ = ' ';
    }
    *out = '\0';
}

}  // namespace edgegpt
