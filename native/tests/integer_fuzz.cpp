// Feeds damaged files of integer networks to the reader. Right are a refusal with a sentence, and, where the
// checksum was made to fit the damage, a network that runs and gives the same bits with every instruction set
// that runs here, on one thread and two; all else, a sanitizer's report above all, is a fault.
//
//   integer_fuzz COUNT [FIRST]   inputs FIRST (0) to FIRST + COUNT - 1; an input is a function of its number
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "adderkit.h"
#include "network_file.h"

namespace {

// Terms of all sums of a network that is run: a forged one may ask for hours.
constexpr int64_t most_terms = int64_t{1} << 22;

volatile unsigned long long current = 0;

enum Kind { bytes_alone, bytes_repaired, header_repaired, data_repaired, kinds };
const char* const kind_names[] = {"bytes, checksum as it was", "bytes, checksum repaired",
                                  "header, checksum repaired", "arrays, checksum repaired"};

struct Counts {
  int64_t refused = 0, accepted = 0, run = 0, same = 0;
};

std::string random_bytes(Random& random, int64_t size) {
  std::string out;
  for (int64_t k = 0; k < size; ++k) out += static_cast<char>(random.next());
  return out;
}

// One change of any kind to some bytes.
void spoil(Random& random, std::string* data) {
  const int64_t size = static_cast<int64_t>(data->size());
  const size_t at = static_cast<size_t>(random.between(0, size));
  const size_t length = static_cast<size_t>(random.between(1, int64_t{1} << random.between(0, 8)));
  switch (random.between(0, 7)) {
    case 0:  // a bit
      if (at < data->size()) (*data)[at] = static_cast<char>((*data)[at] ^ 1 << random.between(0, 7));
      break;
    case 1:  // a byte of note
      if (at < data->size())
        (*data)[at] = static_cast<char>(random.pick({0, 1, 0x7f, 0x80, 0xff, '"', '{', '\\', '9'}));
      break;
    case 2:
      data->resize(at);
      break;
    case 3:
      data->erase(at, length);
      break;
    case 4:
      data->insert(at, data->substr(at, length));
      break;
    case 5: {  // a number of note
      const int64_t number =
          random.pick({0, 1, -1, 255, 256, INT32_MAX, INT32_MIN, int64_t{1} << 32, INT64_MAX, INT64_MIN});
      data->replace(at, length & 7, little_endian<int64_t>({number}), 0, length & 7);
      break;
    }
    case 6:
      data->replace(at, length, random_bytes(random, static_cast<int64_t>(length)));
      break;
    default:
      data->append(random_bytes(random, random.between(1, 32)));
  }
}

// One change to a text of JSON that leaves it JSON, mostly: a number, a word, a piece.
void forge(Random& random, std::string* text) {
  const char* const numbers[] = {"0",
                                 "1",
                                 "-1",
                                 "2",
                                 "3",
                                 "62",
                                 "63",
                                 "64",
                                 "254",
                                 "255",
                                 "256",
                                 "32767",
                                 "32768",
                                 "65536",
                                 "65537",
                                 "1048576",
                                 "1048577",
                                 "2147483647",
                                 "-2147483648",
                                 "4294967296",
                                 "9223372036854775807",
                                 "-9223372036854775808",
                                 "9223372036854775808",
                                 "1e3",
                                 "1.0",
                                 "-0",
                                 "0.5",
                                 "99999999999999999999999"};
  const char* const words[] = {
      "adder",        "convolution", "max_pool", "average_pool", "classifier",
      "U8",           "I8",          "I32",      "I64",          "U16",
      "F32",          "kernel",      "stride",   "padding",      "shift",
      "low",          "high",        "input",    "residual",     "residual_multiplier",
      "out_channels", "layers",      "classes",  "weight",       "pad",
      "offset",       "multiplier",  "dtype",    "shape",        "data_offsets",
      "name",         "op",          "height",   "width",        "channels",
      "network",      "version",     "format",   "sha256",       "__metadata__",
      "true",         "false",       "null"};
  constexpr int64_t number_count = sizeof numbers / sizeof numbers[0],
                    word_count = sizeof words / sizeof words[0];
  const auto place_of = [&](const std::string& what) {  // one of the places where it stands
    std::vector<size_t> places;
    for (size_t at = text->find(what); at != std::string::npos; at = text->find(what, at + 1))
      places.push_back(at);
    return places.empty()
               ? std::string::npos
               : places[static_cast<size_t>(random.between(0, static_cast<int64_t>(places.size()) - 1))];
  };
  const int64_t kind = random.between(0, 9);
  if (kind < 6) {  // a number, but for those of the checksum
    std::vector<std::pair<size_t, size_t>> found;
    for (size_t at = 0; at < text->size(); ++at)
      if ((*text)[at] >= '0' && (*text)[at] <= '9') {
        const size_t end = std::min(text->find_first_not_of("0123456789", at), text->size());
        if (end - at < 64) found.push_back({at, end - at});
        at = end;
      }
    if (found.empty()) return;
    const auto [at, length] =
        found[static_cast<size_t>(random.between(0, static_cast<int64_t>(found.size()) - 1))];
    const std::string was = text->substr(at, length);
    std::string by = numbers[random.between(0, number_count - 1)];
    if (random.one_in(2) && length < 9)
      by = std::to_string(std::atoll(was.c_str()) + random.pick({-8, -2, -1, 1, 2, 8}));
    text->replace(at, length, by);
  } else if (kind < 8) {  // a word for another
    const std::string what = words[random.between(0, word_count - 1)];
    const size_t at = place_of(what);
    if (at != std::string::npos) text->replace(at, what.size(), words[random.between(0, word_count - 1)]);
  } else if (kind == 8) {  // a piece twice
    const size_t at = place_of(","), end = std::min(text->find(',', at + 1), text->size());
    if (at != std::string::npos) text->insert(at, text->substr(at, end - at));
  } else {  // a piece left out
    const size_t at = place_of(","), end = std::min(text->find(',', at + 1), text->size());
    if (at != std::string::npos) text->erase(at, end - at);
  }
}

std::string made(Kind kind, Random& random, const NetworkFile& good) {
  const int64_t changes = random.pick({1, 1, 1, 2, 3, 8});
  if (kind == header_repaired) {
    NetworkFile forged = good;
    const bool is_inside = random.one_in(2);
    if (is_inside)
      for (int64_t k = 0; k < changes; ++k) forge(random, &forged.network);
    std::string header = forged.header();
    if (!is_inside)
      for (int64_t k = 0; k < changes; ++k) forge(random, &header);
    return sealed(header, forged.data());
  }
  if (kind == data_repaired) {
    NetworkFile forged = good;
    for (int64_t k = 0; k < changes; ++k) {
      FileArray& array =
          forged
              .arrays[static_cast<size_t>(random.between(0, static_cast<int64_t>(forged.arrays.size()) - 1))];
      const size_t size = array.dtype == "I64"   ? 8
                          : array.dtype == "I32" ? 4
                                                 : 1,
                   count = array.bytes.size() / size;
      const size_t at = size * static_cast<size_t>(random.between(0, static_cast<int64_t>(count) - 1));
      const int64_t number = random.pick(
          {INT64_MAX, INT64_MIN, int64_t{1} << 62, INT32_MAX, INT32_MIN, -1, 0, int64_t{1} << 40, -128, 255});
      array.bytes.replace(at, size, little_endian<int64_t>({number}), 0, size);
    }
    return forged.bytes();
  }
  std::string file = good.bytes();
  for (int64_t k = 0; k < changes; ++k) spoil(random, &file);
  return kind == bytes_repaired ? repaired(file) : file;
}

[[noreturn]] void fault(const char* what) {
  std::fprintf(stderr, "input %llu: %s\n", current, what);
  std::exit(1);
}

// Terms of the sums of all layers, or a little more.
int64_t terms_of(const adderkit_net* net) {
  int64_t terms = 0, before = 0;
  int64_t image[4];
  adderkit_net_shape(net, image);
  before = image[0] * image[1] * image[2];
  for (int32_t layer = 0; layer < adderkit_net_layer_count(net); ++layer) {
    int64_t shape[4], size[3];
    int32_t dtype, rank;
    const void* data;
    if (adderkit_net_layer_shape(net, layer, &dtype, size) != ADDERKIT_OK) fault("a layer without shape");
    const int64_t outputs = size[0] * size[1] * size[2];
    const std::string name = std::to_string(layer) + ".weight";
    int64_t each = before;  // of a pool at most
    if (adderkit_net_array(net, name.c_str(), &data, &dtype, shape, &rank) == ADDERKIT_OK)
      each = shape[1] * shape[2] * shape[3];
    terms += outputs < most_terms && each < most_terms ? outputs * each : most_terms + 1;
    if (terms > most_terms) return terms;
    before = std::max(before, outputs);
  }
  return terms;
}

int64_t output_bytes(const adderkit_net* net, int32_t layer) {
  int64_t sizes[3];
  int32_t dtype;
  adderkit_net_layer_shape(net, layer, &dtype, sizes);
  return sizes[0] * sizes[1] * sizes[2] * (dtype == ADDERKIT_U8 ? 1 : dtype == ADDERKIT_U16 ? 2 : 4);
}

// What a network makes of some images: the logits, and the outputs of all layers for the first image.
struct Results {
  std::unique_ptr<float[]> logits;
  std::vector<std::unique_ptr<uint8_t[]>> layers;
};

void run(const adderkit_net* net, Random& random) {
  int64_t shape[4];
  adderkit_net_shape(net, shape);
  constexpr int64_t count = 3;
  const int64_t size = shape[0] * shape[1] * shape[2];
  const std::string noise = random_bytes(random, count * size);
  const std::unique_ptr<uint8_t[]> images(new uint8_t[noise.size()]);
  std::memcpy(images.get(), noise.data(), noise.size());
  const size_t logits = static_cast<size_t>(count * shape[3]);
  const auto is_same = [logits](const std::unique_ptr<float[]>& a, const std::unique_ptr<float[]>& b) {
    return std::memcmp(a.get(), b.get(), logits * sizeof(float)) == 0;
  };
  const auto results = [&] {
    Results made{std::unique_ptr<float[]>(new float[logits]), {}};
    const std::unique_ptr<float[]> two(new float[logits]);
    if (adderkit_net_run(net, images.get(), count, made.logits.get(), 1) != ADDERKIT_OK)
      fault(adderkit_error());
    if (adderkit_net_run(net, images.get(), count, two.get(), 2) != ADDERKIT_OK) fault(adderkit_error());
    if (!is_same(made.logits, two)) fault("two threads give other logits");
    for (int32_t layer = 0; layer < adderkit_net_layer_count(net); ++layer) {
      const int64_t bytes = output_bytes(net, layer);
      made.layers.emplace_back(new uint8_t[static_cast<size_t>(bytes)]);
      if (adderkit_net_layer_output(net, images.get(), layer, made.layers.back().get(), bytes) != ADDERKIT_OK)
        fault(adderkit_error());
    }
    return made;
  };
  const Results right = results();
  const int32_t active = adderkit_isa_active();
  for (int32_t isa = 0; isa < adderkit_isa_count(); ++isa) {
    if (isa == active || adderkit_isa_reason(isa)[0] != '\0') continue;
    adderkit_isa_force(adderkit_isa_name(isa));
    const Results found = results();
    if (!is_same(found.logits, right.logits)) fault("another instruction set gives other logits");
    for (size_t layer = 0; layer < found.layers.size(); ++layer)
      if (std::memcmp(found.layers[layer].get(), right.layers[layer].get(),
                      static_cast<size_t>(output_bytes(net, static_cast<int32_t>(layer)))) != 0)
        fault("another instruction set gives another output of a layer");
  }
  adderkit_isa_force(nullptr);
}

void try_one(Kind kind, Random& random, const std::vector<NetworkFile>& seeds, Counts* counts) {
  const NetworkFile& good =
      seeds[static_cast<size_t>(random.between(0, static_cast<int64_t>(seeds.size()) - 1))];
  const std::string file = made(kind, random, good);
  const bool is_same = file == good.bytes();
  counts->same += is_same;
  const std::unique_ptr<char[]> bytes(new char[file.size()]);  // a sanitizer sees what reads beyond its end
  std::memcpy(bytes.get(), file.data(), file.size());
  adderkit_net* net = nullptr;
  const int32_t status = adderkit_net_parse(bytes.get(), static_cast<int64_t>(file.size()), &net);
  if (status == ADDERKIT_OK) {
    if (kind == bytes_alone && !is_same) fault("accepted, though its checksum was not repaired");
    ++counts->accepted;
    if (terms_of(net) <= most_terms) {
      run(net, random);
      ++counts->run;
    }
    adderkit_net_free(net);
    return;
  }
  if (status != ADDERKIT_INVALID_FILE || net != nullptr) fault("neither accepted nor refused");
  const char* const sentence = adderkit_error();
  if (std::strlen(sentence) < 10) fault("refused without a sentence");
  for (const char* c = sentence; *c != '\0'; ++c)
    if (static_cast<unsigned char>(*c) < 0x20) fault("a control character in the sentence");
  ++counts->refused;
}

void say_where(int number) {
  std::fprintf(stderr, "input %llu: signal %d\n", current, number);
  std::_Exit(1);
}

}  // namespace

extern "C" void __asan_on_error() {
  std::fprintf(stderr, "input %llu\n", current);
}

int main(int count, char** arguments) {
  const uint64_t inputs = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 2000;
  const uint64_t first = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0;
  for (int number : {SIGABRT, SIGFPE, SIGILL}) std::signal(number, say_where);
  std::vector<NetworkFile> seeds{colours()};
  for (uint64_t seed = 0; seed < 12; ++seed) {
    Random random{seed};
    seeds.push_back(drawn_network(random));
  }
  for (const NetworkFile& good : seeds) {
    adderkit_net* net = nullptr;
    const std::string file = good.bytes();
    if (adderkit_net_parse(file.data(), static_cast<int64_t>(file.size()), &net) != ADDERKIT_OK)
      fault(adderkit_error());
    adderkit_net_free(net);
  }
  Counts counts[kinds];
  double slowest = 0;
  for (uint64_t number = first; number < first + inputs; ++number) {
    current = number;
    Random random{number * 0x9e3779b97f4a7c15u + 1};
    const Kind kind = static_cast<Kind>(number % kinds);
    const std::clock_t begin = std::clock();
    try_one(kind, random, seeds, &counts[kind]);
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    slowest = seconds > slowest ? seconds : slowest;
    if (seconds > 20) fault("takes longer than 20 s");
  }
  for (int kind = 0; kind < kinds; ++kind)
    std::printf("%-27s %7lld refused, %6lld accepted (%lld unchanged), %6lld of them run\n", kind_names[kind],
                static_cast<long long>(counts[kind].refused), static_cast<long long>(counts[kind].accepted),
                static_cast<long long>(counts[kind].same), static_cast<long long>(counts[kind].run));
  std::printf("%llu damaged files, no fault; slowest %.2f s\n", static_cast<unsigned long long>(inputs),
              slowest);
  return 0;
}
