"""Can one training give the whole curve of loss against latent size?

With ``prefix`` each image of a training step is decoded from the first k latent units alone, k drawn anew from 1 to d (nested
dropout; Matryoshka). The first units must then carry the most, as in PCA, and the code can be cut off anywhere. The loss from
its first k units stands beside that of an autoencoder that was trained with k units from the start: the gap is the price of
having all sizes in one.
"""

from harness.config import StudyConfig, TrialConfig

SIZES = (2, 5, 10, 15, 20, 25, 30)

STUDY = StudyConfig(
    question="Can one training with prefix masks replace a training for each latent size?",
    base=TrialConfig(train_size=3300, epochs=30, labels=80, draws=5),
    variants=({"prefix": True, "latent_size": max(SIZES)}, *({"latent_size": size} for size in SIZES)),
    seeds=3,
    measures=("prefix",),
)
