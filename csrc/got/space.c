/* Address spaces: which breakpoints are in them, and where the slots of a link_map are. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>

#include "got.h"

#define INT3 0xccu
#define POINTS_MOST 64u

struct space *space_new(void)
{
    struct space *space = calloc(1, sizeof *space);
    if (space)
        space->users = 1;
    return space;
}

struct space *space_share(struct space *space)
{
    if (space)
        space->users++;
    return space;
}

struct space *space_copy(const struct space *space)
{
    struct space *copy = space_new();
    if (!copy || !space)
        return copy;
    copy->point = malloc((space->points + 1) * sizeof *copy->point);
    copy->table = malloc((space->tables + 1) * sizeof(struct table *));
    if (!copy->point || !copy->table) {
        space_leave(copy);
        return NULL;
    }
    copy->points = space->points;
    copy->guards = space->guards;
    memcpy(copy->guard, space->guard, sizeof copy->guard);
    copy->tables = space->tables;
    if (space->points)
        memcpy(copy->point, space->point, space->points * sizeof *copy->point);
    for (size_t i = 0; i < space->tables; i++) {
        copy->table[i] = space->table[i];
        copy->table[i]->users++;
    }
    return copy;
}

static void table_leave(struct table *table)
{
    if (--table->users == 0)
        free(table);
}

void space_leave(struct space *space)
{
    if (!space || --space->users)
        return;
    for (size_t i = 0; i < space->tables; i++)
        table_leave(space->table[i]);
    free(space->table);
    free(space->point);
    free(space);
}

struct point *space_point(const struct space *space, uint64_t address)
{
    for (size_t i = 0; space && i < space->points; i++)
        if (space->point[i].address == address)
            return &space->point[i];
    return NULL;
}

/* Where the link_map's table is, or would be. */
static size_t place(const struct space *space, uint64_t link_map)
{
    size_t low = 0, high = space->tables;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (space->table[middle]->link_map < link_map)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct table *space_table(const struct space *space, uint64_t link_map)
{
    size_t at = place(space, link_map);
    return at < space->tables && space->table[at]->link_map == link_map ? space->table[at] : NULL;
}

static void forget(struct space *space, uint64_t link_map)
{
    size_t at = place(space, link_map);
    if (at == space->tables || space->table[at]->link_map != link_map)
        return;
    table_leave(space->table[at]);
    space->tables--;
    memmove(&space->table[at], &space->table[at + 1], (space->tables - at) * sizeof(struct table *));
}

static bool add_table(struct space *space, const struct refl_got_change *change)
{
    forget(space, change->address);
    struct table **grown = realloc(space->table, (space->tables + 1) * sizeof(struct table *));
    struct table *table = malloc(sizeof *table + change->count * sizeof(uint64_t));
    if (grown)
        space->table = grown;
    if (!grown || !table) {
        free(table);
        return false;
    }
    table->users = 1;
    table->link_map = change->address;
    table->count = change->count;
    if (change->count)
        memcpy(table->slots, change->slots, change->count * sizeof(uint64_t));
    size_t at = place(space, change->address);
    memmove(&space->table[at + 1], &space->table[at], (space->tables - at) * sizeof(struct table *));
    space->table[at] = table;
    space->tables++;
    return true;
}

static bool write_byte(pid_t tid, uint64_t address, uint8_t byte)
{
    uint64_t start = address & ~7ul, shift = 8 * (address & 7);
    errno = 0;
    uint64_t word = (uint64_t)ptrace(PTRACE_PEEKTEXT, tid, (void *)start, NULL);
    if (errno)
        return false;
    word = (word & ~(0xfful << shift)) | ((uint64_t)byte << shift);
    return ptrace(PTRACE_POKETEXT, tid, (void *)start, (void *)word) == 0;
}

/* Only where there is the instruction that Python has seen. */
static bool add_point(struct space *space, pid_t tid, const struct refl_got_change *change)
{
    uint8_t there[DISPLACED];
    if (change->length == 0 || change->length > sizeof there || space->points == POINTS_MOST)
        return false;
    if (read_memory(tid, change->address, there, change->length) != change->length ||
        memcmp(there, change->bytes, change->length) != 0 || there[0] == INT3)
        return false;
    struct point *known = space_point(space, change->address), *grown = known;
    if (!known)
        grown = realloc(space->point, (space->points + 1) * sizeof *grown);
    if (!grown)
        return false;
    if (!known) {
        space->point = grown;
        known = &grown[space->points];
    }
    if (!write_byte(tid, change->address, INT3))
        return false;
    space->points += known == &space->point[space->points];
    *known = (struct point){change->address, change->value, change->kind, change->step, change->reg, change->length, there[0]};
    return true;
}

static bool add_guard(struct space *space, uint64_t address)
{
    if (space->guards == GUARDS)
        return false;
    space->guard[space->guards++] = address;
    return true;
}

bool space_change(struct space *space, pid_t tid, const struct refl_got_change *change)
{
    if (change->op == OP_BREAK)
        return add_point(space, tid, change);
    if (change->op == OP_TABLE)
        return add_table(space, change);
    if (change->op == OP_GUARD)
        return add_guard(space, change->address);
    forget(space, change->address);
    return true;
}

/* Unless something else has been mapped there meanwhile. */
void point_restore(const struct point *point, pid_t tid)
{
    uint8_t now = 0;
    if (read_memory(tid, point->address, &now, 1) == 1 && now == INT3)
        write_byte(tid, point->address, point->original);
}

void space_restore(const struct space *space, pid_t tid)
{
    for (size_t i = 0; space && i < space->points; i++)
        point_restore(&space->point[i], tid);
}
