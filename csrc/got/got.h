/*
 * Watching the dynamic linker bind: breakpoints in ld.so, of which those of its resolver are handled here, without Python.
 *
 * space.c: the breakpoints and tables of an address space; step.c: the instructions they displace; resolve.c: the resolver's two;
 * guard.c: debug registers on slots; ask.c: what Python decides; detach.c: leaving no trace; loop.c: the stops. What an ELF file is, only Python knows.
 */
#ifndef REFLECTIVE_GOT_H
#define REFLECTIVE_GOT_H

#include <sys/user.h>

#include "../tracer/tasks.h"

/* Shared with src/reflective/native/got.py, as are the op, kind and step of struct refl_got_change (core.cdef.h). */
enum ask {
    ASK_EXEC = 1, /* a new program, before its first instruction */
    ASK_ATTACHED, /* a process that ran already */
    ASK_BREAK, /* at a breakpoint: args[1] its address, args[2-4] rdi, rsi, rdx */
    ASK_MAP, /* args[1] a link_map that has no table */
    ASK_EXIT, /* the last thread of a process is about to end: args[1] */
    ASK_WRITTEN, /* an instruction before ip has written to the guarded slot args[1]; all registers follow */
};
enum op { OP_BREAK = 1, OP_TABLE, OP_FORGET, OP_GUARD };
enum kind { BREAK_ASK, BREAK_ONCE, BREAK_ENTRY, BREAK_JUMP, BREAK_GONE };
enum step { STEP_SKIP, STEP_PUSH, STEP_SET, STEP_JUMP, STEP_RETURN };

/* EVENT_BIND: number relocation index, ret what the slot holds now, args link_map, caller's return address, slot, what it held
 * before, what the call goes to, rsp before the call's return address. EVENT_CLONE: args[2] 1: one address space. EVENT_REFUSED:
 * args[0] the address of a breakpoint that was not set, as there was something else, or of a slot that can't be guarded; args[1]
 * the op. */

#define DISPLACED 16
#define GUARDS 4u

struct point {
    uint64_t address, value;
    uint8_t kind, step, reg, length, original;
};

struct table {
    unsigned users;
    uint64_t link_map, count;
    uint64_t slots[];
};

/* What tasks with one memory share. */
struct space {
    unsigned users;
    size_t points, tables;
    struct point *point;
    struct table **table; /* by link_map */
    uint64_t guard[GUARDS]; /* slots, each with a debug register on it */
    unsigned guards;
};

struct pending {
    uint64_t time, sp, link_map, index, caller, slot, before;
};

/* A resolution calls an IFUNC's resolver, which binds; a signal's handler may. Deeper than this the outermost is forgotten. */
#define DEPTH 8

struct watch {
    struct space *space; /* NULL: a task of which it is not known yet who made it */
    struct pending pending[DEPTH];
    unsigned depth, armed; /* armed: how many of the space's guards this task has */
    bool held, halted, in_vfork, exiting; /* held: stopped until all are; halted: in a group stop */
    int deliver;
};

struct got {
    struct session session; /* first: Python's handle is both */
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool answer;
    struct refl_got_change *changes;
    uint64_t *words; /* their slots */
    uint64_t count;
    bool leaving;
};

static inline struct got *got_of(struct session *session)
{
    return (struct got *)(void *)session;
}

struct space *space_new(void);
struct space *space_copy(const struct space *space); /* what a fork makes */
struct space *space_share(struct space *space);
void space_leave(struct space *space);
struct point *space_point(const struct space *space, uint64_t address);
const struct table *space_table(const struct space *space, uint64_t link_map);
bool space_change(struct space *space, pid_t tid, const struct refl_got_change *change);
void space_restore(const struct space *space, pid_t tid); /* no breakpoint is left */
void point_restore(const struct point *point, pid_t tid);

/* guard.c; guard_hit is true if the trap was a guard's, and asks what is to be said of it. */
void guard_arm(struct session *session, struct task *task);
void guard_disarm(struct task *task);
void guard_spread(struct session *session, const struct task *task);
bool guard_hit(struct session *session, struct task *task);

void step_over(pid_t tid, const struct point *point, struct user_regs_struct *regs);

void resolve_entry(struct session *session, struct task *task, const struct user_regs_struct *regs);
void resolve_jump(struct session *session, struct task *task, const struct user_regs_struct *regs);

void got_tell(struct session *session, const struct task *task, struct record record);
void got_ask(struct session *session, struct task *task, enum ask why, const struct user_regs_struct *regs, uint64_t what);

void got_run(struct session *session);
void got_hold(struct session *session, struct task *task, int deliver);
void got_leave_if_all_held(struct session *session);

#endif
