"""A sweep harness for autoencoders: how many latent dimensions, which architecture, and are the latents of use?

Importing this package, or any module of it but ``forks``, does no work.
"""

__version__ = "0.1.0"
