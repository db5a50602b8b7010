#include "network_file.h"

#include <array>
#include <cstdio>

#include "../integer/sha256.h"

namespace {

constexpr size_t digits = 64;

std::string digest_with_zeros(const std::string& file, size_t at) {
  adderkit::Sha256 sum;
  const std::string zeros(digits, '0');
  sum.add(file.data(), static_cast<int64_t>(at));
  sum.add(zeros.data(), digits);
  sum.add(file.data() + at + digits, static_cast<int64_t>(file.size() - at - digits));
  return sum.digits();
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

std::string listed(const std::vector<int64_t>& numbers) {
  std::string out;
  for (int64_t number : numbers) out += (out.empty() ? "" : ",") + std::to_string(number);
  return "[" + out + "]";
}

// Layer by layer; tensors are (height, width, channels).
class Drawing {
 public:
  explicit Drawing(Random& random) : random_(random) {
    for (int64_t most : {9, 9, 4}) image_.push_back(random.between(1, most));
    tensors_.push_back({image_[0], image_[1], image_[2]});
  }

  int64_t weighted(const std::string& op, int64_t input, int64_t out_channels, int64_t stride,
                   int64_t residual) {
    const auto [height, width, channels] = tensors_[static_cast<size_t>(input)];
    const int64_t kernel_h = random_.between(1, 3) | 1, kernel_w = random_.between(1, 3) | 1;
    const int64_t terms = kernel_h * kernel_w * channels;
    const bool is_adder = op == "adder";
    std::string weight;
    for (int64_t k = 0; k < out_channels * terms; ++k) weight += static_cast<char>(random_.between(0, 255));
    add("weight", is_adder ? "U8" : "I8", {out_channels, kernel_h, kernel_w, channels}, weight);
    add("pad", "U8", {channels}, std::string(static_cast<size_t>(channels), static_cast<char>(7 * input)));
    // A result near the middle of the range where |x - w| is 85, and x * w 0, on average.
    const int64_t shift = random_.between(10, 20), step = (int64_t{160} << shift) / (terms * 85);
    std::vector<int32_t> multiplier;
    std::vector<int64_t> offset;
    for (int64_t o = 0; o < out_channels; ++o) {
      multiplier.push_back(static_cast<int32_t>((is_adder ? -step : step / 64) + random_.between(-9, 9)));
      offset.push_back((int64_t{is_adder ? 290 : 128} << shift) + random_.between(-999, 999));
    }
    add("multiplier", "I32", {out_channels}, little_endian(multiplier));
    add("offset", "I64", {out_channels}, little_endian(offset));
    const int64_t low = random_.between(0, 9), size[] = {height, width}, kernel[] = {kernel_h, kernel_w};
    layer(op, input,
          ",\"residual\":" + std::to_string(residual) +
              ",\"residual_multiplier\":" + std::to_string(residual < 0 ? 0 : int64_t{1} << (shift - 1)) +
              ",\"out_channels\":" + std::to_string(out_channels) +
              ",\"kernel\":" + listed({kernel_h, kernel_w}) + ",\"stride\":" + listed({stride, stride}) +
              ",\"padding\":" + listed({kernel_h / 2, kernel_w / 2}) + ",\"shift\":" + std::to_string(shift) +
              ",\"low\":" + std::to_string(low) + ",\"high\":255");
    std::array<int64_t, 3> made{0, 0, out_channels};
    for (size_t axis = 0; axis < 2; ++axis)
      made[axis] = (size[axis] + 2 * (kernel[axis] / 2) - kernel[axis]) / stride + 1;
    return push(made);
  }

  int64_t max_pool(int64_t input) {
    const auto [height, width, channels] = tensors_[static_cast<size_t>(input)];
    layer("max_pool", input, ",\"kernel\":[3,2],\"stride\":[2,1],\"padding\":[1,1]");
    return push({(height + 2 - 3) / 2 + 1, width + 2 - 2 + 1, channels});
  }

  int64_t average_pool(int64_t input) {
    const auto [height, width, channels] = tensors_[static_cast<size_t>(input)];
    add("multiplier", "I32", {1},
        little_endian<int32_t>({static_cast<int32_t>((128 << 16) / (height * width))}));
    add("offset", "I64", {1}, little_endian<int64_t>({1 << 15}));
    layer("average_pool", input, ",\"shift\":16,\"low\":0,\"high\":32767");
    return push({1, 1, channels});
  }

  NetworkFile finished(int64_t input, int64_t classes) {
    const auto [height, width, channels] = tensors_[static_cast<size_t>(input)];
    std::string weight, names;
    for (int64_t k = 0; k < classes * height * width * channels; ++k)
      weight += static_cast<char>(random_.between(0, 255));
    add("weight", "I8", {classes, height, width, channels}, weight);
    add("multiplier", "I32", {classes},
        little_endian(std::vector<int32_t>(static_cast<size_t>(classes), 12345)));
    add("offset", "I64", {classes}, little_endian(std::vector<int64_t>(static_cast<size_t>(classes), -4321)));
    layer("classifier", input, ",\"out_channels\":" + std::to_string(classes) + ",\"shift\":13");
    for (int64_t k = 0; k < classes; ++k) names += (k > 0 ? ",\"c" : "\"c") + std::to_string(k) + '"';
    file_.network = "{\"name\":\"drawn\",\"dataset\":\"noise\",\"classes\":[" + names +
                    "],\"channels\":" + std::to_string(image_[2]) +
                    ",\"height\":" + std::to_string(image_[0]) + ",\"width\":" + std::to_string(image_[1]) +
                    ",\"bits\":8,\"multiplier_free\":false,\"logit_shift\":12,\"note\":[1.5e3,"
                    "{\"\\u00e9\":null}],\"layers\":[" +
                    layers_ + "]}";
    return file_;
  }

 private:
  void add(const std::string& part, const std::string& dtype, const std::vector<int64_t>& shape,
           const std::string& bytes) {
    file_.arrays.push_back({std::to_string(count_) + "." + part, dtype, listed(shape), bytes});
  }
  void layer(const std::string& op, int64_t input, const std::string& rest) {
    layers_ += (count_ > 0 ? ",{\"op\":\"" : "{\"op\":\"") + op + "\",\"name\":\"l" + std::to_string(count_) +
               "\",\"input\":" + std::to_string(input) + rest + "}";
    ++count_;
  }
  int64_t push(const std::array<int64_t, 3>& tensor) {
    tensors_.push_back(tensor);
    return count_;
  }

  Random& random_;
  NetworkFile file_;
  std::string layers_;
  std::vector<int64_t> image_;
  std::vector<std::array<int64_t, 3>> tensors_;
  int64_t count_ = 0;
};

}  // namespace

std::string sealed(std::string header, const std::string& data) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string file = little_endian<uint64_t>({header.size()}) + header + data;
  const size_t at = file.find(std::string(digits, '0'));
  return at == std::string::npos ? file : file.replace(at, digits, digest_with_zeros(file, at));
}

std::string repaired(std::string file) {
  const std::string mark = "\"sha256\":\"";
  const size_t at = file.find(mark) + mark.size();
  if (file.find(mark) == std::string::npos || at + digits > file.size()) return file;
  return file.replace(at, digits, digest_with_zeros(file, at));
}

std::string NetworkFile::header() const {
  std::string out =
      "{\"__metadata__\":{\"format\":\"adderkit-integer-network\",\"version\":\"1\",\"sha256\":\"" +
      std::string(digits, '0') + "\",\"network\":" + quoted(network) + "}";
  size_t begin = 0;
  for (const char* size : {"I64", "I32", "I8", "U8"})  // the largest first: all are aligned
    for (const FileArray& array : arrays)
      if (array.dtype == size) {
        out += "," + quoted(array.name) + ":{\"dtype\":" + quoted(array.dtype) + ",\"shape\":" + array.shape +
               ",\"data_offsets\":[" + std::to_string(begin) + "," +
               std::to_string(begin + array.bytes.size()) + "]}";
        begin += array.bytes.size();
      }
  return out + "}";
}

std::string NetworkFile::data() const {
  std::string out;
  for (const char* size : {"I64", "I32", "I8", "U8"})
    for (const FileArray& array : arrays)
      if (array.dtype == size) out += array.bytes;
  return out;
}

NetworkFile colours() {
  NetworkFile file;
  std::string weight;
  for (int o = 0; o < 3; ++o)
    for (int pixel = 0; pixel < 4; ++pixel)
      for (int c = 0; c < 3; ++c) weight += static_cast<char>(c == o);
  file.arrays = {{"0.weight", "I8", "[3,2,2,3]", weight},
                 {"0.multiplier", "I32", "[3]", little_endian<int32_t>({1, 1, 1})},
                 {"0.offset", "I64", "[3]", little_endian<int64_t>({2, 2, 2})}};
  file.network =
      "{\"name\":\"colours\",\"dataset\":\"none\",\"classes\":[\"red\",\"green\",\"blue\"],\"channels\":3,"
      "\"height\":2,"
      "\"width\":2,\"bits\":8,\"multiplier_free\":true,\"logit_shift\":4,\"layers\":[{\"op\":\"classifier\","
      "\"name\":"
      "\"fc\",\"input\":0,\"out_channels\":3,\"shift\":2}]}";
  return file;
}

NetworkFile drawn_network(Random& random) {
  Drawing drawing(random);
  const int64_t wide = random.between(1, 9);
  int64_t x = drawing.weighted("convolution", 0, wide, 1, -1);
  if (random.one_in(2)) x = drawing.max_pool(x);
  const int64_t y = drawing.weighted("adder", x, wide, 1, x);
  const int64_t z = drawing.weighted("adder", y, random.between(1, 17), random.between(1, 2), -1);
  x = random.one_in(2) ? drawing.average_pool(z) : z;
  return drawing.finished(x, random.between(1, 5));
}

void write_file(const std::string& path, const std::string& bytes) {
  std::FILE* const file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return;
  std::fwrite(bytes.data(), 1, bytes.size(), file);
  std::fclose(file);
}
