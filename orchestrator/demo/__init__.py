"""``netgpt demo``: the whole loop played once on one machine, with real engines, requests and sockets.

``workload`` is what is asked over which link states, ``play`` asks it with the ``openai`` client, ``summary`` turns
outcomes into figures, ``reference`` finds what other policies would have got, ``live`` shows it, ``report`` draws the
page, and ``run`` is the order of it all.
"""
