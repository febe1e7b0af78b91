"""Finding pretrained weights on disk or on the network, and falling back to random init."""

import hashlib
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests

from zoo.errors import DataError, UsageError, WeightsError
from zoo.models import weights
from zoo.models.building import load_weights, read_state
from zoo.models.trials import Trial, find_heads, refuse_misfits, try_weights
from zoo.models.weights import InitialWeights, find_all_weights, find_local_weights, host_of, reachable_hosts
from zoo.registry.lookup import ModelChoice, Registry
from zoo.specs.dataset import FetchRequest
from zoo.specs.model import BuildRequest, ModelSpec, Weights
from zoo.system.machine import can_fork

HUB = "https://huggingface.co/timm/tiny.in1k/resolve/main/model.safetensors"


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch):
    for name in ("ZOO_WEIGHTS", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def silent_host():
    """The address of a host that accepts every connection and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def fetch(request, *, requests, file=None, error=None):
    """A plugin's `fetch_weights`, which records its requests."""
    requests.append((request.tag, "offline" if request.offline else "online"))
    if request.offline:
        return None
    if error:
        raise error
    return file


def model(name="tiny", tags=("in1k",), url=HUB, **change):
    listed = tuple(Weights(tag=tag, url=url) for tag in tags)
    return ModelSpec(name=name, build=lambda _: None, weights=listed, **change)


def choose(spec, at=0):
    chosen = spec.weights[at] if spec.weights else None
    return ModelChoice(name=f"plugin:{spec.name}", spec=spec, weights=chosen, shown=spec.name)


def find(tmp_path, *specs, policy="pretrained", weights_dir=None, offline=True):
    return find_all_weights(
        [choose(spec) for spec in specs], policy, weights_dir=weights_dir, cache=tmp_path / "cache", offline=offline
    )


def write(folder, name, content=b"weights"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


# --- pretrained ------------------------------------------------------------------------------------------------------
def test_missing_weights_are_reported_with_file_cache_and_flag(tmp_path, golden):
    with pytest.raises(WeightsError) as caught:
        find(tmp_path, model())
    assert (caught.value.code, caught.value.exit_status) == ("weights-missing", 2)
    golden(caught.value.line())


def test_a_folder_without_the_weights_is_named_with_its_nearest_files(tmp_path, golden):
    for name in ("tiny.in22k.pth", "huge.pth", "tin.safetensors", "other.pt", "tiny.in1k.txt"):
        write(tmp_path / "mine", name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError) as caught:
        find(tmp_path, model(), weights_dir=tmp_path / "mine")
    assert "tiny.in22k.pth, tin.safetensors, other.pt and 1 more" in caught.value.message
    golden(caught.value)
    with pytest.raises(
        WeightsError, match=r"empty, which holds no \.safetensors, \.pth, \.pt or \.bin file; --offline"
    ):
        find(tmp_path, model(), weights_dir=tmp_path / "empty")


def test_all_models_whose_weights_are_missing_are_named_together(tmp_path):
    with pytest.raises(
        WeightsError, match=r"weights one\.in1k are not available \(and 2 more: two, three\): --offline"
    ):
        find(tmp_path, model("one"), model("two"), model("three"))


def test_a_plugins_reason_for_a_failed_download_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "reachable_hosts", lambda urls: {"https://huggingface.co"})
    failing = partial(fetch, requests=[], error=DataError("got 3 of 9 bytes", fix="run again"))
    with pytest.raises(WeightsError, match=r"DataError: got 3 of 9 bytes; fix: run again; not in .*weights"):
        find(tmp_path, model(fetch_weights=failing), offline=False)


def test_a_model_without_weights_starts_at_random_under_any_policy(tmp_path):
    for policy in ("pretrained", "auto", "none"):
        assert find(tmp_path, model(tags=()), policy=policy) == [InitialWeights(init="random")]


def test_the_policy_none_requests_nothing(tmp_path):
    requests = []
    spec = model(fetch_weights=partial(fetch, requests=requests))
    assert find(tmp_path, spec, policy="none", offline=False) == [InitialWeights(init="random")]
    assert requests == []


# --- places ----------------------------------------------------------------------------------------------------------
def test_a_local_file_is_found_with_its_digest_and_no_network(tmp_path):
    path, requests = write(tmp_path / "mine", "tiny.in1k.pth"), []
    (initial,) = find(
        tmp_path, model(fetch_weights=partial(fetch, requests=requests)), weights_dir=tmp_path / "mine", offline=False
    )
    digest = hashlib.sha256(b"weights").hexdigest()
    assert initial == InitialWeights(init="pretrained", path=path, digest=digest, tag="in1k")
    assert requests == []


def test_a_local_cache_is_used_before_the_network(tmp_path):
    path = write(tmp_path / "hub", "model.safetensors")
    spec = model(fetch_weights=lambda request: path if request.offline else pytest.fail("the network was used"))
    assert find(tmp_path, spec, offline=False)[0].path == path


def test_reachable_weights_are_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "reachable_hosts", lambda urls: {"https://huggingface.co"})
    path, requests = write(tmp_path / "new", "model.safetensors"), []
    (initial,) = find(tmp_path, model(fetch_weights=partial(fetch, requests=requests, file=path)), offline=False)
    assert (initial.path, initial.init, initial.fallback) == (path, "pretrained", False)
    assert requests == [("in1k", "offline"), ("in1k", "online")]


@pytest.fixture
def publisher(tmp_path):
    """The address of a server of the file `tiny.pth`."""
    write(tmp_path / "published", "tiny.pth")
    handler = partial(QuietHandler, directory=tmp_path / "published")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_weights_with_a_url_alone_are_downloaded_once(tmp_path, publisher):
    spec = model(url=f"{publisher}/tiny.pth")
    (online,), (again,) = find(tmp_path, spec, offline=False), find(tmp_path, spec, offline=True)
    assert (online.path.read_bytes(), online.tag) == (b"weights", "in1k")
    assert again == online
    with pytest.raises(WeightsError):  # another file of the same name
        find(tmp_path, model(url=f"{publisher}/other/tiny.pth"), offline=True)


def test_a_downloaded_file_of_another_digest_is_refused(tmp_path, publisher):
    listed = Weights(tag="in1k", url=f"{publisher}/tiny.pth", sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"expected sha256 0000"):
        find(tmp_path, replace(model(), weights=(listed,)), offline=False)


def test_a_file_with_the_declared_digest_has_the_published_tag(tmp_path):
    path = write(tmp_path / "mine", "tiny.pth")
    for digest, tag in ((hashlib.sha256(b"weights").hexdigest(), "in1k"), ("0" * 64, None)):
        spec = replace(model(), weights=(Weights(tag="in1k", sha256=digest),))
        (initial,) = find(tmp_path, spec, weights_dir=tmp_path / "mine")
        assert (initial.path, initial.local is None) == (path, tag == "in1k")


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        (["tiny.in1k.safetensors", "tiny.in1k.pth", "tiny.pth"], "tiny.in1k.safetensors"),
        (["tiny.in1k.pth", "tiny-1234abcd.pth", "tiny.pth"], "tiny.in1k.pth"),
        (["tiny-1234abcd.pth", "tiny.pth"], "tiny-1234abcd.pth"),
        (["tiny.pt", "tiny.bin"], "tiny.pt"),
        (["tiny.in22k.pth", "tinyx.pth", "x.in1k.pth"], None),
        ([], None),
    ],
)
def test_a_folder_is_searched_by_model_and_tag_then_by_known_names_then_by_model(tmp_path, existing, expected):
    for name in existing:
        write(tmp_path, name)
    listed = replace(model().weights[0], file_names=("tiny-1234abcd.pth",))
    expected = tmp_path / expected if expected else None
    assert find_local_weights(model(), listed, tmp_path) == expected


def test_a_file_named_after_a_model_without_published_weights_is_used(tmp_path):
    write(tmp_path / "mine", "tiny.pth")
    (initial,) = find(tmp_path, model(tags=()), weights_dir=tmp_path / "mine")
    assert (initial.init, initial.tag) == ("pretrained", "tiny")


def test_a_file_without_a_tag_in_its_name_is_labeled_by_its_digest(tmp_path):
    write(tmp_path / "mine", "tiny.pth")
    spec = replace(model(), mean=(0.1,) * 3, std=(0.2,) * 3)
    spec = replace(spec, weights=(replace(spec.weights[0], mean=(0.3,) * 3, pretraining=("imagenet-1k",)),))
    (initial,) = find(tmp_path, spec, weights_dir=tmp_path / "mine")
    assert (initial.tag, initial.build_tag) == (f"local-{hashlib.sha256(b'weights').hexdigest()[:8]}", "")
    assert initial.normalization(spec) == (spec.mean, spec.std)
    assert initial.pretraining(spec) is None


SHA256 = hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize(
    "published",
    [{"file_names": (f"net-{SHA256[:8]}.pth",)}, {"url": f"https://weights.test/net-{SHA256[:8]}.pth?download=1"}],
    ids=["file", "url"],
)
def test_a_file_whose_digest_begins_with_the_published_hash_has_the_published_tag(tmp_path, published):
    write(tmp_path / "mine", "tiny.pth")
    spec = replace(model(), weights=(replace(model().weights[0], **published),))
    (initial,) = find(tmp_path, spec, weights_dir=tmp_path / "mine")
    assert (initial.tag, initial.build_tag, initial.local) == ("in1k", "in1k", None)


def test_a_file_with_a_different_digest_than_the_published_hash_is_local(tmp_path):
    write(tmp_path / "mine", "tiny.pth", b"others")
    spec = replace(model(), weights=(replace(model().weights[0], file_names=(f"net-{SHA256[:8]}.pth",)),))
    (initial,) = find(tmp_path, spec, weights_dir=tmp_path / "mine")
    assert initial.build_tag == "" and initial.tag.startswith("local-")


def test_the_card_beside_a_file_takes_precedence_over_its_digest(tmp_path):
    write(tmp_path / "mine", "tiny.pth")
    write(tmp_path / "mine", "tiny.toml", b"mean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n")
    spec = replace(model(), weights=(replace(model().weights[0], file_names=(f"net-{SHA256[:8]}.pth",)),))
    (initial,) = find(tmp_path, spec, weights_dir=tmp_path / "mine")
    assert initial.normalization(spec) == ((0.5,) * 3, (0.25,) * 3)


def test_the_card_beside_a_local_file_declares_its_facts(tmp_path):
    write(tmp_path / "mine", "tiny.pth")
    card = b'mean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\nlicense = "CC0"\npretraining = ["radimagenet"]\n'
    write(tmp_path / "mine", "tiny.toml", card)
    (initial,) = find(tmp_path, model(), weights_dir=tmp_path / "mine")
    assert initial.normalization(model()) == ((0.5,) * 3, (0.25,) * 3)
    assert (initial.pretraining(model()), initial.local.license) == (["radimagenet"], "CC0")


def test_the_mean_in_the_card_of_a_network_for_images_is_not_that_of_its_network_for_volumes(tmp_path):
    write(tmp_path / "mine", "tiny.pth")
    card = b'mean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\nlicense = "CC0"\n'
    write(tmp_path / "mine", "tiny.toml", card)
    spec = model("tiny_3d", weights_of="tiny", dims=(3,), channels=1, mean=(0.0,), std=(1.0,))
    spec = replace(spec, weights=tuple(replace(weights, mean=(0.0,), std=(1.0,)) for weights in spec.weights))
    (initial,) = find(tmp_path, spec, weights_dir=tmp_path / "mine")
    assert (initial.normalization(spec), initial.local.license) == (((0.0,), (1.0,)), "CC0")


@pytest.mark.parametrize(
    ("card", "named"),
    [
        ("mean = 3", "mean"),
        ("mean = [0.5, 0.5, 0.5]", "std"),
        ("mean = [0.5]\nstd = [0.5]", "3 numbers"),
        ("mean = [0.5, 0.5, 0.5]\nstd = [0, 1, 1]", "above 0"),
        ('licence = "CC0"', "Did you mean 'license'"),
        ("mean = [", "tiny.toml"),
    ],
)
def test_an_error_in_the_card_of_a_local_file_is_named(tmp_path, card, named):
    write(tmp_path / "mine", "tiny.pth")
    write(tmp_path / "mine", "tiny.toml", card.encode())
    with pytest.raises(WeightsError, match=r"tiny\.toml") as caught:
        find(tmp_path, model(), weights_dir=tmp_path / "mine")
    assert caught.value.code == "bad-weights-card" and named in caught.value.message


def test_a_file_without_a_tag_in_its_name_is_never_used_for_a_requested_tag(tmp_path):
    write(tmp_path / "mine", "tiny.pth")
    spec = model(tags=("in1k", "in22k"))
    with pytest.raises(WeightsError) as caught:
        find_all_weights(
            [choose(spec, at=1)], "pretrained", weights_dir=tmp_path / "mine", cache=tmp_path / "c", offline=True
        )
    assert caught.value.code == "weights-missing"


@pytest.mark.parametrize("name", ["tiny.in1k.pth", "tiny.pth"])
def test_the_weights_of_an_encoder_are_found_under_its_name(tmp_path, name):
    names = []
    spec = model("unet-tiny", weights_of="tiny", fetch_weights=lambda request: names.append(request.name))
    (initial,) = find(tmp_path, spec, weights_dir=write(tmp_path / "mine", name).parent)
    assert initial.path == tmp_path / "mine" / name
    assert bool(initial.local) == (name == "tiny.pth")
    with pytest.raises(WeightsError, match=r"weights tiny\.in1k are not available"):
        find(tmp_path, spec)
    assert names == ["tiny"]


def test_the_flag_takes_precedence_over_the_environment_variable(tmp_path, monkeypatch):
    one, other = write(tmp_path / "one", "tiny.pth"), write(tmp_path / "other", "tiny.pth")
    monkeypatch.setenv("ZOO_WEIGHTS", str(tmp_path / "one"))
    assert find(tmp_path, model())[0].path == one
    assert find(tmp_path, model(), weights_dir=tmp_path / "other")[0].path == other


@pytest.mark.parametrize(("name", "reason"), [("nowhere", "no such folder"), ("file", "not a folder")])
def test_an_invalid_weights_folder_is_an_error_under_any_policy(tmp_path, name, reason):
    (tmp_path / "file").touch()
    for policy in ("pretrained", "auto"):
        with pytest.raises(UsageError) as caught:
            find(tmp_path, model(), policy=policy, weights_dir=tmp_path / name)
        assert caught.value.message == f"{tmp_path / name}: {reason}"
        assert caught.value.exit_status == 2 and "--weights-dir" in caught.value.fix


def test_a_missing_weights_folder_of_the_environment_names_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"nowhere: no such folder; fix: set \$ZOO_WEIGHTS"):
        find(tmp_path, model())
    assert find(tmp_path, model(), policy="none") == [InitialWeights(init="random")]  # the folder is not used


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "--models", "tiny", "--datasets"],
        ["bench", "--weights", "none", "--models", "tiny", "--datasets"],
        ["audit", "--label-noise"],
    ],
    ids=["bench", "bench without weights", "audit"],
)
def test_a_missing_weights_folder_ends_a_command_with_one_line(zoo, tiny_data, tmp_path, words):
    if words[0] == "audit":
        pytest.importorskip("cleanlab")
    done = zoo(*words, tiny_data / "binary.npz", "--weights-dir", tmp_path / "nowhere")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()  # nothing was printed about the data before
    assert line.startswith(f"zoo: error[usage] {tmp_path / 'nowhere'}: no such folder; fix: set --weights-dir")


# --- auto ------------------------------------------------------------------------------------------------------------
def test_auto_marks_a_fallback_and_keeps_the_others(tmp_path):
    write(tmp_path / "mine", "two.in1k.pth")
    initial = find(tmp_path, model("one"), model("two"), policy="auto", weights_dir=tmp_path / "mine")
    assert initial[0] == InitialWeights(init="random", fallback=True)
    assert (initial[1].init, initial[1].fallback) == ("pretrained", False)


def test_auto_falls_back_after_one_timeout_if_no_host_responds(tmp_path, monkeypatch, silent_host):
    monkeypatch.setattr(weights, "PROBE_SECONDS", 0.5)
    monkeypatch.setenv("HF_ENDPOINT", silent_host)
    requests = []
    specs = [model(f"m{i}", fetch_weights=partial(fetch, requests=requests)) for i in range(4)]
    found = find(tmp_path, *specs, policy="auto", offline=False)
    assert all(weights.fallback for weights in found)
    assert {kind for _, kind in requests} == {"offline"}  # no download was tried: a library's own retries take 50 s


def test_hanging_dns_lookups_cost_one_timeout_together(monkeypatch):
    monkeypatch.setattr(weights, "PROBE_SECONDS", 0.5)
    answer = threading.Event()
    monkeypatch.setattr(requests, "head", lambda *_, **__: answer.wait(60))
    start = time.monotonic()
    assert reachable_hosts(f"https://host{i}.test/file" for i in range(6)) == set()
    assert time.monotonic() - start < 30  # one host after the other would take six minutes
    answer.set()


def test_a_host_is_reachable_with_any_response(monkeypatch, silent_host):
    def head(url, **_):
        if url == "https://gone.test":
            raise requests.ConnectionError
        return requests.Response()

    monkeypatch.setattr(requests, "head", head)
    assert reachable_hosts(["https://up.test/a", "https://up.test/b", "https://gone.test/a", ""]) == {"https://up.test"}


def test_only_the_hubs_host_follows_its_environment_variable(monkeypatch):
    assert host_of(HUB) == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.test/hf")
    assert host_of(HUB) == "http://mirror.test"
    assert host_of("https://download.pytorch.org/models/a.pth") == "https://download.pytorch.org"
    assert host_of("") == ""


def test_a_file_of_the_hub_is_downloaded_from_the_host_that_was_contacted(tmp_path, monkeypatch):
    urls = []
    monkeypatch.setattr(weights, "download", lambda url, path, **_: urls.append(url) or path)
    tag = Weights(tag="in1k", url="https://huggingface.co/owner/name/resolve/main/model.safetensors")
    request, spec = FetchRequest(name="net", tag="in1k", folder=tmp_path), ModelSpec(name="net", build=None)
    path = weights.fetch_file(spec, tag, request)
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.test/hf/")
    assert weights.fetch_file(spec, tag, request) == path  # one place in the cache
    assert urls == [tag.url, "http://mirror.test/hf/owner/name/resolve/main/model.safetensors"]


# --- whether they fit ------------------------------------------------------------------------------------------------
def build_line(request, *, log, fail=None):
    """A model of one layer, which records every build, in any process."""
    import torch

    with open(log, "a") as stream:
        stream.write(f"{torch.empty(0).device.type}\n")
    if fail:
        fail()
    module = torch.nn.Linear(2, 3)
    load_weights(module, request.weights)
    return module


@pytest.fixture
def line(tmp_path):
    """A trial of a weights file, and the number of builds of the model for it."""
    import torch

    log = tmp_path / "log"
    log.touch()

    def make(name="line.pth", state=None, **settings):
        path = tmp_path / name
        if not path.exists():
            torch.save(torch.nn.Linear(2, 3).state_dict() if state is None else state, path)
        spec = ModelSpec(name="line", build=partial(build_line, log=log, **settings))
        request = BuildRequest(num_outputs=3, channels=1, image_size=1, weights=path)
        return Trial(model="plugin:line", spec=spec, path=path, request=request)

    make.built = lambda: log.read_text().split()
    return make


@pytest.mark.integration
def test_weights_that_fit_are_tried_once_with_two_builds(line, tmp_path):
    for _ in range(2):
        refuse_misfits([line()], Registry(), tmp_path / "cache")
    assert line.built() == ["cpu", "cpu"]


@pytest.mark.integration
def test_a_file_that_has_changed_is_tried_again(line, tmp_path):
    import torch

    refuse_misfits([line()], Registry(), tmp_path / "cache")
    torch.save({"weight": torch.zeros(3, 2)}, tmp_path / "line.pth")
    with pytest.raises(WeightsError, match=r"line\.pth: does not fit Linear: missing bias"):
        refuse_misfits([line()], Registry(), tmp_path / "cache")


@pytest.mark.integration
def test_misfitting_files_are_tried_again_and_all_named(line, tmp_path):
    trials = [line("good.pth"), line("one.pth", state={}), line("other.pth", state={})]
    for _ in range(2):
        with pytest.raises(WeightsError) as caught:
            refuse_misfits(trials, Registry(), tmp_path / "cache")
        assert caught.value.message.startswith(f"{trials[1].path}: ") and str(trials[2].path) in caught.value.message
        assert (caught.value.code, caught.value.exit_status) == ("weights-misfit", 2)


def raise_value_error():
    raise ValueError("no such layer")


@pytest.mark.integration
@pytest.mark.parametrize("fail", [raise_value_error, partial(os._exit, 7), partial(signal.raise_signal, 9)])
@pytest.mark.skipif(not can_fork(), reason="without fork, networks are tried in this process")
def test_a_model_that_cannot_be_built_fails_in_its_runs(line, tmp_path, fail):
    refuse_misfits([line(fail=fail)], Registry(), tmp_path / "cache")
    assert "cpu" in line.built()


def build_two_parts(request, *, load, names=("trunk", "head")):
    """A trunk and a head with the requested number of outputs; `load` lists the parts that load the file."""
    import torch

    trunk, head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, request.num_outputs)
    parts = dict(zip(names, (trunk, head), strict=True))
    state = torch.load(request.weights)
    for name in load:
        parts[name].load_state_dict({key: state[f"{name}.{key}"] for key in ("weight", "bias")})
    return torch.nn.ModuleDict(parts)


def trial_of_parts(tmp_path, load, classifier="head", num_outputs=2):
    import torch

    path = tmp_path / "parts.pth"
    shapes = {"trunk.weight": (4, 3, 3, 3), "trunk.bias": (4,), "head.weight": (2, 4), "head.bias": (2,)}
    torch.save({name: torch.rand(shape) for name, shape in shapes.items()}, path)
    spec = ModelSpec(name="parts", build=partial(build_two_parts, load=load), classifier=classifier)
    request = BuildRequest(num_outputs=num_outputs, channels=3, image_size=8, weights=path)
    return Trial(model="p:parts", spec=spec, path=path, request=request)


@pytest.mark.integration
@pytest.mark.parametrize("classifier", ["head", ""])
@pytest.mark.parametrize("load", [(), ("head",)], ids=["nothing", "head"])
def test_a_build_that_leaves_the_trunk_random_is_refused_naming_its_parameters(tmp_path, load, classifier):
    with pytest.raises(WeightsError, match=r"trunk\.weight, trunk\.bias") as caught:
        refuse_misfits([trial_of_parts(tmp_path, load, classifier)], Registry(), tmp_path / "cache")
    assert caught.value.code == "weights-unread"
    assert "head" not in caught.value.message


def draw_from_own_generator(module):
    import torch

    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.normal_(generator=generator)


def draw_from_numpy(module):
    import torch

    random = np.random.default_rng(0)
    for parameter in module.parameters():
        parameter.copy_(torch.as_tensor(random.normal(size=tuple(parameter.shape))))


def fill_with_constants(module):
    for parameter in module.parameters():
        parameter.fill_(0.5)


def build_unread(request, *, draw):
    import torch

    module = torch.nn.ModuleDict({"trunk": torch.nn.Conv2d(3, 4, 3), "head": torch.nn.Linear(4, request.num_outputs)})
    with torch.no_grad():
        draw(module)
    return module


@pytest.mark.integration
@pytest.mark.parametrize("classifier", ["head", ""])
@pytest.mark.parametrize("draw", [draw_from_own_generator, draw_from_numpy, fill_with_constants])
def test_a_build_that_draws_the_same_trunk_from_every_seed_is_refused(tmp_path, draw, classifier):
    trial = replace(
        trial_of_parts(tmp_path, ()),
        spec=ModelSpec(name="parts", build=partial(build_unread, draw=draw), classifier=classifier),
    )
    with pytest.raises(WeightsError, match=r"trunk\.weight, trunk\.bias") as caught:
        refuse_misfits([trial], Registry(), tmp_path / "cache")
    assert caught.value.code == "weights-unread" and "head" not in caught.value.message


def build_normalized(request, *, skipped):
    import torch

    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    module.load_state_dict(
        {name: value for name, value in read_state(request.weights).items() if name not in skipped}, strict=False
    )
    return module


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("skipped", [(), ("1.running_mean",), ("1.running_mean", "1.running_var")])
def test_running_statistics_that_are_not_loaded_are_named(tmp_path, suffix, skipped):
    import safetensors.torch
    import torch

    path = tmp_path / f"norm{suffix}"
    whole = build_normalized(replace(trial_of_parts(tmp_path, ()).request, weights=tmp_path / "parts.pth"), skipped=())
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(whole.state_dict(), path)
    spec = ModelSpec(name="norm", build=partial(build_normalized, skipped=skipped), classifier="3")
    request = BuildRequest(num_outputs=2, channels=3, image_size=1, weights=path)
    outcome = {}
    try_weights(Trial(model="p:norm", spec=spec, path=path, request=request), outcome.update)
    assert outcome.get("code") == ("weights-unread" if skipped else None)
    assert all(name in outcome["misfit"] for name in skipped)


def build_from_whole_trunk(request, *, drawn):
    """A trunk from a module that was saved whole, of which one layer may be drawn again, and a head."""
    import torch

    trunk = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    load_weights(trunk, request.weights, whole=True)
    if drawn:
        trunk[0].reset_parameters()
    return torch.nn.Sequential(trunk, torch.nn.Linear(144, request.num_outputs))


@pytest.mark.parametrize("is_zip", [True, False], ids=["torch 1.6 and newer", "older torch"])
@pytest.mark.parametrize("drawn", [True, False])
def test_layers_that_a_module_saved_whole_does_not_set_are_named(tmp_path, is_zip, drawn):
    import torch

    path, trunk = tmp_path / "whole.pt", torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    torch.save(trunk, path, _use_new_zipfile_serialization=is_zip)
    spec = ModelSpec(name="whole", build=partial(build_from_whole_trunk, drawn=drawn), classifier="1")
    request = BuildRequest(num_outputs=2, channels=3, image_size=8, weights=path)
    outcome = {}
    try_weights(Trial(model="p:whole", spec=spec, path=path, request=request), outcome.update)
    assert outcome.get("code") == ("weights-unread" if drawn else None)


def test_a_build_that_refuses_other_values_has_read_the_file(tmp_path):
    def build(request):
        if request.weights.read_bytes() != content:
            raise ValueError("other file")
        return build_unread(request, draw=fill_with_constants)

    trial = trial_of_parts(tmp_path, ())
    content = trial.path.read_bytes()
    outcome = {}
    try_weights(replace(trial, spec=ModelSpec(name="parts", build=build, classifier="head")), outcome.update)
    assert outcome == {"fits": True}


@pytest.mark.integration
def test_copies_of_weights_are_deleted(line, tmp_path):
    refuse_misfits([line()], Registry(), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("weights-*"))


@pytest.mark.integration
@pytest.mark.parametrize("classifier", ["head", ""])
@pytest.mark.parametrize("load", [("trunk",), ("trunk", "head")], ids=["trunk", "all"])
def test_a_build_that_loads_the_trunk_is_accepted_with_any_head(tmp_path, load, classifier):
    outcome = {}
    try_weights(trial_of_parts(tmp_path, load, classifier), outcome.update)
    assert outcome == {"fits": True}


@pytest.mark.parametrize(
    ("names", "resized", "heads"),
    [
        (["body.w", "head.0.w", "head.2.w"], ["head.2.w"], ["head."]),
        (["net.body.w", "net.head.w"], ["net.head.w"], ["net.head."]),
        (["0.weight", "2.weight"], ["2.weight"], ["2."]),
        (["weight", "bias"], ["weight", "bias"], ["weight", "bias"]),
        (["body.w"], [], []),
    ],
)
def test_a_head_is_the_child_that_changes_with_the_number_of_outputs(names, resized, heads):
    assert find_heads(names, resized) == heads
