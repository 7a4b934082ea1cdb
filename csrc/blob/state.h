/* What is a loop rather than one system call. Zero, or a negative errno. */
#ifndef REFLECTIVE_STATE_H
#define REFLECTIVE_STATE_H

#include <stdint.h>

int64_t reset_signals(uint64_t to_default);
int64_t close_on_exec(const uint64_t keep[3]);

#endif
