// Integer networks on every instruction set of the machine against plain loops in int64, written from the
// formulas in integer/network.h alone. Everything has to be equal.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "adderkit.h"
#include "checks.h"
#include "integer/run.h"
#include "random_network.h"

using adderkit::Plan;
using adderkit::run;
using adderkit::run_to;

namespace {

using Values = std::vector<int64_t>;  // of one tensor, (height, width, channels)

int64_t shifted(int64_t value, int shift) {  // rounds towards minus infinity, without >> on negative numbers
  return value >= 0 ? value >> shift : -((-value + (int64_t{1} << shift) - 1) >> shift);
}

int64_t clamped(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

Values sliding(const Layer& l, const Values& x, const Values* residual) {
  Values out;
  for (int oy = 0; oy < l.out_height; ++oy)
    for (int ox = 0; ox < l.out_width; ++ox)
      for (int o = 0; o < l.out_channels; ++o) {
        int64_t sum = 0;
        size_t k = static_cast<size_t>(o) * static_cast<size_t>(l.kernel[0] * l.kernel[1] * l.channels);
        for (int ky = 0; ky < l.kernel[0]; ++ky)
          for (int kx = 0; kx < l.kernel[1]; ++kx) {
            const int y = oy * l.stride[0] - l.padding[0] + ky, xx = ox * l.stride[1] - l.padding[1] + kx;
            const bool is_inside = y >= 0 && y < l.height && xx >= 0 && xx < l.width;
            for (int c = 0; c < l.channels; ++c, ++k) {
              const int64_t value = is_inside ? x[static_cast<size_t>((y * l.width + xx) * l.channels + c)]
                                              : l.pad[static_cast<size_t>(c)];
              sum += l.kind == LayerKind::adder ? std::abs(value - l.adder_weight[k]) : value * l.weight[k];
            }
          }
        int64_t value = l.multiplier[static_cast<size_t>(o)] * sum + l.offset[static_cast<size_t>(o)];
        if (residual != nullptr) value += l.residual_multiplier * (*residual)[out.size()];
        out.push_back(clamped(shifted(value, l.shift), l.low, l.high));
      }
  return out;
}

Values max_pool(const Layer& l, const Values& x) {
  Values out;
  for (int oy = 0; oy < l.out_height; ++oy)
    for (int ox = 0; ox < l.out_width; ++ox)
      for (int c = 0; c < l.channels; ++c) {
        int64_t largest = -1;
        for (int ky = 0; ky < l.kernel[0]; ++ky)
          for (int kx = 0; kx < l.kernel[1]; ++kx) {
            const int y = oy * l.stride[0] - l.padding[0] + ky, xx = ox * l.stride[1] - l.padding[1] + kx;
            if (y >= 0 && y < l.height && xx >= 0 && xx < l.width)
              largest = std::max(largest, x[static_cast<size_t>((y * l.width + xx) * l.channels + c)]);
          }
        out.push_back(largest);
      }
  return out;
}

Values average_pool(const Layer& l, const Values& x) {
  Values out;
  for (int c = 0; c < l.channels; ++c) {
    int64_t sum = 0;
    for (int k = 0; k < l.height * l.width; ++k) sum += x[static_cast<size_t>(k * l.channels + c)];
    out.push_back(clamped(shifted(l.multiplier[0] * sum + l.offset[0], l.shift), l.low, l.high));
  }
  return out;
}

Values classifier(const Layer& l, const Values& x) {
  Values out;
  for (size_t o = 0; o < static_cast<size_t>(l.out_channels); ++o) {
    int64_t sum = 0;
    for (size_t k = 0; k < x.size(); ++k) sum += x[k] * l.weight[o * x.size() + k];
    const int64_t value = shifted(l.multiplier[o] * sum + l.offset[o], l.shift);
    out.push_back(clamped(value, -((1 << 24) - 1), (1 << 24) - 1));
  }
  return out;
}

std::vector<Values> all_tensors(const Network& network, const uint8_t* image) {
  std::vector<Values> tensors;
  tensors.emplace_back(image, image + network.channels * network.height * network.width);
  for (const Layer& l : network.layers) {
    const Values& x = tensors[static_cast<size_t>(l.input)];
    const Values* residual = l.residual < 0 ? nullptr : &tensors[static_cast<size_t>(l.residual)];
    tensors.push_back(l.kind == LayerKind::max_pool       ? max_pool(l, x)
                      : l.kind == LayerKind::average_pool ? average_pool(l, x)
                      : l.kind == LayerKind::classifier   ? classifier(l, x)
                                                          : sliding(l, x, residual));
  }
  return tensors;
}

// A network, images and what has to come out of them.
struct Case {
  std::string what;
  Network network;
  int64_t count, image_bytes;
  std::vector<uint8_t> images;
  std::vector<std::vector<Values>> tensors;  // of each image
  std::vector<float> logits;

  Case(std::string name, Network made, int64_t images_wanted, Random& random)
      : what(std::move(name)), network(std::move(made)), count(images_wanted) {
    image_bytes = int64_t{network.channels} * network.height * network.width;
    images.resize(static_cast<size_t>(count * image_bytes));
    const int kind = static_cast<int>(random.between(0, 9));
    for (uint8_t& value : images)
      value = static_cast<uint8_t>(kind == 0   ? 255
                                   : kind == 1 ? 255 * random.between(0, 1)
                                               : random.between(0, 255));
    for (int64_t i = 0; i < count; ++i) {
      tensors.push_back(all_tensors(network, images.data() + i * image_bytes));
      for (int64_t fixed : tensors.back().back())
        logits.push_back(static_cast<float>(std::ldexp(static_cast<double>(fixed), -network.logit_shift)));
    }
  }
};

// Bytes around an array that nobody may write to.
template <class Number>
struct Guarded {
  static constexpr size_t guard = 64;
  std::vector<uint8_t> bytes;
  size_t numbers;
  explicit Guarded(size_t count) : bytes(count * sizeof(Number) + 2 * guard, 0xa5), numbers(count) {}
  Number* data() { return reinterpret_cast<Number*>(bytes.data() + guard); }
  bool is_intact() const {
    return std::all_of(bytes.begin(), bytes.begin() + guard, [](uint8_t b) { return b == 0xa5; }) &&
           std::all_of(bytes.end() - guard, bytes.end(), [](uint8_t b) { return b == 0xa5; });
  }
};

template <class Number>
void check_tensor(const Case& c, const Plan& plan, size_t image, size_t tensor) {
  const Values& right = c.tensors[image][tensor];
  Guarded<Number> out(right.size());
  const int32_t status = run_to(plan, c.images.data() + static_cast<int64_t>(image) * c.image_bytes,
                                static_cast<int32_t>(tensor), out.data());
  expect(status == ADDERKIT_OK, "%s: tensor %zu: %s", c.what.c_str(), tensor, adderkit_error());
  expect(out.is_intact(), "%s: tensor %zu: writes beside the output", c.what.c_str(), tensor);
  for (size_t k = 0; k < right.size(); ++k)
    if (out.data()[k] != right[k])
      return expect(false, "%s: image %zu, tensor %zu, number %zu is %lld, not %lld", c.what.c_str(), image,
                    tensor, k, static_cast<long long>(out.data()[k]), static_cast<long long>(right[k]));
}

void check_tensors(const Case& c, const Plan& plan, size_t image) {
  for (size_t tensor = 0; tensor < c.tensors[image].size(); ++tensor) {
    const LayerKind kind = tensor == 0 ? LayerKind::adder : c.network.layers[tensor - 1].kind;
    if (kind == LayerKind::classifier)
      check_tensor<int32_t>(c, plan, image, tensor);
    else if (kind == LayerKind::average_pool)
      check_tensor<uint16_t>(c, plan, image, tensor);
    else
      check_tensor<uint8_t>(c, plan, image, tensor);
  }
}

bool is_right(const Case& c, const Plan& plan, int64_t count, int threads) {
  const std::vector<uint8_t> images(c.images.begin(), c.images.begin() + count * c.image_bytes);
  const size_t numbers = static_cast<size_t>(count) * c.network.classes.size();
  Guarded<float> logits(numbers);
  const int32_t status = run(plan, images.data(), count, logits.data(), threads);
  expect(status == ADDERKIT_OK, "%s: %s", c.what.c_str(), adderkit_error());
  expect(logits.is_intact(), "%s: writes beside the logits", c.what.c_str());
  return std::memcmp(logits.data(), c.logits.data(), numbers * sizeof(float)) == 0;
}

void check(const Case& c, std::initializer_list<int> threads) {
  for (int32_t isa = 0; isa < adderkit_isa_count(); ++isa) {
    if (adderkit_isa_reason(isa)[0] != '\0') continue;
    adderkit_isa_force(adderkit_isa_name(isa));
    Plan plan;
    expect(plan.make(c.network) == ADDERKIT_OK, "%s: %s", c.what.c_str(), adderkit_error());
    check_tensors(c, plan, 0);
    for (int count : threads)
      for (int64_t images = 1; images <= c.count; ++images)
        expect(is_right(c, plan, images, count), "%s: %s: wrong logits of %lld images on %d threads",
               c.what.c_str(), adderkit_isa_name(isa), static_cast<long long>(images), count);
  }
  adderkit_isa_force(nullptr);
}

void test_random_networks(int count) {
  for (int seed = 1; seed <= count; ++seed) {
    Random random{static_cast<uint64_t>(seed)};
    Network network = random_network(random);
    const int64_t images = random.between(1, 4);
    const Case c("network " + std::to_string(seed), std::move(network), images, random);
    check(c, {1, static_cast<int>(random.between(2, 8))});
  }
}

void test_large_layers() {
  Random random{77};
  const auto one = [&random](const char* what, int channels, int side, int filters, int kernel, int stride) {
    const Case c(what, single_layer(random, LayerKind::adder, channels, side, filters, kernel, stride), 1,
                 random);
    check(c, {1, 2});
  };
  one("512>16 3x3 7x7", 512, 7, 16, 3, 1);
  one("2048>24 1x1 7x7", 2048, 7, 24, 1, 1);
  one("64>256 1x1 9x9", 64, 9, 256, 1, 1);
  one("3>64 7x7/2 64x64", 3, 40, 16, 7, 2);
  one("16>32 1x1/2 33x33", 16, 33, 32, 1, 2);
  const Case c("convolution 3>64 7x7/2", single_layer(random, LayerKind::convolution, 3, 40, 64, 7, 2), 2,
               random);
  check(c, {1, 3});
}

// Sums as large as they get: every distance 255.
void test_largest_sums() {
  Random random{78};
  Network network = single_layer(random, LayerKind::adder, 520, 5, 17, 3, 1);
  Layer& layer = network.layers[0];
  std::fill(layer.adder_weight.begin(), layer.adder_weight.end(), uint8_t{0});
  std::fill(layer.pad.begin(), layer.pad.end(), uint8_t{255});
  for (size_t o = 0; o < layer.offset.size(); ++o) {
    layer.multiplier[o] = -1 - static_cast<int32_t>(o);
    layer.offset[o] = (255 * 520 * 9) * (1 + static_cast<int64_t>(o)) + static_cast<int64_t>(o);
  }
  layer.shift = 0, layer.low = 0, layer.high = 255;
  Case c("largest sums", std::move(network), 1, random);
  std::fill(c.images.begin(), c.images.end(), uint8_t{255});
  Case largest = c;
  largest.tensors[0] = all_tensors(c.network, c.images.data());
  largest.logits.clear();
  for (int64_t fixed : largest.tensors[0].back())
    largest.logits.push_back(
        static_cast<float>(std::ldexp(static_cast<double>(fixed), -c.network.logit_shift)));
  for (size_t o = 0; o < 17; ++o)
    expect(largest.tensors[0][1][o] == static_cast<int64_t>(o), "the test itself: %zu", o);
  check(largest, {1});
}

// Results around and beyond 2^15, 2^16, 2^31: each is 0 or `high` at the end, whatever width a path works in.
void test_results_far_outside() {
  const int64_t results[] = {
      255,        256,        32767, 32768,  40000,  65535,  65536,  int64_t{1} << 20, 2147483647,
      2147483648, 4294967296, -1,    -32768, -32769, -40000, -65536, -2147483648LL,    -2147483649LL};
  Random random{79};
  for (LayerKind kind : {LayerKind::adder, LayerKind::convolution})
    for (bool with_residual : {false, true})
      for (int shift : {0, 5, 16, 33, 40}) {
        Network network = single_layer(random, kind, 24, 6, 24, 3, 1);
        Layer& layer = network.layers[0];
        layer.shift = shift, layer.low = 3, layer.high = 255;
        for (size_t o = 0; o < layer.offset.size(); ++o) {
          const int64_t most = int64_t{1} << 60, result = results[o % (sizeof results / sizeof results[0])];
          const __int128 offset = static_cast<__int128>(result) * (int64_t{1} << shift);
          layer.multiplier[o] = o % 2 == 0 ? 1 : -1;
          layer.offset[o] = offset > most ? most : offset < -most ? -most : static_cast<int64_t>(offset);
        }
        layer.residual = with_residual ? 0 : -1;
        layer.residual_multiplier = with_residual ? 1 << (shift < 20 ? shift : 20) : 0;
        check(Case("results far outside, shift " + std::to_string(shift), std::move(network), 1, random),
              {1});
      }
}

void test_calls_at_once() {
  Random random{79};
  const Case c("calls at once", single_layer(random, LayerKind::adder, 16, 20, 32, 3, 1), 5, random);
  Plan plan;
  expect(plan.make(c.network) == ADDERKIT_OK, "%s", adderkit_error());
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&, caller] {
      for (int repeat = 0; repeat < 10; ++repeat)
        if (!is_right(c, plan, 1 + (caller + repeat) % 5, 1 + caller)) ++wrong;
    });
  for (std::thread& caller : callers) caller.join();
  expect(wrong == 0, "%d wrong calls beside others", wrong.load());
}

// Whatever a caller has set for floating-point numbers holds after a call and does not matter within.
void test_flushed_denormals() {
#if defined(__SSE__)
  constexpr unsigned flush = 0x8040, upward = 0x4000;
  const unsigned before = _mm_getcsr();
  Random random{81};
  const Case c("flushed denormals", single_layer(random, LayerKind::adder, 16, 20, 32, 3, 1), 2, random);
  _mm_setcsr(before | flush | upward);
  check(c, {1, 3});
  expect((_mm_getcsr() & ~0x3fu) == ((before | flush | upward) & ~0x3fu), "MXCSR is %x", _mm_getcsr());
  _mm_setcsr(before);
#endif
}

void test_wrong_arguments() {
  Random random{80};
  const Case c("refusals", single_layer(random, LayerKind::adder, 3, 5, 4, 3, 1), 1, random);
  Plan plan;
  expect(plan.make(c.network) == ADDERKIT_OK, "%s", adderkit_error());
  std::vector<float> logits(c.logits.size(), 7.0f);
  const auto refused = [](int32_t status, const char* named) {
    expect(status == ADDERKIT_INVALID_ARGUMENT, "%s was not refused", named);
    expect(std::strstr(adderkit_error(), named) != nullptr, "\"%s\" does not say %s", adderkit_error(),
           named);
  };
  refused(run(plan, c.images.data(), -1, logits.data(), 1), "`count`");
  refused(run(plan, c.images.data(), 1, logits.data(), -1), "`threads`");
  refused(run(plan, c.images.data(), 1, logits.data(), 4097), "`threads`");
  refused(run(plan, nullptr, 1, logits.data(), 1), "`images`");
  refused(run(plan, c.images.data(), 1, nullptr, 1), "`logits`");
  refused(run_to(plan, c.images.data(), -1, logits.data()), "`tensor`");
  refused(run_to(plan, c.images.data(), 4, logits.data()), "`tensor`");
  refused(run_to(plan, nullptr, 1, logits.data()), "`image`");
  expect(run(plan, nullptr, 0, nullptr, 1) == ADDERKIT_OK, "no images were refused");
  expect(std::all_of(logits.begin(), logits.end(), [](float v) { return v == 7.0f; }), "logits were written");
}

}  // namespace

int main(int count, char** arguments) {
  test_random_networks(count > 1 ? std::atoi(arguments[1]) : 200);
  test_large_layers();
  test_largest_sums();
  test_results_far_outside();
  test_calls_at_once();
  test_flushed_denormals();
  test_wrong_arguments();
  return exit_code();
}
