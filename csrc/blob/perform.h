/* One operation, in the process that it changes; what is told of one that fails. */
#ifndef REFLECTIVE_PERFORM_H
#define REFLECTIVE_PERFORM_H

#include "../plan.h"

/* 0 or a negative errno. */
int64_t perform(const struct refl_op *op);

/* Reports the errno over the pipe, and ends the process. Without a pipe (-1) it is killed. */
void die(int64_t report_fd, const struct refl_op *op, int64_t result) __attribute__((noreturn));

#endif
