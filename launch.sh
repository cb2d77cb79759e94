#!/usr/bin/env bash
# Sets up what is missing, then runs: ./launch.sh [COMMAND ...]; default: serve. For those who change the program:
# ./launch.sh test [--quick | --torch] [pytest flags], ./launch.sh check.
# Linux and macOS. Every step can be interrupted and run again.
set -euo pipefail
script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do # a link to this script stands for where it lies
  link=$(readlink "$script")
  case "$link" in /*) script=$link ;; *) script=$(dirname "$script")/$link ;; esac
done
caller=$PWD
cd "$(dirname "$script")"
root=$PWD

VENV=${PLAYGROUND_VENV:-$root/.venv}
case "$VENV" in /*) ;; *) VENV=$root/$VENV ;; esac
case "${PLAYGROUND_MODELS:-/}" in /*) ;; *) export PLAYGROUND_MODELS=$caller/$PLAYGROUND_MODELS ;; esac

fail() {
  printf '%s\n' "$1" >&2
  exit 1
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3.10 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  fail "No Python 3.10 or newer was found; install one, or name it with PYTHON=/path/to/python ./launch.sh."
}

# Megabytes free where $1 (or its nearest existing parent) lies.
free_megabytes() {
  local path=$1
  while [ ! -e "$path" ]; do path=$(dirname "$path"); done
  df -Pk "$path" | awk 'NR == 2 { print int($4 / 1024) }'
}

need_space() {
  local free
  free=$(free_megabytes "$1")
  [ "$free" -ge "$2" ] || fail "Only $free MB are free at $1 and $3 needs $2 MB; make room, or choose another place with $4."
}

install() { # install REQUIREMENTS: once for each content of the file
  local requirements=$1 stamp log
  stamp="$VENV/.installed-$(printf '%s' "$requirements" | tr '/' '-')"
  if [ -f "$stamp" ] && cmp -s "$stamp" <(cat requirements.txt "$requirements"); then return; fi
  need_space "$VENV" 1500 "the installation" PLAYGROUND_VENV
  echo "Installing $requirements (a few minutes the first time)..." >&2
  log=$(mktemp)
  if ! "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet -r "$requirements" >"$log" 2>&1; then
    tail -n 3 "$log" >&2
    rm -f "$log"
    fail "Installing $requirements failed; check the network connection and the disk, then run the same command again."
  fi
  rm -f "$log"
  cat requirements.txt "$requirements" >"$stamp"
}

make_venv() {
  local python
  if [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
  python=$(find_python) || exit 1
  need_space "$VENV" 1500 "the installation" PLAYGROUND_VENV
  "$python" -m venv --clear "$VENV" ||
    fail "Python could not make a virtual environment in $VENV; install its venv module (Debian: apt install python3-venv)."
}

names() { grep -Eqrs --include '*.toml' "^ *backend *= *[\"']$1[\"']" "$2"; }

# Whether the arguments after $1 name the backend $1, themselves or in a pair file; but for neuron also in a folder of them.
wants() {
  local backend=$1 previous="" argument
  shift
  for argument in "$@"; do
    case "$previous $argument" in
      "--backend $backend" | *" --backend=$backend") return 0 ;;
      "--pair "* | *" --pair="*) names "$backend" "${argument#--pair=}" && return 0 ;;
      "--pairs "* | *" --pairs="*) [ "$backend" != neuron ] && names "$backend" "${argument#--pairs=}" && return 0 ;;
    esac
    previous=$argument
  done
  return 1
}

# The Neuron packages live in environments of their own: use the active one, and add what the engine needs to it.
neuron_python() {
  local python="${VIRTUAL_ENV:-${CONDA_PREFIX:-/none}}/bin/python"
  has() { "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)" 2>/dev/null; }
  local requirements=app/backends/requirements-neuron.txt
  if ! has transformers_neuronx; then
    has neuronx_distributed_inference || fail "No Neuron environment is active: on an Inf2, Trn1 or Trn2 instance, activate one that has transformers-neuronx or neuronx-distributed-inference (see app/neuron/README.md), then run the same command."
    requirements=app/backends/requirements-neuron-nxd.txt
  fi
  if ! "$python" -c 'import jinja2, ml_dtypes, safetensors, tokenizers' 2>/dev/null; then
    echo "Adding the engine's packages to the Neuron environment..." >&2
    "$python" -m pip install --disable-pip-version-check --quiet -r "$requirements" >&2 ||
      fail "Adding the engine's packages failed; check the network connection, then run the same command again."
  fi
  printf '%s' "$python"
}

setup() {
  make_venv
  install requirements.txt
  "$VENV/bin/python" -m app.pairs.fetching || exit 1
}

# A browser for the tests: an installed one, else Playwright's own, else the system's package where one may install it.
find_browser() {
  local log
  if "$VENV/bin/python" -m app.bench.browser 2>/dev/null; then return; fi
  if [ -z "${PLAYGROUND_BROWSER:-}" ]; then
    echo "No browser was found; fetching one for the tests..." >&2
    log=$(mktemp)
    if "$VENV/bin/python" -m playwright install chromium >"$log" 2>&1; then
      if "$VENV/bin/python" -m app.bench.browser 2>/dev/null; then return; fi
      system_packages "$VENV/bin/python" -m playwright install-deps chromium >>"$log" 2>&1 || true
    else
      system_packages apt-get install -y --no-install-recommends chromium fonts-dejavu-core >>"$log" 2>&1 || true
    fi
    rm -f "$log"
  fi
  "$VENV/bin/python" -m app.bench.browser || exit 1
}

# Runs a command that installs the system's packages, where this user may.
system_packages() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update && DEBIAN_FRONTEND=noninteractive "$@"
}

# Format, lint and types of everything that is written by hand; commit subjects of at most 72 characters.
check() {
  local bin=$VENV/bin long
  export DENO_NO_UPDATE_CHECK=1
  "$bin/python" -m ruff format --check .
  "$bin/python" -m ruff check .
  "$bin/python" -m mypy
  "$bin/deno" fmt --quiet --check --config .ci/deno.json assets/web/*.{js,css} tests/{e2e,web}/*.js
  "$bin/deno" lint --quiet --config .ci/deno.json assets/web tests
  "$bin/shellcheck" launch.sh .ci/run
  "$bin/shfmt" -d -i 2 -ci launch.sh .ci/run
  # earlier subjects are as they were written
  long=$(git log --format='%h %s' ea79fee..HEAD 2>/dev/null | grep -E '^[^ ]+ .{73}' || true)
  [ -z "$long" ] || fail "These commit subjects are longer than 72 characters; shorten them: $long"
}

# The program, where the caller stands: paths are the caller's, and so are an acceptor's modules, after the program's own.
run_app() {
  local python=$1
  shift
  cd "$caller"
  exec "$python" -c 'import runpy, sys
sys.path[0] = sys.argv.pop(1)
sys.path.append("")
runpy.run_module("app", run_name="__main__", alter_sys=True)' "$root" "$@"
}

if wants neuron "$@"; then
  python=$(neuron_python) || exit 1
  case "${1:-serve}" in
    serve | -*)
      # the page in its own environment, its engine in Neuron's
      make_venv
      install requirements.txt
      export PLAYGROUND_NEURON_PYTHON=$python
      run_app "$VENV/bin/python" "$@"
      ;;
  esac
  run_app "$python" "$@"
fi

case "${1:-}" in
  test)
    shift
    case "${1:-}" in
      --quick)
        make_venv
        install tests/requirements.txt
        ;;
      --torch)
        shift
        setup
        install tests/requirements.txt
        install app/distill/requirements.txt
        install app/backends/requirements-torch.txt
        install app/hosting/requirements-ray.txt
        find_browser
        ;;
      *)
        setup
        install tests/requirements.txt
        case " $* " in
          *" -m gpu "*)
            install app/backends/requirements-torch.txt
            set -- -rs "$@" # what is skipped where there is none, and why
            ;;
        esac
        find_browser
        ;;
    esac
    # two processes: one works while the other waits for its browser; a later -n has precedence
    exec "$VENV/bin/python" -m pytest -n 2 --dist worksteal "$@"
    ;;
  check)
    make_venv
    install tests/requirements.txt
    check
    ;;
  distill)
    setup
    case "${2:-}" in all) install app/distill/requirements.txt ;; esac
    run_app "$VENV/bin/python" "$@"
    ;;
  bench)
    setup
    case "${2:-}" in gpu) install app/bench/requirements-gpu.txt ;; esac
    run_app "$VENV/bin/python" "$@"
    ;;
  *)
    setup
    if wants torch "$@"; then install app/backends/requirements-torch.txt; fi
    if wants llamacpp "$@" || wants auto "$@"; then
      echo "llama.cpp is compiled where it is missing: about ten minutes on two cores, once." >&2
      install app/backends/requirements-llamacpp.txt
    fi
    case " $* " in *" --ray "* | *" --ray="*) install app/hosting/requirements-ray.txt ;; esac
    run_app "$VENV/bin/python" "$@"
    ;;
esac
