/* Which processors the template may run on, and each clone until it is the program. */
#include <asm/unistd.h>

#include "../blob/syscall.h"
#include "become.h"

enum { ANY = -1 };

#define LEAST 16u /* orders */

static int64_t run_on(const uint64_t *cpus)
{
    return call3(__NR_sched_setaffinity, 0, REFL_CPU_WORDS * 8, (uint64_t)cpus);
}

/* For at least so many orders. */
static void move(struct template_job *job, int64_t cpu, uint64_t patience)
{
    uint64_t cpus[REFL_CPU_WORDS];
    for (int64_t i = 0; i < REFL_CPU_WORDS; i++)
        cpus[i] = cpu == ANY ? job->cpus[i] : cpu / 64 == i ? 1ul << cpu % 64 : 0;
    job->cpu = cpu;
    job->patience = patience;
    job->orders = 0;
    run_on(cpus);
}

/* If the host may run on all that it could, nobody has bound it: who asks for all that there can be is as free. */
void template_find_place(struct template_job *job)
{
    uint64_t found[REFL_CPU_WORDS];
    int free = 1;
    for (int64_t i = 0; i < REFL_CPU_WORDS; i++) {
        job->cpus[i] = ~0ul;
        found[i] = 0;
    }
    move(job, ANY, 0);
    call3(__NR_sched_getaffinity, 0, sizeof found, (uint64_t)found);
    for (int64_t i = 0; i < REFL_CPU_WORDS; i++)
        free &= found[i] == job->born.cpus[i];
    for (int64_t i = 0; i < REFL_CPU_WORDS && !free; i++)
        job->cpus[i] = job->born.cpus[i];
    if (!free)
        move(job, ANY, 0);
}

/*
 * Caller, template and clone mostly work in turn. If all processors are busy, they do best on one: the kernel would spread them,
 * and then have each wait for somebody else's program, and its processor for them. Which one is left to the kernel: it is where
 * the template is after some orders. As long as the caller is there, too, that is right. If not, it may be another template's;
 * patience is random, or both would leave at the same time.
 */
void template_follow(struct template_job *job, const struct template_request *request)
{
    if (!request->near) {
        if (job->cpu != ANY)
            move(job, ANY, 0);
    } else if (job->cpu == request->cpu) {
        job->orders = 0;
    } else if (++job->orders >= job->patience) {
        if (job->cpu == ANY)
            move(job, template_this_cpu(), LEAST + request->random[0] % LEAST * 2);
        else
            move(job, ANY, LEAST / 2);
    }
}

void template_be_free(const struct template_job *job)
{
    if (job->cpu != ANY)
        run_on(job->cpus);
}
