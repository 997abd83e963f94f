"""``latentwire bench server``: images a second and latencies of the whole server, and of rivals.

``bench.py`` runs it all, ``processes.py`` starts the servers and counts their time and memory, ``load.py`` is the
process that loads them, ``http2.py`` and ``http1.py`` what it says on its sockets, ``rivals.py`` the other servers.
"""
