/* The tasks of a session. */
#ifndef REFLECTIVE_TASKS_H
#define REFLECTIVE_TASKS_H

#include "tracer.h"

struct task *task_find(struct session *session, pid_t tid);
struct task *task_add(struct session *session, pid_t tid); /* NULL: no memory */
void task_remove(struct session *session, struct task *task);
struct task *task_executed(struct session *session, struct task *task, pid_t former); /* who `task` is after its execve */
bool task_stops(pid_t tid, int *status); /* waits for that; false: it has ended */
void tasks_interrupt(const struct session *session);
void task_pin(struct session *session, struct task *task);
void task_unpin(const struct session *session, const struct task *task);
void watch_free(struct watch *watch); /* csrc/got/loop.c */

#endif
