#!/usr/bin/env bash
# Run the benches behind leaderboard/results and write one bundle per dataset. Finished runs are not repeated.
# leaderboard/data holds the datasets and leaderboard/weights the weights: see docs/leaderboard.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
zoo=${ZOO:-.venv/bin/zoo}
export MEDMNIST_ROOT=leaderboard/data

bench() {  # DATASET SUITE [FLAG...]
  local dataset=$1 suite=$2 source=$1
  shift 2
  [ -f "leaderboard/datasets/$dataset.toml" ] && source=leaderboard/datasets/$dataset.toml
  "$zoo" bench --offline --suite "$suite" --datasets "$source" --weights-dir leaderboard/weights \
    --keep-weights none --results "leaderboard/runs/$dataset" "$@"
}

for dataset in breastmnist retinamnist nih1000 ham10000_mel_nv pneumoniamnist; do
  for suite in linear-probe finetune scratch; do
    bench "$dataset" "leaderboard/suites/$suite.toml" "$@"
  done
done
bench breastmnist medmnist "$@"

for dataset in breastmnist retinamnist nih1000 ham10000_mel_nv pneumoniamnist; do
  columns=()
  case $dataset in nih1000 | ham10000_mel_nv) columns=(--metadata age,sex) ;; esac
  "$zoo" bundle "leaderboard/results/$dataset.tar.xz" --results "leaderboard/runs/$dataset" "${columns[@]}"
done
