"""Convert the table of the `medmnist` package to `src/zoo_medmnist/facts.json`: labels, counts, licenses, checksums.

pip download medmnist --no-deps && unzip medmnist-*.whl && python make_facts.py medmnist/info.py
"""

import importlib.util
import json
import sys
from pathlib import Path

SIZES = (28, 64, 128, 224)
TASKS = {
    "binary-class": "binary",
    "multi-class": "multiclass",
    "multi-label, binary-class": "multilabel",
    "ordinal-regression": "ordinal",
}


def suffix(size: int) -> str:
    return "" if size == 28 else f"_{size}"


def read_info(path: Path) -> tuple[str, dict]:
    spec = importlib.util.spec_from_file_location("medmnist_info", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.__version__, module.INFO


def make_facts(version: str, info: dict) -> dict:
    sets = {}
    for name, entry in info.items():
        if name.endswith("3d"):
            continue
        sets[name] = {
            "title": entry["python_class"],
            "task": TASKS[entry["task"]],
            "labels": [entry["label"][str(index)] for index in range(len(entry["label"]))],
            "channels": entry["n_channels"],
            "num_images": entry["n_samples"],
            "license": entry["license"],
            "urls": {size: entry[f"url{suffix(size)}"] for size in SIZES},
            "md5": {size: entry[f"MD5{suffix(size)}"] for size in SIZES},
        }
    return {"made_from": f"medmnist {version}", "sets": sets}


if __name__ == "__main__":
    target = Path(__file__).parent / "src" / "zoo_medmnist" / "facts.json"
    facts = make_facts(*read_info(Path(sys.argv[1])))
    target.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{target}: {len(facts['sets'])} sets")
