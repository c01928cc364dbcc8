"""What does it cost to make the latents uncorrelated, and does it help?

A penalty on what pairs of latent units share is added to the loss, with a weight that grows. ``decov`` penalises covariances,
which an autoencoder can also lower by making its codes smaller; ``barlow`` penalises correlations, which it cannot.

Correlation depends on the axes: PCA of the codes, after training and for nothing, takes all of it away. So each trial is also
measured after PCA and after whitening of its codes, with the same few labels. A linear probe cannot tell the difference: if the
penalty helps where the rotation does not, it has changed what is in the codes, and not only how they are turned.
"""

from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(
    question="What does it cost to make the latents uncorrelated, and does it help with few labels?",
    base=TrialConfig(train_size=3300, epochs=30, labels=80, draws=5),
    variants=(
        {"decorrelation": 0.0},
        *({"decorrelation": weight, "decorrelation_kind": "decov"} for weight in (1e-3, 1e-2, 1e-1, 1.0)),
        *({"decorrelation": weight, "decorrelation_kind": "barlow"} for weight in (1e-3, 1e-2, 1e-1, 1.0)),
    ),
    grid={"latent_size": (5, 10, 20)},
    seeds=3,
    measures=("rotation",),
)
