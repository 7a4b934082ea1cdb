#ifndef REFLECTIVE_STAMPS_H
#define REFLECTIVE_STAMPS_H

#include <stdint.h>

/* 1 if refl_stamps would say the same of these paths now. */
int same_stamps(const char *paths, uint64_t size, const uint64_t *stamps);

#endif
