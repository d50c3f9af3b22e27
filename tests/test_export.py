"""A trained network leaves its run: as a graph that other runtimes run, and as weights that timm loads."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from conftest import ROOT, content_of, recipe, rows_of, same
from finetuning import run as finetune
from huggingface_hub import ModelCard
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from PIL import Image
from test_models import images

import multicrop
from multicrop import cli, registry
from multicrop.augment.evaluation import EvalTransform
from multicrop.commands import _export_check, _export_onnx, export
from multicrop.commands import finetune as finetune_command
from multicrop.commands._export_command import command_of
from multicrop.commands._export_graph import Graph
from multicrop.config.export import GraphSettings, Recipe
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.pretrain import Recipe as Pretraining
from multicrop.engine import checkpoint
from multicrop.engine.metadata import Checkpoint, Metadata
from multicrop.supervised.classifier import Classifier

CLASSES = ["blue", "green", "red"]
SIZE = 32
COUNTS = (1, 2, 5)

pytestmark = [
    pytest.mark.usefixtures("onnx_functions"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def run(colours, tmp_path_factory) -> Path:
    """A finetuned run with validation images, and so with weights that they selected."""
    folder = tmp_path_factory.mktemp("runs") / "ft"
    settings = {"image_size": SIZE, "num_layers": 1, "epochs": 1, "val_fraction": 0.2, "sd": 0.0}
    finetune(colours, folder, **settings)
    return folder


@pytest.fixture(scope="module")
def results(run) -> dict[str, dict]:
    """The run in every form, written where the command puts it, as docs/export.md has it."""
    flags: dict[str, dict] = {"onnx": {"input": "uint8"}, "torch": {}, "timm": {}}
    flags["hf"] = {"license": "cc-by-4.0", "name": "three-colours"}
    return {
        to: export.run(recipe(Recipe, model=str(run), to=to, **more)) for to, more in flags.items()
    }


@pytest.fixture(scope="module")
def pretrained(colours, tmp_path_factory) -> Path:
    """A backbone of stage one, as its checkpoint would be."""
    folder = tmp_path_factory.mktemp("pretrained")
    options = {"arch": "vit", "embed_dim": 24, "num_layers": 1, "num_heads": 2}
    return saved(folder, options, colours, kind="ssl")


def saved(folder: Path, options: dict, colours: Path, kind: str = "finetune", **data) -> Path:
    """A checkpoint of a network with random weights."""
    options = {"image_size": SIZE, "in_channels": 3, **options}
    torch.manual_seed(0)
    network = registry.backbone(**options)
    state = {"teacher": {f"backbone.{key}": value for key, value in network.state_dict().items()}}
    if kind == "finetune":
        state = {"model": Classifier(network, len(CLASSES)).state_dict()}
    facts = {
        "dataset": "image_folder",
        "classes": CLASSES,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
    }
    metadata = Metadata(kind, 7, 1.0, {"datapath": str(colours)}, options, facts | data)
    path = folder / "checkpoint.pt"
    checkpoint.save(Checkpoint(metadata, state), path)
    return path


def exported(model: Path, to: str, tmp_path: Path, **flags) -> dict:
    """What the command returns; the file or folder is its `out`."""
    return export.run(recipe(Recipe, model=str(model), to=to, output=str(tmp_path / to), **flags))


def session(path: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def outputs(path: str, x: torch.Tensor) -> torch.Tensor:
    (values,) = session(path).run(None, {"images": x.numpy()})
    return torch.from_numpy(values)


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(
        256, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.uint8
    )


def close(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


# Graphs


@torch.no_grad()
def test_a_classifier_as_onnx(run, results):
    result = results["onnx"]
    assert result["output"] == str(run / "model.onnx") and result["status"] == "finished"
    assert result["max_difference"].keys() == {"random", "real"}
    assert max(result["max_difference"].values()) <= 1e-4
    assert (result["returns"], result["classes"]) == ("logits", 3)
    network = multicrop.load_classifier(run)
    for count in COUNTS:
        x = pixels(count, 3, SIZE, SIZE)
        close(outputs(result["output"], x), network(multicrop.transform(network)(x)))
    (given,) = session(result["output"]).get_inputs()
    assert given.shape == ["batch", 3, SIZE, SIZE] and given.type == "tensor(uint8)"
    facts = {
        item.key: json.loads(item.value) for item in onnx.load(result["output"]).metadata_props
    }
    assert facts["classes"] == CLASSES and facts["image_size"] == SIZE
    assert facts["mean"] == list(network.mean) and facts["std"] == list(network.std)
    onnx.checker.check_model(result["output"])


@torch.no_grad()
def test_a_classifier_as_a_program(run, results):
    said = {"multicrop.json": ""}
    program = torch.export.load(results["torch"]["output"], extra_files=said).module()
    facts = json.loads(said["multicrop.json"])
    assert facts["returns"] == "logits" and facts["input"]["type"] == "float32"
    assert facts["classes"] == CLASSES
    network = multicrop.load_classifier(run)
    for count in COUNTS:
        x = images(SIZE, batch=count)
        assert torch.equal(program(x), network(x))


def test_the_page_about_it_runs_as_printed(run, results, tmp_path, monkeypatch):
    (tmp_path / "runs").symlink_to(run.parent)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL
    ):
        exec(block, names)
    assert names["logits"].shape == (1, 3) and names["model"].num_classes == 3


@torch.no_grad()
def test_pixels_of_any_size_go_into_one_graph(run, tmp_path):
    flags = {"input": "uint8", "layout": "nhwc", "resize": True, "returns": "probabilities"}
    result = exported(run, "onnx", tmp_path, **flags)
    assert result["input"]["shape"] == ["batch", "height", "width", 3]
    network = multicrop.load_classifier(run)
    for count, height, width in ((1, 40, 23), (2, SIZE, SIZE), (5, 9, 64)):
        x = pixels(count, height, width, 3)
        seen = multicrop.transform(network)(x.permute(0, 3, 1, 2))
        expected = network(seen).softmax(1)
        # The graph does not round resized levels: half a level of 255 is what it may differ by.
        torch.testing.assert_close(outputs(result["output"], x), expected, rtol=0, atol=2e-2)
    close(outputs(result["output"], x).sum(1), torch.ones(5))


@torch.no_grad()
def test_a_program_takes_pixels_and_no_levels_that_are_floats(run, tmp_path):
    """Those would be divided by 255 a second time."""
    result = exported(run, "torch", tmp_path, input="uint8")
    network = multicrop.load_classifier(run)
    program = torch.export.load(result["output"]).module()
    x = pixels(5, 3, SIZE, SIZE)
    assert torch.equal(program(x), network(multicrop.transform(network)(x)))
    with pytest.raises(RuntimeError, match=r"Expected: (Byte|unsigned char), Got: [fF]loat"):
        program(torch.rand(2, 3, SIZE, SIZE))


@pytest.mark.parametrize("share", [None, 0.875])
def test_resizing_in_the_graph_is_that_of_the_evaluation(share):
    transform = EvalTransform(24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop_pct=share)
    exported = type("Exported", (), {"transform": transform, "returns": "features"})
    exported.network = torch.nn.Linear(1, 1)
    graph = Graph(exported, GraphSettings(input="uint8", resize=True))
    for height, width in ((48, 70), (24, 24), (11, 30)):
        x = pixels(2, 3, height, width)
        difference = (graph.resized(x.float()) - transform.resize(x)).abs()
        assert difference.max() <= 1.5 and difference.mean() < 0.4


class Resizing(NamedTuple):
    """A network whose images are brought to its size, and what it was exported as."""

    fit: str
    path: Path
    onnx: str
    program: torch.nn.Module
    timm: str


@pytest.fixture(scope="module", params=["crop", "squeeze", "pad"])
def resizing(request, colours, tmp_path_factory) -> Resizing:
    """By each way of bringing images of another shape to the network's."""
    folder = tmp_path_factory.mktemp("resizing")
    options = {"arch": "vit", "num_layers": 1}
    path = saved(folder, options, colours, fit=request.param, channels=3, value_range={})
    pixels_of_any_size = {"input": "uint8", "resize": True, "images": 0}
    graph = exported(path, "onnx", folder, **pixels_of_any_size)["output"]
    program = exported(path, "torch", folder, **pixels_of_any_size)["output"]
    timms = exported(path, "timm", folder, images=0)["output"]
    return Resizing(request.param, path, graph, torch.export.load(program).module(), timms)


@torch.no_grad()
@pytest.mark.parametrize("size", [(200, 200), (170, 90), (20, 20)])
def test_an_image_file_gives_the_same_logits_by_every_way_out(size, resizing, tmp_path):
    """Larger than the network's, of another shape, and smaller: by predict, a graph, timm and multicrop.transform."""
    width, height = size
    rough = np.random.default_rng(0).integers(0, 256, (height // 5, width // 5, 3), np.uint8)
    picture = Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)
    picture.save(tmp_path / "image.png")
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]

    rows = tmp_path / "rows.jsonl"
    flags = {"topk": 3, "calibrated": False, "precision": "fp32"}
    multicrop.predict(resizing.path, tmp_path / "image.png", output=rows, **flags)
    top = dict(json.loads(rows.read_text())["top"])
    expected = torch.tensor([[top[name] for name in CLASSES]]).log()

    network = multicrop.load_classifier(resizing.path)
    found = {"transform": network(multicrop.transform(network)(x))}
    found["onnx"] = outputs(resizing.onnx, x)
    found["torch"] = resizing.program(x)
    model = timm.create_model(f"local-dir:{resizing.timm}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    found["timm"] = model(timm.data.create_transform(**config)(picture)[None])
    # timm rounds the longer side of a crop, and fills with the mean of the training images
    timms = 0.4 if resizing.fit == "pad" else 0.02
    tolerances = {"transform": 1e-3, "onnx": 3e-3, "torch": 3e-3, "timm": timms}
    for name, logits in found.items():
        difference = (logits.log_softmax(1) - expected).abs().max().item()
        assert difference < tolerances[name], name


@torch.no_grad()
def test_a_pretrained_backbone_gives_features(pretrained, tmp_path):
    backbone, x = multicrop.load(pretrained), images(SIZE, batch=3)
    result = multicrop.export(pretrained, to="torch", output=tmp_path / "features.pt2")
    assert (result["returns"], result["classes"]) == ("features", 0)
    assert torch.equal(torch.export.load(result["output"]).module()(x), backbone(x))
    folder = exported(pretrained, "timm", tmp_path)["output"]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert model.num_classes == 0 and torch.equal(model(x), backbone(x))


WRONG = {
    "size": (pixels(2, 3, 8, 8), r"images\.size\(\)\[2\] == 32", "index: 2 Got: 8 Expected: 32"),
    "channels": (pixels(2, 1, 32, 32), r"images\.size\(\)\[1\] == 3", "index: 1 Got: 1 Expected: 3"),
    "one": (pixels(3, 32, 32), r"images\.size\(\)", "Invalid rank for input: images Got: 3 Expected: 4"),
    "type": (
        torch.zeros(2, 3, 32, 32).double(), "Expected: Float, Got: [dD]ouble",
        r"Actual: \(tensor\(double\)\) , expected: \(tensor\(uint8\)\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_images_are_refused_with_what_is_expected(results, what):
    x, of_torch, of_onnx = WRONG[what]
    program = torch.export.load(results["torch"]["output"]).module()
    with pytest.raises((AssertionError, RuntimeError), match=of_torch):
        program(x.float() if x.dtype == torch.uint8 else x)
    with pytest.raises(InvalidArgument, match=of_onnx):
        session(results["onnx"]["output"]).run(None, {"images": x.numpy()})


def test_nothing_that_is_no_export_is_replaced(run, tmp_path):
    """A run's own files least of all; an earlier export is."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/README.md").write_text("mine")
    (tmp_path / "photos/cats").mkdir(parents=True)
    for to, out, words in (
        ("onnx", folder / "checkpoint.pt", "is there already and is no export"),
        ("torch", folder / "best.pt", "is there already and is no export"),
        ("torch", folder / "recipe.yaml", "is there already and is no export"),
        ("onnx", folder, "is a folder, and --to onnx writes a file"),
        ("hf", folder, "is a run folder: give --output another name"),
        ("timm", folder / "best.pt", "is a file, and --to timm writes a folder"),
        ("hf", tmp_path / "notes", "holds a README.md that is of no export"),
        ("timm", tmp_path / "photos", "is a folder with other files in it"),
    ):
        with pytest.raises(ValueError, match=words):
            multicrop.export(folder, to=to, output=out, images=0)
    for to in ("onnx", "torch", "timm"):
        for _ in range(2):
            multicrop.export(folder, to=to, output=folder / f"new_{to}", images=0)
    assert all(path.read_bytes() == content for path, content in before.items())


# timm and the Hub


@torch.no_grad()
def test_a_folder_for_timm_has_classes_colours_and_size(run, results):
    result = results["timm"]
    network, x = multicrop.load_classifier(run), images(SIZE, batch=3)
    folder = Path(result["output"])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    names: dict = {}
    exec("\n".join(result["load"]), names)
    config = json.loads((folder / "config.json").read_text())
    overlay = config["pretrained_cfg"] | {"file": str(folder / "model.safetensors")}
    by_file = timm.create_model(
        config["architecture"], pretrained=True, pretrained_cfg_overlay=overlay, **config["model_args"]
    ).eval()  # fmt: skip
    for model in (names["model"], by_file):
        assert torch.equal(model(x), network(x))
        cfg = model.pretrained_cfg
        assert list(cfg["label_names"]) == CLASSES and cfg["num_classes"] == 3
        seen = timm.data.resolve_model_data_config(model)
        assert tuple(seen["input_size"]) == (3, SIZE, SIZE)
        assert (tuple(seen["mean"]), tuple(seen["std"])) == (network.mean, network.std)
    assert "checkpoint_key" not in config["model_args"]


@torch.no_grad()
def test_a_network_of_timm_is_timms_own_class_and_says_nothing_of_its_published_weights(
    colours, tmp_path
):
    options = {"arch": "timm:resnet18", "image_size": 32}
    path = saved(tmp_path, options, colours, crop_pct=0.875)
    folder = exported(path, "timm", tmp_path, images=0)["output"]
    config = json.loads((Path(folder) / "config.json").read_text())
    assert config["architecture"] == "resnet18" and config["label_names"] == CLASSES
    cfg = config["pretrained_cfg"]
    assert (cfg["crop_pct"], cfg["interpolation"]) == (0.875, "bicubic")
    assert not {"tag", "url", "hf_hub_id", "license", "origin_url", "paper_ids"} & cfg.keys()
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert type(model) is timm.models.resnet.ResNet
    x = images(32)
    close(model(x), multicrop.load_classifier(path)(x))


def test_the_model_card_is_written_from_the_run(run, results, colours, tmp_path):
    folder = results["hf"]["output"]
    assert {path.name for path in Path(folder).iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    text = (Path(folder) / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.license, data.library_name) == ("cc-by-4.0", "timm")
    assert data.pipeline_tag == "image-classification"
    assert text.count("# three-colours") == 1 and "\n\n\n" not in text
    assert str(colours) not in text and str(run) not in text
    last = rows_of(run)[-1]
    assert f"| top-1 accuracy | test | {last['test_top1']:.2f} |" in text
    assert "| top-1 accuracy | validation |" in text
    assert "blue, green, red" in text and "Training images: " in text
    assert "multicrop finetune --" in text and "--output_dir" not in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    image = tmp_path / "image.png"
    Image.fromarray(np.full((20, 24, 3), 200, dtype=np.uint8)).save(image)
    code = code.replace("hf-hub:USER/NAME", f"local-dir:{folder}")
    exec(code.replace("image.png", str(image)), {})


@torch.no_grad()
def test_the_card_of_the_selected_weights_has_their_accuracies(run, tmp_path):
    text = (
        Path(exported(run / "best.pt", "hf", tmp_path, images=0)["output"]) / "README.md"
    ).read_text()
    last = rows_of(run)[-1]
    assert f"| top-1 accuracy | test | {last['selected_test_top1']:.2f} |" in text
    assert f"| top-1 accuracy | validation | {last['selected_val_top1']:.2f} |" in text
    assert "the test images took no part" in text


def test_a_finetuned_run_keeps_its_line_of_ancestry_and_the_card_shows_it(
    pretrained, colours, tmp_path
):
    settings = {"datapath": colours, "ra": 1, "batch_size": 12, "device": "cpu", "val_fraction": 0}
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    multicrop.finetune(pretrained_weights=pretrained, epochs=1, output_dir=first, **settings)
    again = {"pretrained_weights": first, "epochs": 2, "output_dir": second, **settings}
    multicrop.finetune(max_steps=1, **again)
    multicrop.finetune(**again)  # resumed
    ancestry = checkpoint.load(second / "checkpoint.pt").metadata.ancestry
    assert [(line["weights"], line["kind"]) for line in ancestry] == [
        (str(pretrained), "ssl"),
        (str(first), "finetune"),
    ]
    assert ancestry[1]["dataset"] == "image_folder" and ancestry[1]["epoch"] == 1
    multicrop.pretrain(
        dataset="image_folder", datapath=colours, pretrained_weights=second, max_steps=1, epochs=1, device="cpu",
        batch_size_per_gpu=4, local_crops_number=1, recipe="published", output_dir=third, knn_freq=0,
    )  # fmt: skip
    onward = checkpoint.load(third / "checkpoint.pt").metadata.ancestry
    assert [line["weights"] for line in onward] == [str(pretrained), str(first), str(second)]
    out = exported(second, "hf", tmp_path / "card", images=0)["output"]
    assert (
        f"It started from the weights `first` (trained with labels, data set `image_folder`, epoch 1), these from the "
        f"weights `{pretrained.name}` (pretrained without labels, data set `image_folder`, epoch 1)."
    ) in (Path(out) / "README.md").read_text()


def test_the_command_of_a_card_makes_the_run_again(
    pretrained, colours, tmp_path, monkeypatch, capsys
):
    """Where data and weights lie under their names, also when the weights no longer say what their network is."""
    multicrop.finetune(
        pretrained_weights=pretrained, datapath=colours, epochs=1, ra=1, batch_size=12, device="cpu",
        output_dir=tmp_path / "first run",
    )  # fmt: skip
    out = exported(tmp_path / "first run", "hf", tmp_path / "card", images=0)["output"]
    (command,) = re.findall(r"```bash\n(.*?)\n```", (Path(out) / "README.md").read_text())
    assert str(colours) not in command and str(pretrained.parent) not in command
    program, name, *words = shlex.split(command)
    assert (program, name) == ("multicrop", "finetune")
    capsys.readouterr()
    exported(tmp_path / "first run", "hf", tmp_path / "card", images=0)
    assert f"{out} is there already: it is replaced" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    Path(colours.name).symlink_to(colours)
    content = checkpoint.load(pretrained).state["teacher"]
    network = {name.removeprefix("backbone."): value for name, value in content.items()}
    torch.save(network, pretrained.name)
    again = cli.parse(Finetuning, [*words, "--device", "cpu", "--output_dir", "again"])
    finetune_command.run(again)
    first, second = (content_of(Path(f) / "checkpoint.pt") for f in ("first run", "again"))
    same(first["model"], second["model"])


def test_the_command_of_a_pretraining_takes_no_automatic_values(colours, tmp_path):
    stated = {"dataset": "image_folder", "datapath": f"{colours},b", "batch_size_per_gpu": 8}
    path = saved(tmp_path, {"arch": "vit"}, colours, kind="ssl")
    metadata = checkpoint.load(path).metadata
    identity = {"global_batch": 32}  # of two processes
    ours = Pretraining.ADDED | {**stated, "accumulate": 2, "minutes": 3.0, "epochs": 7}
    command = command_of(replace(metadata, recipe=ours, identity=identity))
    assert command == (
        f"multicrop pretrain --recipe published --dataset image_folder --datapath {colours.name},b "
        "--epochs 7 --batch_size_per_gpu 16 --accumulate 2"
    )
    made = cli.parse(Pretraining, shlex.split(command)[2:])
    assert made.given.recipe == "published" and made.optimisation.epochs == 7


def test_a_card_without_a_licence_says_so(pretrained, tmp_path):
    folder = exported(pretrained, "hf", tmp_path, images=0)["output"]
    text = (Path(folder) / "README.md").read_text()
    assert ModelCard(text).data.license == "other" and "None is stated" in text
    assert "None of these weights is written down" in text  # it has no metrics.jsonl


# What a user can mend


def test_what_cannot_be_exported_is_said_in_one_line(pretrained, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="has no classifier, it was not finetuned"):
        exported(pretrained, "onnx", tmp_path, returns="logits")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="not one of our checkpoints"):
        exported(tmp_path / "x.pt", "onnx", tmp_path)
    find = _export_onnx.importlib.util.find_spec
    monkeypatch.setattr(
        _export_onnx.importlib.util,
        "find_spec",
        lambda name: None if name == "onnxscript" else find(name),
    )
    with pytest.raises(ValueError, match=r"needs onnxscript, .* pip install .*multicrop\[export\]"):
        exported(pretrained, "onnx", tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"layout": "nhwc"}, "--layout nhwc: is for pixels: add --input uint8"),
        ({"resize": True}, "--resize true: is for pixels"),
        ({"to": "timm", "input": "uint8"}, "--input uint8: is for --to onnx and --to torch"),
        ({"to": "hf", "returns": "probabilities"}, "--returns probabilities: is for --to onnx"),
        ({"license": "mit"}, "--license mit: is for the model card of --to hf"),
        ({"images": -1}, "--images -1: must not be negative"),
    ],
)
def test_settings_that_do_not_go_together(flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        recipe(Recipe, **{"model": "x", "to": "onnx"} | flags)


def test_images_that_are_gone_are_said_and_the_check_goes_on(tmp_path, capsys):
    gone = tmp_path / "gone"
    path = saved(tmp_path, {"arch": "resnet", "depth": 8}, gone, kind="ssl")
    result = exported(path, "timm", tmp_path)
    assert result["max_difference"].keys() == {"random"}
    assert "random images alone" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        exported(path, "timm", tmp_path, datapath=str(gone))


def test_numbers_that_are_none_are_a_difference():
    inputs = {"random": [torch.ones(1), torch.full((1,), torch.nan)]}
    with pytest.raises(FloatingPointError, match="Is a weight not finite"):
        _export_check.differences(torch.nn.Identity(), torch.nn.Identity(), inputs)


def test_a_file_whose_numbers_differ_is_not_kept(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(_export_check, "TOLERANCE", -1.0)
    for to in ("torch", "timm"):
        with pytest.raises(
            FloatingPointError, match=r"differs from the network .* nothing is kept"
        ):
            exported(pretrained, to, tmp_path, images=0)
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
@pytest.mark.parametrize("calibrated", [True, False])
def test_exported_probabilities_are_those_of_predict(calibrated, colours, tmp_path, capsys):
    path = calibrated_network(colours, tmp_path)
    images = sorted(colours.rglob("*.png"))[:3]
    rows = tmp_path / "rows.jsonl"
    predicting = {"output": rows, "topk": 3, "calibrated": calibrated, "precision": "fp32"}
    multicrop.predict(path, images, **predicting, device="cpu")
    capsys.readouterr()
    predicted = [dict(json.loads(line)["top"]) for line in rows.read_text().splitlines()]
    expected = torch.tensor([[row[name] for name in CLASSES] for row in predicted])
    x = torch.stack(
        [torch.from_numpy(np.array(Image.open(image).convert("RGB"))) for image in images]
    ).permute(0, 3, 1, 2)
    x = multicrop.transform(multicrop.load_classifier(path))(x)
    for to in ("onnx", "torch"):
        result = exported(
            path, to, tmp_path, returns="probabilities", images=0, calibrated=calibrated
        )
        assert result["temperature"] == (0.25 if calibrated else None)
        words = "temperature 0.25, fitted on 50" if calibrated else "--calibrated false"
        assert words in capsys.readouterr().err
        if to == "onnx":
            close(outputs(result["output"], x), expected)
            properties = onnx.load(result["output"]).metadata_props
            said = {item.key: json.loads(item.value) for item in properties}["temperature"]
        else:
            about = {"multicrop.json": ""}
            close(torch.export.load(result["output"], extra_files=about).module()(x), expected)
            said = json.loads(about["multicrop.json"])["temperature"]
        assert said == result["temperature"]


def test_the_temperature_of_logits_is_written_beside_them(colours, tmp_path, capsys):
    path = calibrated_network(colours, tmp_path)
    result = exported(path, "hf", tmp_path, images=0)
    assert result["temperature"] == 0.25
    assert "softmax(logits / 0.25) are the probabilities of predict" in capsys.readouterr().err
    folder = Path(result["output"])
    assert json.loads((folder / "config.json").read_text())["temperature"] == 0.25
    assert "softmax(logits / 0.25)" in (folder / "README.md").read_text()


def calibrated_network(colours: Path, folder: Path) -> Path:
    path = saved(folder, {"arch": "vit", "num_layers": 1}, colours)
    stored = checkpoint.load(path)
    fit = {"temperature": 0.25, "images": 50, "nll": 1.0, "nll_before": 1.1}
    metadata = replace(stored.metadata, calibration={"model": fit})
    checkpoint.save(Checkpoint(metadata, stored.state), path)
    return path


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_images_without_pixels_have_no_answer(layout, run, tmp_path):
    flags = {"input": "uint8", "layout": layout, "resize": True, "images": 0}
    graph = session(exported(run, "onnx", tmp_path, **flags)["output"])
    program = torch.export.load(exported(run, "torch", tmp_path, **flags)["output"]).module()
    for height, width, what in ((0, 9, "rows"), (9, 0, "columns"), (0, 0, "rows")):
        shape = (2, 3, height, width) if layout == "nchw" else (2, height, width, 3)
        x = torch.zeros(shape, dtype=torch.uint8)
        with pytest.raises(InvalidArgument, match=f"images_have_no_{what}"):
            graph.run(None, {"images": x.numpy()})
        with pytest.raises(IndexError, match="index 0 out of range for tensor of size"):
            program(x)
