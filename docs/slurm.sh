#!/usr/bin/env bash
# Two machines with four GPUs each train one model: sbatch docs/slurm.sh
#SBATCH --job-name=harness
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

# One task on each machine, with all of its GPUs. The data and the run folder lie on a file system
# that all machines share. SLURM sends SIGUSR1 two minutes before the time is up: the run saves a
# checkpoint and ends with exit code 143. It goes on from there when the job is queued again.
code=0
srun --kill-on-bad-exit=1 harness train \
  --data "$HOME/reviews.npz" \
  --run-dir "$HOME/runs/reviews" \
  --resume auto \
  --replicas 4 \
  --batch-size 65536 \
  --epochs 20 || code=$?

if ((code == 143)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
