/* The operations, one by one: csrc/plan.h says what each does. */
#include "perform.h"

#include <asm/errno.h>
#include <asm/unistd.h>

#include "state.h"
#include "syscall.h"

enum { SIG_KILL = 9 };

static void zero(uint64_t at, uint64_t size)
{
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(0) : "memory");
}

static void copy(uint64_t to, uint64_t from, uint64_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

/* Zero, or a negative errno. */
static int64_t system_call(const struct refl_op *op)
{
    const uint64_t *a = op->arg;
    int64_t result = call6(op->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (op->flags & OP_MAY_FAIL)
        return 0;
    if (is_error(result))
        return result;
    /* Before Linux 4.17 MAP_FIXED_NOREPLACE is a mere hint: the mapping succeeds elsewhere. */
    if ((op->flags & OP_EXACT && (uint64_t)result != a[0]) || (op->flags & OP_EXACT_4 && (uint64_t)result != a[4]))
        return -EEXIST;
    return 0;
}

int64_t perform(const struct refl_op *op)
{
    const uint64_t *a = op->arg;
    if (op->flags & OP_IF_ARG0 && a[0] == 0)
        return 0;
    switch (op->kind) {
    case OP_CALL:
        return system_call(op);
    case OP_UNMAP:
        return a[0] < a[1] ? call3(__NR_munmap, a[0], a[1] - a[0], 0) : 0;
    case OP_ZERO:
        zero(a[0], a[1]);
        return 0;
    case OP_COPY:
        copy(a[0], a[1], a[2]);
        return 0;
    case OP_SIGNALS:
        return reset_signals(a[0]);
    case OP_CLOEXEC:
        return close_on_exec(a);
    case OP_CHOOSE:
        return choose_descriptor(a, (uint64_t *)a[4]);
    case OP_HAND_OVER:
        return hand_over(a, *(const uint64_t *)a[4]);
    default:
        return -ENOSYS;
    }
}

void die(int64_t report_fd, const struct refl_op *op, int64_t result)
{
    struct refl_report report = {
        .step = op->step,
        .error = (int32_t)-result,
        .kind = op->kind,
        .nr = op->nr,
        .arg0 = op->arg[0],
    };
    if (report_fd >= 0)
        call3(__NR_write, (uint64_t)report_fd, (uint64_t)&report, sizeof report);
    else /* in place, where nobody listens: killed, as execve does past its point of no return (fs/exec.c: bprm_execve) */
        call3(__NR_kill, (uint64_t)call3(__NR_getpid, 0, 0, 0), SIG_KILL, 0);
    for (;;)
        call3(__NR_exit_group, 127, 0, 0);
}
