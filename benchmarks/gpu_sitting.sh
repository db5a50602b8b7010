#!/usr/bin/env bash
# All that a GPU must show, in one command: tests, checks, then ResNet-20 by every method, as far as the time reaches.
# The same command again goes on where it stopped, on another machine too if OUT comes along.
#
#   benchmarks/gpu_sitting.sh OUT SECONDS [options of `adderkit table`: --seeds 0 1 --data.name parquet --data.train ...]
#
# Exit codes: 0 all is done; 75 the time is over; 1 a check or a training failed, the others were done all the same.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:?name the folder for figures and trainings}")
end=$((SECONDS + ${2:?name the seconds of this sitting}))
shift 2
mkdir -p "$out"
python=${PYTHON:-python3} failed=0
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 ADDERKIT_HOME=$out/home

# once NAME COMMAND ...: within the time that is left; what ended well is not done again.
once() {
  local name=$1 left=$((end - SECONDS)) code
  shift
  if [[ -e $out/$name.done ]]; then return; fi
  if ((left < 1)); then exit 75; fi
  echo "== $name"
  timeout --signal TERM "$left" "$@" 2>&1 | tee -a "$out/$name.log"
  code=${PIPESTATUS[0]}
  case $code in
    0) touch "$out/$name.done" ;;
    75 | 124) echo "== the time is over; the same command goes on" && exit 75 ;;
    *) echo "== $name failed with exit code $code, see $out/$name.log" && failed=1 ;;
  esac
}

if "$python" -c "import pytest" 2>/dev/null; then
  once tests "$python" -m pytest -q -p no:cacheprovider tests/ops/gpu tests/train/test_graph.py
else
  echo "== tests: not run, there is no pytest"
fi
once check "$python" benchmarks/gpu_check.py --cases 60 --json "$out/gpu_check.json"
table=("$python" -m adderkit table)
once first "${table[@]}" table1 --out "$out/table1" --rows CNN ANN PKKD --save_every 10 "$@"
once table1 "${table[@]}" table1 --out "$out/table1" --save_every 10 "$@"
once ablation "${table[@]}" ablation --out "$out/ablation" --save_every 10 "$@"
exit $failed
