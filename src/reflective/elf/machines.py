"""Other machines' names, and the program that would run their files here."""

from __future__ import annotations

ELFCLASS64, ELFDATA2MSB = 2, 2
EM_386 = 3

# e_machine (linux/elf-em.h): name, and qemu-user's name for 32 and 64 bits, little- and big-endian ("" for none).
MACHINES = {
    2: ("SPARC", "sparc", "", "sparc", ""),
    3: ("x86", "i386", "", "", ""),
    4: ("Motorola 68000", "", "", "m68k", ""),
    8: ("MIPS", "mipsel", "mips64el", "mips", "mips64"),
    15: ("PA-RISC", "", "", "hppa", ""),
    18: ("SPARC 32+", "", "", "sparc32plus", ""),
    20: ("PowerPC", "", "", "ppc", ""),
    21: ("PowerPC", "", "ppc64le", "", "ppc64"),
    22: ("S/390", "", "", "", "s390x"),
    40: ("Arm", "arm", "", "armeb", ""),
    42: ("SuperH", "sh4", "", "sh4eb", ""),
    43: ("SPARC V9", "", "", "", "sparc64"),
    94: ("Xtensa", "xtensa", "", "xtensaeb", ""),
    164: ("Hexagon", "hexagon", "", "", ""),
    183: ("AArch64", "", "aarch64", "", "aarch64_be"),
    189: ("MicroBlaze", "microblazeel", "", "microblaze", ""),
    243: ("RISC-V", "riscv32", "riscv64", "", ""),
    247: ("BPF", "", "", "", ""),
    258: ("LoongArch", "", "loongarch64", "", ""),
    0x9026: ("Alpha", "", "alpha", "", ""),
}


def describe(machine: int, elf_class: int, data: int) -> tuple[str, str]:
    """The machine's name with its word size ("RISC-V 64"), and what to do about a program for it."""
    wide, big = elf_class == ELFCLASS64, data == ELFDATA2MSB
    name, *emulators = MACHINES.get(machine, ("unknown", "", "", "", ""))
    emulator = emulators[2 * big + wide]
    if machine == EM_386:
        return f"{name} 32", "32-bit programs need the kernel's own execve"
    hint = (
        f"qemu-{emulator}-static runs it: apt-get install qemu-user-static, whose handler is registered with binfmt_misc"
        if emulator
        else ""
    )
    both = any(emulators[::2]) and any(emulators[1::2])
    return (f"{name} {64 if wide else 32}" if both else name), hint
