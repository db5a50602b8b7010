#include "layer.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

Layer::Layer(uint64_t seed) {
  Random random{seed};
  // From 400 000 operations on, the library uses more than one thread.
  draw_shape(random, random.one_in(8) ? 1000 * 1000 : 100 * 1000);
  const int64_t style = random.between(0, 9);
  // Sums of integers are exact. Where a repeated value is rounded, it is so in the same direction each time.
  draw_tensors(random, style == 0);

  const float infinity = std::numeric_limits<float>::infinity();
  const float odd[] = {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()};
  if (style == 0) {
    values_ = "integers";
    for (Tensor* t : {input.get(), weight.get(), grad_output.get()})
      t->each([&](float& v) { v = static_cast<float>(random.between(-3, 3)); });
  } else if (style == 1 || style == 2) {
    values_ = "offset";
    offset_ = static_cast<float>(random.pick({-100000, -1000, 100, 1000, 10000, 100000}));
    for (Tensor* t : {input.get(), weight.get()}) t->each([&](float& v) { v += offset_; });
  } else if (style == 3) {
    values_ = "scaled";
    const float scale = random.one_in(2) ? 1e-3f : 1e3f;
    for (Tensor* t : {input.get(), weight.get()}) t->each([&](float& v) { v *= scale; });
  } else if (style == 4 || style == 5) {
    values_ = "infinities and NaN";
    const int64_t rarity = random.pick({5, 50, 500});
    const int64_t where = random.between(1, 7);  // a bit for each tensor
    const Tensor* tensors[] = {input.get(), weight.get(), grad_output.get()};
    for (int k = 0; k < 3; ++k)
      if (where >> k & 1)
        tensors[k]->each([&](float& v) {
          if (random.one_in(rarity)) v = odd[random.between(0, 2)];
        });
  }
}

Layer::Layer(uint64_t seed, float offset, int64_t size) : offset_(offset) {
  Random random{seed};
  shape.batch = 1;
  shape.channels = 512;
  shape.out_channels = 20;
  shape.height = shape.width = size;
  shape.kernel_height = shape.kernel_width = 3;
  shape.groups = 1;
  for (int axis = 0; axis < 2; ++axis) shape.stride[axis] = shape.dilation[axis] = shape.padding[axis] = 1;
  out_height_ = out_width_ = size;
  draw_tensors(random, false);
  for (Tensor* t : {input.get(), weight.get()}) t->each([&](float& v) { v += offset; });
}

void Layer::draw_shape(Random& random, int64_t most_operations) {
  const auto channels = [&] {
    return random.pick({1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97});
  };
  shape.batch = random.one_in(20) ? 0 : random.between(1, 3);
  shape.groups = random.one_in(4) ? random.between(2, 4) : 1;
  int64_t group_channels = channels(), group_filters = channels();
  if (random.one_in(4)) {  // depthwise
    shape.groups = channels();
    group_channels = group_filters = 1;
  }
  int64_t kernel[2], out[2], spare[2];
  for (int axis = 0; axis < 2; ++axis) {
    kernel[axis] = random.pick({1, 1, 2, 3, 3, 3, 4, 5, 7});
    shape.stride[axis] = random.one_in(2) ? 1 : random.between(2, 3);
    shape.dilation[axis] = random.one_in(4) ? random.between(2, 3) : 1;
    shape.padding[axis] = random.between(0, 3);
    out[axis] = random.between(1, axis == 0 ? 12 : random.pick({8, 16, 56}));
    spare[axis] = random.between(0, shape.stride[axis] - 1);  // columns that no filter reaches
  }
  shape.kernel_height = kernel[0];
  shape.kernel_width = kernel[1];
  for (;;) {
    shape.channels = shape.groups * group_channels;
    shape.out_channels = shape.groups * group_filters;
    int64_t size[2];
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t reach = shape.dilation[axis] * (kernel[axis] - 1) + 1;
      const int64_t padded = (out[axis] - 1) * shape.stride[axis] + reach + spare[axis];
      size[axis] = std::max<int64_t>(1, padded - 2 * shape.padding[axis]);
      out[axis] = (size[axis] + 2 * shape.padding[axis] - reach) / shape.stride[axis] + 1;
    }
    shape.height = size[0];
    shape.width = size[1];
    out_height_ = out[0];
    out_width_ = out[1];
    if (operations() <= most_operations) return;
    int64_t* sizes[] = {&out[0], &out[1], &shape.groups, &shape.batch, &group_channels, &group_filters};
    const int largest = static_cast<int>(random.between(0, 5));
    if (*sizes[largest] > 1) *sizes[largest] -= (*sizes[largest] + 3) / 4;
  }
}

void Layer::draw_tensors(Random& random, bool may_repeat) {
  const auto tensor = [&](const Sizes& size, bool repeats) {
    return std::make_unique<Tensor>(random, size, repeats);
  };
  const Sizes input_size = {shape.batch, shape.channels, shape.height, shape.width};
  const Sizes output_size = {shape.batch, shape.out_channels, out_height_, out_width_};
  const Sizes weight_size = {shape.out_channels, shape.channels / shape.groups, shape.kernel_height,
                             shape.kernel_width};
  input = tensor(input_size, may_repeat);
  weight = tensor(weight_size, may_repeat);
  output = tensor(output_size, false);
  grad_output = tensor(output_size, may_repeat);
  grad_input = tensor(input_size, false);
  for (Tensor* t : {input.get(), weight.get(), grad_output.get()})
    t->each([&](float& v) { v = random.normal(); });
}

int64_t Layer::operations() const {
  return shape.batch * shape.out_channels * out_height_ * out_width_ * (shape.channels / shape.groups) *
         shape.kernel_height * shape.kernel_width;
}

namespace {
void set_strides(int64_t* target, const Tensor& tensor) {
  std::copy(tensor.stride().begin(), tensor.stride().end(), target);
}
}  // namespace

int32_t Layer::forward(int32_t threads) const {
  adderkit_conv2d_shape s = shape;
  set_strides(s.input_stride, *input);
  set_strides(s.weight_stride, *weight);
  set_strides(s.output_stride, *output);
  return adderkit_adder2d_f32(&s, input->data(), weight->data(), output->data(), threads);
}

int32_t Layer::gradient(int32_t threads) const {
  adderkit_conv2d_shape s = shape;
  set_strides(s.input_stride, *input);
  set_strides(s.weight_stride, *weight);
  set_strides(s.output_stride, *grad_output);
  return adderkit_adder2d_input_grad_f32(&s, grad_output->data(), input->data(), weight->data(),
                                         grad_input->data(), grad_input->stride().data(), threads);
}

// function(output index, input index or -1 where the tap is padding, x, f, g) for every tap of every output.
template <class Function>
void Layer::each_tap(const Function& function) const {
  const int64_t group_channels = shape.channels / shape.groups;
  const int64_t group_filters = shape.out_channels / shape.groups;
  int64_t index = 0;
  for (int64_t n = 0; n < shape.batch; ++n)
    for (int64_t o = 0; o < shape.out_channels; ++o)
      for (int64_t p = 0; p < out_height_; ++p)
        for (int64_t q = 0; q < out_width_; ++q, ++index) {
          const double g = grad_output->at(n, o, p, q);
          for (int64_t c = 0; c < group_channels; ++c)
            for (int64_t i = 0; i < shape.kernel_height; ++i)
              for (int64_t j = 0; j < shape.kernel_width; ++j) {
                const int64_t channel = o / group_filters * group_channels + c;
                const int64_t h = p * shape.stride[0] - shape.padding[0] + i * shape.dilation[0];
                const int64_t w = q * shape.stride[1] - shape.padding[1] + j * shape.dilation[1];
                const bool is_inside = h >= 0 && h < shape.height && w >= 0 && w < shape.width;
                const int64_t at =
                    is_inside ? ((n * shape.channels + channel) * shape.height + h) * shape.width + w : -1;
                function(index, at, is_inside ? input->at(n, channel, h, w) : 0.0, weight->at(o, c, i, j), g);
              }
        }
}

std::vector<Expected> Layer::expected_output() const {
  const size_t count = shape.batch * shape.out_channels * out_height_ * out_width_;
  std::vector<Expected> all(count, Expected{0, 0});
  std::vector<double> centred(count, 0);
  std::vector<bool> is_padded(count, false);
  double mean = 0;
  for (float f : weight->values()) mean += f;
  mean /= static_cast<double>(weight->values().size());
  each_tap([&](int64_t index, int64_t at, double x, double f, double) {
    all[index].value -= std::fabs(x - f);
    all[index].scale += std::fabs(x) + std::fabs(f);
    centred[index] += std::fabs(x - mean) + std::fabs(f - mean);
    if (at < 0) is_padded[index] = true;
  });
  // A large common offset costs nothing, but for patches with padding, whose zeros do not share it.
  if (offset_ != 0)
    for (size_t k = 0; k < count; ++k)
      if (!is_padded[k]) all[k].scale = centred[k];
  return all;
}

std::vector<Expected> Layer::expected_gradient() const {
  std::vector<Expected> all(shape.batch * shape.channels * shape.height * shape.width, Expected{0, 0});
  each_tap([&](int64_t, int64_t at, double x, double f, double g) {
    if (at < 0) return;
    double d = f - x;  // a NaN stays
    if (d > 1) d = 1;
    if (d < -1) d = -1;
    all[at].value += g * d;
    all[at].scale += std::fabs(g);
  });
  return all;
}

std::string Layer::description() const {
  char text[256];
  const auto& s = shape;
  const auto number = [](int64_t n) { return static_cast<long long>(n); };
  std::snprintf(text, sizeof text,
                "(%lld, %lld, %lld, %lld), %lld filters %lldx%lld, stride %lld %lld, padding %lld %lld, "
                "dilation %lld %lld, groups %lld, %s",
                number(s.batch), number(s.channels), number(s.height), number(s.width),
                number(s.out_channels), number(s.kernel_height), number(s.kernel_width), number(s.stride[0]),
                number(s.stride[1]), number(s.padding[0]), number(s.padding[1]), number(s.dilation[0]),
                number(s.dilation[1]), number(s.groups), values_);
  return text;
}
