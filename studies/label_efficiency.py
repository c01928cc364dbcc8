"""How many labels until it pays to train the encoder too, and until it need not have been trained before?

The same classifier with 10 to 2,000 labels (or as many as there are images) on five kinds of input: the trained encoder as it
is (frozen), trained along with the classifier (finetuned), an untrained one trained along (scratch), the raw pixels, and as
many PCA scores as the code has units. With few labels there is little to train an encoder with; with many there is no need for
codes that were learned without them. In between lie two crossings, which this study finds.
"""

from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(
    question="From how many labels on does finetuning beat frozen codes, and training from scratch both?",
    base=TrialConfig(train_size=3300, epochs=30, latent_size=10, draws=5, transfer_epochs=30),
    grid={"labels": (10, 20, 50, 100, 200, 500, 1000, 2000)},
    seeds=3,
    measures=("labels",),
)
