"""Names of the datasets behind a weights tag of timm, in the order of training."""

from __future__ import annotations

import re

# Pieces of tags and their datasets, in the order of training: large web collections first, ImageNet last.
PIECES = (
    (r"lvd142m", "lvd-142m"),
    (r"lvd1689m", "lvd-1689m"),
    (r"sat493m", "sat-493m"),
    (r"laion2b|merged2b", "laion-2b"),
    (r"merged2b", "coyo-700m"),
    (r"laion400m", "laion-400m"),
    (r"laiona", "laion-aesthetic"),
    (r"openai", "wit-400m"),
    (r"datacomp1b|datacompxl", "datacomp-1b"),
    (r"datacompl", "datacomp-140m"),
    (r"dfn2b", "dfn-2b"),
    (r"dfn5b", "dfn-5b"),
    (r"dfndr2b", "dfndr-2b"),
    (r"apple_mclip(?!2)", "datacompdr-1b"),
    (r"apple_pt", "dfn-2b"),
    (r"metaclip_400m", "metaclip-400m"),
    (r"metaclip_2pt5b", "metaclip-2.5b"),
    (r"metaclip2_worldwide", "metaclip2-worldwide"),
    (r"metaclip_altogether", "metaclip-altogether"),
    (r"webli|pali", "webli"),
    (r"m38m", "merged-38m"),
    (r"m30m", "merged-30m"),
    (r"ig1b|seer", "instagram-1b"),
    (r"swag", "instagram-3.6b"),
    (r"yfcc100m", "yfcc-100m"),
    (r"yfcc15m", "yfcc-15m"),
    (r"cc12m", "cc-12m"),
    (r"jft", "jft-300m"),
    (r"sa1b", "sa-1b"),
    (r"florence2", "fld-5b"),
    (r"bamboo", "bamboo"),
    (r"in(?:w)?2[12]k", "imagenet-21k"),
    (r"in12k", "imagenet-12k"),
    (r"in1k", "imagenet-1k"),
)
# Tags that name a method; trained on ImageNet-1k without labels (He et al. 2022; Caron et al. 2021;
# Woo et al. 2023).
SELF_SUPERVISED = {"mae": ("imagenet-1k",), "dino": ("imagenet-1k",), "fcmae": ("imagenet-1k",)}


def pretraining_of(tag: str) -> tuple[str, ...]:
    """Datasets that a tag names, or (); ImageNet-22k is another name of ImageNet-21k."""
    if tag in SELF_SUPERVISED:
        return SELF_SUPERVISED[tag]
    names = [name for pattern, name in PIECES if re.search(rf"(?:^|_)(?:{pattern})", tag)]
    if tag.startswith("fcmae"):
        names.append("imagenet-1k")
    return tuple(dict.fromkeys(names))
