"""Which architecture, when several things are wanted at once?

A search instead of a grid: Optuna's TPE proposes architectures, learns from rounds of six, and looks for those that nothing
beats in all three objectives at once: a low loss, latents that say different things, and codes that help a classifier with 80
labels, all on the validation split, which is there for choosing. Some choices exist only after others: ``linear`` has no
depth, and a network without batch norm needs smaller steps. Nothing larger than 300,000 parameters is trained.

The best of many noisy trials were lucky as well. So the three best losses and the whole Pareto front are trained again from
three fresh seeds in the end: report those numbers, on the test split. They are of one dataset, so another is the next test.
"""

from typing import Any

from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(
    question="Which architecture has a low loss, latents that are not redundant and codes that help with few labels?",
    base=TrialConfig(train_size=3300, epochs=30, labels=80, draws=5),
    sampler="tpe",
    objectives=("val/mse", "val/max_latent_correlation", "val/transfer_accuracy"),
    trials=48,
    round_size=6,
    max_parameters=300_000,
    confirm=3,
    confirm_seeds=3,
)


def search_space(trial: Any) -> TrialConfig:
    """One architecture, proposed by an Optuna trial."""
    architecture = trial.suggest_categorical("architecture", ["base", "residual", "dense", "linear"])
    latent_size = trial.suggest_int("latent_size", 2, 30)
    if architecture == "linear":
        rate = trial.suggest_float("learning_rate_linear", 1e-3, 3e-2, log=True)
        return TrialConfig(architecture=architecture, latent_size=latent_size, learning_rate=rate)
    batch_norm = trial.suggest_categorical("batch_norm", [True, False])
    rate = trial.suggest_float(
        "learning_rate" if batch_norm else "learning_rate_without_norm", 5e-4, 3e-2 if batch_norm else 5e-3, log=True
    )
    return TrialConfig(
        architecture=architecture,
        latent_size=latent_size,
        learning_rate=rate,
        batch_norm=batch_norm,
        depth=trial.suggest_int("depth", 1, 4),
        width=trial.suggest_int("width", 8, 32, step=8),
        kernel_size=trial.suggest_categorical("kernel_size", [3, 5]),
        activation=trial.suggest_categorical("activation", ["relu", "gelu"]),
    )
