/*
 * fuzz.h - what every fuzz target includes last: it defines LLVMFuzzerTestOneInput, which aborts where something is
 * wrong.
 *
 * Built as it is, a program runs the files of the folders that it is given and a fixed number of mutations of them, the
 * same ones every time. With clang, -fsanitize=fuzzer and -DPYPROC_LIBFUZZER it is a libFuzzer program.
 */
#ifndef PYPROC_FUZZ_H
#define PYPROC_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      abort(); \
    } \
  } while (0)

#ifndef PYPROC_LIBFUZZER

#include <dirent.h>

enum { FUZZ_SEEDS_MAX = 256, FUZZ_SIZE_MAX = 4096, FUZZ_MUTATIONS = 100000 };

typedef struct fuzz_seed {
  uint8_t *data;
  size_t size;
} fuzz_seed;

static fuzz_seed fuzz_seeds[FUZZ_SEEDS_MAX];
static size_t fuzz_seed_count;
static uint64_t fuzz_state = UINT64_C(0x9e3779b97f4a7c15);

static size_t fuzz_random(size_t below) {
  fuzz_state ^= fuzz_state << 13;
  fuzz_state ^= fuzz_state >> 7;
  fuzz_state ^= fuzz_state << 17;
  return (size_t)(fuzz_state >> 11) % below;
}

/* Runs one input in memory of exactly its size, so that a sanitizer sees what is read beyond it. */
static void fuzz_run(const uint8_t *data, size_t size) {
  uint8_t *exact = malloc(size > 0 ? size : 1);
  FUZZ_CHECK(exact != NULL);
  if (size > 0) memcpy(exact, data, size);
  LLVMFuzzerTestOneInput(exact, size);
  free(exact);
}

static void fuzz_load(const char *folder) {
  struct dirent **names = NULL;
  int count = scandir(folder, &names, NULL, alphasort); /* in the same order everywhere */
  FUZZ_CHECK(count >= 0);
  for (int i = 0; i < count; i++) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
    FILE *file = names[i]->d_name[0] == '.' ? NULL : fopen(path, "rb");
    if (file != NULL && fuzz_seed_count < FUZZ_SEEDS_MAX) {
      fuzz_seed *seed = &fuzz_seeds[fuzz_seed_count++];
      seed->data = malloc(FUZZ_SIZE_MAX);
      FUZZ_CHECK(seed->data != NULL);
      seed->size = fread(seed->data, 1, FUZZ_SIZE_MAX, file);
    }
    if (file != NULL) fclose(file);
    free(names[i]);
  }
  free(names);
}

/* Changes `size` bytes in one of a few ways. Returns the new size. */
static size_t fuzz_mutate(uint8_t *data, size_t size) {
  static const char telling[] = "{}[]\",:\\u0e-.tfn\x08\x0a\x12\x1a\x7f\x80\xff";
  size_t at = size == 0 ? 0 : fuzz_random(size);
  size_t count = size == at ? 0 : fuzz_random(size - at < 32 ? size - at + 1 : 33);
  const fuzz_seed *other = &fuzz_seeds[fuzz_random(fuzz_seed_count)];
  switch (fuzz_random(7)) {
  case 0: /* flips a bit */
    if (size > 0) data[at] ^= (uint8_t)(1u << fuzz_random(8));
    return size;
  case 1: /* another byte */
    if (size > 0) data[at] = (uint8_t)fuzz_random(256);
    return size;
  case 2: /* cuts the end off */
    return at;
  case 3: /* takes a piece out */
    memmove(data + at, data + at + count, size - at - count);
    return size - count;
  case 4: /* doubles a piece */
    if (size + count > FUZZ_SIZE_MAX) return size;
    memmove(data + at + count, data + at, size - at);
    return size + count;
  case 5: /* puts a byte in that means something */
    if (size + 1 > FUZZ_SIZE_MAX) return size;
    memmove(data + at + 1, data + at, size - at);
    data[at] = (uint8_t)telling[fuzz_random(sizeof telling)];
    return size + 1;
  default: /* a piece of another seed */
    if (other->size == 0) return size;
    at = fuzz_random(other->size);
    count = fuzz_random(other->size - at) + 1;
    if (size + count > FUZZ_SIZE_MAX) return size;
    memcpy(data + size, other->data + at, count);
    return size + count;
  }
}

int main(int argc, char **argv) {
  static uint8_t data[FUZZ_SIZE_MAX];
  for (int i = 1; i < argc; i++) fuzz_load(argv[i]);
  FUZZ_CHECK(fuzz_seed_count > 0);
  for (size_t i = 0; i < fuzz_seed_count; i++) fuzz_run(fuzz_seeds[i].data, fuzz_seeds[i].size);
  for (size_t i = 0; i < FUZZ_MUTATIONS; i++) {
    const fuzz_seed *seed = &fuzz_seeds[i % fuzz_seed_count];
    size_t size = seed->size;
    memcpy(data, seed->data, size);
    for (size_t changes = fuzz_random(4) + 1; changes > 0; changes--) size = fuzz_mutate(data, size);
    fuzz_run(data, size);
  }
  printf("ok %d mutations of %zu seeds\n", FUZZ_MUTATIONS, fuzz_seed_count);
  for (size_t i = 0; i < fuzz_seed_count; i++) free(fuzz_seeds[i].data);
  return 0;
}

#endif
#endif
