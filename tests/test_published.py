"""Published weights by name: from a file server of this machine, with files of the right form."""

import hashlib
import http.server
import io
import sys
import threading
import types
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

import multicrop
from multicrop import registry
from multicrop.commands._scored import results_folder
from multicrop.commands._targets import targets
from multicrop.config.data import DataSettings
from multicrop.config.finetune import Recipe as Finetuning
from multicrop.config.finetune import Start
from multicrop.config.knn import Network, Weights
from multicrop.weights import download, pretrained, published, series

ARCH = "cct_2_3x2_32"
PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"


class Server:
    """Serves bytes with ranges; `gives` says what of them, `breaks` after how many bytes the connection ends."""

    def __init__(self):
        self.content = b""
        self.status = 200
        self.breaks: list[int] = []  # of one request each, the first one first
        self.ranges: list[str | None] = []  # of the requests so far
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}/weights.pth"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def _handler(server):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                server.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
                if asked and start >= len(server.content):
                    self.send_error(416)
                    return
                if server.status != 200:
                    self.send_error(server.status)
                    return
                rest = server.content[start:]
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(rest)))
                if asked:
                    end = len(server.content)
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
                self.end_headers()
                if server.breaks:
                    rest = rest[: server.breaks.pop(0)]
                self.wfile.write(rest)

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 250)  # for 10 MB
    server = Server()
    yield server
    server.close()


@pytest.fixture
def entry(server, tmp_path, monkeypatch):
    """A table of one row, and a cache of its own."""
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path / "cache"))
    write_table(tmp_path / "table.yaml", url=server.url)
    monkeypatch.setattr(published, "TABLE", tmp_path / "table.yaml")
    published.table.cache_clear()
    yield published.find("published:small")
    published.table.cache_clear()


def write_table(path, **changed):
    row = {
        "sha256": None,
        "backbone": {"arch": ARCH, "image_size": 32},
        "dataset": "shapes",
        "classes": 10,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
        "crop_pct": 1.0,
        "top1": 89.17,
        **changed,
    }
    page = {"source": "https://example.org/page", "license": None, "files": {"small": row}}
    path.write_text(yaml.safe_dump([page]))


def released(backbone) -> bytes:
    """A file as the authors of the compact transformers save them."""
    state = {}
    for name, value in backbone.state_dict().items():
        state[name.replace("transformer.", "classifier.")] = value
    state["classifier.fc.weight"] = torch.ones(10, backbone.dim)
    state["classifier.fc.bias"] = torch.zeros(10)
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def backbone():
    return registry.backbone(ARCH, 32).eval()


@pytest.fixture
def content(server, backbone) -> bytes:
    server.content = released(backbone)
    return server.content


# The table


def test_every_row_of_the_table_can_be_built_and_says_where_it_is_from():
    rows = published.table()
    assert len(rows) == 68
    assert len({row.url for row in rows.values()}) == len(rows)
    sizes = {(row.backbone["arch"], row.backbone["image_size"]) for row in rows.values()}
    for arch, size in sizes:
        assert registry.own_image_size(arch) in (None, size)
    for dataset in {row.dataset for row in rows.values()}:
        registry.source(dataset)
    for row in rows.values():
        assert row.url.startswith("https://") and row.source.startswith("https://")
        assert len(row.mean) == len(row.std) == 3 and 0.8 < row.crop_pct <= 1
        assert 50 < row.top1 < 100 and row.classes in (10, 100, 102, 200, 1000)
        assert set(row.backbone) <= {"arch", "image_size", "patch_size"}


@pytest.mark.slow
def test_every_network_of_the_table_is_built():
    built = []
    for row in published.table().values():
        if row.backbone not in built:
            registry.backbone(**row.backbone)
            built.append(row.backbone)


def test_an_unknown_name_says_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'localvit_swin'.*multicrop weights"):
        published.find("published:LocalViT-swin")


# The command


def test_the_command_lists_what_has_all_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MULTICROP_CACHE", str(tmp_path))
    result = weights("CCT_7_3x1", "cifar100", "5000")
    (row,) = result["weights"]
    assert row["name"] == "cct_7_3x1_32_sine_cifar100_5000epochs" and row["top1"] == 82.87
    assert row["downloaded"] is False and row["license"] == "Apache-2.0"
    heading, line = capsys.readouterr().err.splitlines()
    assert heading.split()[:3] == ["name", "arch", "pixels"] and "82.87" in line
    assert heading.index("dataset") == line.rindex("cifar100")
    assert len(weights()["weights"]) == 68
    with pytest.raises(ValueError, match="no published weights have all of: cct, audio"):
        weights("cct", "audio")


def weights(*words, **flags):
    from multicrop.commands import weights as command
    from multicrop.config.weights import Recipe

    return command.run(Recipe(words, **flags))


def test_the_command_downloads(entry, content):
    (row,) = weights("small", download=True)["weights"]
    assert row["downloaded"] and entry.path.read_bytes() == content


# From a name to a network


def test_a_name_stands_for_the_network_of_its_file(entry, content, backbone):
    file = pretrained.read("published:small")
    assert file.head["weight"].shape == (10, backbone.dim)
    loaded = multicrop.load("published:small")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), backbone(images))
    assert loaded.mean == (0.5, 0.4, 0.3) and loaded.image_size == 32 and loaded.crop_pct == 1.0


def test_the_probe_takes_a_name(entry, content):
    files = series.read(["published:small"])
    (target,) = targets(files, Weights(random_weights=False), Network(), raw_pixels=False)
    assert target.backbone["arch"] == ARCH and target.name == str(entry.path)
    assert len(list(series.read(["published:small", "published:small"]))) == 2


def test_accuracies_of_published_weights_are_not_written_beside_them(entry):
    start = Start(pretrained_weights="published:small", eval=True)
    recipe = Finetuning(start=start, data=DataSettings(dataset="shapes", datapath="."))
    folder = results_folder(recipe, entry.path)
    assert folder == Path("runs/finetune/eval/small-shapes")


# Downloads


def left(entry) -> list[str]:
    """What there is of the file in the cache."""
    return [path.name for path in entry.path.parent.iterdir() if path.suffix != ".lock"]


def test_a_file_is_fetched_once_and_its_checksum_noted(entry, server, content):
    assert entry.fetch().read_bytes() == content
    entry.fetch()
    assert server.ranges == [None]
    digest = hashlib.sha256(content).hexdigest()
    noted = entry.path.with_name("small.pth.sha256")
    assert noted.read_text() == f"{digest}  small.pth\n"


def test_processes_at_once_fetch_it_once(entry, server, content):
    threads = [threading.Thread(target=entry.fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.ranges == [None] and entry.path.read_bytes() == content


def test_a_cache_that_many_read_and_nobody_writes_is_enough(entry, server, content, monkeypatch):
    entry.fetch()
    entry.path.with_name("small.pth.sha256").unlink()

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download.filelock.FileLock, "acquire", refused)
    monkeypatch.setattr(Path, "write_text", refused)
    assert entry.fetch().read_bytes() == content
    entry.path.unlink()
    with pytest.raises(OSError, match=r"cannot write .*weights: Permission denied"):
        entry.fetch()


def test_a_download_that_breaks_goes_on_by_itself(entry, server, content):
    server.breaks = [1000, 500]
    assert entry.fetch().read_bytes() == content
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_a_download_that_keeps_breaking_goes_on_at_the_next_command(entry, server, content):
    server.breaks = [1000] + [0] * 50
    with pytest.raises(OSError, match=r"cannot download http.*goes on after 1000 bytes") as caught:
        entry.fetch()
    assert "\n" not in str(caught.value) and not entry.path.exists()
    server.breaks, server.ranges = [], []
    assert entry.fetch().read_bytes() == content
    assert server.ranges == ["bytes=1000-"]


def test_a_whole_partial_file_of_a_killed_process_is_fetched_anew(entry, server, content):
    entry.path.parent.mkdir(parents=True)
    entry.path.with_name("small.pth.partial").write_bytes(content)
    assert entry.fetch().read_bytes() == content
    assert server.ranges == [f"bytes={len(content)}-", None]


def test_a_wrong_checksum_is_refused_and_nothing_stays(entry, server, content, tmp_path):
    write_table(tmp_path / "table.yaml", url=server.url, sha256="0" * 64)
    published.table.cache_clear()
    with pytest.raises(ValueError, match=r"a file whose sha256 is .* published one is 0000"):
        published.find("small").fetch()
    assert left(entry) == []
    digest = hashlib.sha256(content).hexdigest()
    write_table(tmp_path / "table.yaml", url=server.url, sha256=digest)
    published.table.cache_clear()
    assert published.find("small").fetch() == entry.path


@pytest.mark.parametrize(
    ("given", "words"),
    [(PAGE, "a web page"), (b"", "an empty file"), (b"hello, world", "no file of weights")],
)
def test_what_is_no_file_of_weights_is_said(entry, server, given, words):
    server.content = given
    with pytest.raises(ValueError, match=f"gave .*{words}.*or put the file at .*small.pth") as said:
        entry.fetch()
    assert "\n" not in str(said.value) and left(entry) == []


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.99])
def test_the_beginning_of_a_file_is_refused_and_nothing_stays(
    entry, server, backbone, zipped, share
):
    """As a mirror serves it that has no more, with the length of what it has."""
    file = io.BytesIO()
    torch.save(backbone.state_dict(), file, _use_new_zipfile_serialization=zipped)
    whole = file.getvalue()
    server.content = whole[: int(share * len(whole))]
    with pytest.raises(ValueError, match=r"gave only the beginning of a file of weights .*small"):
        entry.fetch()
    assert left(entry) == []
    server.content = whole
    assert entry.fetch().read_bytes() == whole


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_missing_file_is_one_line(entry, server, status):
    server.status = status
    words = rf"cannot download http.*{status}, so the file is not there.*https://example.org/page"
    with pytest.raises(OSError, match=words) as caught:
        entry.fetch()
    assert "\n" not in str(caught.value) and "again" not in str(caught.value)
    assert left(entry) == []


def test_a_server_that_is_busy_is_asked_again(entry, server):
    server.status = 503
    with pytest.raises(OSError, match=r"give the same command again, or put the file at"):
        entry.fetch()
    assert left(entry) == []


def test_without_a_network_a_file_put_there_by_hand_is_taken(entry, server, content):
    server.close()
    with pytest.raises(OSError, match=r"cannot download .*or put the file at .*small.pth") as said:
        entry.fetch()
    assert "\n" not in str(said.value)
    entry.path.write_bytes(content)
    assert entry.fetch() == entry.path


def test_a_changed_file_is_refused(entry, server, content):
    entry.fetch().write_bytes(content[:-1] + b"\1")
    with pytest.raises(ValueError, match=r"is not what was downloaded.*small.pth.sha256.*again"):
        entry.fetch()


def test_an_archive_around_the_file_is_taken_off(entry, server, content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("cct2_best.pth", content)
        archive.writestr("__MACOSX/._cct2_best.pth", b"\0")
    server.content = packed.getvalue()
    assert entry.fetch().read_bytes() == content
    entry.fetch()  # the noted checksum is that of the file


# Google Drive


@pytest.fixture
def drive(entry, tmp_path):
    write_table(tmp_path / "table.yaml", url="https://drive.google.com/file/d/1aB-c_9/view")
    published.table.cache_clear()
    return published.find("small")


def test_google_drive_goes_through_gdown(drive, backbone, monkeypatch):
    calls = []

    def fake(id, output, resume):
        calls.append((id, resume))
        with open(output, "wb") as file:
            file.write(released(backbone))

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=fake))
    assert drive.fetch().is_file() and calls == [("1aB-c_9", True)]


def test_without_gdown_one_line_says_what_to_install(drive, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(ValueError, match=r"Google Drive: pip install gdown, or put the file at"):
        drive.fetch()


def test_gdown_takes_what_we_give_it():
    gdown = pytest.importorskip("gdown", reason="gdown is optional")
    import inspect

    assert {"id", "output", "resume"} <= set(inspect.signature(gdown.download).parameters)


def test_an_error_of_gdown_is_one_line(drive, monkeypatch):
    def fails(**_options):
        raise RuntimeError("Cannot retrieve the public link of the file.\nYou may need to wait")

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=fails))
    with pytest.raises(OSError, match=r"cannot download .*Cannot retrieve the public link") as said:
        drive.fetch()
    assert "\n" not in str(said.value)
    assert download.DRIVE.match(drive.url)


# timm


@pytest.mark.parametrize("overlay", [None, {"file": "published:small"}])
def test_timm_creates_a_published_network(entry, content, backbone, overlay):
    import timm

    import multicrop.timm_models

    name = f"multicrop_{ARCH}"
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.forward_features(images), backbone(images))
    assert model.num_classes == 10 and model.pretrained_cfg["mean"] == (0.5, 0.4, 0.3)
    loaded = multicrop.timm_models.load("published:small")
    torch.testing.assert_close(loaded(images), model(images))


def test_the_first_file_of_a_name_is_what_the_authors_code_takes():
    for arch, name in {
        "cct_7_3x1_32": "cct_7_3x1_32_cifar10_300epochs",
        "cct_7_3x1_32_sine": "cct_7_3x1_32_sine_cifar10_5000epochs",
        "cct_7_3x1_32_c100": "cct_7_3x1_32_cifar100_300epochs",
        "cct_7_3x1_32_sine_c100": "cct_7_3x1_32_sine_cifar100_5000epochs",
        "cct_7_7x2_224_sine": "cct_7_7x2_224_flowers102",
        "cct_14_7x2_224": "cct_14_7x2_224_imagenet",
        "cct_14_7x2_384": "cct_14_7x2_384_imagenet",
        "cct_14_7x2_384_fl": "cct_14_7x2_384_flowers102",
        "resnet56": None,
    }.items():
        assert published.first_of(arch) == (name and f"published:{name}")
