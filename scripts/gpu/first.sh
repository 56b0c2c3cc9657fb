#!/usr/bin/env bash
# The first minutes on a GPU: do the tests pass, does a run end, how long is a step. Each part has its own limit and
# leaves what it has in $OUT. DEVICE=cpu is the dry run: every line but the kernels (rehearse.py), shorter with LIMIT=20
# BENCH=20 EPOCHS=2 STEPS=1 METHODS=kd PAIR=resnet14,resnet8.
set -u
cd "$(dirname "$0")/../.."
OUT=${OUT:-outputs/gpu} DEVICE=${DEVICE:-cuda} PYTHON=${PYTHON:-python3} LIMIT=${LIMIT:-120} BENCH=${BENCH:-60}
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$OUT"
RUN=("$PYTHON") && [ "$DEVICE" = cpu ] && RUN+=(scripts/gpu/rehearse.py)
"$PYTHON" scripts/gpu/check.py --limit "$LIMIT" --workers "${WORKERS:-8}" --out "$OUT" >"$OUT/tests.log" 2>&1
tail -n 3 "$OUT/tests.log"
for OVERLAP in auto false; do  # epochs measured beside the steps of the next one, and before them: the same accuracies, in less time?
  timeout "${RUN_LIMIT:-40}" "${RUN[@]}" -m distill method=kd student=resnet20 teacher=resnet14 teacher.cache=off \
    device="$DEVICE" overlap="$OVERLAP" output="${FOLDER:-/tmp/first}/$OVERLAP" schedule.epochs="${EPOCHS:-20}" \
    "schedule.milestones=[$((${EPOCHS:-20} * 3 / 4))]" >"$OUT/run-$OVERLAP.log" 2>&1
  echo "run, overlap=$OVERLAP: exit code $?"; tail -n 12 "$OUT/run-$OVERLAP.log"
done
timeout "$BENCH" "${RUN[@]}" scripts/bench.py --device "$DEVICE" --compile false --no-memory --steps "${STEPS:-100}" \
  --rounds 3 --pairs "${PAIR:-resnet56,resnet20}" --methods "${METHODS:-none,kd,crd}" --out "$OUT" >"$OUT/bench.log" 2>&1
echo "bench: exit code $?"; tail -n 40 "$OUT/bench.log"
