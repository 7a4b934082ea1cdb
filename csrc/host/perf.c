/*
 * Uprobes without a trace: tracefs mounted where nobody sees it, and events that only the processes wanted pay for.
 *
 * A probe that ftrace has enabled puts its int3 into every process that maps the file; one that perf has opened for a task puts
 * it into that task's memory alone, and its children's (kernel/trace/trace_uprobe.c: uprobe_perf_filter).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/mount.h>
#include <linux/perf_event.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../core.cdef.h"

int64_t refl_tracefs(void)
{
    long mount = -1;
    int context = (int)syscall(SYS_fsopen, "tracefs", FSOPEN_CLOEXEC);
    if (context < 0)
        return -errno;
    if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        mount = syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
    int error = errno;
    close(context);
    return mount < 0 ? -error : mount;
}

/*
 * Samples are TID, TIME, READ (if `distinct`), RAW; what else is recorded has the first two at its end.
 *
 * When two tasks with inherited events take turns, perf swaps their contexts rather than switch events. Each event then counts
 * for a task that it does not belong to; when that one ends, its event goes, and the probes are found to be nobody's and are
 * taken out of the memory of the one that lives. Contexts with READ are never swapped (Linux 6.13, kernel/events/core.c:
 * perf_event_context_sched_out, nr_no_switch_fast); before, the combination is EINVAL.
 */
int64_t refl_perf_open(uint64_t tracepoint, int32_t pid, int32_t cpu, uint32_t wakeup, int32_t into, uint8_t distinct)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_TRACEPOINT,
        .size = sizeof attr,
        .config = tracepoint,
        .sample_period = 1,
        .sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_RAW | (distinct ? PERF_SAMPLE_READ : 0),
        .inherit = 1,
        .sample_id_all = 1,
        .watermark = 1,
        .wakeup_watermark = wakeup,
        .use_clockid = 1,
        .clockid = CLOCK_MONOTONIC,
        .mmap = into < 0,
        .mmap2 = into < 0,
        .comm = into < 0,
        .comm_exec = into < 0,
        .task = into < 0,
    };
    long fd = syscall(SYS_perf_event_open, &attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (into >= 0 && ioctl((int)fd, PERF_EVENT_IOC_SET_OUTPUT, into)) {
        int error = errno;
        close((int)fd);
        return -error;
    }
    return fd;
}
