"""The same sweep with Ray Tune: ``OptunaSearch`` proposes, a trial takes one core, each logs its own MLflow run."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import ray
from ray import tune
from ray.air.integrations.mlflow import setup_mlflow
from ray.tune.search.optuna import OptunaSearch

from benchmarks.common import EXPERIMENT, Job, epoch_metrics, log_evaluation, logged_params, read_job, run_name, train
from harness.config import EpochLog
from harness.evaluation import Evaluation
from harness.groups import choose_workers


def objective(point: dict[str, Any], job: Job, parent_id: str) -> None:
    """Trains, measures and logs one configuration, and reports its validation loss after every epoch."""
    config = job.config(point)
    material = job.material(config)
    setup_mlflow(
        logged_params(config),
        tracking_uri=job.tracking_uri,
        experiment_name=EXPERIMENT,
        run_name=run_name(config),
        tags={"mlflow.parentRunId": parent_id},
    )

    def log_epoch(log: EpochLog) -> None:
        mlflow.log_metrics(epoch_metrics(log), step=log.epoch)
        tune.report({"val_mse": log.val_mse})

    state = train(config, material, log_epoch)
    log_evaluation(Evaluation(config, state, material), mlflow.log_metrics, mlflow.log_artifacts)
    mlflow.end_run()


def make_tuner(job: Job, parent_id: str) -> tune.Tuner:
    """The sweep: every point of the grid is given to the search as one to evaluate."""
    return tune.Tuner(
        tune.with_resources(partial(objective, job=job, parent_id=parent_id), {"cpu": 1}),
        param_space={name: tune.choice(values) for name, values in job.space.items()},
        tune_config=tune.TuneConfig(
            metric="val_mse",
            mode="min",
            search_alg=OptunaSearch(points_to_evaluate=job.points),
            num_samples=len(job.points),
            reuse_actors=True,  # else every trial starts a process and reads the data anew
        ),
        run_config=tune.RunConfig(storage_path=str(Path.cwd() / "ray_results"), verbose=0),
    )


def main(path: str) -> None:
    """Runs a job from its file."""
    job = read_job(path)
    mlflow.set_tracking_uri(job.tracking_uri)
    mlflow.set_experiment(EXPERIMENT)
    ray.init(num_cpus=choose_workers(0, "cpu"), include_dashboard=False)
    with mlflow.start_run(run_name="sweep") as parent:
        results = make_tuner(job, parent.info.run_id).fit()
        mlflow.log_metric("best val/mse", results.get_best_result().metrics["val_mse"])
    if results.errors:
        raise results.errors[0]


if __name__ == "__main__":
    main(sys.argv[1])
