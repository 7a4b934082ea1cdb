/*
 * What the host and a template share: where things lie in the template's area, and what one start consists of.
 *
 * A template is a process whose dynamic linker has done its work and which then waits for requests. Its area, all that it has
 * beside the program, lies in one piece: code, its own data and stack, and the memory that it shares with the host.
 */
#ifndef REFLECTIVE_TEMPLATE_H
#define REFLECTIVE_TEMPLATE_H

#include <stdint.h>

#include "../zygote/state.h"

#define TEMPLATE_CODE 8192u  /* read and execute */
#define TEMPLATE_DATA 16384u /* the template's alone, no clone has it: the job, and above it the stack */
#define TEMPLATE_SLOT 32768u /* shared: the facts, then a slot for each request that can be under way */
#define TEMPLATE_FDS 48u     /* descriptors of one start */
#define TEMPLATE_AUXV 1024u  /* bytes */
#define TEMPLATE_SOCKET 63   /* in template and waiting clone; nothing else is open there */
#define TEMPLATE_CALLS 1200u /* of madvise, in one slot */

/* struct prctl_mm_map (linux/prctl.h) */
struct template_mm {
    uint64_t start_code, end_code, start_data, end_data, start_brk, brk;
    uint64_t start_stack, arg_start, arg_end, env_start, env_end;
    uint64_t auxv;
    uint32_t auxv_size, exe_fd;
};
_Static_assert(sizeof(struct template_mm) == 104, "the kernel's layout");

/* What the template knows, and each clone: the first are given by native/template_make.py, the rest it finds out itself. */
struct template_job {
    uint64_t dl_start; /* ld.so's _dl_start */
    uint64_t resume; /* the instruction behind `mov %rax,%r12`: ld.so's entry + 11 */
    uint64_t gadget; /* the vdso's last system call */
    uint64_t area, area_size;
    uint64_t shared; /* facts, then slots */
    uint64_t slots; /* how many */
    uint64_t dl_argv; /* in ld.so, read-only once it has relocated itself: _dl_argv and __libc_stack_end, */
    uint64_t stack_end; /* and _rtld_global_ro, where one word is the address of auxv */
    uint64_t global, global_size;
    uint64_t relro, relro_size; /* the pages that they are in */
    uint64_t parent; /* from here on found out: whose death ends it */
    uint64_t user_entry;
    uint64_t dl_auxv;
    uint64_t stack_low; /* start of the stack's mapping */
    uint64_t stack_end_below; /* how far __libc_stack_end lies below the stack pointer */
    uint64_t tid_address;
    uint64_t robust_list, robust_size;
    uint64_t random; /* AT_RANDOM's bytes, on the program's stack */
    struct refl_carried born; /* the host's state, that this process has by birth */
    uint64_t cpus[REFL_CPU_WORDS]; /* processors that clones shall have */
    uint64_t processors;           /* how many the host may run on */
    uint32_t place;                /* enum template_place: where this process, and each clone at first, may run */
    uint32_t cpu;
    uint64_t orders, patience; /* how many came since that was right, and how many may */
};

/* A call of madvise. */
struct template_call {
    uint64_t start, size, advice;
};

/* A directory; its mount is not another's as long as somebody is in it. */
struct template_directory {
    uint64_t major, minor, inode, mount;
};

/* The first slot: what the host needs to know of the template. */
struct template_facts {
    uint64_t random; /* addresses on the program's stack */
    uint64_t execfn;
    uint64_t heap; /* where the heap ends */
    uint64_t spoke; /* bytes that the dynamic linker wrote */
    uint64_t complete; /* 1: all was found that a clone needs */
    uint64_t auxv_size; /* of the auxiliary vector, AT_NULL included */
    uint64_t auxv[TEMPLATE_AUXV / 8];
    struct template_directory directory; /* in which the template is */
    struct refl_carried born; /* given by the host: the state that the template has of it */
    uint64_t sp, auxv_at; /* the last start's, and likely the next one's: where argc and auxv are */
    int32_t last; /* the host's (host/place.c): the start before this one, */
    uint32_t place; /* enum template_place, as below, */
    uint32_t crowded; /* and how often it saw a reason */
    uint32_t starts;
    uint64_t version; /* of the calls: odd while the host changes them */
    uint64_t call_count; /* given by the host: what waiting clones populate ahead */
    struct template_call calls[TEMPLATE_CALLS];
};

_Static_assert(sizeof(struct template_facts) <= TEMPLATE_SLOT, "fits");

/*
 * One start. Behind it in the slot: the vectors (argc, argv, envp, auxv), then the strings, then files.
 *
 * The order is sent while the host still finds out whether this template may serve the start: `word` says so in the end.
 */
struct template_request {
    uint32_t busy; /* enum template_busy: who still needs the slot; set by the host before it sends the order */
    uint32_t word; /* enum template_word: 0 until the host has decided */
    uint32_t waits; /* the clone sets it to 1 before it sleeps until word changes */
    int32_t pid; /* of the clone: set by the kernel before it runs, whatever becomes of the template; or -errno */
    uint32_t asked; /* enum template_asked: whether the host waits for a message that there is one */
    uint32_t cpu; /* on which the host decides */
    uint32_t place;   /* enum template_place: where the clone is best made */
    uint32_t checked; /* enum template_checked: whether the files that the clone has looked at are what they were, */
    uint32_t taken;   /* and how many that, and the host, have begun to look at */
    uint32_t fd_count;
    uint32_t new_session;
    int32_t
        targets[TEMPLATE_FDS]; /* ascending: the numbers that the descriptors sent along shall have; DIRECTORY may be last */
    uint64_t sp, vectors_size, auxv;
    uint64_t strings, strings_size;
    uint64_t stamps, paths; /* where in the slot the files are that must be the same (host/stamps.h); stamps 0: not there */
    uint64_t paths_size;
    uint64_t stack_low; /* where the stack's mapping shall start, if that is lower than the template's */
    uint8_t random[16];
    struct template_mm mm;
    struct template_job job; /* given by the template, so that a clone looks at no more pages than it must */
    struct refl_carried now; /* and all of this is written before word */
};
_Static_assert(sizeof(struct template_request) <= 2560, "leaves the slot to vectors and strings");
#define TEMPLATE_ROOM (TEMPLATE_SLOT - sizeof(struct template_request))

/* A slot with calls that the template itself makes. */
struct template_advice {
    uint32_t busy; /* as in a request: OF_TEMPLATE */
    uint32_t count;
    struct template_call calls[TEMPLATE_CALLS];
};
_Static_assert(sizeof(struct template_advice) <= TEMPLATE_SLOT, "fits");

#define TEMPLATE_DIRECTORY 0x7fffffff /* a target: this descriptor is the directory to go to */

/* Anywhere that the host may run; on its own processor, where none is idle; on any other. The last two while starts come one by one. */
enum template_place { ANYWHERE, NEAR, FAR };
enum template_busy { OF_CLONE = 1, OF_TEMPLATE = 2 };
enum template_asked { NOT_ASKED, ASKED, ANSWERED }; /* left once, to either: the other side sees that it is late */
enum template_checked { NOT_CHECKED, BY_CLONE, SAME, DIFFERENT };
enum template_word { TEMPLATE_UNDECIDED, TEMPLATE_GO, TEMPLATE_CANCEL };
enum template_order { TEMPLATE_START = 1, TEMPLATE_WAIT = 2, TEMPLATE_ADVISE = 3 /* is not answered */ };

/* What goes over the socket, with the descriptors. */
struct template_message {
    uint32_t order; /* enum template_order */
    uint32_t slot;
};

#endif
