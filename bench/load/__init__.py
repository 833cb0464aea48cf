"""Load on a server, over HTTP: what is asked, how it is sent and timed, reports of it."""
