"""A sweep in a script of one's own: its trials as a DataFrame and as an Optuna study, and its best model.

Run ``python -m harness.study latent_sweep`` first, then this script in the same folder; the name of another study may follow it.
"""

import sys

import torch
from matplotlib import pyplot
from mlflow.artifacts import download_artifacts
from optuna.importance import get_param_importances
from optuna.visualization.matplotlib import plot_slice

from harness import compare
from harness.saved import load_autoencoder

name = sys.argv[1] if len(sys.argv) > 1 else "latent_sweep"

frame = compare.load(name, where="status = 'finished'")
by_size = frame.groupby(["architecture", "latent_size"])["reconstruction_loss"]
print(by_size.agg(["mean", "std", "count"]))

study = compare.optuna_study(name, ["reconstruction_loss"])
print("best:", study.best_trial.params, "of importance:", get_param_importances(study))
plot_slice(study, params=[*study.best_trial.params][:1])
pyplot.savefig("slice.png")

best = frame.sort_values("reconstruction_loss").iloc[0]
model = load_autoencoder(download_artifacts(f"runs:/{best['run_id']}/model"))
codes = torch.randn(4, int(best["latent_size"]))
print("decoded:", tuple(model.decoder(codes).shape))
