"""The host's half of the C core under sanitizers: a broken start is an errno, never a crash (tests/core/harness.c)."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest
from support import HOST_SOURCES, stub_code

ROOT = Path(__file__).parents[2]
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover", "-fno-omit-frame-pointer", "-O1", "-g")
WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Werror")
MUTATIONS, SEED = 200_000, 20_261_121

INVALID = {
    "argc_zero", "argc_too_large", "argc_takes_the_path", "argc_huge", "argc_overflows_in_bytes", "argc_most",
    "envc_too_large", "envc_most", "counts_overflow", "counts_sum_up_to_few", "strings_empty", "strings_without_last_nul",
    "strings_without_any_nul", "op_kind_out_of_range", "op_kind_most", "op_param_out_of_range", "op_param_most",
    "aux_param_out_of_range", "aux_param_most", "shuffle_out_of_range", "shuffle_most", "stack_top_zero", "stack_top_low",
    "stack_top_unaligned", "stack_top_most", "entry_param_out_of_range", "entry_param_most", "blob_zero", "blob_unaligned",
    "op_flags_unknown", "op_unmaps_the_area", "op_unmaps_unaligned", "op_munmap_unaligned", "op_munmap_nothing",
    "op_mmap_anywhere", "op_mmap_over_the_area", "op_mmap_file_offset", "op_mremap_anywhere", "op_zero_the_area",
    "op_zero_across_the_area", "op_copy_from_elsewhere", "op_copy_too_much", "op_copy_over_the_area", "op_data_beyond",
    "op_data_before",
}  # fmt: skip
TOO_LARGE = {
    "strings_most", "strings_as_large_as_the_stack", "op_count_too_large", "op_count_overflows_in_bytes", "op_count_most",
    "aux_count_too_large", "aux_count_most", "aux_count_overflows_in_bytes", "data_too_large", "data_most",
    "data_rounds_to_nothing", "platform_most", "platform_as_large_as_the_stack", "platform_too_large",
}  # fmt: skip
OTHER = {
    "blob_taken": errno.EEXIST,
    "op_call_unknown": errno.ENOSYS,
    **dict.fromkeys(
        ("blob_beyond_user_space", "op_unmaps_beyond", "op_munmap_most", "op_zero_beyond", "op_zero_overflows"), errno.ENOMEM
    ),
}


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The harness."""
    directory = tmp_path_factory.mktemp("harness")
    stub_code(directory)
    sources = [ROOT / "tests" / "core" / "harness.c", *HOST_SOURCES]
    target = directory / "harness"
    includes = (f"-I{ROOT / 'csrc'}", f"-I{directory}")
    command = ["gcc", *WARNINGS, *SANITIZERS, *includes, "-Wl,--wrap=syscall", *map(str, sources), "-o", str(target)]
    subprocess.run(command, check=True)
    return target


def run(harness: Path, *args: str) -> str:
    done = subprocess.run([harness, *args], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def expected(name: str) -> int:
    if name.startswith("good"):
        return 0
    if name in INVALID:
        return errno.EINVAL
    return errno.E2BIG if name in TOO_LARGE else OTHER[name]


def test_broken_starts_are_refused(harness: Path) -> None:
    rows = dict(line.split() for line in run(harness, "cases").splitlines())
    assert {name: int(number) for name, number in rows.items()} == {name: expected(name) for name in rows}
    assert INVALID | TOO_LARGE | OTHER.keys() <= rows.keys()


def test_random_starts_are_accepted_or_refused(harness: Path) -> None:
    _, accepted, _, refused = run(harness, "mutate", str(SEED), str(MUTATIONS)).split()
    assert int(accepted) + int(refused) == MUTATIONS
    assert min(int(accepted), int(refused)) > MUTATIONS // 10


def test_what_the_fuzzer_has_learned(harness: Path) -> None:
    """Each file of the corpus takes another way through the code (`tools/fuzz plan`)."""
    corpus = sorted(map(str, (ROOT / "tests" / "corpus" / "plan").iterdir()))
    assert len(corpus) > 10
    assert run(harness, "replay", *corpus) == ""
