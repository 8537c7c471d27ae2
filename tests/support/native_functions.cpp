// The functions of the native engine on arrays, for tests by ctypes.
#include "functions.h"

using namespace edgegpt;

namespace {

template <class Function>
void map(const float *x, float *y, int count, Function function) {
    for (int i = 0; i + lanes <= count; i += lanes) store(y + i, function(load(x + i)));
}

}  // namespace

extern "C" {

void exponentials(const float *x, float *y, int count) { map(x, y, count, exponential); }
void tanhs(const float *x, float *y, int count) { map(x, y, count, hyperbolic_tangent); }
void erfs(const float *x, float *y, int count) { map(x, y, count, error_function); }
void gelus(const float *x, float *y, int count) { map(x, y, count, activated<Activation::gelu>); }
void silus(const float *x, float *y, int count) { map(x, y, count, activated<Activation::silu>); }

float sum_of(const float *x) { return sum(load(x)); }
float largest_of(const float *x) { return largest(load(x)); }
void halves(const std::uint16_t *x, float *y) { store(y, load_float16(x)); }
void between_of(const float *x, float *y, int first, int end) {
    store(y, select(between(first, end), load(x), all(0.0f)));
}

}
