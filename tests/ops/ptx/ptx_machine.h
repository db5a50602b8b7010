/* The machine that translated PTX runs on: memory that is checked, conversions, and what threads do together.

   Threads are run one after the other, up to an instruction that needs others, where each waits (a coroutine); once
   all of a block wait there, it is carried out for all of them. Names with THREADS and the function `kernel` come from
   the translation. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

/* Compilers take long where larger functions are in thousands of places. */
#define NOT_INLINE __attribute__((noinline))

enum { STACK = 1 << 18, MOST_JUMPS = 1 << 24 };

/* The elements of a tensor; `written` counts stores, NULL where nothing may be stored. */
struct region {
    uint64_t start, end, size;
    const uint8_t *inside;
    uint8_t *written;
};

enum fault_kind { NONE, LOAD, STORE, SHARED, MISALIGNED, DIVISION, DIVERGED, ENDLESS, MASK };

struct fault {
    uint32_t kind, at, program[3], thread, bytes;
    uint64_t address;
};

enum together { BARRIER, SHUFFLE_BFLY, SHUFFLE_IDX, REDUCE_MAX_S32, REDUCE_OR_B32, MATRIX_STORE, MATRIX_LOAD };

struct thread {
    ucontext_t context;
    char *stack;
    bool is_done;
    uint32_t at, what, jumps;
    uint32_t given[4], result[4];
    uint32_t matrices, parts[4]; /* how many; of each, the two halves that a lane stores */
};

static struct thread threads[THREADS];
static ucontext_t scheduler;
static uint32_t program[3], programs[3], current, shared_size;
static const uint64_t *parameters;
static const struct region *regions;
static int region_count;
static struct fault *first_fault;
static char shared_memory[1 << 18] __attribute__((aligned(128)));
static char nowhere[16];

static void kernel(uint32_t tid);

static void fail(enum fault_kind kind, uint32_t at, uint64_t address, uint32_t bytes) {
    if (first_fault->kind == NONE)
        *first_fault = (struct fault){kind, at, {program[0], program[1], program[2]}, current, bytes, address};
}

/* Where a load or store may go on: to what it named, or after a fault to a place of no meaning. */
static char *global(uint64_t address, uint32_t bytes, bool is_store, uint32_t at) {
    if (address % bytes) {
        fail(MISALIGNED, at, address, bytes);
        return memset(nowhere, 0, sizeof nowhere);
    }
    for (int i = 0; i < region_count; i++) {
        const struct region *region = &regions[i];
        if (address < region->start || address + bytes > region->end || (is_store && !region->written)) continue;
        uint64_t first = (address - region->start) / region->size, last = (address + bytes - 1 - region->start) / region->size;
        bool is_inside = true;
        for (uint64_t element = first; element <= last; element++) is_inside &= region->inside[element];
        if (!is_inside) continue;
        if (is_store)
            for (uint64_t element = first; element <= last; element++)
                region->written[element] += region->written[element] < 255;
        return (char *)(uintptr_t)address;
    }
    fail(is_store ? STORE : LOAD, at, address, bytes);
    return memset(nowhere, 0, sizeof nowhere);
}

static char *shared(uint32_t address, uint32_t bytes, uint32_t at) {
    if (address % bytes || (uint64_t)address + bytes > shared_size) {
        fail(address % bytes ? MISALIGNED : SHARED, at, address, bytes);
        return memset(nowhere, 0, sizeof nowhere);
    }
    return shared_memory + address;
}

static bool is_endless(uint32_t at) {
    if (threads[current].jumps++ < MOST_JUMPS && first_fault->kind != ENDLESS) return false;
    fail(ENDLESS, at, 0, 0);
    return true;
}

static inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* To 0 to 1; NaN becomes +0, as does -0. */
static inline float saturated(float value) { return value > 0.0f ? (value < 1.0f ? value : 1.0f) : 0.0f; }

static float NOT_INLINE larger_or_nan(float a, float b) {
    if (isnan(a) || isnan(b)) return NAN;
    return a == b ? (signbit(a) ? b : a) : a > b ? a : b;
}

static float NOT_INLINE smaller_or_nan(float a, float b) {
    if (isnan(a) || isnan(b)) return NAN;
    return a == b ? (signbit(a) ? a : b) : a < b ? a : b;
}

static uint32_t NOT_INLINE divided_s32(uint32_t a, uint32_t b, bool is_rest, uint32_t at) {
    if (!b) {
        fail(DIVISION, at, 0, 0);
        return 0;
    }
    int64_t over = (int32_t)a, under = (int32_t)b;
    return (uint32_t)(is_rest ? over % under : over / under);
}

static uint32_t NOT_INLINE divided_u32(uint32_t a, uint32_t b, bool is_rest, uint32_t at) {
    if (!b) {
        fail(DIVISION, at, 0, 0);
        return 0;
    }
    return is_rest ? a % b : a / b;
}

/* `length` bits from bit `start`; beyond the last bit, zeros or copies of the sign that the field has. */
static uint32_t NOT_INLINE field(uint32_t value, uint32_t start, uint32_t length, bool is_signed) {
    start &= 255, length &= 255;
    uint32_t sign = 0;
    if (is_signed && length) {
        uint32_t last = start + length - 1 < 31 ? start + length - 1 : 31;
        sign = value >> last & 1;
    }
    uint32_t result = 0;
    for (uint32_t i = 0; i < 32; i++)
        result |= (i < length && start + i < 32 ? value >> (start + i) & 1 : sign) << i;
    return result;
}

static uint16_t NOT_INLINE to_bf16(uint32_t bits) {
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t NOT_INLINE to_f16(uint32_t bits) {
    uint16_t sign = bits >> 16 & 0x8000;
    float size = fabsf(as_float(bits));
    if (isnan(size)) return 0x7fff;
    if (size >= 65520.0f) return sign | 0x7c00;
    /* Eleven significant bits, fewer below 2^-14. The sum of mantissa and exponent carries where rounding does. */
    if (size < 0x1p-14f) return sign | (uint16_t)rintf(ldexpf(size, 24));
    int exponent;
    frexpf(size, &exponent);
    uint32_t mantissa = (uint32_t)rintf(ldexpf(size, 11 - exponent));
    return sign | (uint16_t)(((uint32_t)(exponent + 13) << 10) + mantissa);
}

static uint32_t NOT_INLINE from_f16(uint16_t bits) {
    uint32_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                 : exponent     ? ldexpf((float)(1024 + mantissa), (int)exponent - 25)
                                : ldexpf((float)mantissa, -24);
    return as_bits(bits & 0x8000 ? -size : size);
}

/* Waits until all threads of the block are here. */
static void meet(uint32_t at, enum together what, uint32_t a, uint32_t b, uint32_t c, uint32_t mask) {
    struct thread *thread = &threads[current];
    thread->at = at, thread->what = what;
    thread->given[0] = a, thread->given[1] = b, thread->given[2] = c, thread->given[3] = mask;
    swapcontext(&thread->context, &scheduler);
}

static void meet_matrices(uint32_t at, enum together what, uint32_t row, bool is_transposed, uint32_t count,
                          const uint32_t *parts) {
    threads[current].matrices = count;
    memcpy(threads[current].parts, parts, 4 * count);
    meet(at, what, row, is_transposed, 0, UINT32_MAX);
}

static uint32_t result(int i) { return threads[current].result[i]; }

static void shuffle(struct thread *warp, uint32_t lane, bool is_bfly) {
    uint32_t b = warp[lane].given[1] & 31, c = warp[lane].given[2] & 31, segment = warp[lane].given[2] >> 8 & 31;
    uint32_t last = (lane & segment) | (c & ~segment), from = is_bfly ? lane ^ b : (lane & segment) | (b & ~segment);
    warp[lane].result[0] = warp[from <= last ? from : lane].given[0];
}

static void reduce(struct thread *warp, uint32_t lane, bool is_or) {
    uint32_t value = warp[0].given[0];
    for (int i = 1; i < 32; i++) {
        uint32_t other = warp[i].given[0];
        value = is_or ? value | other : (int32_t)other > (int32_t)value ? other : value;
    }
    warp[lane].result[0] = value;
}

/* Matrices of 8 x 8 halves. given: the address of a row, in lane 8 m + row for matrix m, and whether rows are columns.
   A lane has two neighbouring halves of each. */
static void matrix(struct thread *warp, uint32_t lane, bool is_store) {
    for (uint32_t m = 0; m < warp[lane].matrices; m++)
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t row = lane / 4, column = lane % 4 * 2 + half;
            if (warp[lane].given[1]) row = column, column = lane / 4;
            char *at = shared(warp[8 * m + row].given[0], 16, warp[lane].at) + 2 * column;
            uint16_t value = (uint16_t)(warp[lane].parts[m] >> 16 * half);
            memcpy(is_store ? (void *)at : &value, is_store ? (void *)&value : at, 2);
            warp[lane].result[m] = half ? warp[lane].result[m] | (uint32_t)value << 16 : value;
        }
}

static bool carry_out(void) {
    for (current = 0; current < THREADS; current++) {
        if (threads[current].is_done || threads[current].at != threads[0].at) {
            fail(DIVERGED, threads[0].at, 0, 0);
            return false;
        }
        if (threads[current].given[3] != UINT32_MAX) {
            fail(MASK, threads[0].at, 0, 0);
            return false;
        }
    }
    for (current = 0; current < THREADS; current++) {
        struct thread *warp = &threads[current / 32 * 32];
        uint32_t lane = current % 32;
        switch ((enum together)warp->what) {
        case BARRIER: break;
        case SHUFFLE_BFLY: shuffle(warp, lane, true); break;
        case SHUFFLE_IDX: shuffle(warp, lane, false); break;
        case REDUCE_MAX_S32: reduce(warp, lane, false); break;
        case REDUCE_OR_B32: reduce(warp, lane, true); break;
        case MATRIX_STORE: matrix(warp, lane, true); break;
        case MATRIX_LOAD: matrix(warp, lane, false); break;
        }
    }
    return true;
}

static void start(int tid) {
    kernel((uint32_t)tid);
    threads[tid].is_done = true;
}

static void run_together(void) {
    for (int i = 0; i < THREADS; i++) {
        if (!threads[i].stack) threads[i].stack = malloc(STACK);
        threads[i].is_done = false;
        getcontext(&threads[i].context);
        threads[i].context.uc_stack.ss_sp = threads[i].stack;
        threads[i].context.uc_stack.ss_size = STACK;
        threads[i].context.uc_link = &scheduler;
        makecontext(&threads[i].context, (void (*)(void))start, 1, i);
    }
    for (;;) {
        int done = 0;
        for (current = 0; current < THREADS; current++) {
            if (!threads[current].is_done) swapcontext(&scheduler, &threads[current].context);
            done += threads[current].is_done;
        }
        if (done == THREADS || !carry_out()) return;
    }
}

void launch(const uint64_t *arguments, const uint32_t *grid, const struct region *table, int count, uint32_t shared_bytes,
            struct fault *fault) {
    parameters = arguments, regions = table, region_count = count, shared_size = shared_bytes, first_fault = fault;
    memcpy(programs, grid, sizeof programs);
    for (program[2] = 0; program[2] < grid[2]; program[2]++)
        for (program[1] = 0; program[1] < grid[1]; program[1]++)
            for (program[0] = 0; program[0] < grid[0]; program[0]++) {
                memset(shared_memory, 0xa5, shared_bytes);
                for (int i = 0; i < THREADS; i++) threads[i].jumps = 0;
                if (IS_TOGETHER)
                    run_together();
                else
                    for (current = 0; current < THREADS; current++) kernel(current);
                if (fault->kind) return;
            }
}
