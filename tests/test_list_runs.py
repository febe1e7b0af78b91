"""The table of `zoo list runs`: what all runs share above it, long names over several lines, nothing cut."""

import pytest
from rich.cells import cell_len

from zoo.report.runs import table_of_runs

LONG_MODEL = "vit_base_patch16_clip_quickgelu_224.laion400m_e32"
LONG_DATASET = "brain-tumor-mri-kaggle-masoudnickparvar-fixed"


def make_run(**fields):
    return {
        "id": "0123456789ab",
        "dataset": "breastmnist",
        "model": "resnet18",
        "protocol": "finetune@1",
        "seed": 0,
        "fold": 0,
        "folds": 1,
        "status": "ok",
        "metric": "auroc",
        "score": 0.9,
        "date": "2026-01-01",
        **fields,
    }


def read_columns(lines):
    """The text of each column, whose names are in the first line, without line breaks."""
    header, *rows = lines
    starts = [i for i in range(len(header)) if header[i] != " " and header[i - 2 : i] in ("", "  ")]
    parts = {header[i:j].strip(): slice(i, j) for i, j in zip(starts, [*starts[1:], None], strict=True)}
    return {name: "".join(row[part].strip() for row in rows) for name, part in parts.items()}


def test_what_all_runs_share_is_above_the_table_without_empty_columns():
    assert table_of_runs([make_run(), make_run(model="vgg11", seed=1, score=None, status="oom")], 80) == [
        "dataset breastmnist · protocol finetune@1 · metric auroc · date 2026-01-01",
        "id        model     seed  status  score",
        "01234567  resnet18  0     ok      .900",
        "01234567  vgg11     1     oom     -",
    ]


def test_one_run_is_a_sentence_and_its_score():
    *above, header, row = table_of_runs([make_run(dataset=LONG_DATASET, model=LONG_MODEL)], 80)
    assert all(text in " ".join(above) for text in (LONG_DATASET, LONG_MODEL, "seed 0", "status ok"))
    assert (header.split(), row.split()) == (["id", "score"], ["01234567", ".900"])


def test_no_run_is_no_line():
    assert table_of_runs([], 80) == []


def test_a_long_name_continues_after_a_separator():
    runs = [make_run(dataset=LONG_DATASET, model=LONG_MODEL), make_run(seed=1, status="failed", score=None)]
    assert table_of_runs(runs, 80) == [
        "protocol finetune@1 · metric auroc · date 2026-01-01",
        "id        dataset                  model                     seed  status  score",
        "01234567  brain-tumor-mri-kaggle-  vit_base_patch16_clip_    0     ok      .900",
        "          masoudnickparvar-fixed   quickgelu_224.laion400m_",
        "                                   e32",
        "01234567  breastmnist              resnet18                  1     failed  -",
    ]


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_table_with_every_column_fits_and_names_are_whole(width):
    runs = [
        make_run(dataset=LONG_DATASET, model=LONG_MODEL, folds=3),
        make_run(model="convnext_tiny.in12k_ft_in1k_384", seed=1, fold=1, folds=3, status="timeout", score=None),
        make_run(dataset="isic_2024_lesions_of_a_long_name", seed=2, metric="accuracy", protocol="scratch@1"),
    ]
    above, *table = table_of_runs(runs, width)
    assert above == "date 2026-01-01"
    assert max(map(cell_len, table)) <= width
    columns = read_columns(table)
    for name in ("dataset", "model", "protocol", "status", "metric"):
        assert columns[name] == "".join(run[name] for run in runs), name


def test_wide_characters_keep_the_columns_aligned():
    runs = [make_run(dataset="胸部X線写真データセット" * 2), make_run(seed=1)]
    header, first, second = (line for line in table_of_runs(runs, 40) if line.startswith(("id", "0123")))
    starts = [cell_len(row[: row.rindex(cell)]) for row, cell in ((header, "seed"), (first, "0  "), (second, "1  "))]
    assert len(set(starts)) == 1
