// What the interface refuses, and who may call it.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "adderkit.h"
#include "checks.h"
#include "layer.h"

namespace {

adderkit_conv2d_shape small() {
  adderkit_conv2d_shape s{};
  s.batch = 1;
  s.channels = s.out_channels = 2;
  s.height = s.width = 4;
  s.kernel_height = s.kernel_width = 3;
  s.groups = 1;
  for (int axis = 0; axis < 2; ++axis) s.stride[axis] = s.dilation[axis] = s.padding[axis] = 1;
  const int64_t image[] = {32, 16, 4, 1}, filter[] = {18, 9, 3, 1};
  std::memcpy(s.input_stride, image, sizeof image);
  std::memcpy(s.output_stride, image, sizeof image);
  std::memcpy(s.weight_stride, filter, sizeof filter);
  return s;
}

struct Buffers {
  float x[32] = {}, f[36] = {}, y[32] = {}, dx[32] = {};
};

// A layer with enough operations (some 900 000) to be shared among threads.
std::unique_ptr<Layer> wide_layer(uint64_t seed) {
  for (;; ++seed) {
    auto layer = std::make_unique<Layer>(seed);
    const auto& s = layer->shape;
    if (s.batch > 0 && s.channels / s.groups * s.kernel_height * s.kernel_width *
                               static_cast<int64_t>(layer->output->values().size()) >
                           500 * 1000)
      return layer;
  }
}

bool is_same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

void test_refusals() {
  Buffers b;
  const auto forward = [&](const adderkit_conv2d_shape* s) {
    return adderkit_adder2d_f32(s, b.x, b.f, b.y, 1);
  };
  const auto gradient = [&](const adderkit_conv2d_shape* s) {
    return adderkit_adder2d_input_grad_f32(s, b.y, b.x, b.f, b.dx, small().input_stride, 1);
  };
  const auto refused = [&](const char* what, const char* named,
                           const std::function<void(adderkit_conv2d_shape&)>& spoil) {
    adderkit_conv2d_shape s = small();
    spoil(s);
    for (int32_t status : {forward(&s), gradient(&s)}) {
      expect(status == ADDERKIT_INVALID_ARGUMENT, "%s was not refused", what);
      expect(std::strstr(adderkit_error(), named) != nullptr, "%s: \"%s\" does not say %s", what,
             adderkit_error(), named);
    }
  };
  const adderkit_conv2d_shape good = small();
  expect(forward(&good) == ADDERKIT_OK && gradient(&good) == ADDERKIT_OK, "refused: %s", adderkit_error());

  using Shape = adderkit_conv2d_shape;
  refused("batch -1", "batch", [](Shape& s) { s.batch = -1; });
  for (int64_t wrong : {0, -1}) {
    refused("channels", "sizes", [&](Shape& s) { s.channels = wrong; });
    refused("height", "sizes", [&](Shape& s) { s.height = wrong; });
    refused("width", "sizes", [&](Shape& s) { s.width = wrong; });
    refused("out_channels", "sizes", [&](Shape& s) { s.out_channels = wrong; });
    refused("kernel_height", "sizes", [&](Shape& s) { s.kernel_height = wrong; });
    refused("kernel_width", "sizes", [&](Shape& s) { s.kernel_width = wrong; });
    refused("groups", "groups", [&](Shape& s) { s.groups = wrong; });
    for (int axis = 0; axis < 2; ++axis) {
      refused("stride", "strides", [&](Shape& s) { s.stride[axis] = wrong; });
      refused("dilation", "dilations", [&](Shape& s) { s.dilation[axis] = wrong; });
    }
  }
  for (int axis = 0; axis < 2; ++axis)
    refused("padding -1", "padding", [&](Shape& s) { s.padding[axis] = -1; });
  refused("3 groups of 2 channels", "groups", [](Shape& s) { s.groups = 3; });
  refused("2 groups of 3 filters", "groups", [](Shape& s) { s.groups = 2, s.out_channels = 3; });
  refused("a filter of 7 rows over 6", "filter", [](Shape& s) { s.kernel_height = 7; });
  refused("a filter of 4 columns, dilated, over 6", "filter",
          [](Shape& s) { s.kernel_width = 4, s.dilation[1] = 2; });

  expect(forward(nullptr) == ADDERKIT_INVALID_ARGUMENT, "shape NULL was not refused");
  expect(gradient(nullptr) == ADDERKIT_INVALID_ARGUMENT, "shape NULL was not refused");
  const int64_t* step = good.input_stride;
  for (int missing = 0; missing < 5; ++missing) {
    const auto unless = [&](int k, float* p) { return k == missing ? nullptr : p; };
    if (missing < 3)
      expect(adderkit_adder2d_f32(&good, unless(0, b.x), unless(1, b.f), unless(2, b.y), 1) ==
                 ADDERKIT_INVALID_ARGUMENT,
             "pointer %d NULL was not refused", missing);
    expect(adderkit_adder2d_input_grad_f32(&good, unless(0, b.y), unless(1, b.x), unless(2, b.f),
                                           unless(3, b.dx), missing == 4 ? nullptr : step,
                                           1) == ADDERKIT_INVALID_ARGUMENT,
           "pointer %d NULL was not refused", missing);
  }
  // An empty batch has no memory.
  Shape empty = good;
  empty.batch = 0;
  expect(adderkit_adder2d_f32(&empty, nullptr, nullptr, nullptr, 1) == ADDERKIT_OK, "batch 0 was refused");
  expect(
      adderkit_adder2d_input_grad_f32(&empty, nullptr, nullptr, nullptr, nullptr, nullptr, 1) == ADDERKIT_OK,
      "batch 0 was refused");
}

void test_paths() {
  expect(adderkit_abi_version() == ADDERKIT_ABI_VERSION, "header and library differ");
  const int32_t count = adderkit_isa_count();
  expect(count > 0 && std::strcmp(adderkit_isa_name(count - 1), "portable") == 0, "portable is not there");
#if defined(__aarch64__)
  expect(std::strcmp(adderkit_isa_name(0), "neon") == 0, "NEON is not there");
#endif
  for (int32_t isa : {-1, count}) {
    expect(adderkit_isa_name(isa)[0] == '\0', "path %d has a name", isa);
    expect(adderkit_isa_reason(isa)[0] != '\0', "path %d runs", isa);
  }
  for (int32_t isa = 0; isa < count; ++isa) {
    const bool runs = adderkit_isa_reason(isa)[0] == '\0';
    const int32_t status = adderkit_isa_force(adderkit_isa_name(isa));
    expect(status == (runs ? ADDERKIT_OK : ADDERKIT_UNKNOWN_ISA), "path %d: status %d", isa, status);
    if (runs) expect(adderkit_isa_active() == isa, "path %d does not become active", isa);
  }
  const int32_t active = adderkit_isa_active();
  expect(adderkit_isa_force("nothing") == ADDERKIT_UNKNOWN_ISA, "a path of no name was not refused");
  expect(std::strstr(adderkit_error(), "portable") != nullptr, "\"%s\" names no path", adderkit_error());
  expect(adderkit_isa_active() == active, "a refused path changed the active one");
  expect(adderkit_isa_force(nullptr) == ADDERKIT_OK, "%s", adderkit_error());
  expect(std::strcmp(adderkit_thread_pool(), "own pool") == 0, "runs on %s", adderkit_thread_pool());
}

// Whether the peaks of one thread on the active path are what a processor can do: at most two vectors a cycle
// at 8 GHz (NEON: four of half the size), and no adder operation, which holds a multiply-add, faster than the
// multiply-add alone.
bool are_plausible(double multiply_add, double adder, double gradient) {
  const int lanes = std::strcmp(adderkit_isa_name(adderkit_isa_active()), "avx512") == 0 ? 16 : 8;
  const double most = 2 * lanes * 8e9;
  for (double speed : {multiply_add, adder, gradient})
    if (!(speed > 1e6 && speed < most)) return false;
  return adder <= 1.05 * multiply_add && gradient <= 1.05 * multiply_add;
}

void test_peak() {
  double speed = 0;
  double speeds[3] = {};
  bool is_plausible = false;
  for (int attempt = 0; attempt < 5 && !is_plausible; ++attempt) {  // other work slows any one of them
    for (int32_t kind : {ADDERKIT_PEAK_MULTIPLY_ADD, ADDERKIT_PEAK_ADDER, ADDERKIT_PEAK_ADDER_INPUT_GRAD})
      expect(adderkit_peak(kind, 1, &speeds[kind]) == ADDERKIT_OK, "peak %d: %s", kind, adderkit_error());
    is_plausible = are_plausible(speeds[0], speeds[1], speeds[2]);
  }
  expect(is_plausible, "peaks: multiply-add %g, adder %g, its gradient %g operations/s", speeds[0], speeds[1],
         speeds[2]);
  expect(adderkit_peak(-1, 1, &speed) == ADDERKIT_INVALID_ARGUMENT, "peak -1 was not refused");
  for (int32_t threads : {-1, 4097})
    expect(adderkit_peak(ADDERKIT_PEAK_ADDER, threads, &speed) == ADDERKIT_INVALID_ARGUMENT,
           "threads %d were not refused", threads);
  expect(adderkit_peak(ADDERKIT_PEAK_ADDER, 1, nullptr) == ADDERKIT_INVALID_ARGUMENT, "NULL was not refused");
}

void test_calls_from_several_threads() {
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (uint64_t caller = 0; caller < 3; ++caller)
    callers.emplace_back([&wrong, caller] {
      const auto layer = wide_layer(1000 * (caller + 1));
      layer->forward(1);
      layer->gradient(1);
      const std::vector<float> y = layer->output->values(), g = layer->grad_input->values();
      for (int repeat = 0; repeat < 5; ++repeat)
        for (int32_t threads : {0, 2, 4}) {
          layer->output->mark_elements();
          layer->grad_input->mark_elements();
          if (layer->forward(threads) != ADDERKIT_OK || !is_same(y, layer->output->values())) ++wrong;
          if (layer->gradient(threads) != ADDERKIT_OK || !is_same(g, layer->grad_input->values())) ++wrong;
        }
      adderkit_adder2d_f32(nullptr, nullptr, nullptr, nullptr, 1);
      if (std::strstr(adderkit_error(), "shape") == nullptr) ++wrong;
    });
  for (std::thread& caller : callers) caller.join();
  expect(wrong == 0, "%d wrong calls beside others", wrong.load());
}

// A child process has the parent's memory but none of the threads that wait in it.
void test_forked_process() {
  const auto layer = wide_layer(5000);
  layer->forward(3);
  const std::vector<float> y = layer->output->values();
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // ends a child that waits for threads it does not have
    layer->output->mark_elements();
    _exit(layer->forward(3) == ADDERKIT_OK && is_same(y, layer->output->values()) ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  expect(child > 0 && status == 0, "a forked process fails: status %d", status);
}
