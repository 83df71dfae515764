"""Machine facts hold what a reader needs and nothing that identifies anyone; records are written whole."""

from __future__ import annotations

import getpass
import json
import math
import re
import socket
import subprocess
from pathlib import Path

import pytest

from fcn_edge.benchmarks import record
from fcn_edge.benchmarks.record import machine_facts, passes, write_record
from fcn_edge.errors import UsageError
from fcn_edge.skip_head import native_targets


def test_facts_describe_this_machine():
    facts = machine_facts()
    assert facts["cpu"]
    assert 1 <= facts["usable_cores"] <= facts["cores"]
    assert facts["memory_mib"] is None or facts["memory_mib"] > 100
    assert {"numpy", "fcn-edge"} <= set(facts["packages"])
    assert facts["instruction_set"] == (native_targets() or (None,))[0]


def test_facts_identify_nobody():
    text = json.dumps(machine_facts())
    assert str(Path.home()) not in text
    assert str(Path(__file__).parents[2]) not in text
    assert not re.search(r'["\s]/\w', text), "an absolute path"
    words = set(text.replace('"', " ").split())
    assert socket.gethostname() not in words
    assert getpass.getuser() not in words


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "record.py").write_text("first\n")
    monkeypatch.setattr(record, "__file__", str(package / "record.py"))
    assert record._checkout() == (None, None)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    assert record._checkout() == (None, None), "a file that git does not track is not of that checkout"
    git("add", "-A")
    git("commit", "-qm", "x")
    commit = git("rev-parse", "HEAD")
    assert record._checkout() == (commit, False)
    (package / "record.py").write_text("second\n")
    assert record._checkout() == (commit, True)


def test_gpus_are_read_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch):
    lines = "NVIDIA H200, 570.1, 143771\nOrin (nvgpu), 540.4.0, [N/A]"
    monkeypatch.setattr(record, "_output", lambda *command: lines if command[0] == "nvidia-smi" else "")
    assert machine_facts()["gpus"] == [
        {"name": "NVIDIA H200", "driver": "570.1", "memory_mib": 143771},
        {"name": "Orin (nvgpu)", "driver": "540.4.0", "memory_mib": None},
    ]


def test_a_jetson_is_recognised(monkeypatch: pytest.MonkeyPatch):
    files = {
        "/proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
        "/proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
        "/proc/meminfo": "MemTotal:       64349548 kB\n",
    }
    monkeypatch.setattr(record, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(record.platform, "machine", lambda: "aarch64")
    facts = machine_facts()
    assert facts["board"] == "NVIDIA Jetson AGX Orin Developer Kit, R36 (release), REVISION: 4.3"
    assert facts["cpu"] == "aarch64 part 0xd42"
    assert (facts["cpu_id"], facts["cpu_features"], facts["mhz"]) == (None, ["asimddp"], None)
    assert facts["memory_mib"] == 62841


def test_machines_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    """An "AMD EPYC" of a cloud may be any of four generations."""
    core = (
        "processor\t: {}\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
        "stepping\t: 1\ncpu MHz\t\t: 2599.998\nflags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 avx512vl\n"
    )
    files = {"/proc/cpuinfo": core.format(0) + "\n" + core.format(1).replace("2599.998", "3500")}
    monkeypatch.setattr(record, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(record.os, "getloadavg", lambda: (1.238, 7.0, 9.0))
    facts = machine_facts()
    assert (facts["cpu"], facts["cpu_id"]) == ("AMD EPYC", "25/17/1")
    assert facts["cpu_features"] == ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"]
    assert (facts["mhz"], facts["governor"], facts["load"]) == (2600, None, 1.24)
    files["/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"] = "3700000\n"
    files["/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"] = "powersave\n"
    assert (machine_facts()["mhz"], machine_facts()["governor"]) == (3700, "powersave")

    def none() -> None:
        raise OSError

    files.clear()
    monkeypatch.setattr(record.os, "getloadavg", none)
    facts = machine_facts()
    assert facts["cpu_features"] == []
    assert [facts[key] for key in ("cpu_id", "mhz", "governor", "load")] == [None] * 4


def test_passes_are_over_the_images_whatever_an_epoch_was():
    training = {"config": {"steps_per_epoch": 0, "batch": 12}, "epochs": 41, "steps": 943}
    assert passes(training) == 41
    training |= {"config": {"steps_per_epoch": 500, "batch": 32}, "epochs": 3, "steps": 1279}
    assert passes(training | {"provenance": {"train_images": "468"}}) == 87


def test_a_missing_or_failing_program_says_nothing():
    assert record._output("no-such-program-here") == ""
    assert record._output("git", "no-such-command") == ""


def test_a_record_is_json_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "deep" / "record.json"
    write_record(path, {"miou": math.nan, "size_hw": (360, 480), "größe": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"miou": None, "size_hw": [360, 480], "größe": 1}
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_record(path, {"bad": object()})
    assert path.read_bytes() == before
    assert [child.name for child in path.parent.iterdir()] == ["record.json"]


def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written \(.+\); give another place"):
        write_record(tmp_path / "file" / "record.json", {})


def test_usable_cores_heed_a_containers_limit(monkeypatch):
    monkeypatch.setattr(record, "cpu_limit", lambda: 1)
    assert record.machine_facts()["usable_cores"] == 1
    monkeypatch.setattr(record, "cpu_limit", lambda: None)
    monkeypatch.setattr(record.os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert record.machine_facts()["usable_cores"] == 6
