/* Names the classes of a picture with an integer network, on nothing but the C library.
 *
 *   cc classify.c -I INCLUDE -L LIB -ladderkit -lm -o classify
 *   ./classify net.adk picture.ppm
 *
 * The picture is a binary PPM (P6) or PGM (P5) of 8 bits and of the size that the network was made for;
 * others are brought there by, say, ImageMagick: convert photo.jpg -resize 32x32^ -gravity center -extent
 * 32x32 picture.ppm */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "adderkit.h"

/* The next number of a PPM's header, which blanks and comments may precede; -1 where there is none. */
static long next_number(FILE* file) {
  int c = getc(file);
  while (isspace(c) || c == '#') {
    if (c == '#')
      while (c != '\n' && c != EOF) c = getc(file);
    c = getc(file);
  }
  long number = isdigit(c) ? 0 : -1;
  for (; isdigit(c) && number < 1000000; c = getc(file)) number = 10 * number + (c - '0');
  return isspace(c) ? number : -1; /* one blank ends it, before the pixels too */
}

/* Reads a picture of height x width x channels into `pixels`; a grey one serves a network that wants colours.
 * Returns what is wrong, or NULL. */
static const char* read_picture(const char* path, const int64_t shape[4], uint8_t* pixels) {
  FILE* const file = fopen(path, "rb");
  if (file == NULL) return "can't be opened";
  const char* problem = NULL;
  const int letter = getc(file), kind = getc(file);
  const long width = next_number(file), height = next_number(file), most = next_number(file);
  const int64_t channels = kind == '6' ? 3 : 1;
  if (letter != 'P' || (kind != '5' && kind != '6') || most < 1) {
    problem = "is no binary PPM (P6) or PGM (P5)";
  } else if (most != 255) {
    problem = "must have values up to 255";
  } else if (height != shape[0] || width != shape[1]) {
    problem = "has another size than the network's images";
  } else if (channels != 1 && channels != shape[2]) {
    problem = "has another number of channels than the network's images";
  } else {
    for (int64_t pixel = 0; pixel < shape[0] * shape[1] && problem == NULL; ++pixel)
      for (int64_t c = 0; c < shape[2]; ++c) {
        const int value = c < channels ? getc(file) : pixels[pixel * shape[2]];
        if (value == EOF) problem = "is cut short";
        pixels[pixel * shape[2] + c] = (uint8_t)value;
      }
  }
  fclose(file);
  return problem;
}

/* A name from a file, which must not control the terminal. */
static void print_name(const char* name) {
  for (; *name != '\0'; ++name) putchar((unsigned char)*name < 0x20 || *name == 0x7f ? '?' : *name);
  putchar('\n');
}

int main(int count, char** arguments) {
  if (count != 3) {
    fprintf(stderr, "usage: %s NET.adk PICTURE.ppm\n", arguments[0]);
    return 2;
  }
  adderkit_net* net = NULL;
  if (adderkit_net_load(arguments[1], &net) != ADDERKIT_OK) {
    fprintf(stderr, "%s\n", adderkit_error());
    return 2;
  }
  int64_t shape[4]; /* height, width, channels, classes */
  adderkit_net_shape(net, shape);
  uint8_t* const pixels = malloc((size_t)(shape[0] * shape[1] * shape[2]));
  float* const logits = malloc((size_t)shape[3] * sizeof(float));
  const char* problem = pixels == NULL || logits == NULL ? "not enough memory" : NULL;
  if (problem == NULL) problem = read_picture(arguments[2], shape, pixels);
  if (problem != NULL) {
    fprintf(stderr, "%s %s (%dx%dx%d)\n", arguments[2], problem, (int)shape[0], (int)shape[1], (int)shape[2]);
  } else if (adderkit_net_run(net, pixels, 1, logits, 0) != ADDERKIT_OK) {
    problem = adderkit_error();
    fprintf(stderr, "%s\n", problem);
  } else {
    int64_t best = 0;
    double sum = 0;
    for (int64_t k = 1; k < shape[3]; ++k)
      if (logits[k] > logits[best]) best = k;
    const double largest = logits[best];
    for (int64_t k = 0; k < shape[3]; ++k) sum += exp(logits[k] - largest);
    for (int place = 0; place < 5 && place < shape[3]; ++place) { /* the best five, one after the other */
      best = 0;
      for (int64_t k = 1; k < shape[3]; ++k)
        if (logits[k] > logits[best]) best = k;
      printf("%6.2f %%  ", 100 * exp(logits[best] - largest) / sum);
      print_name(adderkit_net_class(net, best));
      logits[best] = -INFINITY;
    }
  }
  free(pixels);
  free(logits);
  adderkit_net_free(net);
  return problem == NULL ? 0 : 2;
}
