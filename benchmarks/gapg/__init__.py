"""GAPG (arXiv 2509.24050) on Countdown with a model of half a million parameters, trained here from nothing.

``base`` makes the model, ``runs`` tunes it in four ways, ``router`` adds the prompt-only baseline, ``capped`` counts
what each reaches under a cap on cloud calls, ``report`` writes the page. Everything lies below ``var/benchmarks/gapg``
as soon as it is done: a benchmark that was interrupted goes on.
"""
