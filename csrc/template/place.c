/* Which processors the template may run on, and each clone until it is the program. */
#include <asm/unistd.h>

#include "../blob/syscall.h"
#include "become.h"

#define LEAST 16u /* orders */

/* For at least so many orders. */
static void move(struct template_job *job, enum template_place place, uint32_t cpu, uint64_t patience)
{
    uint64_t cpus[REFL_CPU_WORDS];
    for (uint32_t i = 0; i < REFL_CPU_WORDS; i++) {
        uint64_t bit = cpu / 64 == i ? 1ul << cpu % 64 : 0;
        cpus[i] = place == NEAR ? bit : place == FAR ? job->cpus[i] & ~bit : job->cpus[i];
    }
    job->place = place;
    job->cpu = cpu;
    job->patience = patience;
    job->orders = 0;
    call3(__NR_sched_setaffinity, 0, sizeof cpus, (uint64_t)cpus);
}

/* If the host may run on all that it could, nobody has bound it: who asks for all that there can be is as free. */
void template_find_place(struct template_job *job)
{
    uint64_t found[REFL_CPU_WORDS];
    int free = 1;
    for (uint32_t i = 0; i < REFL_CPU_WORDS; i++) {
        job->cpus[i] = ~0ul;
        for (uint64_t left = job->born.cpus[i]; left; left &= left - 1)
            job->processors++;
        found[i] = 0;
    }
    move(job, ANYWHERE, 0, 0);
    call3(__NR_sched_getaffinity, 0, sizeof found, (uint64_t)found);
    for (uint32_t i = 0; i < REFL_CPU_WORDS; i++)
        free &= found[i] == job->born.cpus[i];
    for (uint32_t i = 0; i < REFL_CPU_WORDS && !free; i++)
        job->cpus[i] = job->born.cpus[i];
    if (!free)
        move(job, ANYWHERE, 0, 0);
}

/*
 * Starts that come one after another are the work of caller, template and clone, mostly in turn. If a processor is idle, template
 * and clone do best there: not on the caller's, where the kernel often wakes them. If none is, all do best on one: the kernel
 * would spread them, and then have each wait for somebody else's program, and its processor for them.
 *
 * Callers move. If one is not where it was for a while, the template leaves: near its caller it lets the kernel say for
 * where, as that may know of another template there. Its patience is random, or both would leave at the same time.
 */
void template_follow(struct template_job *job, const struct template_request *request)
{
    const enum template_place wanted = (enum template_place)request->place;
    const uint64_t patience = LEAST + request->random[0] % LEAST * 2;
    if (job->processors == 1 || (wanted == ANYWHERE && job->place == ANYWHERE))
        return;
    if (wanted == ANYWHERE)
        move(job, ANYWHERE, 0, 0);
    else if (job->place == wanted && job->cpu == request->cpu)
        job->orders = 0;
    else if (job->place != wanted && job->place != ANYWHERE)
        move(job, wanted, request->cpu, patience);
    else if (++job->orders < job->patience)
        return;
    else if (wanted == FAR)
        move(job, FAR, request->cpu, patience);
    else if (job->place == ANYWHERE)
        move(job, NEAR, template_this_cpu(), patience);
    else
        move(job, ANYWHERE, 0, LEAST / 2);
}

void template_be_free(const struct template_job *job, enum template_place place)
{
    if (job->place == place)
        call3(__NR_sched_setaffinity, 0, sizeof job->cpus, (uint64_t)job->cpus);
}
