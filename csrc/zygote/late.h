/* What the zygote adds its mmap base to. */
#ifndef REFLECTIVE_ZYGOTE_LATE_H
#define REFLECTIVE_ZYGOTE_LATE_H

#include "../host/prepare.h"
#include "zygote.h"

/* Lists the words of a filled area that depend on the parameters in `late` (a bit each). 0, or -E2BIG. */
int list_late(const struct refl_start *start, const struct area *area, uint64_t late, struct zygote_header *header);

#endif
