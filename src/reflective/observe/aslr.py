"""How random the address of a region is, from its addresses in many starts; and what the kernel's rules say.

The estimator, for n addresses of one region:

* The *step* is the greatest common divisor of their differences: the alignment that is left of the randomness.
* If they are spread evenly over an interval, the interval's length follows from the sample's: the largest less the smallest,
  times (n + 1) / (n - 1). The bits are log2 of the steps in it. The sample's length as a fraction of the interval's has the
  distribution Beta(n - 1, 2), which gives the 95 % bound: about ±0.01 bits with 1000 starts, ±0.1 with 100.
* Evenly is tested: by Kolmogorov and Smirnov's distance (below 2.2/√n; an even spread exceeds it once in 8000) and bit by bit
  (each bit of the position but the highest three is set in half of the starts, give or take 5 standard deviations). If a test
  fails, the bits are an upper bound and `even` is false.
* `proven` needs no assumption: n addresses with c equal pairs come from at least so many bits (of collision entropy, 95 %).
  With 1000 starts no more than 17 bits can be proven.
* Where a value comes 8 times or more on average it is plainly the entropy of the frequencies, with Miller's correction.

The rules: arch/x86/mm/mmap.c (arch_mmap_rnd, mmap_base), fs/binfmt_elf.c (load_elf_binary, randomize_stack_top),
arch/x86/kernel/process.c (arch_align_stack, arch_randomize_brk), mm/huge_memory.c (thp_get_unmapped_area).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from ..elf.image import PAGE, ElfImage
from ..plan.build import LoadPlan
from ..plan.layout import PMD, STACK_RND_BITS, System
from ..values import Value

KS_LIMIT, SIGMAS, MANY = 2.2, 5.0, 8
STACK_ALIGN = 16


class Region(Value):
    """A region in the starts of one sample, in bytes. `varying` has the address bits that were not always the same."""

    name: str
    runs: int
    distinct: int
    low: int
    high: int
    step: int
    varying: int
    bits: float
    least: float
    most: float
    proven: float
    even: bool


class Rule(Value):
    """What the kernel does with a region: the bits that it has, and why, in words."""

    bits: float
    words: str


class Finding(Value):
    """A region by each way of starting, with the kernel's rule for it and what can be said in words."""

    name: str
    regions: Mapping[str, Region]
    rule: Rule
    notes: tuple[str, ...]


def region(name: str, addresses: Sequence[int]) -> Region:
    """The entropy of a region, by the estimator above. There must be two addresses at least."""
    n, low, high = len(addresses), min(addresses), max(addresses)
    counts = Counter(addresses)
    step = math.gcd(*(address - low for address in addresses))
    varying = 0
    for address in addresses:
        varying |= address ^ low
    pairs = sum(count * (count - 1) // 2 for count in counts.values())
    proven = max(math.log2(n * (n - 1) / 2 / _at_most(pairs)), 0.0)
    if low == high:
        return Region(name, n, 1, low, high, 0, 0, 0.0, 0.0, math.log2(1 + 3 / (n - 1)), 0.0, True)
    positions = [(address - low) // step for address in addresses]
    span = max(positions)
    if len(counts) * MANY <= n:
        bits = _frequencies(counts, n)
        spread = 2 / math.sqrt(n)
        least, most, even = max(bits - spread, proven), min(bits + spread, math.log2(span + 1)), True
    else:
        bits = math.log2(span * (n + 1) / (n - 1) + 1)
        least, most = (math.log2(span / _quantile(n, p) + 1) for p in (0.975, 0.025))
        even = is_even(positions)
    return Region(name, n, len(counts), low, high, step, varying, bits, least, most, min(proven, bits), even)


def is_even(positions: Sequence[int]) -> bool:
    """True if neither the distance from an even spread nor a bit of the positions speaks against one."""
    n, span = len(positions), max(positions)
    ordered = sorted(position / span for position in positions)
    distance = max(max((i + 1) / n - value, value - i / n) for i, value in enumerate(ordered))
    if distance * math.sqrt(n) > KS_LIMIT:
        return False
    for bit in range(span.bit_length() - 3):
        ones = sum(position >> bit & 1 for position in positions)
        if abs(ones - n / 2) > SIGMAS * math.sqrt(n) / 2:
            return False
    return True


def _frequencies(counts: Mapping[int, int], n: int) -> float:
    plain = -sum(count / n * math.log2(count / n) for count in counts.values())
    return plain + (len(counts) - 1) / (2 * n * math.log(2))


def _quantile(n: int, p: float) -> float:
    """Of Beta(n - 1, 2): the range of n even numbers between 0 and 1."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = n * middle ** (n - 1) - (n - 1) * middle**n
        low, high = (middle, high) if below < p else (low, middle)
    return max((low + high) / 2, 1e-9)


def _at_most(pairs: int) -> float:
    """The 95 % upper bound of a Poisson mean of which `pairs` were seen (Wilson and Hilferty's cube)."""
    if pairs == 0:
        return -math.log(0.05)
    degrees = 2 * (pairs + 1)
    return degrees / 2 * (1 - 2 / (9 * degrees) + 1.645 * math.sqrt(2 / (9 * degrees))) ** 3


def rule(name: str, plan: LoadPlan, system: System, fixed: bool) -> Rule:
    """What the kernel's rules give this region. `fixed`: ADDR_NO_RANDOMIZE is set."""
    if fixed:
        return Rule(0, "ADDR_NO_RANDOMIZE")
    if not system.randomize:
        return Rule(0, "kernel.randomize_va_space is 0")
    if name == "stack":
        return Rule(STACK_RND_BITS, "22 bits of pages")
    if name == "stack pointer":
        return Rule(STACK_RND_BITS + math.log2(PAGE / STACK_ALIGN), "22 bits of pages, and 16-byte steps within one")
    if name in ("heap", "heap gap"):
        return _heap(name, plan, system)
    if name == "executable":
        return _executable(plan.executable, plan.interpreter is not None, system)
    return Rule(system.rnd_bits, "moves with the mmap base: vm.mmap_rnd_bits")


def _executable(image: ElfImage, interpreted: bool, system: System) -> Rule:
    if not image.relocatable:
        return Rule(0, "not position-independent (ET_EXEC)")
    if not interpreted:
        return Rule(system.rnd_bits, "static and position-independent: moves with the mmap base")
    align = max((load.align for load in image.loads), default=PAGE)
    lost = math.log2(align / PAGE) if align > PAGE else 0.0
    return Rule(system.rnd_bits - lost, "vm.mmap_rnd_bits" + (f" less {lost:g} for p_align {align:#x}" if lost else ""))


def _heap(name: str, plan: LoadPlan, system: System) -> Rule:
    pages = math.log2(system.brk_range // PAGE) if system.randomize == 2 else 0.0
    own = f"{system.brk_range >> 20} MiB of pages" if pages else "kernel.randomize_va_space is 1"
    image = plan.executable
    if image.relocatable and plan.interpreter and name == "heap":
        return Rule(float(system.rnd_bits), f"moves with the executable, and {own}")
    if image.relocatable and not plan.interpreter and name == "heap gap":
        return Rule(float(system.rnd_bits), "a static PIE's heap is far from it")
    return Rule(pages, own)


def findings(
    samples: Mapping[str, Mapping[str, Sequence[int]]], plan: LoadPlan, system: System, fixed: bool
) -> tuple[Finding, ...]:
    """One finding a region, in the order of the first sample; `samples` are addresses by way of starting and region."""
    found = []
    first = next(iter(samples.values()))
    for name in first:
        regions = {via: region(name, sample[name]) for via, sample in samples.items() if name in sample}
        known = rule(name, plan, system, fixed)
        found.append(Finding(name, regions, known, tuple(_notes(regions, known))))
    return tuple(found)


def _notes(regions: Mapping[str, Region], known: Rule) -> list[str]:
    notes = []
    for via, one in regions.items():
        if one.step >= PMD and known.bits:
            notes.append(f"{via}: on multiples of {one.step >> 20} MiB: {math.log2(one.step / PAGE):g} bits fewer")
        elif one.distinct == 1 and known.bits:
            notes.append(f"{via}: always at {one.low:#x}")
        elif known.bits - one.most > 1:
            notes.append(f"{via}: {known.bits - one.bits:.1f} bits fewer than the rule")
        if not one.even:
            notes.append(f"{via}: not evenly spread, the bits are an upper bound")
    if len(regions) == 2:
        one, other = regions.values()
        if abs(one.bits - other.bits) > 1:
            notes.append(f"{abs(one.bits - other.bits):.1f} bits apart")
    return notes


def summary(plan: LoadPlan, system: System, fixed: bool) -> tuple[str, ...]:
    """What holds for the whole program, in sentences."""
    said = []
    if fixed:
        said.append("Randomization is off in this process and its children: ADDR_NO_RANDOMIZE (setarch -R).")
    elif system.randomize < 2:
        off = "only the heap is" if system.randomize else "nothing is"
        said.append(f"kernel.randomize_va_space is {system.randomize}: {off}{' not' if system.randomize else ''} random.")
    if not plan.executable.relocatable:
        said.append("The executable is not position-independent (ET_EXEC): it always lies where it was linked to.")
    if not plan.interpreter:
        said.append("The program is static: no interpreter, no libraries.")
    return tuple(said)
