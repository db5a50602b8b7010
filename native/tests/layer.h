// One layer drawn at random, and what its passes must give.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "adderkit.h"
#include "tensor.h"

// What a result must be where it is finite: `value` within so many roundings (2^-24) of `scale`; else it is
// the same infinity or NaN.
struct Expected {
  double value, scale;
};

class Layer {
 public:
  explicit Layer(uint64_t seed);
  // 512 channels, 3x3: sums of 4608 terms. Of an input of one pixel, eight ninths of a patch are padding.
  Layer(uint64_t seed, float offset, int64_t size);

  // output = forward(input, weight), in the order N, C, H, W; likewise the gradient. The status of the call.
  int32_t forward(int32_t threads) const;
  int32_t gradient(int32_t threads) const;

  // From the definitions, in double precision. The scales are sum(|x| + |f|) and sum |g|.
  std::vector<Expected> expected_output() const;
  std::vector<Expected> expected_gradient() const;

  std::string description() const;

  adderkit_conv2d_shape shape{};
  std::unique_ptr<Tensor> input, weight, output, grad_output, grad_input;

 private:
  void draw_shape(Random& random, int64_t most_operations);
  void draw_tensors(Random& random, bool may_repeat);
  int64_t operations() const;
  template <class Function>
  void each_tap(const Function& function) const;

  int64_t out_height_ = 0, out_width_ = 0;
  float offset_ = 0;
  const char* values_ = "normal";
};
