"""A disk that fills up at any size of any file: one line, exit code 2, and the same command ends as if it had not."""

import os
from pathlib import Path

import pytest
from conftest import ROOT, launch, same
from test_damage import SSL, images, run, weights

SIZES = int(os.environ.get("MULTICROP_FAULTS", 1))  # sizes that are tried; `make faults` has more

# No file may grow beyond so many bytes; what would write on gets an error, as on a full disk
LIMITED = """
import resource, runpy, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
runpy.run_path({script!r}, run_name="__main__")
"""
__all__ = ["images"]  # the fixture


def words(datapath: Path, folder: Path) -> list[str]:
    flags = {**SSL, "datapath": datapath, "output_dir": folder}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
def test_at_any_size(images, tmp_path, record_property):
    record_property("tries", SIZES)
    pytest.importorskip("resource")
    run("pretrain", images, tmp_path / "whole")
    largest = (tmp_path / "whole" / "checkpoint.pt").stat().st_size
    script = tmp_path / "limited.py"
    script.write_text(LIMITED.format(script=str(ROOT / "train_ssl.py")))
    for number in range(SIZES):
        limit = largest * (number + 1) // (SIZES + 1)
        folder = tmp_path / f"full-{limit}"
        stopped = launch(str(script), limit, *words(images, folder))
        assert stopped.returncode == 2, stopped.stderr
        last = stopped.stderr.strip().splitlines()[-1]
        assert last.startswith("error: cannot write ") and "Traceback" not in stopped.stderr
        assert not list(folder.glob(".*.partial"))
        assert run("pretrain", images, folder)["status"] == "finished"
        same(weights(folder), weights(tmp_path / "whole"))
