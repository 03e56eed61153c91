import importlib.metadata
import os
import subprocess
import sys

import pytest

from service.cli import memory_allocator
from service.cli.memory_allocator import environment_for_models
from tests.support.server_process import REPOSITORY

STARTS_ANEW = """
import os, sys
from pathlib import Path
from service.cli.memory_allocator import start_anew_for_models
print(os.getpid())
start_anew_for_models()
loaded = [Path(line.split()[-1]).name for line in open("/proc/self/maps") if "tbbmalloc" in line]
print(sorted(set(loaded)), sys.argv[1:])
"""
NEEDS_TBB = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="oneTBB is installed on Linux on x86-64 alone"
)


def clean_environment(**environment):
    return {
        name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "GLIBC_TUNABLES")
    } | environment


def started_anew(code=STARTS_ANEW, **environment):
    command = [sys.executable, "-c", code, "--port", "말길"]
    ran = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout.splitlines()


@NEEDS_TBB
def test_the_process_starts_anew_once_with_the_same_arguments():
    first, second, loaded = started_anew()
    assert first == second  # one process, and so the same for whoever supervises it
    assert loaded == "['libtbbmalloc.so.2', 'libtbbmalloc_proxy.so.2'] ['--port', '말길']"


def test_where_the_loader_drops_it_the_process_starts_anew_only_once():
    dropped = "import os\nfor name in ('LD_PRELOAD', 'GLIBC_TUNABLES'): os.environ.pop(name, None)\n"
    ran = started_anew(code=dropped + STARTS_ANEW)
    assert ran[:2] == [ran[0]] * 2
    assert len(ran) == 3
    assert "STARTED_ANEW" not in ran[2]


@pytest.mark.parametrize("chosen", [{"LD_PRELOAD": ""}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}])
def test_who_has_chosen_keeps_what_is_chosen(chosen):
    _, loaded = started_anew(**chosen)
    assert loaded == "[] ['--port', '말길']"


def test_without_the_library_glibc_takes_huge_pages(monkeypatch):
    def none_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(memory_allocator, "files", none_installed)
    monkeypatch.setattr(sys, "platform", "linux")
    assert environment_for_models({}) == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@pytest.mark.parametrize("folder", ["/a folder", "/a:b"])
def test_a_path_that_the_loader_would_part_is_not_preloaded(monkeypatch, folder):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory_allocator, "_installed", lambda: [f"{folder}/one.so", f"{folder}/two.so"])
    assert "LD_PRELOAD" not in environment_for_models({})


def test_elsewhere_than_on_linux_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert environment_for_models({}) == {}
