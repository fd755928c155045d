"""``netgpt demo``: the whole loop played once on one machine, with real engines, requests and sockets.

``workload`` what is asked over which link states, ``play`` asks it with the ``openai`` client, ``summary`` turns
outcomes into figures, ``reference`` the answers nobody paid for, ``report`` draws the page, ``run`` is the order of it all.
"""
