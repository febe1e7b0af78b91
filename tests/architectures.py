"""What the tests of zoo-timm and zoo-torchvision say alike of an architecture."""

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import torch

from zoo import BuildRequest, ModelSpec
from zoo.models.building import build_model
from zoo.testing import check_bounds


@dataclass(frozen=True)
class Adapted:
    """The modules of a spec for gray and for color images of one size, with two outputs, and gray images."""

    spec: ModelSpec
    size: int

    @cached_property
    def gray(self):
        return self.build(channels=1)

    @cached_property
    def color(self):
        return self.build(channels=3)

    @cached_property
    def images(self):
        return torch.rand(2, 1, self.size, self.size)

    def build(self, channels):
        request = BuildRequest(num_outputs=2, channels=channels, image_size=self.size)
        return build_model(self.spec, request, head_std=1.0).eval()

    def check_equal_logits_of_gray_and_color(self):
        with torch.inference_mode():
            expected = self.color(self.images.expand(-1, 3, -1, -1))
            torch.testing.assert_close(self.gray(self.images), expected, rtol=1e-3, atol=1e-3)

    def check_outputs_follow_the_bias_of_the_head(self):
        check_bounds(self.spec, deepcopy(self.color), self.images.expand(-1, 3, -1, -1))


def check_layer_groups(spec, module):
    """Assert that each parameter is in one group, and the weights of the heads in the last."""
    groups = spec.layer_groups(module)
    flat = [id(parameter) for group in groups for parameter in group]
    assert len(groups) > 1
    assert len(flat) == len(set(flat)) == len(list(module.parameters()))
    last = {id(parameter) for parameter in groups[-1]}
    assert all(id(module.get_submodule(head).weight) in last for head in spec.classifier.split(","))
