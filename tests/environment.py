"""A process in a device process's place: what of some variables it was started with."""

import os
import socket
import sys

from assay.worker_protocol import Refused, encode_answer

NAMES = ("ASSAY_API_KEY", "VENDOR_LICENSE_SERVER")

if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as stream:
        for name in NAMES:
            if name in os.environ:
                stream.sendall(encode_answer(Refused(name, os.environ[name])))
