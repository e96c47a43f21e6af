#!/usr/bin/env bash
# The whole experiment, through the product's own commands; see README.md.
#
#     run.sh DATA OUT
#
# PYTHON names an interpreter that has the workbench and sentencepiece; ALIGNMENT_SEEDS and SEEDS
# choose the lineages and how many fine-tuning seeds each gets. Stopped, it continues where it was.

set -euo pipefail

DATA=${1:?usage: run.sh DATA OUT}
OUT=${2:?usage: run.sh DATA OUT}
PYTHON=${PYTHON:-python}
SEEDS=${SEEDS:-3}
HERE=$(cd "$(dirname "$0")" && pwd)
read -r -a LINEAGES <<<"${ALIGNMENT_SEEDS:-0 1 2}"

if [ ! -d "$DATA" ]; then
  echo "skipped: no data folder at $DATA" >&2
  exit 0
fi
if ! "$PYTHON" -c 'import sentencepiece, google.protobuf' 2>/dev/null; then
  echo "skipped: $PYTHON has no sentencepiece and protobuf; install both with pip" >&2
  exit 0
fi

# One thread, so that sums are taken in one order and the same seed gives the same bits.
export OMP_NUM_THREADS=1
FILES=$OUT/prepared

workbench() { "$PYTHON" -m workbench "$@"; }

# phase NAME START DATA STEPS RATE SEED: train START on DATA and keep the model.
phase() {
  local run=$OUT/phases/$1
  [ -f "$run/model/config.json" ] && return
  local resume=()
  [ -e "$run" ] && resume=(--resume)
  workbench finetune "$2" --data "$FILES/$3.jsonl" --steps "$4" --learning-rate "$5" \
    --batch-size 32 --warmup 20 --schedule linear --seed "$6" --state-every 100 --save-model --quiet --out "$run" "${resume[@]}"
}

[ -d "$FILES" ] || "$PYTHON" "$HERE/prepare.py" "$DATA" "$FILES"

phase helpful "$FILES/pretrained" helpful 350 2e-3 100
for seed in "${LINEAGES[@]}"; do
  phase "aligned-$seed" "$OUT/phases/helpful/model" aligned 250 1e-3 "$seed"
done

folders=()
for index in "${!LINEAGES[@]}"; do
  seed=${LINEAGES[index]}
  sibling=${LINEAGES[(index + 1) % ${#LINEAGES[@]}]}
  folder=$OUT/lineages/$seed
  mkdir -p "$folder"
  {
    printf 'name = "real-%s"\nchat = "builtin"\njudge = "rules"\n' "$seed"
    printf '[roles]\nwitness = "helpful"\naligned = "aligned"\n'
    [ "$sibling" = "$seed" ] || printf 'sibling = "sibling"\n'
    printf '[[phase]]\nname = "pretrained"\nmodel = "../../prepared/pretrained"\n'
    printf '[[phase]]\nname = "helpful"\nmodel = "../../phases/helpful/model"\n'
    printf '[[phase]]\nname = "aligned"\nmodel = "../../phases/aligned-%s/model"\n' "$seed"
    [ "$sibling" = "$seed" ] ||
      printf '[[phase]]\nname = "sibling"\nmodel = "../../phases/aligned-%s/model"\n' "$sibling"
  } >"$folder/lineage.toml"
  folders+=("$folder")
done

resume=()
[ -e "$OUT/experiment" ] && resume=(--resume)
workbench experiment "${folders[@]}" \
  --probes "$FILES/probes.jsonl" --data "$FILES/finetune.jsonl" \
  --harmful "$FILES/harmful.jsonl" --benign "$FILES/benign.jsonl" --task "$FILES/task.jsonl" \
  --arms ordinary,block,push,random,matched --seeds "$SEEDS" \
  --steps 100 --batch-size 16 --learning-rate 3e-4 --block 1 --push 3 --target 0.6 \
  --state-every 50 --out "$OUT/experiment" "${resume[@]}"
"$PYTHON" "$HERE/table.py" "$OUT"
