// Tests the library alone: every instruction set that runs here against the definitions in double precision.
//
//   adder_f32_test [first seed] [layers]
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "adderkit.h"
#include "checks.h"
#include "layer.h"

namespace {

// In roundings, 2^-24 of a result's scale. The bounds are those in native/adder_f32/README.md.
constexpr double rounding = 1.0 / (1 << 24);
constexpr double forward_bound = 48, gradient_bound = 16;
double worst_forward = 0, worst_gradient = 0;

// Bits, but for NaNs, which processors give different signs and payloads.
bool is_same(const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t k = 0; k < a.size(); ++k)
    if (std::memcmp(&a[k], &b[k], 4) != 0 && !(std::isnan(a[k]) && std::isnan(b[k]))) return false;
  return a.size() == b.size();
}

void compare(const std::vector<float>& got, const std::vector<Expected>& expected, double bound,
             double* worst, const std::string& where) {
  int wrong = 0;
  for (size_t k = 0; k < got.size(); ++k) {
    const Expected& e = expected[k];
    const double y = got[k], error = std::fabs(y - e.value), unit = e.scale * rounding;
    const bool is_right = std::isnan(e.value)   ? std::isnan(y)
                          : std::isinf(e.value) ? y == e.value
                                                : error <= bound * unit;
    if (!is_right && ++wrong == 1)
      expect(false, "%s: element %zu is %.9g, not %.9g within %.3g", where.c_str(), k, y, e.value,
             bound * unit);
    if (is_right && std::isfinite(e.value) && error > *worst * unit) *worst = error / unit;
  }
  if (wrong > 1) expect(false, "%s: %d elements of %zu are wrong", where.c_str(), wrong, got.size());
}

// Whether the path's compiler fused multiply-adds, so that its gradients have the bits of the others.
bool is_fused(const char* isa) {
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)  // as in portable.cpp
  (void)isa;
  return true;
#else
  return std::strcmp(isa, "portable") != 0;
#endif
}

// Touching the pages around a tensor ends the process; this says before that which layer did so.
char at_work[512] = "the tests of the interface";

void say_where(int signal) {
  const char text[] = "memory outside a tensor was touched, in ";
  if (write(2, text, sizeof text - 1) < 0 || write(2, at_work, std::strlen(at_work)) < 0 ||
      write(2, "\n", 1) < 0)
    _exit(1);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void test_layer(uint64_t seed, Layer& layer) {
  const std::vector<Expected> output = layer.expected_output(), gradient = layer.expected_gradient();
  const std::vector<float> before[] = {layer.input->values(), layer.weight->values(),
                                       layer.grad_output->values()};
  std::vector<float> first_output, fused_gradient;
  for (int32_t isa = 0; isa < adderkit_isa_count(); ++isa) {
    const char* name = adderkit_isa_name(isa);
    if (adderkit_isa_reason(isa)[0] != '\0') continue;
    expect(adderkit_isa_force(name) == ADDERKIT_OK, "%s: %s", name, adderkit_error());
    const std::string where = "seed " + std::to_string(seed) + ", " + name + ", " + layer.description();
    std::snprintf(at_work, sizeof at_work, "%s", where.c_str());

    expect(layer.forward(1) == ADDERKIT_OK, "%s: %s", where.c_str(), adderkit_error());
    const std::vector<float> y = layer.output->values();
    compare(y, output, forward_bound, &worst_forward, where + ", forward");
    bool is_negative = true;
    for (float value : y) is_negative &= !(value > 0);
    expect(is_negative, "%s: an output is above zero", where.c_str());
    expect(layer.output->is_clean(), "%s: wrote around the output", where.c_str());
    layer.forward(3);
    expect(is_same(y, layer.output->values()), "%s: output differs with 3 threads", where.c_str());
    if (first_output.empty()) first_output = y;
    expect(is_same(y, first_output), "%s: output differs from the first path's", where.c_str());

    expect(layer.gradient(1) == ADDERKIT_OK, "%s: %s", where.c_str(), adderkit_error());
    const std::vector<float> g = layer.grad_input->values();
    compare(g, gradient, gradient_bound, &worst_gradient, where + ", gradient");
    expect(layer.grad_input->is_clean(), "%s: wrote around the gradient", where.c_str());
    layer.gradient(3);
    expect(is_same(g, layer.grad_input->values()), "%s: gradient differs with 3 threads", where.c_str());
    if (is_fused(name)) {
      if (fused_gradient.empty()) fused_gradient = g;
      expect(is_same(g, fused_gradient), "%s: gradient differs from the first path's", where.c_str());
    }
  }
  adderkit_isa_force(nullptr);
  Tensor* read[] = {layer.input.get(), layer.weight.get(), layer.grad_output.get()};
  for (int k = 0; k < 3; ++k) {
    expect(is_same(before[k], read[k]->values()), "seed %llu: changed what it only reads",
           static_cast<unsigned long long>(seed));
    expect(read[k]->is_clean(), "seed %llu: wrote around what it only reads",
           static_cast<unsigned long long>(seed));
  }
}

}  // namespace

int main(int count, char** arguments) {
  std::signal(SIGSEGV, say_where);
  std::signal(SIGBUS, say_where);
  const uint64_t first = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  const uint64_t layers = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 300;
  std::printf("paths:");
  for (int32_t isa = 0; isa < adderkit_isa_count(); ++isa) {
    const char* reason = adderkit_isa_reason(isa);
    std::printf(reason[0] == '\0' ? " %s" : " (not %s: %s)", adderkit_isa_name(isa), reason);
  }
  std::printf("; seeds %llu to %llu\n", static_cast<unsigned long long>(first),
              static_cast<unsigned long long>(first + layers - 1));
  std::fflush(stdout);

  test_paths();
  test_refusals();
  test_peak();
  test_calls_from_several_threads();
  test_forked_process();
  for (uint64_t seed = first; seed < first + layers; ++seed) {
    Layer layer(seed);
    test_layer(seed, layer);
  }
  for (float offset : {0.0f, 1e5f, -74566.0f})
    for (int64_t size : {1, 3}) {
      Layer deep(first, offset, size);
      test_layer(first, deep);
    }

  std::printf("worst errors, in roundings: forward %.1f of %g, input gradient %.1f of %g\n", worst_forward,
              forward_bound, worst_gradient, gradient_bound);
  return exit_code();
}
