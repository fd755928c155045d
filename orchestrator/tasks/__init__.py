"""Tool-calling tasks with ground truth, in the papers' own field.

``tools`` the offered functions, ``values`` what can stand in an argument and how people say it, ``phrases``
how requests are worded, ``workflow`` next-step planning, ``generator`` puts a task together by seed and split,
``verify`` judges an answer, ``countdown`` a number puzzle for the experiments on learning.
"""
