"""Do the usual choices matter: batch norm, a sigmoid at the end, squared error, ReLU?

Each variant changes one choice of the baseline and nothing else, and is compared with it seed by seed: the same initial
weights (only the biases in the place of the batch norms are new), the same order of the images, the same labelled images.
What a variant does to one seed it does to all of them if it matters.
"""

from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(
    question="Do batch norm, a sigmoid output, squared error and ReLU earn their place?",
    base=TrialConfig(train_size=3300, epochs=30, labels=80, draws=5),
    variants=(
        {},
        {"batch_norm": False},
        {"output_activation": "identity"},
        {"loss": "bce"},
        {"activation": "gelu"},
    ),
    grid={"latent_size": (2, 10, 30)},
    seeds=5,
)
