/* Whether a template may serve a start: it must be as if it had been born of this process, of these files, now. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../template/template.h"
#include "decide.h"
#include "stamps.h"

enum { SPIN = 1000 };

struct refl_birth {
    struct refl_identity identity;
    struct refl_carried carried;
};

uint64_t refl_kept_size(void)
{
    return sizeof(struct refl_kept);
}

uint64_t refl_birth_size(void)
{
    return sizeof(struct refl_birth);
}

int refl_birth(struct refl_birth *birth)
{
    return refl_read_state(&birth->identity, &birth->carried);
}

void refl_template_born(uint8_t *shared, const struct refl_birth *born)
{
    ((struct template_facts *)shared)->born = born->carried;
}

/* What a clone can be given without fail; the rest must be as it was when the template was made. */
static int same_but_these(struct refl_carried born, const struct refl_carried *now)
{
    born.ignored = now->ignored;
    born.blocked = now->blocked;
    born.umask = now->umask;
    return memcmp(&born, now, sizeof born) == 0;
}

struct refl_kept *kept_by_this_thread(const struct refl_clone *clone)
{
    return clone->kept && clone->kept->thread == (int32_t)syscall(SYS_gettid) ? clone->kept : NULL;
}

/* Together with the clone, if that is there already. If it dies, or sleeps, with one that it has taken, all are looked at again. */
static int same_files(const struct refl_clone *clone, struct template_request *r)
{
    uint32_t again = 0;
    int same = refl_same_stamps(clone->paths, clone->paths_size, clone->stamps, &r->taken);
    uint32_t checked = __atomic_load_n(&r->checked, __ATOMIC_ACQUIRE);
    for (int i = 0; i < SPIN && checked == BY_CLONE; i++) {
        __builtin_ia32_pause();
        checked = __atomic_load_n(&r->checked, __ATOMIC_ACQUIRE);
    }
    if (checked == BY_CLONE)
        return refl_same_stamps(clone->paths, clone->paths_size, clone->stamps, &again);
    return same && checked != DIFFERENT;
}

int decide(const struct refl_clone *clone, const struct refl_kept *kept, struct template_request *r)
{
    const struct refl_birth *born = clone->born;
    struct refl_birth now;
    int error = kept ? refl_read_kept(kept, &now.identity, &now.carried) : refl_birth(&now);
    if (error || !refl_same_identity(&born->identity, &now.identity) || !same_but_these(born->carried, &now.carried) ||
        !same_files(clone, r))
        return -ESTALE;
    r->now = now.carried;
    r->now.ignored = (r->now.ignored & ~clone->to_default) | clone->to_ignore;
    if (clone->umask >= 0)
        r->now.umask = (uint32_t)clone->umask;
    return 0;
}
