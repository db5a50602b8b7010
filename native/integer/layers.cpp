#include "integer/layers.h"

#include <algorithm>

namespace adderkit {
namespace {

constexpr int64_t largest_logit = (int64_t{1} << 24) - 1;  // float32 holds it exactly

void store_image(const Place& place, int64_t first, int64_t last) {
  const TensorPlan& tensor = place.plan.tensors[0];
  for (int64_t y = first; y < last; ++y) {
    const uint8_t* from = place.image + y * tensor.width * tensor.channels;
    uint8_t* to = place.tensor(0) + y * tensor.row();
    for (int64_t x = 0; x < tensor.width; ++x, from += tensor.channels, to += tensor.padded_channels)
      std::memcpy(to, from, static_cast<size_t>(tensor.channels));
  }
}

// A tensor's rows as int16, in the border that a convolution wants: scratch row 0 is input row `top`.
void widen(const Place& place, const LayerPlan& plan, int64_t top, int64_t rows) {
  const Layer& layer = *plan.layer;
  const int64_t C = layer.channels, columns = plan.widened_columns, left = layer.padding[1];
  const bool is_image = layer.input == 0;
  const TensorPlan& input = place.plan.tensors[static_cast<size_t>(layer.input)];
  const uint8_t* const origin = is_image ? place.image : place.tensor(layer.input);
  const int64_t pixel = is_image ? C : input.pixel(), row = is_image ? C * layer.width : input.row();
  int16_t* to = reinterpret_cast<int16_t*>(place.scratch);
  const auto fill = [&](int64_t pixels) {
    for (; pixels > 0; --pixels)
      for (int64_t c = 0; c < C; ++c) *to++ = layer.pad[static_cast<size_t>(c)];
  };
  const auto copy = [&](const uint8_t* from, int64_t numbers) {
    for (int64_t k = 0; k < numbers; ++k) to[k] = from[k];
    to += numbers;
  };
  const int64_t inside = std::min<int64_t>(layer.width, columns - left);
  for (int64_t y = top; y < top + rows; ++y) {
    if (y < 0 || y >= layer.height) {
      fill(columns);
      continue;
    }
    fill(left);
    const uint8_t* const from = origin + y * row;
    if (pixel == C)
      copy(from, inside * C);
    else
      for (int64_t x = 0; x < inside; ++x) copy(from + x * pixel, C);
    fill(columns - left - inside);
  }
}

void convolution(const Place& place, int64_t index, int64_t first, int64_t last) {
  const LayerPlan& plan = place.plan.layers[static_cast<size_t>(index - 1)];
  const Layer& layer = *plan.layer;
  const uint8_t* residual = layer.residual < 0 ? nullptr : place.tensor(layer.residual);
  for (int64_t y = first; y < last; y += plan.band_rows) {
    const int64_t rows = std::min(plan.band_rows, last - y);
    widen(place, plan, y * layer.stride[0] - layer.padding[0],
          (rows - 1) * layer.stride[0] + layer.kernel[0]);
    place.weights.kernels->convolution(
        plan.sliding, place.weights.layers[static_cast<size_t>(index - 1)].get(),
        reinterpret_cast<const int16_t*>(place.scratch),
        residual == nullptr ? nullptr : residual + y * plan.sliding.residual_row,
        place.tensor(index) + y * plan.sliding.out_row, 0, rows);
  }
}

void max_pool(const Place& place, int64_t index, int64_t first, int64_t last) {
  const Layer& layer = *place.plan.layers[static_cast<size_t>(index - 1)].layer;
  const TensorPlan& input = place.plan.tensors[static_cast<size_t>(layer.input)];
  const TensorPlan& output = place.plan.tensors[static_cast<size_t>(index)];
  const uint8_t* const from = place.tensor(layer.input);
  const int64_t pixel = input.pixel();
  for (int64_t oy = first; oy < last; ++oy)
    for (int64_t ox = 0; ox < layer.out_width; ++ox) {
      const int64_t y = oy * layer.stride[0] - layer.padding[0], x = ox * layer.stride[1] - layer.padding[1];
      uint8_t* const to = place.tensor(index) + oy * output.row() + ox * pixel;
      std::memset(to, 0, static_cast<size_t>(pixel));
      for (int64_t ky = std::max<int64_t>(0, -y); ky < std::min<int64_t>(layer.kernel[0], layer.height - y);
           ++ky)
        for (int64_t kx = std::max<int64_t>(0, -x); kx < std::min<int64_t>(layer.kernel[1], layer.width - x);
             ++kx) {
          const uint8_t* const tap = from + (y + ky) * input.row() + (x + kx) * pixel;
          for (int64_t c = 0; c < pixel; ++c) to[c] = std::max(to[c], tap[c]);
        }
    }
}

void average_pool(const Place& place, int64_t index) {
  const Layer& layer = *place.plan.layers[static_cast<size_t>(index - 1)].layer;
  const TensorPlan& input = place.plan.tensors[static_cast<size_t>(layer.input)];
  const uint8_t* const from = place.tensor(layer.input);
  uint16_t* const to = reinterpret_cast<uint16_t*>(place.tensor(index));
  for (int64_t first = 0; first < layer.channels; first += channel_step) {
    int64_t sum[channel_step] = {};
    for (int64_t y = 0; y < layer.height; ++y) {
      const uint8_t* pixel = from + y * input.row() + first;
      for (int64_t x = 0; x < layer.width; ++x, pixel += input.pixel())
        for (int c = 0; c < channel_step; ++c) sum[c] += pixel[c];
    }
    for (int64_t c = 0; c < std::min<int64_t>(channel_step, layer.channels - first); ++c) {
      const int64_t value = (layer.multiplier[0] * sum[c] + layer.offset[0]) >> layer.shift;
      to[first + c] = static_cast<uint16_t>(std::clamp<int64_t>(value, layer.low, layer.high));
    }
  }
}

// In partial sums that int32 holds: 256 terms of at most 32767 * 128.
int64_t dot(const int16_t* a, const int16_t* b, int64_t count) {
  int64_t total = 0;
  for (int64_t first = 0; first < count; first += 256) {
    int32_t sum = 0;
    for (int64_t k = first; k < std::min(first + 256, count); ++k) sum += a[k] * b[k];
    total += sum;
  }
  return total;
}

void classifier(const Place& place, int64_t index) {
  const Layer& layer = *place.plan.layers[static_cast<size_t>(index - 1)].layer;
  const TensorPlan& input = place.plan.tensors[static_cast<size_t>(layer.input)];
  const uint8_t* const from = place.tensor(layer.input);
  int16_t* const x = reinterpret_cast<int16_t*>(place.scratch);
  int16_t* to = x;
  for (int64_t row = 0; row < layer.height; ++row)
    for (int64_t column = 0; column < layer.width; ++column) {
      const uint8_t* pixel = from + row * input.row() + column * input.pixel();
      for (int64_t c = 0; c < layer.channels; ++c)
        *to++ = input.number_bytes == 1 ? int16_t{pixel[c]}
                                        : static_cast<int16_t>(reinterpret_cast<const uint16_t*>(pixel)[c]);
    }
  int32_t* const out = reinterpret_cast<int32_t*>(place.tensor(index));
  const int64_t terms = to - x;
  const int16_t* const weight = place.plan.classifier_weight.data();
  for (int64_t o = 0; o < layer.out_channels; ++o) {
    const size_t k = static_cast<size_t>(o);
    const int64_t value =
        (layer.multiplier[k] * dot(x, weight + o * terms, terms) + layer.offset[k]) >> layer.shift;
    out[o] = static_cast<int32_t>(std::clamp(value, -largest_logit, largest_logit));
  }
}

}  // namespace

void make_rows(const Place& place, int64_t index, int64_t first, int64_t last) {
  if (index == 0) return store_image(place, first, last);
  const LayerPlan& plan = place.plan.layers[static_cast<size_t>(index - 1)];
  const Layer& layer = *plan.layer;
  switch (layer.kind) {
    case LayerKind::adder:
      return place.weights.kernels->adder(
          plan.sliding, place.weights.layers[static_cast<size_t>(index - 1)].get(),
          place.tensor(layer.input) + plan.patch, layer.residual < 0 ? nullptr : place.tensor(layer.residual),
          place.tensor(index), first, last);
    case LayerKind::convolution:
      return convolution(place, index, first, last);
    case LayerKind::max_pool:
      return max_pool(place, index, first, last);
    case LayerKind::average_pool:
      return average_pool(place, index);
    case LayerKind::classifier:
      return classifier(place, index);
  }
}

}  // namespace adderkit
