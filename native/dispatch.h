// Chooses the kernels of one instruction set: the best that runs here, unless a caller or ADDERKIT_ISA says.
#pragma once

#include "adder_f32/plan.h"
#include "adder_u8/plan.h"

namespace adderkit {

// Null where ADDERKIT_ISA names no path that runs here; adderkit_error() then says so.
const AdderF32Kernels* active_adder_f32();
const AdderU8Kernels* active_adder_u8();

}  // namespace adderkit
