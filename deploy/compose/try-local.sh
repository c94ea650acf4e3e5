#!/usr/bin/env bash
# The whole service on this machine, without containers: a Ray head with a token, a submitted job, Prometheus that
# scrapes it, one sampler more, the rate before and after, a report. What it starts it ends, also on Ctrl-C.
#
#   deploy/compose/try-local.sh [RECIPE [key=value ...]]        (default: quickstart)
#
# Needs gkd and ray on the PATH, and Prometheus (Debian's package `prometheus`, or its path in GKD_PROMETHEUS).
set -euo pipefail

recipe=${1:-quickstart}
shift || true
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
prometheus=${GKD_PROMETHEUS:-$(command -v prometheus || true)}
window=${GKD_TRY_WINDOW_S:-60}   # of the rates
limit=${GKD_TRY_LIMIT_S:-900}    # of every wait
output=${GKD_TRY_OUTPUT:-$PWD/runs-try-local}

for program in gkd ray; do
    command -v "$program" >/dev/null || { echo "error: no $program on the PATH; activate the environment (make install)" >&2; exit 2; }
done
[[ -x $prometheus ]] || { echo "error: no prometheus on the PATH nor in GKD_PROMETHEUS; Debian's package prometheus has it" >&2; exit 2; }
python=$(dirname "$(command -v gkd)")/python
[[ -x $python ]] || python=python3

folder=$(mktemp -d /tmp/gkd-XXXXXX)  # short: names of sockets have a limit
head='' server='' job='' address=''
say() { printf '\n== %s\n' "$*"; }
end_all() {
    trap - EXIT INT TERM
    [[ -z $job ]] || timeout 120 gkd stop "$job" --address "$address" >/dev/null 2>&1 || true
    for pid in $server $head; do
        kill -TERM "$pid" 2>/dev/null || true
        for _ in {1..100}; do kill -0 -- "-$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL -- "-$pid" 2>/dev/null || true  # what is left of its group: Ray's own processes
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$folder"
}
trap end_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Start a command with its log, in a process group of its own: Ctrl-C is for this script, which ends all in order.
in_background() {
    local log=$1
    shift
    set -m
    "$@" >"$log" 2>&1 &
    set +m
}

# Ports that nobody listens on.
read -r gcs dashboard client agent export own metrics < <("$python" - <<'PY'
import socket
sockets = [socket.socket() for _ in range(7)]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))
PY
)
address=http://127.0.0.1:$dashboard
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_TOKEN RAY_ADDRESS RAY_API_SERVER_ADDRESS || true
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")
mkdir -p "$output"

# The value of a query, or nothing.
ask() {
    "$python" - "http://127.0.0.1:$own/api/v1/query" "$1" <<'PY'
import json, sys, urllib.error, urllib.parse, urllib.request
try:
    with urllib.request.urlopen(f"{sys.argv[1]}?{urllib.parse.urlencode({'query': sys.argv[2]})}", timeout=10) as answer:
        found = json.load(answer)["data"]["result"]
except (urllib.error.URLError, ConnectionError):
    found = []
print(f"{float(found[0]['value'][1]):.6g}" if found else "")
PY
}
# Wait for a command to succeed; for as long as a process lives, and not longer than the limit.
until_ok() {
    local pid=$1 what=$2 began=$SECONDS
    shift 2
    until "$@" >/dev/null 2>&1; do
        kill -0 "$pid" 2>/dev/null || { echo "error: $what: it ended" >&2; tail -n 20 "$folder"/*.log >&2; exit 70; }
        ((SECONDS - began < limit)) || { echo "error: $what: not within $limit s" >&2; exit 70; }
        sleep 1
    done
}
holds() { local value; value=$(ask "$1"); [[ -n $value ]] && "$python" -c "import sys; sys.exit(not float(sys.argv[1]) >= float(sys.argv[2]))" "$value" "$2"; }

say "a Ray head, with a token"
in_background "$folder/head.log" \
    ray start --head --block --num-cpus=4 --node-ip-address=127.0.0.1 --dashboard-host=127.0.0.1 --include-dashboard=true \
    --port="$gcs" --dashboard-port="$dashboard" --ray-client-server-port="$client" --dashboard-agent-listen-port="$agent" \
    --metrics-export-port="$export" --temp-dir="$folder" --object-store-memory=500000000 --disable-usage-stats \
    --resources='{"sampler": 4, "teacher": 4, "learner": 4}'
head=$!
until_ok "$head" "the Ray head" gkd list --address "$address"
echo "ready: $address"

say "a job: gkd submit $recipe"
# Every role asks for its own resource, as on the groups of deploy/kuberay.
printf '%s\n' "python: $python" 'samplers: {resources: {sampler: 1}}' 'teachers: {resources: {teacher: 1}}' \
    'learner: {resources: {learner: 1}}' >"$folder/infra.yaml"
gkd submit "$recipe" learner.max_steps=100000 "$@" cluster.mode=ray mode=async output_dir="$output" \
    metrics.port="$metrics" --infra "$folder/infra.yaml" --address "$address" | tee "$folder/submitted"
job=$(sed -n 's/^submitted \([^ ]*\) .*/\1/p' "$folder/submitted")

say "Prometheus"
sed -e "s#localhost:9400#127.0.0.1:$metrics#" -e "s#\[rules.yml\]#[$repository/deploy/monitoring/rules.yml]#" \
    -e 's#refresh_interval: .*#refresh_interval: 2s#' "$repository/deploy/monitoring/prometheus.yml" >"$folder/prometheus.yml"
in_background "$folder/prometheus.log" \
    "$prometheus" --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/data" \
    --web.listen-address="127.0.0.1:$own"
server=$!
written="rate(gkd_sampler_generated_tokens_total[${window}s])"
steady="gkd_learner_steps_total offset ${window}s"
until_ok "$head" "the job trains" holds gkd_learner_steps_total 1
echo "it trains"
until_ok "$head" "a window of $window s" holds "$steady" 1
before=$(ask "$written")
echo "1 sampler: $before tokens/s written by the student"

say "gkd scale latest --samplers 2"
gkd scale latest --samplers 2 --output-dir "$output" --timeout "$limit"
scaled=$SECONDS
until_ok "$head" "the newcomer in Prometheus" holds 'gkd_replicas{role="sampler", state="healthy"}' 2
while ((SECONDS - scaled < window + window / 6)); do sleep 1; done  # until the window holds nothing of before
after=$(ask "$written")
echo "2 samplers: $after tokens/s written by the student"
"$python" -c "import sys; b, a = map(float, sys.argv[1:]); print(f'{a / b:.2f} times' + ('' if a > b else '; no more here: is there a free core?'))" "$before" "$after"
gkd status "$job" --address "$address"

say "gkd stop $job"
gkd stop "$job" --address "$address"  # 0 where it left a good checkpoint
job=''

say "gkd report latest"
gkd report latest --output-dir "$output"
