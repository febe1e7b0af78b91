"""TorchIO's artifacts of MRI as steps of augmentation, for images and volumes."""

from __future__ import annotations

from zoo import TransformSpec, hookimpl
from zoo_torchio.artifacts import NUM_COEFFICIENTS, add_bias_field, add_ghosts, add_motion, add_spike

CITATION = "Perez-Garcia et al. 2021, Computer Methods and Programs in Biomedicine 208, 106236"
MOTION = TransformSpec(
    name="motion",
    augment=add_motion,
    num_draws=15,
    dims=(2, 3),
    title="two rigid movements of the patient during the acquisition",
    citation="Shaw et al. 2019, MIDL, PMLR 102, 427-436",
    options={"share": 0.5, "degrees": 10.0, "translation": 0.05},
    bounds={"share": (0.0, 1.0), "degrees": (0.0, 180.0), "translation": (0.0, 1.0)},
    severities=tuple({"share": 1.0, "degrees": 2.0 * each, "translation": 0.01 * each} for each in range(1, 6)),
)
GHOSTING = TransformSpec(
    name="ghosting",
    augment=add_ghosts,
    num_draws=4,
    dims=(2, 3),
    title="4 to 10 ghosts along an axis",
    citation=CITATION,
    options={"share": 0.5, "intensity": 1.0},
    bounds={"share": (0.0, 1.0), "intensity": (0.0, 1.0)},
    severities=tuple({"share": 1.0, "intensity": each / 5} for each in range(1, 6)),
)
SPIKE = TransformSpec(
    name="spike",
    augment=add_spike,
    num_draws=5,
    dims=(2, 3),
    title="a wave from one raised point of k-space",
    citation=CITATION,
    options={"share": 0.5, "intensity": 0.3},
    bounds={"share": (0.0, 1.0), "intensity": (0.0, 100.0)},
    severities=tuple({"share": 1.0, "intensity": each} for each in (0.05, 0.1, 0.2, 0.35, 0.5)),
)
BIAS_FIELD = TransformSpec(
    name="bias-field",
    augment=add_bias_field,
    num_draws=1 + NUM_COEFFICIENTS,
    dims=(2, 3),
    title="a smooth factor over the image",
    citation="Van Leemput et al. 1999, IEEE TMI 18, 885-896",
    options={"share": 0.5, "coefficient": 0.15},
    bounds={"share": (0.0, 1.0), "coefficient": (0.0, 10.0)},
    severities=tuple({"share": 1.0, "coefficient": each} for each in (0.05, 0.1, 0.15, 0.25, 0.4)),
)


@hookimpl
def register_transforms() -> list[TransformSpec]:
    return [MOTION, GHOSTING, SPIKE, BIAS_FIELD]
