"""Link telemetry over gRPC: reports up, directives down, probes both ways.

``telemetry.proto`` is the border; ``telemetry_pb2.py``, ``telemetry_pb2.pyi`` and ``telemetry_pb2_grpc.py``
are generated from it, at the repository's root, by (``telemetry_pb2_grpc.pyi`` is written by hand):

    python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. cluster/telemetry/telemetry.proto

``convert`` turns messages into the records of ``policies.control`` and back; ``server`` hosts a
``Router``, ``client`` is what a site runs, ``channel`` holds the options both ends must agree on.
"""
