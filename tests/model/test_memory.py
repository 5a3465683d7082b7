"""How much memory is free: the least of what the machine and the groups around us have left."""

from pathlib import Path

from model.memory import free_memory

MIB = 1 << 20


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def put_group(root: Path, name: str, limit: str, used: int, files: int) -> None:
    group = root / "sys/fs/cgroup" / name
    write(group / "memory.max", f"{limit}\n")
    write(group / "memory.current", f"{used}\n")
    write(group / "memory.stat", f"anon 5\nactive_file 7\ninactive_file {files}\nfile 9\n")


def machine(root: Path, group: str = "a/b") -> Path:
    write(root / "proc/meminfo", "MemTotal: 9000 kB\nMemFree: 1000 kB\nMemAvailable: 8192 kB\n")
    write(root / "proc/self/cgroup", f"4:memory:/elsewhere\n0::/{group}\n")
    return root


def test_a_machine_without_groups_says_what_is_available(tmp_path: Path) -> None:
    assert free_memory(machine(tmp_path)) == 8 * MIB
    assert free_memory() > 10 * MIB


def test_a_group_has_what_its_limit_leaves_and_the_files_that_it_keeps(tmp_path: Path) -> None:
    put_group(machine(tmp_path), "a/b", str(6 * MIB), 5 * MIB, 2 * MIB)
    assert free_memory(tmp_path) == 3 * MIB


def test_the_groups_around_it_count_as_well(tmp_path: Path) -> None:
    put_group(machine(tmp_path), "a/b", "max", 5 * MIB, 0)
    put_group(tmp_path, "a", str(6 * MIB), 5 * MIB, 0)
    assert free_memory(tmp_path) == MIB


def test_a_group_that_is_full_has_nothing_left(tmp_path: Path) -> None:
    put_group(machine(tmp_path, ""), ".", str(4 * MIB), 5 * MIB, 0)
    assert free_memory(tmp_path) == 0


def test_where_nobody_says_it_is_nothing(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == 0
