/*
 * The child, from fork to jump.
 *
 * This code is copied into anonymous memory that neither the old nor the new program uses, with a stack of its own, and runs
 * there while everything around it is replaced. So it has no relocations, no data, no GOT, and calls nobody: the link fails
 * otherwise (blob.ld). It takes the operations one by one; the first that fails is reported over the pipe that the parent
 * reads, and the child dies. The last thing it does is to return from a signal that never came: rt_sigreturn sets every
 * register, the signal mask, and the FPU to what a new program finds (arch/x86/kernel/signal_64.c).
 */
#include "perform.h"

__attribute__((noreturn)) void blob_tail(uint64_t frame, uint64_t drop, uint64_t drop_size);

__attribute__((section(".text.entry"), noreturn)) void blob_entry(const struct refl_job *job)
{
    for (uint64_t i = 0; i < job->count; i++) {
        int64_t result = perform(&job->ops[i]);
        if (result < 0)
            die(job->report_fd, &job->ops[i], result);
    }
    blob_tail(job->frame, job->drop, job->drop_size);
}
