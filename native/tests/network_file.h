// Files of integer networks for tests, written from the description of the format.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "random.h"

struct FileArray {
  std::string name, dtype, shape, bytes;  // shape as JSON: "[3,4]"
};

// Numbers as a file holds them.
template <class Number>
std::string little_endian(const std::vector<Number>& numbers) {
  std::string out;
  for (Number number : numbers)
    for (size_t k = 0; k < sizeof(Number); ++k)
      out += static_cast<char>(static_cast<uint64_t>(number) >> (8 * k) & 0xff);
  return out;
}

// A header with its length before it, padded, and the data; its first 64 zeros become the checksum.
std::string sealed(std::string header, const std::string& data);

// The same file with the checksum that belongs to it as it is. Unchanged where it has no `"sha256":"`.
std::string repaired(std::string file);

struct NetworkFile {
  std::string network;  // JSON
  std::vector<FileArray> arrays;

  std::string header() const;  // with 64 zeros for the checksum
  std::string data() const;
  std::string bytes() const { return sealed(header(), data()); }
};

// Images 2x2 with three channels; classes red, green and blue: the mean of each channel, in sixteenths.
NetworkFile colours();

// All kinds of layers, in small sizes drawn at random.
NetworkFile drawn_network(Random& random);

void write_file(const std::string& path, const std::string& bytes);
