# Sourced by the launchers: sets PYTHON to an interpreter that has the requirements, making an environment if need be.
# With the argument `dev` also what the tests need, with `report` what a report needs.

if [ -z "${PYTHON:-}" ]; then
    venv=${VENV:-.venv}
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    wanted=requirements.txt
    case ${1:-} in
        dev) wanted="requirements.txt tests/requirements.txt" ;;
        report) wanted="requirements.txt pictures/requirements-report.txt" ;;
    esac
    stamp=$venv/installed-${1:-run}
    if [ "$(cat $wanted | cksum)" != "$(cat "$stamp" 2>/dev/null)" ]; then
        echo "installing the requirements into $venv (about 6 GB with CUDA's packages)" >&2
        "$venv/bin/python" -m pip install -q --upgrade pip >&2
        for list in $wanted; do "$venv/bin/python" -m pip install -q -r "$list" >&2; done
        cat $wanted | cksum > "$stamp"
    fi
    PYTHON=$PWD/$venv/bin/python
    case $venv in /*) PYTHON=$venv/bin/python ;; esac
fi
export PYTHON
