"""The pure part: latents to bytes and back. No I/O, no clock, no randomness, no logging in this package.

::

    latent --choice--> anchor, level --quantizer--> indices --entropy_model--> symbols --coder--> payload
"""
