#!/usr/bin/env bash
# Checks the GPU engine on a machine with a GPU: no Rust and no Python are needed there, only the built binaries, the
# fixtures and NVRTC. It ends within LIMIT seconds: what matters most comes first, and every step has a limit of its own.
#
#   tools/gpu_check.sh OUT [TEST_BINARY...]
#
# In this order: start times; every fixture in every type; the test binaries; `vitscope bench` in the first type; every
# fixture with each rung forced, several at a time; compute-sanitizer's tools; one picture many times, all maps the same
# bytes; `vitscope bench` in the other types; with PYTHON, tools/peers_gpu.py in the time that is left. OUT gets one log for
# each step, table.txt, result.json (also when a step hangs or the script is stopped), and on a GPU verified.json: the rungs
# that passed, by the hash of their sources, in the form of benches/results/verified.json. Exit code 1 when a step failed or
# was not reached.
#
# Variables: VITSCOPE (the program), DEVICE (cuda, cuda:N, or emulated for a dry run), FIXTURES (files or folders; all by
# default), FORCED_FIXTURES (the same for the forced rungs), TYPES, RUNGS (a regular expression of those that are forced, such
# as '^gemm_'; all by default), REPEAT, BENCH and BENCH_KERNELS (arguments of `vitscope bench` and `vitscope bench kernels`),
# LIMIT and STEP_LIMIT (seconds for everything, and for a step), JOBS (forced rungs at a time), PYTHON (one with torch).
# A dry run of minutes:
#   DEVICE=emulated FIXTURES=tests/fixtures/clip/a_plain.safetensors TYPES=bf16 RUNGS='^rows_' REPEAT=2 tools/gpu_check.sh OUT
set -euo pipefail

out=${1:?usage: tools/gpu_check.sh OUT [TEST_BINARY...]}
shift
root=$(cd "$(dirname "$0")/.." && pwd)
vitscope=${VITSCOPE:-$root/target/release/vitscope}
device=${DEVICE:-cuda}
read -ra fixtures <<<"${FIXTURES:-$root/tests/fixtures/clip}"
read -ra types <<<"${TYPES:-bf16 f32 f16}"
repeat=${REPEAT:-1000}
rungs=${RUNGS:-.}
read -ra forced_fixtures <<<"${FORCED_FIXTURES:-${fixtures[*]}}"
if [ "$device" = emulated ]; then
    bench_default="--model random:tiny --batch-size 2"
    kernels_default=$bench_default
    limit=${LIMIT:-14400}
    step_limit=${STEP_LIMIT:-3600}
    jobs=${JOBS:-1}
else
    bench_default="--model random:ViT-L-14 --batch-size 1 --batch-size 16 --batch-size 64"
    kernels_default="--model random:ViT-L-14 --batch-size 16 --repeat 5"
    limit=${LIMIT:-540}
    step_limit=${STEP_LIMIT:-90}
    jobs=${JOBS:-$((($(nproc) + 1) / 2))}
fi
read -ra bench <<<"${BENCH:-$bench_default}"
read -ra bench_kernels <<<"${BENCH_KERNELS:-${BENCH:-$kernels_default}}"

# Entries whose hazards racecheck reports though they are none, each on a line of its own with a comment that says why.
racecheck_exceptions=()

mkdir -p "$out"
out=$(cd "$out" && pwd)
name=unknown
driver=none
program=unknown
date=$(date -u +%F)
steps=()
passed_rungs=()
failures=0
unreached=0
# All steps that were begun, in this order; the first so many of them stand in the table.
begun=()
commands=()
logs=()
noted=0
running=0
declare -A states

quote() { printf '"%s"' "$(printf '%s' "$1" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/ /g' | tr -d '\n\r')"; }

join() { local IFS=,; printf '%s' "$*"; }

log_of() { printf '%s/%s.log' "$out" "$(printf '%s' "$1" | tr -c 'A-Za-z0-9=_\n' '-')"; }

milliseconds() { printf '%s' $((${EPOCHREALTIME/[.,]/} / 1000)); }

# One line of the table and of the JSON: NAME STATE MILLISECONDS COMMAND.
note() {
    local seconds
    seconds=$(($3 / 1000)).$(printf '%03d' $(($3 % 1000)))
    printf '%-44s %-10s %9s s\n' "$1" "$2" "$seconds" | tee -a "$out/table.txt"
    steps+=("{\"step\": $(quote "$1"), \"state\": $(quote "$2"), \"seconds\": $seconds, \"command\": $(quote "$4")}")
}

fail() {
    note "$1" "$2" 0 "$3"
    failures=$((failures + 1))
}

# What is known so far, under its name only when it is whole.
write_result() {
    {
        printf '{"device": %s, "driver": %s, "date": %s, "program": %s, ' "$(quote "$name")" "$(quote "$driver")" \
            "$(quote "$date")" "$(quote "$program")"
        printf '"finished": %s, "failures": %s, "unreached": %s, "seconds": %s,\n' "$1" "$failures" "$unreached" "$SECONDS"
        printf '"rungs": [%s],\n' "$(paste -sd, "$out/rungs.jsonl" 2>/dev/null || true)"
        printf '"steps": [%s]}\n' "$(join "${steps[@]}")"
    } >"$out/result.json.part"
    mv "$out/result.json.part" "$out/result.json"
}

# Runs a command for at most so many seconds; leaves its exit status and its milliseconds in a file.
run() {
    local log=$1 seconds=$2 start status=0 child
    shift 2
    start=$(milliseconds)
    timeout --kill-after=5 "$seconds" "$@" >"$log" 2>"$log.err" &
    child=$!
    trap 'kill "$child" 2>/dev/null; exit 143' TERM
    wait "$child" || status=$?
    printf '%s %s\n' "$status" $(($(milliseconds) - start)) >"$log.state"
}

# Begins a step in the background: NAME LIMIT COMMAND... `settle` waits for all of them.
begin() {
    local step=$1 seconds=$2 left=$((limit - SECONDS)) log
    shift 2
    log=$(log_of "$step")
    begun+=("$step")
    commands+=("$*")
    logs+=("$log")
    rm -f "$log.state"
    # What could not end in time is not begun.
    if [ "$left" -lt 5 ]; then return; fi
    if [ "$running" -ge "$jobs" ]; then
        wait -n || true
        running=$((running - 1))
        collect
    fi
    left=$((limit - SECONDS))
    run "$log" $((seconds < left ? seconds : left > 1 ? left : 1)) "$@" &
    running=$((running + 1))
}

# Notes the steps that have ended, in the order of their beginning; with `all`, those too that never began.
collect() {
    local log status time state
    while [ "$noted" -lt "${#begun[@]}" ]; do
        log=${logs[noted]}
        time=0
        if [ -e "$log.state" ]; then
            read -r status time <"$log.state"
            rm "$log.state"
            if [ "$status" -eq 0 ]; then
                state=passed
            elif [ "$status" -eq 2 ] && grep -q 'this rung does not serve' "$log.err"; then
                state=unserved
            elif [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
                state="too long"
            else
                state="exit $status"
            fi
        elif [ "${1:-}" = all ]; then
            state=unreached
        else
            break
        fi
        case $state in
        passed | unserved) ;;
        unreached) unreached=$((unreached + 1)) ;;
        *) failures=$((failures + 1)) ;;
        esac
        states[${begun[noted]}]=$state
        note "${begun[noted]}" "$state" "$time" "${commands[noted]}"
        noted=$((noted + 1))
    done
}

settle() {
    wait
    running=0
    collect all
    write_result false
}

step() {
    begin "$@"
    settle
}

# The value of a field of a line of JSON.
field() { sed -E "s/.*\"$1\":\"?([^\",}]*).*/\1/" <<<"$2"; }

# However the script ends, its result is written.
finish() {
    local code=$? finished=false entries=() hash
    # A second signal must not stop this.
    trap '' TERM INT
    jobs -p | xargs -r kill 2>/dev/null || true
    wait
    collect all
    if [ "${complete:-no}" = yes ]; then finished=true; fi
    write_result "$finished"
    if [ "$device" != emulated ]; then
        for hash in "${passed_rungs[@]}"; do
            entries+=("$(quote "$hash"): {\"device\": $(quote "$name"), \"date\": $(quote "$date"), \"command\": \"tools/gpu_check.sh\"}")
        done
        printf '{%s}\n' "$(join "${entries[@]}")" >"$out/verified.json.part"
        mv "$out/verified.json.part" "$out/verified.json"
    fi
    printf '%s, driver %s, %s: %s steps in %s s, %s failures, %s not reached\n' "$name" "$driver" "$date" "${#steps[@]}" \
        "$SECONDS" "$failures" "$unreached" | tee -a "$out/table.txt"
    if [ "$code" -eq 0 ] && { [ "$failures" -ne 0 ] || [ "$unreached" -ne 0 ]; }; then code=1; fi
    exit "$code"
}

: >"$out/table.txt"
rm -f "$out/rungs.jsonl"
trap finish EXIT
trap 'exit 143' TERM INT
program=$("$vitscope" --version)
if [ "$device" = emulated ]; then
    name=emulated
else
    number=${device#cuda}
    number=${number#:}
    name=$(timeout 30 nvidia-smi --id="${number:-0}" --query-gpu=name --format=csv,noheader)
    driver=$(timeout 30 nvidia-smi --id="${number:-0}" --query-gpu=driver_version --format=csv,noheader)
fi
"$vitscope" kernels list --json >"$out/rungs.jsonl"
step doctor 60 "$vitscope" doctor --device "$device"

# From nothing to a heatmap: with all kernels to be compiled, and with those kept from before.
rm -rf "$out/cache"
for start in cold warm warm-again; do
    step "start, $start" "$step_limit" env VITSCOPE_CACHE="$out/cache" "$vitscope" heatmap "$root/src/demo/picnic.png" \
        --text "a photo of a cat" --device "$device" --format npy -o "$out/start"
done
rm -rf "$out/cache" "$out/start"

for type in "${types[@]}"; do
    step "verify $type" "$step_limit" "$vitscope" verify -v "${fixtures[@]}" --device "$device" --dtype "$type"
done

for binary in "$@"; do
    step "tests $(basename "$binary")" "$step_limit" env VITSCOPE_DEVICE="$device" "$binary"
done

bench_type() {
    step "bench $1" "$step_limit" "$vitscope" bench --device "$device" --dtype "$1" "${bench[@]}" --json
    step "bench kernels $1" "$step_limit" "$vitscope" bench kernels --device "$device" --dtype "$1" "${bench_kernels[@]}" --json
}
bench_type "${types[0]}"

# Each rung forced; with -v each run says whether it was used. Sizes that a rung does not serve are no failure, and no proof;
# `verify` leaves out the fixtures that have them.
mapfile -t lines <"$out/rungs.jsonl"
forced=()
for line in "${lines[@]}"; do
    rung=$(field operation "$line")_$(field direction "$line")=$(field rung "$line")
    [[ $rung =~ $rungs ]] || continue
    read -ra rung_types < <(sed -E 's/.*"types":\[([^]]*)\].*/\1/; s/[",]+/ /g' <<<"$line")
    forced+=("$rung $(field hash "$line") ${rung_types[*]}")
    for type in "${rung_types[@]}"; do
        if [[ " ${types[*]} " = *" $type "* ]]; then
            begin "verify $type $rung" "$step_limit" "$vitscope" verify -v "${forced_fixtures[@]}" --device "$device" \
                --dtype "$type" --kernel "$rung"
        fi
    done
done
settle
# One fixture has all operations that matter to memory.
one=$root/tests/fixtures/clip/a_full.safetensors
sanitizer=$(command -v compute-sanitizer || true)
for folder in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
    if [ -z "$sanitizer" ] && [ -x "$folder/bin/compute-sanitizer" ]; then sanitizer=$folder/bin/compute-sanitizer; fi
done
# The tools run side by side in the first type, then in the others.
for type in "${types[@]}"; do
    for tool in memcheck synccheck initcheck racecheck; do
        if [ "$device" = emulated ]; then
            note "$tool $type" "no GPU" 0 ""
            continue
        elif [ -z "$sanitizer" ]; then
            fail "$tool $type" missing "compute-sanitizer is not installed"
            continue
        fi
        options=(--tool "$tool" --error-exitcode 9)
        if [ "$tool" = racecheck ]; then
            for exception in "${racecheck_exceptions[@]}"; do options+=(--kernel-name-exclude "kernel_name=$exception"); done
        fi
        begin "$tool $type" "$step_limit" "$sanitizer" "${options[@]}" "$vitscope" verify "$one" --device "$device" --dtype "$type"
    done
    settle
done

# The same picture many times, alone and in batches: all maps of a method must be the same bytes.
pictures=$out/pictures
rm -rf "$pictures"
mkdir "$pictures"
for ((i = 0; i < repeat; i++)); do
    cp "$root/src/demo/picnic.png" "$pictures/$(printf '%05d' "$i").png"
done
for method in grad-eclip chefer gradient; do
    maps=$out/maps-$method
    rm -rf "$maps-1" "$maps-8"
    mkdir "$maps-1" "$maps-8"
    for batch in 1 8; do
        begin "repeat $method, batches of $batch" "$step_limit" "$vitscope" heatmap "$pictures" --text "a photo of a cat" \
            --method "$method" --device "$device" --batch-size "$batch" --format npy -o "$maps-$batch"
    done
    settle
    files=$(find "$maps-1" "$maps-8" -name '*.npy' | wc -l)
    different=$(find "$maps-1" "$maps-8" -name '*.npy' -exec sha256sum {} + | cut -d' ' -f1 | sort -u | wc -l)
    if [ "$files" -eq $((2 * repeat)) ] && [ "$different" -eq 1 ]; then
        note "same bits: $method, $files maps" passed 0 ""
    elif [ "${states["repeat $method, batches of 8"]}" != unreached ]; then
        fail "same bits: $method, $files maps, $different kinds" failed ""
    fi
    rm -rf "$maps-1" "$maps-8"
done
rm -rf "$pictures"

for type in "${types[@]:1}"; do
    bench_type "$type"
done

# A rung is proven in a type by `verify`, or by `bench kernels`: there against the processor, or against a rung 1 that is proven.
declare -A first
for line in "${forced[@]}"; do
    read -ra words <<<"$line"
    rung=${words[0]}
    ladder=${rung%=*}
    doubts=()
    for type in "${words[@]:2}"; do
        step="verify $type $rung"
        benched=$(grep -F "\"kernel\":\"$ladder\",\"rung\":${rung#*=}," "$(log_of "bench kernels $type")" 2>/dev/null || true)
        if [ "${states[$step]:-}" = passed ] && grep '^kernels used:' "$(log_of "$step").err" | grep -qwF -- "$rung"; then
            continue
        elif [[ ! ${states[$step]:-} =~ ^(passed|unserved)$ ]]; then
            doubts+=("$type: ${states[$step]:-not asked}")
        elif [ -z "$benched" ] || grep -qv '"right":true' <<<"$benched"; then
            doubts+=("$type: not used")
        elif grep -qv '"against":"processor"' <<<"$benched" && [ "${first[$ladder]:-no}" != yes ]; then
            doubts+=("$type: beside a rung 1 that is not proven")
        fi
    done
    if [ "${#doubts[@]}" -eq 0 ]; then
        passed_rungs+=("${words[1]}")
        if [ "${rung#*=}" = 1 ]; then first[$ladder]=yes; fi
    else
        note "$rung ($(join "${doubts[@]}"))" unproven 0 ""
    fi
done

if [ -n "${PYTHON:-}" ]; then
    dry=()
    if [ "$device" = emulated ]; then dry=(--device cpu --tiny); else export CUDA_VISIBLE_DEVICES=${number:-0}; fi
    left=$((limit - SECONDS - 10))
    step peers "$limit" "$PYTHON" "$root/tools/peers_gpu.py" "${dry[@]}" --seconds "$((left > 1 ? left : 1))" --out "$out/peers.json"
fi
complete=yes
