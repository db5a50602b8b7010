#include "read.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <set>

#include "adder_u8/plan.h"
#include "bounds.h"
#include "error.h"
#include "fields.h"
#include "json.h"
#include "memory.h"
#include "refusal.h"

namespace adderkit {
namespace {

// So that no product of a tensor's sizes, borders included, overflows.
constexpr int64_t largest_side = 1 << 16, most_channels = 1 << 20;

// Multiplier, offset, low and high of a filter, int64 each.
constexpr int64_t epilogue_bytes = 4 * int64_t{sizeof(int64_t)};

constexpr const char* kinds[] = {"adder", "convolution", "max_pool", "average_pool",
                                 "classifier"};  // LayerKind

bool has_weights(LayerKind kind) {
  return kind != LayerKind::max_pool && kind != LayerKind::average_pool;
}

bool has_taps(LayerKind kind) {
  return kind != LayerKind::average_pool && kind != LayerKind::classifier;
}

// What the layers so far have made.
struct Tensor {
  int32_t channels, height, width;
  int64_t high;                 // largest value
  bool is_wide;                 // uint16
  int32_t padding[2] = {0, 0};  // the largest of its readers
  int32_t readers = 0;
  int32_t padded_reader = -1;  // the first layer whose `pad` counts
};

class Reader {
 public:
  Reader(const Container& container, Network* network) : container_(container), network_(*network) {}

  void read() {
    const json::Document document(container_.network, "`network` in the header");
    const Fields fields(document.root(), "");
    read_facts(fields);
    const std::vector<json::Node> layers = fields.elements("layers");
    if (layers.empty()) refuse("`layers` must hold one layer or more");
    network_.layers.reserve(layers.size());
    for (size_t index = 0; index < layers.size(); ++index)
      read_layer(Fields(layers[index], "layers[" + std::to_string(index) + "]."), static_cast<int32_t>(index),
                 index + 1 == layers.size());
    check_whole();
  }

 private:
  void read_facts(const Fields& fields) {
    network_.name = fields.text("name");
    network_.dataset = fields.text("dataset");
    for (json::Node name : fields.elements("classes")) {
      if (name->kind != json::Kind::text || name->text.find('\0') != std::string_view::npos)
        refuse("`classes[%zu]` (=%s) must be a text without NUL", network_.classes.size(),
               shown(name->text).c_str());
      network_.classes.emplace_back(name->text);
    }
    network_.channels = static_cast<int32_t>(fields.whole("channels", 1, most_channels));
    network_.height = static_cast<int32_t>(fields.whole("height", 1, largest_side));
    network_.width = static_cast<int32_t>(fields.whole("width", 1, largest_side));
    network_.logit_shift = static_cast<int32_t>(fields.whole("logit_shift", 0, 24));
    bits_ = fields.whole("bits", 2, 8);
    is_multiplier_free_ = fields.boolean("multiplier_free");
    tensors_.push_back({network_.channels, network_.height, network_.width, 255, false});
  }

  void read_layer(const Fields& fields, int32_t index, bool is_last) {
    Layer& layer = network_.layers.emplace_back();
    layer.kind = kind_of(fields);
    layer.name = fields.text("name");
    if ((layer.kind == LayerKind::classifier) != is_last)
      refuse("`%sop` (=%s) must %s", fields.where().c_str(), kinds[static_cast<int>(layer.kind)],
             is_last ? "be classifier: the last layer is" : "not be classifier: the last layer alone is one");
    layer.input = static_cast<int32_t>(fields.whole("input", 0, index));
    Tensor& input = tensors_[static_cast<size_t>(layer.input)];
    ++input.readers;
    if (input.is_wide && layer.kind != LayerKind::classifier)
      refuse("`%sinput` (=%d) is what an average_pool makes, which a classifier alone may read",
             fields.where().c_str(), layer.input);
    layer.channels = input.channels, layer.height = input.height, layer.width = input.width;

    read_geometry(fields, &layer);
    read_residual(fields, index, &layer);
    read_range(fields, &layer);
    fields.refuse_others();
    if (has_weights(layer.kind)) read_weight(index, &layer);
    if (layer.kind != LayerKind::max_pool) read_epilogue(index, &layer);
    const int64_t high = input_of(layer).high;
    if (layer.kind != LayerKind::max_pool) check_arithmetic(layer, index, high);
    if (is_multiplier_free_) check_powers(layer, index);
    if (layer.kind == LayerKind::adder && layer.input > 0) check_bits(layer, index, high, bits_);
    if (has_taps(layer.kind)) place_border(index, &layer);
    if (layer.kind != LayerKind::classifier)
      tensors_.push_back({layer.out_channels, layer.out_height, layer.out_width,
                          layer.kind == LayerKind::max_pool ? high : layer.high,
                          layer.kind == LayerKind::average_pool});
  }

  Tensor& input_of(const Layer& layer) { return tensors_[static_cast<size_t>(layer.input)]; }

  static LayerKind kind_of(const Fields& fields) {
    const std::string op = fields.text("op");
    const auto found = std::find(std::begin(kinds), std::end(kinds), op);
    if (found == std::end(kinds))
      refuse("`%sop` (=%s) must be one of adder, convolution, max_pool, average_pool, classifier",
             fields.where().c_str(), shown(op).c_str());
    return static_cast<LayerKind>(found - std::begin(kinds));
  }

  // Refuses a key that has no meaning for a layer of this kind, unless it has the one value that says so.
  static void neutral(const Fields& fields, const char* key, int64_t value) {
    if (fields.has(key)) fields.whole(key, value, value);
  }
  static void neutral_pair(const Fields& fields, const char* key, int64_t value) {
    int32_t ignored[2];
    if (fields.has(key)) fields.pair(key, value, value, ignored);
  }

  void read_geometry(const Fields& fields, Layer* layer) {
    if (has_weights(layer->kind))
      layer->out_channels = static_cast<int32_t>(fields.whole("out_channels", 1, most_channels));
    else
      neutral(fields, "out_channels", layer->out_channels = layer->channels);
    if (!has_taps(layer->kind)) {
      neutral_pair(fields, "kernel", 1);
      neutral_pair(fields, "stride", 1);
      neutral_pair(fields, "padding", 0);
      layer->out_height = layer->out_width = 1;
      return;
    }
    fields.pair("kernel", 1, largest_side, layer->kernel);
    fields.pair("stride", 1, largest_side, layer->stride);
    fields.pair("padding", 0, largest_side, layer->padding);
    const int32_t size[2] = {layer->height, layer->width};
    int32_t* const out[2] = {&layer->out_height, &layer->out_width};
    for (int axis = 0; axis < 2; ++axis) {
      if (layer->padding[axis] >= layer->kernel[axis])
        refuse("`%spadding` (=%d) must be smaller than the kernel (%d)", fields.where().c_str(),
               layer->padding[axis], layer->kernel[axis]);
      const int32_t padded = size[axis] + 2 * layer->padding[axis];
      if (layer->kernel[axis] > padded)
        refuse("`%skernel` (=%d) must fit into the padded input (%d)", fields.where().c_str(),
               layer->kernel[axis], padded);
      *out[axis] = (padded - layer->kernel[axis]) / layer->stride[axis] + 1;
    }
  }

  void read_residual(const Fields& fields, int32_t index, Layer* layer) {
    if (layer->kind != LayerKind::adder && layer->kind != LayerKind::convolution) {
      neutral(fields, "residual", -1);
      neutral(fields, "residual_multiplier", 0);
      return;
    }
    layer->residual = static_cast<int32_t>(fields.whole("residual", -1, index));
    if (layer->residual < 0) {
      neutral(fields, "residual_multiplier", 0);
      return;
    }
    layer->residual_multiplier =
        static_cast<int32_t>(fields.whole("residual_multiplier", INT32_MIN, INT32_MAX));
    Tensor& residual = tensors_[static_cast<size_t>(layer->residual)];
    ++residual.readers;
    if (residual.is_wide)
      refuse("`%sresidual` (=%d) is what an average_pool makes, which a classifier alone may read",
             fields.where().c_str(), layer->residual);
    if (residual.channels != layer->out_channels || residual.height != layer->out_height ||
        residual.width != layer->out_width)
      refuse("`%sresidual` (=%d) is %dx%dx%d, but the layer makes %dx%dx%d (height x width x channels)",
             fields.where().c_str(), layer->residual, residual.height, residual.width, residual.channels,
             layer->out_height, layer->out_width, layer->out_channels);
  }

  static void read_range(const Fields& fields, Layer* layer) {
    if (layer->kind == LayerKind::max_pool)
      neutral(fields, "shift", 0);
    else
      layer->shift = static_cast<int32_t>(fields.whole("shift", 0, 62));
    if (layer->kind == LayerKind::max_pool || layer->kind == LayerKind::classifier) {
      neutral(fields, "low", 0);
      neutral(fields, "high", 255);
      return;
    }
    const int64_t highest = layer->kind == LayerKind::average_pool ? 32767 : 255;
    layer->low = static_cast<int32_t>(fields.whole("low", 0, highest - 1));
    layer->high = static_cast<int32_t>(fields.whole("high", layer->low + 1, highest));
  }

  // The array of a layer, which must have this type and shape.
  const Array& take(int32_t index, const char* part, adderkit_dtype dtype,
                    const std::vector<int64_t>& shape) {
    const std::string name = std::to_string(index) + "." + part;
    const auto found = container_.arrays.find(name);
    const auto listed = [](const std::vector<int64_t>& sizes) {
      std::string text;
      for (int64_t size : sizes) text += (text.empty() ? "" : ",") + std::to_string(size);
      return "[" + text + "]";
    };
    if (found == container_.arrays.end())
      refuse("the array `%s` is missing; `layers[%d]` needs it as %s %s", name.c_str(), index, name_of(dtype),
             listed(shape).c_str());
    if (found->second.dtype != dtype || found->second.shape != shape)
      refuse("the array `%s` (=%s %s) must be %s %s", name.c_str(), name_of(found->second.dtype),
             listed(found->second.shape).c_str(), name_of(dtype), listed(shape).c_str());
    taken_.insert(name);
    return found->second;
  }

  // Numbers are little-endian in the file, whatever they are here.
  template <class Number, class Unsigned>
  static void copy(const Array& array, std::vector<Number>* out) {
    out->resize(static_cast<size_t>(array.size) / sizeof(Number));
    const uint8_t* byte = array.bytes;
    for (Number& number : *out) {
      Unsigned bits = 0;
      for (size_t k = 0; k < sizeof(Number); ++k) bits |= static_cast<Unsigned>(*byte++) << (8 * k);
      number = static_cast<Number>(bits);
    }
  }

  void read_weight(int32_t index, Layer* layer) {
    const bool is_adder = layer->kind == LayerKind::adder,
               is_classifier = layer->kind == LayerKind::classifier;
    const Array& weight = take(index, "weight", is_adder ? ADDERKIT_U8 : ADDERKIT_I8,
                               {layer->out_channels, is_classifier ? layer->height : layer->kernel[0],
                                is_classifier ? layer->width : layer->kernel[1], layer->channels});
    if (is_adder)
      layer->adder_weight.assign(weight.bytes, weight.bytes + weight.size);
    else
      copy<int8_t, uint8_t>(weight, &layer->weight);
    if (is_classifier) return;
    const Array& pad = take(index, "pad", ADDERKIT_U8, {layer->channels});
    layer->pad.assign(pad.bytes, pad.bytes + pad.size);
  }

  void read_epilogue(int32_t index, Layer* layer) {
    const int64_t count = layer->kind == LayerKind::average_pool ? 1 : layer->out_channels;
    copy<int32_t, uint32_t>(take(index, "multiplier", ADDERKIT_I32, {count}), &layer->multiplier);
    copy<int64_t, uint64_t>(take(index, "offset", ADDERKIT_I64, {count}), &layer->offset);
  }

  // One border per tensor serves all its readers: they must agree on what is in it.
  void place_border(int32_t index, Layer* layer) {
    Tensor& input = input_of(*layer);
    for (int axis = 0; axis < 2; ++axis)
      input.padding[axis] = std::max(input.padding[axis], layer->padding[axis]);
    if (layer->kind == LayerKind::max_pool || (layer->padding[0] == 0 && layer->padding[1] == 0)) return;
    if (input.padded_reader < 0) {
      input.padded_reader = index;
      return;
    }
    const Layer& other = network_.layers[static_cast<size_t>(input.padded_reader)];
    for (size_t c = 0; c < layer->pad.size(); ++c)
      if (other.pad[c] != layer->pad[c])
        refuse("`%d.pad` (=%d for channel %zu) must be what `%d.pad` is (%d): both layers read tensor %d",
               index, layer->pad[c], c, input.padded_reader, other.pad[c], layer->input);
  }

  void check_whole() {
    for (size_t index = 0; index < tensors_.size(); ++index)
      if (tensors_[index].readers == 0) {
        if (index == 0) refuse("no layer reads the image, tensor 0");
        refuse("`layers[%zu]` makes tensor %zu, which no layer reads", index - 1, index);
      }
    const Layer& last = network_.layers.back();
    if (static_cast<size_t>(last.out_channels) != network_.classes.size())
      refuse("`classes` has %zu names, but the classifier %d outputs", network_.classes.size(),
             last.out_channels);
    for (const auto& [array, content] : container_.arrays)
      if (taken_.count(array) == 0) refuse("the array `%s` belongs to no layer", shown(array).c_str());
    check_memory();
    check_operations();
  }

  // Rounds as plan.cpp and the kernels do, those of the widest blocks of filters: what is refused does not
  // depend on the machine. A channel that stands alone takes 8 times its bytes.
  void check_memory() {
    int64_t tensors = 0, copy = 0, weights = 0;
    const auto add_tensor = [&](int64_t pixels, int64_t channels, int64_t number_bytes) {
      tensors += round_up(pixels * round_up(channels, channel_step) * number_bytes, 64);
    };
    for (const Tensor& t : tensors_) {
      add_tensor((t.height + 2 * int64_t{t.padding[0]}) * (t.width + 2 * int64_t{t.padding[1]}), t.channels,
                 t.is_wide ? 2 : 1);
      if (tensors > most_tensor_bytes) break;  // no sum overflows
    }
    for (const Layer& layer : network_.layers) {
      const int64_t filters = round_up(layer.out_channels, filter_step),
                    run = int64_t{layer.kernel[1]} * layer.channels;
      switch (layer.kind) {
        case LayerKind::adder:
          weights += filters * layer.kernel[0] * layer.kernel[1] * round_up(layer.channels, channel_step) +
                     filters * epilogue_bytes;
          break;
        case LayerKind::convolution:  // int16; the rows of one patch at least are copied, all of their width
          weights += filters * layer.kernel[0] * round_up(run, 2) * 2 + filters * epilogue_bytes;
          copy = std::max(copy, int64_t{layer.kernel[0]} * (layer.width + 2 * int64_t{layer.padding[1]}) *
                                    layer.channels * 2);
          break;
        case LayerKind::classifier:  // int16
          weights += static_cast<int64_t>(layer.weight.size()) * 2;
          copy = std::max(copy, int64_t{layer.height} * layer.width * layer.channels * 2);
          add_tensor(1, layer.out_channels, 4);
          break;
        case LayerKind::max_pool:
        case LayerKind::average_pool:
          break;
      }
    }
    if (tensors + copy > most_tensor_bytes)
      refuse("its tensors need more than 2^30 bytes for one image, which is the limit");
    if (weights > most_weight_bytes)
      refuse("its weights need more than 2^30 bytes as the kernels want them, which is the limit");
  }

  void check_operations() {
    int64_t operations = 0;
    for (const Layer& layer : network_.layers) {
      int64_t terms = int64_t{layer.kernel[0]} * layer.kernel[1];
      if (layer.kind == LayerKind::adder || layer.kind == LayerKind::convolution) terms *= layer.channels;
      if (!has_taps(layer.kind)) terms = int64_t{layer.height} * layer.width;
      if (layer.kind == LayerKind::classifier) terms *= layer.channels;
      // at most 2^30 outputs by now, of at most 2^32 terms
      operations += int64_t{layer.out_height} * layer.out_width * layer.out_channels * terms;
      if (operations > most_operations)
        refuse("its layers take more than 2^40 operations for one image, which is the limit");
    }
  }

  const Container& container_;
  Network& network_;
  std::vector<Tensor> tensors_;
  std::set<std::string> taken_;  // arrays that a layer has
  int64_t bits_ = 8;
  bool is_multiplier_free_ = false;
};

}  // namespace

int32_t read_network(const void* bytes, int64_t size, Network* out, std::string* header) {
  try {
    Container container = read_container(static_cast<const uint8_t*>(bytes), size);
    Network network{};
    Reader(container, &network).read();
    *out = std::move(network);
    if (header != nullptr) *header = std::move(container.network);
    return ADDERKIT_OK;
  } catch (const Refusal& refusal) {
    return fail(ADDERKIT_INVALID_FILE, "%s", refusal.what());
  } catch (const std::bad_alloc&) {
    return fail(ADDERKIT_OUT_OF_MEMORY, "no memory for the network");
  }
}

int32_t read_network(const void* bytes, int64_t size, Network* out) {
  return read_network(bytes, size, out, nullptr);
}

}  // namespace adderkit
