/* Which pages a program touches: perf's event of page faults, for one task. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../core.cdef.h"

enum { PAGE = 4096, RING = 16 * PAGE };

struct sample {
    struct perf_event_header header;
    uint64_t address;
};

/* Those of the kernel, which few may look at, are left out: it reads and writes where the program does, too. */
int refl_faults_open(struct refl_faults *faults, int32_t pid)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof attr,
        .config = PERF_COUNT_SW_PAGE_FAULTS,
        .sample_period = 1,
        .sample_type = PERF_SAMPLE_ADDR,
        .exclude_kernel = 1,
        .exclude_hv = 1,
    };
    faults->fd = (int32_t)syscall(SYS_perf_event_open, &attr, pid, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (faults->fd < 0)
        return -errno;
    faults->ring = mmap(NULL, PAGE + RING, PROT_READ | PROT_WRITE, MAP_SHARED, faults->fd, 0);
    if (faults->ring != MAP_FAILED)
        return 0;
    int error = errno;
    close(faults->fd);
    faults->fd = -1;
    return -error;
}

void refl_faults_close(struct refl_faults *faults)
{
    if (faults->fd < 0)
        return;
    munmap(faults->ring, PAGE + RING);
    close(faults->fd);
    faults->fd = -1;
}

int refl_faults_ended(const struct refl_faults *faults)
{
    struct pollfd polled = {.fd = faults->fd};
    return poll(&polled, 1, 0) > 0;
}

/* The ring is never written to by us: it is full when its end is reached. */
uint64_t refl_faults_pages(const struct refl_faults *faults, uint64_t *out, uint64_t most)
{
    const struct perf_event_mmap_page *page = faults->ring;
    const uint8_t *data = (const uint8_t *)faults->ring + PAGE;
    uint64_t head = __atomic_load_n(&page->data_head, __ATOMIC_ACQUIRE), count = 0;
    struct sample sample;
    for (uint64_t at = 0; at + sizeof sample <= head && head <= RING && count < most; at += sample.header.size) {
        memcpy(&sample, data + at, sizeof sample);
        if (sample.header.type == PERF_RECORD_SAMPLE)
            out[count++] = sample.address & ~(uint64_t)(PAGE - 1);
        if (sample.header.size < sizeof sample.header)
            break;
    }
    return count;
}
