"""From a small local hub to fetched weights: cached, downloaded, resumed, refused, or absent."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from zoo import BuildRequest
from zoo_timm import register_models
from zoo_timm.hub import describe_hub_model

pytestmark = pytest.mark.integration

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the local hub serves ({path: content}), what it was asked for, and where it cuts a transfer off."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    cut_after: int | None = None


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A real web server that answers as the hub does: HEAD and ranged GET with ETag, X-Repo-Commit, Content-Length."""
    state = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            state.requests.append((self.command, self.path, self.headers.get("Range", "")))
            content = state.files.get(self.path)
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0] or 0)
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if not body:
                return
            if state.cut_after is not None:
                self.wfile.write(content[start : start + state.cut_after])
                self.close_connection = True
                return
            self.wfile.write(content[start:])

        def log_message(self, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        state.address = f"http://127.0.0.1:{httpd.server_port}"
        yield state
        httpd.shutdown()


def run_python(code: str, folder: Path, endpoint: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own: huggingface_hub reads where its cache lies when it is imported."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    own |= {"HF_HOME": str(folder / "hf"), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=own, timeout=120)


def fetch(folder: Path, endpoint: str, *, name="resnet18", tag="", offline=False, first="", **environment):
    """Fetch weights in a process of its own, after the code `first`.

    Returns what it printed: a path, None, or an error, and progress.
    """
    code = f"""
{first}
from pathlib import Path
from zoo import FetchRequest, ZooError
from zoo_timm import register_models
spec = next(spec for spec in register_models() if spec.name == {name!r})
seen = []
request = FetchRequest(name={name!r}, tag={tag!r}, folder=Path({str(folder / "weights")!r}), offline={offline},
                       progress=lambda done, total: seen.append((done, total)))
try:
    print(spec.fetch_weights(request))
except ZooError as error:
    print(error.line())
print(seen[-1] if seen else None)
"""
    done = run_python(code, folder, endpoint, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


def path_of(name: str, tag: str, file: str = "model.safetensors") -> str:
    return f"/timm/{name}.{tag}/resolve/main/{file}"


def test_weights_are_downloaded_into_the_hubs_cache_with_progress(hub, tmp_path):
    hub.files[path_of("resnet18", "a1_in1k")] = b"tensors" * 50_000
    path, progress = fetch(tmp_path, hub.address)
    assert Path(path).read_bytes() == b"tensors" * 50_000
    assert Path(path).is_relative_to(tmp_path / "hf")
    assert progress == "(350000, 350000)"


def test_weights_in_the_hubs_cache_are_used_without_a_request(hub, tmp_path):
    hub.files[path_of("resnet18", "a1_in1k")] = b"tensors"
    first = fetch(tmp_path, hub.address)[0]
    hub.requests.clear()
    assert fetch(tmp_path, hub.address, offline=True)[0] == first
    assert fetch(tmp_path, hub.address)[0] == first
    assert hub.requests == []


def test_the_requested_tag_is_fetched(hub, tmp_path):
    hub.files[path_of("resnet18", "tv_in1k")] = b"torchvision's"
    assert Path(fetch(tmp_path, hub.address, tag="tv_in1k")[0]).read_bytes() == b"torchvision's"


def test_an_interrupted_download_is_an_error_leaves_no_weights_and_can_be_repeated(hub, tmp_path):
    content = os.urandom(3_000_000)
    hub.files[path_of("resnet18", "a1_in1k")] = content
    hub.cut_after = 1_000_000
    assert fetch(tmp_path, hub.address)[0].startswith(f"zoo: error[weights] {hub.address}/timm/resnet18.a1_in1k:")
    assert fetch(tmp_path, hub.address, offline=True)[0] == "None"
    hub.cut_after = None
    assert Path(fetch(tmp_path, hub.address)[0]).read_bytes() == content


def test_a_repository_without_safetensors_yields_its_other_file(hub, tmp_path):
    hub.files[path_of("resnet18", "a1_in1k", "pytorch_model.bin")] = b"pickled"
    assert Path(fetch(tmp_path, hub.address)[0]).read_bytes() == b"pickled"


def test_a_file_the_hub_does_not_have_is_an_error_that_names_it(hub, tmp_path):
    line = fetch(tmp_path, hub.address)[0]
    assert line.startswith(f"zoo: error[weights] {hub.address}/timm/resnet18.a1_in1k ")
    assert "model.safetensors or pytorch_model.bin" in line
    assert "--weights-dir" in line.partition("fix: ")[2]


def test_missing_weights_offline_resolve_to_none_at_once(hub, tmp_path):
    assert fetch(tmp_path, hub.address, offline=True) == ["None", "None"]
    assert fetch(tmp_path, hub.address, HF_HUB_OFFLINE="1") == ["None", "None"]
    assert hub.requests == []


def test_an_unreachable_hub_is_an_error_without_the_retries_of_timm(tmp_path):
    count_waits = "import time; time.sleep = lambda seconds: print('a wait')"
    line, *rest = fetch(tmp_path, "http://127.0.0.1:9", first=count_waits)  # the discard port: nothing listens
    assert line.startswith("zoo: error[weights] http://127.0.0.1:9/timm/resnet18.a1_in1k:")
    assert rest == ["None"]


def test_a_file_in_the_folder_of_the_request_comes_first(hub, tmp_path):
    path = tmp_path / "weights" / "resnet18.a1_in1k.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    assert fetch(tmp_path, hub.address, offline=True)[0] == str(path)
    assert hub.requests == []


def test_a_checkpoint_on_the_hub_is_described_by_its_config(hub, tmp_path):
    config = {
        "architecture": "resnet18",
        "num_classes": 9,
        "pretrained_cfg": {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.5, 0.5, 0.5],
            "input_size": [3, 96, 96],
            "license": "mit",
        },
    }
    hub.files["/lab/lesions/resolve/main/config.json"] = json.dumps(config).encode()
    code = f"""
from pathlib import Path
from zoo import FetchRequest
from zoo_timm.hub import find_hub_model
spec = find_hub_model(FetchRequest(name="hf-hub:lab/lesions", folder=Path({str(tmp_path)!r})))
print(spec.name, spec.family, spec.image_size, spec.mean, spec.license, spec.weights[0].tag)
"""
    done = run_python(code, tmp_path, hub.address)
    assert done.stdout.splitlines() == ["hf-hub:lab/lesions resnet 96 (0.1, 0.2, 0.3) mit hub"], done.stderr


def test_a_checkpoint_on_the_hub_is_built_with_its_own_head(tmp_path):
    import timm
    import torch

    theirs = timm.create_model("resnet10t", num_classes=9)
    torch.save(theirs.state_dict(), tmp_path / "lesions.pth")
    base = next(spec for spec in register_models() if spec.name == "resnet10t")
    spec = describe_hub_model("hf-hub:lab/lesions", "lab/lesions", {"num_classes": 9}, base)
    request = BuildRequest(num_outputs=2, channels=3, image_size=96, weights=tmp_path / "lesions.pth")
    assert torch.equal(spec.build(request).fc.weight, theirs.fc.weight)


@pytest.mark.slow
def test_a_checkpoint_on_the_hub_is_benchmarked_by_its_name(hub, tmp_path):
    import numpy as np
    import timm
    from safetensors.torch import save_file

    config = {"architecture": "resnet10t", "num_classes": 9, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    save_file(timm.create_model("resnet10t", num_classes=9).state_dict(), tmp_path / "model.safetensors")
    hub.files["/lab/lesions/resolve/main/config.json"] = json.dumps(config).encode()
    hub.files["/lab/lesions/resolve/main/model.safetensors"] = (tmp_path / "model.safetensors").read_bytes()
    rng = np.random.default_rng(0)
    splits = {"train": 60, "val": 60, "test": 60}
    arrays = {f"{name}_images": rng.integers(0, 256, (n, 32, 32), dtype=np.uint8) for name, n in splits.items()}
    arrays |= {f"{name}_labels": (np.arange(n) % 2).reshape(-1, 1) for name, n in splits.items()}
    np.savez(tmp_path / "dots.npz", **arrays)
    command = [sys.executable, "-m", "zoo", "bench", "--models", "hf-hub:lab/lesions"]
    command += [
        "--datasets",
        str(tmp_path / "dots.npz"),
        "--set",
        "steps=2",
        "--set",
        "image_size=32",
        "--seeds",
        "1",
        "--metrics",
        "auroc",
    ]
    command += ["--results", str(tmp_path / "results"), "--json"]
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "ZOO_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    run = next(run for run in json.loads(done.stdout)["runs"] if run["model"] == "hf-hub:lab/lesions")
    assert (run["status"], run["init"], run["weights"]) == ("ok", "pretrained", "hub")
