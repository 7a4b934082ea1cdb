/*
 * A lazy resolution: at the resolver's first instruction the stub has pushed the relocation's index and the object's link_map
 * (glibc: sysdeps/x86_64/dl-trampoline.h), at its last, an indirect jump, the slot is written.
 */
#include <string.h>

#include "got.h"

void resolve_entry(struct session *session, struct task *task, const struct user_regs_struct *regs)
{
    struct watch *watch = task->watch;
    uint64_t words[3];
    if (read_memory(task->tid, regs->rsp, words, sizeof words) != sizeof words)
        return;
    if (watch->depth == DEPTH) {
        memmove(watch->pending, watch->pending + 1, (DEPTH - 1) * sizeof watch->pending[0]);
        watch->depth--;
    }
    struct pending *pending = &watch->pending[watch->depth++];
    *pending = (struct pending){tracer_now(), regs->rsp + 16, words[0], words[1], words[2], 0, 0};
    const struct table *table = space_table(watch->space, words[0]);
    if (!table) {
        got_ask(session, task, ASK_MAP, regs, words[0]);
        table = space_table(watch->space, words[0]);
    }
    if (table && pending->index < table->count) {
        pending->slot = table->slots[pending->index];
        read_memory(task->tid, pending->slot, &pending->before, sizeof pending->before);
    }
}

void resolve_jump(struct session *session, struct task *task, const struct user_regs_struct *regs)
{
    struct watch *watch = task->watch;
    while (watch->depth && watch->pending[watch->depth - 1].sp < regs->rsp) /* left by a longjmp */
        watch->depth--;
    if (!watch->depth || watch->pending[watch->depth - 1].sp != regs->rsp) /* begun before we came */
        return;
    const struct pending *pending = &watch->pending[--watch->depth];
    uint64_t after = 0;
    read_memory(task->tid, pending->slot, &after, sizeof after);
    got_tell(
        session, task,
        (struct record){.kind = EVENT_BIND,
                        .entered = pending->time,
                        .number = (uint32_t)pending->index,
                        .ip = regs->rip,
                        .ret = (int64_t)after,
                        .args = {pending->link_map, pending->caller, pending->slot, pending->before, regs->r11, pending->sp}});
}
