// An integer network as the runtime holds it: what `read.h` makes of a file and `run.h` runs.
//
// Activations are uint8, (height, width, channels) in memory; tensor 0 is the image, layer i makes tensor i
// + 1. A real number is scale * (value - zero); the file needs neither scale nor zero, as they are folded
// into multipliers and offsets. Every layer ends alike:
//
//   out = clamp((multiplier[o] * sum[o] + offset[o] + residual_multiplier * residual) >> shift, low, high)
//
// in int64 with an arithmetic shift (rounds towards -inf; offset holds the half). `read.h` refuses a file
// whose numbers could overflow that: whatever the image, the result before the shift stays below 2^62
// (`bounds.h`).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace adderkit {

enum class LayerKind {
  adder,         // sum[o] = sum |x - weight|, weight uint8; a padded tap is x = pad[c]
  convolution,   // sum[o] = sum x * weight, weight int8; a padded tap is x = pad[c]
  max_pool,      // out = the largest; a padded tap is no tap
  average_pool,  // over the whole map: sum[c] = sum x; out is uint16, at most 32767
  classifier  // sum[o] = sum x * weight over the whole input, flattened; out is int32, no clamp but its own
              // range
};

struct Layer {
  LayerKind kind;
  std::string name;       // of the module that it was made of
  int32_t input;          // tensor, < own index + 1
  int32_t residual = -1;  // tensor of the output's shape, or -1; adder and convolution only

  int32_t channels, height, width;              // of the input
  int32_t out_channels, out_height, out_width;  // of the output; a classifier's is out_channels x 1 x 1
  int32_t kernel[2] = {1, 1}, stride[2] = {1, 1}, padding[2] = {0, 0};  // vertical, horizontal

  std::vector<uint8_t> adder_weight;  // (out_channels, kernel_h, kernel_w, channels)
  std::vector<int8_t> weight;  // the same shape; a classifier's is (out_channels, height, width, channels)
  std::vector<uint8_t> pad;    // (channels)
  std::vector<int32_t> multiplier;  // (out_channels); average_pool: one number
  std::vector<int64_t> offset;      // (out_channels); average_pool: one number
  int32_t residual_multiplier = 0;
  int32_t shift = 0;            // 0 to 62
  int32_t low = 0, high = 255;  // 0 <= low < high <= 255; average_pool: <= 32767
};

struct Network {
  std::string name, dataset;
  std::vector<std::string> classes;
  int32_t channels, height, width;  // of the images
  std::vector<Layer> layers;        // the last one is the only classifier
  int32_t logit_shift;  // logit = classifier's output * 2^-logit_shift, exactly, in float32: 0 to 24
};

}  // namespace adderkit
