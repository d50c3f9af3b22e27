"""Where --log sends a run's numbers: with the real libraries, which stay on this machine, where they are installed."""

import csv
import json

import pytest
from conftest import launch

from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.flags import from_flags, to_flags
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine import trackers
from multicrop.engine.run import Run


class Recorder:
    """A tracker that keeps what it is told, by the name of its record."""

    told: dict[str, list] = {}  # noqa: RUF012

    def __init__(self, folder, recipe, record):
        self.record = record or f"record {len(self.told) + 1}"
        self.told.setdefault(self.record, []).append(("recipe", recipe["lr"]))

    def add(self, step, numbers):
        self.told[self.record].append((step, numbers))

    def close(self):
        self.told[self.record].append("closed")


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Recorder)
    monkeypatch.setattr(trackers, "check_installed", lambda names: None)
    monkeypatch.setattr(Recorder, "told", {})
    return Recorder.told


def measure(folder, *steps, start=0, log=("wandb",), close=True):
    run = Run(folder, {"lr": 0.5, "log": list(log)}, ("log",))
    run.open(start, {})
    for step in steps:
        run.log(step, loss=step / 10, note="words")
    if close:
        run.close()


def test_a_resumed_run_goes_on_in_its_record_and_a_new_one_begins_another(tmp_path, told):
    measure(tmp_path, 1, 2)
    measure(tmp_path, 3, start=2)
    first = [("recipe", 0.5), (1, {"loss": 0.1}), (2, {"loss": 0.2}), "closed"]
    assert told == {"record 1": [*first, ("recipe", 0.5), (3, {"loss": 0.3}), "closed"]}
    measure(tmp_path, 1)
    assert told["record 2"] == [("recipe", 0.5), (1, {"loss": 0.1}), "closed"]


def test_a_record_that_a_resumed_run_begins_has_the_rows_so_far(tmp_path, told):
    measure(tmp_path, 1, 2, log=())
    measure(tmp_path, 3, start=2)
    assert [said[0] for said in told["record 1"]] == ["recipe", 1, 2, 3, "c"]


def test_a_tracker_that_fails_is_said_once_and_ends_nothing(tmp_path, told, monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("no disk\nat all")

    monkeypatch.setattr(Recorder, "add", fails)
    measure(tmp_path, 1, 2)
    said = capsys.readouterr().err
    assert said.count("warning: no record of wandb: RuntimeError: no disk; all else goes on") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_rows_as_a_table(tmp_path):
    run = Run(tmp_path, {"log": ["csv"]})
    run.open(0, {})
    run.log(1, loss=0.5)
    run.log(2, loss=0.25, knn_top1=80.0)
    assert not (tmp_path / "metrics.csv").exists()
    run.close()
    with open(tmp_path / "metrics.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == ["step", "time", "loss", "knn_top1"]
    assert (first["step"], first["loss"], first["knn_top1"]) == ("1", "0.5", "")
    assert second["knn_top1"] == "80.0"


@pytest.mark.parametrize("recipe_type", [Pretraining, Finetuning])
def test_both_stages_have_the_flag_and_may_change_it_at_a_resume(recipe_type):
    recipe = from_flags(recipe_type, {"log": ["csv"]})
    assert to_flags(recipe)["log"] == ["csv"] and "log" in recipe.OPERATIONAL


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_library_is_one_line_before_anything_is_written(name, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=f"--log {name} needs {name}: pip install {name}"):
        Run(tmp_path / "run", {"log": [name]})
    assert not (tmp_path / "run").exists()


# The libraries


@pytest.mark.slow
def test_wandb_writes_offline_and_goes_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb", reason="wandb is optional")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    measure(tmp_path, 1, 2)
    measure(tmp_path, 3, start=2)
    record = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    written = sorted((tmp_path / "wandb").glob(f"offline-run-*-{record}/run-{record}.wandb"))
    assert len(written) == 2 and b"loss" in written[1].read_bytes()
    said = capsys.readouterr()
    assert said.out == "" and "warning" not in said.err
    assert f"wandb: offline record {record}; wandb sync" in said.err


@pytest.mark.slow
def test_mlflow_has_one_run_with_all_points(tmp_path, monkeypatch, capsys):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is optional")
    pytest.importorskip(
        "sqlalchemy", reason="mlflow without a database cannot stay on this machine"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    measure(tmp_path / "run", 1, 2, log=("mlflow",))
    measure(tmp_path / "run", 3, start=2, log=("mlflow",))
    record = json.loads((tmp_path / "run" / "trackers.json").read_text())["mlflow"]
    client = mlflow.MlflowClient()
    points = client.get_metric_history(record, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    run = client.get_run(record)
    assert run.data.params["lr"] == "0.5" and run.info.status == "FINISHED"
    said = capsys.readouterr()
    assert said.out == "" and "warning" not in said.err


@pytest.mark.slow
def test_trackio_has_one_run_with_all_points(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="trackio is optional")
    measure(tmp_path / "run", 1, 2, log=("trackio",))
    measure(tmp_path / "run", 3, start=2, log=("trackio",))
    record = json.loads((tmp_path / "run" / "trackers.json").read_text())["trackio"]
    said = capsys.readouterr()
    assert said.out == "" and "warning" not in said.err
    (run,) = trackio.Api().runs("multicrop")
    assert run.name == record
    points = trackio.SQLiteStorage.get_logs("multicrop", record)
    assert [(point["step"], point["loss"]) for point in points] == [(1, 0.1), (2, 0.2), (3, 0.3)]


@pytest.mark.slow
def test_the_result_is_the_last_line_that_a_run_prints(colours, tmp_path):
    pytest.importorskip("trackio", reason="trackio is optional")
    flags = {
        "dataset": "image_folder", "datapath": colours, "image_size": 16, "embed_dim": 24, "num_layers": 1,
        "num_heads": 2, "epochs": 2, "max_steps": 1, "batch_size_per_gpu": 32, "knn_freq": 0, "recipe": "published",
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    output = ("--output_dir", tmp_path / "run")
    done = launch("pretrain", *words, *output, "--log", "trackio", "csv", TRACKIO_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and json.loads(done.stdout)["status"] == "stopped"
    assert (tmp_path / "run" / "metrics.csv").exists() and "warning: no" not in done.stderr
