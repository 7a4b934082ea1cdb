#ifndef REFLECTIVE_STAMPS_H
#define REFLECTIVE_STAMPS_H

#include <stdint.h>

/* What stat says of each path (NUL-terminated strings of `size` bytes in all): 6 numbers, all 0 if it fails. How many paths. */
uint64_t refl_stamps(const char *paths, uint64_t size, uint64_t *out);

/* 1 if that is the same now, of all paths that are left: *taken, 0 at first, are others' who look at the same time. */
int refl_same_stamps(const char *paths, uint64_t size, const uint64_t *stamps, uint32_t *taken);

#endif
