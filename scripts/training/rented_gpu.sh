#!/usr/bin/env bash
# Train on a rented GPU whose commands are short: the run goes on between them, and each prints how it stands.
#
#   rented_gpu.sh start DATA [OPTION…]   install ./.whl/*.whl if there are any, and start; options of train_story_model
#   rented_gpu.sh wait SECONDS           until the run has ended, at most so long
#   rented_gpu.sh finish FOLDER          end the run if it still goes, quantize, and put all there in pieces of 15 MiB
#
# Whether the run has ended is asked of its process and its files, never of words in its log.
set -u
RUN=${RUN:-/tmp/run}
SITE=$RUN/site
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
PYTHON=${PYTHON:-python3}

enter() { cd "$RUN/tree" && export PYTHONPATH=$PWD:$SITE; }
goes() { [ -f "$RUN/pid" ] && kill -0 "$(cat "$RUN/pid")" 2>/dev/null && [ "$(ps -o stat= -p "$(cat "$RUN/pid")" | cut -c1)" != Z ]; }
is_complete() { [ -f "$RUN/model/tokenizer.json" ]; }

show() {
  date +%T
  tr '\r' '\n' <"$RUN/log.txt" | tail -n 4 | cut -c1-300
  tail -n 2 "$RUN/log.jsonl" 2>/dev/null
  if is_complete; then echo "the run is complete"; elif goes; then echo "the run goes on"; else echo "THE RUN IS DEAD"; fi
}

start() {
  local data=$1
  shift
  mkdir -p "$RUN"/{data,tree} "$SITE"
  cp "$data"/* "$RUN/data/"
  cp -r jet scripts "$RUN/tree/" # the next command's files must not change under the run
  if compgen -G ".whl/*.whl" >/dev/null; then
    "$PYTHON" -m pip install -q --no-index --no-deps --target "$SITE" .whl/*.whl || exit 1
  fi
  enter || exit 1
  setsid nohup "$PYTHON" -m scripts.train_story_model --data "$RUN/data" --output "$RUN" "$@" \
    >"$RUN/log.txt" 2>&1 </dev/null &
  echo $! >"$RUN/pid"
}

wait_for() {
  local end=$((SECONDS + $1))
  while [ $SECONDS -lt $end ] && goes; do sleep 1; done
  show
  is_complete || goes
}

finish() {
  local out=$1 model=$RUN/model
  enter || exit 1
  if ! is_complete; then
    goes && kill -TERM "$(cat "$RUN/pid")"
    wait_for 20
    model=$RUN/so-far
    "$PYTHON" -m scripts.training.export --run "$RUN" --tokenizer "$RUN/data" --output "$model" || exit 1
  fi
  "$PYTHON" -m jet.quantize "$model" --to int4 "$RUN/int4" || exit 1
  split -b 15M "$RUN/int4/model.safetensors" "$out/model."
  cp "$RUN"/int4/{config,generation_config}.json "$RUN"/{log.jsonl,record.json} "$out/"
}

case ${1:-} in
  start) start "${@:2}" ;;
  wait) wait_for "$2" ;;
  finish) finish "$2" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
