/* The caller's state, set in a clone. No libc: what runs here runs between a fork and a jump. See state.h. */
#include "state.h"

#include <asm/errno.h>
#include <asm/unistd.h>

#include "../blob/syscall.h"

enum { SIGNALS = 64, SIG_IGNORE = 1, WHO_PROCESS = 1 };

static int differ(const uint64_t *a, const uint64_t *b, uint64_t words)
{
    for (uint64_t i = 0; i < words; i++)
        if (a[i] != b[i])
            return 1;
    return 0;
}

static int64_t set_signals(uint64_t before, uint64_t wanted)
{
    for (uint64_t changed = before ^ wanted; changed; changed &= changed - 1) {
        uint64_t bit = (uint64_t)__builtin_ctzll(changed);
        uint64_t action[4] = {wanted >> bit & 1 ? SIG_IGNORE : 0, 0, 0, 0};
        int64_t result = call4(__NR_rt_sigaction, bit + 1, (uint64_t)action, 0, 8);
        if (is_error(result))
            return result;
    }
    return 0;
}

static int64_t set_limits(const uint64_t before[][2], const uint64_t wanted[][2])
{
    for (uint64_t i = 0; i < REFL_LIMITS; i++) {
        if (!differ(before[i], wanted[i], 2))
            continue;
        int64_t result = call4(__NR_prlimit64, 0, i, (uint64_t)wanted[i], 0);
        if (is_error(result))
            return result;
    }
    return 0;
}

int64_t refl_adopt(const struct refl_carried *born, const struct refl_carried *now)
{
    int64_t result = set_signals(born->ignored, now->ignored);
    if (!is_error(result) && born->group != now->group)
        result = call3(__NR_setpgid, 0, (uint64_t)now->group, 0);
    if (!is_error(result) && born->umask != now->umask)
        result = call3(__NR_umask, now->umask, 0, 0);
    if (!is_error(result) && differ(born->sched, now->sched, 7))
        result = call3(__NR_sched_setattr, 0, (uint64_t)now->sched, 0);
    if (!is_error(result) && differ(born->cpus, now->cpus, REFL_CPU_WORDS))
        result = call3(__NR_sched_setaffinity, 0, sizeof now->cpus, (uint64_t)now->cpus);
    if (!is_error(result) && born->io_priority != now->io_priority)
        result = call3(__NR_ioprio_set, WHO_PROCESS, 0, (uint64_t)now->io_priority);
    if (!is_error(result)) /* last: with fewer descriptors or processes nothing of the above must fail */
        result = set_limits(born->limits, now->limits);
    return is_error(result) ? result : 0;
}
