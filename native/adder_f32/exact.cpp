#include <cmath>

#include "plan.h"

namespace adderkit {

float exact_output(const ForwardPlan& plan, int64_t image, int64_t filter, int64_t row, int64_t column) {
  const Shape& s = plan.shape;
  const int64_t first_channel = filter / plan.group_filters * plan.group_channels;
  float total = 0;
  for (int64_t i = 0; i < s.kernel_height; ++i) {
    const int64_t h = row * s.stride[0] + i * s.dilation[0] - s.padding[0];
    for (int64_t j = 0; j < s.kernel_width; ++j) {
      const int64_t w = column * s.stride[1] + j * s.dilation[1] - s.padding[1];
      const bool is_inside = h >= 0 && h < s.height && w >= 0 && w < s.width;
      for (int64_t c = 0; c < plan.group_channels; ++c) {
        const float x = is_inside
                            ? plan.input[image * s.input_stride[0] + (first_channel + c) * s.input_stride[1] +
                                         h * s.input_stride[2] + w * s.input_stride[3]]
                            : 0.0f;
        const float f = plan.weight[filter * s.weight_stride[0] + c * s.weight_stride[1] +
                                    i * s.weight_stride[2] + j * s.weight_stride[3]];
        total += std::fabs(x - f);
      }
    }
  }
  return -total;
}

float exact_input_grad(const InputGradPlan& plan, int64_t image, int64_t channel, int64_t row,
                       int64_t column) {
  const Shape& s = plan.shape;
  const int64_t group = channel / plan.group_channels;
  const float x = plan.input[image * s.input_stride[0] + channel * s.input_stride[1] +
                             row * s.input_stride[2] + column * s.input_stride[3]];
  float total = 0;
  for (int64_t i = 0; i < s.kernel_height; ++i) {
    const int64_t h = row + s.padding[0] - i * s.dilation[0];
    if (h < 0 || h % s.stride[0] != 0 || h / s.stride[0] >= plan.out_height) continue;
    for (int64_t j = 0; j < s.kernel_width; ++j) {
      const int64_t w = column + s.padding[1] - j * s.dilation[1];
      if (w < 0 || w % s.stride[1] != 0 || w / s.stride[1] >= plan.out_width) continue;
      for (int64_t o = group * plan.group_filters; o < (group + 1) * plan.group_filters; ++o) {
        const float f = plan.weight[o * s.weight_stride[0] +
                                    (channel - group * plan.group_channels) * s.weight_stride[1] +
                                    i * s.weight_stride[2] + j * s.weight_stride[3]];
        const float g =
            plan.grad_output[image * s.output_stride[0] + o * s.output_stride[1] +
                             h / s.stride[0] * s.output_stride[2] + w / s.stride[1] * s.output_stride[3]];
        float d = f - x;  // a NaN passes both comparisons
        if (d > 1.0f) d = 1.0f;
        if (d < -1.0f) d = -1.0f;
        total += g * d;
      }
    }
  }
  return total;
}

}  // namespace adderkit
