/* What the kernel answers about this process when it is asked by system call. */
#ifndef WITNESS_SEE_KERNEL_H
#define WITNESS_SEE_KERNEL_H

#include "json.h"

enum { SIGNALS = 64, LIMITS = 16, TLS_FIRST = 12, TLS_LAST = 14, RSEQ_SIGNATURE = 0x53053053 };

static inline void see_signals(void)
{
    uint64_t mask = 0, pending = 0;
    uint64_t altstack[3] = {0, 0, 0};

    json_object("signals");
    json_array("actions"); /* of signal 1 to 64: [handler, flags, restorer, mask] */
    for (int signal = 1; signal <= SIGNALS; signal++) {
        uint64_t action[4] = {0, 0, 0, 0};
        SYS(SYS_rt_sigaction, signal, 0, action, 8);
        json_array(NULL);
        for (int i = 0; i < 4; i++)
            json_unsigned(NULL, action[i]);
        json_end();
    }
    json_end();
    SYS(SYS_rt_sigprocmask, 0, 0, &mask, 8);
    SYS(SYS_rt_sigpending, &pending, 8);
    SYS(SYS_sigaltstack, 0, altstack);
    json_unsigned("blocked", mask);
    json_unsigned("pending", pending);
    json_unsigned("altstack_sp", altstack[0]);
    json_unsigned("altstack_flags", (uint32_t)altstack[1]);
    json_unsigned("altstack_size", altstack[2]);
    json_end();
}

/* prctl: what each getter returns, or -errno. */
static inline void see_prctl(void)
{
    static const struct {
        char name[24];
        int option;
        int by_pointer; /* bytes of the answer, 0 if it is the return value */
    } getters[] = {
        {"PDEATHSIG", 2, 4},        {"DUMPABLE", 3, 0},       {"KEEPCAPS", 7, 0},
        {"TIMING", 13, 0},          {"NAME", 16, 16},         {"SECCOMP", 21, 0},
        {"TSC", 25, 4},             {"SECUREBITS", 27, 0},    {"TIMERSLACK", 30, 0},
        {"MCE_KILL_GET", 34, 0},    {"CHILD_SUBREAPER", 37, 4}, {"NO_NEW_PRIVS", 39, 0},
        {"TID_ADDRESS", 40, 8},     {"THP_DISABLE", 42, 0},   {"IO_FLUSHER", 58, 0},
        {"MDWE", 66, 0},            {"MEMORY_MERGE", 68, 0},
    };

    json_object("prctl");
    for (size_t i = 0; i < sizeof getters / sizeof *getters; i++) {
        uint64_t answer[2] = {0, 0};
        long result = SYS(SYS_prctl, getters[i].option, getters[i].by_pointer ? answer : 0);
        if (getters[i].by_pointer == 16)
            json_string(getters[i].name, (const char *)answer);
        else
            json_signed(getters[i].name, getters[i].by_pointer && result == 0 ? (int64_t)answer[0] : result);
    }
    json_end();
}

/* The x86 state that only system calls show: CPUID faulting, shadow stack, LDT, the three TLS slots of the GDT. */
static inline void see_x86(void)
{
    enum { ARCH_GET_CPUID = 0x1011, ARCH_GET_XCOMP_PERM = 0x1022, ARCH_SHSTK_STATUS = 0x5005 };
    uint64_t permitted = 0, shadow_stack = 0;
    static char ldt[64];

    json_object("x86");
    json_signed("cpuid", SYS(SYS_arch_prctl, ARCH_GET_CPUID));
    json_signed("xcomp_perm_result", SYS(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &permitted));
    json_unsigned("xcomp_perm", permitted);
    json_signed("shadow_stack_result", SYS(SYS_arch_prctl, ARCH_SHSTK_STATUS, &shadow_stack));
    json_unsigned("shadow_stack", shadow_stack);
    json_signed("ldt_bytes", SYS(SYS_modify_ldt, 0, ldt, sizeof ldt));
    json_array("tls");
    for (uint32_t entry = TLS_FIRST; entry <= TLS_LAST; entry++) {
        uint32_t description[4] = {entry, 0, 0, 0};
        json_signed(NULL, SYS(SYS_get_thread_area, description));
        json_hex(NULL, description, sizeof description);
    }
    json_end();
    json_end();
}

/* What glibc sets up for a thread. The freestanding program sets up nothing, so must find nothing. */
static inline void see_thread(void)
{
    uint64_t head = 0, length = 0;

    SYS(SYS_get_robust_list, 0, &head, &length);
    json_object("thread");
    json_unsigned("robust_list", head);
    json_unsigned("robust_list_length", length);
    json_end();
}

/* Registers and unregisters an rseq area: 0, unless the kernel still holds one of somebody else. */
static inline void see_rseq_free(void)
{
    enum { SYS_RSEQ = 334, UNREGISTER = 1 };
    static uint32_t area[8] __attribute__((aligned(32)));
    long result = SYS(SYS_RSEQ, area, sizeof area, 0, RSEQ_SIGNATURE);

    json_signed("rseq_register", result);
    if (result == 0)
        SYS(SYS_RSEQ, area, sizeof area, UNREGISTER, RSEQ_SIGNATURE);
}

static inline void see_identity(void)
{
    static uint32_t groups[65536];
    uint32_t ids[6];
    uint64_t limit[2], timer[4], affinity[16] = {0};
    long self = SYS(SYS_getpid), count;

    json_object("identity");
    json_signed("is_thread_leader", SYS(SYS_gettid) == self);
    json_signed("is_group_leader", SYS(SYS_getpgid, 0) == self);
    json_signed("is_session_leader", SYS(SYS_getsid, 0) == self);
    json_signed("pgid", SYS(SYS_getpgid, 0));
    json_signed("sid", SYS(SYS_getsid, 0));
    SYS(SYS_getresuid, &ids[0], &ids[1], &ids[2]);
    SYS(SYS_getresgid, &ids[3], &ids[4], &ids[5]);
    json_array("ids");
    for (int i = 0; i < 6; i++)
        json_unsigned(NULL, ids[i]);
    json_end();
    json_array("groups");
    count = SYS(SYS_getgroups, 65536, groups);
    for (long i = 0; i < count; i++)
        json_unsigned(NULL, groups[i]);
    json_end();
    json_array("limits"); /* soft and hard, in the order of RLIMIT_* */
    for (int i = 0; i < LIMITS; i++) {
        SYS(SYS_prlimit64, 0, i, 0, limit);
        json_unsigned(NULL, limit[0]);
        json_unsigned(NULL, limit[1]);
    }
    json_end();
    json_array("interval_timers");
    for (int i = 0; i < 3; i++) {
        SYS(SYS_getitimer, i, timer);
        json_signed(NULL, timer[0] || timer[1] || timer[2] || timer[3]);
    }
    json_end();
    json_signed("nice", SYS(SYS_getpriority, 0, 0)); /* 20 - nice */
    json_signed("scheduler", SYS(SYS_sched_getscheduler, 0));
    json_signed("io_priority", SYS(SYS_ioprio_get, 1, 0));
    SYS(SYS_sched_getaffinity, 0, sizeof affinity, affinity);
    json_hex("affinity", affinity, sizeof affinity);
    json_signed("personality", SYS(SYS_personality, 0xffffffff));
    json_signed("wait", SYS(SYS_wait4, -1, 0, 1, 0)); /* -ECHILD: there are no children */
    json_signed("umask", SYS(SYS_umask, 0));
    json_end();
}

/* Where the break is, and that it can grow by 1 MiB. Grows it: nothing about maps before this growth may be told later. */
static inline void see_brk(void)
{
    long before = SYS(SYS_brk, 0);
    long after = SYS(SYS_brk, before + (1 << 20));

    json_object("brk");
    json_signed("before", before);
    json_signed("grown", after - before);
    if (after > before)
        *(volatile char *)(after - 1) = 1;
}

#endif
