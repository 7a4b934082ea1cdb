/* The hosted witness: a C program that tells, as one JSON object, everything it can see of its own start.
 *
 * Linked with -Wl,-e,entry_start: entry.S saves the registers before the C library runs (in a dynamic program: after the
 * dynamic linker). It speaks in raw system calls throughout, so that no library call disturbs what it describes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <unistd.h>

#include "see.h"

#ifdef __GLIBC__
#include <sys/rseq.h>

/* glibc hands a constructor what main gets; musl calls it without arguments. */
static struct {
    int argc;
    char **argv;
    char **envp;
} seen_by_constructor;

__attribute__((constructor)) static void construct(int argc, char **argv, char **envp)
{
    seen_by_constructor.argc = argc;
    seen_by_constructor.argv = argv;
    seen_by_constructor.envp = envp;
}

static void see_constructor(void)
{
    json_signed("constructor_argc", seen_by_constructor.argc);
    json_address("constructor_argv", seen_by_constructor.argv);
    json_address("constructor_envp", seen_by_constructor.envp);
}

/* cpu_id is a processor's number once the kernel has registered the area, and negative as long as it has not. */
static void see_rseq(void)
{
    const struct rseq *area = (const struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

    json_unsigned("rseq_size", __rseq_size);
    json_unsigned("rseq_flags", __rseq_flags);
    json_signed("rseq_offset", __rseq_offset);
    json_signed("rseq_registered", (int32_t)area->cpu_id >= 0);
}
#else
static void see_constructor(void) {}
static void see_rseq(void) { see_rseq_free(); }
#endif

static void see_libc(int argc, char **argv, char **envp)
{
    json_object("libc");
    json_signed("main_argc", argc);
    json_address("main_argv", argv);
    json_address("main_envp", envp);
    json_address("environ", environ);
    json_string("program_invocation_name", program_invocation_name);
    see_constructor();
    see_rseq();
    json_end();
}

int main(int argc, char **argv, char **envp)
{
    struct start start = start_at((const void *)entry_record.gpr[GPR_RSP]);
    uint64_t bounds[2];

    find_mapping((uint64_t)start.sp, bounds);
    see_start(&start, bounds[1]);
    see_libc(argc, argv, envp);
    see_growth(bounds[1]);
    return 0;
}
