#include "random_network.h"

#include <algorithm>
#include <cstdlib>

namespace {

struct Size {
  int32_t channels, height, width;
};

class Builder {
 public:
  Builder(Random& random, Size image) : random_(random) {
    network_.name = "random", network_.dataset = "none";
    network_.channels = image.channels, network_.height = image.height, network_.width = image.width;
    add_tensor(image);
  }

  const Size& size(int32_t tensor) const { return sizes_[static_cast<size_t>(tensor)]; }
  int32_t tensors() const { return static_cast<int32_t>(sizes_.size()); }

  struct Taps {
    int32_t kernel[2], stride[2], padding[2];
  };

  // Returns the tensor.
  int32_t sliding(LayerKind kind, int32_t input, int32_t filters, const Taps& taps, int32_t residual) {
    Layer layer = taps_on(kind, input, taps);
    layer.out_channels = filters;
    layer.residual = residual;
    layer.pad = pads_[static_cast<size_t>(input)];
    const int64_t terms = int64_t{layer.channels} * taps.kernel[0] * taps.kernel[1];
    for (int64_t k = 0; k < filters * terms; ++k)
      if (kind == LayerKind::adder)
        layer.adder_weight.push_back(static_cast<uint8_t>(random_.between(0, 255)));
      else
        layer.weight.push_back(static_cast<int8_t>(random_.between(-128, 127)));
    layer.low = static_cast<int32_t>(random_.one_in(2) ? 0 : random_.between(0, 100));
    layer.high = static_cast<int32_t>(random_.one_in(2) ? 255 : random_.between(layer.low + 1, 255));
    // Sums of |x - w| have a mean near 85 and a deviation near 60 a term; of x * w, 0 and 10700.
    const double terms_root = __builtin_sqrt(static_cast<double>(terms));
    const double deviation = (kind == LayerKind::adder ? 60.0 : 10700.0) * terms_root;
    const double mean = kind == LayerKind::adder ? 85.0 * static_cast<double>(terms) : 0.0;
    set_epilogue(&layer, filters, mean, 60.0 / deviation, 255.0 * 128.0 * static_cast<double>(terms));
    if (residual >= 0)
      layer.residual_multiplier =
          static_cast<int32_t>(random_.between(-1, 1) * clamp_to_int32(__builtin_ldexp(0.5, layer.shift)));
    return add(std::move(layer), {filters, layer.out_height, layer.out_width});
  }

  int32_t max_pool(int32_t input, const Taps& taps) {
    Layer layer = taps_on(LayerKind::max_pool, input, taps);
    layer.out_channels = layer.channels;
    return add(std::move(layer), {layer.channels, layer.out_height, layer.out_width});
  }

  int32_t average_pool(int32_t input) {
    Layer layer = on(LayerKind::average_pool, input);
    layer.out_channels = layer.channels, layer.out_height = layer.out_width = 1;
    layer.shift = 20;
    const int64_t pixels = int64_t{layer.height} * layer.width;
    layer.multiplier = {static_cast<int32_t>((int64_t{128} << 20) / pixels)};
    layer.offset = {1 << 19};
    layer.low = 0, layer.high = 32767;
    return add(std::move(layer), {layer.channels, 1, 1});
  }

  Network classifier(int32_t input, int32_t classes) {
    Layer layer = on(LayerKind::classifier, input);
    layer.out_channels = classes, layer.out_height = layer.out_width = 1;
    const int64_t terms = int64_t{layer.channels} * layer.height * layer.width;
    for (int64_t k = 0; k < classes * terms; ++k)
      layer.weight.push_back(static_cast<int8_t>(random_.between(-128, 127)));
    layer.shift = static_cast<int32_t>(random_.between(0, 20));
    for (int32_t o = 0; o < classes; ++o) {
      layer.multiplier.push_back(
          static_cast<int32_t>(random_.between(-3, 3) * (int64_t{1} << layer.shift) / 4));
      layer.offset.push_back(random_.between(-1000, 1000));
      network_.classes.push_back("class");
    }
    network_.logit_shift = static_cast<int32_t>(random_.between(0, 24));
    add(std::move(layer), {classes, 1, 1});
    return std::move(network_);
  }

 private:
  static int64_t clamp_to_int32(double value) {
    return static_cast<int64_t>(std::clamp(value, -2147483647.0, 2147483647.0));
  }

  // multiplier * (sum - mean) of which a deviation of sums is some 60 of the output.
  void set_epilogue(Layer* layer, int32_t filters, double mean, double slope, double largest_sum) {
    // A multiplier of up to 31 bits and a result below 2^61.
    int shift = static_cast<int>(random_.pick({4, 12, 16, 24, 31, 40, 55, 62}));
    while (shift > 0 && (__builtin_ldexp(2 * slope, shift) > 2147483647.0 ||
                         __builtin_ldexp(2 * slope * largest_sum + 512, shift) > 0x1p61))
      --shift;
    layer->shift = shift;
    for (int32_t o = 0; o < filters; ++o) {
      const double sign = random_.one_in(4) ? 1.0 : -1.0;
      const double multiplier =
          sign * __builtin_ldexp(slope * static_cast<double>(random_.between(50, 200)) / 100.0, shift);
      layer->multiplier.push_back(static_cast<int32_t>(clamp_to_int32(multiplier)));
      const double target = __builtin_ldexp(static_cast<double>(random_.between(60, 200)), shift);
      layer->offset.push_back(
          static_cast<int64_t>(target - static_cast<double>(layer->multiplier.back()) * mean) +
          random_.between(0, 15));
    }
  }

  void add_tensor(Size size) {
    sizes_.push_back(size);
    pads_.emplace_back();
    for (int32_t c = 0; c < size.channels; ++c)
      pads_.back().push_back(static_cast<uint8_t>(random_.between(0, 255)));
  }

  Layer on(LayerKind kind, int32_t input) const {
    Layer layer{};
    layer.kind = kind;
    layer.name = "layer";
    layer.input = input;
    layer.residual = -1;
    layer.channels = size(input).channels, layer.height = size(input).height, layer.width = size(input).width;
    return layer;
  }

  Layer taps_on(LayerKind kind, int32_t input, const Taps& taps) const {
    Layer layer = on(kind, input);
    for (int axis = 0; axis < 2; ++axis) {
      layer.kernel[axis] = taps.kernel[axis];
      layer.stride[axis] = taps.stride[axis];
      layer.padding[axis] = taps.padding[axis];
    }
    layer.out_height = (layer.height + 2 * taps.padding[0] - taps.kernel[0]) / taps.stride[0] + 1;
    layer.out_width = (layer.width + 2 * taps.padding[1] - taps.kernel[1]) / taps.stride[1] + 1;
    return layer;
  }

  int32_t add(Layer layer, Size size) {
    network_.layers.push_back(std::move(layer));
    add_tensor(size);
    return tensors() - 1;
  }

  Random& random_;
  Network network_{};
  std::vector<Size> sizes_;
  std::vector<std::vector<uint8_t>> pads_;
};

Builder::Taps square(int32_t kernel, int32_t stride, int32_t padding) {
  return {{kernel, kernel}, {stride, stride}, {padding, padding}};
}

Builder::Taps random_taps(Random& random, const Size& input) {
  if (random.one_in(2)) {  // the size stays: a candidate for residuals
    const int32_t kernel = static_cast<int32_t>(random.pick({1, 3, 3, 3, 5}));
    return square(kernel, 1, kernel / 2);
  }
  Builder::Taps taps;
  const int32_t size[2] = {input.height, input.width};
  for (int axis = 0; axis < 2; ++axis) {
    do {
      taps.kernel[axis] = static_cast<int32_t>(random.between(1, 5));
      taps.padding[axis] = static_cast<int32_t>(random.between(0, taps.kernel[axis] - 1));
    } while (taps.kernel[axis] > size[axis] + 2 * taps.padding[axis]);
    taps.stride[axis] = static_cast<int32_t>(random.between(1, 3));
  }
  return taps;
}

}  // namespace

Network random_network(Random& random) {
  const auto number = [&random](int64_t low, int64_t high) {
    return static_cast<int32_t>(random.between(low, high));
  };
  Builder builder(random, {number(1, 4), number(1, 34), number(1, 34)});
  const int32_t layers = number(1, 8);
  for (int32_t k = 0; k < layers; ++k) {
    const int32_t input = random.one_in(4) ? number(0, builder.tensors() - 1) : builder.tensors() - 1;
    const Size from = builder.size(input);
    const Builder::Taps taps = random_taps(random, from);
    if (random.one_in(8)) {
      builder.max_pool(input, taps);
      continue;
    }
    const int32_t filters = static_cast<int32_t>(
        random.one_in(2) ? from.channels : random.pick({1, 3, 5, 8, 12, 16, 17, 24, 32, 40}));
    const int32_t height = (from.height + 2 * taps.padding[0] - taps.kernel[0]) / taps.stride[0] + 1;
    const int32_t width = (from.width + 2 * taps.padding[1] - taps.kernel[1]) / taps.stride[1] + 1;
    int32_t residual = -1;
    for (int32_t t = 0; t < builder.tensors(); ++t) {
      const Size& s = builder.size(t);
      if (s.channels == filters && s.height == height && s.width == width && !random.one_in(3)) residual = t;
    }
    builder.sliding(random.one_in(4) ? LayerKind::convolution : LayerKind::adder, input, filters, taps,
                    residual);
  }
  int32_t last = builder.tensors() - 1;
  if (random.one_in(2)) last = builder.average_pool(last);
  return builder.classifier(last, number(1, 12));
}

Network single_layer(Random& random, LayerKind kind, int channels, int side, int filters, int kernel,
                     int stride) {
  Builder builder(random, {channels, side, side});
  const int32_t made = builder.sliding(kind, 0, filters, square(kernel, stride, kernel / 2), -1);
  return builder.classifier(builder.average_pool(made), 10);
}

Network resnet20(Random& random) {
  Builder builder(random, {3, 32, 32});
  int32_t x = builder.sliding(LayerKind::convolution, 0, 16, square(3, 1, 1), -1);
  for (int32_t stage = 0; stage < 3; ++stage)
    for (int32_t block = 0; block < 3; ++block) {
      const int32_t filters = 16 << stage, stride = stage > 0 && block == 0 ? 2 : 1;
      const int32_t inside = builder.sliding(LayerKind::adder, x, filters, square(3, stride, 1), -1);
      const int32_t residual =
          stride == 1 ? x : builder.sliding(LayerKind::adder, x, filters, square(1, 2, 0), -1);
      x = builder.sliding(LayerKind::adder, inside, filters, square(3, 1, 1), residual);
    }
  return builder.classifier(builder.average_pool(x), 10);
}
