"""Every figure in the docs comes from a script here, or from a ``latentwire`` command that a script here calls."""
