// From the bytes of a file to a network of which every number is known to be in range.
#pragma once

#include <cstdint>
#include <string>

#include "container.h"
#include "network.h"

namespace adderkit {

// What one image may take at most, so that a small file can't ask for the machine: bytes of all tensors and
// of a layer's copy of its input together, as plan.cpp lays them out, borders and padded channels included,
// and additions. A ResNet-50 at 224x224 has 10 MB and 4e9.
constexpr int64_t most_tensor_bytes = int64_t{1} << 30;
// And all weights together, as the kernels want them: one filter of one channel takes up to 128 times what it
// has in the file. A ResNet-152 takes 60 MB, and its convolutional twin 120 MB.
constexpr int64_t most_weight_bytes = int64_t{1} << 30;
constexpr int64_t most_operations = int64_t{1} << 40;

// Status; where it is not ADDERKIT_OK, adderkit_error() says what is wrong with the file and where.
int32_t read_network(const void* bytes, int64_t size, Network* out);

// The same, with the JSON text that describes the network in the file.
int32_t read_network(const void* bytes, int64_t size, Network* out, std::string* header);

}  // namespace adderkit
