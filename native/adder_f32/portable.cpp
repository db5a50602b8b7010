// Four lanes in plain loops, for any processor; compilers turn them into whatever vectors its baseline has.
#include "table.h"

namespace adderkit {
namespace {

struct Portable {
  static constexpr int lanes = 4;
  static constexpr int forward_pixels = 4;
  static constexpr int input_grad_pixels = 4;
  static constexpr int depthwise_pixels = 4;
  struct Vec {
    float v[lanes];
  };

  template <class Function>
  static Vec each(const Function& function) {
    Vec out;
    for (int i = 0; i < lanes; ++i) out.v[i] = function(i);
    return out;
  }

  static Vec zero() { return set(0.0f); }
  static Vec set(float value) {
    return each([&](int) { return value; });
  }
  static Vec set_factor(float value) { return set(value); }
  static Vec load(const float* p) {
    return each([&](int i) { return p[i]; });
  }
  static void store(float* p, const Vec& a) {
    for (int i = 0; i < lanes; ++i) p[i] = a.v[i];
  }
  static Vec load_first(const float* p, int n) {
    return each([&](int i) { return i < n ? p[i] : 0.0f; });
  }
  static void store_first(float* p, const Vec& a, int n) {
    for (int i = 0; i < n; ++i) p[i] = a.v[i];
  }

  static Vec add(const Vec& a, const Vec& b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
  }
  static Vec difference(const Vec& f, const Vec& x, const Vec&, int) {
    return each([&](int i) { return f.v[i] - x.v[i]; });
  }
  // Fused where the baseline has such an instruction (elsewhere the function would be a slow emulation): said
  // outright, since what compilers fuse by themselves differs from loop to loop.
  static Vec multiply_add(const Vec& a, const Vec& b, const Vec& c) {
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return each([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
#else
    return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
#endif
  }
  static Vec minus_twice_max(const Vec& a, const Vec& b, const Vec& total) {
    return each([&](int i) { return total.v[i] - 2.0f * (a.v[i] > b.v[i] ? a.v[i] : b.v[i]); });
  }
  static Vec minus_distance(const Vec& total, const Vec& x, const Vec& f, const Vec&) {
    return each([&](int i) { return total.v[i] - __builtin_fabsf(x.v[i] - f.v[i]); });
  }
  static Vec min_zero(const Vec& a) {
    return each([&](int i) { return a.v[i] > 0.0f ? 0.0f : a.v[i]; });
  }

  static Vec hidden_one() { return set(1.0f); }
  static Vec clamp_to_one(const Vec& a, const Vec&) {
    return each([&](int i) { return a.v[i] > 1.0f ? 1.0f : a.v[i] < -1.0f ? -1.0f : a.v[i]; });
  }

  static bool any_not_finite(const Vec& a) {
    bool is_odd = false;
    for (int i = 0; i < lanes; ++i) is_odd |= !(a.v[i] - a.v[i] == 0.0f);
    return is_odd;
  }
  static bool any_nan(const Vec& a) {
    bool is_odd = false;
    for (int i = 0; i < lanes; ++i) is_odd |= a.v[i] != a.v[i];
    return is_odd;
  }

  static void transpose(Vec (&r)[lanes]) {
    Vec t[lanes];
    for (int i = 0; i < lanes; ++i)
      for (int j = 0; j < lanes; ++j) t[j].v[i] = r[i].v[j];
    for (int i = 0; i < lanes; ++i) r[i] = t[i];
  }
};

}  // namespace

const AdderF32Kernels adder_f32_portable = kernels_of<Portable>();

}  // namespace adderkit
