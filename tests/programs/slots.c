// A program that does to its slots what each letter on stdin says, and answers each with a line:
// h calls puts; o overwrites the slot of puts with another function, d with data.
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern ElfW(Dyn) _DYNAMIC[];
extern const ElfW(Ehdr) __ehdr_start;

static uintptr_t entry_of(ElfW(Sxword) tag)
{
    for (ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == tag) {
            return entry->d_un.d_ptr;
        }
    }
    return 0;
}

// The slot of a symbol, by one of the tables. glibc has relocated what the dynamic section points to, musl has not.
static void **slot_in(const char *name, ElfW(Sxword) table, ElfW(Sxword) size)
{
    uintptr_t base = __ehdr_start.e_type == ET_DYN ? (uintptr_t)&__ehdr_start : 0;
    uintptr_t bias = entry_of(DT_STRTAB) < base ? base : 0;
    const ElfW(Rela) *row = (const void *)(entry_of(table) + bias);
    const ElfW(Sym) *symbols = (const void *)(entry_of(DT_SYMTAB) + bias);
    const char *names = (const char *)(entry_of(DT_STRTAB) + bias);
    for (size_t left = entry_of(size) / sizeof *row; left-- > 0; row++) {
        if (strcmp(names + symbols[ELF64_R_SYM(row->r_info)].st_name, name) == 0) {
            return (void **)(base + row->r_offset);
        }
    }
    return NULL;
}

static void **slot_of(const char *name)
{
    void **found = slot_in(name, DT_JMPREL, DT_PLTRELSZ);
    return found ? found : slot_in(name, DT_RELA, DT_RELASZ);
}

int impostor(const char *text)
{
    return printf("impostor: %s\n", text);
}

__attribute__((noinline)) void overwrite(void **slot, void *value)
{
    *(void *volatile *)slot = value;
}

static void answer(const char *line)
{
    fflush(stdout);
    if (write(1, line, strlen(line)) < 0) {
        _exit(1);
    }
}

int main(void)
{
    static char data[16];
    answer("ready\n");
    for (char letter; read(0, &letter, 1) == 1;) {
        if (letter == 'h') {
            puts("hello");
            answer("");
        } else if (letter == 'o') {
            overwrite(slot_of("puts"), (void *)impostor);
            answer("overwritten\n");
        } else if (letter == 'd') {
            overwrite(slot_of("puts"), data);
            answer("overwritten\n");
        }
    }
    return 0;
}
