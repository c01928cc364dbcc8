"""The same sweep with PyTorch Lightning: a ``LightningModule``, a ``Trainer`` and an ``MLFlowLogger`` for each trial."""

from __future__ import annotations

import sys
import time

import lightning
import mlflow
import optuna
import torch
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor
from torch.nn import functional

from benchmarks.common import EXPERIMENT, Job, log_evaluation, logged_params, make_loaders, read_job, run_name, trained_state
from harness import models
from harness.config import EpochLog, TrialConfig
from harness.evaluation import Evaluation
from harness.material import Material
from harness.train import TrainState


class LitAutoencoder(lightning.LightningModule):
    """The autoencoder and how it is trained."""

    def __init__(self, config: TrialConfig, shape: models.Shape) -> None:
        super().__init__()
        self.learning_rate = config.learning_rate
        self.net = models.build(shape, config)

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """Gives the loss of a batch."""
        loss = functional.mse_loss(self.net(batch), batch)
        self.log_dict({"train/loss": loss, "train/mse": loss}, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """Logs the squared error of a batch."""
        self.log("val/mse", functional.mse_loss(self.net(batch), batch))

    def on_train_epoch_end(self) -> None:
        """Logs the rate, as the harness does."""
        self.log("train/learning_rate", self.learning_rate)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a constant rate."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class EpochLogs(lightning.Callback):
    """Keeps the numbers and the wall time of every epoch, validation included."""

    def __init__(self) -> None:
        self.logs: list[EpochLog] = []
        self.started = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Starts the clock."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Stops the clock: the validation is over by now, the checkpoint is not yet written."""
        seconds = time.perf_counter() - self.started
        loss, mse, val = (float(trainer.callback_metrics[name]) for name in ("train/loss", "train/mse", "val/mse"))
        self.logs.append(EpochLog(len(self.logs) + 1, loss, mse, val, module.learning_rate, seconds))


def fit(config: TrialConfig, material: Material, logger: MLFlowLogger) -> TrainState:
    """Trains one autoencoder."""
    torch.manual_seed(config.seed)
    module, epochs = LitAutoencoder(config, material.shape), EpochLogs()
    trainer = lightning.Trainer(
        max_epochs=config.epochs, accelerator="cpu", logger=logger, callbacks=[epochs], enable_progress_bar=False
    )
    train_loader, validation_loader = make_loaders(config, material)
    trainer.fit(module, train_loader, validation_loader)
    return trained_state(module.net, epochs.logs)


def objective(trial: optuna.Trial, job: Job, parent_id: str) -> float:
    """Trains, measures and logs one configuration; gives its validation loss."""
    config = job.config({name: trial.suggest_categorical(name, values) for name, values in job.space.items()})
    material = job.material(config)
    logger = MLFlowLogger(EXPERIMENT, run_name(config), job.tracking_uri, tags={"mlflow.parentRunId": parent_id})
    logger.log_hyperparams(logged_params(config))
    state = fit(config, material, logger)
    log_evaluation(
        Evaluation(config, state, material),
        logger.log_metrics,
        lambda folder: logger.experiment.log_artifacts(logger.run_id, folder),
    )
    logger.finalize("success")
    return state.logs[-1].val_mse


def main(path: str) -> None:
    """Runs a job from its file."""
    job = read_job(path)
    mlflow.set_tracking_uri(job.tracking_uri)
    mlflow.set_experiment(EXPERIMENT)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.GridSampler(job.space))
    with mlflow.start_run(run_name="sweep") as parent:
        study.optimize(lambda trial: objective(trial, job, parent.info.run_id), n_jobs=1)
        mlflow.log_metric("best val/mse", study.best_value)


if __name__ == "__main__":
    main(sys.argv[1])
