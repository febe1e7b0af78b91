"""The way from a dataset to nnU-Net and back to its board, with a stand-in for nnU-Net's commands.

nnU-Net itself is not run here. The stand-in is a script under the names of its commands: it accepts their arguments,
writes the files that the next command needs, and as masks the bright pixels of each image.
"""

import json
import stat
import sys

import pytest
from click.testing import CliRunner
from folders import card
from test_segmentation import squares

import zoo
from zoo.results.store import load_results
from zoo.runner.importing import ImportRequest, import_masks
from zoo.sources.label_map_pairs import find_label_maps
from zoo.specs.suite import Suite
from zoo.system.settings import Settings
from zoo_nnunet.program import program
from zoo_nnunet.running import PREDICT, PREPROCESS, TRAIN, Installation, StepError, open_raw

pytestmark = pytest.mark.integration

STAND_IN = """#!{python}
import json, os, sys
from pathlib import Path
sys.path[:0] = {path}
command, words = Path(sys.argv[0]).name, sys.argv[1:]
raw = next(Path(os.environ["nnUNet_raw"]).glob("Dataset900_*"))
preprocessed, results = (Path(os.environ[f"nnUNet_{{name}}"]) / raw.name for name in ("preprocessed", "results"))
print(command, *words)
if os.environ.get("FAIL") == command:
    sys.exit("RuntimeError: no kernel image")
if command == "nnUNetv2_plan_and_preprocess":
    preprocessed.mkdir(parents=True)
elif command == "nnUNetv2_train":
    assert json.loads((preprocessed / "splits_final.json").read_text())[0]["val"]
    fold = results / f"{{words[4]}}__{{words[6]}}__{{words[1]}}" / f"fold_{{words[2]}}"
    fold.mkdir(parents=True)
    (fold / "checkpoint_final.pth").touch()
else:
    import numpy as np
    from PIL import Image
    output = Path(words[3])
    output.mkdir(parents=True)
    for path in Path(words[1]).iterdir():
        bright = np.asarray(Image.open(path)) > 120
        Image.fromarray(bright.astype(np.uint8)).save(output / path.name.replace("_0000", ""))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = squares(tmp_path_factory.mktemp("nnunet") / "squares", count=60, patients=30)
    return card(root, 'patient = {regex = "(patient[0-9]+)_"}\n')


@pytest.fixture(scope="module")
def raw(data):
    (folder,) = zoo.write_nnunet(data, data.parent / "nnUNet_raw", folds=1)
    return folder


@pytest.fixture
def environment(tmp_path):
    folder = tmp_path / "env"
    (folder / "bin").mkdir(parents=True)
    for command in (PREPROCESS, TRAIN, PREDICT):
        path = folder / "bin" / command
        path.write_text(
            STAND_IN.format(python=sys.executable, path=[each for each in sys.path if "site-packages" in each])
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def run(raw, environment, tmp_path, *more):
    words = [
        "run",
        str(raw),
        "--env",
        str(environment),
        "--work",
        str(tmp_path / "work"),
        "-o",
        str(tmp_path / "masks"),
    ]
    return CliRunner().invoke(program, [*words, "--device", "cpu", *more])


def test_masks_of_the_stand_in_stand_on_the_board_of_the_dataset(data, raw, environment, tmp_path):
    assert run(raw, environment, tmp_path).exit_code == 0
    request = ImportRequest(name="stand-in", files=find_label_maps(str(tmp_path / "masks")))
    context = zoo.api.make_context(Settings(results=tmp_path / "results"))
    outcome = import_masks(request, Suite(name="score", datasets=(str(data),), folds=1), context)
    assert outcome.num_predicted == outcome.num_tested == len(open_raw(raw).masks) and not outcome.unmatched
    (result,), _ = load_results(tmp_path / "results")
    assert result.run["shown"] == "stand-in"


def test_a_finished_training_is_not_repeated(raw, environment, tmp_path):
    (tmp_path / "work" / "nnUNet_results" / raw.name / "T__nnUNetPlans__2d" / "fold_0").mkdir(parents=True)
    (tmp_path / "work" / "nnUNet_results" / raw.name / "T__nnUNetPlans__2d" / "fold_0" / "checkpoint_final.pth").touch()
    assert run(raw, environment, tmp_path, "--trainer", "T").exit_code == 0
    assert TRAIN not in (tmp_path / "work" / f"{raw.name}.log").read_text()


def test_a_command_that_fails_is_one_line_with_its_last_words(raw, environment, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", TRAIN)
    error = run(raw, environment, tmp_path).exception
    assert isinstance(error, StepError) and error.code == "nnunet"
    assert "ended with status 1: RuntimeError: no kernel image" in error.line() and "\n" not in error.line()
    assert not (tmp_path / "masks").exists()


def test_a_missing_nnunet_is_one_line(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for environment in (None, tmp_path):
        with pytest.raises(StepError) as missing:
            Installation(environment=environment, work=tmp_path / "work").find(TRAIN)
        assert "pip install nnunetv2" in missing.value.line()


def test_a_folder_that_zoo_did_not_write_is_refused(raw, tmp_path):
    for change in ({}, {"cases.csv": "case,mask,split\na,../a.png,test\n"}):
        folder = tmp_path / f"Dataset00{len(change) + 1}_x"
        folder.mkdir()
        (folder / "dataset.json").write_text(json.dumps({"file_ending": ".png"}))
        for name, text in change.items():
            (folder / name).write_text(text)
        with pytest.raises(zoo.DataError):
            open_raw(folder)
