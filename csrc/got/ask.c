/* Where the loop waits for Python: what an ELF file means is not known here. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "got.h"

/* A record, and all registers of the task where Python is to unwind its stack. */
struct told {
    struct record record;
    struct user_regs_struct regs;
};

static void tell(struct session *session, const struct task *task, struct told *told, size_t size)
{
    struct record *record = &told->record;
    record->size = (uint32_t)size;
    record->left = tracer_now();
    record->entered = record->entered ? record->entered : record->left;
    record->pid = (uint32_t)task->pid;
    record->tid = (uint32_t)task->tid;
    buffer_append(&session->buffer, (const uint8_t *)told, size);
}

void got_tell(struct session *session, const struct task *task, struct record record)
{
    struct told told = {.record = record};
    tell(session, task, &told, sizeof told.record);
}

static void forget_answer(struct got *got)
{
    free(got->changes);
    free(got->words);
    got->changes = NULL;
    got->words = NULL;
    got->count = 0;
    got->answer = false;
}

void got_ask(struct session *session, struct task *task, enum ask why, const struct user_regs_struct *regs, uint64_t what)
{
    struct got *got = got_of(session);
    struct told told = {.record = {.kind = EVENT_ASK, .args = {why, what}}};
    if (regs) {
        told.regs = *regs;
        told.record.ip = regs->rip;
        told.record.args[2] = regs->rdi;
        told.record.args[3] = regs->rsi;
        told.record.args[4] = regs->rdx;
        told.record.args[5] = regs->rsp;
    }
    tell(session, task, &told, why == ASK_WRITTEN ? sizeof told : sizeof told.record);
    buffer_hurry(&session->buffer);
    pthread_mutex_lock(&got->lock);
    while (!got->answer)
        pthread_cond_wait(&got->answered, &got->lock);
    pthread_mutex_unlock(&got->lock);
    for (uint64_t i = 0; i < got->count; i++) {
        const struct refl_got_change *change = &got->changes[i];
        if (!space_change(task->watch->space, task->tid, change))
            got_tell(session, task, (struct record){.kind = EVENT_REFUSED, .args = {change->address, change->op}});
        else if (change->op == OP_GUARD)
            guard_spread(session, task);
    }
    forget_answer(got);
}

int32_t refl_got_answer(void *handle, const struct refl_got_change *changes, uint64_t count)
{
    struct got *got = handle;
    uint64_t words = 0;
    for (uint64_t i = 0; i < count; i++)
        words += changes[i].op == OP_TABLE ? changes[i].count : 0;
    pthread_mutex_lock(&got->lock);
    got->changes = malloc((count + 1) * sizeof *changes);
    got->words = malloc((words + 1) * sizeof *got->words);
    bool ok = got->changes && got->words;
    got->count = ok ? count : 0;
    uint64_t *next = got->words;
    for (uint64_t i = 0; i < got->count; i++) {
        got->changes[i] = changes[i];
        if (changes[i].op != OP_TABLE || !changes[i].count)
            continue;
        memcpy(next, changes[i].slots, changes[i].count * sizeof *next);
        got->changes[i].slots = next;
        next += changes[i].count;
    }
    got->answer = true;
    pthread_cond_signal(&got->answered);
    pthread_mutex_unlock(&got->lock);
    return ok ? 0 : -1;
}
