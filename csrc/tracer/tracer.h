/* A ptrace session (session.c): the loop (loop.c), what it copies (copy.c), the phases of a start (marks.c), how records get out (buffer.c). */
#ifndef REFLECTIVE_TRACER_H
#define REFLECTIVE_TRACER_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "../core.cdef.h"

/* Shared with src/reflective/native/tracer.py. */
enum event_kind {
    EVENT_SYSCALL = 1, /* entered and returned, nothing else happened meanwhile */
    EVENT_ENTER, /* entered; something else happens before it returns */
    EVENT_LEAVE, /* returned; arguments as entered */
    EVENT_EXITING, /* the task ends inside this call */
    EVENT_SIGNAL, /* args[0] signal; payload siginfo */
    EVENT_STOPPED, /* args[0] signal: group stop */
    EVENT_EXITED, /* ret: exit status */
    EVENT_KILLED, /* args[0] signal, args[1] core dumped */
    EVENT_TASK, /* a task appears: args[0] the process that made its process */
    EVENT_CLONE, /* args[0] new task, args[1] PTRACE_EVENT_FORK, VFORK or CLONE */
    EVENT_EXEC, /* args[0] the task it was before */
    EVENT_MAPS, /* payloads: /proc/PID/maps, auxv, environ */
    EVENT_MARK, /* args[0] enum mark, args[1] address */
    EVENT_DETACHED, /* args[0] 1: inside a call */
    EVENT_BIND, /* csrc/got/got.h has these and their arguments */
    EVENT_ASK,
    EVENT_REFUSED,
};

enum mark { MARK_LOAD, MARK_ENTRY, MARK_MAIN, MARK_RETURN, MARK_JUMP };

/* Head of a record; payloads follow. What comes after `left` is equal for equal calls, and serves Python as a cache key. */
struct record {
    uint32_t size; /* of the whole record, a multiple of 8 */
    uint32_t kind;
    uint64_t entered; /* CLOCK_MONOTONIC, ns */
    uint64_t left;
    uint32_t pid;
    uint32_t tid;
    uint32_t number;
    uint32_t flags;
    uint64_t ip;
    int64_t ret;
    uint64_t args[6];
};
_Static_assert(sizeof(struct record) == 104, "tracer.py unpacks 104 bytes");

/* ret is -errno; not the x86-64 interface; entry told; never to be told more of; told because nothing else happens */
enum record_flag { FLAG_ERROR = 1, FLAG_FOREIGN = 2, FLAG_TOLD = 4, FLAG_LAST = 8, FLAG_WAITING = 16 };

/* Head of a payload; its bytes follow, padded to 8. */
struct payload {
    uint8_t arg;
    uint8_t when;
    uint8_t kind;
    uint8_t flags;
    uint32_t length;
    uint64_t address;
};
_Static_assert(sizeof(struct payload) == 16, "tracer.py unpacks 16 bytes");

enum payload_flag { PAYLOAD_FAULT = 1, PAYLOAD_NUL = 2, PAYLOAD_CUT = 4 };
enum copy_kind {
    COPY_STRING = 1,
    COPY_BYTES,
    COPY_VECTOR,
    COPY_COUNT,
    COPY_IOVEC,
    COPY_FD,
    COPY_STACK,
    COPY_FRAMES,
    COPY_MESSAGE,
    COPY_MESSAGES,
    COPY_BEHIND,
    COPY_FDS,
    COPY_REGISTERS,
};

#define COPIES 16 /* rows of the table for each call */
#define RECORD_MOST (2u << 20)
#define BUFFER_SIZE (8u << 20)

/* Two buffers: the loop fills one while Python reads the other. */
struct buffer {
    pthread_mutex_t lock;
    pthread_cond_t filled, drained;
    uint8_t *bytes[2];
    size_t used, enough;
    int filling;
    bool ended, urgent; /* urgent: somebody waits for Python to have read this */
};

struct task {
    struct task *next;
    pid_t tid, pid, parent;
    int loading; /* 1: our own loader is at work, 2: the last call but one has been made */
    bool in_call, flushed, hidden, stepping;
    uint64_t sp; /* at the entry of the call under way */
    int mark; /* the next one to come, 0: none */
    uint64_t mark_at;
    unsigned steps;
    cpu_set_t affinity; /* what it was before it was pinned */
    bool pinned;
    size_t used, size; /* of the record being built */
    uint8_t *bytes;
    struct watch *watch; /* csrc/got/got.h */
};

#define TASK_BUCKETS 256

struct session {
    struct refl_trace_options options;
    struct buffer buffer;
    pthread_t thread;
    void (*run)(struct session *session); /* until no task is left */
    unsigned resume; /* the request that lets a task go on */
    unsigned long seize_options; /* PTRACE_O_*, besides those that every session has */
    struct sigaction child; /* of SIGCHLD, before */
    int cpu;
    volatile int stop, quiet; /* quiet: nothing has happened for a while */
    int error, leader_status;
    pid_t refused;
    cpu_set_t affinity; /* of the tasks, before they were pinned */
    struct task *open; /* whose call is entered, and not yet told */
    struct task *tasks[TASK_BUCKETS];
    size_t task_count;
};

uint64_t tracer_now(void); /* CLOCK_MONOTONIC, ns */

int buffer_create(struct buffer *buffer);
void buffer_destroy(struct buffer *buffer);
void buffer_append(struct buffer *buffer, const uint8_t *bytes, size_t size);
void buffer_end(struct buffer *buffer);
void buffer_hurry(struct buffer *buffer);

/* Adds to the record that the task builds; false: no memory, or larger than RECORD_MOST. */
bool payload_add(struct task *task, const struct payload *head, const void *bytes);
void copy_arguments(const struct session *session, struct task *task, int when);
void copy_file(struct task *task, const char *name);
size_t read_memory(pid_t tid, uint64_t address, void *out, size_t size);
bool in_file_mapping(pid_t pid, uint64_t address);

/* marks.c: each is told what happened; mark_trap returns true if the trap was ours. */
void mark_exec(struct task *task);
void mark_none(struct task *task);

/* A set debug register costs every switch 0.5 us: after so many calls main's return is no longer waited for. */
#define CALLS_BEFORE_RETURN 10000u
bool mark_trap(struct task *task, struct record *mark);

/* session.c: with run, resume and seize_options set. False: it could not be made, and is freed. */
bool session_start(struct session *session, const struct refl_trace_options *options);
#define SEIZE_FOLLOWED (PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE)

/* loop.c: until no task is left; a task whose calls are recorded from now on. */
void session_run(struct session *session);
void session_show(struct session *session, struct task *task);

static inline struct record *record_of(struct task *task)
{
    return (struct record *)(void *)task->bytes;
}

#endif
