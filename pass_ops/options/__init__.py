"""What may be asked for: every option of shaping, checked when it is made. Stdlib only.

    config     `ShapingConfig`: the whole, and which of its options fit together
    streams    `Stream`, `Transform`, `Fused`: how one signal is shaped
    methods    what each estimator is: what it reads, pools, gates and divides
    published  the published methods by name, as docs/reference/methods.md lists them
    presets    those of them that are streams, and how a name becomes these
    checking   ranges and choices, refused in one voice

A name, a number or a combination that is not listed here is refused here, with the nearest that is.
"""
