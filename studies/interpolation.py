"""Do points between two codes decode to images, and does a larger latent space make them worse?

Many pairs of test images of different classes. The midpoints on the straight line between two codes, and on the arc around the
centre of all codes, are decoded; beside them stand the pixels of the two images blended without any model, and the decoded
images of the pair's own codes, for no midpoint can be better than what the decoder makes of real codes. Two judges look at
each: how far is it from the nearest training image, and how sure is a classifier, which knows no autoencoder, what it shows?
"""

from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(
    question="Do midpoints between codes look like data, and is a larger latent space worse?",
    base=TrialConfig(train_size=3300, epochs=30, labels=80, draws=5),
    grid={"latent_size": (2, 5, 10, 15, 20, 30, 40, 50)},
    seeds=5,
    measures=("paths",),
)
