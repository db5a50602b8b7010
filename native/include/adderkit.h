/* adderkit: adder kernels and integer networks behind a C ABI. No dependency on Python or torch.
 *
 * Every function that can fail returns an adderkit_status; adderkit_error() then holds a sentence for the
 * calling thread. All functions may be called from several threads at once. */
#ifndef ADDERKIT_H
#define ADDERKIT_H

#include <stdint.h>

#if defined(_WIN32)
#define ADDERKIT_API __declspec(dllexport)
#else
#define ADDERKIT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a structure or a signature below changes. */
#define ADDERKIT_ABI_VERSION 3

typedef enum adderkit_status {
  ADDERKIT_OK = 0,
  ADDERKIT_INVALID_ARGUMENT = 1,
  ADDERKIT_OUT_OF_MEMORY = 2,
  ADDERKIT_UNKNOWN_ISA = 3,
  ADDERKIT_INVALID_FILE = 4 /* can't be read, or holds no network that this library runs */
} adderkit_status;

/* Sizes of a two-dimensional layer and the element strides of its tensors, each in the order of its axes.
 * Strides may be anything that stays inside the caller's memory (views, broadcasts); what is written must not
 * overlap itself. */
typedef struct adderkit_conv2d_shape {
  int64_t batch, channels, height, width;            /* input (N, C_in, H, W) */
  int64_t out_channels, kernel_height, kernel_width; /* weight (C_out, C_in/groups, K_h, K_w) */
  int64_t stride[2], padding[2], dilation[2];        /* vertical, horizontal */
  int64_t groups;
  int64_t input_stride[4], weight_stride[4], output_stride[4]; /* output (N, C_out, H_out, W_out) */
} adderkit_conv2d_shape;

ADDERKIT_API int32_t adderkit_abi_version(void);

/* The sentence that belongs to the last failure in this thread; never NULL. */
ADDERKIT_API const char* adderkit_error(void);

/* output = -sum |input - weight| over each patch; a padded tap is input = 0. threads 0 means all cores. */
ADDERKIT_API int32_t adderkit_adder2d_f32(const adderkit_conv2d_shape* shape, const float* input,
                                          const float* weight, float* output, int32_t threads);

/* grad_input = sum grad_output * clamp(weight - input, -1, 1). shape->output_stride is grad_output's;
 * grad_input_stride has the four element strides of grad_input. */
ADDERKIT_API int32_t adderkit_adder2d_input_grad_f32(const adderkit_conv2d_shape* shape,
                                                     const float* grad_output, const float* input,
                                                     const float* weight, float* grad_input,
                                                     const int64_t* grad_input_stride, int32_t threads);

/* Instruction sets, best first. `reason` is "" where the path runs here, else why it does not. */
ADDERKIT_API int32_t adderkit_isa_count(void);
ADDERKIT_API const char* adderkit_isa_name(int32_t index);
ADDERKIT_API const char* adderkit_isa_reason(int32_t index);

/* Index of the path that calls take, or -1 where ADDERKIT_ISA names none that runs here. */
ADDERKIT_API int32_t adderkit_isa_active(void);

/* Forces a path for the whole process; NULL returns to ADDERKIT_ISA or, without it, to the best. */
ADDERKIT_API int32_t adderkit_isa_force(const char* name);

/* Operations that adderkit_peak() can time, each as the kernels are made of it. */
typedef enum adderkit_peak_kind {
  ADDERKIT_PEAK_MULTIPLY_ADD = 0,    /* sum += x * f: a convolution */
  ADDERKIT_PEAK_ADDER = 1,           /* sum -= 2 * max(x, f): the forward pass */
  ADDERKIT_PEAK_ADDER_INPUT_GRAD = 2 /* sum += g * clamp(f - x, -1, 1) */
} adderkit_peak_kind;

/* How many of these a second the active path does at most, on all threads together, with operands in
 * registers. Takes about 0.1 s. threads 0 means all cores. */
ADDERKIT_API int32_t adderkit_peak(int32_t kind, int32_t threads, double* operations_per_second);

/* "libgomp" where calls run on a libgomp that the process has loaded, else "own pool". A process
 * forked after this library was loaded runs on a pool of its own: libgomp hangs there. */
ADDERKIT_API const char* adderkit_thread_pool(void);

/* Integer networks: a file, as `adderkit quantize` writes it, and nothing else (docs/runtime.md).
 *
 * A network never changes once it is loaded: any number of threads may use one at the same time, until one of
 * them frees it. What the functions below point to belongs to the network and lives as long as it does; texts
 * are UTF-8. Results are the same bits whatever the number of threads and the instruction set. A forked
 * process may go on with a network of its parent's, unless another thread ran one at the moment of the
 * fork: a lock that it held stays held in the child, where a call may then wait for ever. */
typedef struct adderkit_net adderkit_net;

/* Types of numbers. */
typedef enum adderkit_dtype {
  ADDERKIT_U8 = 0,
  ADDERKIT_I8 = 1,
  ADDERKIT_U16 = 2,
  ADDERKIT_I32 = 3,
  ADDERKIT_I64 = 4
} adderkit_dtype;

/* Reads and checks a file; *net is then the caller's to free, or NULL where the status is not ADDERKIT_OK:
 * ADDERKIT_INVALID_FILE with a sentence that names the file and what is wrong with it, or
 * ADDERKIT_OUT_OF_MEMORY. The file is closed again. */
ADDERKIT_API int32_t adderkit_net_load(const char* path, adderkit_net** net);

/* The same with the content of a file. `bytes` are not needed afterwards. */
ADDERKIT_API int32_t adderkit_net_parse(const void* bytes, int64_t size, adderkit_net** net);

/* NULL is allowed. */
ADDERKIT_API void adderkit_net_free(adderkit_net* net);

/* shape: height, width and channels of its images, number of its classes. */
ADDERKIT_API int32_t adderkit_net_shape(const adderkit_net* net, int64_t shape[4]);

/* The JSON text that describes the network in its file. */
ADDERKIT_API const char* adderkit_net_header(const adderkit_net* net);

/* Name of a class, from 0; "" beyond the last. */
ADDERKIT_API const char* adderkit_net_class(const adderkit_net* net, int64_t index);

/* Logits (count, classes) of images (count, height, width, channels), decoded and not normalised: red, green,
 * blue, or grey, from 0 to 255. `count` 0 is allowed. threads 0 means all cores. */
ADDERKIT_API int32_t adderkit_net_run(const adderkit_net* net, const uint8_t* images, int64_t count,
                                      float* logits, int32_t threads);

ADDERKIT_API int32_t adderkit_net_layer_count(const adderkit_net* net);

/* What a layer makes of one image: *dtype is an adderkit_dtype (ADDERKIT_U8; of an average pool ADDERKIT_U16,
 * of the classifier ADDERKIT_I32), shape is height, width, channels. Layers count from 0. */
ADDERKIT_API int32_t adderkit_net_layer_shape(const adderkit_net* net, int32_t layer, int32_t* dtype,
                                              int64_t shape[3]);

/* Runs one image (height, width, channels) up to a layer and copies its output, `bytes` large as
 * adderkit_net_layer_shape() says. */
ADDERKIT_API int32_t adderkit_net_layer_output(const adderkit_net* net, const uint8_t* image, int32_t layer,
                                               void* output, int64_t bytes);

/* One of the file's arrays: "LAYER.weight", "LAYER.pad", "LAYER.multiplier" or "LAYER.offset". *rank of the
 * four numbers in shape count. */
ADDERKIT_API int32_t adderkit_net_array(const adderkit_net* net, const char* name, const void** data,
                                        int32_t* dtype, int64_t shape[4], int32_t* rank);

#ifdef __cplusplus
}
#endif
#endif
