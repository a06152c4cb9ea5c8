#!/usr/bin/env bash
# Two machines with four GPUs each train one model: sbatch docs/slurm.sh
# Options behind the name of this script are those of the training.
#SBATCH --job-name=harness
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -uo pipefail
max_restarts=20

# Tells the workers of this job from strangers.
HARNESS_CLUSTER_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export HARNESS_CLUSTER_TOKEN

# The chief, task 0, writes this file, which all machines share, if it was told to end: the run asks
# to be queued again.
asks=$HOME/.harness-asks-$SLURM_JOB_ID
rm -f "$asks"
# shellcheck disable=SC2016  # the task's shell expands it
task='trap : TERM USR1; "$@"; code=$?; ((SLURM_PROCID == 0 && (code == 143 || code == 138))) && : >"$0"; exit "$code"'

# One task on each machine, with all of its GPUs. The data and the run folder lie on a file system
# that all machines share. When a worker fails, the others end by themselves, and srun returns the
# highest of the codes; --wait is for one that hangs.
srun --wait=120 bash -c "$task" "$asks" harness train \
  --data "$HOME/reviews.npz" \
  --run-dir "$HOME/runs/reviews" \
  --resume auto \
  --replicas 4 \
  --batch-size 65536 \
  --epochs 20 "$@" &
run=$!

# SLURM sends SIGUSR1 to this script two minutes before the time is up. The run gets it from here,
# saves a checkpoint and ends.
time_is_up=
trap 'time_is_up=1; kill -USR1 "$run"' USR1
while kill -0 "$run" 2>/dev/null; do wait "$run"; done  # a signal ends only the wait
wait "$run"
code=$?

# The run goes on in another job only if the chief asks for it, and was stopped for lack of time or by
# preemption. A failure would come again, also one of the last save. 143 is the code of a run that was
# told to end and has saved, 138 of one that had not begun.
preempted() { scontrol show job "$SLURM_JOB_ID" | grep -q 'PreemptTime=[0-9]'; }
asked=$([[ -e $asks ]] && echo yes)
rm -f "$asks"
if [[ $asked ]] && { [[ $time_is_up ]] || preempted; }; then
  if ((${SLURM_RESTART_COUNT:-0} < max_restarts)); then
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$code"
