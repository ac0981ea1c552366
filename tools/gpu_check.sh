#!/usr/bin/env bash
# Checks the GPU engine on a machine with a GPU: no Rust and no Python are needed there, only the built binaries, the
# fixtures and NVRTC.
#
#   tools/gpu_check.sh OUT [TEST_BINARY...]
#
# It verifies every fixture in every type, then once more with each rung forced, runs the test binaries, looks for memory
# errors with compute-sanitizer, repeats one picture many times and compares bits, and ends with `vitscope bench`. OUT gets
# one log for each step, result.json, table.txt, and on a GPU verified.json: the rungs that passed, by the hash of their
# sources, in the form of benches/results/verified.json. Exit code 1 when a step failed.
#
# Variables: VITSCOPE (the program), DEVICE (cuda, cuda:N, or emulated for a dry run), FIXTURES (files or folders; all by
# default), FORCED_FIXTURES (the same for the forced rungs), TYPES, RUNGS (a regular expression of those that are forced, such
# as '^gemm_'; all by default), REPEAT, BENCH (arguments of `vitscope bench` and `vitscope bench kernels`). A dry run of minutes:
#   DEVICE=emulated FIXTURES=tests/fixtures/clip/a_plain.safetensors TYPES=bf16 RUNGS='^rows_' REPEAT=2 tools/gpu_check.sh OUT
set -euo pipefail

out=${1:?usage: tools/gpu_check.sh OUT [TEST_BINARY...]}
shift
root=$(cd "$(dirname "$0")/.." && pwd)
vitscope=${VITSCOPE:-$root/target/release/vitscope}
device=${DEVICE:-cuda}
read -ra fixtures <<<"${FIXTURES:-$root/tests/fixtures/clip}"
types=${TYPES:-f32 bf16 f16}
repeat=${REPEAT:-1000}
rungs=${RUNGS:-.}
read -ra forced_fixtures <<<"${FORCED_FIXTURES:-${fixtures[*]}}"
if [ "$device" = emulated ]; then
    bench_default="--model random:tiny --batch-size 2"
else
    bench_default="--model random:ViT-L-14 --batch-size 1 --batch-size 16"
fi
read -ra bench <<<"${BENCH:-$bench_default}"

# Entries whose hazards racecheck reports though they are none, each on a line of its own with a comment that says why.
racecheck_exceptions=()

mkdir -p "$out"
out=$(cd "$out" && pwd)
steps=()
passed_rungs=()
failures=0

quote() { printf '"%s"' "$(printf '%s' "$1" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/ /g' | tr -d '\n\r')"; }

# One line of the table and of the JSON: NAME STATE SECONDS COMMAND.
note() {
    printf '%-44s %-8s %5s s\n' "$1" "$2" "$3" | tee -a "$out/table.txt"
    steps+=("{\"step\": $(quote "$1"), \"state\": $(quote "$2"), \"seconds\": $3, \"command\": $(quote "$4")}")
}

# Runs a command with its output in a log; sets `status`.
step() {
    local name=$1 log start
    shift
    # Read by the caller.
    status=0
    log=$out/$(printf '%s' "$name" | tr -c 'A-Za-z0-9=_\n' '-').log
    start=$SECONDS
    "$@" >"$log" 2>"$log.err" || status=$?
    local state=passed
    if [ "$status" -eq 2 ] && grep -q 'this rung does not serve' "$log.err"; then
        state=unserved
    elif [ "$status" -ne 0 ]; then
        state="exit $status"
        failures=$((failures + 1))
    fi
    note "$name" "$state" $((SECONDS - start)) "$*"
    last_log=$log
}

# The value of a field of a line of JSON.
field() { sed -E "s/.*\"$1\":\"?([^\",}]*).*/\1/" <<<"$2"; }

: >"$out/table.txt"
date=$(date -u +%F)
if [ "$device" = emulated ]; then
    name=emulated
    driver=none
else
    number=${device#cuda}
    number=${number#:}
    name=$(nvidia-smi --id="${number:-0}" --query-gpu=name --format=csv,noheader)
    driver=$(nvidia-smi --id="${number:-0}" --query-gpu=driver_version --format=csv,noheader)
fi
step doctor "$vitscope" doctor --device "$device"
"$vitscope" kernels list --json >"$out/rungs.jsonl"

for type in $types; do
    step "verify $type" "$vitscope" verify "${fixtures[@]}" --device "$device" --dtype "$type"
done

# Each rung forced. It counts as verified when it passed in every type that it has, and each run says (with -v) that it
# was used. Sizes that a rung does not serve are no failure, and no proof.
while read -r line; do
    rung=$(field operation "$line")_$(field direction "$line")=$(field rung "$line")
    [[ $rung =~ $rungs ]] || continue
    proven=yes
    read -ra rung_types < <(sed -E 's/.*"types":\[([^]]*)\].*/\1/; s/[",]+/ /g' <<<"$line")
    for type in "${rung_types[@]}"; do
        if [[ " $types " != *" $type "* ]]; then
            proven=no
            continue
        fi
        step "verify $type $rung" "$vitscope" verify -v "${forced_fixtures[@]}" --device "$device" --dtype "$type" --kernel "$rung"
        if [ "$status" -ne 0 ] || ! grep '^kernels used:' "$last_log.err" | grep -qwF -- "$rung"; then proven=no; fi
    done
    if [ "$proven" = yes ]; then
        passed_rungs+=("$(field hash "$line")")
    else
        note "$rung" unproven 0 ""
    fi
done <"$out/rungs.jsonl"

for binary in "$@"; do
    step "tests $(basename "$binary")" env VITSCOPE_DEVICE="$device" "$binary"
done

# One fixture has all operations that matter to memory.
one=$root/tests/fixtures/clip/a_full.safetensors
sanitizer=$(command -v compute-sanitizer || true)
for folder in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
    if [ -z "$sanitizer" ] && [ -x "$folder/bin/compute-sanitizer" ]; then sanitizer=$folder/bin/compute-sanitizer; fi
done
for tool in memcheck initcheck synccheck racecheck; do
    if [ "$device" = emulated ]; then
        note "$tool" "no GPU" 0 ""
        continue
    elif [ -z "$sanitizer" ]; then
        note "$tool" missing 0 "compute-sanitizer is not installed"
        failures=$((failures + 1))
        continue
    fi
    options=(--tool "$tool" --error-exitcode 9)
    if [ "$tool" = racecheck ]; then
        for exception in "${racecheck_exceptions[@]}"; do options+=(--kernel-name-exclude "kernel_name=$exception"); done
    fi
    for type in $types; do
        step "$tool $type" "$sanitizer" "${options[@]}" "$vitscope" verify "$one" --device "$device" --dtype "$type"
    done
done

# The same picture many times, alone and in batches: all maps of a method must be the same bytes.
pictures=$out/pictures
mkdir -p "$pictures"
for ((i = 0; i < repeat; i++)); do
    cp "$root/src/demo/picnic.png" "$pictures/$(printf '%05d' "$i").png"
done
for method in grad-eclip chefer gradient; do
    maps=$out/maps-$method
    for batch in 1 8; do
        step "repeat $method, batches of $batch" "$vitscope" heatmap "$pictures" --text "a photo of a cat" --method "$method" \
            --device "$device" --batch-size "$batch" --format npy -o "$maps-$batch"
    done
    files=$(find "$maps-1" "$maps-8" -name '*.npy' 2>/dev/null | wc -l)
    different=$(find "$maps-1" "$maps-8" -name '*.npy' -exec sha256sum {} + 2>/dev/null | cut -d' ' -f1 | sort -u | wc -l)
    if [ "$files" -eq $((2 * repeat)) ] && [ "$different" -eq 1 ]; then
        note "same bits: $method, $files maps" passed 0 ""
    else
        note "same bits: $method, $files maps, $different kinds" failed 0 ""
        failures=$((failures + 1))
    fi
    rm -rf "$maps-1" "$maps-8"
done
rm -rf "$pictures"

for type in $types; do
    step "bench $type" "$vitscope" bench --device "$device" --dtype "$type" "${bench[@]}" --json
    step "bench kernels $type" "$vitscope" bench kernels --device "$device" --dtype "$type" "${bench[@]}" --json
done

join() { local IFS=,; printf '%s' "$*"; }
{
    printf '{"device": %s, "driver": %s, "date": %s, "program": %s, "failures": %s,\n' "$(quote "$name")" "$(quote "$driver")" \
        "$(quote "$date")" "$(quote "$("$vitscope" --version)")" "$failures"
    printf '"rungs": [%s],\n' "$(paste -sd, "$out/rungs.jsonl")"
    printf '"steps": [%s]}\n' "$(join "${steps[@]}")"
} >"$out/result.json"
if [ "$device" != emulated ]; then
    entries=()
    for hash in "${passed_rungs[@]}"; do
        entries+=("$(quote "$hash"): {\"device\": $(quote "$name"), \"date\": $(quote "$date"), \"command\": \"tools/gpu_check.sh\"}")
    done
    printf '{%s}\n' "$(join "${entries[@]}")" >"$out/verified.json"
fi
printf '%s, driver %s, %s: %s steps, %s failures\n' "$name" "$driver" "$date" "${#steps[@]}" "$failures" | tee -a "$out/table.txt"
[ "$failures" -eq 0 ]
