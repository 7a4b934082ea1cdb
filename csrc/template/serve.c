/*
 * The template: waits for orders, and makes a clone of itself for each.
 *
 * A clone is a child of the template's parent (CLONE_PARENT), who can wait for it. Everything that the order refers to has been
 * written by the host into shared memory; descriptors come over the socket. Where this process has nothing open but that
 * socket, at number 63, they get the numbers from 0 on, in the order of their targets, so that moving them from the last to the
 * first never overwrites one.
 */
#include <asm/errno.h>
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/sched.h>
#include <linux/stat.h>

#include "../blob/syscall.h"
#include "become.h"

enum {
    PR_GET_TID_ADDRESS = 40,
    GET_ROBUST_LIST_SELF = 0,
    AT_RANDOM = 25,
    AT_EXECFN = 31,
    SEEK_END = 2,
    MSG_NOSIGNAL = 0x4000,
    MADV_DONTFORK = 10,
    STACK_EXPAND = 131072, /* fs/exec.c: setup_arg_pages: below the strings' page */
};

int64_t template_clone(struct clone_args *args, uint64_t size, const struct template_job *job,
                       struct template_request *request,
                       void (*child)(const struct template_job *, struct template_request *));

__attribute__((noreturn)) static void leave(int status)
{
    for (;;)
        call3(__NR_exit_group, (uint64_t)status, 0, 0);
}

/* What the dynamic linker writes goes to a file in memory: it would have to be written by each clone. */
uint64_t template_before(const struct template_job *job)
{
    char name[] = {'l', 'd', '.', 's', 'o', 0};
    if (call3(__NR_memfd_create, (uint64_t)name, 0, 0) != 0 || call3(__NR_dup, 0, 0, 0) != 1 || call3(__NR_dup, 0, 0, 0) != 2)
        leave(126);
    return job->dl_start;
}

static void copy_auxv(struct template_facts *facts, const uint64_t *from)
{
    uint64_t count = 0;
    do {
        if (from[count] == AT_RANDOM)
            facts->random = from[count + 1];
        if (from[count] == AT_EXECFN)
            facts->execfn = from[count + 1];
        facts->auxv[count] = from[count];
        facts->auxv[count + 1] = from[count + 1];
        count += 2;
    } while (from[count - 2] && count * 8 < TEMPLATE_AUXV);
    facts->auxv_size = count * 8;
}

/* Where ld.so has the address of auxv (GLRO(dl_auxv)); 0 if it is not there exactly once. */
static uint64_t find_word(uint64_t at, uint64_t size, uint64_t value)
{
    uint64_t found = 0;
    for (uint64_t end = at + size; at + 8 <= end; at += 8) {
        if (*(const uint64_t *)at != value)
            continue;
        if (found)
            return 0;
        found = at;
    }
    return found;
}

static int64_t find_directory(struct template_directory *directory)
{
    struct statx found;
    const char here = 0;
    int64_t failed =
        call6(__NR_statx, (uint64_t)AT_FDCWD, (uint64_t)&here, AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, (uint64_t)&found, 0);
    *directory = (struct template_directory){found.stx_dev_major, found.stx_dev_minor, found.stx_ino, found.stx_mnt_id};
    return failed;
}

static void find_out(struct template_job *job, const uint64_t *sp)
{
    struct template_facts *facts = (struct template_facts *)job->shared;
    int64_t failed = call3(__NR_prctl, PR_GET_TID_ADDRESS, (uint64_t)&job->tid_address, 0);
    failed |= call3(__NR_get_robust_list, GET_ROBUST_LIST_SELF, (uint64_t)&job->robust_list, (uint64_t)&job->robust_size);
    const uint64_t *at = sp + 1 + *sp + 1;
    while (*at)
        at++;
    copy_auxv(facts, ++at);
    job->dl_auxv = find_word(job->global, job->global_size, (uint64_t)at);
    job->stack_low = (sp[1] & ~4095ul) - STACK_EXPAND;
    job->stack_end_below = (uint64_t)sp - *(const uint64_t *)job->stack_end;
    job->random = facts->random;
    facts->sp = (uint64_t)sp;
    facts->auxv_at = (uint64_t)at;
    facts->heap = (uint64_t)call3(__NR_brk, 0, 0, 0);
    facts->spoke = (uint64_t)call3(__NR_lseek, 1, 0, SEEK_END);
    failed |= find_directory(&facts->directory);
    job->born = facts->born;
    template_find_place(job);
    failed |= call3(__NR_close_range, 0, 2, 0);
    failed |= call3(__NR_madvise, job->area + TEMPLATE_CODE, TEMPLATE_DATA, MADV_DONTFORK);
    facts->complete = !failed && job->dl_auxv && *(const uint64_t *)job->dl_argv == (uint64_t)(sp + 1);
}

/* Its pid, or -errno. The child begins on the program's stack, below what the start needs of it, or is likely to need. */
static int64_t make(const struct template_job *job, uint32_t order, struct template_request *request)
{
    uint64_t top = template_stack_below(request->sp);
    struct clone_args args = {
        .flags = CLONE_PARENT | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID,
        .parent_tid = (uint64_t)&request->pid,
        .child_tid = job->tid_address,
        .stack = top - TEMPLATE_STACK,
        .stack_size = TEMPLATE_STACK,
    };
    template_set_linker(job, request->sp, request->auxv);
    request->job = *job;
    return template_clone(&args, CLONE_ARGS_SIZE_VER0, &request->job, request,
                          order == TEMPLATE_WAIT ? template_wait : template_begin);
}

static void heed(struct template_advice *advice)
{
    for (uint32_t i = 0; i < advice->count && i < TEMPLATE_CALLS; i++)
        call3(__NR_madvise, advice->calls[i].start, advice->calls[i].size, advice->calls[i].advice);
    __atomic_store_n(&advice->busy, 0, __ATOMIC_RELEASE);
}

static void say(void)
{
    const char something = 0;
    call6(__NR_sendto, TEMPLATE_SOCKET, (uint64_t)&something, sizeof something, MSG_NOSIGNAL, 0, 0);
}

/* The host may have seen already that there is a clone. */
static void answer(struct template_request *request, int64_t pid)
{
    if (is_error(pid))
        request->pid = (int32_t)pid;
    if (__atomic_exchange_n(&request->asked, ANSWERED, __ATOMIC_ACQ_REL) == ASKED)
        say();
    __atomic_fetch_and(&request->busy, ~(uint32_t)OF_TEMPLATE, __ATOMIC_RELEASE);
}

__attribute__((noreturn)) void template_serve(struct template_job *job, uint64_t user_entry, const uint64_t *sp)
{
    struct template_message message = {0, 0};
    job->user_entry = user_entry;
    job->parent = (uint64_t)call3(__NR_getppid, 0, 0, 0);
    find_out(job, sp);
    say(); /* that it is ready */
    for (;;) {
        int64_t count = template_receive(&message);
        if (count < 0 || message.slot >= job->slots)
            leave(0);
        if (message.order == TEMPLATE_ADVISE) {
            heed((struct template_advice *)template_slot(job, message.slot));
            continue;
        }
        struct template_request *request = template_slot(job, message.slot);
        template_follow(job, request);
        answer(request, make(job, message.order, request));
        if (count)
            call3(__NR_close_range, 0, (uint64_t)count - 1, 0);
    }
}
