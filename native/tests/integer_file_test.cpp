// The file of an integer network through the C interface: what is read, what is refused and how.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "../integer/sha256.h"
#include "adderkit.h"
#include "checks.h"
#include "network_file.h"

namespace {

struct Free {
  void operator()(adderkit_net* net) const { adderkit_net_free(net); }
};
using Net = std::unique_ptr<adderkit_net, Free>;

Net parsed(const std::string& file, int32_t* status = nullptr) {
  adderkit_net* net = nullptr;
  // exactly as long as the file, so that a sanitizer sees what reads beyond it
  const std::unique_ptr<char[]> bytes(new char[file.size()]);
  std::memcpy(bytes.get(), file.data(), file.size());
  const int32_t found = adderkit_net_parse(bytes.get(), static_cast<int64_t>(file.size()), &net);
  expect((found == ADDERKIT_OK) == (net != nullptr), "status %d, but net %p", found, static_cast<void*>(net));
  if (status != nullptr) *status = found;
  return Net(net);
}

void test_sha256() {
  const auto digits = [](const std::string& text, size_t piece) {
    adderkit::Sha256 sum;
    for (size_t at = 0; at < text.size(); at += piece)
      sum.add(text.data() + at, static_cast<int64_t>(std::min(piece, text.size() - at)));
    return sum.digits();
  };
  // The examples of FIPS 180-4's appendix and the empty text.
  const std::pair<std::string, const char*> known[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}};
  for (const auto& [text, sum] : known)
    for (size_t piece : {size_t{1}, size_t{63}, size_t{64}, size_t{1000}})
      expect(digits(text, piece) == sum, "SHA-256 of %zu bytes in pieces of %zu", text.size(), piece);
}

void test_network() {
  int32_t status = 0;
  const Net net = parsed(colours().bytes(), &status);
  expect(net != nullptr, "refused: %s", adderkit_error());
  if (net == nullptr) return;
  int64_t shape[4];
  expect(adderkit_net_shape(net.get(), shape) == ADDERKIT_OK, "%s", adderkit_error());
  expect(shape[0] == 2 && shape[1] == 2 && shape[2] == 3 && shape[3] == 3, "a wrong shape");
  expect(std::string(adderkit_net_class(net.get(), 1)) == "green", "a wrong class");
  for (int64_t index : {-1, 3}) expect(adderkit_net_class(net.get(), index)[0] == '\0', "a class too many");
  expect(adderkit_net_header(net.get()) == colours().network, "another header");

  const uint8_t images[24] = {10, 20, 30, 10, 20, 30, 10, 20, 30, 10, 20, 31, 255, 255, 255, 255, 0, 0, 255};
  const float right[6] = {10 / 16.0f, 20 / 16.0f, 30 / 16.0f, 191 / 16.0f, 64 / 16.0f, 64 / 16.0f};
  for (int32_t threads : {0, 1, 2, 5}) {
    float logits[6] = {};
    expect(adderkit_net_run(net.get(), images, 2, logits, threads) == ADDERKIT_OK, "%s", adderkit_error());
    expect(std::memcmp(logits, right, sizeof right) == 0, "wrong logits");
  }
  expect(adderkit_net_run(net.get(), nullptr, 0, nullptr, 1) == ADDERKIT_OK, "%s", adderkit_error());

  int32_t dtype = -1, rank = 0, fixed[3] = {};
  int64_t sizes[3] = {};
  expect(adderkit_net_layer_count(net.get()) == 1, "a wrong number of layers");
  expect(adderkit_net_layer_shape(net.get(), 0, &dtype, sizes) == ADDERKIT_OK, "%s", adderkit_error());
  expect(dtype == ADDERKIT_I32 && sizes[0] == 1 && sizes[1] == 1 && sizes[2] == 3, "a wrong output");
  expect(adderkit_net_layer_output(net.get(), images, 0, fixed, sizeof fixed) == ADDERKIT_OK, "%s",
         adderkit_error());
  expect(fixed[0] == 10 && fixed[1] == 20 && fixed[2] == 30, "a wrong output");
  const void* data = nullptr;
  expect(adderkit_net_array(net.get(), "0.weight", &data, &dtype, shape, &rank) == ADDERKIT_OK, "%s",
         adderkit_error());
  expect(
      rank == 4 && dtype == ADDERKIT_I8 && shape[0] == 3 && shape[1] == 2 && shape[2] == 2 && shape[3] == 3,
      "a wrong array");
  expect(std::memcmp(data, colours().arrays[0].bytes.data(), 36) == 0, "other weights");
  expect(adderkit_net_array(net.get(), "0.offset", &data, &dtype, shape, &rank) == ADDERKIT_OK && rank == 1 &&
             dtype == ADDERKIT_I64 && static_cast<const int64_t*>(data)[2] == 2,
         "a wrong offset");
}

void test_bad_calls() {
  const Net made = parsed(colours().bytes());
  const adderkit_net* net = made.get();
  uint8_t image[12] = {};
  float logits[3];
  int64_t shape[4];
  int32_t dtype, rank, fixed[3];
  const void* data;
  adderkit_net* other = nullptr;
  const auto refused = [](int32_t status, const char* named) {
    expect(status == ADDERKIT_INVALID_ARGUMENT, "not refused: %s", named);
    expect(std::strstr(adderkit_error(), named) != nullptr, "\"%s\" does not say %s", adderkit_error(),
           named);
  };
  refused(adderkit_net_load(nullptr, &other), "`path`");
  refused(adderkit_net_load("x", nullptr), "`net`");
  refused(adderkit_net_parse(nullptr, 3, &other), "`bytes`");
  refused(adderkit_net_parse("abc", 3, nullptr), "`net`");
  refused(adderkit_net_parse("abc", -1, &other), "`size` (=-1)");
  refused(adderkit_net_shape(nullptr, shape), "`net`");
  refused(adderkit_net_shape(net, nullptr), "`shape`");
  refused(adderkit_net_run(nullptr, image, 1, logits, 1), "`net`");
  refused(adderkit_net_run(net, nullptr, 1, logits, 1), "`images`");
  refused(adderkit_net_run(net, image, 1, nullptr, 1), "`logits`");
  refused(adderkit_net_run(net, image, -1, logits, 1), "`count` (=-1)");
  refused(adderkit_net_run(net, image, int64_t{1} << 31, logits, 1), "`count` (=2147483648)");
  for (int32_t threads : {-1, 4097}) refused(adderkit_net_run(net, image, 1, logits, threads), "`threads`");
  for (int32_t layer : {-1, 1}) {
    refused(adderkit_net_layer_shape(net, layer, &dtype, shape), "`layer`");
    refused(adderkit_net_layer_output(net, image, layer, fixed, 12), "`layer`");
  }
  refused(adderkit_net_layer_shape(nullptr, 0, &dtype, shape), "`net`");
  refused(adderkit_net_layer_shape(net, 0, nullptr, shape), "`dtype`");
  refused(adderkit_net_layer_output(nullptr, image, 0, fixed, 12), "`net`");
  refused(adderkit_net_layer_output(net, nullptr, 0, fixed, 12), "`image`");
  refused(adderkit_net_layer_output(net, image, 0, nullptr, 12), "`output`");
  for (int64_t bytes : {-1, 11, 13})
    refused(adderkit_net_layer_output(net, image, 0, fixed, bytes), "must be 12");
  for (const char* name : {"", "weight", "0", "0.", "0.bias", "1.weight", "-1.weight", "0.pad", "0.weight2",
                           " 0.weight", "00.weight", "99999999999999999999.weight"})
    refused(adderkit_net_array(net, name, &data, &dtype, shape, &rank), "`name`");
  refused(adderkit_net_array(net, nullptr, &data, &dtype, shape, &rank), "`name`");
  expect(adderkit_net_layer_count(nullptr) == 0, "layers of nothing");
  expect(adderkit_net_header(nullptr)[0] == '\0' && adderkit_net_class(nullptr, 0)[0] == '\0',
         "texts of nothing");
  adderkit_net_free(nullptr);
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const size_t at = text.find(what);
  expect(at != std::string::npos, "the test has no %s to replace", what.c_str());
  return at == std::string::npos ? text : text.replace(at, what.size(), by);
}

// A few of each kind; tests/runtime has every message.
void test_refused_files() {
  const auto refused = [](const std::string& file, const char* named) {
    int32_t status = 0;
    parsed(file, &status);
    expect(status == ADDERKIT_INVALID_FILE, "status %d, not refused: %s", status, named);
    expect(std::strstr(adderkit_error(), named) != nullptr, "\"%s\" does not say %s", adderkit_error(),
           named);
  };
  const NetworkFile good = colours();
  const std::string file = good.bytes();
  for (size_t size = 0; size < file.size(); ++size) {
    int32_t status = 0;
    parsed(file.substr(0, size), &status);
    expect(status == ADDERKIT_INVALID_FILE, "cut to %zu bytes: status %d", size, status);
  }
  for (size_t at = 0; at < file.size(); ++at) {
    std::string spoilt = file;
    spoilt[at] = static_cast<char>(spoilt[at] ^ 1 << at % 8);
    int32_t status = 0;
    parsed(spoilt, &status);
    expect(status == ADDERKIT_INVALID_FILE, "byte %zu changed: status %d", at, status);
  }
  refused(file + '\0', "damaged or was altered");
  refused(file.substr(0, file.size() - 1), "cut short");
  refused(repaired(file + '\0'), "belong to no array");

  const auto header = [&](const char* what, const char* by, const char* named) {
    refused(sealed(replaced(good.header(), what, by), good.data()), named);
  };
  header("\"version\":\"1\"", "\"version\":\"2\"", "reads version 1");
  header("adderkit-integer-network", "pt", "`format` (=pt)");
  header("[0,24]", "[8,24]", "must span");
  header("\"I64\"", "\"F32\"", "`dtype` (=F32)");
  header("0.offset", "0.multiplier", "twice");
  header("{\"__metadata__\"", "{\"\\u005f_metadata__\":{},\"__metadata__\"", "twice");
  const auto network = [&](const char* what, const char* by, const char* named) {
    NetworkFile forged = good;
    forged.network = replaced(forged.network, what, by);
    refused(forged.bytes(), named);
  };
  network("\"shift\":2", "\"shift\":63", "`layers[0].shift` (=63) must be a whole number from 0 to 62");
  network("\"shift\":2", "\"shift\":2.0", "`layers[0].shift` (=2.0)");
  network("\"input\":0", "\"input\":1", "`layers[0].input` (=1)");
  network("classifier", "adder", "the last layer");
  network("\"out_channels\":3", "\"out_channels\":3,\"scale\":1", "`layers[0].scale` is unknown");
  network("\"height\":2", "\"height\":3", "must be I8 [3,3,2,3]");
  network("\"blue\"", "\"blue\",\"violet\"", "`classes`");
  network("\"blue\"", "\"bl\\ud800ue\"", "surrogate");
  network("\"layers\":", std::string(40, '[').insert(0, "\"layers\":").c_str(), "32 levels");
}

// Adder layers with one channel, one filter and a kernel of side^2, all reading the image of size^2, each but
// the first adding what the one before made; then a maximum over the map and a classifier.
NetworkFile one_channel(int64_t size, int64_t side, int count) {
  NetworkFile file;
  std::string layers;
  for (int layer = 0; layer < count; ++layer) {
    const std::string name = std::to_string(layer), k = std::to_string(side);
    file.arrays.push_back({name + ".weight", "U8", "[1," + k + "," + k + ",1]",
                           std::string(static_cast<size_t>(side * side), '\0')});
    file.arrays.push_back({name + ".pad", "U8", "[1]", std::string(1, '\0')});
    file.arrays.push_back({name + ".multiplier", "I32", "[1]", little_endian<int32_t>({1})});
    file.arrays.push_back({name + ".offset", "I64", "[1]", little_endian<int64_t>({0})});
    layers +=
        "{\"op\":\"adder\",\"name\":\"\",\"input\":0,\"residual\":" + std::to_string(layer - (layer == 0)) +
        ",\"residual_multiplier\":" + (layer == 0 ? "0" : "1") + ",\"out_channels\":1,\"kernel\":[" + k +
        "," + k + "],\"stride\":[1,1],\"padding\":[0,0],\"shift\":0,\"low\":0,\"high\":255},";
  }
  const std::string pool = std::to_string(count), last = std::to_string(count + 1);
  file.arrays.push_back({last + ".weight", "I8", "[1,1,1,1]", std::string(1, '\1')});
  file.arrays.push_back({last + ".multiplier", "I32", "[1]", little_endian<int32_t>({1})});
  file.arrays.push_back({last + ".offset", "I64", "[1]", little_endian<int64_t>({0})});
  const std::string sides = std::to_string(size), made = std::to_string(size - side + 1);
  file.network =
      "{\"name\":\"\",\"dataset\":\"\",\"classes\":[\"x\"],\"channels\":1,\"height\":" + sides +
      ",\"width\":" + sides + ",\"bits\":8,\"multiplier_free\":true,\"logit_shift\":0,\"layers\":[" + layers +
      "{\"op\":\"max_pool\",\"name\":\"\",\"input\":" + pool + ",\"kernel\":[" + made + "," + made +
      "],\"stride\":[1,1],\"padding\":[0,0]},{\"op\":\"classifier\",\"name\":\"\",\"input\":" + last +
      ",\"out_channels\":1,\"shift\":0}]}";
  return file;
}

// A channel that stands alone takes 8 times its bytes in memory, and with it a lone filter 128 times.
void test_padded_sizes() {
  const auto message = [](const NetworkFile& file) {
    return parsed(file.bytes()) == nullptr ? std::string(adderkit_error()) : std::string();
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  // 8 * 2 * 8191^2 bytes of tensors are a little less than 2^30, and 8 * 2 * 8192^2 are it without what the
  // last two layers make.
  std::string found = message(one_channel(8191, 1, 1));
  expect(found.empty(), "refused: %s", found.c_str());
  found = message(one_channel(8192, 1, 1));
  expect(has(found, "tensors need more than 2^30 bytes"), "tensors: \"%s\"", found.c_str());
  // 9.7 MB of weights, 1.24 GB in memory
  found = message(one_channel(2200, 2200, 2));
  expect(has(found, "weights need more than 2^30 bytes"), "weights: \"%s\"", found.c_str());
}

void test_drawn_networks() {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Random random{seed};
    const NetworkFile file = drawn_network(random);
    const Net net = parsed(file.bytes());
    expect(net != nullptr, "network %llu: %s", static_cast<unsigned long long>(seed), adderkit_error());
    if (net == nullptr) continue;
    for (const FileArray& array : file.arrays) {
      const void* data = nullptr;
      int32_t dtype, rank;
      int64_t shape[4];
      expect(adderkit_net_array(net.get(), array.name.c_str(), &data, &dtype, shape, &rank) == ADDERKIT_OK,
             "%s", adderkit_error());
      expect(data != nullptr && std::memcmp(data, array.bytes.data(), array.bytes.size()) == 0,
             "network %llu: another %s", static_cast<unsigned long long>(seed), array.name.c_str());
    }
  }
}

void test_loading(const std::string& folder) {
  const std::string path = folder + "/net.adk";
  adderkit_net* net = nullptr;
  const auto refused = [&](const std::string& name, const char* named) {
    const int32_t status = adderkit_net_load(name.c_str(), &net);
    expect(status == ADDERKIT_INVALID_FILE && net == nullptr, "%s was loaded", name.c_str());
    expect(std::strstr(adderkit_error(), named) != nullptr, "\"%s\" does not say %s", adderkit_error(),
           named);
  };
  write_file(path, colours().bytes());
  expect(adderkit_net_load(path.c_str(), &net) == ADDERKIT_OK, "%s", adderkit_error());
  adderkit_net_free(net);
  refused(folder + "/none", "/none` can't be read: No such file");
  refused(folder, "it is a folder");
  refused("/dev/null", "no regular file");
  refused("", "``");
  const std::string pipe = folder + "/pipe";
  mkfifo(pipe.c_str(), 0600);
  refused(pipe, "no regular file");
  unlink(pipe.c_str());
  const std::string large = folder + "/large";
  write_file(large, "");
  refused(large, "it has 0 bytes");
  expect(truncate(large.c_str(), (int64_t{1} << 30) + 1) == 0, "no sparse file");
  refused(large, "has 1073741825 bytes");
  unlink(large.c_str());
  write_file(folder + "/\n\x1b[31m\xff", "foreign");
  refused(folder + "/\n\x1b[31m\xff", "\\x0a\\x1b[31m\\xff` is no integer network");
  unlink((folder + "/\n\x1b[31m\xff").c_str());
  refused(std::string(5000, 'a'), "...` can't be read");
  unlink(path.c_str());
}

// One network, used from several threads at once, with several threads each.
void test_threads_and_forks() {
  Random random{7};
  const Net net = parsed(drawn_network(random).bytes());
  if (net == nullptr) return expect(false, "%s", adderkit_error());
  int64_t shape[4];
  adderkit_net_shape(net.get(), shape);
  constexpr int64_t count = 9;
  std::vector<uint8_t> images(static_cast<size_t>(count * shape[0] * shape[1] * shape[2]));
  for (uint8_t& value : images) value = static_cast<uint8_t>(random.next());
  const size_t logits = static_cast<size_t>(count * shape[3]);
  std::vector<float> right(logits);
  adderkit_net_run(net.get(), images.data(), count, right.data(), 1);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 20; ++repeat) {
        std::vector<float> found(logits, 1e9f);
        if (adderkit_net_run(net.get(), images.data(), count, found.data(), repeat % 4) != ADDERKIT_OK ||
            found != right)
          ++wrong;
      }
      adderkit_net_run(net.get(), nullptr, 1, nullptr, 1);
      if (std::strstr(adderkit_error(), "`images`") == nullptr) ++wrong;
    });
  for (std::thread& caller : callers) caller.join();
  expect(wrong == 0, "%d wrong calls beside others", wrong.load());
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // ends a child that waits for threads it does not have
    std::vector<float> found(logits);
    const int32_t status = adderkit_net_run(net.get(), images.data(), count, found.data(), 3);
    _exit(status == ADDERKIT_OK && found == right ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  expect(child > 0 && status == 0, "a forked process fails: status %d", status);
}

}  // namespace

// integer_file_test             runs the tests
// integer_file_test --write F   writes F/colours.adk and F/green.ppm, for the example
int main(int count, char** arguments) {
  if (count == 3 && std::strcmp(arguments[1], "--write") == 0) {
    const std::string folder = arguments[2];
    write_file(folder + "/colours.adk", colours().bytes());
    write_file(folder + "/green.ppm",
               std::string("P6\n# a leaf\n2 2 255\n") + "\x14\xc8\x1e\x14\xc8\x1e\x14\xc8\x1e\x14\xc8\x1e");
    return 0;
  }
  char folder[] = "/tmp/adderkit-test-XXXXXX";
  if (mkdtemp(folder) == nullptr) return 1;
  test_sha256();
  test_network();
  test_bad_calls();
  test_refused_files();
  test_padded_sizes();
  test_drawn_networks();
  test_loading(folder);
  test_threads_and_forks();
  rmdir(folder);
  return exit_code();
}
