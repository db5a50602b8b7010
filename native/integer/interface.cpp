// The C interface of integer networks.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "error.h"
#include "json.h"
#include "read.h"
#include "refusal.h"
#include "run.h"
#include "threads.h"

struct adderkit_net {
  adderkit::Network network;
  adderkit::Plan plan;
  std::string header;
};

namespace adderkit {
namespace {

// `subject` begins the sentence on a file that is refused.
int32_t make(const uint8_t* bytes, int64_t size, const std::string& subject, adderkit_net** net) {
  auto made = std::make_unique<adderkit_net>();
  if (int32_t status = read_network(bytes, size, &made->network, &made->header)) {
    if (status != ADDERKIT_INVALID_FILE) return status;
    const std::string problem = adderkit_error();
    const bool is_verb = problem.rfind("is ", 0) == 0 || problem.rfind("has ", 0) == 0;
    return fail(ADDERKIT_INVALID_FILE, "%s%s %s", subject.c_str(), is_verb ? "" : ":", problem.c_str());
  }
  if (int32_t status = made->plan.make(made->network)) return status;
  *net = made.release();
  return ADDERKIT_OK;
}

// A descriptor that closes itself.
struct File {
  int descriptor;
  ~File() {
    if (descriptor >= 0) close(descriptor);
  }
};

int32_t unreadable(const std::string& path, const char* reason) {
  return fail(ADDERKIT_INVALID_FILE, "`%s` can't be read: %s", path.c_str(), reason);
}

int32_t load(const char* given, adderkit_net** net) {
  const std::string path = shown(given, 200);
  // not to wait for the other end of a pipe
  const File file{open(given, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat status;
  if (file.descriptor < 0 || fstat(file.descriptor, &status) != 0)
    return unreadable(path, std::strerror(errno));
  if (S_ISDIR(status.st_mode)) return unreadable(path, "it is a folder");
  if (!S_ISREG(status.st_mode)) return unreadable(path, "it is no regular file");
  if (status.st_size > largest_file)
    return fail(ADDERKIT_INVALID_FILE, "`%s` has %lld bytes; allowed are 2^30 (1 GiB)", path.c_str(),
                static_cast<long long>(status.st_size));
  const int64_t size = status.st_size;
  const std::unique_ptr<uint8_t[]> bytes(new uint8_t[static_cast<size_t>(size) + 1]);
  int64_t done = 0;
  for (;;) {  // one byte more than there should be, to see the end
    const ssize_t part = read(file.descriptor, bytes.get() + done, static_cast<size_t>(size + 1 - done));
    if (part < 0 && errno == EINTR) continue;
    if (part < 0) return unreadable(path, std::strerror(errno));
    done += part;
    if (part == 0 || done > size) break;
  }
  if (done != size) return unreadable(path, "it changed at the same time");
  return make(bytes.get(), size, "`" + path + "`", net);
}

// Nothing may leave through the C interface but a status.
template <class Run>
int32_t guarded(const Run& run) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    return fail(ADDERKIT_OUT_OF_MEMORY, "no memory for the network");
  }
}

// The layer with this number, or null.
const Layer* find_layer(const adderkit_net* net, int32_t layer) {
  if (net != nullptr && layer >= 0 && static_cast<size_t>(layer) < net->network.layers.size())
    return &net->network.layers[static_cast<size_t>(layer)];
  if (net == nullptr)
    fail(ADDERKIT_INVALID_ARGUMENT, "`net` is NULL");
  else
    fail(ADDERKIT_INVALID_ARGUMENT, "`layer` (=%d) must be from 0 to %zu", layer,
         net->network.layers.size() - 1);
  return nullptr;
}

adderkit_dtype output_dtype(const Layer& layer) {
  if (layer.kind == LayerKind::classifier) return ADDERKIT_I32;
  return layer.kind == LayerKind::average_pool ? ADDERKIT_U16 : ADDERKIT_U8;
}

int64_t output_bytes(const Layer& layer) {
  const int64_t size = layer.kind == LayerKind::classifier     ? 4
                       : layer.kind == LayerKind::average_pool ? 2
                                                               : 1;
  return size * layer.out_height * layer.out_width * layer.out_channels;
}

struct Part {
  const void* data;
  adderkit_dtype dtype;
  int64_t shape[4];
  int32_t rank;
};

// Whether the layer has an array of this name.
bool find_part(const Layer& layer, std::string_view name, Part* part) {
  const bool is_classifier = layer.kind == LayerKind::classifier;
  if (name == "weight") {
    const bool is_adder = layer.kind == LayerKind::adder;
    *part = {is_adder ? static_cast<const void*>(layer.adder_weight.data()) : layer.weight.data(),
             is_adder ? ADDERKIT_U8 : ADDERKIT_I8,
             {layer.out_channels, is_classifier ? layer.height : layer.kernel[0],
              is_classifier ? layer.width : layer.kernel[1], layer.channels},
             4};
    return is_adder || !layer.weight.empty();
  }
  const auto line = [part](const auto& numbers, adderkit_dtype dtype) {
    *part = {numbers.data(), dtype, {static_cast<int64_t>(numbers.size()), 0, 0, 0}, 1};
    return !numbers.empty();
  };
  if (name == "pad") return line(layer.pad, ADDERKIT_U8);
  if (name == "multiplier") return line(layer.multiplier, ADDERKIT_I32);
  if (name == "offset") return line(layer.offset, ADDERKIT_I64);
  return false;
}

}  // namespace
}  // namespace adderkit

using adderkit::fail;

extern "C" {

int32_t adderkit_net_load(const char* path, adderkit_net** net) {
  if (net != nullptr) *net = nullptr;
  if (path == nullptr || net == nullptr) return fail(ADDERKIT_INVALID_ARGUMENT, "`path` or `net` is NULL");
  return adderkit::guarded([&] { return adderkit::load(path, net); });
}

int32_t adderkit_net_parse(const void* bytes, int64_t size, adderkit_net** net) {
  if (net != nullptr) *net = nullptr;
  if (bytes == nullptr || net == nullptr) return fail(ADDERKIT_INVALID_ARGUMENT, "`bytes` or `net` is NULL");
  if (size < 0)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`size` (=%lld) must be 0 or more", static_cast<long long>(size));
  return adderkit::guarded(
      [&] { return adderkit::make(static_cast<const uint8_t*>(bytes), size, "the file", net); });
}

void adderkit_net_free(adderkit_net* net) {
  delete net;
}

int32_t adderkit_net_shape(const adderkit_net* net, int64_t shape[4]) {
  if (net == nullptr || shape == nullptr) return fail(ADDERKIT_INVALID_ARGUMENT, "`net` or `shape` is NULL");
  shape[0] = net->network.height;
  shape[1] = net->network.width;
  shape[2] = net->network.channels;
  shape[3] = static_cast<int64_t>(net->network.classes.size());
  return ADDERKIT_OK;
}

const char* adderkit_net_header(const adderkit_net* net) {
  return net == nullptr ? "" : net->header.c_str();
}

const char* adderkit_net_class(const adderkit_net* net, int64_t index) {
  if (net == nullptr || index < 0 || index >= static_cast<int64_t>(net->network.classes.size())) return "";
  return net->network.classes[static_cast<size_t>(index)].c_str();
}

int32_t adderkit_net_run(const adderkit_net* net, const uint8_t* images, int64_t count, float* logits,
                         int32_t threads) {
  if (net == nullptr) return fail(ADDERKIT_INVALID_ARGUMENT, "`net` is NULL");
  if (threads < 0 || threads > adderkit::most_threads)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`threads` (=%d) must be from 0 to %d", threads,
                adderkit::most_threads);
  if (count < 0 || count > INT32_MAX)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`count` (=%lld) must be from 0 to 2^31 - 1",
                static_cast<long long>(count));
  if (count == 0) return ADDERKIT_OK;
  if (images == nullptr || logits == nullptr)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`images` or `logits` is NULL");
  return adderkit::guarded([&] { return adderkit::run(net->plan, images, count, logits, threads); });
}

int32_t adderkit_net_layer_count(const adderkit_net* net) {
  return net == nullptr ? 0 : static_cast<int32_t>(net->network.layers.size());
}

int32_t adderkit_net_layer_shape(const adderkit_net* net, int32_t layer, int32_t* dtype, int64_t shape[3]) {
  const adderkit::Layer* const found = adderkit::find_layer(net, layer);
  if (found == nullptr) return ADDERKIT_INVALID_ARGUMENT;
  if (dtype == nullptr || shape == nullptr)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`dtype` or `shape` is NULL");
  *dtype = adderkit::output_dtype(*found);
  shape[0] = found->out_height;
  shape[1] = found->out_width;
  shape[2] = found->out_channels;
  return ADDERKIT_OK;
}

int32_t adderkit_net_layer_output(const adderkit_net* net, const uint8_t* image, int32_t layer, void* output,
                                  int64_t bytes) {
  const adderkit::Layer* const found = adderkit::find_layer(net, layer);
  if (found == nullptr) return ADDERKIT_INVALID_ARGUMENT;
  if (image == nullptr || output == nullptr)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`image` or `output` is NULL");
  const int64_t wanted = adderkit::output_bytes(*found);
  if (bytes != wanted)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`bytes` (=%lld) must be %lld, the size of the output of layer %d",
                static_cast<long long>(bytes), static_cast<long long>(wanted), layer);
  return adderkit::guarded([&] { return adderkit::run_to(net->plan, image, layer + 1, output); });
}

int32_t adderkit_net_array(const adderkit_net* net, const char* name, const void** data, int32_t* dtype,
                           int64_t shape[4], int32_t* rank) {
  if (net == nullptr || name == nullptr || data == nullptr || dtype == nullptr || shape == nullptr ||
      rank == nullptr)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`net`, `name`, `data`, `dtype`, `shape` or `rank` is NULL");
  char* end = nullptr;
  const bool is_number = name[0] >= '0' && name[0] <= '9' && (name[0] != '0' || name[1] == '.');
  const long index = is_number ? std::strtol(name, &end, 10) : -1;
  adderkit::Part part{};
  const bool has_layer = index >= 0 && static_cast<size_t>(index) < net->network.layers.size() && *end == '.';
  if (!has_layer || !adderkit::find_part(net->network.layers[static_cast<size_t>(index)], end + 1, &part))
    return fail(ADDERKIT_INVALID_ARGUMENT,
                "`name` (=%s) must be LAYER.weight, LAYER.pad, LAYER.multiplier or LAYER.offset of a layer "
                "that has it",
                adderkit::shown(name).c_str());
  *data = part.data;
  *dtype = part.dtype;
  *rank = part.rank;
  std::memcpy(shape, part.shape, sizeof part.shape);
  return ADDERKIT_OK;
}

}  // extern "C"
