"""Errors that reach a user: one sentence on what happened and what to do, and a stable code for programs."""

from __future__ import annotations


class SplatsmithError(Exception):
    """A failure with a stable `code`; `str(error)` is the sentence a user reads, `fix` what would mend it."""

    code = "internal"

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class BadInput(SplatsmithError):
    """What the user gave cannot be used: a prompt, a picture, a path, a number out of range."""

    code = "bad_input"


class MissingWeights(SplatsmithError):
    """A model's weights are not on this machine, or a file of them is damaged."""

    code = "missing_weights"


class Offline(SplatsmithError):
    """A step needs the network, and the network is off or out of reach."""

    code = "offline"


class OutOfMemory(SplatsmithError):
    """The device or the machine has too little memory for the job as asked."""

    code = "out_of_memory"


class Cancelled(SplatsmithError):
    """The user asked the job to stop."""

    code = "cancelled"


class UnsupportedDevice(SplatsmithError):
    """The device asked for is not there, or torch on this machine cannot use it."""

    code = "unsupported_device"
