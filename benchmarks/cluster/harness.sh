#!/usr/bin/env bash
# The command `harness` of the jobs: one task gets a wrong option, or fails at its end, if asked.
PYTHONPATH=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/../..
export PYTHONPATH
if [[ ${BAD_TASK-} == "$SLURM_PROCID" ]]; then set -- "$@" --data /no/such.npz; fi
set -- "${@//ARRAY_TASK/${SLURM_ARRAY_TASK_ID-}}"
if [[ ${BAD_END-} == "$SLURM_PROCID" ]]; then
  trap : TERM USR1
  "$PYTHON" -m harness "$@"
  exit 1
fi
exec "$PYTHON" -m harness "$@"
