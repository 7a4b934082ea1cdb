/* Whether every segment of this program lies as p_align (argv[1]) wants it. */
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

int main(int argc, char **argv)
{
    const ElfW(Phdr) *headers = (const void *)getauxval(AT_PHDR);
    unsigned long align = argc > 1 ? strtoul(argv[1], NULL, 0) : 0, bias = 0, wrong = 0, count = getauxval(AT_PHNUM);
    for (unsigned long i = 0; i < count; i++)
        if (headers[i].p_type == PT_PHDR)
            bias = (unsigned long)headers - headers[i].p_vaddr;
    for (unsigned long i = 0; i < count; i++)
        if (headers[i].p_type == PT_LOAD && headers[i].p_align != align)
            wrong++;
    if (bias % align)
        wrong++;
    puts(wrong ? "not aligned" : "aligned");
    return wrong != 0;
}
