"""The program: configuration, wiring, the OpenAI surface, the learner, the command line, the client SDK.

Importing this package, or ``orchestrator.client``, loads nothing heavy: a program that only asks questions needs no
Ray, no torch and no vLLM.
"""
