// The container of a network: a safetensors file whose header is checked to the last byte.
//
//   8 bytes    length of the header, little-endian; a multiple of 8, so that every array is aligned in the
//   file header     JSON: "__metadata__", which holds texts alone (format, version, sha256, network), and for
//   every
//              array its name with dtype, shape and data_offsets, counted from the header's end
//   arrays     little-endian, without gaps, overlaps or anything behind them
//
// `sha256` is that of the whole file, with its own 64 digits replaced by as many "0".
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "adderkit.h"

namespace adderkit {

struct Array {
  adderkit_dtype dtype;
  std::vector<int64_t> shape;
  const uint8_t* bytes;  // in the file
  int64_t size;          // bytes
};

struct Container {
  std::string network;  // JSON
  std::map<std::string, Array> arrays;
};

constexpr int64_t largest_file = int64_t{1} << 30;
constexpr int64_t largest_header = int64_t{16} << 20;
constexpr int64_t file_version = 1;

// The container in `bytes`, which must outlive it. Throws a Refusal.
Container read_container(const uint8_t* bytes, int64_t size);

// "U8" and so on; the bytes of one number.
const char* name_of(adderkit_dtype dtype);
int64_t size_of(adderkit_dtype dtype);

}  // namespace adderkit
