/*
 * The caller's state at the moment of a call, for processes that are born of another one than the caller: a clone of a server
 * (a template, say) has the server's state, and shall have the caller's.
 *
 * Three groups. What changes often is carried: `struct refl_carried`, read in the caller, set in the clone. What changes
 * seldom, or can't be set from outside, must be the same as when the server was born of the caller: `struct refl_identity`,
 * never sent; if it differs, the server is started again, and has it all by inheritance. Descriptors and the directory are
 * passed as descriptors (SCM_RIGHTS), each to the number that it has in the caller.
 *
 * What can be neither read nor set is an error: the caller starts the program without the server then.
 */
#ifndef REFLECTIVE_STATE_OF_CALLER_H
#define REFLECTIVE_STATE_OF_CALLER_H

#include <stdint.h>

#define REFL_LIMITS 16u         /* RLIM_NLIMITS */
#define REFL_CPU_WORDS 16u      /* 1024 CPUs; a machine with more is an error */
#define REFL_OPEN_MOST 256u
#define REFL_IDENTITY_MOST 8128u

/*
 * Compared as bytes. User, group, saved and file system IDs, supplementary groups; the five capability sets, securebits,
 * no_new_privs; seccomp mode and number of filters; namespaces; cgroups; session, controlling terminal; root directory;
 * personality, timer slack, memory policy and allowed nodes, core scheduling, TSC and machine-check settings; out-of-memory
 * score, core dump filter, huge pages, memory merging, MDWE; security label; session keyring.
 */
struct refl_identity {
    uint64_t size;
    char text[REFL_IDENTITY_MOST];
};

/* Plain numbers: may be sent, or lie in shared memory. */
struct refl_carried {
    uint64_t limits[REFL_LIMITS][2]; /* soft, hard */
    uint64_t sched[7];               /* struct sched_attr: policy, nice, priority, deadline, utilisation clamps */
    uint64_t cpus[REFL_CPU_WORDS];
    uint64_t ignored; /* bit signal - 1 */
    uint64_t blocked; /* the calling thread's mask; set by the final frame, not by refl_adopt */
    uint32_t umask;
    int32_t group; /* process group */
    int32_t io_priority;
    uint32_t pad;
};
_Static_assert(sizeof(struct refl_carried) == 16 * 16 + 7 * 8 + 16 * 8 + 16 + 16, "no holes: it is compared as bytes");

/*
 * Where the caller's state is read from, for who reads it often: descriptors of /proc/thread-self, which stay those of the
 * thread that has opened them, and its controlling terminal, which changes only for the leader of a session.
 */
struct refl_kept {
    int32_t thread; /* whose they are; 0: none */
    int32_t self, status, stat;
    int32_t files[5];
    int32_t namespaces[8];
    int64_t terminal;
    int32_t open; /* the directory fd, whose size is how many descriptors are open (Linux 6.2), */
    uint32_t open_count, own_count; /* and those that were found open the last time; own: of the above. host/inheritable.c */
    int32_t open_fds[REFL_OPEN_MOST];
    int32_t load;       /* /proc/loadavg, to know whether others use this machine: host/place.c; -errno if there is none */
    int32_t processors; /* of the machine */
};

/* In the caller (read.c). All return 0 (or a count), or -errno: then something can't be told. */

/* Of the calling thread. About 30 µs. */
int refl_read_state(struct refl_identity *identity, struct refl_carried *carried);

/* The same with descriptors that stay open: opened by refl_keep, closed by refl_drop. About a third of the time. */
int refl_keep(struct refl_kept *kept);
void refl_drop(struct refl_kept *kept);
int refl_read_kept(const struct refl_kept *kept, struct refl_identity *identity, struct refl_carried *carried);

/* 1 if a server born under `born` can serve a caller who is `now`. */
int refl_same_identity(const struct refl_identity *born, const struct refl_identity *now);

/* In the clone (adopt.c): freestanding. Zero, or a negative errno; the caller then starts the program without the server. */

/* From the state that the server was born with to the caller's. Only what differs is set. */
int64_t refl_adopt(const struct refl_carried *born, const struct refl_carried *now);

#endif
