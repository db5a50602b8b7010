#include "scratch.h"

#include <cstdlib>

namespace adderkit {
namespace {

constexpr size_t kept_bytes = size_t{16} << 20;

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;

  float* at_least(size_t wanted) {
    if (wanted > bytes) {
      release();
      const size_t rounded = (wanted + 4095) / 4096 * 4096;
      if (posix_memalign(&memory, 64, rounded) != 0) {
        memory = nullptr;
        return nullptr;
      }
      bytes = rounded;
    }
    return static_cast<float*>(memory);
  }
  void release() {
    std::free(memory);
    memory = nullptr;
    bytes = 0;
  }
  ~Block() { release(); }
};

thread_local Block blocks[2];

}  // namespace

float* thread_scratch(Scratch kind, int64_t floats) {
  return blocks[static_cast<int>(kind)].at_least(static_cast<size_t>(floats) * sizeof(float));
}

void trim_thread_scratch(Scratch kind) {
  Block& block = blocks[static_cast<int>(kind)];
  if (block.bytes > kept_bytes) block.release();
}

}  // namespace adderkit
