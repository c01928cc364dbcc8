"""How many latent dimensions, and which architecture?

The loss falls with the latent size until more dimensions buy little: the sweep shows where. It also shows whether the
latents grow redundant (their largest correlation beside what chance gives) and whether they help a classifier that has
80 labels only.
"""

from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(
    question="How many latent dimensions does an autoencoder of these images need, and which architecture?",
    base=TrialConfig(train_size=3300, epochs=30, batch_size=64, labels=80, draws=5),
    grid={
        "architecture": ("base", "deep", "heavy"),
        "latent_size": (2, 5, 10, 15, 20, 25, 30),
    },
    seeds=3,
)
