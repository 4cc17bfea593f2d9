"""The kept-alive process that does long jobs, what passes between it and its client, and the client
that never waits. ``python -m UniversalAnatomicalEmbeddingLib.worker`` runs it. Jobs are given
and answered in plain values; no node and no face is known here."""
