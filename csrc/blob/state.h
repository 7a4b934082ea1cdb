/* What is a loop rather than one system call. Zero, or a negative errno. */
#ifndef REFLECTIVE_STATE_H
#define REFLECTIVE_STATE_H

#include <stdint.h>

int64_t reset_signals(uint64_t to_default);
/* own: the loader's descriptors: executable, interpreter, report pipe, binary. */
int64_t close_on_exec(const uint64_t own[4]);
int64_t choose_descriptor(const uint64_t own[4], uint64_t *chosen);
int64_t hand_over(const uint64_t own[4], uint64_t chosen);

#endif
