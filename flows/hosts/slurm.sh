#!/usr/bin/env bash
# A folder of scans as a job array, without Prefect: sbatch --export=ALL,SCANS=/data/scans,RESULTS=/data/results slurm.sh
# Each task does its share once; a task that is killed is simply submitted again, and goes on where it was.
#SBATCH --job-name=medseg
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail
: "${SCANS:?the folder of the scans}" "${RESULTS:?the folder of the results}"

srun medseg batch "$SCANS" "$RESULTS" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_MAX" --quiet
