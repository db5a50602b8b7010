#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "error.h"

#if defined(ADDERKIT_X86)
#include <cpuid.h>
#endif

namespace adderkit {
namespace {

const char* always() {
  return "";
}

#if defined(ADDERKIT_X86)
struct Processor {
  bool has_fma = false, has_avx2 = false, has_avx512 = false;  // F, DQ and BW
  bool saves_ymm = false, saves_zmm = false;                   // the operating system keeps these registers

  Processor() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return;
    has_fma = c >> 12 & 1;
    if (c >> 27 & 1) {  // OSXSAVE: XGETBV exists
      unsigned low, high;
      __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
      saves_ymm = (low & 0x06) == 0x06;
      saves_zmm = (low & 0xe6) == 0xe6;
    }
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    has_avx2 = b >> 5 & 1;
    has_avx512 = (b >> 16 & 1) && (b >> 17 & 1) && (b >> 30 & 1);
  }
};

const Processor& processor() {
  static const Processor here;
  return here;
}

const char* avx2() {
  if (!processor().has_avx2 || !processor().has_fma) return "the processor has no AVX2 with FMA";
  return processor().saves_ymm ? "" : "the operating system does not save AVX registers";
}

const char* avx512() {
  if (!processor().has_avx512) return "the processor has no AVX-512 F, DQ and BW";
  return processor().saves_zmm ? "" : "the operating system does not save AVX-512 registers";
}
#endif

// Best first. A new instruction set is one row here and one file for each kernel.
struct Row {
  const char* name;
  const char* (*reason)();  // "" where it runs here
  const AdderF32Kernels* adder_f32;
  const AdderU8Kernels* adder_u8;
};

const Row table[] = {
#if defined(ADDERKIT_X86)
    {"avx512", avx512, &adder_f32_avx512, &adder_u8_avx512},
    {"avx2", avx2, &adder_f32_avx2, &adder_u8_avx2},
#elif defined(ADDERKIT_AARCH64)
    // Every AArch64 Linux, macOS and Windows requires Advanced SIMD, and compilers use it unasked: nothing to
    // ask the system for (getauxval), and where it were missing no code of this process would run.
    {"neon", always, &adder_f32_neon, &adder_u8_neon},
#endif
    {"portable", always, &adder_f32_portable, &adder_u8_portable},
};
constexpr int rows = sizeof table / sizeof table[0];

std::atomic<int> forced{-1};

int32_t find(const char* name, int* index) {
  for (int row = 0; row < rows; ++row)
    if (std::strcmp(table[row].name, name) == 0) {
      const char* reason = table[row].reason();
      if (reason[0] != '\0')
        return fail(ADDERKIT_UNKNOWN_ISA, "`ADDERKIT_ISA` (=%s) cannot run here: %s", name, reason);
      *index = row;
      return ADDERKIT_OK;
    }
  char names[128] = "";
  for (int row = 0; row < rows; ++row) {
    if (row > 0) std::strcat(names, ", ");
    std::strcat(names, table[row].name);
  }
  return fail(ADDERKIT_UNKNOWN_ISA, "`ADDERKIT_ISA` (=%s) must be one of: %s", name, names);
}

// Read once: a process that changes its environment later uses adderkit_isa_force().
struct Default {
  int index = -1;
  char problem[256] = "";

  Default() {
    const char* wanted = std::getenv("ADDERKIT_ISA");
    if (wanted != nullptr && wanted[0] != '\0') {
      if (find(wanted, &index) != ADDERKIT_OK) {
        std::strncpy(problem, adderkit_error(), sizeof problem - 1);
        index = -1;
      }
      return;
    }
    for (index = 0; table[index].reason()[0] != '\0';) ++index;
  }
};

int active() {
  const int index = forced.load(std::memory_order_relaxed);
  if (index >= 0) return index;
  static const Default standard;
  if (standard.index < 0) fail(ADDERKIT_UNKNOWN_ISA, "%s", standard.problem);
  return standard.index;
}

}  // namespace

const AdderF32Kernels* active_adder_f32() {
  const int index = active();
  return index < 0 ? nullptr : table[index].adder_f32;
}

const AdderU8Kernels* active_adder_u8() {
  const int index = active();
  return index < 0 ? nullptr : table[index].adder_u8;
}

}  // namespace adderkit

extern "C" {

int32_t adderkit_isa_count(void) {
  return adderkit::rows;
}

const char* adderkit_isa_name(int32_t index) {
  return index >= 0 && index < adderkit::rows ? adderkit::table[index].name : "";
}

const char* adderkit_isa_reason(int32_t index) {
  return index >= 0 && index < adderkit::rows ? adderkit::table[index].reason() : "there is no such path";
}

int32_t adderkit_isa_active(void) {
  return adderkit::active();
}

int32_t adderkit_isa_force(const char* name) {
  int index = -1;
  if (name != nullptr)
    if (int32_t status = adderkit::find(name, &index)) return status;
  adderkit::forced = index;
  return ADDERKIT_OK;
}

}  // extern "C"
