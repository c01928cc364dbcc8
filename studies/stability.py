"""Do trainings from different seeds find the same latents?

Ten seeds at each latent size. Two codes of the same images agree fully if one is the other turned and scaled (linear CKA), or,
which is more, if each unit of one has a unit of the other that says the same (best-match correlation). If seeds agree on the
space but not on the units, a single latent unit has no meaning of its own.
"""

from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(
    question="Do trainings from different seeds find the same latents, as a space and unit by unit?",
    base=TrialConfig(train_size=3300, epochs=30, labels=80, draws=5),
    grid={"latent_size": (2, 5, 10, 20, 30)},
    seeds=10,
)
