"""On PYTHONPATH this forbids a Python process every network call, from its first import on; what was tried is noted in
the file $TRIED. An audit hook sees what the interpreter's own socket module does, whoever asks it."""

import os
import sys

_FORBIDDEN = ("connect", "getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo", "sendto", "sendmsg")


def _forbid(event: str, arguments: tuple) -> None:
    if event.startswith("socket.") and event.removeprefix("socket.").startswith(_FORBIDDEN):
        if event == "socket.connect" and not isinstance(arguments[1], tuple):
            return  # a Unix socket's path
        with open(os.environ["TRIED"], "a") as file:
            file.write(f"{event} {arguments[1:]}\n")
        raise PermissionError(f"{event} is forbidden here")


sys.addaudithook(_forbid)
