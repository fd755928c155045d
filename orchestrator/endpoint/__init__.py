"""What clients of a site talk to: an OpenAI-compatible endpoint.

``app`` routes and serves, over ``asgi``; ``keys``, ``gatekeeper`` and ``admission`` say who may come in and when;
``chat_*`` and ``responses_*`` read and write OpenAI's two dialects, over ``fields`` and ``json_body``; ``openapi*``
describe them.
"""
