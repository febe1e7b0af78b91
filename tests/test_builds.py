"""Builds that contact the network (also in a forward), seed torch or do not return a module are refused."""

import contextlib
import socket
import urllib.request
from functools import partial

import pytest
import torch

from zoo.errors import RunError
from zoo.models.building import build_model
from zoo.specs.model import BuildRequest, ModelSpec

RGB = BuildRequest(num_outputs=2, channels=3, image_size=4)


def build_after(request, act):
    with contextlib.suppress(OSError):  # like libraries that fall back to a cache
        act()
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, request.num_outputs))


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (partial(torch.manual_seed, 0), "build-seeds"),
        (torch.seed, "build-seeds"),
        (partial(urllib.request.urlopen, "http://127.0.0.1:9/weights.pth"), "build-downloads"),
        (partial(socket.create_connection, ("weights.test", 443)), "build-downloads"),
    ],
    ids=["manual_seed", "seed", "address", "name"],
)
def test_a_build_that_seeds_torch_or_contacts_the_network_is_refused(act, code):
    spec = ModelSpec(name="acting", build=partial(build_after, act=act))
    with pytest.raises(RunError, match="acting") as caught:
        build_model(spec, RGB, seed=7)
    assert caught.value.code == code


class Downloading(torch.nn.Module):
    """A module that contacts the network in its first forward only."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.is_first = torch.nn.Conv2d(3, 4, 1), torch.nn.Linear(4, 10), True

    def forward(self, images):
        if self.is_first:
            self.is_first = False
            with contextlib.suppress(OSError):
                socket.create_connection(("weights.test", 443))
        return self.fc(self.conv(images).mean(dim=(2, 3)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_forward_that_contacts_the_network_is_refused(channels):
    spec = ModelSpec(name="lazy", build=lambda _: Downloading(), classifier="fc", first_conv="conv")
    with pytest.raises(RunError, match=r"'lazy'.*`forward` contacts weights\.test") as caught:
        build_model(spec, BuildRequest(num_outputs=2, channels=channels, image_size=4))
    assert caught.value.code == "build-downloads"


def seed_alike():
    torch.manual_seed(0)


def seed_under_a_fork():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)


@pytest.mark.parametrize("act", [seed_alike, seed_under_a_fork])
def test_a_seed_without_effect_on_the_generator_is_detected(act):
    spec = ModelSpec(name="acting", build=partial(build_after, act=act))
    with pytest.raises(RunError) as caught:
        build_model(spec, RGB, seed=0)
    assert caught.value.code == "build-seeds"


@pytest.mark.parametrize(("returned", "named"), [(None, "NoneType"), (print, "builtin_function")])
def test_a_build_that_does_not_return_a_module_is_refused(returned, named):
    with pytest.raises(RunError, match=f"'empty'.*{named}") as caught:
        build_model(ModelSpec(name="empty", build=lambda _: returned), RGB)
    assert caught.value.code == "wrong-output"


def test_the_seed_function_of_torch_is_restored_after_a_build():
    before = torch.manual_seed, torch.random.manual_seed
    build_model(ModelSpec(name="calm", build=partial(build_after, act=list)), RGB)
    assert (torch.manual_seed, torch.random.manual_seed) == before


def test_a_build_that_forks_the_random_generator_is_accepted():
    def act():
        with torch.random.fork_rng(devices=[]):
            torch.rand(3)

    spec = ModelSpec(name="forking", build=partial(build_after, act=act))
    module = build_model(spec, RGB)
    assert module(torch.zeros(1, 3, 4, 4)).shape == (1, 2)


def test_network_access_is_restored_after_a_build():
    before = socket.getaddrinfo, socket.socket.connect
    build_model(ModelSpec(name="calm", build=partial(build_after, act=list)), RGB)
    assert (socket.getaddrinfo, socket.socket.connect) == before


def test_a_model_in_half_precision_is_refused_naming_the_first_parameter():
    spec = ModelSpec(
        name="half", build=lambda _: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2)).half()
    )
    with pytest.raises(RunError, match=r"'half': 1\.weight is float16") as caught:
        build_model(spec, RGB)
    assert caught.value.code == "wrong-precision"
