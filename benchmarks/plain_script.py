"""A sweep as the tutorials of Optuna and MLflow teach it: ``study.optimize`` over a grid, a nested run for each trial."""

from __future__ import annotations

import sys

import mlflow
import optuna

from benchmarks.common import EXPERIMENT, Job, epoch_metrics, log_evaluation, logged_params, read_job, run_name, train
from harness.evaluation import Evaluation


def objective(trial: optuna.Trial, job: Job) -> float:
    """Trains, measures and logs one configuration; gives its validation loss."""
    config = job.config({name: trial.suggest_categorical(name, values) for name, values in job.space.items()})
    material = job.material(config)
    with mlflow.start_run(run_name=run_name(config), nested=True):
        mlflow.log_params(logged_params(config))
        state = train(config, material, lambda log: mlflow.log_metrics(epoch_metrics(log), step=log.epoch))
        log_evaluation(Evaluation(config, state, material), mlflow.log_metrics, mlflow.log_artifacts)
    return state.logs[-1].val_mse


def main(path: str) -> None:
    """Runs a job from its file."""
    job = read_job(path)
    mlflow.set_tracking_uri(job.tracking_uri)
    mlflow.set_experiment(EXPERIMENT)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.GridSampler(job.space))
    with mlflow.start_run(run_name="sweep"):
        study.optimize(lambda trial: objective(trial, job), n_jobs=1)
        mlflow.log_metric("best val/mse", study.best_value)


if __name__ == "__main__":
    main(sys.argv[1])
